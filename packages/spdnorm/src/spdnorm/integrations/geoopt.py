"""Manifold parameters for geoopt's Riemannian optimizers."""

from typing import Any

from torch import Tensor

try:
    import geoopt
    from geoopt.manifolds import SymmetricPositiveDefinite
except ImportError as error:  # pragma: no cover - depends on the environment
    raise ImportError("param='geoopt' needs geoopt: pip install 'spdnorm[geoopt]'") from error

from geocore.integrations.geoopt import Stiefel

__all__ = ["spd_parameter", "stiefel_parameter"]


def spd_parameter(value: Tensor) -> Any:
    """SPD matrix with the affine-invariant metric."""
    make: Any = geoopt.ManifoldParameter
    return make(value, manifold=SymmetricPositiveDefinite(default_metric="AIM"))


def stiefel_parameter(value: Tensor) -> Any:
    """Matrix with orthonormal columns; steps are retracted by a QR factorisation."""
    make: Any = geoopt.ManifoldParameter
    return make(value, manifold=Stiefel(retraction="qr"))
