"""Half the Bures-Wasserstein transport to the identity with one base point for a whole batch."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from geocore import spd

__all__ = ["half_transport"]


def _apply(gain: Tensor, U: Tensor, V: Tensor) -> Tensor:
    return U @ ((U.mT @ V @ U) / gain) @ U.mT


class _HalfTransport(torch.autograd.Function):
    """``U [U^T V U / sqrt(2 (d_i + d_j))] U^T`` for a single ``w = U diag(d) U^T``.

    The gradient in ``w`` adds over the batch before it meets the third-order tensor of divided differences: ``n^3`` numbers, not ``n^3``
    for every matrix.
    """

    @staticmethod
    def forward(ctx: Any, w: Tensor, V: Tensor) -> Tensor:
        d, U = torch.linalg.eigh(w)
        ctx.save_for_backward(w, V, d, U)
        return _apply((2 * (d[:, None] + d[None, :])).sqrt(), U, V)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        w, V, d, U = ctx.saved_tensors
        (G,) = grads
        if torch.is_grad_enabled():  # a second derivative is wanted
            wanted = [x for x, need in zip((w, V), ctx.needs_input_grad, strict=True) if need]
            found = iter(torch.autograd.grad(spd.bw_transport(w, V, -1, check=False) / 2, wanted, G, create_graph=True))
            first, second = (next(found) if need else None for need in ctx.needs_input_grad)
            return first, second
        gain = (2 * (d[:, None] + d[None, :])).sqrt()
        dV = _apply(gain, U, G) if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, dV
        # 1/g_ij has the divided difference -2 / (g_ij g_kj (g_ij + g_kj)) in its first index
        a, b = gain[:, None, :], gain[None, :, :]
        difference = -2.0 / (a * b * (a + b))
        v, g = ((U.mT @ x @ U).reshape(-1, *w.shape) for x in (V, G))
        total = _contract(g, v, difference) + _contract(g.mT, v.mT, difference)
        return U @ ((total + total.mT) / 2) @ U.mT, dV


def _contract(g: Tensor, v: Tensor, difference: Tensor) -> Tensor:
    """Sum over ``b`` and ``j`` of ``g_bij v_bkj D_ikj``: for every ``j`` one product of ``(n, batch)`` with ``(batch, n)``."""
    return ((g.permute(2, 1, 0) @ v.permute(2, 0, 1)) * difference.permute(2, 0, 1)).sum(0)


def half_transport(w: Tensor, V: Tensor) -> Tensor:
    """``L_ij = V_ij / sqrt(2 (d_i + d_j))`` in the eigenbasis of ``w``, with which ``exp_w`` is ``(I + L) w (I + L)``."""
    composable = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    if w.ndim == 2 and not composable and torch.is_grad_enabled() and w.requires_grad:
        return _HalfTransport.apply(w, V)
    return spd.bw_transport(w, V, -1, check=False) / 2
