"""One prediction a point: grids of points, boxes as distances from them, and which object each point is responsible for (FCOS)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geocore._checks import check_trailing

__all__ = ["Assignment", "assign_points", "centerness", "decode_points", "encode_points", "grid_points"]


def grid_points(
    sizes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device | str | None = None
) -> tuple[Float[Tensor, "points 2"], Int[Tensor, "points"]]:
    """Centres of the cells of every level, in pixels of the image, row by row.

    Args:
        sizes: Height and width of each level.
        strides: Pixels of a cell of each level.
        device: Where to make them.

    Returns:
        Points ``(x, y)`` and the number of their level.

    Raises:
        ValueError: If there is not one stride a level.
    """
    if len(sizes) != len(strides):
        raise ValueError(f"strides must be one a level, got {len(strides)} for {len(sizes)}")
    points, levels = [torch.zeros(0, 2, device=device)], [torch.zeros(0, dtype=torch.int64, device=device)]
    for level, ((height, width), stride) in enumerate(zip(sizes, strides, strict=True)):
        y, x = (stride * (torch.arange(k, device=device) + 0.5) for k in (height, width))
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(-1, 2)
        points.append(grid)
        levels.append(torch.full((len(grid),), level, device=device))
    return torch.cat(points), torch.cat(levels)


def encode_points(points: Float[Tensor, "*#batch 2"], boxes: Float[Tensor, "*#batch 5"]) -> Float[Tensor, "*batch 4"]:
    """Distances ``(left, top, right, bottom)`` from points to the sides of boxes, in the frame of the box; negative outside.

    Args:
        points: Shape ``(..., 2)``.
        boxes: Shape ``(..., 5)``, broadcast.

    Raises:
        ValueError: If a shape is wrong.
    """
    check_trailing("points", points, (2,))
    check_trailing("boxes", boxes, (5,))
    d = points - boxes[..., :2]
    c, s = boxes[..., 4].cos(), boxes[..., 4].sin()
    x, y = c * d[..., 0] + s * d[..., 1], c * d[..., 1] - s * d[..., 0]
    hw, hh = 0.5 * boxes[..., 2], 0.5 * boxes[..., 3]
    return torch.stack([hw + x, hh + y, hw - x, hh - y], -1)


def decode_points(
    points: Float[Tensor, "*#batch 2"], distances: Float[Tensor, "*#batch 4"], angle: Float[Tensor, "*#batch"]
) -> Float[Tensor, "*batch 5"]:
    """Boxes from distances and angles: ``centre = point + R(angle) ((r - l) / 2, (b - t) / 2)``, sides ``l + r`` and ``t + b``.

    Args:
        points: Shape ``(..., 2)``.
        distances: Shape ``(..., 4)``, not negative.
        angle: Shape ``(...)``.

    Raises:
        ValueError: If a shape is wrong.
    """
    check_trailing("points", points, (2,))
    check_trailing("distances", distances, (4,))
    left, top, right, bottom = distances.unbind(-1)
    x, y = 0.5 * (right - left), 0.5 * (bottom - top)
    c, s = angle.cos(), angle.sin()
    cx, cy = points[..., 0] + c * x - s * y, points[..., 1] + s * x + c * y
    return torch.stack(torch.broadcast_tensors(cx, cy, left + right, top + bottom, angle), -1)


def centerness(distances: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch"]:
    """``sqrt(min(l, r) / max(l, r) min(t, b) / max(t, b))``: 1 in the middle, 0 on a side.

    Args:
        distances: Shape ``(..., 4)``.

    Raises:
        ValueError: If the shape is wrong.
    """
    check_trailing("distances", distances, (4,))
    left, top, right, bottom = distances.unbind(-1)

    def ratio(a: Tensor, b: Tensor) -> Tensor:
        high = torch.maximum(a, b)
        return torch.minimum(a, b) / torch.where(high > 0, high, 1.0)

    product = ratio(left, right) * ratio(top, bottom)
    inside = product > 0
    return torch.where(inside, torch.where(inside, product, 1.0).sqrt(), 0.0)


class Assignment(NamedTuple):
    """Object of each point, ``-1`` for none.

    Args:
        objects: Number of the object in its image, int64 ``(points,)``.
        positive: Whether there is one.
    """

    objects: Int[Tensor, "points"]
    positive: Bool[Tensor, "points"]


@torch.no_grad()
def assign_points(
    points: Float[Tensor, "points 2"],
    levels: Int[Tensor, "points"],
    boxes: Float[Tensor, "objects 5"],
    strides: Sequence[int],
    ranges: Sequence[tuple[float, float]],
    radius: float | None = 1.5,
) -> Assignment:
    """The smallest object that a point lies in, near its centre, and whose size belongs to the level of the point.

    Args:
        points, levels: From ``grid_points``.
        boxes: Objects of one image.
        strides: Stride of each level.
        ranges: Largest distance to a side that each level is for.
        radius: How far from the centre a point may be, in strides, along the axes of the box; ``None`` for anywhere inside.

    Raises:
        ValueError: If a shape is wrong.
    """
    check_trailing("points", points, (None, 2))
    check_trailing("boxes", boxes, (None, 5))
    if len(ranges) != len(strides):
        raise ValueError(f"ranges must be one a level, got {len(ranges)} for {len(strides)} strides")
    if len(boxes) == 0 or len(points) == 0:
        none = torch.full((len(points),), -1, dtype=torch.int64, device=points.device)
        return Assignment(none, none >= 0)
    distances = encode_points(points[:, None], boxes[None])
    fits = distances.amin(-1) > 0
    if radius is not None:
        reach = radius * torch.tensor(strides, dtype=boxes.dtype, device=boxes.device)[levels][:, None]
        x, y = 0.5 * (distances[..., 0] - distances[..., 2]), 0.5 * (distances[..., 1] - distances[..., 3])
        fits &= (x.abs() < reach) & (y.abs() < reach)
    span = torch.tensor(ranges, dtype=boxes.dtype, device=boxes.device)[levels]
    size = distances.amax(-1)
    fits &= (size >= span[:, :1]) & (size <= span[:, 1:])
    area = torch.where(fits, boxes[:, 2] * boxes[:, 3], torch.inf)
    smallest, index = area.min(-1)
    positive = torch.isfinite(smallest)
    return Assignment(torch.where(positive, index, -1), positive)
