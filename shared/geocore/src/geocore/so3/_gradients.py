"""Operators of the conversions, with their gradients in closed form: what the compiled kernels are checked against."""

import torch
from torch import Tensor

from geocore import _ops
from geocore.so3._algebra import exp_reference, log_reference, quat_row, rotvec_scale
from geocore.so3._elements import cross, dot, join, join_matrix, split, split_matrix, tiny
from geocore.so3._pairs import matrix_to_quat_reference, quat_to_matrix_reference
from geocore.so3._series import horner, left_coefficients

__all__ = ["exp_backward_reference", "log_backward_reference", "matrix_to_quat_backward_reference", "quat_to_matrix_backward_reference"]

_SLOPE = tuple((-1.0) ** k * k / (2 * k + 1) for k in range(1, 14))
_SLOPE_SWITCH = 0.02  # on tan^2 of half the angle: 13 terms leave 1e-22 there, and beyond it the closed form loses 50 eps of a small term


def exp_backward_reference(w: Tensor, g: Tensor) -> Tensor:
    """Gradient in ``w`` for the gradient ``g`` in ``exp(w)``: ``J_l(w)^T vee(g R^T)`` with the skew part doubled."""
    M = g @ exp_reference(w).mT
    v = torch.stack((M[..., 2, 1] - M[..., 1, 2], M[..., 0, 2] - M[..., 2, 0], M[..., 1, 0] - M[..., 0, 1]), -1).unbind(-1)
    x = split(w)
    b, c = left_coefficients(dot(x, x))
    u = cross(x, v)
    e = cross(x, u)
    return join(tuple(vi - b * ui + c * ei for vi, ui, ei in zip(v, u, e, strict=True)))


def _row_backward(by: tuple[Tensor, ...], g: tuple[Tensor, ...]) -> Tensor:
    """Gradient in the nine entries of a matrix for the gradient in the row that ``quat_row`` chose."""
    (bw, bx, by_, bz), (gw, gx, gy, gz) = by, g
    gt = bw * gw + bx * gx + by_ * gy + bz * gz
    gp, gq, gr = bx * gw + bw * gx, by_ * gw + bw * gy, bz * gw + bw * gz
    gd, ge, gf = bx * gy + by_ * gx, bx * gz + bz * gx, by_ * gz + bz * gy
    diagonal = (bw + bx - by_ - bz) * gt, (bw - bx + by_ - bz) * gt, (bw - bx - by_ + bz) * gt
    return join_matrix((diagonal[0], gd - gr, ge + gq, gd + gr, diagonal[1], gf - gp, ge - gq, gf + gp, diagonal[2]))


def log_backward_reference(R: Tensor, g: Tensor) -> Tensor:
    """Gradient in the nine entries of ``R`` for the gradient ``g`` in ``log(R)``."""
    (w, x, y, z), by, sign = quat_row(R)
    v = (x, y, z)
    n2 = dot(v, v)
    scale, whole = rotvec_scale(w, n2), n2 + w * w
    small = (n2 < _SLOPE_SWITCH * w * w) & (w > 0)
    safe_w, safe_n2 = torch.where(small, w, 1.0), torch.where(small | (n2 == 0), 1.0, n2)
    ratio = torch.where(small, n2, 0.0) / (safe_w * safe_w)
    near, far = 2.0 * horner(ratio, _SLOPE) / safe_w**3, (2.0 * w / whole - scale) / (2.0 * safe_n2)
    slope = torch.where(small, near, far)  # of the scale in |v|^2
    parts = split(g)
    along = dot(parts, v)
    more = 2.0 * slope * along
    return _row_backward(by, (-2.0 * sign * along / whole, *(sign * (scale * gi + more * vi) for gi, vi in zip(parts, v, strict=True))))


def matrix_to_quat_backward_reference(R: Tensor, g: Tensor) -> Tensor:
    """Gradient in the nine entries of ``R`` for the gradient ``g`` in its quaternion ``w, x, y, z``."""
    q, by, sign = quat_row(R)
    n2 = dot(q, q)
    parts = split(g)
    along, scale = dot(parts, q) / n2, sign * torch.rsqrt(n2)
    return _row_backward(by, tuple(scale * (gi - along * qi) for gi, qi in zip(parts, q, strict=True)))


def quat_to_matrix_backward_reference(q: Tensor, g: Tensor) -> Tensor:
    """Gradient in ``q`` for the gradient ``g`` in its rotation matrix; orthogonal to ``q``."""
    w, x, y, z = parts = split(q)
    g0, g1, g2, g3, g4, g5, g6, g7, g8 = split_matrix(g)
    n2 = dot(parts, parts)
    there = n2 > tiny(n2)
    safe = torch.where(there, n2, 1.0)
    p, r, t, d, e, f = g7 - g5, g2 - g6, g3 - g1, g1 + g3, g2 + g6, g5 + g7
    h = (
        p * x + r * y + t * z,
        p * w + d * y + e * z - 2.0 * x * (g4 + g8),
        r * w + d * x + f * z - 2.0 * y * (g0 + g8),
        t * w + e * x + f * y - 2.0 * z * (g0 + g4),
    )
    radial = torch.where(there, dot(h, parts) / safe, 0.0)
    return join(tuple(2.0 / safe * (hi - radial * qi) for hi, qi in zip(h, parts, strict=True)))


_ops.define_map("so3_exp", exp_reference, lambda w: w.new_empty((*w.shape, 3)), exp_backward_reference)
_ops.define_map("so3_log", log_reference, lambda R: R.new_empty(R.shape[:-1]), log_backward_reference)
_ops.define_map("matrix_to_quat", matrix_to_quat_reference, lambda R: R.new_empty((*R.shape[:-2], 4)), matrix_to_quat_backward_reference)
_ops.define_map("quat_to_matrix", quat_to_matrix_reference, lambda q: q.new_empty((*q.shape[:-1], 3, 3)), quat_to_matrix_backward_reference)
