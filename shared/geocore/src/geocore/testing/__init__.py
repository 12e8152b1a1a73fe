"""Checks that our own tests stand on, for your tests too.

Tolerances in machine epsilons, derivative checks, composition with torch's transforms and compiler, batch behaviour, the
low-precision policy, module conformance, equivariance. ``geocore.testing.strategies`` (hypothesis) and
``geocore.testing.benchmark`` load on use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from geocore.testing._batching import check_batching, check_half
from geocore.testing._derivatives import assert_finite, check_derivatives, tensor_leaves
from geocore.testing._equivariance import EquivarianceReport, assert_equivariant, assert_not_equivariant, equivariance_error
from geocore.testing._matrices import assert_low_rank, assert_orthonormal, assert_same_subspace, linear_map_to_dense, spectra
from geocore.testing._modules import check_module
from geocore.testing._ops import check_op, nan_filled_empty
from geocore.testing._public import check_import_cost, check_public_surface
from geocore.testing._tolerances import ANGLES, assert_close_eps, max_error_eps, tolerance
from geocore.testing._transforms import assert_same, check_export, check_transforms

if TYPE_CHECKING:
    from geocore.testing import benchmark, strategies

__all__ = [
    "ANGLES",
    "EquivarianceReport",
    "assert_close_eps",
    "assert_equivariant",
    "assert_finite",
    "assert_low_rank",
    "assert_not_equivariant",
    "assert_orthonormal",
    "assert_same",
    "assert_same_subspace",
    "benchmark",
    "check_batching",
    "check_derivatives",
    "check_export",
    "check_half",
    "check_import_cost",
    "check_module",
    "check_op",
    "check_public_surface",
    "check_transforms",
    "equivariance_error",
    "linear_map_to_dense",
    "max_error_eps",
    "nan_filled_empty",
    "spectra",
    "strategies",
    "tensor_leaves",
    "tolerance",
]


def __getattr__(name: str) -> Any:
    if name in ("benchmark", "strategies"):
        return import_module(f"geocore.testing.{name}")
    raise AttributeError(f"module 'geocore.testing' has no attribute {name!r}")
