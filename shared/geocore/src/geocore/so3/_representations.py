"""Continuous representations of rotations for networks: 5, 6, 9 and 10 numbers.

Zhou et al., On the Continuity of Rotation Representations in Neural Networks, CVPR 2019 (5D, 6D); Levinson et al., An Analysis
of SVD for Deep Rotation Estimation, NeurIPS 2020 (9D); Peretroukhin et al., A Smooth Representation of Belief over SO(3) for
Deep Rotation Learning with Uncertainty, RSS 2020 (10D).
"""

from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geocore._checks import check_option, check_trailing
from geocore._precision import full_precision
from geocore.so3._algebra import quat_direction
from geocore.so3._eigenvector import smallest_eigenvector
from geocore.so3._elements import cross, dot, join, join_matrix, least_aligned_axis, split, split_matrix, tiny, unit
from geocore.so3._pairs import quat_parts_to_matrix
from geocore.so3._quaternion import ORDERS, split_quat

__all__ = ["decode_10d", "from_5d", "from_6d", "from_9d", "from_10d", "to_5d", "to_6d", "to_9d", "to_10d"]

_COLLINEAR = 8.0  # in eps, on the sine of the angle between the two vectors; about 1e-6 in float32
_UPPER = tuple((i, j) for i in range(4) for j in range(i, 4))
_SQUARE = tuple(_UPPER.index((min(i, j), max(i, j))) for i in range(4) for j in range(4))


def _polished(v: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """One Newton step on the length of a unit vector: the errors of two lengths meet in the third column."""
    factor = 1.5 - 0.5 * dot(v, v)
    return tuple(c * factor for c in v)


def _orthonormal(p: Sequence[Tensor], q: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rotation whose first column is along ``p`` and whose second lies in the half plane of ``q``, and the mask of degenerate items."""
    x, has_first = unit(p, least_aligned_axis(q))
    x = _polished(x)
    # Subtracting the component along x before the cross product keeps z orthogonal to x to rounding, however small the angle.
    along = dot(x, q)
    rest = tuple(c - along * u for c, u in zip(q, x, strict=True))
    size, left = dot(q, q), dot(rest, rest)
    has_second = (left > (_COLLINEAR * torch.finfo(size.dtype).eps) ** 2 * size) & (left > tiny(size))
    rest = tuple(torch.where(has_second, c, s) for c, s in zip(rest, least_aligned_axis(x), strict=True))
    z = _polished(unit(cross(x, rest))[0])
    y = cross(z, x)
    R = join_matrix((x[0], y[0], z[0], x[1], y[1], z[1], x[2], y[2], z[2]))
    return R, ~(has_first & has_second)


@overload
def from_6d(v: Float[Tensor, "*batch 6"], *, return_info: Literal[False] = ...) -> Float[Tensor, "*batch 3 3"]: ...
@overload
def from_6d(v: Float[Tensor, "*batch 6"], *, return_info: Literal[True]) -> tuple[Float[Tensor, "*batch 3 3"], Bool[Tensor, "*batch"]]: ...
@full_precision
def from_6d(v: Float[Tensor, "*batch 6"], *, return_info: bool = False):
    """Rotation matrix of six numbers: two vectors ``a, b``, made orthonormal, are the first two COLUMNS.

    ``x = a/|a|``, ``z = x x b / |x x b|``, ``y = z x x``. Layout ``[R00, R10, R20, R01, R11, R21]``: some libraries take the first
    two rows instead, which gives the transpose.

    Where ``a = 0`` or ``b`` is collinear with ``a`` (sine of the angle below 8 eps), the coordinate axis least aligned with the other
    vector stands in; the result is still a rotation, and gradients along undefined directions are zero.

    Args:
        v: Six numbers, shape ``(..., 6)``, of any scale.
        return_info: Also return the mask of degenerate items.

    Returns:
        Rotation matrices, shape ``(..., 3, 3)``; with ``return_info`` the pair ``(R, degenerate)``, mask of shape ``(...)``.

    Raises:
        ValueError: If the last dimension is not 6.

    Example:
        >>> from_6d(torch.tensor([0.0, 2.0, 0.0, -3.0, 1.0, 0.0]))[:, 0]
        tensor([0., 1., 0.])
    """
    check_trailing("v", v, (6,))
    parts = split(v)
    R, degenerate = _orthonormal(parts[:3], parts[3:])
    return (R, degenerate) if return_info else R


@full_precision
def to_6d(R: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 6"]:
    """First two columns of a rotation matrix, the first then the second: the right inverse of ``from_6d``.

    Args:
        R: Rotation matrices, shape ``(..., 3, 3)``.

    Returns:
        Six numbers ``[R00, R10, R20, R01, R11, R21]``, shape ``(..., 6)``.

    Raises:
        ValueError: If the last two dimensions are not 3 and 3.
    """
    check_trailing("R", R, (3, 3))
    a, b, _, c, d, _, e, f, _ = split_matrix(R)
    return join((a, c, e, b, d, f))


@overload
def from_5d(v: Float[Tensor, "*batch 5"], *, return_info: Literal[False] = ...) -> Float[Tensor, "*batch 3 3"]: ...
@overload
def from_5d(v: Float[Tensor, "*batch 5"], *, return_info: Literal[True]) -> tuple[Float[Tensor, "*batch 3 3"], Bool[Tensor, "*batch"]]: ...
@full_precision
def from_5d(v: Float[Tensor, "*batch 5"], *, return_info: bool = False):
    """Rotation matrix of five numbers ``(a, b, p)`` by stereographic unprojection (Zhou et al. 2019, section 4.2).

    With ``r = |p|``: ``from_6d`` of the columns ``(a, b, (r^2 - 1) / (2 r))`` and ``p / r``. ``p = 0`` has no direction: the second
    column is then chosen as in the collinear case of ``from_6d``, and the item counts as degenerate.

    Args:
        v: Five numbers, shape ``(..., 5)``; encodings have ``|p|`` in [sqrt(2) - 1, sqrt(2) + 1].
        return_info: Also return the mask of degenerate items.

    Returns:
        Rotation matrices, shape ``(..., 3, 3)``; with ``return_info`` the pair ``(R, degenerate)``, mask of shape ``(...)``.

    Raises:
        ValueError: If the last dimension is not 5.
    """
    check_trailing("v", v, (5,))
    a, b, *p = split(v)
    direction, valid = unit(p)
    r = torch.where(valid, dot(p, p), 1.0).sqrt()
    R, degenerate = _orthonormal((a, b, 0.5 * (r - r.reciprocal())), direction)
    return (R, degenerate | ~valid) if return_info else R


@full_precision
def to_5d(R: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 5"]:
    """Five numbers of a rotation matrix, ``(R00, R10, y (x3 + sqrt(x3^2 + 1)))`` with ``x3 = R20`` and ``y`` the second column.

    Args:
        R: Rotation matrices, shape ``(..., 3, 3)``.

    Returns:
        Five numbers, shape ``(..., 5)``, continuous in ``R``; right inverse of ``from_5d``.

    Raises:
        ValueError: If the last two dimensions are not 3 and 3.
    """
    check_trailing("R", R, (3, 3))
    a, b, _, c, d, _, e, f, _ = split_matrix(R)
    r = e + torch.sqrt(e * e + 1.0)
    return join((a, c, b * r, d * r, f * r))


@overload
def from_9d(v: Float[Tensor, "*batch 9"], *, return_confidence: Literal[False] = ...) -> Float[Tensor, "*batch 3 3"]: ...
@overload
def from_9d(
    v: Float[Tensor, "*batch 9"], *, return_confidence: Literal[True]
) -> tuple[Float[Tensor, "*batch 3 3"], Float[Tensor, "*batch"]]: ...
@full_precision
def from_9d(v: Float[Tensor, "*batch 9"], *, return_confidence: bool = False) -> Any:
    """Rotation matrix nearest, in Frobenius norm, to nine numbers read as a matrix row by row (special Procrustes).

    Args:
        v: Nine numbers, shape ``(..., 9)``.
        return_confidence: Also return ``s2 + sign s3``, the spectral gap whose inverse bounds the gradient.

    Returns:
        Rotation matrices, shape ``(..., 3, 3)``; with ``return_confidence`` the pair ``(R, confidence)``.

    Raises:
        ValueError: If the last dimension is not 9.
    """
    from geocore.son import special_procrustes  # the rooms import one another only on use

    check_trailing("v", v, (9,), hint="for (..., 3, 3) use geocore.son.special_procrustes")
    return special_procrustes(v.unflatten(-1, (3, 3)), return_confidence=return_confidence)


@full_precision
def to_9d(R: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 9"]:
    """The nine entries of a rotation matrix, row by row.

    Args:
        R: Rotation matrices, shape ``(..., 3, 3)``.

    Returns:
        Nine numbers, shape ``(..., 9)``.

    Raises:
        ValueError: If the last two dimensions are not 3 and 3.
    """
    check_trailing("R", R, (3, 3))
    return R.flatten(-2)


def decode_10d(v: Tensor, order: str) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Component quaternion ``w, x, y, z`` of ten numbers, and the eigenvalue gap."""
    check_option("order", order, ORDERS)
    check_trailing("v", v, (10,))
    A = torch.stack([v[..., k] for k in _SQUARE], -1).unflatten(-1, (4, 4))
    q, gap = smallest_eigenvector(A)
    return split_quat(q, order), gap


@overload
def from_10d(
    v: Float[Tensor, "*batch 10"], *, order: str = ..., return_confidence: Literal[False] = ...
) -> Float[Tensor, "*batch 3 3"]: ...
@overload
def from_10d(
    v: Float[Tensor, "*batch 10"], *, order: str = ..., return_confidence: Literal[True]
) -> tuple[Float[Tensor, "*batch 3 3"], Float[Tensor, "*batch"]]: ...
@full_precision
def from_10d(v: Float[Tensor, "*batch 10"], *, order: str = "wxyz", return_confidence: bool = False):
    """Rotation matrix of ten numbers: the upper triangle of a symmetric 4x4 matrix, row by row.

    The unit eigenvector of its smallest eigenvalue is the quaternion. Gradients grow as the inverse of the gap to the next
    eigenvalue, depend on no other pair of eigenvalues, and are zero where the gap is rounding noise (for example ``v = 0``).

    Args:
        v: Ten numbers, shape ``(..., 10)``.
        order: Component order of the quaternion, ``"wxyz"`` or ``"xyzw"``.
        return_confidence: Also return the gap (without gradient).

    Returns:
        Rotation matrices, shape ``(..., 3, 3)``; with ``return_confidence`` the pair ``(R, gap)``, gap of shape ``(...)``.

    Raises:
        ValueError: If the last dimension is not 10 or ``order`` is unknown.
    """
    q, gap = decode_10d(v, order)
    R = quat_parts_to_matrix(q)
    return (R, gap) if return_confidence else R


@full_precision
def to_10d(R: Float[Tensor, "*batch 3 3"], *, order: str = "wxyz") -> Float[Tensor, "*batch 10"]:
    """Upper triangle of ``-q q^T`` with ``q`` the unit quaternion of a rotation matrix: continuous, and inverted by ``from_10d``.

    Args:
        R: Rotation matrices, shape ``(..., 3, 3)``.
        order: Component order of the quaternion, ``"wxyz"`` or ``"xyzw"``.

    Returns:
        Ten numbers, shape ``(..., 10)``.

    Raises:
        ValueError: If the last two dimensions are not 3 and 3, or ``order`` is unknown.
    """
    check_option("order", order, ORDERS)
    check_trailing("R", R, (3, 3))
    w, x, y, z = quat_direction(R)
    q = (w, x, y, z) if order == "wxyz" else (x, y, z, w)
    scale = -dot(q, q).reciprocal()
    return join([scale * q[i] * q[j] for i, j in _UPPER])
