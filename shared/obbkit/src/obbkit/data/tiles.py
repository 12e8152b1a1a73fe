"""Large images as overlapping tiles, and the detections of tiles put together."""

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from geocore._checks import check_positive_int
from geocore.planar import poly_obb_intersection_area, signed_area, translate
from obbkit.nms import rotated_nms

__all__ = ["Tile", "merge_tiles", "split_tiles", "tile_windows"]

_NAME = re.compile(r"(?P<image>.+)__(?P<x>\d+)___(?P<y>\d+)")


class Tile(NamedTuple):
    """A part of an image.

    Args:
        name: ``<image>__<x>___<y>``.
        window: ``(x, y, width, height)`` in the image.
        objects: Which objects are in it, int64 ``(k,)``.
        polygons: Their corners in the tile, ``(k, 4, 2)``; what reaches over the edge is kept as it is.
        share: How much of each lies inside.
    """

    name: str
    window: tuple[int, int, int, int]
    objects: Tensor
    polygons: Tensor
    share: Tensor


def tile_windows(width: int, height: int, size: int = 1024, overlap: int = 200) -> list[tuple[int, int, int, int]]:
    """Windows ``(x, y, width, height)`` that cover an image; the last of a row or column is moved back to end with the image.

    Args:
        width, height: Of the image.
        size: Side of a tile; smaller images are one tile.
        overlap: Pixels that neighbours share.

    Raises:
        ValueError: If ``overlap`` is not below ``size``.
    """
    for name, value in (("width", width), ("height", height), ("size", size)):
        check_positive_int(name, value)
    if not 0 <= overlap < size:
        raise ValueError(f"overlap must lie in [0, size), got {overlap} for {size}")

    def starts(length: int) -> list[int]:
        if length <= size:
            return [0]
        step = size - overlap
        return [*range(0, length - size, step), length - size]

    return [(x, y, min(size, width), min(size, height)) for y in starts(height) for x in starts(width)]


def split_tiles(
    name: str, width: int, height: int, polygons: Tensor, *, size: int = 1024, overlap: int = 200, min_share: float = 0.7
) -> list[Tile]:
    """Tiles of an image with the objects in them.

    Args:
        name: Of the image.
        width, height: Of the image.
        polygons: Corners of the objects, ``(n, 4, 2)``.
        size, overlap: As ``tile_windows``.
        min_share: Least share of an object's area that must lie inside.

    Raises:
        ValueError: If an argument is out of range.
    """
    if not 0 <= min_share <= 1:
        raise ValueError(f"min_share must lie in [0, 1], got {min_share}")
    quads = polygons.double().reshape(-1, 4, 2)
    area = signed_area(quads).abs()
    tiles = []
    for x, y, w, h in tile_windows(width, height, size, overlap):
        window = torch.tensor([x + w / 2, y + h / 2, w, h, 0.0], dtype=torch.float64)
        share = poly_obb_intersection_area(quads, window) / area.clamp(min=1e-9)
        index = ((share >= min_share) & (share > 0)).nonzero()[:, 0]
        moved = quads[index] - torch.tensor([x, y], dtype=torch.float64)
        tiles.append(Tile(f"{name}__{x}___{y}", (x, y, w, h), index, moved, share[index]))
    return tiles


def merge_tiles(results: Mapping[str, Mapping[str, Tensor]], iou_threshold: float = 0.1) -> dict[str, dict[str, Tensor]]:
    """Detections of tiles as detections of images: moved to their place, then rotated NMS by class.

    Args:
        results: For each tile name ``boxes (k, 5)``, ``scores`` and ``labels``.
        iou_threshold: Of the suppression.

    Returns:
        The same for each image.

    Raises:
        ValueError: If a name is not ``<image>__<x>___<y>``.
    """
    parts: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {}
    for name, found in results.items():
        match = _NAME.fullmatch(name)
        if match is None:
            raise ValueError(f"tiles must be named <image>__<x>___<y>, got {name!r}")
        offset = torch.tensor([float(match["x"]), float(match["y"])], dtype=found["boxes"].dtype, device=found["boxes"].device)
        parts.setdefault(match["image"], []).append((translate(found["boxes"], offset), found["scores"], found["labels"]))
    out = {}
    for image, found in parts.items():
        boxes, scores, labels = (torch.cat(column) for column in zip(*found, strict=True))
        keep = rotated_nms(boxes, scores, iou_threshold, labels)
        out[image] = {"boxes": boxes[keep], "scores": scores[keep], "labels": labels[keep]}
    return out
