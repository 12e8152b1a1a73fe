"""Oriented boxes ``(cx, cy, w, h, t)``: corners, hulls, canonical forms and motions."""

from math import pi

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geocore._checks import check_option, check_trailing
from geocore.planar.angles import wrap

__all__ = [
    "PATTERNS",
    "aabb_to_obb",
    "canonicalize",
    "corners_to_obb",
    "flip",
    "obb_contains",
    "obb_to_aabb",
    "obb_to_corners",
    "rotate",
    "scale",
    "transform_obb",
    "translate",
]

PATTERNS = ("le90", "le135", "oc", "ultra", "r360")
_START = {"le90": -pi / 2, "le135": -pi / 4, "oc": -pi / 2, "ultra": 0.0, "r360": -pi}


def wide(x: Tensor) -> Tensor:
    """Half precision in float32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def cross(a: Tensor, b: Tensor) -> Tensor:
    """``a_x b_y - a_y b_x`` of vectors along the last axis."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def obb_to_corners(obb: Float[Tensor, "*batch 5"]) -> Float[Tensor, "*batch 4 2"]:
    """Corners, in the local order (-,-), (+,-), (+,+), (-,+): positive shoelace area, clockwise on a screen with y down.

    Args:
        obb: Boxes, shape ``(..., 5)``.

    Raises:
        ValueError: If the last dimension is not 5.

    Example:
        >>> obb_to_corners(torch.tensor([0.0, 0.0, 4.0, 2.0, 0.0])).tolist()
        [[-2.0, -1.0], [2.0, -1.0], [2.0, 1.0], [-2.0, 1.0]]
    """
    check_trailing("obb", obb, (5,))
    cx, cy, w, h, t = wide(obb).unbind(-1)
    c, s = t.cos(), t.sin()
    ux, uy, vx, vy = 0.5 * w * c, 0.5 * w * s, -0.5 * h * s, 0.5 * h * c
    x = torch.stack([cx - ux - vx, cx + ux - vx, cx + ux + vx, cx - ux + vx], -1)
    y = torch.stack([cy - uy - vy, cy + uy - vy, cy + uy + vy, cy - uy + vy], -1)
    return torch.stack([x, y], -1).to(obb.dtype)


def corners_to_obb(corners: Float[Tensor, "*batch 4 2"]) -> Float[Tensor, "*batch 5"]:
    """The box with these corners; for other quadrilaterals the rectangle of least area around them.

    The first edge of a rectangle is its width, and its direction the angle, so this is the inverse of ``obb_to_corners`` up to rounding and
    a full turn, whichever way round the corners go. Annotations that are rectangles up to pixels are not exact ones: they get the
    enclosing rectangle.

    Args:
        corners: Shape ``(..., 4, 2)``.

    Returns:
        Boxes with ``t`` in ``[-pi, pi]``.

    Raises:
        ValueError: If the shape does not end in ``(4, 2)``.
    """
    from geocore.planar.hull import min_area_rect

    check_trailing("corners", corners, (4, 2))
    p = wide(corners)
    centre = p.mean(-2)
    along, across = p[..., 1, :] - p[..., 0, :], p[..., 3, :] - p[..., 0, :]
    w, h = _norm(along), _norm(across)
    turn = along[..., 0] * across[..., 1] - along[..., 1] * across[..., 0]
    side = torch.where(turn < 0, -1.0, 1.0)[..., None]
    turned = torch.stack([across[..., 1], -across[..., 0]], -1) * side  # a quarter turn back, for boxes that are higher than wide
    direction = torch.where((w >= h)[..., None], along, turned)
    still = (direction == 0).all(-1)
    t = torch.atan2(torch.where(still, 0.0, direction[..., 1]), torch.where(still, 1.0, direction[..., 0]))
    box = torch.cat([centre, torch.stack([w, h, t], -1)], -1)
    tol = 64 * torch.finfo(p.dtype).eps * (p.detach().abs().amax((-1, -2)) + 1e-30)
    skew = (p[..., 0, :] + p[..., 2, :] - p[..., 1, :] - p[..., 3, :]).detach().abs().amax(-1)
    dot = (along * across).sum(-1).detach().abs()
    exact = (skew <= tol) & (dot <= tol * (w + h).detach())
    return torch.where(exact[..., None], box, min_area_rect(p)).to(corners.dtype)


def _norm(v: Tensor) -> Tensor:
    """Length with zero gradient at zero."""
    square = v.square().sum(-1)
    return torch.where(square > 0, torch.where(square > 0, square, 1.0).sqrt(), 0.0)


def obb_to_aabb(obb: Float[Tensor, "*batch 5"]) -> Float[Tensor, "*batch 4"]:
    """The circumscribed upright box ``(x1, y1, x2, y2)``.

    Args:
        obb: Boxes, shape ``(..., 5)``.

    Raises:
        ValueError: If the last dimension is not 5.
    """
    check_trailing("obb", obb, (5,))
    cx, cy, w, h, t = wide(obb).unbind(-1)
    c, s = t.cos().abs(), t.sin().abs()
    x, y = 0.5 * (w * c + h * s), 0.5 * (w * s + h * c)
    return torch.stack([cx - x, cy - y, cx + x, cy + y], -1).to(obb.dtype)


def aabb_to_obb(aabb: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 5"]:
    """Upright boxes ``(x1, y1, x2, y2)`` as oriented ones of angle zero.

    Args:
        aabb: Shape ``(..., 4)``.

    Raises:
        ValueError: If the last dimension is not 4.
    """
    check_trailing("aabb", aabb, (4,))
    x1, y1, x2, y2 = aabb.unbind(-1)
    return torch.stack([0.5 * (x1 + x2), 0.5 * (y1 + y2), x2 - x1, y2 - y1, torch.zeros_like(x1)], -1)


def canonicalize(obb: Float[Tensor, "*batch 5"], pattern: str = "le90", *, mmrotate_ties: bool = False) -> Float[Tensor, "*batch 5"]:
    """The same rectangle written in one of the usual ways. What already is in that form comes back bit for bit.

    | pattern | range of ``t`` | rule |
    |---|---|---|
    | ``"le90"`` | ``[-pi/2, pi/2)`` | ``w >= h`` |
    | ``"le135"`` | ``[-pi/4, 3 pi/4)`` | ``w >= h`` |
    | ``"oc"`` | ``[-pi/2, 0)`` | width and height as they come |
    | ``"ultra"`` | ``[0, pi/2)`` | the same; the form of ultralytics |
    | ``"r360"`` | ``[-pi, pi)`` | width, height and heading kept |

    Args:
        obb: Boxes, shape ``(..., 5)``.
        pattern: One of ``PATTERNS``.
        mmrotate_ties: Turn squares by a quarter in the long-edge patterns, as mmrotate does.

    Raises:
        ValueError: If the shape or the pattern is wrong.
    """
    check_trailing("obb", obb, (5,))
    check_option("pattern", pattern, PATTERNS)
    start = _START[pattern]
    box = wide(obb)
    cx, cy, w, h, t = box.unbind(-1)
    if pattern == "r360":
        return torch.stack([cx, cy, w, h, _keep_or_wrap(t, 2 * pi, start)], -1).to(obb.dtype)
    if pattern in ("oc", "ultra"):
        legal = (t >= start) & (t < start + pi / 2)
        quarter = wrap(t, pi / 2, start)
        turns = torch.round((t - quarter).detach() / (pi / 2))
        swap = ~legal & (torch.remainder(turns, 2) == 1)
        t = torch.where(legal, t, quarter)
        return torch.stack([cx, cy, torch.where(swap, h, w), torch.where(swap, w, h), t], -1).to(obb.dtype)
    swap = (h >= w) if mmrotate_ties else (h > w)
    t = _keep_or_wrap(torch.where(swap, t + pi / 2, t), pi, start)
    return torch.stack([cx, cy, torch.where(swap, h, w), torch.where(swap, w, h), t], -1).to(obb.dtype)


def _keep_or_wrap(t: Tensor, period: float, start: float) -> Tensor:
    return torch.where((t >= start) & (t < start + period), t, wrap(t, period, start))


def transform_obb(obb: Float[Tensor, "*#batch 5"], A: Float[Tensor, "*#batch 2 3"]) -> Float[Tensor, "*batch 5"]:
    """Boxes under an affine map ``x -> A[:, :2] x + A[:, 2]``.

    Similarities (turns, reflections, one scale, translations) are exact and keep the heading. Other maps make parallelograms of rectangles;
    those are replaced by the rectangle of least area around them.

    Args:
        obb: Boxes, shape ``(..., 5)``.
        A: Matrices, shape ``(..., 2, 3)``, broadcast over the leading dimensions.

    Raises:
        ValueError: If a shape is wrong.
    """
    from geocore.planar.hull import min_area_rect

    check_trailing("obb", obb, (5,))
    check_trailing("A", A, (2, 3))
    dtype = torch.promote_types(obb.dtype, A.dtype)
    box, M = wide(obb.to(dtype)), wide(A.to(dtype))
    L, shift = M[..., :2], M[..., 2]
    centre = (L @ box[..., :2, None])[..., 0] + shift
    c, s = box[..., 4].cos(), box[..., 4].sin()
    along = (L @ torch.stack([c, s], -1)[..., None])[..., 0]
    det = L[..., 0, 0] * L[..., 1, 1] - L[..., 0, 1] * L[..., 1, 0]
    factor = torch.where(det != 0, torch.where(det != 0, det.abs(), 1.0).sqrt(), 0.0)
    still = (along == 0).all(-1)
    t = torch.atan2(torch.where(still, 0.0, along[..., 1]), torch.where(still, 1.0, along[..., 0]))
    sides = box[..., 2:4] * factor[..., None]
    exact = torch.cat([centre, sides.expand(centre.shape), t[..., None]], -1)
    gram = (L.mT @ L).detach()
    size = gram.abs().amax((-1, -2))
    tol = 64 * torch.finfo(box.dtype).eps * size
    similar = ((gram[..., 0, 0] - gram[..., 1, 1]).abs() <= tol) & (gram[..., 0, 1].abs() <= tol)
    moved = obb_to_corners(box) @ L.mT + shift[..., None, :]
    return torch.where(similar[..., None], exact, min_area_rect(moved)).to(dtype)


def translate(obb: Float[Tensor, "*#batch 5"], offset: Float[Tensor, "*#batch 2"]) -> Float[Tensor, "*batch 5"]:
    """Boxes moved by ``offset``.

    Args:
        obb: Boxes, shape ``(..., 5)``.
        offset: Shape ``(..., 2)``, broadcast.

    Raises:
        ValueError: If a shape is wrong.
    """
    check_trailing("obb", obb, (5,))
    check_trailing("offset", offset, (2,))
    centre = obb[..., :2] + offset
    return torch.cat([centre, obb[..., 2:].expand(*centre.shape[:-1], 3)], -1)


def scale(obb: Float[Tensor, "*batch 5"], factor: float | Tensor) -> Float[Tensor, "*batch 5"]:
    """Boxes of an image resized by one factor: centre and sides are multiplied.

    Args:
        obb: Boxes, shape ``(..., 5)``.
        factor: Number, or tensor broadcast over the leading dimensions.

    Raises:
        ValueError: If the shape is wrong.
    """
    check_trailing("obb", obb, (5,))
    f = torch.as_tensor(factor, dtype=obb.dtype, device=obb.device)[..., None]
    sized = obb[..., :4] * f
    return torch.cat([sized, obb[..., 4:].expand(*sized.shape[:-1], 1)], -1)


def rotate(
    obb: Float[Tensor, "*#batch 5"], angle: float | Tensor, centre: Float[Tensor, "*#batch 2"] | None = None
) -> Float[Tensor, "*batch 5"]:
    """Boxes turned by ``angle`` about ``centre`` (the origin by default); ``t`` becomes ``t + angle``, not wrapped.

    Args:
        obb: Boxes, shape ``(..., 5)``.
        angle: Radians, from +x towards +y; a number, or a tensor broadcast over the leading dimensions.
        centre: Fixed point.

    Raises:
        ValueError: If a shape is wrong.
    """
    check_trailing("obb", obb, (5,))
    a = torch.as_tensor(angle, dtype=obb.dtype, device=obb.device)
    c, s = wide(a).cos().to(obb.dtype), wide(a).sin().to(obb.dtype)
    x, y = obb[..., 0], obb[..., 1]
    ox, oy = (0.0, 0.0) if centre is None else (centre[..., 0], centre[..., 1])
    nx, ny = c * (x - ox) - s * (y - oy) + ox, s * (x - ox) + c * (y - oy) + oy
    t = obb[..., 4] + a
    w, h = obb[..., 2].expand(t.shape), obb[..., 3].expand(t.shape)
    return torch.stack(torch.broadcast_tensors(nx, ny, w, h, t), -1)


def flip(obb: Float[Tensor, "*batch 5"], size: tuple[float, float], direction: str = "horizontal") -> Float[Tensor, "*batch 5"]:
    """Boxes of a mirrored image.

    Args:
        obb: Boxes, shape ``(..., 5)``.
        size: Width and height of the image.
        direction: ``"horizontal"`` (x becomes ``W - x``, t becomes ``-t``), ``"vertical"``, or ``"diagonal"`` (both: t stays).

    Raises:
        ValueError: If the shape or the direction is wrong.
    """
    check_trailing("obb", obb, (5,))
    check_option("direction", direction, ("horizontal", "vertical", "diagonal"))
    cx, cy, w, h, t = obb.unbind(-1)
    if direction in ("horizontal", "diagonal"):
        cx = size[0] - cx
    if direction in ("vertical", "diagonal"):
        cy = size[1] - cy
    return torch.stack([cx, cy, w, h, t if direction == "diagonal" else -t], -1)


def obb_contains(obb: Float[Tensor, "*#batch 5"], points: Float[Tensor, "*#batch 2"]) -> Bool[Tensor, "*batch"]:
    """Whether points lie in boxes, edges included.

    Args:
        obb: Boxes, shape ``(..., 5)``.
        points: Shape ``(..., 2)``; leading dimensions are broadcast, so ``obb[:, None]`` and ``points[None]`` give all pairs.

    Raises:
        ValueError: If a shape is wrong.
    """
    check_trailing("obb", obb, (5,))
    check_trailing("points", points, (2,))
    box, p = wide(obb), wide(points)
    d = p - box[..., :2]
    c, s = box[..., 4].cos(), box[..., 4].sin()
    along, across = c * d[..., 0] + s * d[..., 1], c * d[..., 1] - s * d[..., 0]
    return (along.abs() <= 0.5 * box[..., 2]) & (across.abs() <= 0.5 * box[..., 3])
