"""Eigenvalues that count as equal, and how far apart the others are."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geocore._checks import check_floating

__all__ = ["cluster_eigenvalues", "default_tol", "relative_gap"]


def default_tol(dtype: torch.dtype) -> float:
    """Relative gap below which eigenvalues count as equal: 1e-4 in float32, 1e-7 in float64."""
    return 1e-7 if dtype == torch.float64 else 1e-4


def _scale(values: Tensor) -> Tensor:
    return values.abs().amax(-1, keepdim=True)


def cluster_eigenvalues(values: Float[Tensor, "*batch n"], tol: float | None = None) -> Int[Tensor, "*batch n"]:
    """Number the groups of equal values of a spectrum, without rounding to a grid.

    In increasing order, a value belongs to the group of the one before it if it is at most ``tol`` times the largest magnitude of the
    spectrum away. So values on both sides of a rounding boundary are never torn apart, and the result does not depend on the order or
    (beyond the tolerance) on the precision in which they came. Chains are followed: groups can be wider than the tolerance.

    Args:
        values: Shape ``(..., n)``, in any order.
        tol: Relative gap; 1e-4 for float32 (and half precision) and 1e-7 for float64 if not given.

    Returns:
        Group of each value, 0 for the smallest, int64 of shape ``(..., n)``.

    Raises:
        ValueError: If ``tol`` is negative, or ``values`` has no dimension.
        TypeError: If ``values`` is not floating point.

    Example:
        >>> cluster_eigenvalues(torch.tensor([3.0, 0.0, 3.0 + 1e-5, 1.0]))
        tensor([2, 0, 2, 1])
    """
    check_floating("values", values)
    if values.ndim == 0:
        raise ValueError("values must have shape (..., n), got a scalar")
    tol = default_tol(values.dtype) if tol is None else tol
    if not tol >= 0:
        raise ValueError(f"tol must not be negative, got {tol}")
    if values.shape[-1] == 0:
        return torch.zeros_like(values, dtype=torch.int64)
    ordered, index = values.detach().sort(dim=-1)
    steps = ordered.diff(dim=-1) > tol * _scale(ordered)
    groups = torch.nn.functional.pad(steps.cumsum(-1), (1, 0))
    return groups.gather(-1, index.argsort(dim=-1))


def relative_gap(values: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
    """Smallest gap of an ordered spectrum divided by its largest magnitude; 1 for a single value, 0 for a spectrum of zeros."""
    scale = _scale(values)[..., 0]
    if values.shape[-1] == 1:
        return (scale > 0).to(values.dtype)
    gap = values.diff(dim=-1).abs().amin(-1)
    return torch.where(scale > 0, gap / torch.where(scale > 0, scale, 1.0), 0.0)
