"""Square root and inverse square root by matrix products only: the coupled Newton-Schulz iteration."""

from typing import Any

import torch
from torch import Tensor

from geocore._dispatch import eigh
from geocore.spd._checks import check_matrix, check_symmetric, values_readable, work_dtype
from geocore.spd._differences import INVSQRT, SQRT
from geocore.spd._spectral import Spectrum, apply, factorise

__all__ = ["newton_schulz_roots"]

# From the unit Frobenius ball: 12 steps to rounding at condition 1e2, 20 at 1e4, 30 at 1e7.
_STEPS = 32


def _roots(X: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Root, inverse root and the mask of matrices that have converged."""
    n = X.shape[-1]
    eye = torch.eye(n, dtype=X.dtype, device=X.device)
    scale = torch.linalg.matrix_norm(X)[..., None, None]
    scale = torch.where(scale > 0, scale, 1.0)
    Y, Z = X / scale, eye.expand_as(X)
    bound = 4 * n * torch.finfo(X.dtype).eps
    best = X.new_full(X.shape[:-2], float("inf"))
    for _ in range(_STEPS):
        R = eye - Z @ Y
        residual = torch.linalg.matrix_norm(R)
        # Rounding sets in where the residual stops falling; steps beyond that point make it worse.
        if bool(((residual <= bound) | ((residual < 0.1) & (residual >= best)) | ~torch.isfinite(residual)).all()):
            break
        best = torch.where(residual < 0.1, residual, best)
        T = eye + R / 2
        Y, Z = Y @ T, T @ Z
    done = torch.linalg.matrix_norm(Y @ Y - X / scale) <= 100 * n * torch.finfo(X.dtype).eps
    done = done & (torch.linalg.matrix_norm(eye - Z @ Y) <= 1e-3)
    return (Y + Y.mT) / 2 * scale.sqrt(), (Z + Z.mT) / 2 / scale.sqrt(), done


def _lyapunov(R: Tensor, G: Tensor) -> Tensor:
    """``S`` with ``R S + S R = G`` for SPD ``R``: the sign iteration on ``[[R, G], [0, -R]]`` (Lin and Maji, 2017)."""
    eye = torch.eye(R.shape[-1], dtype=R.dtype, device=R.device)
    scale = torch.linalg.matrix_norm(R)[..., None, None]
    A, Q = R / scale, G / scale
    bound = 4 * R.shape[-1] * torch.finfo(R.dtype).eps
    for _ in range(_STEPS):
        square = A @ A
        if bool((torch.linalg.matrix_norm(square - eye) <= bound).all()):
            break
        T = 3 * eye - square
        Q = (Q @ T - A @ (A @ Q - Q @ A)) / 2
        A = A @ T / 2
    return Q / 2


class _Roots(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, X: Tensor, Y: Tensor, Z: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(X, Y, Z)
        return Y.clone(), Z.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        X, Y, Z = ctx.saved_tensors
        if torch.is_grad_enabled():  # asked for another derivative: that of the spectral route
            values, vectors = eigh(X.detach())
            s = Spectrum(X, values, vectors, X.dtype)
            return *torch.autograd.grad((apply(s, SQRT), apply(s, INVSQRT)), X, grads, create_graph=True), None, None
        G = grads[0] - Z @ grads[1] @ Z
        return _lyapunov(Y, (G + G.mT) / 2), None, None


def newton_schulz_roots(X: Any, *, compute_dtype: torch.dtype | None, check: bool) -> tuple[Tensor, Tensor]:
    """``sqrtm`` and ``invsqrtm`` of the symmetric part of ``X``; matrices that have not converged are redone by ``eigh``."""
    check_matrix("X", X)
    dtype = X.dtype
    if not values_readable(X):
        s = factorise("X", X, compute_dtype=compute_dtype, check=False)
        return apply(s, SQRT).to(dtype), apply(s, INVSQRT).to(dtype)
    if check:
        check_symmetric("X", X)
    W = X.to(work_dtype(X, compute_dtype))
    W = (W + W.mT) / 2
    Y, Z, done = _roots(W.detach())
    if not bool(done.all()):
        # The whole batch again: the message about a bad matrix must have its index in the batch.
        s = factorise("X", W, compute_dtype=compute_dtype, check=check)
        pick = done[..., None, None]
        Y, Z = torch.where(pick, Y, apply(s, SQRT).detach()), torch.where(pick, Z, apply(s, INVSQRT).detach())
        if W.requires_grad:
            return apply(s, SQRT).to(dtype), apply(s, INVSQRT).to(dtype)
    if W.requires_grad and torch.is_grad_enabled():
        Y, Z = _Roots.apply(W, Y, Z)
    return Y.to(dtype), Z.to(dtype)
