"""Lie algebra of SO(3): hat and vee, exponential and logarithm, left and right Jacobians."""

import torch
from jaxtyping import Float
from torch import Tensor

from geocore import _ops
from geocore._checks import check_trailing
from geocore._precision import full_precision
from geocore.so3._elements import blend, dot, join, join_matrix, rodrigues, split, split_matrix
from geocore.so3._quaternion import canonical_sign
from geocore.so3._series import half_cot, horner, left_coefficients, sinc_cosc

__all__ = [
    "exp",
    "exp_reference",
    "hat",
    "left_jacobian",
    "left_jacobian_inverse",
    "log",
    "log_reference",
    "right_jacobian",
    "right_jacobian_inverse",
    "vee",
]

_ATAN = (1.0, -1 / 3, 1 / 5, -1 / 7, 1 / 9, -1 / 11, 1 / 13, -1 / 15)
_ATAN_SWITCH = 0.01  # on tan^2 of half the angle, about 0.2 rad: 8 terms leave 6e-18 there, 4 terms 1e-9


@full_precision
def hat(w: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Skew matrix ``W`` of a vector, ``W u = w x u``.

    Args:
        w: Vectors, shape ``(..., 3)``.

    Returns:
        Skew matrices, shape ``(..., 3, 3)``.

    Raises:
        ValueError: If the last dimension is not 3.

    Example:
        >>> hat(torch.tensor([1.0, 2.0, 3.0])) @ torch.tensor([1.0, 0.0, 0.0])
        tensor([ 0.,  3., -2.])
    """
    check_trailing("w", w, (3,))
    x, y, z = split(w)
    o = torch.zeros_like(x)
    return join_matrix((o, -z, y, z, o, -x, -y, x, o))


@full_precision
def vee(W: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Vector of the skew part of a matrix, the inverse of ``hat``; symmetric parts are ignored.

    Args:
        W: Matrices, shape ``(..., 3, 3)``.

    Returns:
        Vectors, shape ``(..., 3)``.

    Raises:
        ValueError: If the last two dimensions are not 3 and 3.
    """
    check_trailing("W", W, (3, 3))
    _, b, c, d, _, f, g, h, _ = split_matrix(W)
    return join(((h - f) * 0.5, (c - g) * 0.5, (d - b) * 0.5))


def exp_reference(w: Tensor) -> Tensor:
    """Rodrigues' formula without argument checks; see ``exp``."""
    x, y, z = split(w)
    a, b = sinc_cosc(dot((x, y, z), (x, y, z)))
    return rodrigues((x, y, z), a, b)


@full_precision
def exp(w: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    r"""Rotation matrix of a rotation vector, ``I + sin(t)/t W + (1 - cos t)/t^2 W^2`` with ``t = |w|`` and ``W = hat(w)``.

    Active rotation acting on column vectors, right-handed. Smooth everywhere, with all derivatives at ``w = 0``; not injective
    from ``t = pi`` on.

    Args:
        w: Rotation vectors, shape ``(..., 3)``; direction is the axis, length the angle in radians.

    Returns:
        Rotation matrices, shape ``(..., 3, 3)``, within 6 eps for angles up to pi.

    Raises:
        ValueError: If the last dimension is not 3.
        TypeError: If ``w`` is not a floating-point tensor.

    Example:
        >>> exp(torch.tensor([0.0, 0.0, torch.pi / 2])) @ torch.tensor([1.0, 0.0, 0.0])  # about [0, 1, 0]
    """
    check_trailing("w", w, (3,), hint="a quaternion? use quat_to_matrix")
    kernel = _ops.kernel_may_run("so3_exp", w, count=w.numel() // 3)
    return torch.ops.geocore.so3_exp(w) if kernel else exp_reference(w)


def quat_row(R: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor]:
    """Unnormalised quaternion ``(w, x, y, z)`` of a rotation matrix, length 2 to 4, sign canonical; which row it is, and that sign.

    The four rows of ``4 q q^T`` are linear in ``R``; the comparisons choose one whose diagonal entry is at least 1 (for any
    matrix, rotation or not), and 0/1 factors pick it without a gather or a branch.
    """
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = split_matrix(R)
    kind = m00.dtype
    below = (m22 < 0).to(kind)
    by_x = below * (m00 > m11).to(kind)
    by_y = below - by_x
    by_z = (1.0 - below) * (m00 < -m11).to(kind)
    by_w = (1.0 - below) - by_z
    p, q, r = m21 - m12, m02 - m20, m10 - m01
    d, e, f = m01 + m10, m02 + m20, m12 + m21
    t = torch.addcmul(torch.ones_like(below), 2.0 * (by_w + by_x) - 1.0, m00)
    t = torch.addcmul(t, 2.0 * (by_w + by_y) - 1.0, m11)
    t = torch.addcmul(t, 2.0 * (by_w + by_z) - 1.0, m22)
    by = (by_w, by_x, by_y, by_z)
    w, x, y, z = dot(by, (t, p, q, r)), dot(by, (p, t, d, e)), dot(by, (q, d, t, f)), dot(by, (r, e, f, t))
    sign = canonical_sign((w, x, y, z))
    return (w * sign, x * sign, y * sign, z * sign), by, sign


def quat_direction(R: Tensor) -> tuple[Tensor, ...]:
    """The quaternion of ``quat_row`` alone."""
    return quat_row(R)[0]


def rotvec_scale(w: Tensor, square: Tensor) -> Tensor:
    """``2 atan2(n, w) / n`` with ``n = sqrt(square)``: what turns a quaternion's vector part into a rotation vector.

    Near the identity a series in ``square / w^2``; for negative ``w`` the angle runs on to 2 pi, and the scale is 0 where the
    vector part vanishes there, because no axis is left.
    """
    w2 = w * w
    small = (square < _ATAN_SWITCH * w2) & (w > 0)
    inverse = torch.where(small, w, 1.0).reciprocal()
    ratio = torch.where(small, square, 0.0) * inverse * inverse
    near = 2.0 * inverse * horner(ratio, _ATAN if square.dtype == torch.float64 else _ATAN[:4])
    usable = ~small & (square > 0)
    n = torch.where(usable, square, 1.0).sqrt()
    far = 2.0 * torch.atan2(n, w) / n * usable.to(square.dtype)
    return blend(small.to(square.dtype), near, far)


def log_reference(R: Tensor) -> Tensor:
    """Logarithm without argument checks; see ``log``."""
    w, x, y, z = quat_direction(R)
    scale = rotvec_scale(w, dot((x, y, z), (x, y, z)))
    return join((scale * x, scale * y, scale * z))


@full_precision
def log(R: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    r"""Rotation vector of a rotation matrix, the inverse of ``exp`` on angles up to pi.

    Computed as ``2 atan2(|v|, w) v / |v|`` from the quaternion ``(w, v)`` of ``R``, which is exact to rounding at every angle,
    pi included; there the axis is the one whose first non-zero component is positive. Gradients are those of this
    formula in the nine entries of ``R``, bounded also at the identity and at pi.

    Args:
        R: Rotation matrices, shape ``(..., 3, 3)``. They are not checked; see ``geocore.orthogonal`` for validation.

    Returns:
        Rotation vectors, shape ``(..., 3)``, of length at most pi.

    Raises:
        ValueError: If the last two dimensions are not 3 and 3.
        TypeError: If ``R`` is not a floating-point tensor.

    Example:
        >>> log(torch.diag(torch.tensor([-1.0, -1.0, 1.0])))
        tensor([0.0000, 0.0000, 3.1416])
    """
    check_trailing("R", R, (3, 3), hint="a quaternion? use quat_to_rotvec")
    kernel = _ops.kernel_may_run("so3_log", R, count=R.numel() // 9)
    return torch.ops.geocore.so3_log(R) if kernel else log_reference(R)


def _jacobian(w: Tensor, sign: float) -> Tensor:
    check_trailing("w", w, (3,))
    v = split(w)
    b, c = left_coefficients(dot(v, v))
    return rodrigues(v, sign * b, c)


def _jacobian_inverse(w: Tensor, sign: float) -> Tensor:
    check_trailing("w", w, (3,))
    v = split(w)
    g = half_cot(dot(v, v))
    return rodrigues(v, torch.full_like(g, 0.5 * sign), g)


@full_precision
def left_jacobian(w: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Left Jacobian of ``exp``: ``exp(w + d) = exp(J d) exp(w)`` to first order in ``d``.

    ``J = I + (1 - cos t)/t^2 W + (t - sin t)/t^3 W^2``; also the average of ``exp(s w)`` over ``s`` in [0, 1].

    Args:
        w: Rotation vectors, shape ``(..., 3)``.

    Returns:
        Jacobians, shape ``(..., 3, 3)``.

    Raises:
        ValueError: If the last dimension is not 3.
    """
    return _jacobian(w, 1.0)


@full_precision
def right_jacobian(w: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Right Jacobian of ``exp``: ``exp(w + d) = exp(w) exp(J d)`` to first order; the transpose of ``left_jacobian``.

    Args:
        w: Rotation vectors, shape ``(..., 3)``.

    Returns:
        Jacobians, shape ``(..., 3, 3)``.

    Raises:
        ValueError: If the last dimension is not 3.
    """
    return _jacobian(w, -1.0)


@full_precision
def left_jacobian_inverse(w: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Inverse of ``left_jacobian``: ``log(exp(d) exp(w)) = w + J^-1 d`` to first order.

    ``J^-1 = I - W/2 + (1 - (t/2) cot(t/2))/t^2 W^2``; singular at ``t = 2 pi``, where no inverse exists.

    Args:
        w: Rotation vectors, shape ``(..., 3)``, shorter than 2 pi.

    Returns:
        Inverse Jacobians, shape ``(..., 3, 3)``.

    Raises:
        ValueError: If the last dimension is not 3.
    """
    return _jacobian_inverse(w, -1.0)


@full_precision
def right_jacobian_inverse(w: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Inverse of ``right_jacobian``: ``log(exp(w) exp(d)) = w + J^-1 d`` to first order.

    Args:
        w: Rotation vectors, shape ``(..., 3)``, shorter than 2 pi.

    Returns:
        Inverse Jacobians, shape ``(..., 3, 3)``.

    Raises:
        ValueError: If the last dimension is not 3.
    """
    return _jacobian_inverse(w, 1.0)
