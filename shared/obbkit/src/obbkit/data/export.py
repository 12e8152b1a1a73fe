"""Boxes in the formats of other tools."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geocore._checks import check_trailing
from geocore.planar import canonicalize, min_area_rect, obb_to_aabb, obb_to_corners
from obbkit.data.dota import AnnotationError

__all__ = ["read_yolo_obb", "to_coco", "to_yolo_obb"]


def to_yolo_obb(path: str | Path, boxes: Tensor, labels: Sequence[int] | Tensor, size: tuple[int, int]) -> None:
    """Write labels for ultralytics OBB: lines ``class x1 y1 x2 y2 x3 y3 x4 y4``, coordinates divided by the image size.

    Args:
        path: File; replaced.
        boxes: Shape ``(n, 5)``.
        labels: Class numbers.
        size: Height and width of the image.

    Raises:
        ValueError: If lengths differ or a coordinate is not finite.
    """
    check_trailing("boxes", boxes, (None, 5))
    numbers = [int(value) for value in labels]
    if len(numbers) != len(boxes):
        raise ValueError(f"labels must be one a box, got {len(numbers)} for {len(boxes)}")
    if not bool(torch.isfinite(boxes).all()):
        raise ValueError("boxes must be finite, got NaN or infinity")
    scale = torch.tensor([size[1], size[0]], dtype=torch.float64)
    corners = obb_to_corners(boxes.detach().cpu().double()) / scale
    rows = [
        f"{label} " + " ".join(f"{value:.6f}" for value in quad) for label, quad in zip(numbers, corners.flatten(1).tolist(), strict=True)
    ]
    Path(path).write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


def read_yolo_obb(path: str | Path, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Boxes ``(n, 5)``, le90, and labels of an ultralytics OBB file.

    Args:
        path: File.
        size: Height and width of the image.

    Raises:
        FileNotFoundError: If there is no such file.
        AnnotationError: For a line that is none; the message names it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"annotation file {path} is missing")
    labels, rows = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        columns = line.split()
        if not columns:
            continue
        try:
            if len(columns) != 9:
                raise ValueError(f"expected a class and 8 coordinates, got {len(columns)} columns")
            labels.append(int(columns[0]))
            rows.append([float(value) for value in columns[1:]])
        except ValueError as error:
            raise AnnotationError(f"{path}, line {number}: {error}") from error
    quads = torch.tensor(rows, dtype=torch.float64).reshape(-1, 4, 2) * torch.tensor([size[1], size[0]], dtype=torch.float64)
    boxes = canonicalize(min_area_rect(quads), "le90") if len(quads) else torch.zeros(0, 5)
    return boxes.float(), torch.tensor(labels, dtype=torch.int64)


def to_coco(
    images: Sequence[Mapping[str, Any]], targets: Sequence[Mapping[str, Any]], classes: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """COCO annotations: upright ``bbox``, the corners as ``segmentation``, and the box itself as ``rbox``.

    Args:
        images: For each image ``file_name``, ``height`` and ``width``.
        targets: For each image ``boxes (n, 5)`` and ``labels``.
        classes: Names of the labels; category numbers start at one.

    Raises:
        ValueError: If lengths differ.
    """
    if len(images) != len(targets):
        raise ValueError(f"images and targets must have one length, got {len(images)} and {len(targets)}")
    annotations: list[dict[str, Any]] = []
    for i, target in enumerate(targets, 1):
        boxes = target["boxes"].detach().cpu().double()
        upright, corners = obb_to_aabb(boxes), obb_to_corners(boxes).flatten(1)
        for box, hull, quad, label in zip(boxes.tolist(), upright.tolist(), corners.tolist(), target["labels"].tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": label + 1,
                    "bbox": [hull[0], hull[1], hull[2] - hull[0], hull[3] - hull[1]],
                    "segmentation": [quad],
                    "rbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    return {
        "images": [{"id": i, **image} for i, image in enumerate(images, 1)],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes, 1)],
    }
