"""Rotation groups of the cube and of the icosahedron, generated from two turns each."""

from functools import cache

import torch
from torch import Tensor

from geocore.groups._group import FiniteMotions

__all__ = ["Icosahedral", "Octahedral", "generate"]

_GOLDEN = (1 + 5**0.5) / 2


def generate(generators: Tensor, *, limit: int = 1024) -> Tensor:
    """All products of some orthogonal matrices, the identity first.

    Args:
        generators: Shape ``(m, d, d)``, float64.
        limit: Largest group.

    Returns:
        Shape ``(order, d, d)``.

    Raises:
        ValueError: If there are more than ``limit``.
    """
    found = torch.eye(generators.shape[-1], dtype=torch.float64)[None]
    fresh = found
    while len(fresh):
        new = (generators[:, None] @ fresh).flatten(0, 1)
        kept: list[Tensor] = []
        for g in new:
            known = torch.cat([found, torch.stack(kept)]) if kept else found
            if bool(((known - g).abs().amax((-1, -2)) > 1e-6).all()):
                kept.append(g)
        fresh = torch.stack(kept) if kept else new[:0]
        found = torch.cat([found, fresh])
        if len(found) > limit:
            raise ValueError(f"generators must generate at most {limit} elements")
    return found


@cache
def _octahedral() -> Tensor:
    quarter = [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    third = [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    return generate(torch.tensor([quarter, third], dtype=torch.float64))


@cache
def _icosahedral() -> Tensor:
    a, b = _GOLDEN / 2, (_GOLDEN - 1) / 2
    fifth = [[b, -a, 0.5], [a, 0.5, b], [-0.5, b, a]]
    third = [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    found = generate(torch.tensor([fifth, third], dtype=torch.float64))
    # Every entry is one of these; snapping removes what the products have rounded.
    entries = torch.tensor([0.0, 1.0, 0.5, a, b], dtype=torch.float64)
    entries = torch.cat([entries, -entries])
    return entries[(found[..., None] - entries).abs().argmin(-1)]


class Octahedral(FiniteMotions):
    """``O``: the 24 rotations of a cube with faces along the axes; entries 0 and +-1.

    Args:
        improper: Also the reflections, 48 elements: every rotation, then its negative.

    Example:
        >>> Octahedral().order
        24
    """

    dim = 3

    def __init__(self, *, improper: bool = False) -> None:
        self.improper = improper

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'improper=True' if self.improper else ''})"

    def _proper(self) -> Tensor:
        return _octahedral()

    def matrices(self) -> Tensor:
        """All elements in float64."""
        proper = self._proper()
        return torch.cat([proper, -proper]) if self.improper else proper.clone()


class Icosahedral(Octahedral):
    """``I``: the 60 rotations of an icosahedron with three two-fold axes along the coordinate axes.

    Its vertices are the cyclic permutations of ``(0, +-1, +-(1 + sqrt(5)) / 2)``.

    Args:
        improper: Also the reflections, 120 elements: every rotation, then its negative.

    Example:
        >>> Icosahedral().order
        60
    """

    def _proper(self) -> Tensor:
        return _icosahedral()
