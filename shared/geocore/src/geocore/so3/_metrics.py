"""Distances between rotations."""

import torch
from jaxtyping import Float
from torch import Tensor

from geocore import _ops
from geocore._checks import check_broadcastable, check_trailing
from geocore._precision import full_precision
from geocore.so3._elements import dot, split_matrix, tiny

__all__ = ["chordal", "geodesic"]


def _check_pair(R1: Tensor, R2: Tensor) -> None:
    check_trailing("R1", R1, (3, 3))
    check_trailing("R2", R2, (3, 3))
    check_broadcastable(R1=R1.shape[:-2], R2=R2.shape[:-2])


def _entries(R: Tensor) -> tuple[Tensor, ...]:
    return R.flatten(-2).movedim(-1, 0).contiguous().unbind(0)


def _safe_sqrt(square: Tensor) -> Tensor:
    """Square root that is 0 with zero gradient where its argument vanishes."""
    positive = square > tiny(square)
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)


@full_precision
def geodesic(R1: Float[Tensor, "*#batch 3 3"], R2: Float[Tensor, "*#batch 3 3"]) -> Float[Tensor, "*#batch"]:
    """Angle of the rotation ``R1 R2^T``, ``atan2(|vee(M - M^T)|, tr M - 1)`` with ``M = R1 R2^T``: between 0 and pi.

    Accurate to a few eps at every angle, unlike the arc cosine of the trace (which loses half of the digits near 0 and pi) or the
    arc sine of the chord (near pi). The gradient is finite everywhere, zero at equality and at exactly pi.

    Args:
        R1: Rotation matrices, shape ``(..., 3, 3)``.
        R2: Rotation matrices, shape ``(..., 3, 3)``; batch dimensions broadcast.

    Returns:
        Angles in radians, shape ``(...)``.

    Raises:
        ValueError: If the last two dimensions are not 3 and 3, or the batches do not broadcast.

    Example:
        >>> geodesic(torch.eye(3), torch.diag(torch.tensor([-1.0, -1.0, 1.0])))
        tensor(3.1416)
    """
    _check_pair(R1, R2)
    if _ops.kernel_may_run("so3_geodesic", R1, R2):
        return torch.ops.geocore.so3_geodesic(R1, R2)
    return geodesic_reference(R1, R2)


def geodesic_reference(R1: Tensor, R2: Tensor) -> Tensor:
    """Geodesic distance without argument checks; see ``geodesic``."""
    # Every entry is read three times: one contiguous copy each is cheaper than strided reads
    a, b = _entries(R1), _entries(R2)
    sine = [dot(a[i : i + 3], b[j : j + 3]) - dot(a[j : j + 3], b[i : i + 3]) for i, j in ((6, 3), (0, 6), (3, 0))]
    return torch.atan2(_safe_sqrt(dot(sine, sine)), dot(a, b) - 1.0)


_ops.define(
    "so3_geodesic",
    "(Tensor R1, Tensor R2) -> Tensor",
    geodesic_reference,
    lambda R1, R2: R1.new_empty(torch.broadcast_shapes(R1.shape[:-2], R2.shape[:-2])),
)


@full_precision
def chordal(R1: Float[Tensor, "*#batch 3 3"], R2: Float[Tensor, "*#batch 3 3"]) -> Float[Tensor, "*#batch"]:
    """Frobenius norm of ``R1 - R2``, equal to ``2 sqrt(2) sin(angle / 2)``; zero gradient at equality.

    Args:
        R1: Rotation matrices, shape ``(..., 3, 3)``.
        R2: Rotation matrices, shape ``(..., 3, 3)``; batch dimensions broadcast.

    Returns:
        Distances, shape ``(...)``, between 0 and ``2 sqrt(2)``.

    Raises:
        ValueError: If the last two dimensions are not 3 and 3, or the batches do not broadcast.
    """
    _check_pair(R1, R2)
    d = [p - q for p, q in zip(split_matrix(R1), split_matrix(R2), strict=True)]
    return _safe_sqrt(dot(d, d))
