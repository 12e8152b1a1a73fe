"""How tokens of a batch become chunks: one layout for dense batches and for sequences of different lengths.

Chunks are stored by their number first and by their sequence second, longest sequences first (as in a packed sequence of
``torch.nn.utils.rnn``): chunk ``c`` of every sequence that has one is a slice, the state pass walks over slices, and no sequence is
padded to the length of another. Arrays of tokens become ``(chunks * H, C, D)``, arrays of micro-steps ``(chunks * H, C n, D)``.
"""

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Plan", "dense_plan", "ragged_plan"]


@dataclass(frozen=True)
class Plan:
    """Layout of the chunks of one call.

    Args:
        size: Tokens per chunk, ``C``.
        tokens: Tokens of the input along its second dimension, ``T``.
        batch: First dimension of the input.
        active: Number of sequences that have a chunk ``c``, for every ``c``; never increasing.
        gather: Ragged only: token of each place in the chunks, ``T`` where there is none.
        scatter: Ragged only: place of each token in the chunks.
        order: Ragged only: sequences by decreasing length.
    """

    size: int
    tokens: int
    batch: int
    active: tuple[int, ...]
    gather: Tensor | None = None
    scatter: Tensor | None = None
    order: Tensor | None = None

    @property
    def chunks(self) -> int:
        """Number of chunks over all sequences."""
        return sum(self.active)

    def slices(self, heads: int) -> list[tuple[int, int]]:
        """First and last row of each step of the state pass in an array of ``chunks * heads`` rows."""
        ends = list(accumulate(self.active))
        return [((end - count) * heads, end * heads) for end, count in zip(ends, self.active, strict=True)]

    def pack(self, x: Tensor, per_token: int = 1) -> Tensor:
        """``(B, T * per_token, H, D)`` to ``(chunks * H, C * per_token, D)``, zeros where a chunk is not full."""
        B, _, H, D = x.shape
        rows = self.size * per_token
        if self.gather is not None:
            flat = x.reshape(self.tokens, per_token * H * D)
            flat = torch.cat([flat, flat.new_zeros(1, per_token * H * D)]).index_select(0, self.gather)
            return flat.reshape(self.chunks, rows, H, D).transpose(1, 2).reshape(self.chunks * H, rows, D)
        steps = len(self.active)
        missing = steps * self.size - self.tokens
        if missing:
            x = F.pad(x, (0, 0, 0, 0, 0, missing * per_token))
        return x.reshape(B, steps, rows, H, D).permute(1, 0, 3, 2, 4).reshape(steps * B * H, rows, D)

    def unpack(self, x: Tensor, heads: int, per_token: int = 1) -> Tensor:
        """The inverse of ``pack``."""
        D, rows = x.shape[-1], self.size * per_token
        if self.scatter is not None:
            flat = x.reshape(self.chunks, heads, rows, D).transpose(1, 2).reshape(self.chunks * self.size, per_token * heads * D)
            return flat.index_select(0, self.scatter).reshape(1, self.tokens * per_token, heads, D)
        steps = len(self.active)
        x = x.reshape(steps, self.batch, heads, rows, D).permute(1, 0, 3, 2, 4).reshape(self.batch, steps * rows, heads, D)
        return x[:, : self.tokens * per_token]

    def pack_states(self, S: Tensor) -> Tensor:
        """``(N, H, K, V)`` to ``(N * H, K, V)`` in the order of the chunks."""
        return (S if self.order is None else S.index_select(0, self.order)).flatten(0, 1)

    def unpack_states(self, S: Tensor, heads: int) -> Tensor:
        """The inverse of ``pack_states``."""
        S = S.unflatten(0, (-1, heads)) if S.shape[0] else S.reshape(0, heads, *S.shape[1:])
        return S if self.order is None else S.index_select(0, self.order.argsort())


def dense_plan(batch: int, tokens: int, size: int) -> Plan:
    """Layout of ``batch`` sequences of ``tokens`` tokens each."""
    size = max(1, min(size, tokens))
    return Plan(size, tokens, batch, (batch,) * -(-tokens // size))


def ragged_plan(offsets: list[int], size: int, device: torch.device) -> Plan:
    """Layout of sequences that follow one another, sequence ``i`` from ``offsets[i]`` to ``offsets[i + 1]``."""
    lengths = [b - a for a, b in pairwise(offsets)]
    size = max(1, min(size, max(lengths, default=1)))
    counts = [-(-length // size) for length in lengths]
    order = sorted(range(len(lengths)), key=lambda i: -counts[i])
    active = tuple(_conjugate([counts[i] for i in order]))
    total = offsets[-1]
    options: dict[str, Any] = {"dtype": torch.int64}
    start = torch.tensor([offsets[i] for i in order], **options)
    end = torch.tensor([offsets[i + 1] for i in order], **options)
    width = torch.tensor(active, **options)
    step = torch.arange(len(active)).repeat_interleave(width)
    rank = torch.arange(int(width.sum())) - (width.cumsum(0) - width).repeat_interleave(width)
    token = (start[rank] + step * size)[:, None] + torch.arange(size)
    there = token < end[rank][:, None]
    gather = torch.where(there, token, total).flatten()
    scatter = torch.empty(total, **options)
    scatter[token[there]] = there.flatten().nonzero()[:, 0]
    return Plan(size, total, 1, active, gather.to(device), scatter.to(device), torch.tensor(order, device=device, **options))


def _conjugate(counts: list[int]) -> list[int]:
    """How many of the decreasing ``counts`` exceed 0, 1, 2, ..."""
    out: list[int] = []
    alive = len(counts)
    for step in range(counts[0] if counts else 0):
        while counts[alive - 1] <= step:
            alive -= 1
        out.append(alive)
    return out
