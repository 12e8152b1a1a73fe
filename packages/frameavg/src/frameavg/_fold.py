"""The frame axis inside the batch axis, and back."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["DenseFold", "Fold", "RaggedFold"]


@dataclass(frozen=True)
class DenseFold:
    """Items of one size: ``(*B, k, ...)`` becomes ``(*B[:-1], B[-1] k, ...)``, or ``(k, ...)`` for a single item.

    Args:
        batch: The batch axes ``B``.
        points: Points of an item.
        size: Frame elements ``k``.
    """

    batch: tuple[int, ...]
    points: int
    size: int

    def fold(self, x: Tensor) -> Tensor:
        """The frame axis, which follows the batch axes, merged into the last of them."""
        if not self.batch:
            return x
        return x.flatten(len(self.batch) - 1, len(self.batch))

    def unfold(self, y: Tensor, name: str) -> Tensor:
        """Undo ``fold`` on an output.

        Raises:
            ValueError: If the output does not carry the folded batch axes.
        """
        axis = max(len(self.batch) - 1, 0)
        wanted = (*self.batch[:-1], (self.batch[-1] if self.batch else 1) * self.size)
        if tuple(y.shape[: axis + 1]) != wanted:
            raise ValueError(f"{name} must start with the batch axes {wanted} that the backbone was given, got shape {tuple(y.shape)}")
        return y.unflatten(axis, (self.batch[-1], self.size)) if self.batch else y

    def expand(self, x: Tensor) -> Tensor:
        """An invariant tensor once for every frame element, before folding."""
        axis = len(self.batch)
        return x.unsqueeze(axis).expand(*x.shape[:axis], self.size, *x.shape[axis:])

    def belongs(self, x: Tensor) -> bool:
        """Whether a tensor has the batch axes (for a single item: one row a point), so that it is repeated rather than passed on."""
        if self.batch:
            return tuple(x.shape[: len(self.batch)]) == self.batch
        return x.ndim > 0 and x.shape[0] == self.points

    def keyword(self, name: str, x: Tensor) -> Tensor:
        """A keyword tensor for all copies at once."""
        return self.fold(self.expand(x)) if self.belongs(x) else x


@dataclass(frozen=True)
class RaggedFold:
    """Items of different sizes, their points concatenated: ``(k, N, ...)`` becomes ``(k N, ...)``, copy after copy.

    Args:
        batch: Item of each point, shape ``(N,)``.
        items: Number of items.
        size: Frame elements ``k``.
        edges: Number of edges, where the backbone gets an ``edge_index``.
    """

    batch: Tensor
    items: int
    size: int
    edges: int | None = None

    def per(self, rows: int) -> str:
        """Whether a tensor of so many rows has one for each point or for each item.

        Raises:
            ValueError: If it has neither.
        """
        if rows == self.batch.shape[0]:
            return "point"
        if rows == self.items:
            return "item"
        raise ValueError(f"ragged data must have {self.batch.shape[0]} rows (points) or {self.items} (items), got {rows}")

    def fold(self, x: Tensor) -> Tensor:
        """Frame axis (the first) and point axis merged."""
        return x.flatten(0, 1)

    def unfold(self, y: Tensor, name: str) -> Tensor:
        """Undo ``fold`` on an output of points or of items.

        Raises:
            ValueError: If the output has neither a row a point nor a row an item.
        """
        points = self.batch.shape[0]
        if y.ndim == 0 or y.shape[0] not in (self.size * points, self.size * self.items):
            raise ValueError(
                f"{name} must have {self.size * points} rows (points of all copies) or {self.size * self.items} (items of all copies), "
                f"got shape {tuple(y.shape)}"
            )
        return y.unflatten(0, (self.size, -1))

    def expand(self, x: Tensor) -> Tensor:
        """An invariant tensor once for every frame element, before folding."""
        return x.unsqueeze(0).expand(self.size, *x.shape)

    def keyword(self, name: str, x: Tensor) -> Tensor:
        """A keyword tensor for all copies at once: items and edges are renumbered copy by copy."""
        if name in ("batch", "edge_index"):
            step = self.items if name == "batch" else self.batch.shape[0]
            shift = step * torch.arange(self.size, device=x.device, dtype=x.dtype)
            copies = x.unsqueeze(-2) + shift.unsqueeze(-1)
            return copies.flatten(-2)
        rows = {self.batch.shape[0], self.items} | ({self.edges} if self.edges is not None else set())
        return self.fold(self.expand(x)) if x.ndim and x.shape[0] in rows else x


Fold = Any  # DenseFold | RaggedFold, which share fold, unfold, expand and keyword
