"""The one sequential part of the chunkwise form, forward and backward, as a loop or as a Triton kernel.

Both directions are the recurrence ``S <- gamma S + X^T (U - Y S) + E`` over chunks: forward with ``X`` the decayed keys, ``Y = W``;
backward, from the last chunk to the first, with the roles of the two exchanged and ``E`` the gradient that the outputs send.
"""

import torch
from torch import Tensor

from deltaproduct._plan import Plan

__all__ = ["backward_states", "forward_states"]


def forward_states(
    W: Tensor, U: Tensor, k: Tensor, whole: Tensor | None, S: Tensor, plan: Plan, heads: int, *, kernel: bool
) -> tuple[Tensor, Tensor]:
    """State before every chunk ``(X, K, V)`` and final states ``(N * H, K, V)``; turns ``U`` into ``R = U - W S`` in place."""
    states = torch.empty(U.shape[0], *S.shape[1:], dtype=S.dtype, device=S.device)
    final = S.clone(memory_format=torch.contiguous_format)
    if kernel:
        from deltaproduct._triton import state_pass

        state_pass(k, W, whole, final, states, plan, heads, residual=U)
        return states, final
    for start, end in plan.slices(heads):
        S = final[: end - start]
        states[start:end] = S
        R = U[start:end].baddbmm_(W[start:end], S, alpha=-1)
        if whole is not None:
            S.mul_(whole[start:end])
        S.baddbmm_(k[start:end].mT, R)
    return states, final


def backward_states(
    W: Tensor, k: Tensor, whole: Tensor | None, sent: Tensor, dS: Tensor, plan: Plan, heads: int, *, kernel: bool
) -> tuple[Tensor, Tensor]:
    """Gradient of the state after every chunk ``(X, K, V)`` and of the initial states, ``(N * H, K, V)``.

    ``sent`` is what the outputs of a chunk send to the state before it, ``dS`` the gradient of the final states.
    """
    after = torch.empty(sent.shape, dtype=sent.dtype, device=sent.device)
    first = dS.clone(memory_format=torch.contiguous_format)
    if kernel:
        from deltaproduct._triton import state_pass

        state_pass(W, k, whole, first, after, plan, heads, extra=sent, reverse=True)
        return after, first
    for start, end in reversed(plan.slices(heads)):
        dS = first[: end - start]
        after[start:end] = dS
        seen = torch.bmm(k[start:end], dS)
        if whole is not None:
            dS.mul_(whole[start:end])
        dS.baddbmm_(W[start:end].mT, seen, alpha=-1)
        dS.add_(sent[start:end])
    return after, first
