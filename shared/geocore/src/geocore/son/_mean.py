"""Distances between rotations and their means."""

import math
from typing import Literal, NamedTuple, overload

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geocore._checks import check_broadcastable, check_floating, check_option, check_positive_int, check_square
from geocore._precision import full_precision
from geocore.son._exp import exp
from geocore.son._log import log
from geocore.son._procrustes import special_procrustes

__all__ = ["MeanInfo", "geodesic", "mean"]


class MeanInfo(NamedTuple):
    """How far to trust a mean.

    Args:
        converged: Whether the last step was shorter than the tolerance, shape ``(...)``; always true for the chordal mean.
        residual: Length of the last step as a geodesic distance, shape ``(...)``; 0 for the chordal mean.
        unique: Whether all rotations of positive weight lie within ``pi / 2`` of the mean, where it is the only one.
    """

    converged: Bool[Tensor, "*batch"]
    residual: Float[Tensor, "*batch"]
    unique: Bool[Tensor, "*batch"]


def _length(S: Tensor) -> Tensor:
    """``|S|_F / sqrt(2)``, the root of the sum of squared plane angles; gradient 0 at 0."""
    square = S.square().sum((-2, -1)) / 2
    positive = square > 0
    return torch.where(positive, torch.sqrt(torch.where(positive, square, 1.0)), 0.0)


@full_precision
def geodesic(R1: Float[Tensor, "*batch1 n n"], R2: Float[Tensor, "*batch2 n n"]) -> Float[Tensor, "*batch"]:
    """Geodesic distance ``|log(R1^T R2)|_F / sqrt(2)``, the root of the sum of the squared angles of all planes.

    In radians; for ``n = 2`` and ``n = 3`` it is the rotation angle. The gradient at equal rotations, where none exists, is 0.

    Args:
        R1, R2: Rotations, shapes ``(..., n, n)`` that broadcast.

    Returns:
        Shape ``(...)``.

    Raises:
        ValueError: If an argument is not square, the sizes differ, the batches do not broadcast, or one is not a rotation
            (where ``log`` can check).
        TypeError, NotImplementedError: If an argument has an integer or a complex dtype.

    Example:
        >>> geodesic(torch.eye(4), torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0])))  # about pi
    """
    check_square("R1", R1)
    check_square("R2", R2)
    if R1.shape[-1] != R2.shape[-1]:
        raise ValueError(f"R1 and R2 must have the same size, got {tuple(R1.shape)} and {tuple(R2.shape)}")
    check_broadcastable(R1=R1.shape[:-2], R2=R2.shape[:-2])
    return _length(log(R1.mT @ R2))


@overload
def mean(
    R: Tensor,
    weights: Tensor | None = None,
    *,
    metric: Literal["geodesic", "chordal"] = "geodesic",
    max_iter: int = 16,
    tol: float | None = None,
    return_info: Literal[False] = False,
) -> Tensor: ...
@overload
def mean(
    R: Tensor,
    weights: Tensor | None = None,
    *,
    metric: Literal["geodesic", "chordal"] = "geodesic",
    max_iter: int = 16,
    tol: float | None = None,
    return_info: Literal[True],
) -> tuple[Tensor, MeanInfo]: ...


@full_precision
def mean(
    R: Float[Tensor, "*batch k n n"],
    weights: Float[Tensor, "*wbatch k"] | None = None,
    *,
    metric: Literal["geodesic", "chordal"] = "geodesic",
    max_iter: int = 16,
    tol: float | None = None,
    return_info: bool = False,
) -> Float[Tensor, "*batch n n"] | tuple[Float[Tensor, "*batch n n"], MeanInfo]:
    r"""Weighted mean of ``k`` rotations.

    ``"chordal"`` minimises ``sum_i w_i |M - R_i|_F^2``: the rotation nearest to the arithmetic mean. ``"geodesic"`` (Karcher mean)
    minimises ``sum_i w_i d(M, R_i)^2`` by ``M <- M exp(sum_i w_i log(M^T R_i))`` from the chordal mean; the number of steps is fixed, so
    nothing is read back from the device. Each step shrinks the error by about ``r^2 / 12`` for rotations within ``r`` of the
    mean; the minimiser is unique if they lie within ``pi / 2``. The gradient is that of the unrolled steps.

    Args:
        R: Rotations, shape ``(..., k, n, n)``, ``k >= 1``.
        weights: Non-negative, shape ``(..., k)``, normalised here; equal by default.
        metric: Which distance.
        max_iter: Steps of the geodesic mean.
        tol: Length of a step, in radians, that counts as converged; ``1e3`` eps of the dtype by default.
        return_info: Also return ``MeanInfo``.

    Returns:
        Shape ``(..., n, n)``; with ``return_info`` a tuple with the ``MeanInfo``.

    Raises:
        ValueError: If a shape is wrong, ``k = 0``, ``metric`` is unknown or ``max_iter < 1``.
        TypeError, NotImplementedError: If an argument has an integer or a complex dtype.

    Example:
        >>> c, s = math.cos(0.2), math.sin(0.2)
        >>> mean(torch.tensor([[[c, -s], [s, c]], [[c, s], [-s, c]]]))  # about the identity
    """
    check_square("R", R, hint="rotations stacked along the third last dimension")
    if R.ndim < 3 or R.shape[-3] < 1:
        raise ValueError(f"R must have shape (..., k, n, n) with k >= 1, got {tuple(R.shape)}")
    check_option("metric", metric, ("geodesic", "chordal"))
    check_positive_int("max_iter", max_iter)
    if weights is None:
        w = R.new_full((R.shape[-3],), 1.0 / R.shape[-3])
    else:
        check_floating("weights", weights)
        if weights.ndim < 1 or weights.shape[-1] != R.shape[-3]:
            raise ValueError(f"weights must have shape (..., {R.shape[-3]}), got {tuple(weights.shape)}")
        check_broadcastable(R=R.shape[:-3], weights=weights.shape[:-1])
        w = (weights / weights.sum(-1, keepdim=True)).to(R.dtype)
    w = w[..., None, None]
    M = special_procrustes((w * R).sum(-3))
    step = torch.zeros_like(M)
    if metric == "geodesic":
        for _ in range(max_iter):
            step = (w * log(M[..., None, :, :].mT @ R, check=False)).sum(-3)
            M = M @ exp(step)
    if not return_info:
        return M
    with torch.no_grad():
        residual = _length(step)
        reach = geodesic(M[..., None, :, :].detach(), R.detach())
        inside = (reach < math.pi / 2) | (w[..., 0, 0] <= 0)
        bound = 1e3 * torch.finfo(R.dtype).eps if tol is None else tol
        return M, MeanInfo(residual <= bound, residual, inside.all(-1))
