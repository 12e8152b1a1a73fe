"""A linear recurrence whose transitions are products of Householder factors, as an operator: what a compiled kernel can take whole.

There is no public function for it here. ``deltaproduct`` has one, with plain forms that are parallel over chunks; the references of this
module are the recurrence as it is written, and serve tests and direct calls.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from geocore import _ops

__all__: list[str] = []

_ARGUMENTS = "Tensor q, Tensor k, Tensor v, Tensor beta, Tensor? g"


def _sequences(q: Tensor, offsets: Tensor | None) -> Iterator[tuple[slice, int, int]]:
    """States and tokens of every group of sequences that are worked on together."""
    if offsets is None:
        yield slice(None), 0, q.shape[1]
        return
    for i, (start, end) in enumerate(pairwise(offsets.tolist())):
        yield slice(i, i + 1), start, end


def householder_scan_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor | None,
    state: Tensor,
    offsets: Tensor | None,
    n: int,
    size: int,
    scale: float,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """``S <- e^g S``, then ``n`` times ``S <- S + beta k (v - S^T k)^T``, then ``o = scale S^T q``, for every token.

    Args:
        q: Shape ``(B, T, H, K)``.
        k: Shape ``(B, T n, H, K)``.
        v: Shape ``(B, T n, H, V)``.
        beta: Shape ``(B, T n, H)``.
        g: Log-gates, shape ``(B, T, H)``, or ``None``.
        state: States before the first token, shape ``(N, H, K, V)``.
        offsets: First token of every sequence of a batch of one, and ``T``, shape ``(N + 1,)``; ``None`` for ``B`` sequences.
        n: Factors per token.
        size: Tokens per chunk.
        scale: Factor of the outputs.
        keep: Whether to give the state before every chunk.

    Returns:
        Outputs ``(B, T, H, V)``, states ``(N, H, K, V)`` after the last token, and before every chunk ``(chunks, H, K, V)``, the chunks of
        a sequence one after another.
    """
    outputs, last, kept = [], [], []
    for rows, start, end in _sequences(q, offsets):
        S, out, before = state[rows], [], []
        for t in range(start, end):
            if keep and (t - start) % size == 0:
                before.append(S)
            S = _token(S, k, v, beta, g, t, n)
            out.append(scale * torch.einsum("bhkv,bhk->bhv", S, q[:, t]))
        last.append(S)
        if out:
            outputs.append(torch.stack(out, 1))
        if before:
            kept.append(torch.stack(before, 1).flatten(0, 1))
    o = torch.cat(outputs, 1) if outputs else q.new_zeros(*q.shape[:3], v.shape[-1])
    return o, torch.cat(last) if last else state.clone(), torch.cat(kept) if kept else state.new_zeros(0, *state.shape[1:])


def _token(S: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor | None, t: int, n: int) -> Tensor:
    """State after token ``t``."""
    if g is not None:
        S = torch.exp(g[:, t])[..., None, None] * S
    for i in range(t * n, t * n + n):
        S = S + (beta[:, i, :, None] * k[:, i])[..., :, None] * _error(S, k, v, i)[..., None, :]
    return S


def _error(S: Tensor, k: Tensor, v: Tensor, i: int) -> Tensor:
    return v[:, i] - torch.einsum("bhkv,bhk->bhv", S, k[:, i])


def householder_scan_backward_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor | None,
    offsets: Tensor | None,
    states: Tensor,
    d_o: Tensor,
    d_last: Tensor,
    d_states: Tensor | None,
    n: int,
    size: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of ``q, k, v, beta, g`` (empty without) and ``state``, from those of the three results, micro-step by micro-step.

    ``states`` are those that ``householder_scan`` gives before every chunk.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in ("q", "k", "v", "beta", "g", "state")}
    chunk = 0
    for rows, start, end in _sequences(q, offsets):
        D, count = d_last[rows], -(-(end - start) // size)
        here = slice(chunk, chunk + D.shape[0] * count)
        before = states[here].unflatten(0, (D.shape[0], count))
        sent = None if d_states is None else d_states[here].unflatten(0, (D.shape[0], count))
        parts: dict[str, list[Tensor]] = {name: [] for name in ("q", "k", "v", "beta", "g")}
        for c in reversed(range(count)):
            first = start + c * size
            D = _chunk_gradients(q, k, v, beta, g, before[:, c], d_o, D, range(first, min(end, first + size)), n, scale, parts)
            if sent is not None:
                D = D + sent[:, c]
        chunk = here.stop
        found["state"].append(D)
        for name, steps in parts.items():
            if steps:
                found[name].append(torch.stack(steps[::-1], 1))

    def joined(name: str, like: Tensor) -> Tensor:
        return torch.cat(found[name], 1) if found[name] else torch.zeros_like(like)

    dg = q.new_zeros(0) if g is None else joined("g", g)
    dstate = torch.cat(found["state"]) if found["state"] else d_last.clone()
    return joined("q", q), joined("k", k), joined("v", v), joined("beta", beta), dg, dstate


def _chunk_gradients(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor | None,
    S: Tensor,
    d_o: Tensor,
    D: Tensor,
    tokens: range,
    n: int,
    scale: float,
    parts: dict[str, list[Tensor]],
) -> Tensor:
    """Add the gradients of these tokens to ``parts``, last first; the gradient of the state before them from that after them."""
    history: list[list[Tensor]] = []  # per token: the state before it, after the gate, and after every factor
    for t in tokens:
        steps = [S]
        S = S if g is None else torch.exp(g[:, t])[..., None, None] * S
        steps.append(S)
        for i in range(t * n, t * n + n):
            S = S + (beta[:, i, :, None] * k[:, i])[..., :, None] * _error(S, k, v, i)[..., None, :]
            steps.append(S)
        history.append(steps)
    for t, (before, *steps) in zip(reversed(tokens), reversed(history), strict=True):
        parts["q"].append(scale * torch.einsum("bhkv,bhv->bhk", steps[-1], d_o[:, t]))
        D = D + scale * q[:, t, :, :, None] * d_o[:, t, :, None, :]
        for j in reversed(range(n)):
            i, S = t * n + j, steps[j]
            key, error, b = k[:, i], _error(S, k, v, i), beta[:, i, :, None]
            pulled = torch.einsum("bhkv,bhk->bhv", D, key)
            parts["beta"].append((pulled * error).sum(-1))
            parts["v"].append(b * pulled)
            parts["k"].append(b * torch.einsum("bhkv,bhv->bhk", D, error) - torch.einsum("bhkv,bhv->bhk", S, b * pulled))
            D = D - key[..., :, None] * (b * pulled)[..., None, :]
        if g is not None:
            gate = torch.exp(g[:, t])
            parts["g"].append(gate * (before * D).sum((-2, -1)))
            D = gate[..., None, None] * D
    return D


def _fake(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Any, state: Tensor, offsets: Any, n: int, size: int, scale: float, keep: bool
) -> Any:
    if not keep:
        chunks: Any = 0
    elif offsets is None:
        chunks = q.shape[0] * -(-q.shape[1] // size)
    else:  # known from the values of the offsets only
        chunks = torch.library.get_ctx().new_dynamic_size()
    return q.new_empty(*q.shape[:3], v.shape[-1]), state.new_empty(state.shape), state.new_empty(chunks, *state.shape[1:])


def _fake_backward(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Any, offsets: Any, states: Tensor, d_o: Tensor, d_last: Tensor, *rest: Any
) -> Any:
    return *(x.new_empty(x.shape) for x in (q, k, v, beta)), q.new_empty(0 if g is None else g.shape), d_last.new_empty(d_last.shape)


def _backward(inputs: tuple[Any, ...], outputs: tuple[Tensor, ...], grads: tuple[Tensor, ...]) -> tuple[Any, ...]:
    q, k, v, beta, g, state, offsets, n, size, scale, keep = inputs
    (states,) = outputs if keep else torch.ops.geocore.householder_scan(q, k, v, beta, g, state, offsets, n, size, scale, True)[2:]
    sent = grads[2] if keep else None
    dq, dk, dv, dbeta, dg, dstate = torch.ops.geocore.householder_scan_backward(
        q, k, v, beta, g, offsets, states, grads[0], grads[1], sent, n, size, scale
    )
    return dq, dk, dv, dbeta, *(() if g is None else (dg,)), dstate


_ops.define(
    "householder_scan_backward",
    f"({_ARGUMENTS}, Tensor? offsets, Tensor states, Tensor d_o, Tensor d_last, Tensor? d_states, int n, int size, float scale)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    householder_scan_backward_reference,
    _fake_backward,
)
_ops.define(
    "householder_scan",
    f"({_ARGUMENTS}, Tensor state, Tensor? offsets, int n, int size, float scale, bool keep) -> (Tensor, Tensor, Tensor)",
    householder_scan_reference,
    _fake,
    backward=_backward,
    save_outputs=(2,),
)
