"""Orthogonal matrices: validation, polar factor, parametrisations of weights, manifolds for geoopt.

``SpecialOrthogonal``, ``Stiefel`` and ``Grassmann`` are loaded on use and need the extra ``geoopt``.
"""

from typing import TYPE_CHECKING, Any

from geocore.orthogonal._newton_schulz import newton_schulz
from geocore.orthogonal._parametrize import Orthogonal, orthogonal_, parametrize
from geocore.orthogonal._polar import polar
from geocore.orthogonal._validate import (
    assert_orthogonal,
    assert_rotation,
    assert_skew,
    is_orthogonal,
    is_rotation,
    is_skew,
    orthogonality_error,
)

if TYPE_CHECKING:
    from geocore.integrations.geoopt import Grassmann as Grassmann
    from geocore.integrations.geoopt import SpecialOrthogonal as SpecialOrthogonal
    from geocore.integrations.geoopt import Stiefel as Stiefel

__all__ = [
    "Orthogonal",
    "assert_orthogonal",
    "assert_rotation",
    "assert_skew",
    "is_orthogonal",
    "is_rotation",
    "is_skew",
    "newton_schulz",
    "orthogonal_",
    "orthogonality_error",
    "parametrize",
    "polar",
]


def __getattr__(name: str) -> Any:
    if name in ("Grassmann", "SpecialOrthogonal", "Stiefel"):
        from geocore.integrations import geoopt

        return getattr(geoopt, name)
    raise AttributeError(f"module 'geocore.orthogonal' has no attribute {name!r}")
