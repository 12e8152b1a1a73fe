"""Distances between rotations."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from geocore import _ops
from geocore._checks import check_broadcastable, check_trailing
from geocore._precision import full_precision
from geocore.so3._elements import cross, dot, join_matrix, split_matrix, tiny

__all__ = ["chordal", "geodesic"]


def _check_pair(R1: Tensor, R2: Tensor) -> tuple[Any, ...]:
    check_trailing("R1", R1, (3, 3))
    check_trailing("R2", R2, (3, 3))
    return R1.shape if R1.shape == R2.shape else (*check_broadcastable(R1=R1.shape[:-2], R2=R2.shape[:-2]), 3, 3)


def _entries(R: Tensor) -> tuple[Tensor, ...]:
    return R.flatten(-2).movedim(-1, 0).contiguous().unbind(0)


def _skew(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> list[Tensor]:
    """``vee(M - M^T)`` of ``M = A B^T``: its length is twice the sine of the angle."""
    return [dot(a[i : i + 3], b[j : j + 3]) - dot(a[j : j + 3], b[i : i + 3]) for i, j in ((6, 3), (0, 6), (3, 0))]


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
    shape = _check_pair(R1, R2)
    # of all pairs of two sets the formula reads every rotation once, the kernel once for each pair
    if (R1.shape == shape or R2.shape == shape) and _ops.kernel_may_run("so3_geodesic", R1, R2):
        return torch.ops.geocore.so3_geodesic(*(R if R.shape == shape else R.expand(shape) for R in (R1, R2)))
    return geodesic_reference(R1, R2)


def geodesic_reference(R1: Tensor, R2: Tensor) -> Tensor:
    """Geodesic distance without argument checks; see ``geodesic``."""
    # Every entry is read three times: one contiguous copy each is cheaper than strided reads
    a, b = _entries(R1), _entries(R2)
    v = _skew(a, b)
    return torch.atan2(_safe_sqrt(dot(v, v)), dot(a, b) - 1.0)


def geodesic_backward_reference(R1: Tensor, R2: Tensor, g: Tensor) -> Tensor:
    """Gradient in ``R1`` for the gradient ``g`` in the angle, of batches of one shape; that in ``R2`` has the two exchanged.

    ``(c / n hat(v) - n I) R2 / (n^2 + c^2)`` with ``v = vee(M - M^T)``, ``n = |v|`` and ``c = tr M - 1``.
    """
    a, b = _entries(R1), _entries(R2)
    v, c = _skew(a, b), dot(a, b) - 1.0
    n = _safe_sqrt(dot(v, v))
    whole = n * n + c * c
    scale = g / torch.where(whole == 0, 1.0, whole)
    turn = torch.where(n > 0, scale * c / torch.where(n > 0, n, 1.0), 0.0)
    columns = [[turn * p - scale * n * q for p, q in zip(cross(v, b[k::3]), b[k::3], strict=True)] for k in range(3)]
    return join_matrix([columns[k][i] for i in range(3) for k in range(3)])


def _backward(
    inputs: tuple[Tensor, Tensor], outputs: tuple[Tensor, ...], grads: tuple[Tensor], needs: tuple[bool, bool]
) -> tuple[Tensor | None, ...]:
    del outputs
    (R1, R2), back = inputs, torch.ops.geocore.so3_geodesic_backward
    return back(R1, R2, grads[0]) if needs[0] else None, back(R2, R1, grads[0]) if needs[1] else None


_ops.define(
    "so3_geodesic_backward",
    "(Tensor R1, Tensor R2, Tensor g) -> Tensor",
    geodesic_backward_reference,
    lambda R1, R2, g: R1.new_empty(R1.shape),
)
_ops.define(
    "so3_geodesic",
    "(Tensor R1, Tensor R2) -> Tensor",
    geodesic_reference,
    lambda R1, R2: R1.new_empty(R1.shape[:-2]),
    backward=_backward,
    save_outputs=False,
    tell_needs=True,
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
