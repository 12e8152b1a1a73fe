r"""The chunkwise-parallel form in plain operators: right under every transform of torch, and under ``torch.compile``.

Per chunk of ``C`` tokens, ``M = C n`` micro-steps with keys ``K``, values ``V``, step sizes ``b``, cumulative log-gates ``G`` and
``D_ij = exp(G_i - G_j)``:

    A = I + tril_{-1}(diag(b) (K K^T * D)),   [W | U] = A^{-1} [diag(b e^G) K | diag(b) V],
    R = U - W S,   O = (e^G * Q) S + P R,     P = Q K^T * D on micro-steps up to the row's token,
    S <- e^{G_last} S + (e^{G_last - G} * K)^T R.

Queries are rows of tokens, not of micro-steps, so scores cost ``C M`` and not ``M^2`` (arXiv 2406.06484, 2412.06464; arXiv 2502.10297).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from deltaproduct._plan import Plan

__all__ = ["Decays", "chunk_pass", "decays", "scores", "strict_gram"]


class Decays(NamedTuple):
    """Factors made of cumulative log-gates ``G`` of a chunk, all in (0, 1]."""

    pair: Tensor  # (X, C, C): exp(G_i - G_j) for j <= i, else 0
    start: Tensor  # (X, C, 1): exp(G)
    end: Tensor  # (X, C, 1): exp(G_last - G)
    whole: Tensor  # (X, 1, 1): exp(G_last)


def decays(g: Tensor) -> Decays:
    """Factors of packed log-gates ``(X, C)``; exponents are masked before the exponential and nothing is divided."""
    G = g.cumsum(-1)
    C = g.shape[-1]
    later = torch.ones(C, C, dtype=torch.bool, device=g.device).triu(1)
    pair = torch.exp((G[:, :, None] - G[:, None, :]).masked_fill(later, -torch.inf))
    last = G[:, -1:]
    return Decays(pair, torch.exp(G)[..., None], torch.exp(last - G)[..., None], torch.exp(last)[..., None])


def strict_gram(k: Tensor, decay: Decays | None, n: int) -> Tensor:
    """``tril_{-1}(K K^T * D)``, shape ``(X, M, M)``."""
    gram = torch.bmm(k, k.mT)
    if decay is not None:
        X, M, _ = gram.shape
        gram = (gram.reshape(X, M // n, n, M // n, n) * decay.pair[:, :, None, :, None]).reshape(X, M, M)
    return gram.tril(-1)


def scores(q: Tensor, k: Tensor, decay: Decays | None, n: int) -> Tensor:
    """``P``, shape ``(X, C, M)``."""
    product = torch.bmm(q, k.mT)
    X, C, M = product.shape
    if decay is None:
        seen = torch.ones(C, C, dtype=product.dtype, device=q.device).tril()[None]
    else:
        seen = decay.pair
    return (product.reshape(X, C, C, n) * seen[..., None]).reshape(X, C, M)


def per_micro_step(x: Tensor, n: int) -> Tensor:
    """Repeat rows of tokens ``(X, C, D)`` for each of their micro-steps."""
    return x if n == 1 else x.repeat_interleave(n, dim=1)


def chunk_pass(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor | None, S: Tensor, plan: Plan, num_householder: int
) -> tuple[Tensor, Tensor]:
    """Outputs ``(B, T, H, V)`` and final states ``(N, H, K, V)`` of scaled queries."""
    H, n = q.shape[2], num_householder
    S = plan.pack_states(S)
    if plan.tokens == 0 or not plan.active:
        return q.new_zeros(*q.shape[:-1], v.shape[-1]), plan.unpack_states(S, H)
    q, k, v, b = plan.pack(q), plan.pack(k, n), plan.pack(v, n), plan.pack(beta[..., None], n)
    decay = None if g is None else decays(plan.pack(g[..., None])[..., 0])
    A = b * strict_gram(k, decay, n)  # the solve takes the unit diagonal as given
    P = scores(q, k, decay, n)
    start_k = end_k = k
    if decay is not None:
        start_k, end_k = per_micro_step(decay.start, n) * k, per_micro_step(decay.end, n) * k
        q = decay.start * q
    W, U = torch.linalg.solve_triangular(A, b * torch.cat([start_k, v], dim=-1), upper=False, unitriangular=True).split(
        [k.shape[-1], v.shape[-1]], dim=-1
    )
    outputs, finished = [], [S[plan.active[0] * H :]]
    S = S[: plan.active[0] * H]
    for start, end in plan.slices(H):
        count = end - start
        if count != S.shape[0]:
            finished.append(S[count:])
            S = S[:count]
        R = torch.baddbmm(U[start:end], W[start:end], S, alpha=-1)
        outputs.append(torch.baddbmm(torch.bmm(q[start:end], S), P[start:end], R))
        kept = S if decay is None else decay.whole[start:end] * S
        S = torch.baddbmm(kept, end_k[start:end].mT, R)
    return plan.unpack(torch.cat(outputs), H), plan.unpack_states(torch.cat([S, *reversed(finished)]), H)
