"""Checks of matrices: shape and dtype always, definiteness where it costs no synchronisation or is asked for."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from geocore import spd
from geocore._checks import check_square

__all__ = ["check_definite", "check_matrices", "pass_nan", "readable", "set_aside"]


def check_matrices(name: str, X: Any, n: int | None = None) -> None:
    """Raise unless ``X`` is a real floating tensor of shape ``(..., n, n)``.

    Raises:
        TypeError: If it is not a tensor, or an integer or complex one.
        ValueError: If the last two dimensions are not ``n`` by ``n``.
    """
    if isinstance(X, Tensor) and X.dtype.is_complex:
        raise TypeError(f"{name} must be real, got {X.dtype}; take the real part, or stack real and imaginary parts")
    check_square(name, X)
    if n is not None and X.shape[-1] != n:
        raise ValueError(f"{name} must have shape (..., {n}, {n}), got {tuple(X.shape)}")


def check_definite(name: str, X: Tensor) -> None:
    """Raise if a finite matrix of ``X`` is not positive definite; reads the answer from the device.

    Raises:
        NotPositiveDefiniteError: With the index in the batch and the smallest eigenvalue.
    """
    if X.numel() == 0:
        return
    with torch.no_grad():
        finite = torch.isfinite(X).all(-1).all(-1)
        safe = torch.where(finite[..., None, None], X, torch.eye(X.shape[-1], dtype=X.dtype, device=X.device))
        failed = torch.linalg.cholesky_ex(safe)[1] > 0
        if not bool(failed.any()):
            return
        smallest = torch.linalg.eigvalsh(safe)[..., 0]
        index = tuple(int(i) for i in failed.nonzero()[0])
        value = float(smallest[index])
    raise spd.NotPositiveDefiniteError(
        f"{name} must be symmetric positive definite; the matrix{f' at batch index {index}' if index else ''} has smallest eigenvalue "
        f"{value:.6g} ({int(failed.sum())} of {failed.numel()} matrices are not). Divide covariances by their trace and add "
        "1e-6 I, or shrink them, upstream.",
        index,
        value,
    )


def set_aside(X: Tensor) -> tuple[Tensor, Tensor]:
    """Put the identity where a matrix is not finite, since an eigensolver does not return from those; also a mask of them ``(...)``."""
    bad = ~torch.isfinite(X).all(-1).all(-1)
    return torch.where(bad[..., None, None], torch.eye(X.shape[-1], dtype=X.dtype, device=X.device), X), bad


def pass_nan(fn: Callable[[Tensor], Tensor], X: Tensor) -> Tensor:
    """``fn(X)`` with NaN for matrices that are not finite, which an eigensolver refuses for the whole batch."""
    safe, bad = set_aside(X)
    out = fn(safe)
    return torch.where(bad.reshape(*bad.shape, *(1,) * (out.ndim - bad.ndim)), float("nan"), out)


def readable() -> bool:
    """Whether values may be looked at: no compiler and no function transform."""
    return not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active())
