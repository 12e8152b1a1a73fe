"""Permutations of n things."""

import math
from collections.abc import Sequence
from itertools import permutations

import torch
from jaxtyping import Int
from torch import Tensor

from geocore._checks import check_positive_int
from geocore.groups._elements import is_permutation
from geocore.groups._group import BaseGroup, as_shape

__all__ = ["Symmetric"]

_LARGEST = 8


class Symmetric(BaseGroup):
    """``S_n``: permutations as int64 tensors, ``i -> p[i]``, so row ``i`` of ``"node"`` data goes to row ``p[i]``.

    ``geocore.structured.Permutation`` gathers with its index instead: ``Permutation(p)`` is the action of the inverse of ``p``.

    Args:
        n: Number of things.

    Raises:
        ValueError: If ``n < 1``.

    Example:
        >>> S = Symmetric(3)
        >>> S.action(torch.tensor([1, 2, 0]), torch.tensor([[10.0], [20.0], [30.0]]), "node")[:, 0]
        tensor([30., 10., 20.])
    """

    is_finite = True

    def __init__(self, n: int) -> None:
        check_positive_int("n", n)
        self.n = n

    def __repr__(self) -> str:
        return f"Symmetric({self.n})"

    @property
    def order(self) -> int:
        """Number of elements, ``n!``."""
        return math.factorial(self.n)

    def identity(self, shape: int | Sequence[int] = (), *, device: torch.device | str | None = None) -> Int[Tensor, "*shape n"]:
        """The identity, expanded to ``shape``."""
        return torch.arange(self.n, device=device).expand(*as_shape(shape), self.n)

    def random(
        self, shape: int | Sequence[int] = (), generator: torch.Generator | None = None, *, device: torch.device | str | None = None
    ) -> Int[Tensor, "*shape n"]:
        """Independent uniform permutations, by sorting noise."""
        return torch.rand((*as_shape(shape), self.n), generator=generator, dtype=torch.float64, device=device).argsort(-1)

    def parity(self, p: Int[Tensor, "*batch n"]) -> Int[Tensor, "*batch"]:
        """+1 or -1 for an even or odd number of transpositions: the sign of the number of inversions.

        Args:
            p: Permutations, shape ``(..., n)``.

        Returns:
            int64 of shape ``(...)``.

        Raises:
            ValueError: If ``p`` has another length.
            TypeError: If ``p`` is not a tensor of integers.

        Example:
            >>> Symmetric(3).parity(torch.tensor([1, 0, 2]))
            tensor(-1)
        """
        if not is_permutation(p):
            raise TypeError("p must be an integer tensor")
        if p.shape[-1:] != (self.n,):
            raise ValueError(f"p must have shape (..., {self.n}), got {tuple(p.shape)}")
        inversions = (p[..., :, None] > p[..., None, :]).triu(1).sum((-1, -2))
        return 1 - 2 * (inversions % 2)

    def elements(self, *, device: torch.device | str | None = None) -> Int[Tensor, "order n"]:
        """All permutations in lexicographic order.

        Raises:
            ValueError: If ``n > 8``.
        """
        if self.n > _LARGEST:
            raise ValueError(f"elements() is for n <= {_LARGEST}; {self.name} has {self.order} elements. Draw some with random()")
        return torch.tensor(list(permutations(range(self.n))), dtype=torch.int64, device=device)
