"""Exact overlap of oriented boxes: differentiable, without sorting or branches.

Clamping a closed curve to a rectangle keeps its winding number about every inner point, so the signed area of the clamped curve is that of
the part inside, and it is a sum over edges of closed-form integrals. Working in the frame of one box, with the difference of the centres,
keeps float32 accurate at any coordinates and for boxes that coincide.
"""

from math import prod
from typing import Literal, overload

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geocore._checks import check_option, check_positive_int, check_trailing
from geocore._ops import kernel_may_run
from geocore.planar._overlap import circles_meet, clamped_area, intersection, ratio, relative, share
from geocore.planar.boxes import obb_to_corners, wide

__all__ = ["obb_intersection_area", "obb_iou", "obb_iou_matrix", "poly_obb_intersection_area"]

MODES = ("iou", "iof", "giou", "diou")


def _pair(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, torch.dtype]:
    check_trailing("a", a, (5,))
    check_trailing("b", b, (5,))
    dtype = torch.promote_types(a.dtype, b.dtype)
    a, b = torch.broadcast_tensors(wide(a.to(dtype)), wide(b.to(dtype)))
    return a, b, dtype


def obb_intersection_area(a: Float[Tensor, "*#batch 5"], b: Float[Tensor, "*#batch 5"]) -> Float[Tensor, "*batch"]:
    """Area that two boxes share: exact, with exact derivatives almost everywhere.

    Args:
        a, b: Boxes, shapes ``(..., 5)``, broadcast against each other.

    Returns:
        Areas; exactly 0 with zero gradient for boxes that do not meet.

    Raises:
        ValueError: If the last dimension is not 5.

    Example:
        >>> square = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0])
        >>> obb_intersection_area(square, square + torch.tensor([0.5, 0, 0, 0, 0]))
        tensor(0.5000)
    """
    a, b, dtype = _pair(a, b)
    return intersection(a, b).to(dtype)


def _enclosing(a: Tensor, b: Tensor, enclosing: str) -> tuple[Tensor, Tensor]:
    """Area of the region around both boxes, and its squared diameter."""
    if enclosing == "aabb":
        x, y, c, s = relative(b, a)
        ex, ey = 0.5 * (b[..., 2] * c.abs() + b[..., 3] * s.abs()), 0.5 * (b[..., 2] * s.abs() + b[..., 3] * c.abs())
        hw, hh = 0.5 * a[..., 2], 0.5 * a[..., 3]
        width = torch.maximum(hw, x + ex) - torch.minimum(-hw, x - ex)
        height = torch.maximum(hh, y + ey) - torch.minimum(-hh, y - ey)
        return width * height, width.square() + height.square()
    from geocore.planar.hull import convex_hull
    from geocore.planar.polygon import signed_area

    shift = a[..., :2].detach()
    local = [torch.cat([box[..., :2] - shift, box[..., 2:]], -1) for box in (a, b)]
    points = torch.cat([obb_to_corners(box) for box in local], -2)
    index, count = convex_hull(points.detach())
    hull = points.gather(-2, index.clamp(min=0).unsqueeze(-1).expand(*index.shape, 2))
    valid = torch.arange(index.shape[-1], device=a.device) < count.unsqueeze(-1)
    span = (points.unsqueeze(-2) - points.unsqueeze(-3)).square().sum(-1).flatten(-2).amax(-1)
    return signed_area(hull, mask=valid), span


def _score(a: Tensor, b: Tensor, mode: str, enclosing: str, clamp: bool) -> Tensor:
    if mode in ("iou", "iof") and not clamp:
        return ratio(a, b, mode == "iof")
    area_a, area_b = a[..., 2] * a[..., 3], b[..., 2] * b[..., 3]
    inter = intersection(a, b)
    if clamp:
        inter = torch.minimum(inter, torch.minimum(area_a, area_b))
    iou = share(a, b, inter, mode == "iof")
    if mode in ("iou", "iof"):
        return iou
    union = area_a + area_b - inter
    area, diameter = _enclosing(a, b, enclosing)
    if mode == "giou":
        return iou - torch.where(area > 0, (area - union) / torch.where(area > 0, area, 1.0), 0.0)
    distance = (a[..., :2] - b[..., :2]).square().sum(-1)
    return iou - torch.where(diameter > 0, distance / torch.where(diameter > 0, diameter, 1.0), 0.0)


def obb_iou(
    a: Float[Tensor, "*#batch 5"], b: Float[Tensor, "*#batch 5"], mode: str = "iou", *, enclosing: str = "hull"
) -> Float[Tensor, "*batch"]:
    """Overlap of boxes, pair by pair, differentiable.

    Args:
        a, b: Boxes, shapes ``(..., 5)``, broadcast against each other.
        mode: ``"iou"``, ``"iof"`` (share of ``a``), ``"giou"`` or ``"diou"``.
        enclosing: Region around both for the last two: their convex ``"hull"`` (for ``"diou"`` its diameter), or ``"aabb"``, the box
            around both with the axes of ``a``.

    Returns:
        Values; 0 for boxes without area.

    Raises:
        ValueError: If a shape or an option is wrong.

    Example:
        >>> square = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0])
        >>> obb_iou(square, square + torch.tensor([0, 0, 0, 0, torch.pi / 4]))
        tensor(0.7071)
    """
    check_option("mode", mode, MODES)
    check_option("enclosing", enclosing, ("hull", "aabb"))
    a, b, dtype = _pair(a, b)
    return _score(a, b, mode, enclosing, clamp=False).to(dtype)


@overload
def obb_iou_matrix(
    a: Float[Tensor, "*#batch n 5"], b: Float[Tensor, "*#batch m 5"], mode: str = ..., *, sparse: Literal[False] = ..., chunk: int = ...
) -> Float[Tensor, "*batch n m"]: ...


@overload
def obb_iou_matrix(
    a: Float[Tensor, "*#batch n 5"], b: Float[Tensor, "*#batch m 5"], mode: str = ..., *, sparse: Literal[True], chunk: int = ...
) -> tuple[Int[Tensor, "pairs"], Int[Tensor, "pairs"], Float[Tensor, "pairs"]]: ...


def obb_iou_matrix(
    a: Float[Tensor, "*#batch n 5"],
    b: Float[Tensor, "*#batch m 5"],
    mode: str = "iou",
    *,
    sparse: bool = False,
    chunk: int = 2**16,
):
    """Overlap of every box of one set with every box of another.

    Only pairs whose circumscribed circles meet are computed, ``chunk`` at a time.

    Args:
        a, b: Boxes, shapes ``(..., n, 5)`` and ``(..., m, 5)`` with equal or broadcasting leading dimensions.
        mode: ``"iou"``, ``"iof"``, or, for all pairs, ``"giou"``, ``"diou"``.
        sparse: Return ``(i, j, value)`` of the pairs with a value other than zero, instead of the matrix.
        chunk: Pairs at a time; bounds the memory where no compiled kernel measures the pairs.

    Returns:
        Matrix ``(..., n, m)``, or with ``sparse`` (two-dimensional inputs only) int64 ``i``, ``j`` and values, row by row.

    Raises:
        ValueError: If a shape or an option is wrong.
    """
    check_trailing("a", a, (None, 5))
    check_trailing("b", b, (None, 5))
    check_option("mode", mode, MODES)
    check_positive_int("chunk", chunk)
    if sparse and (a.ndim != 2 or b.ndim != 2):
        raise ValueError(f"sparse needs two sets of shape (n, 5) and (m, 5), got {tuple(a.shape)} and {tuple(b.shape)}")
    dtype = torch.promote_types(a.dtype, b.dtype)
    a, b = wide(a.to(dtype)), wide(b.to(dtype))
    n, m = a.shape[-2], b.shape[-2]
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    items = prod(batch)
    a, b = a.expand(*batch, n, 5).reshape(items, n, 5), b.expand(*batch, m, 5).reshape(items, m, 5)
    clamp = not (torch.is_grad_enabled() and (a.requires_grad or b.requires_grad))
    if clamp and not sparse and mode in ("iou", "iof") and kernel_may_run("obb_iou_table", a, b, count=items * n * m):
        return torch.ops.geocore.obb_iou_table(a, b, mode == "iof").reshape(*batch, n, m).to(dtype)
    if mode in ("giou", "diou"):
        k, i, j = torch.ones(items, n, m, dtype=torch.bool, device=a.device).nonzero(as_tuple=True)
    elif items == 1 and kernel_may_run("obb_iou_list", a, b, count=n * m):
        (i, j), value = torch.ops.geocore.obb_iou_list(a[0].detach(), b[0].detach(), mode == "iof")
        if clamp:
            return i, j, value.to(dtype)
        k = torch.zeros_like(i)
    else:
        k, i, j = circles_meet(a.detach(), b.detach()).nonzero(as_tuple=True)
    flat_a, flat_b = a.reshape(-1, 5), b.reshape(-1, 5)
    rows, columns = k * n + i, k * m + j
    values = [
        _score(flat_a[rows[at : at + chunk]], flat_b[columns[at : at + chunk]], mode, "hull", clamp) for at in range(0, len(rows), chunk)
    ]
    value = torch.cat(values) if values else flat_a.new_zeros(0)
    if sparse:
        keep = value.detach() != 0
        return i[keep], j[keep], value[keep].to(dtype)
    out = torch.zeros(len(a) * n * m, dtype=value.dtype, device=a.device)
    out = out.index_put((rows * m + j,), value)
    return out.reshape(*batch, n, m).to(dtype)


def poly_obb_intersection_area(
    poly: Float[Tensor, "*#batch n 2"], obb: Float[Tensor, "*#batch 5"], *, signed: bool = False
) -> Float[Tensor, "*batch"]:
    """Area of the part of a polygon inside a box, for any closed polygon, convex or not.

    Each region counts with its winding number, so a figure of eight counts one loop against the other.

    Args:
        poly: Vertices, shape ``(..., n, 2)``, the first not repeated.
        obb: Boxes, shape ``(..., 5)``; leading dimensions are broadcast.
        signed: Keep the sign of the orientation.

    Raises:
        ValueError: If a shape is wrong.
    """
    check_trailing("poly", poly, (None, 2))
    check_trailing("obb", obb, (5,))
    dtype = torch.promote_types(poly.dtype, obb.dtype)
    p, box = wide(poly.to(dtype)), wide(obb.to(dtype)).unsqueeze(-2)
    d = p - box[..., :2]
    c, s = box[..., 4].cos(), box[..., 4].sin()
    local = torch.stack([c * d[..., 0] + s * d[..., 1], c * d[..., 1] - s * d[..., 0]], -1)
    area = clamped_area(local, 0.5 * box[..., 0, 2], 0.5 * box[..., 0, 3])
    return (area if signed else area.abs()).to(dtype)
