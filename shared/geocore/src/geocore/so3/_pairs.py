"""Direct conversions among matrices, quaternions, rotation vectors and modified Rodrigues parameters."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from geocore import _ops
from geocore._checks import check_option, check_trailing
from geocore._precision import full_precision
from geocore.so3._algebra import exp, log, quat_direction, rotvec_scale
from geocore.so3._elements import dot, join, rodrigues, split, unit
from geocore.so3._quaternion import ORDERS, canonical_sign, check_quat, inverse_square, join_quat, reorder, split_quat
from geocore.so3._series import sinc_half

__all__ = [
    "from_mrp",
    "matrix_to_quat",
    "matrix_to_rotvec",
    "mrp_to_quat",
    "mrp_to_rotvec",
    "quat_to_matrix",
    "quat_to_mrp",
    "quat_to_rotvec",
    "rotvec_to_matrix",
    "rotvec_to_mrp",
    "rotvec_to_quat",
    "to_mrp",
]

Parts = Sequence[Tensor]


def quat_parts_to_rotvec(q: Parts) -> Tensor:
    """Rotation vectors of component quaternions ``w, x, y, z`` of any non-zero length."""
    sign = canonical_sign(q)
    (w, x, y, z), _ = unit([c * sign for c in q], (1.0, 0.0, 0.0, 0.0))
    scale = rotvec_scale(w, dot((x, y, z), (x, y, z)))
    return join((scale * x, scale * y, scale * z))


def rotvec_parts_to_quat(v: Parts) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Component quaternion ``w, x, y, z`` of component rotation vectors."""
    x, y, z = v
    c, s = sinc_half(dot(v, v))
    return c, s * x, s * y, s * z


def mrp_parts_to_quat(p: Parts) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Component quaternion ``w, x, y, z`` of component modified Rodrigues parameters."""
    x, y, z = p
    square = dot(p, p)
    scale = 2.0 / (1.0 + square)
    return (1.0 - square) / (1.0 + square), scale * x, scale * y, scale * z


def quat_parts_to_mrp(q: Parts) -> Tensor:
    """Modified Rodrigues parameters of component quaternions of any non-zero length, norm at most 1."""
    sign = canonical_sign(q)
    (w, x, y, z), _ = unit([c * sign for c in q], (1.0, 0.0, 0.0, 0.0))
    scale = (1.0 + w).reciprocal()
    return join((x * scale, y * scale, z * scale))


def quat_parts_to_matrix(q: Parts) -> Tensor:
    """Rotation matrices of component quaternions of any length."""
    w, *v = q
    scale = 2.0 * inverse_square(*q)
    return rodrigues(v, scale * w, scale)


@full_precision
def matrix_to_quat(R: Float[Tensor, "*batch 3 3"], *, order: str = "wxyz") -> Float[Tensor, "*batch 4"]:
    """Unit quaternion of a rotation matrix, the one with ``w >= 0`` (for ``w = 0``: first non-zero component positive).

    One of the four rows of ``4 q q^T``, chosen so that its diagonal entry is at least 1 and normalised: no angle is special,
    and values and gradients are finite for any matrix.

    Args:
        R: Rotation matrices, shape ``(..., 3, 3)``.
        order: Component order of the result, ``"wxyz"`` or ``"xyzw"``.

    Returns:
        Unit quaternions, shape ``(..., 4)``.

    Raises:
        ValueError: If the last two dimensions are not 3 and 3, or ``order`` is unknown.

    Example:
        >>> matrix_to_quat(torch.diag(torch.tensor([1.0, -1.0, -1.0])))
        tensor([0., 1., 0., 0.])
    """
    check_option("order", order, ORDERS)
    check_trailing("R", R, (3, 3))
    if _ops.kernel_may_run("matrix_to_quat", R, count=R.numel() // 9):
        return reorder(torch.ops.geocore.matrix_to_quat(R), "wxyz", order)
    return matrix_to_quat_reference(R, order)


def matrix_to_quat_reference(R: Tensor, order: str = "wxyz") -> Tensor:
    """``matrix_to_quat`` without argument checks."""
    q = quat_direction(R)
    scale = torch.rsqrt(dot(q, q))
    w, x, y, z = (c * scale for c in q)
    return join_quat(w, x, y, z, order)


@full_precision
def quat_to_matrix(q: Float[Tensor, "*batch 4"], *, order: str = "wxyz") -> Float[Tensor, "*batch 3 3"]:
    """Rotation matrix of a quaternion of any non-zero length, ``I + 2/|q|^2 (w V + V^2)`` with ``V = hat((x, y, z))``.

    The result is a rotation whatever the length of ``q``, and its gradient is orthogonal to ``q``. A zero quaternion gives the identity.

    Args:
        q: Quaternions, shape ``(..., 4)``.
        order: Component order, ``"wxyz"`` or ``"xyzw"``.

    Returns:
        Rotation matrices, shape ``(..., 3, 3)``.

    Raises:
        ValueError: If the last dimension is not 4 or ``order`` is unknown.

    Example:
        >>> quat_to_matrix(torch.tensor([0.0, 0.0, 0.0, 1.0])).diagonal()
        tensor([-1., -1.,  1.])
    """
    check_quat("q", q, order)
    if _ops.kernel_may_run("quat_to_matrix", q, count=q.numel() // 4):
        return torch.ops.geocore.quat_to_matrix(reorder(q, order, "wxyz"))
    return quat_to_matrix_reference(q, order)


def quat_to_matrix_reference(q: Tensor, order: str = "wxyz") -> Tensor:
    """``quat_to_matrix`` without argument checks."""
    return quat_parts_to_matrix(split_quat(q, order))


@full_precision
def rotvec_to_quat(w: Float[Tensor, "*batch 3"], *, order: str = "wxyz") -> Float[Tensor, "*batch 4"]:
    """Unit quaternion ``(cos(t/2), sin(t/2) w/t)`` of a rotation vector, ``t = |w|``; smooth, so ``w < 0`` beyond ``t = pi``.

    Args:
        w: Rotation vectors, shape ``(..., 3)``.
        order: Component order of the result, ``"wxyz"`` or ``"xyzw"``.

    Returns:
        Unit quaternions, shape ``(..., 4)``.

    Raises:
        ValueError: If the last dimension is not 3 or ``order`` is unknown.
    """
    check_option("order", order, ORDERS)
    check_trailing("w", w, (3,), hint="a quaternion? use quat_normalize")
    return join_quat(*rotvec_parts_to_quat(split(w)), order)


@full_precision
def quat_to_rotvec(q: Float[Tensor, "*batch 4"], *, order: str = "wxyz") -> Float[Tensor, "*batch 3"]:
    """Rotation vector of a quaternion of any non-zero length, ``2 atan2(|v|, |w|)`` along ``sign(w) v``; at most pi long.

    ``q`` and ``-q`` give the same vector. A zero quaternion gives the zero vector.

    Args:
        q: Quaternions, shape ``(..., 4)``.
        order: Component order, ``"wxyz"`` or ``"xyzw"``.

    Returns:
        Rotation vectors, shape ``(..., 3)``.

    Raises:
        ValueError: If the last dimension is not 4 or ``order`` is unknown.
    """
    check_quat("q", q, order)
    return quat_parts_to_rotvec(split_quat(q, order))


def rotvec_to_matrix(w: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation matrix of a rotation vector: ``exp`` under its conversion name.

    Args:
        w: Rotation vectors, shape ``(..., 3)``.

    Returns:
        Rotation matrices, shape ``(..., 3, 3)``.

    Raises:
        ValueError: If the last dimension is not 3.
    """
    return exp(w)


def matrix_to_rotvec(R: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Rotation vector of a rotation matrix: ``log`` under its conversion name.

    Args:
        R: Rotation matrices, shape ``(..., 3, 3)``.

    Returns:
        Rotation vectors, shape ``(..., 3)``.

    Raises:
        ValueError: If the last two dimensions are not 3 and 3.
    """
    return log(R)


@full_precision
def from_mrp(p: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation matrix of modified Rodrigues parameters ``p = axis tan(angle / 4)``; defined for every ``p``.

    Args:
        p: Parameters, shape ``(..., 3)``; ``p`` and its shadow ``-p / |p|^2`` are the same rotation.

    Returns:
        Rotation matrices, shape ``(..., 3, 3)``.

    Raises:
        ValueError: If the last dimension is not 3.
    """
    check_trailing("p", p, (3,))
    return quat_parts_to_matrix(mrp_parts_to_quat(split(p)))


@full_precision
def to_mrp(R: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Modified Rodrigues parameters ``axis tan(angle / 4)`` of a rotation matrix, of norm at most 1.

    Args:
        R: Rotation matrices, shape ``(..., 3, 3)``.

    Returns:
        Parameters, shape ``(..., 3)``.

    Raises:
        ValueError: If the last two dimensions are not 3 and 3.
    """
    check_trailing("R", R, (3, 3))
    return quat_parts_to_mrp(quat_direction(R))


@full_precision
def mrp_to_quat(p: Float[Tensor, "*batch 3"], *, order: str = "wxyz") -> Float[Tensor, "*batch 4"]:
    """Unit quaternion ``(1 - |p|^2, 2 p) / (1 + |p|^2)`` of modified Rodrigues parameters.

    Args:
        p: Parameters, shape ``(..., 3)``.
        order: Component order of the result, ``"wxyz"`` or ``"xyzw"``.

    Returns:
        Unit quaternions, shape ``(..., 4)``; ``w < 0`` for ``|p| > 1``.

    Raises:
        ValueError: If the last dimension is not 3 or ``order`` is unknown.
    """
    check_option("order", order, ORDERS)
    check_trailing("p", p, (3,))
    return join_quat(*mrp_parts_to_quat(split(p)), order)


@full_precision
def quat_to_mrp(q: Float[Tensor, "*batch 4"], *, order: str = "wxyz") -> Float[Tensor, "*batch 3"]:
    """Modified Rodrigues parameters ``v / (1 + w)`` of a quaternion, of norm at most 1 (the sign with ``w >= 0`` is taken).

    Args:
        q: Quaternions of any non-zero length, shape ``(..., 4)``.
        order: Component order, ``"wxyz"`` or ``"xyzw"``.

    Returns:
        Parameters, shape ``(..., 3)``.

    Raises:
        ValueError: If the last dimension is not 4 or ``order`` is unknown.
    """
    check_quat("q", q, order)
    return quat_parts_to_mrp(split_quat(q, order))


@full_precision
def mrp_to_rotvec(p: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """Rotation vector, at most pi long, of modified Rodrigues parameters.

    Args:
        p: Parameters, shape ``(..., 3)``.

    Returns:
        Rotation vectors, shape ``(..., 3)``.

    Raises:
        ValueError: If the last dimension is not 3.
    """
    check_trailing("p", p, (3,))
    return quat_parts_to_rotvec(mrp_parts_to_quat(split(p)))


@full_precision
def rotvec_to_mrp(w: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """Modified Rodrigues parameters, of norm at most 1, of a rotation vector.

    Args:
        w: Rotation vectors, shape ``(..., 3)``.

    Returns:
        Parameters, shape ``(..., 3)``.

    Raises:
        ValueError: If the last dimension is not 3.
    """
    check_trailing("w", w, (3,))
    return quat_parts_to_mrp(rotvec_parts_to_quat(split(w)))
