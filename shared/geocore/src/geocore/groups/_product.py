"""Products of groups that act on the same data."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from geocore.groups._elements import Motion, Pair
from geocore.groups._group import BaseGroup, Group

__all__ = ["ProductGroup"]


def _map(g: Any, change: Any) -> Any:
    if isinstance(g, Pair):
        return Pair(_map(g.first, change), _map(g.second, change))
    if isinstance(g, Motion):
        return Motion(change(g.Q), None if g.t is None else change(g.t))
    return change(g)


def _count(g: Any) -> int:
    while not isinstance(g, Tensor):
        g = g[0]
    return len(g)


class ProductGroup(BaseGroup):
    """Two groups acting on the same data independently, as rotations of points and permutations of their order.

    Elements are ``Pair``s; types of data name both actions, as ``"position*node"``. Products nest: the first factor may be a product.

    Args:
        first: Group.
        second: Group.

    Raises:
        TypeError: If one of them is not a ``Group``.

    Example:
        >>> G = ProductGroup(Orthogonal(3), Symmetric(5))
        >>> G.action(G.random(), torch.randn(5, 3), "vector*node").shape
        torch.Size([5, 3])
    """

    def __init__(self, first: Group, second: Group) -> None:
        for name, value in (("first", first), ("second", second)):
            if not isinstance(value, Group):
                raise TypeError(f"{name} must be a Group, got {type(value).__name__}")
        self.first, self.second = first, second
        self.is_finite = first.is_finite and second.is_finite

    def __repr__(self) -> str:
        return f"ProductGroup({self.first!r}, {self.second!r})"

    def identity(self, shape: int | Sequence[int] = (), **options: Any) -> Pair:
        """The pair of identities."""
        return Pair(self.first.identity(shape, **_for(self.first, options)), self.second.identity(shape, **_for(self.second, options)))

    def random(self, shape: int | Sequence[int] = (), generator: torch.Generator | None = None, **options: Any) -> Pair:
        """Independent random elements of both."""
        first = self.first.random(shape, generator, **_for(self.first, options))
        return Pair(first, self.second.random(shape, generator, **_for(self.second, options)))

    def elements(self, **options: Any) -> Pair:
        """All pairs, the first factor varying slowest.

        Raises:
            ValueError: If a factor has infinitely many elements.
        """
        a = self.first.elements(**_for(self.first, options))
        b = self.second.elements(**_for(self.second, options))
        i, j = _count(a), _count(b)
        return Pair(_map(a, lambda v: v.repeat_interleave(j, 0)), _map(b, lambda v: v.repeat(i, *(1,) * (v.ndim - 1))))


def _for(group: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Permutations have no dtype."""
    from geocore.groups._symmetric import Symmetric

    return {key: value for key, value in options.items() if not (key == "dtype" and isinstance(group, Symmetric))}
