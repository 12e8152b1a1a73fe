"""The dense product of Householder factors with a hand-written gradient: four products and a solve where autograd takes six and more."""

from typing import Any

import torch
from torch import Tensor

from geocore._dispatch import needs_composable
from geocore.householder._wy import reflection_tau, scaled_gram, smallest_square, unit_upper_solve

__all__ = ["dense_product", "dense_product_plain"]


def dense_product_plain(V: Tensor, tau: Tensor | None, cols: int) -> Tensor:
    """``I - V T V^T``, its first ``cols`` columns, from plain operators: right under every transform and the compiler."""
    tau = reflection_tau(V) if tau is None else tau
    A = scaled_gram(V, tau)
    right = tau[..., :, None] * V[..., :cols, :].mT
    Y = unit_upper_solve(A, right.expand(*A.shape[:-2], *right.shape[-2:]))
    return _subtract(V, Y, cols)


def _subtract(V: Tensor, Y: Tensor, cols: int) -> Tensor:
    eye = torch.eye(V.shape[-2], cols, dtype=V.dtype, device=V.device)
    if V.ndim == Y.ndim == 2:  # one call for the product and the difference
        return torch.addmm(eye, V, Y, alpha=-1.0)
    return eye - V @ Y


class _DenseProduct(torch.autograd.Function):
    """``Q = I - V Y``, ``(I + A) Y = R``, ``A = diag(tau) triu_1(V^T V)``, ``R = diag(tau) V_c^T`` (``V_c``: the first rows of ``V``).

    With ``E = (I + A)^-T V^T dQ`` the gradients are ``dR = -E``, ``dA = triu_1(E Y^T)`` and, through the two appearances of ``V``
    in them, ``dV = V (dG + dG^T) - dQ Y^T`` less ``(diag(tau) E)^T`` on the first rows, with ``dG = diag(tau) dA``.
    """

    @staticmethod
    def forward(ctx: Any, V: Tensor, tau: Tensor | None, cols: int) -> Tensor:
        gram = V.mT @ V
        if tau is None:
            square = gram.diagonal(dim1=-2, dim2=-1)
            scale = (2.0 / square).masked_fill_(square <= smallest_square(V), 0.0)
        else:
            scale = tau
        A = gram.triu_(1).mul_(scale.unsqueeze(-1))
        R = scale.unsqueeze(-1) * V.narrow(-2, 0, cols).mT
        Y = unit_upper_solve(A, R)
        ctx.cols, ctx.reflections = cols, tau is None
        ctx.save_for_backward(V, scale, A, R, Y)
        return _subtract(V, Y, cols)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        V, tau, A, R, Y = ctx.saved_tensors
        g, cols = grads[0], ctx.cols
        if torch.is_grad_enabled():  # create_graph=True: differentiable again
            inputs = (V,) if ctx.reflections else (V, tau)
            value = dense_product_plain(V, None if ctx.reflections else tau, cols)
            wanted = [x for x, need in zip(inputs, ctx.needs_input_grad, strict=False) if need]
            found = iter(torch.autograd.grad(value, wanted, g, create_graph=True))
            return (*(next(found) if need else None for need in ctx.needs_input_grad[:2]), None)
        E = unit_upper_solve(A, V.mT @ g, transpose=True)
        dA = torch.triu(E @ Y.mT, diagonal=1)
        column = tau.unsqueeze(-1)
        dG = column * dA
        dV = V @ (dG + dG.mT)
        dV = dV.addmm_(g, Y.mT, alpha=-1.0) if dV.ndim == 2 else dV.sub_(g @ Y.mT)
        dV.narrow(-2, 0, cols).sub_((column * E).mT)
        if ctx.reflections:
            # tau = 2 / |v|^2: d tau = -tau^2 <v, dv>; tau times its gradient is here without a division
            slope = (dA * A).sum(-1) - (E * R).sum(-1)
            return dV.sub_(V * (tau * slope).unsqueeze(-2)), None, None
        if not ctx.needs_input_grad[1]:
            return dV, None, None
        gram = torch.triu(V.mT @ V, diagonal=1)
        return dV, (dA * gram).sum(-1) - (E * V.narrow(-2, 0, cols).mT).sum(-1), None


def dense_product(V: Tensor, tau: Tensor | None, cols: int) -> Tensor:
    """The first ``cols`` columns of the product by the fastest right path."""
    same_batch = tau is None or tau.shape[:-1] == V.shape[:-2]
    if V.requires_grad and same_batch and not needs_composable() and not torch.compiler.is_compiling():
        return _DenseProduct.apply(V, tau, cols)
    return dense_product_plain(V, tau, cols)
