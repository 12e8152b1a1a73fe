"""The recurrence exactly as it is written, one micro-step at a time: the oracle of tests and benchmarks."""

from itertools import pairwise

import torch
from torch import Tensor

__all__ = ["delta_product_reference", "transition_matrix_reference"]


def delta_product_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor | None = None,
    *,
    num_householder: int,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``delta_product`` by its definition, in the dtype of its arguments; returns outputs and final states."""
    B, T, H, K = q.shape
    n, V = num_householder, v.shape[-1]
    factor = K**-0.5 if scale is None else scale
    bounds = [(b, 0, T) for b in range(B)]
    if cu_seqlens is not None:
        offsets = cu_seqlens.tolist()
        bounds = [(0, start, end) for start, end in pairwise(offsets)]
    eye = torch.eye(K, dtype=q.dtype, device=q.device)
    outputs: list[list[Tensor]] = [[] for _ in range(B)]
    states = []
    for i, (b, start, end) in enumerate(bounds):
        S = q.new_zeros(H, K, V) if initial_state is None else initial_state[i]
        for t in range(start, end):
            if g is not None:
                S = torch.exp(g[b, t])[:, None, None] * S
            for j in range(n):
                key, value, step = k[b, t * n + j], v[b, t * n + j], beta[b, t * n + j, :, None, None]
                S = (eye - step * key[:, :, None] * key[:, None, :]) @ S + step * key[:, :, None] * value[:, None, :]
            outputs[b].append(factor * torch.einsum("hkv,hk->hv", S, q[b, t]))
        states.append(S)
    o = torch.stack([torch.stack(rows) if rows else q.new_zeros(0, H, V) for rows in outputs]) if B else q.new_zeros(0, T, H, V)
    return o, torch.stack(states) if states else q.new_zeros(0, H, K, V)


def transition_matrix_reference(k: Tensor, beta: Tensor, g: Tensor | None = None) -> Tensor:
    """``transition_matrix`` as a product of dense factors, the first micro-step rightmost."""
    K = k.shape[-1]
    eye = torch.eye(K, dtype=k.dtype, device=k.device)
    A = eye.expand(*k.shape[:-2], K, K)
    for j in range(k.shape[-2]):
        key = k[..., j, :]
        A = (eye - beta[..., j, None, None] * key[..., :, None] * key[..., None, :]) @ A
    return A if g is None else torch.exp(g)[..., None, None] * A
