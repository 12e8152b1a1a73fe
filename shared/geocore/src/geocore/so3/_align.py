"""Best rotations between vectors and point sets."""

from typing import Literal, NamedTuple, overload

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geocore._checks import check_broadcastable, check_floating, check_trailing
from geocore._precision import full_precision
from geocore.so3._eigenvector import horn_matrix, smallest_eigenvector
from geocore.so3._elements import cross, dot, least_aligned_axis, normalized_weights, split, unit
from geocore.so3._pairs import quat_parts_to_matrix

__all__ = ["Alignment", "align", "rotation_between"]


class Alignment(NamedTuple):
    """Similarity ``y = scale * rotation x + translation``.

    Attributes:
        rotation: Rotation matrices, shape ``(..., 3, 3)``.
        translation: Translations, shape ``(..., 3)``; zero if not asked for.
        scale: Scales, shape ``(...)``; one if not asked for.
    """

    rotation: Float[Tensor, "*batch 3 3"]
    translation: Float[Tensor, "*batch 3"]
    scale: Float[Tensor, "*batch"]


@overload
def align(
    x: Float[Tensor, "*#batch n 3"],
    y: Float[Tensor, "*#batch n 3"],
    weights: Float[Tensor, "*#batch n"] | None = ...,
    *,
    scale: bool = ...,
    translation: bool = ...,
    return_info: Literal[False] = ...,
) -> Alignment: ...
@overload
def align(
    x: Float[Tensor, "*#batch n 3"],
    y: Float[Tensor, "*#batch n 3"],
    weights: Float[Tensor, "*#batch n"] | None = ...,
    *,
    scale: bool = ...,
    translation: bool = ...,
    return_info: Literal[True],
) -> tuple[Alignment, Bool[Tensor, "*batch"]]: ...
@full_precision
def align(
    x: Float[Tensor, "*#batch n 3"],
    y: Float[Tensor, "*#batch n 3"],
    weights: Float[Tensor, "*#batch n"] | None = None,
    *,
    scale: bool = False,
    translation: bool = True,
    return_info: bool = False,
):
    """Rotation, and optionally translation and scale, that best carries points ``x`` to ``y`` (Kabsch, Umeyama, Wahba).

    Minimises ``sum w |y_i - s R x_i - t|^2`` over proper rotations; reflections are never returned. The rotation is the quaternion
    of the largest eigenvalue of Horn's 4x4 matrix (Horn 1987). Where the points do not determine it (fewer than two independent
    directions after centring) it is still a rotation, with zero gradient along what is undetermined.

    Args:
        x: Points, shape ``(..., n, 3)``.
        y: Their images, shape ``(..., n, 3)``; batch dimensions broadcast.
        weights: Non-negative weights, shape ``(..., n)``; equal when not given or all zero.
        scale: Also fit one positive scale.
        translation: Also fit a translation; without it the points are directions seen from the origin.
        return_info: Also return the mask of items whose rotation is not determined.

    Returns:
        ``Alignment(rotation, translation, scale)``; with ``return_info`` the pair ``(alignment, degenerate)``.

    Raises:
        ValueError: If a shape is wrong or there are no points.

    Example:
        >>> x = torch.eye(3)
        >>> R = exp(torch.tensor([0.1, 0.2, 0.3]))
        >>> torch.allclose(align(x, x @ R.mT + 1.0).rotation, R, atol=1e-6)
        True
    """
    check_trailing("x", x, (None, 3))
    check_trailing("y", y, (None, 3))
    n = x.shape[-2]
    if n < 1 or y.shape[-2] != n:
        raise ValueError(f"x and y must hold the same number n >= 1 of points, got {tuple(x.shape)} and {tuple(y.shape)}")
    batch = check_broadcastable(x=x.shape[:-2], y=y.shape[:-2])
    if weights is None:
        w = x.new_full((n, 1), 1.0 / n)
    else:
        check_floating("weights", weights)
        if weights.ndim < 1 or weights.shape[-1] != n:
            raise ValueError(f"weights must have shape (..., {n}), one per point, got {tuple(weights.shape)}")
        batch = check_broadcastable(points=batch, weights=weights.shape[:-1])
        w = normalized_weights(weights.to(x.dtype)).unsqueeze(-1)

    x_mean, y_mean = (w * x).sum(-2, keepdim=True), (w * y).sum(-2, keepdim=True)
    u, v = (x - x_mean, y - y_mean) if translation else (x, y)
    M = ((w * v).mT @ u).expand(*batch, 3, 3)
    q, gap = smallest_eigenvector(-horn_matrix(M))
    R = quat_parts_to_matrix(split(q))
    s = R.new_ones(batch)
    if scale:
        size = (w * u * u).sum((-1, -2))
        spread = size > 16.0 * torch.finfo(size.dtype).tiny
        s = torch.where(spread, (R * M).sum((-1, -2)) / torch.where(spread, size, 1.0), 1.0)
    t = R.new_zeros((*batch, 3))
    if translation:
        t = (y_mean.mT - s[..., None, None] * (R @ x_mean.mT)).squeeze(-1)
    result = Alignment(R, t, s)
    if not return_info:
        return result
    noise = 64.0 * torch.finfo(M.dtype).eps * torch.linalg.matrix_norm(M.detach())
    return result, gap <= noise


@full_precision
def rotation_between(a: Float[Tensor, "*#batch 3"], b: Float[Tensor, "*#batch 3"]) -> Float[Tensor, "*#batch 3 3"]:
    """Smallest rotation that turns the direction of ``a`` into the direction of ``b``.

    Exact to rounding at every angle. Opposite directions are turned about an axis orthogonal to them, built from the coordinate
    axis least aligned with ``b``; the gradient grows as the inverse distance from that case and is finite in it. If ``a`` or
    ``b`` is zero the result is the identity.

    Args:
        a: Vectors of any length, shape ``(..., 3)``.
        b: Vectors of any length, shape ``(..., 3)``; batch dimensions broadcast.

    Returns:
        Rotation matrices, shape ``(..., 3, 3)``, with ``R a / |a| = b / |b|``.

    Raises:
        ValueError: If a last dimension is not 3 or the batches do not broadcast.

    Example:
        >>> rotation_between(torch.tensor([2.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])) @ torch.tensor([1.0, 0.0, 0.0])
        tensor([0., 1., 0.])
    """
    check_trailing("a", a, (3,))
    check_trailing("b", b, (3,))
    check_broadcastable(a=a.shape[:-1], b=b.shape[:-1])
    a, b = torch.broadcast_tensors(a, b)
    u, _ = unit(split(a))
    v, _ = unit(split(b))
    c, d = cross(u, v), dot(u, v)
    # Beyond a right angle: the small rotation to -v, then half a turn about an axis n orthogonal to v (the rotation's own axis).
    # n needs to be orthogonal to v to rounding, its direction in that plane does not matter, so it survives the opposite case.
    eps = torch.finfo(d.dtype).eps
    back = d < 0
    opposite = back & (dot(c, c) <= (8.0 * eps) ** 2)
    spare = cross(v, least_aligned_axis(v))
    n = tuple(torch.where(opposite, s, torch.where(back, p, o)) for s, p, o in zip(spare, c, (1.0, 0.0, 0.0), strict=True))
    along = dot(n, v)
    n, _ = unit(tuple(p - along * q for p, q in zip(n, v, strict=True)), (1.0, 0.0, 0.0))
    side = cross(n, c)
    w = torch.where(back, dot(n, c), 1.0 + d)
    x, y, z = (torch.where(back, (1.0 - d) * p - s, k) for p, s, k in zip(n, side, c, strict=True))
    return quat_parts_to_matrix((w, x, y, z))
