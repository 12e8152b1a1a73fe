"""The square root that every Bures-Wasserstein formula is made of, to the accuracy that the data have."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from geocore import spd

__all__ = ["root_of_congruence"]


def _factor(Y: Tensor) -> Tensor:
    """``L`` with ``L L^T = Y``; what is singular up to rounding is raised to rounding."""
    L, info = torch.linalg.cholesky_ex(Y)
    floor = Y.shape[-1] * torch.finfo(Y.dtype).eps * Y.diagonal(dim1=-2, dim2=-1).sum(-1)
    eye = torch.eye(Y.shape[-1], dtype=Y.dtype, device=Y.device)
    failed = (info > 0)[..., None, None]
    raised = torch.linalg.cholesky_ex(torch.where(failed, Y + floor[..., None, None] * eye, eye))[0]
    return torch.where(failed, raised, L)


class _Root(torch.autograd.Function):
    """``(B Y B^T)^(1/2)`` as ``U S U^T`` from ``B L = U S V^T``.

    The product squares the condition number: at 1e10 its small eigenvalues are rounding errors, negative ones included. Its factor does
    not, and singular values of a factor cost twice an eigendecomposition.
    """

    @staticmethod
    def forward(ctx: Any, B: Tensor, Y: Tensor) -> Tensor:
        U, S, _ = torch.linalg.svd(B @ _factor(Y))
        ctx.save_for_backward(B, Y, U, S)
        return (U * S[..., None, :]) @ U.mT

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        B, Y, U, S = ctx.saved_tensors
        (G,) = grads
        if torch.is_grad_enabled():  # a second derivative is wanted
            wanted = [x for x, need in zip((B, Y), ctx.needs_input_grad, strict=True) if need]
            found = iter(torch.autograd.grad(_composable(B, Y), wanted, G, create_graph=True))
            first, second = (next(found) if need else None for need in ctx.needs_input_grad)
            return first, second
        total = S[..., :, None] + S[..., None, :]
        total = total.clamp(min=torch.finfo(S.dtype).tiny)
        H = U @ ((U.mT @ ((G + G.mT) / 2) @ U) / total) @ U.mT
        dB = (2 * H @ B @ Y).sum_to_size(B.shape) if ctx.needs_input_grad[0] else None
        return dB, (B.mT @ H @ B).sum_to_size(Y.shape) if ctx.needs_input_grad[1] else None


def _composable(B: Tensor, Y: Tensor) -> Tensor:
    return spd.sqrtm(B @ Y @ B.mT, min_eig="eps", check=False)


def root_of_congruence(B: Tensor, Y: Tensor) -> Tensor:
    """``(B Y B^T)^(1/2)`` for SPD ``Y``; batches broadcast. One factorisation a matrix, no square of the condition number."""
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return _composable(B, Y)
    return _Root.apply(B, Y)
