"""Finite groups by name as Cayley tables, with a faithful permutation representation."""

import itertools
import math
import re
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Group", "group", "permutation_matrices"]


@dataclass(frozen=True)
class Group:
    """A finite group on ``0 .. order - 1``; 0 is the identity.

    Args:
        name: Its name.
        table: Cayley table, shape ``(order, order)``, int64: ``table[a, b]`` is ``a b``.
        permutations: A faithful action, shape ``(order, points)``: element ``a`` sends point ``i`` to ``permutations[a, i]``, and ``a b``
            does ``b`` first.
    """

    name: str
    table: Tensor
    permutations: Tensor

    @property
    def order(self) -> int:
        """Number of elements."""
        return self.table.shape[0]

    @property
    def transpositions(self) -> Tensor:
        """Elements that swap two points and fix the others."""
        points = torch.arange(self.permutations.shape[1])
        return ((self.permutations != points).sum(1) == 2).nonzero()[:, 0]

    def inverse(self) -> Tensor:
        """The inverse of every element."""
        return (self.table == 0).long().argmax(1)


def permutation_matrices(permutations: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
    """Matrices ``P`` with ``P e_i = e_{permutation[i]}``, shape ``(..., points, points)``; they multiply as the elements do."""
    eye = torch.eye(permutations.shape[-1], dtype=dtype or torch.get_default_dtype(), device=permutations.device)
    return eye[permutations].mT


def _from_permutations(name: str, permutations: Tensor) -> Group:
    """Group of rows ``(order, points)``, the identity first."""
    order, points = permutations.shape
    weights = points ** torch.arange(points)
    codes, by_code = (permutations * weights).sum(1).sort()
    products = permutations[:, None, :].expand(order, order, points).gather(2, permutations[None].expand(order, order, points))
    return Group(name, by_code[torch.searchsorted(codes, (products * weights).sum(2))], permutations)


def _symmetric(points: int) -> Group:
    return _from_permutations(f"S{points}", torch.tensor(list(itertools.permutations(range(points))), dtype=torch.int64))


def _even(permutation: tuple[int, ...]) -> bool:
    return sum(a > b for a, b in itertools.combinations(permutation, 2)) % 2 == 0


def _alternating(points: int) -> Group:
    rows = [p for p in itertools.permutations(range(points)) if _even(p)]
    return _from_permutations(f"A{points}", torch.tensor(rows, dtype=torch.int64))


def _cyclic(m: int) -> Group:
    i = torch.arange(m)
    return Group(f"Z{m}", (i[:, None] + i) % m, (i[:, None] + i) % m)


def _dihedral(m: int) -> Group:
    """Symmetries of the ``m``-gon: turns ``i -> i + a``, number ``a``, then flips ``i -> a - i``, number ``m + a``."""
    if m < 3:
        raise ValueError(f"dihedral groups need at least 3 corners, got D{m}; D2 is Z2_x_Z2")
    i = torch.arange(m)
    plus, minus = (i[:, None] + i) % m, (i[:, None] - i) % m
    table = torch.cat([torch.cat([plus, m + plus], 1), torch.cat([m + minus, minus], 1)])
    return Group(f"D{m}", table, torch.cat([plus, minus]))


def _product(a: Group, b: Group) -> Group:
    """Direct product; element ``(x, y)`` is ``x |b| + y``."""
    m = b.order
    x, y = torch.arange(a.order * m) // m, torch.arange(a.order * m) % m
    table = a.table[x[:, None], x] * m + b.table[y[:, None], y]
    permutations = torch.cat([a.permutations[x], a.permutations.shape[1] + b.permutations[y]], dim=1)
    return Group(f"{a.name}_x_{b.name}", table, permutations)


def _from_table(table: Tensor) -> Group:
    """A group given by its Cayley table, acting on itself.

    Raises:
        ValueError: If it is no group table with identity 0.
    """
    if table.ndim != 2 or table.shape[0] != table.shape[1] or table.shape[0] == 0 or table.dtype.is_floating_point:
        raise ValueError(f"a Cayley table must be a square integer tensor, got {table.dtype} of shape {tuple(table.shape)}")
    table = table.long()
    n = table.shape[0]
    every = torch.arange(n)
    if not (torch.equal(table.sort(0).values, every[:, None].expand(n, n)) and torch.equal(table.sort(1).values, every.expand(n, n))):
        raise ValueError("a Cayley table must hold each element once in every row and column")
    if not (torch.equal(table[0], every) and torch.equal(table[:, 0], every)):
        raise ValueError("a Cayley table must have element 0 as its identity")
    for a in range(n):  # (a b) c = a (b c)
        if not torch.equal(table[table[a]], table[a][table]):
            raise ValueError(f"a Cayley table must be associative; it is not for products with element {a}")
    return Group("table", table, table)


_MAKE = {"S": _symmetric, "A": _alternating, "Z": _cyclic, "D": _dihedral}
_LARGEST = {"S": 6, "A": 6, "Z": 4096, "D": 2048}


def group(what: str | Tensor | Group) -> Group:
    """A group by its name, or with its Cayley table.

    Names: ``"S5"`` and ``"A5"`` (permutations), ``"Z7"`` (cyclic), ``"D4"`` (dihedral), and products such as ``"S3_x_Z2"``.
    Permutations are in lexicographic order, so 0 is the identity; ``a b`` applies ``b`` first, as products of matrices do.

    Raises:
        ValueError: If the name is unknown or the group too large, or the table is none of a group with identity 0.
        TypeError: If it is neither a name, nor a tensor, nor a ``Group``.

    Example:
        >>> group("S3").table[1, 2]
        tensor(3)
    """
    if isinstance(what, Group):
        return what
    if isinstance(what, Tensor):
        return _from_table(what)
    if not isinstance(what, str):
        raise TypeError(f"group must be a name, a Cayley table or a Group, got {type(what).__name__}")
    parts = []
    for name in what.split("_x_"):
        match = re.fullmatch(r"([SAZD])([1-9]\d*)", name)
        if match is None:
            raise ValueError(f"group must be a name such as 'S5', 'A5', 'Z7', 'D4' or 'S3_x_Z2', got {what!r}")
        kind, size = match[1], int(match[2])
        if size > _LARGEST[kind]:
            raise ValueError(f"group must be at most {kind}{_LARGEST[kind]}, whose Cayley table fits in memory, got {what!r}")
        parts.append(_MAKE[kind](size))
    if math.prod(p.order for p in parts) > 4096:
        raise ValueError(f"group must have at most 4096 elements, got {what!r} with {math.prod(p.order for p in parts)}")
    made = parts[0]
    for part in parts[1:]:
        made = _product(made, part)
    return made
