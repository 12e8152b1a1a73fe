"""The recurrence token by token: exact decoding, any device, differentiable by autograd."""

import torch
from torch import Tensor

from deltaproduct._plan import Plan

__all__ = ["decode_step", "recurrent_pass"]


def recurrent_pass(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor | None, S: Tensor, plan: Plan, num_householder: int
) -> tuple[Tensor, Tensor]:
    """Outputs ``(B, T, H, V)`` and final states ``(N, H, K, V)`` of scaled queries; two matrix products per micro-step.

    ``plan`` has chunks of one token.
    """
    H, n = q.shape[2], num_householder
    S = plan.pack_states(S)
    if plan.tokens == 0 or not plan.active:
        return q.new_zeros(*q.shape[:-1], v.shape[-1]), plan.unpack_states(S, H)
    k, step = plan.pack(k, n), plan.pack(beta[..., None], n)
    sizes = [count * H for count in plan.active]
    # split, not slices: the gradient of a slice fills an array of full length, for every token
    queries, keys = plan.pack(q).split(sizes), k.mT.split(sizes)
    values, erasers = (step * plan.pack(v, n)).split(sizes), (step * k).split(sizes)
    decay = None if g is None else torch.exp(plan.pack(g[..., None])).split(sizes)
    outputs, finished = [], [S[sizes[0] :]]
    S = S[: sizes[0]]
    for t, count in enumerate(sizes):
        if count != S.shape[0]:
            finished.append(S[count:])
            S = S[:count]
        if decay is not None:
            S = decay[t] * S
        for key, value, eraser in zip(keys[t].split(1, 2), values[t].split(1, 1), erasers[t].split(1, 1), strict=True):
            S = torch.baddbmm(S, key, torch.baddbmm(value, eraser, S, alpha=-1))
        outputs.append(torch.bmm(queries[t], S))
    return plan.unpack(torch.cat(outputs), H), plan.unpack_states(torch.cat([S, *reversed(finished)]), H)


def decode_step(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor | None, S: Tensor) -> tuple[Tensor, Tensor]:
    """``recurrent_pass`` of one token per item: the ``n`` corrections by one small triangular solve, so the state is read once."""
    B, n, H, K = k.shape
    k, v, b = k.transpose(1, 2).reshape(B * H, n, K), v.transpose(1, 2).reshape(B * H, n, v.shape[-1]), beta.mT.reshape(B * H, n, 1)
    S = S.flatten(0, 1)
    if g is not None:
        S = torch.exp(g).reshape(B * H, 1, 1) * S
    R = b * torch.baddbmm(v, k, S, alpha=-1)
    if n > 1:
        R = torch.linalg.solve_triangular(torch.bmm(b * k, k.mT), R, upper=False, unitriangular=True)
    S = torch.baddbmm(S, k.mT, R)
    return torch.bmm(q.reshape(B * H, 1, K), S).reshape(B, 1, H, v.shape[-1]), S.unflatten(0, (B, H))
