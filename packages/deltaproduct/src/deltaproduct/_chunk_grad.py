"""The chunkwise form with a hand-written gradient: saves its inputs and one state per chunk, recomputes everything else.

Under a ``torch.func`` transform, in forward mode, in the compiler and for second derivatives ``deltaproduct._chunk`` takes over.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deltaproduct._chunk import Decays, chunk_pass, decays, per_micro_step, scores, strict_gram
from deltaproduct._dispatch import part_tokens, without_autocast
from deltaproduct._plan import Plan, dense_plan
from deltaproduct._state_pass import backward_states, forward_states

__all__ = ["Settings", "chunk_pass_recomputed", "differentiable_backward", "unit_lower_inverse"]

_LEAF = 16  # below this size one triangular solve beats splitting into blocks


def unit_lower_inverse(L: Tensor) -> Tensor:
    """``(I + L)^{-1}`` of strictly lower triangular ``L (X, M, M)`` by halves, mostly matrix products.

    On one CPU thread, 128 matrices of size 64: 1.5 ms against 2.9 ms for a triangular solve with the identity.
    """
    M = L.shape[-1]
    if M <= _LEAF:
        eye = torch.eye(M, dtype=L.dtype, device=L.device).expand(L.shape)
        return torch.linalg.solve_triangular(L, eye, upper=False, unitriangular=True)
    h = M // 2
    top, bottom = unit_lower_inverse(L[:, :h, :h]), unit_lower_inverse(L[:, h:, h:])
    out = L.new_zeros(L.shape)
    out[:, :h, :h], out[:, h:, h:] = top, bottom
    torch.neg(torch.bmm(bottom, torch.bmm(L[:, h:, :h], top)), out=out[:, h:, :h])
    return out


def chunk_pass_recomputed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor | None,
    S: Tensor,
    plan: Plan,
    settings: "Settings",
) -> tuple[Tensor, Tensor]:
    """``chunk_pass`` of queries still to be scaled, computed in ``settings.dtype``; half precision is saved as such."""
    if not plan.active:  # no token at all
        return chunk_pass(q.to(settings.dtype), k, v, beta, g, S, plan, settings.n)
    return _Chunk.apply(q, k, v, beta, g, S, plan, settings)


class Settings(NamedTuple):
    """What ``chunk_pass_recomputed`` needs beside tensors."""

    n: int
    scale: float
    dtype: torch.dtype
    kernel: bool = False


class _Packed:
    """Inputs as chunks in the computing dtype, and what both directions make of them."""

    def __init__(self, inputs: tuple[Tensor | None, ...], plan: Plan, settings: Settings) -> None:
        n = settings.n
        q, k, v, beta, g = (None if x is None else x.to(settings.dtype) for x in inputs)
        assert q is not None
        assert k is not None
        assert v is not None
        assert beta is not None
        self.n, self.heads = n, q.shape[2]
        self.q, self.k, self.v = plan.pack(q) * settings.scale, plan.pack(k, n), plan.pack(v, n)
        self.b = plan.pack(beta[..., None], n)
        self.decay: Decays | None = None if g is None else decays(plan.pack(g[..., None])[..., 0])
        self.gram = strict_gram(self.k, self.decay, n)
        self.inverse = unit_lower_inverse(self.b * self.gram)
        self.scaled = self.inverse * self.b.mT  # A^{-1} diag(b)
        self.P = scores(self.q, self.k, self.decay, n)
        self.start_k = self.end_k = self.k
        self.start_q, self.whole = self.q, None
        if self.decay is not None:
            self.start_k = per_micro_step(self.decay.start, n) * self.k
            self.end_k = per_micro_step(self.decay.end, n) * self.k
            self.start_q, self.whole = self.decay.start * self.q, self.decay.whole
        self.W = torch.bmm(self.scaled, self.start_k)


class _Chunk(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q, k, v, beta, g, S, plan, settings):  # the types of chunk_pass_recomputed
        outputs, kept, first = [], [], S
        with without_autocast(q.device):
            for part, inputs in _parts(plan, settings.n, (q, k, v, beta, g)):
                p = _Packed(inputs[:5], part, settings)
                R = torch.bmm(p.scaled, p.v)
                states, final = forward_states(p.W, R, p.end_k, p.whole, part.pack_states(S), part, p.heads, kernel=settings.kernel)
                S = part.unpack_states(final, p.heads)
                outputs.append(part.unpack(torch.bmm(p.start_q, states).baddbmm_(p.P, R), p.heads))
                kept.append(states)
        ctx.save_for_backward(q, k, v, beta, g, first, *kept)
        ctx.settings = plan, settings
        return (outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)), S

    @staticmethod
    def backward(ctx: Any, do: Tensor, dS: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, beta, g, first, *kept = ctx.saved_tensors
        plan, settings = ctx.settings
        with without_autocast(q.device):
            if torch.is_grad_enabled():  # a second derivative will be asked for: only plain operators have one
                return differentiable_backward(ctx.needs_input_grad, (q, k, v, beta, g, first), (do, dS), plan, settings)
            found = []
            parts = list(_parts(plan, settings.n, (q, k, v, beta, g), do))
            for (part, inputs), states in zip(reversed(parts), reversed(kept), strict=True):
                grads, dS = _gradients(inputs[:5], states, inputs[5], dS, part, settings)
                found.append(grads)
        whole = [None if d[0] is None else (d[0] if len(d) == 1 else torch.cat(d[::-1], dim=1)) for d in zip(*found, strict=True)]
        cast = [None if x is None or d is None else d.to(x.dtype) for x, d in zip((q, k, v, beta, g), whole, strict=True)]
        return *cast, dS, None, None


def _parts(plan: Plan, n: int, inputs: tuple[Tensor | None, ...], do: Tensor | None = None) -> Iterator[tuple[Plan, tuple[Any, ...]]]:
    """Consecutive parts of long sequences, so that what is computed between the state and the outputs stays small."""
    q, k, v, beta, g = inputs
    assert q is not None
    tokens = part_tokens(plan.batch * q.shape[2] * n, q.device)
    if plan.gather is not None or plan.tokens <= max(tokens, plan.size):
        yield plan, (*inputs, do)
        return
    tokens = max(1, tokens // plan.size) * plan.size
    for start in range(0, plan.tokens, tokens):
        count = min(tokens, plan.tokens - start)
        part = dense_plan(plan.batch, count, plan.size)

        def cut(x: Tensor | None, per_token: int = 1, start: int = start, count: int = count) -> Tensor | None:
            return None if x is None else x.narrow(1, start * per_token, count * per_token)

        yield part, (cut(q), cut(k, n), cut(v, n), cut(beta, n), cut(g), cut(do))


def differentiable_backward(
    needed: tuple[bool, ...], inputs: tuple[Tensor | None, ...], grads: tuple[Tensor, Tensor], plan: Plan, settings: Settings
) -> tuple[Tensor | None, ...]:
    q, k, v, beta, g, S = (None if x is None else x.to(settings.dtype) for x in inputs)
    assert q is not None
    assert k is not None
    assert v is not None
    assert beta is not None
    assert S is not None
    outputs = chunk_pass(q * settings.scale, k, v, beta, g, S, plan, settings.n)
    wanted = [x for x, need in zip(inputs, needed, strict=False) if x is not None and need]
    found = iter(torch.autograd.grad(outputs, wanted, grads, create_graph=True, materialize_grads=True))
    return *(next(found) if x is not None and need else None for x, need in zip(inputs, needed, strict=False)), None, None


def _gradients(
    inputs: tuple[Tensor | None, ...],
    states: Tensor,
    do: Tensor,
    dfinal: Tensor,
    plan: Plan,
    settings: Settings,
) -> tuple[tuple[Tensor | None, ...], Tensor]:
    """Gradients of ``q, k, v, beta, g``, and of the state: the adjoint of every line of ``deltaproduct._chunk``."""
    p, n, dtype = _Packed(inputs, plan, settings), settings.n, settings.dtype
    do, decay, H = plan.pack(do.to(dtype)), p.decay, p.heads

    sent = torch.bmm(torch.baddbmm(p.start_q, p.P, p.W, alpha=-1).mT, do)
    after, dS = backward_states(p.W, p.end_k, p.whole, sent, plan.pack_states(dfinal.to(dtype)), plan, H, kernel=settings.kernel)

    predicted = torch.bmm(p.start_k, states)
    error = p.v - predicted
    R = torch.bmm(p.scaled, error)
    dR = torch.bmm(p.end_k, after).baddbmm_(p.P.mT, do)
    Z = torch.bmm(p.inverse.mT, dR)
    dv = p.b * Z
    dA = torch.bmm(Z, R.mT).neg_().tril_(-1)
    db = (Z * error).sum(-1) + (dA * p.gram).sum(-1)

    dgram = dA.mul_(p.b)
    dP = torch.bmm(do, R.mT)
    pair_terms = None
    if decay is not None:
        pair_terms = (dgram * p.gram).unflatten(1, (-1, n)).unflatten(3, (-1, n)).sum((2, 4)) + (dP * p.P).unflatten(2, (-1, n)).sum(-1)
        dgram = _times_pair(dgram, decay.pair, n, rows=True)
        dP = _times_pair(dP, decay.pair, n, rows=False)
    else:
        C = do.shape[1]
        dP = (dP.unflatten(2, (C, n)) * torch.ones(C, C, dtype=dtype, device=do.device).tril()[None, :, :, None]).flatten(2)

    from_start = torch.bmm(dv, states.mT).neg_()  # d loss / d start_k
    from_end = torch.bmm(R, after.mT)  # d loss / d end_k
    from_query = torch.bmm(do, states.mT)  # d loss / d start_q
    dk = torch.bmm(dgram + dgram.mT, p.k).baddbmm_(dP.mT, p.q)
    dq = torch.bmm(dP, p.k)
    dg = None
    if decay is None:
        dk += from_start + from_end
        dq += from_query
    else:
        dk += per_micro_step(decay.start, n) * from_start + per_micro_step(decay.end, n) * from_end
        dq += decay.start * from_query
        assert pair_terms is not None
        dg = _gate_gradient(p, decay, pair_terms, from_start, from_end, from_query, states, after)
        dg = plan.unpack(dg[..., None], H)[..., 0]
    grads = plan.unpack(dq.mul_(settings.scale), H), plan.unpack(dk, H, n), plan.unpack(dv, H, n), plan.unpack(db[..., None], H, n)[..., 0]
    return (*grads, dg), plan.unpack_states(dS, H)


def _times_pair(x: Tensor, pair: Tensor, n: int, *, rows: bool) -> Tensor:
    """Multiply ``(X, M, M)`` or ``(X, C, M)`` by the decays of its tokens."""
    C = pair.shape[-1]
    if not rows:
        return (x.unflatten(2, (C, n)) * pair[..., None]).flatten(2)
    return (x.unflatten(1, (C, n)).unflatten(3, (C, n)) * pair[:, :, None, :, None]).flatten(3).flatten(1, 2)


def _gate_gradient(
    p: _Packed, decay: Decays, pair_terms: Tensor, from_start: Tensor, from_end: Tensor, from_query: Tensor, states: Tensor, after: Tensor
) -> Tensor:
    """Gradient of the log-gates ``(X, C)``: collected on their cumulative sums, then summed back."""
    per_token = lambda x: x.sum(-1).unflatten(1, (-1, p.n)).sum(-1)  # noqa: E731
    ends = per_token(p.end_k * from_end)
    dG = pair_terms.sum(2) - pair_terms.sum(1) + per_token(p.start_k * from_start) - ends + (p.start_q * from_query).sum(-1)
    assert p.whole is not None
    dG[:, -1] += ends.sum(-1) + p.whole[:, 0, 0] * (states * after).sum((1, 2))
    return dG.flip(1).cumsum(1).flip(1)
