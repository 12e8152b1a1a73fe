"""Component-wise layout: rotations as tuples of batch-shaped tensors.

A ``(..., 3)`` or ``(..., 3, 3)`` tensor has short inner loops, which elementwise kernels handle badly. Splitting it into
one batch-shaped tensor per component makes every operation a single long loop; joining along a leading dimension and
copying once costs half of a stack along the last one, forward and backward.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "blend",
    "cross",
    "dot",
    "join",
    "join_matrix",
    "least_aligned_axis",
    "normalized_weights",
    "rodrigues",
    "split",
    "split_matrix",
    "tiny",
    "unit",
]


def split(x: Tensor) -> tuple[Tensor, ...]:
    """Components of the last dimension, as views."""
    return x.movedim(-1, 0).unbind(0)


def split_matrix(R: Tensor) -> tuple[Tensor, ...]:
    """The nine entries of ``(..., 3, 3)`` in row-major order, as views."""
    return R.flatten(-2).movedim(-1, 0).unbind(0)


def join(parts: Sequence[Tensor]) -> Tensor:
    """Inverse of ``split``: a contiguous ``(..., len(parts))`` tensor."""
    return torch.stack(tuple(parts), 0).movedim(0, -1).contiguous()


def join_matrix(parts: Sequence[Tensor]) -> Tensor:
    """Inverse of ``split_matrix``."""
    return join(parts).unflatten(-1, (3, 3))


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Sum of products of components."""
    total = a[0] * b[0]
    for p, q in zip(a[1:], b[1:], strict=True):
        total = torch.addcmul(total, p, q)
    return total


def cross(a: Sequence[Tensor], b: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Cross product of two component triples."""
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def rodrigues(v: Sequence[Tensor], a: Tensor, b: Tensor) -> Tensor:
    """``I + a V + b V^2`` for ``V = hat(v)``; the diagonal is taken from 1, so that it is exact for small ``v``."""
    x, y, z = v
    ax, ay, az = a * x, a * y, a * z
    bx, by, bz = b * x, b * y, b * z
    xx, yy, zz, xy, xz, yz = bx * x, by * y, bz * z, bx * y, bx * z, by * z
    return join_matrix((1.0 - (yy + zz), xy - az, xz + ay, xy + az, 1.0 - (xx + zz), yz - ax, xz - ay, yz + ax, 1.0 - (xx + yy)))


def blend(chosen: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """``yes`` where the 0/1 tensor ``chosen`` is one, else ``no``; exact for finite values, faster than ``torch.where`` on mixed masks."""
    return torch.lerp(no, yes, chosen)


def tiny(x: Tensor) -> float:
    """Smallest squared length that still has a direction: the smallest normal number of the dtype, with a margin."""
    return 16.0 * torch.finfo(x.dtype).tiny


def unit(v: Sequence[Tensor], substitute: Sequence[Tensor | float] | None = None) -> tuple[tuple[Tensor, ...], Tensor]:
    """Components over their length, and the mask of items that have a direction.

    Items without one become ``substitute`` (zeros when it is not given) and pass no gradient.
    """
    square = dot(v, v)
    valid = square > tiny(square)
    scale = torch.rsqrt(torch.where(valid, square, 1.0))
    scale = torch.where(valid, scale, 0.0)
    if substitute is None:
        return tuple(c * scale for c in v), valid
    return tuple(torch.where(valid, c * scale, s) for c, s in zip(v, substitute, strict=True)), valid


def least_aligned_axis(v: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """One-hot components of the coordinate axis with the smallest ``|v_i|`` (the first of equals), constant for autograd."""
    a, b, c = (p.detach().abs() for p in v)
    first = (a <= b) & (a <= c)
    second = ~first & (b <= c)
    x, y = first.to(a.dtype), second.to(a.dtype)
    return x, y, 1.0 - x - y


def normalized_weights(weights: Tensor) -> Tensor:
    """Weights over their sum along the last dimension; equal weights where the sum is zero."""
    total = weights.sum(-1, keepdim=True)
    usable = total > tiny(total)
    return torch.where(usable, weights / torch.where(usable, total, 1.0), 1.0 / weights.shape[-1])
