"""Means of rotations."""

from typing import Literal, NamedTuple, overload

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geocore._checks import check_broadcastable, check_floating, check_option, check_positive_int, check_trailing
from geocore._precision import full_precision
from geocore.so3._algebra import quat_direction
from geocore.so3._eigenvector import smallest_eigenvector
from geocore.so3._elements import dot, normalized_weights, split, unit
from geocore.so3._interpolate import Parts, step_parts
from geocore.so3._pairs import quat_parts_to_matrix, rotvec_parts_to_quat
from geocore.so3._quaternion import mul_parts
from geocore.so3._series import half_cot

__all__ = ["MeanInfo", "mean"]

METRICS = ("geodesic", "chordal", "l1")


class MeanInfo(NamedTuple):
    """How ``mean`` ended, per batch item.

    Attributes:
        converged: Whether ``residual`` is within the tolerance.
        residual: Length of the last step, in radians (0 for the chordal mean, which is direct).
        radius: Largest angle between the mean and a sample; below pi/2 the mean is known to be unique.
    """

    converged: Bool[Tensor, "*batch"]
    residual: Float[Tensor, "*batch"]
    radius: Float[Tensor, "*batch"]


def _chordal(q: Parts, w: Tensor) -> Parts:
    Q = torch.stack(q, -1)
    A = (Q * w.unsqueeze(-1)).mT @ Q
    a, b, c, d = split(smallest_eigenvector(-A)[0])
    return a, b, c, d


def _steps(center: Parts, q: Parts) -> tuple[Tensor, Tensor, Tensor]:
    a, b, c, d = (part.unsqueeze(-1) for part in center)
    return step_parts((a, b, c, d), q, shortest=True)


def _solve3(A: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Cramer's rule for row-major entries ``A``; where the determinant vanishes the right side is returned (a plain gradient step)."""
    p, q, r, s, t, u, v, w, x = A
    c0, c1, c2 = t * x - u * w, u * v - s * x, s * w - t * v
    det = p * c0 + q * c1 + r * c2
    usable = det.abs() > 1e-6
    inverse = torch.where(usable, det, 1.0).reciprocal()
    y = (
        c0 * b[0] + (r * w - q * x) * b[1] + (q * u - r * t) * b[2],
        c1 * b[0] + (p * x - r * v) * b[1] + (r * s - p * u) * b[2],
        c2 * b[0] + (q * v - p * w) * b[1] + (p * t - q * s) * b[2],
    )
    return (
        torch.where(usable, y[0] * inverse, b[0]),
        torch.where(usable, y[1] * inverse, b[1]),
        torch.where(usable, y[2] * inverse, b[2]),
    )


def _newton(center: Parts, q: Parts, w: Tensor) -> tuple[Parts, Tensor]:
    """One Newton step for ``sum w log(c^-1 q) = 0``: the residual's derivative is the mean of inverse left Jacobians."""
    x, y, z = _steps(center, q)
    square = dot((x, y, z), (x, y, z))
    g = half_cot(square) * w
    mx, my, mz = (x * w).sum(-1), (y * w).sum(-1), (z * w).sum(-1)
    trace = 1.0 - (g * square).sum(-1)
    xx, yy, zz = trace + (g * x * x).sum(-1), trace + (g * y * y).sum(-1), trace + (g * z * z).sum(-1)
    xy, xz, yz = (g * x * y).sum(-1), (g * x * z).sum(-1), (g * y * z).sum(-1)
    A = (xx, xy + 0.5 * mz, xz - 0.5 * my, xy - 0.5 * mz, yy, yz + 0.5 * mx, xz + 0.5 * my, yz - 0.5 * mx, zz)
    step = _solve3(A, (mx, my, mz))
    return _moved(center, step), dot(step, step)


def _weiszfeld(center: Parts, q: Parts, w: Tensor) -> tuple[Parts, Tensor]:
    """One step of Weiszfeld's algorithm on the group, with the distances smoothed at the square root of eps."""
    x, y, z = _steps(center, q)
    share = w * torch.rsqrt(dot((x, y, z), (x, y, z)) + torch.finfo(w.dtype).eps)
    share = share / share.sum(-1, keepdim=True)
    step = (x * share).sum(-1), (y * share).sum(-1), (z * share).sum(-1)
    return _moved(center, step), dot(step, step)


def _moved(center: Parts, step: tuple[Tensor, Tensor, Tensor]) -> Parts:
    (a, b, c, d), _ = unit(mul_parts(center, rotvec_parts_to_quat(step)))
    return a, b, c, d


def _detached(q: Parts) -> Parts:
    return q[0].detach(), q[1].detach(), q[2].detach(), q[3].detach()


@overload
def mean(
    R: Float[Tensor, "*#batch n 3 3"],
    weights: Float[Tensor, "*#batch n"] | None = ...,
    *,
    metric: str = ...,
    max_iter: int | None = ...,
    tol: float | None = ...,
    return_info: Literal[False] = ...,
) -> Float[Tensor, "*batch 3 3"]: ...
@overload
def mean(
    R: Float[Tensor, "*#batch n 3 3"],
    weights: Float[Tensor, "*#batch n"] | None = ...,
    *,
    metric: str = ...,
    max_iter: int | None = ...,
    tol: float | None = ...,
    return_info: Literal[True],
) -> tuple[Float[Tensor, "*batch 3 3"], MeanInfo]: ...
@full_precision
def mean(
    R: Float[Tensor, "*#batch n 3 3"],
    weights: Float[Tensor, "*#batch n"] | None = None,
    *,
    metric: str = "geodesic",
    max_iter: int | None = None,
    tol: float | None = None,
    return_info: bool = False,
):
    """Weighted mean of rotations over the dimension before the last two.

    - ``"geodesic"``: minimises ``sum w angle^2`` (Karcher mean), by Newton steps from the chordal mean. Gradients come from two
      Newton steps at the solution (implicit differentiation, exact to second order), not from the iterations.
    - ``"chordal"``: minimises ``sum w |R_i - X|_F^2``; the dominant eigenvector of ``sum w q q^T``. Gradient bounded by 1/gap.
    - ``"l1"``: minimises ``sum w angle`` (geodesic median, robust to outliers), by Weiszfeld's algorithm; converges
      linearly, gradients by unrolling.

    The minimiser is known to be unique when all samples lie within pi/2 of it (``info.radius``); beyond that a stationary point near the
    chordal mean is returned. All steps are always taken, so nothing waits for the device; ask ``info.converged``.

    Args:
        R: Rotation matrices, shape ``(..., n, 3, 3)``, n >= 1.
        weights: Non-negative weights, shape ``(..., n)``, batch dimensions broadcast; scaled to sum 1. Equal when not given or all zero.
        metric: ``"geodesic"``, ``"chordal"`` or ``"l1"``.
        max_iter: Steps of the iterative means, by default 10 (geodesic) and 50 (l1).
        tol: Step length, in radians, that counts as converged; by default 64 eps (geodesic) and the square root of eps (l1).
        return_info: Also return a ``MeanInfo``.

    Returns:
        Rotation matrices, shape ``(..., 3, 3)``; with ``return_info`` the pair ``(R, info)``.

    Raises:
        ValueError: If a shape is wrong, n is 0 or ``metric`` is unknown.

    Example:
        >>> turns = exp(torch.tensor([[0.0, 0.0, 0.2], [0.0, 0.0, 0.4]]))
        >>> log(mean(turns))
        tensor([0.0000, 0.0000, 0.3000])
    """
    check_option("metric", metric, METRICS)
    check_trailing("R", R, (None, 3, 3))
    if R.shape[-3] < 1:
        raise ValueError(f"R must have shape (..., n, 3, 3) with n >= 1, got {tuple(R.shape)}")
    steps = max_iter if max_iter is not None else (10 if metric == "geodesic" else 50)
    check_positive_int("max_iter", steps)
    eps = torch.finfo(R.dtype).eps
    bound = tol if tol is not None else (64.0 * eps if metric == "geodesic" else eps**0.5)
    if weights is None:
        w = R.new_full(R.shape[:-2], 1.0 / R.shape[-3])
    else:
        check_floating("weights", weights)
        if weights.ndim < 1 or weights.shape[-1] != R.shape[-3]:
            raise ValueError(f"weights must have shape (..., {R.shape[-3]}), one per rotation, got {tuple(weights.shape)}")
        check_broadcastable(R=R.shape[:-2], weights=weights.shape)
        w = normalized_weights(weights.to(R.dtype))

    (a, b, c, d), _ = unit(quat_direction(R))
    q = torch.broadcast_tensors(a, b, c, d, w)[:4]
    q: Parts = (q[0], q[1], q[2], q[3])
    center = _chordal(q, w)
    square = torch.zeros_like(center[0])
    if metric == "geodesic":
        fixed, fixed_w = _detached(q), w.detach()
        center = _detached(center)
        for _ in range(max(steps - 2, 0)):
            center, _ = _newton(center, fixed, fixed_w)
        center = _detached(center)
        for _ in range(2):
            center, square = _newton(center, q, w)
    elif metric == "l1":
        for _ in range(steps):
            center, square = _weiszfeld(center, q, w)
    result = quat_parts_to_matrix(center)
    if not return_info:
        return result
    residual = square.detach().sqrt()
    far = _steps(_detached(center), _detached(q))
    radius = dot(far, far).sqrt().amax(-1)
    return result, MeanInfo(residual <= bound, residual, radius)
