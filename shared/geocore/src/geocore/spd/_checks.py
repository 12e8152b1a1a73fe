"""What every function of the room asks of its input, and when values may be looked at."""

import math
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from geocore._checks import check_broadcastable, check_floating, check_option
from geocore._dispatch import needs_composable

__all__ = [
    "NotPositiveDefiniteError",
    "check_matrix",
    "check_min_eig",
    "check_positive",
    "check_real",
    "check_same_size",
    "check_symmetric",
    "no_autocast",
    "values_readable",
    "work_dtype",
]

P = ParamSpec("P")
T = TypeVar("T")

# Well above rounding of X + X^T in the dtype, and above the step of a finite-difference check in float64.
_ASYMMETRY = {torch.float64: 1e-5, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}
_SMALL = 64
"""Largest size at which float32 input is computed in float64 on the CPU: there float64 costs at most half as much again."""


class NotPositiveDefiniteError(ValueError):
    """A matrix that must be positive definite is not; the message has its batch index and smallest eigenvalue.

    Args:
        message: What to say.
        index: Batch index of the first bad matrix.
        smallest: Its smallest eigenvalue.

    Example:
        >>> try:
        ...     logm(torch.diag(torch.tensor([1.0, -2.0])))
        ... except NotPositiveDefiniteError as error:
        ...     print(error.smallest)
        -2.0
    """

    def __init__(self, message: str, index: tuple[int, ...] = (), smallest: float = float("nan")) -> None:
        super().__init__(message)
        self.index, self.smallest = index, smallest


def no_autocast(fn: Callable[P, T]) -> Callable[P, T]:
    """Decorate a tensor function so that autocast does not reach its matrix products."""

    @wraps(fn)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        device = next((a.device.type for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), "cpu")
        if device != "meta" and torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return fn(*args, **kwargs)
        return fn(*args, **kwargs)

    return wrapper


def values_readable(x: Tensor) -> bool:
    """Whether the entries of ``x`` can be looked at: no function transform, compiler, export, fake or meta tensor."""
    return not (torch.compiler.is_compiling() or needs_composable() or x.device.type == "meta" or isinstance(x, FakeTensor))


def work_dtype(x: Tensor, compute_dtype: torch.dtype | None) -> torch.dtype:
    """Precision of the computation: as asked; else float64 for float32 matrices up to 64 on the CPU, float32 for half precision."""
    if compute_dtype is not None:
        if compute_dtype not in (torch.float32, torch.float64):
            raise TypeError(f"compute_dtype must be torch.float32, torch.float64 or None, got {compute_dtype}")
        return compute_dtype
    if x.dtype == torch.float64 or (x.device.type == "cpu" and x.shape[-1] <= _SMALL):
        return torch.float64
    return torch.float32


def check_real(name: str, x: Any) -> None:
    """Raise unless ``x`` is a real floating-point tensor.

    Raises:
        TypeError: If it is not a tensor, or integer, boolean or complex.
    """
    if isinstance(x, Tensor) and x.dtype.is_complex:
        raise TypeError(f"{name} must be real, got {x.dtype}; Hermitian matrices are not supported")
    check_floating(name, x)


def check_matrix(name: str, x: Any) -> None:
    """Raise unless ``x`` is real floating point of shape ``(..., n, n)``, ``n >= 1``.

    Raises:
        TypeError: If the dtype is not real floating point.
        ValueError: If the last two dimensions differ.
    """
    check_real(name, x)
    if x.ndim < 2 or x.shape[-1] != x.shape[-2] or x.shape[-1] < 1:
        raise ValueError(f"{name} must be square, of shape (..., n, n), got {tuple(x.shape)}")


def check_same_size(**matrices: Tensor) -> None:
    """Raise unless all are square matrices of one size whose batches broadcast."""
    for name, x in matrices.items():
        check_matrix(name, x)
    if len({x.shape[-1] for x in matrices.values()}) > 1:
        listed = ", ".join(f"{name} {tuple(x.shape)}" for name, x in matrices.items())
        raise ValueError(f"matrices must have the same size, got {listed}")
    check_broadcastable(**{name: x.shape[:-2] for name, x in matrices.items()})


def check_min_eig(min_eig: Any) -> None:
    """Raise unless ``min_eig`` is None, a non-negative number, or ``"eps"``."""
    if min_eig is None or (isinstance(min_eig, int | float) and not isinstance(min_eig, bool) and min_eig >= 0):
        return
    if isinstance(min_eig, str):
        check_option("min_eig", min_eig, ("eps",))
        return
    raise ValueError(f"min_eig must be None, a number >= 0 or 'eps', got {min_eig!r}")


def _first(bad: Tensor) -> tuple[int, ...]:
    return tuple(int(i) for i in bad.nonzero()[0])


def _where(index: tuple[int, ...]) -> str:
    return f" at batch index {index}" if index else ""


def check_symmetric(name: str, X: Tensor) -> bool:
    """Raise unless ``X`` is finite and symmetric to the tolerance of its dtype; reads values.

    Returns:
        Whether it is symmetric to the last bit, as most matrices are; that is seen much faster than the rest.

    Raises:
        ValueError: With the batch index and the relative asymmetry.
    """
    if X.numel() == 0:
        return True
    X = X.detach()
    if torch.equal(X, X.mT) and math.isfinite(float(X.sum())):
        return True
    size = X.abs().amax((-2, -1))
    gap = (X - X.mT).abs().amax((-2, -1))
    good = gap <= _ASYMMETRY[X.dtype] * size  # false for NaN
    if bool(good.all()) and bool(torch.isfinite(size).all()):
        return False
    infinite = ~torch.isfinite(size)
    if bool(infinite.any()):
        raise ValueError(f"{name} must be finite, but{_where(_first(infinite)) or ' it'} holds NaN or infinity")
    index = _first(~good)
    raise ValueError(
        f"{name} must be symmetric; the matrix{_where(index)} differs from its transpose by {float((gap / size)[index]):.3g} of its "
        f"largest entry (allowed {_ASYMMETRY[X.dtype]:g}). Symmetrise with geocore.spd.sym, or pass check=False."
    )


def check_positive(name: str, smallest: Tensor) -> None:
    """Raise unless every smallest eigenvalue is positive; reads values.

    Raises:
        NotPositiveDefiniteError: With the batch index and the eigenvalue.
    """
    bad = ~(smallest > 0)
    if not bool(bad.any()):
        return
    index = _first(bad)
    value = float(smallest[index])
    raise NotPositiveDefiniteError(
        f"{name} must be positive definite; the matrix{_where(index)} has smallest eigenvalue {value:.6g} ({int(bad.sum())} of "
        f"{bad.numel()} matrices are not). Pass min_eig where the function has it, shrink the estimate (geocore.spd.cov), or project with "
        "geocore.spd.nearest_spd.",
        index,
        value,
    )
