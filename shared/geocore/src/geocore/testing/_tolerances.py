"""Tolerances in units of machine epsilon, and the angles at which rotation formulas break."""

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["ANGLES", "assert_close_eps", "max_error_eps", "tolerance"]

_SMALL = tuple(10.0**-k for k in range(12, 1, -1))
_NEAR_PI = tuple(math.pi - 10.0**-k for k in range(2, 9))
ANGLES: tuple[float, ...] = (0.0, *_SMALL, 0.1, 1.0, math.pi / 2, 3.0, *_NEAR_PI, math.pi)
"""Rotation angles in radians at which every formula is tested: zero, each decade below 0.01, generic, near pi, pi."""

_TRANSFORM_TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3}


def tolerance(dtype: torch.dtype) -> float:
    """Tolerance, relative to the scale of the result, at which two evaluations of one formula count as equal."""
    return _TRANSFORM_TOLERANCE[dtype]


def max_error_eps(actual: Tensor, expected: Any, *, scale: float | Tensor = 1.0) -> float:
    """Largest ``|actual - expected| / scale`` in machine epsilons of ``actual``'s dtype.

    Args:
        actual: Tensor of any shape and floating dtype.
        expected: Reference of the same shape, compared in float64 (tensor, array or nested lists).
        scale: Magnitude of one unit, a number or a tensor that broadcasts.

    Returns:
        The error; infinite if ``actual`` holds a NaN or infinity.
    """
    want = torch.as_tensor(expected, dtype=torch.float64)
    if want.shape != actual.shape:
        raise AssertionError(f"shapes differ: actual {tuple(actual.shape)}, expected {tuple(want.shape)}")
    if actual.numel() == 0:
        return 0.0
    error = (actual.detach().double().cpu() - want.detach().cpu()).abs() / scale
    worst = error.max().item() / torch.finfo(actual.dtype).eps
    return worst if math.isfinite(worst) else math.inf


def assert_close_eps(actual: Tensor, expected: Any, eps: float, *, scale: float | Tensor = 1.0) -> None:
    """Assert that ``max_error_eps`` is at most ``eps``.

    Raises:
        AssertionError: With the measured figure.
    """
    worst = max_error_eps(actual, expected, scale=scale)
    if not worst <= eps:
        raise AssertionError(f"error of {worst:.3g} eps ({actual.dtype}), allowed {eps:g}")
