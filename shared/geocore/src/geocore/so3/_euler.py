"""Euler angles in all 24 conventions, through quaternions.

``R = A_i(a) A_j(b) A_k(c)`` with elementary rotations about the axes named by the letters. Sum and difference of the outer
angles are each the argument of a pair of quaternion components, so that nothing is lost where the middle angle locks them.
"""

from collections.abc import Sequence
from typing import Literal, overload

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geocore._checks import check_option, check_trailing
from geocore._precision import full_precision
from geocore.so3._algebra import quat_direction
from geocore.so3._elements import join, split, unit
from geocore.so3._pairs import quat_parts_to_matrix, quat_parts_to_rotvec, rotvec_parts_to_quat
from geocore.so3._quaternion import ORDERS, check_quat, join_quat, split_quat

__all__ = [
    "EULER_CONVENTIONS",
    "euler_to_matrix",
    "euler_to_quat",
    "euler_to_rotvec",
    "matrix_to_euler",
    "quat_to_euler",
    "rotvec_to_euler",
]

_ORDERS = tuple(i + j + k for i in "XYZ" for j in "XYZ" for k in "XYZ" if i != j != k)
EULER_CONVENTIONS = _ORDERS + tuple(o.lower() for o in _ORDERS)
_LOCK = 4.0  # in eps, on the sine of half the distance to lock: what rounding of the input alone can produce


def _sequence(euler: str) -> tuple[int, int, int, int, float, bool]:
    """Axes ``i, j, k``, the third axis, the parity of ``(i, j, third)`` and whether the angles are reversed (extrinsic)."""
    check_option("euler", euler, EULER_CONVENTIONS)
    extrinsic = euler.islower()
    i, j, k = ("XYZ".index(letter) for letter in (euler.upper()[::-1] if extrinsic else euler.upper()))
    third = 3 - i - j
    return i, j, k, third, 1.0 if (j - i) % 3 == 1 else -1.0, extrinsic


def _quat_parts(angles: Tensor, euler: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    i, j, k, third, parity, extrinsic = _sequence(euler)
    check_trailing("angles", angles, (3,))
    a, b, c = split(angles.flip(-1) if extrinsic else angles)
    ca, cb, cc = (0.5 * a).cos(), (0.5 * b).cos(), (0.5 * c).cos()
    sa, sb, sc = (0.5 * a).sin(), (0.5 * b).sin(), (0.5 * c).sin()
    v: list[Tensor] = [a, b, c]
    if i == k:
        w = cb * (ca * cc - sa * sc)
        v[i], v[j], v[third] = cb * (sa * cc + ca * sc), sb * (ca * cc + sa * sc), parity * sb * (sa * cc - ca * sc)
    else:
        w = ca * cb * cc - parity * sa * sb * sc
        v[i] = sa * cb * cc + parity * ca * sb * sc
        v[j] = ca * sb * cc - parity * sa * cb * sc
        v[k] = ca * cb * sc + parity * sa * sb * cc
    return w, v[0], v[1], v[2]


def _radius(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Length of ``(x, y)`` and the mask of items where it is rounding noise (there constant for autograd)."""
    square = x * x + y * y
    locked = square <= (_LOCK * torch.finfo(x.dtype).eps) ** 2
    return torch.where(locked, square.detach().sqrt(), torch.where(locked, 1.0, square).sqrt()), locked


def _angles(q: Sequence[Tensor], euler: str) -> tuple[Tensor, Tensor]:
    i, j, k, third, parity, extrinsic = _sequence(euler)
    q, _ = unit(q, (1.0, 0.0, 0.0, 0.0))
    w, qi, qj, ql = q[0], q[1 + i], q[1 + j], q[1 + third]
    half = 0.5**0.5
    if i == k:
        # q = cos(b/2) (cos S + sin S e_i) + sin(b/2) (cos D e_j + parity sin D e_l),  S, D = (a +- c)/2
        p, r, s, t = w, qi, qj, parity * ql
    else:
        # the same after a quarter turn about e_j has moved axis k onto axis i
        p, r, s, t = half * (w + parity * qj), half * (qi + ql), half * (w - parity * qj), half * (qi - ql)
    n_sum, no_sum = _radius(p, r)
    n_diff, no_diff = _radius(s, t)
    if i == k:
        b = 2.0 * torch.atan2(n_diff, n_sum)
    else:
        # the difference of the two lengths in factored form, so that small angles keep all digits
        b = 2.0 * torch.atan2(2.0 * (w * qj + parity * qi * ql), (n_sum + n_diff) ** 2)
    # at lock only S or D exists: put it for the other one, so that the last angle of the user's order is exactly zero
    flip = -1.0 if extrinsic else 1.0
    s, t, p, r = (
        torch.where(no_diff, p, s),
        torch.where(no_diff, flip * r, t),
        torch.where(no_sum, s, p),
        torch.where(no_sum, flip * t, r),
    )
    a = torch.atan2(r * s + p * t, p * s - r * t)
    c = torch.atan2(r * s - p * t, p * s + r * t)
    return join((c, b, a) if extrinsic else (a, b, c)), no_sum | no_diff


@full_precision
def euler_to_quat(angles: Float[Tensor, "*batch 3"], euler: str = "XYZ", *, order: str = "wxyz") -> Float[Tensor, "*batch 4"]:
    """Unit quaternion of Euler angles; conventions as in ``euler_to_matrix``.

    Args:
        angles: Angles in radians, in the order of the letters, shape ``(..., 3)``.
        euler: One of the 24 ``EULER_CONVENTIONS``.
        order: Component order of the result, ``"wxyz"`` or ``"xyzw"``.

    Returns:
        Unit quaternions, shape ``(..., 4)``, sign not standardised.

    Raises:
        ValueError: If the last dimension is not 3, or ``euler`` or ``order`` is unknown.
    """
    check_option("order", order, ORDERS)
    return join_quat(*_quat_parts(angles, euler), order)


@full_precision
def euler_to_matrix(angles: Float[Tensor, "*batch 3"], euler: str = "XYZ") -> Float[Tensor, "*batch 3 3"]:
    """Rotation matrix of Euler angles.

    Upper-case letters are intrinsic (each rotation about the axes already turned): ``"XYZ"`` is ``Rx(a) Ry(b) Rz(c)``. Lower-case
    letters are extrinsic (about the fixed axes): ``"xyz"`` is ``Rz(c) Ry(b) Rx(a)``. The meaning agrees with SciPy's.

    Args:
        angles: Angles in radians, in the order of the letters, shape ``(..., 3)``.
        euler: One of the 24 ``EULER_CONVENTIONS``.

    Returns:
        Rotation matrices, shape ``(..., 3, 3)``.

    Raises:
        ValueError: If the last dimension is not 3 or ``euler`` is unknown.

    Example:
        >>> R = euler_to_matrix(torch.tensor([0.0, 0.0, torch.pi / 2]), "XYZ")
        >>> R @ torch.tensor([1.0, 0.0, 0.0])  # about [0, 1, 0]
    """
    return quat_parts_to_matrix(_quat_parts(angles, euler))


@full_precision
def euler_to_rotvec(angles: Float[Tensor, "*batch 3"], euler: str = "XYZ") -> Float[Tensor, "*batch 3"]:
    """Rotation vector, at most pi long, of Euler angles; conventions as in ``euler_to_matrix``.

    Args:
        angles: Angles in radians, in the order of the letters, shape ``(..., 3)``.
        euler: One of the 24 ``EULER_CONVENTIONS``.

    Returns:
        Rotation vectors, shape ``(..., 3)``.

    Raises:
        ValueError: If the last dimension is not 3 or ``euler`` is unknown.
    """
    return quat_parts_to_rotvec(_quat_parts(angles, euler))


@overload
def matrix_to_euler(
    R: Float[Tensor, "*batch 3 3"], euler: str = ..., *, return_info: Literal[False] = ...
) -> Float[Tensor, "*batch 3"]: ...
@overload
def matrix_to_euler(
    R: Float[Tensor, "*batch 3 3"], euler: str = ..., *, return_info: Literal[True]
) -> tuple[Float[Tensor, "*batch 3"], Bool[Tensor, "*batch"]]: ...
@full_precision
def matrix_to_euler(R: Float[Tensor, "*batch 3 3"], euler: str = "XYZ", *, return_info: bool = False):
    """Euler angles of a rotation matrix; conventions as in ``euler_to_matrix``.

    The middle angle lies in [-pi/2, pi/2] for three different letters and in [0, pi] for a repeated one, the others in
    [-pi, pi]. At gimbal lock (the middle angle within rounding of an end of its range) only the sum or difference of the
    other two exists: the third angle is zero, the angles still rebuild ``R``, and their gradient is finite. Near lock it grows as
    the inverse distance.

    Args:
        R: Rotation matrices, shape ``(..., 3, 3)``.
        euler: One of the 24 ``EULER_CONVENTIONS``.
        return_info: Also return the mask of items at gimbal lock.

    Returns:
        Angles in radians, shape ``(..., 3)``; with ``return_info`` the pair ``(angles, gimbal_lock)``, mask of shape ``(...)``.

    Raises:
        ValueError: If the last two dimensions are not 3 and 3 or ``euler`` is unknown.

    Example:
        >>> angles, locked = matrix_to_euler(torch.eye(3), "ZYZ", return_info=True)
        >>> locked
        tensor(True)
    """
    check_trailing("R", R, (3, 3))
    angles, locked = _angles(quat_direction(R), euler)
    return (angles, locked) if return_info else angles


@overload
def quat_to_euler(
    q: Float[Tensor, "*batch 4"], euler: str = ..., *, order: str = ..., return_info: Literal[False] = ...
) -> Float[Tensor, "*batch 3"]: ...
@overload
def quat_to_euler(
    q: Float[Tensor, "*batch 4"], euler: str = ..., *, order: str = ..., return_info: Literal[True]
) -> tuple[Float[Tensor, "*batch 3"], Bool[Tensor, "*batch"]]: ...
@full_precision
def quat_to_euler(q: Float[Tensor, "*batch 4"], euler: str = "XYZ", *, order: str = "wxyz", return_info: bool = False):
    """Euler angles of a quaternion of any non-zero length; ranges, gimbal lock and gradients as in ``matrix_to_euler``.

    Args:
        q: Quaternions, shape ``(..., 4)``.
        euler: One of the 24 ``EULER_CONVENTIONS``.
        order: Component order, ``"wxyz"`` or ``"xyzw"``.
        return_info: Also return the mask of items at gimbal lock.

    Returns:
        Angles in radians, shape ``(..., 3)``; with ``return_info`` the pair ``(angles, gimbal_lock)``, mask of shape ``(...)``.

    Raises:
        ValueError: If the last dimension is not 4, or ``euler`` or ``order`` is unknown.
    """
    check_quat("q", q, order)
    angles, locked = _angles(split_quat(q, order), euler)
    return (angles, locked) if return_info else angles


@full_precision
def rotvec_to_euler(w: Float[Tensor, "*batch 3"], euler: str = "XYZ") -> Float[Tensor, "*batch 3"]:
    """Euler angles of a rotation vector; ranges, gimbal lock and gradients as in ``matrix_to_euler``.

    Args:
        w: Rotation vectors, shape ``(..., 3)``.
        euler: One of the 24 ``EULER_CONVENTIONS``.

    Returns:
        Angles in radians, shape ``(..., 3)``.

    Raises:
        ValueError: If the last dimension is not 3 or ``euler`` is unknown.
    """
    check_trailing("w", w, (3,))
    return _angles(rotvec_parts_to_quat(split(w)), euler)[0]
