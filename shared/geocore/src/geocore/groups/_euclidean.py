"""Rotations, reflections and translations of d-space, and the sign changes of its axes."""

import math
from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

from geocore._checks import check_positive_int
from geocore.groups._elements import Motion
from geocore.groups._group import BaseGroup, FiniteMotions, as_dtype, as_shape
from geocore.son import haar

__all__ = ["Euclidean", "Orthogonal", "Sign", "SpecialEuclidean", "SpecialOrthogonal", "Translation"]

_LARGEST = 16


class _Motions(BaseGroup):
    special = False
    turns = True
    moves = True

    def __init__(self, d: int, scale: float = 1.0) -> None:
        check_positive_int("d", d)
        if not (scale >= 0 and math.isfinite(scale)):
            raise ValueError(f"scale must be finite and not negative, got {scale}")
        self.d, self.scale = d, scale

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.d})"

    def identity(
        self, shape: int | Sequence[int] = (), *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Motion:
        """The identity, expanded to ``shape``."""
        batch, dtype = as_shape(shape), as_dtype(dtype)
        t = torch.zeros((*batch, self.d), dtype=dtype, device=device) if self.moves else None
        return Motion(torch.eye(self.d, dtype=dtype, device=device).expand(*batch, self.d, self.d), t)

    def random(
        self,
        shape: int | Sequence[int] = (),
        generator: torch.Generator | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Motion:
        """Independent elements: ``Q`` uniform (Haar), ``t`` normal with standard deviation ``scale`` per component."""
        batch, dtype = as_shape(shape), as_dtype(dtype)
        g = self.identity(batch, dtype=dtype, device=device)
        if self.turns:
            g = g._replace(Q=haar(self.d, batch, special=self.special, generator=generator, dtype=dtype, device=device))
        if self.moves:
            g = g._replace(t=self.scale * torch.randn((*batch, self.d), generator=generator, dtype=dtype, device=device))
        return g


class Orthogonal(_Motions):
    """O(d): rotations and reflections.

    Args:
        d: Dimension.

    Raises:
        ValueError: If ``d < 1``.

    Example:
        >>> Orthogonal(3).random((2,), torch.Generator().manual_seed(0)).Q.shape
        torch.Size([2, 3, 3])
    """

    moves = False

    def __init__(self, d: int) -> None:
        super().__init__(d)


class SpecialOrthogonal(_Motions):
    """SO(d): rotations.

    Args:
        d: Dimension.

    Raises:
        ValueError: If ``d < 1``.

    Example:
        >>> torch.linalg.det(SpecialOrthogonal(2).random().Q)  # 1, up to rounding
    """

    moves = False
    special = True

    def __init__(self, d: int) -> None:
        super().__init__(d)


class Euclidean(_Motions):
    """E(d): rotations, reflections and translations.

    Args:
        d: Dimension.
        scale: Standard deviation of each component of a random translation.

    Raises:
        ValueError: If ``d < 1`` or ``scale`` is negative.

    Example:
        >>> Euclidean(3).random().t.shape
        torch.Size([3])
    """


class SpecialEuclidean(_Motions):
    """SE(d): rotations and translations.

    Args:
        d: Dimension.
        scale: Standard deviation of each component of a random translation.

    Raises:
        ValueError: If ``d < 1`` or ``scale`` is negative.

    Example:
        >>> g = SpecialEuclidean(3).random()
        >>> SpecialEuclidean(3).compose(g, SpecialEuclidean(3).inverse(g))  # about the identity
    """

    special = True


class Translation(_Motions):
    """Translations of d-space.

    Args:
        d: Dimension.
        scale: Standard deviation of each component of a random translation.

    Raises:
        ValueError: If ``d < 1`` or ``scale`` is negative.

    Example:
        >>> Translation(2).random().Q
        tensor([[1., 0.],
                [0., 1.]])
    """

    turns = False


class Sign(FiniteMotions):
    """Diagonal matrices of +-1: ``2^d`` elements, or the ``2^(d-1)`` of determinant one.

    Args:
        d: Dimension, at most 16.
        special: Only determinant one.

    Raises:
        ValueError: If ``d`` is below 1 or above 16.

    Example:
        >>> Sign(3, special=True).order
        4
    """

    def __init__(self, d: int, *, special: bool = False) -> None:
        check_positive_int("d", d)
        if d > _LARGEST:
            raise ValueError(f"d must be at most {_LARGEST}, since the group has 2^d elements, got {d}")
        self.d, self.special = d, special

    @property
    def dim(self) -> int:  # type: ignore[override]
        """Dimension."""
        return self.d

    def __repr__(self) -> str:
        return f"Sign({self.d}{', special=True' if self.special else ''})"

    def matrices(self) -> Tensor:
        """All elements in float64."""
        rows = [row for row in product((1.0, -1.0), repeat=self.d) if not self.special or row.count(-1.0) % 2 == 0]
        return torch.diag_embed(torch.tensor(rows, dtype=torch.float64))
