"""Polygons as tensors ``(..., n, 2)``, the first vertex not repeated: areas, winding, hulls, clipping, enclosing rectangles.

Polygons of different sizes stand in one tensor with ``mask (..., n)``, valid vertices first.
"""

from math import pi

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geocore._checks import check_option, check_trailing
from geocore._clamp import clamp
from geocore.planar.boxes import cross, wide
from geocore.planar.hull import convex_hull, min_area_rect

__all__ = [
    "angle_sum",
    "centroid",
    "clip_convex",
    "contains",
    "convex_hull",
    "convex_intersection_area",
    "edge_angles",
    "ensure_orientation",
    "is_convex",
    "is_simple",
    "min_area_rect",
    "orientation",
    "perimeter",
    "signed_area",
    "winding_number",
]


def closed(poly: Tensor, mask: Tensor | None) -> Tensor:
    """Padding replaced by the first vertex, which adds edges of length zero only."""
    check_trailing("poly", poly, (None, 2))
    if mask is None:
        return poly
    if mask.shape[-1] != poly.shape[-2]:
        raise ValueError(f"mask must have one entry a vertex, {poly.shape[-2]}, got shape {tuple(mask.shape)}")
    return torch.where(mask.unsqueeze(-1), poly, poly[..., :1, :])


def signed_area(poly: Float[Tensor, "*#batch n 2"], mask: Bool[Tensor, "*#batch n"] | None = None) -> Float[Tensor, "*batch"]:
    """Shoelace area, positive from +x towards +y (clockwise on a screen with y down). Taken about the first vertex, so it does not cancel.

    Args:
        poly: Vertices.
        mask: Valid ones.

    Raises:
        ValueError: If a shape is wrong.
    """
    p = wide(closed(poly, mask))
    if p.shape[-2] == 0:
        return poly.new_zeros(poly.shape[:-2])
    d = p - p[..., :1, :]
    return (0.5 * cross(d, d.roll(-1, -2)).sum(-1)).to(poly.dtype)


def perimeter(poly: Float[Tensor, "*#batch n 2"], mask: Bool[Tensor, "*#batch n"] | None = None) -> Float[Tensor, "*batch"]:
    """Length of the outline.

    Args:
        poly: Vertices.
        mask: Valid ones.

    Raises:
        ValueError: If a shape is wrong.
    """
    p = wide(closed(poly, mask))
    square = (p.roll(-1, -2) - p).square().sum(-1)
    return torch.where(square > 0, torch.where(square > 0, square, 1.0).sqrt(), 0.0).sum(-1).to(poly.dtype)


def centroid(poly: Float[Tensor, "*#batch n 2"], mask: Bool[Tensor, "*#batch n"] | None = None) -> Float[Tensor, "*batch 2"]:
    """Centre of area; the mean of the vertices where the area vanishes.

    Args:
        poly: Vertices.
        mask: Valid ones.

    Raises:
        ValueError: If a shape is wrong.
    """
    p = wide(closed(poly, mask))
    origin = p[..., :1, :]
    d = p - origin
    e = d.roll(-1, -2)
    twice = cross(d, e)
    area = twice.sum(-1, keepdim=True)
    extent = d.detach().abs().amax((-1, -2)).unsqueeze(-1)
    flat = area.abs() <= 16 * torch.finfo(p.dtype).eps * extent.square()
    weighted = (twice.unsqueeze(-1) * (d + e)).sum(-2) / (3 * torch.where(flat, 1.0, area))
    if mask is None:
        mean = d.mean(-2)
    else:
        mean = (d * mask.unsqueeze(-1)).sum(-2) / mask.sum(-1, keepdim=True).clamp(min=1)
    return (origin[..., 0, :] + torch.where(flat, mean, weighted)).to(poly.dtype)


def orientation(poly: Float[Tensor, "*#batch n 2"], mask: Bool[Tensor, "*#batch n"] | None = None) -> Int[Tensor, "*batch"]:
    """Sign of the area: 1, -1, or 0.

    Args:
        poly: Vertices.
        mask: Valid ones.

    Raises:
        ValueError: If a shape is wrong.
    """
    return signed_area(poly.detach(), mask).sign().long()


def ensure_orientation(
    poly: Float[Tensor, "*#batch n 2"], ccw: bool = True, mask: Bool[Tensor, "*#batch n"] | None = None
) -> Float[Tensor, "*batch n 2"]:
    """Polygons with their vertices in one sense of rotation; the first vertex stays first, padding last.

    Args:
        poly: Vertices.
        ccw: Positive area (counter-clockwise with y up).
        mask: Valid ones.

    Raises:
        ValueError: If a shape is wrong.
    """
    n = poly.shape[-2]
    count = torch.full(poly.shape[:-2], n, device=poly.device) if mask is None else mask.sum(-1)
    place = torch.arange(n, device=poly.device)
    back = torch.remainder(-place, count.clamp(min=1).unsqueeze(-1))
    index = torch.where(place < count.unsqueeze(-1), back, place)
    wrong = orientation(poly, mask) == (-1 if ccw else 1)
    index = torch.where(wrong.unsqueeze(-1), index, place)
    return poly.gather(-2, index.unsqueeze(-1).expand(poly.shape))


def is_convex(poly: Float[Tensor, "*#batch n 2"], mask: Bool[Tensor, "*#batch n"] | None = None) -> Bool[Tensor, "*batch"]:
    """Whether all turns go one way and round once; straight vertices are allowed.

    Args:
        poly: Vertices.
        mask: Valid ones.

    Raises:
        ValueError: If a shape is wrong.
    """
    p = wide(closed(poly, mask)).detach()
    if mask is not None:  # edges of length zero would hide the turn at the first vertex
        p = _without_repeats(p, mask)
    before, after = p - p.roll(1, -2), p.roll(-1, -2) - p
    turn = cross(before, after)
    bound = 8 * torch.finfo(p.dtype).eps * (p - p[..., :1, :]).abs().amax((-1, -2)).square().unsqueeze(-1)
    one_way = (turn >= -bound).all(-1) | (turn <= bound).all(-1)
    angle = torch.atan2(turn, (before * after).sum(-1)).sum(-1).abs()
    return one_way & (angle < 3 * pi)


def _without_repeats(p: Tensor, mask: Tensor) -> Tensor:
    """Padding spread along the last edge of each polygon, so that it is straight there."""
    n = p.shape[-2]
    count = mask.sum(-1, keepdim=True).clamp(min=1)
    last = p.gather(-2, (count - 1).unsqueeze(-1).expand(*p.shape[:-2], 1, 2))
    place = torch.arange(n, device=p.device)
    share = ((place - count + 1) / (n - count + 1)).clamp(min=0).unsqueeze(-1)
    return torch.where(mask.unsqueeze(-1), p, last + share * (p[..., :1, :] - last))


def is_simple(poly: Float[Tensor, "*#batch n 2"], mask: Bool[Tensor, "*#batch n"] | None = None) -> Bool[Tensor, "*batch"]:
    """Whether no two edges meet except neighbours at their vertex. ``O(n^2)``, without gradient.

    Args:
        poly: Vertices.
        mask: Valid ones.

    Raises:
        ValueError: If a shape is wrong.
    """
    p = wide(closed(poly, mask)).detach()
    n = p.shape[-2]
    q = p.roll(-1, -2)
    real = (p != q).any(-1)

    def side(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return cross(b - a, c - a).sign()

    a, b, c, d = p.unsqueeze(-2), q.unsqueeze(-2), p.unsqueeze(-3), q.unsqueeze(-3)
    s1, s2, s3, s4 = side(a, b, c), side(a, b, d), side(c, d, a), side(c, d, b)
    proper = (s1 * s2 < 0) & (s3 * s4 < 0)

    def on(a: Tensor, b: Tensor, c: Tensor, s: Tensor) -> Tensor:
        low, high = torch.minimum(a, b), torch.maximum(a, b)
        return (s == 0) & ((c >= low) & (c <= high)).all(-1)

    touching = on(a, b, c, s1) | on(a, b, d, s2) | on(c, d, a, s3) | on(c, d, b, s4)
    same = (a == c).all(-1) & (b == d).all(-1)
    chained = (b == c).all(-1) | (a == d).all(-1)
    # Neighbours share one vertex; they overlap only if one folds back onto the other.
    fold = chained & (cross(b - a, d - c) == 0) & (((b - a) * (d - c)).sum(-1) < 0)
    index = torch.arange(n, device=p.device)
    itself = index.unsqueeze(-1) == index
    count = (torch.full(p.shape[:-2], n, device=p.device) if mask is None else mask.sum(-1))[..., None, None]
    gap = torch.remainder(index.unsqueeze(-1) - index, count.clamp(min=1))
    neighbours = (gap == 1) | (gap == count - 1)
    bad = torch.where(neighbours, fold | proper, (proper | touching | same) & ~itself)
    return ~(bad & real.unsqueeze(-1) & real.unsqueeze(-2)).any(-1).any(-1)


def edge_angles(points: Float[Tensor, "*#batch 2"], poly: Float[Tensor, "*#batch n 2"], signed: bool = True) -> Float[Tensor, "*batch n"]:
    """Angle under which each edge is seen from a point, by ``atan2``: finite gradients on edges and vertices, too.

    Args:
        points: Shape ``(..., 2)``.
        poly: Shape ``(..., n, 2)``; leading dimensions are broadcast.
        signed: In ``(-pi, pi]`` with the sense of rotation, or in ``[0, pi]``.

    Raises:
        ValueError: If a shape is wrong.
    """
    check_trailing("points", points, (2,))
    check_trailing("poly", poly, (None, 2))
    d = wide(poly) - wide(points).unsqueeze(-2)
    e = d.roll(-1, -2)
    turn, along = cross(d, e), (d * e).sum(-1)
    turn = turn if signed else turn.abs()
    none = (turn == 0) & (along == 0)
    return torch.atan2(torch.where(none, 0.0, turn), torch.where(none, 1.0, along)).to(poly.dtype)


def winding_number(points: Float[Tensor, "*#batch 2"], poly: Float[Tensor, "*#batch n 2"]) -> Int[Tensor, "*batch"]:
    """How often a polygon goes round each point; counted by crossings of a ray, so exact off the outline.

    Args:
        points: Shape ``(..., 2)``.
        poly: Shape ``(..., n, 2)``; leading dimensions are broadcast.

    Raises:
        ValueError: If a shape is wrong.
    """
    up, down = _crossings(points, poly)
    return up.sum(-1) - down.sum(-1)


def _crossings(points: Tensor, poly: Tensor) -> tuple[Tensor, Tensor]:
    """Edges that cross the ray to the right of a point with growing and with falling y."""
    check_trailing("points", points, (2,))
    check_trailing("poly", poly, (None, 2))
    d = wide(poly).detach() - wide(points).detach().unsqueeze(-2)
    e = d.roll(-1, -2)
    side = cross(d, e)
    up = (d[..., 1] <= 0) & (e[..., 1] > 0) & (side > 0)
    down = (d[..., 1] > 0) & (e[..., 1] <= 0) & (side < 0)
    return up.long(), down.long()


def contains(points: Float[Tensor, "*#batch 2"], poly: Float[Tensor, "*#batch n 2"], rule: str = "nonzero") -> Bool[Tensor, "*batch"]:
    """Whether points lie in a polygon; on the outline either way.

    Args:
        points: Shape ``(..., 2)``.
        poly: Shape ``(..., n, 2)``; leading dimensions are broadcast.
        rule: ``"nonzero"`` winding, or ``"evenodd"`` crossings.

    Raises:
        ValueError: If a shape or the rule is wrong.
    """
    check_option("rule", rule, ("nonzero", "evenodd"))
    up, down = _crossings(points, poly)
    if rule == "evenodd":
        return torch.remainder((up + down).sum(-1), 2) == 1
    return (up - down).sum(-1) != 0


def angle_sum(
    points: Float[Tensor, "*#batch 2"], poly: Float[Tensor, "*#batch n 2"], kind: str = "unsigned", *, tau: float = 1e-2
) -> Float[Tensor, "*batch"]:
    """Sum of the angles under which the edges are seen.

    ``"signed"`` is ``2 pi`` times the winding number: constant almost everywhere, with gradient zero, so no loss can be built on it.
    ``"unsigned"`` is ``2 pi`` where the whole outline is seen (inside star-shaped polygons) and a smooth function outside.
    ``"soft"`` smooths its kink at zero angle: ``sqrt(angle^2 + tau^2) - tau``.

    Args:
        points: Shape ``(..., 2)``.
        poly: Shape ``(..., n, 2)``; leading dimensions are broadcast.
        kind: ``"unsigned"``, ``"signed"`` or ``"soft"``.
        tau: Width of the smoothing, radians.

    Raises:
        ValueError: If a shape or the kind is wrong.
    """
    check_option("kind", kind, ("unsigned", "signed", "soft"))
    angles = edge_angles(points, poly, signed=kind != "unsigned")
    if kind == "soft":
        angles = (angles.square() + tau**2).sqrt() - tau
    return angles.sum(-1)


def clip_convex(
    subject: Float[Tensor, "*#batch n 2"], clip: Float[Tensor, "*#batch m 2"], *, convex_subject: bool = False
) -> Float[Tensor, "*batch p 2"]:
    """The part of a polygon inside a convex one, as a closed curve of fixed length: differentiable and without branches.

    Half-plane by half-plane, outside vertices move onto the line and crossings are inserted; what runs back and forth on the line cancels
    in ``signed_area``. The result has repeated and collinear vertices.

    Args:
        subject: Any polygon.
        clip: Convex polygon, either way round.
        convex_subject: The subject is convex: two crossings a line, so the result has ``n + 2 m`` vertices instead of ``n 2^m``.

    Raises:
        ValueError: If a shape is wrong.
    """
    check_trailing("subject", subject, (None, 2))
    check_trailing("clip", clip, (None, 2))
    dtype = torch.promote_types(subject.dtype, clip.dtype)
    p, q = wide(subject.to(dtype)), ensure_orientation(wide(clip.to(dtype)))
    batch = torch.broadcast_shapes(p.shape[:-2], q.shape[:-2])
    p, q = p.expand(*batch, *p.shape[-2:]), q.expand(*batch, *q.shape[-2:])
    shift = q[..., :1, :].detach()
    p, q = p - shift, q - shift
    for j in range(q.shape[-2]):
        a, b = q[..., j, :], q[..., (j + 1) % q.shape[-2], :]
        p = _clip_half_plane(p, a, b - a, convex_subject)
    return (p + shift).to(dtype)


def _clip_half_plane(p: Tensor, a: Tensor, along: Tensor, convex: bool) -> Tensor:
    """Left of the line from ``a`` along ``along``; an edge of length zero clips nothing."""
    square = along.square().sum(-1)
    none = square == 0
    normal = torch.stack([-along[..., 1], along[..., 0]], -1) / torch.where(none, 1.0, square).sqrt().unsqueeze(-1)
    s = ((p - a.unsqueeze(-2)) * normal.unsqueeze(-2)).sum(-1)
    s = torch.where(none.unsqueeze(-1), 1.0, s)
    kept = p - torch.where(s < 0, s, 0.0).unsqueeze(-1) * normal.unsqueeze(-2)  # a vertex on the line is inside, for derivatives too
    s1, p1 = s.roll(-1, -1), p.roll(-1, -2)
    crossing = (s < 0) != (s1 < 0)
    t = s / torch.where(crossing, s - s1, 1.0)
    cut = torch.where(crossing.unsqueeze(-1), p + t.unsqueeze(-1) * (p1 - p), kept)
    if not convex:
        return torch.stack([kept, cut], -2).flatten(-3, -2)
    # All that is outside goes to the point where the outline leaves, so that it stays convex; to one point if it never is inside.
    n = p.shape[-2]
    leaving = (crossing & (s >= 0)).long().argmax(-1)[..., None, None].expand(*p.shape[:-2], 1, 2)
    exit_ = torch.where(crossing.any(-1)[..., None, None], cut.gather(-2, leaving), kept[..., :1, :])
    kept = torch.where((s < 0).unsqueeze(-1), exit_, p)
    crossing = crossing & (crossing.long().cumsum(-1) <= 2)  # rounding can fake more on edges along the line; they lie on it
    before = torch.nn.functional.pad(crossing.long().cumsum(-1)[..., :-1], (1, 0))
    place = torch.arange(n, device=p.device) + before
    out = kept[..., -1:, :].expand(*p.shape[:-2], n + 2, 2)
    out = out.scatter(-2, place.unsqueeze(-1).expand(kept.shape), kept)
    slot = torch.where(crossing, place + 1, n + 1)
    last = out[..., n + 1 :, :]
    value = torch.where(crossing.unsqueeze(-1), cut, last)
    filled = torch.cat([out, last], -2)  # one slot more, for what is no crossing
    slot = torch.where(crossing, slot, n + 2)
    return filled.scatter(-2, slot.unsqueeze(-1).expand(value.shape), value)[..., : n + 2, :]


def convex_intersection_area(p: Float[Tensor, "*#batch n 2"], q: Float[Tensor, "*#batch m 2"]) -> Float[Tensor, "*batch"]:
    """Area that two convex polygons share, either way round, differentiable.

    Args:
        p, q: Vertices; leading dimensions are broadcast.

    Raises:
        ValueError: If a shape is wrong.
    """
    return clamp(signed_area(clip_convex(ensure_orientation(p), q, convex_subject=True)), min=0.0)
