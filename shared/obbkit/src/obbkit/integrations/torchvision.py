"""Boxes as the ``tv_tensors.BoundingBoxes`` of torchvision, from version 0.23 on, which is imported when a function here is called.

Its rotated formats count degrees, counter-clockwise as seen on the screen: the opposite of our angle. Corners are in our order.
"""

from importlib import import_module
from math import pi
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from geocore._checks import check_floating, check_trailing
from geocore.planar import aabb_to_obb, canonicalize, corners_to_obb

__all__ = ["from_bounding_boxes", "to_bounding_boxes"]


def _tv_tensors() -> Any:
    try:
        package = import_module("torchvision")
        tv_tensors = package.tv_tensors if hasattr(package, "tv_tensors") else import_module("torchvision.tv_tensors")
    except (ImportError, RuntimeError) as error:  # the second where its operators were built for another torch
        raise ImportError(f"obbkit.integrations.torchvision needs a torchvision that fits this torch: {error}") from error
    if not hasattr(tv_tensors.BoundingBoxFormat, "CXCYWHR"):
        raise ImportError("obbkit.integrations.torchvision needs torchvision 0.23 or newer, which has rotated boxes")
    return tv_tensors


def to_bounding_boxes(boxes: Float[Tensor, "n 5"], canvas_size: tuple[int, int]) -> Any:
    """``BoundingBoxes`` of format CXCYWHR.

    Args:
        boxes: Shape ``(n, 5)``, radians.
        canvas_size: Height and width of the image.

    Raises:
        ImportError: If torchvision is missing or too old.
        ValueError: If the shape is wrong.
    """
    check_floating("boxes", boxes)
    check_trailing("boxes", boxes, (None, 5))
    tv = _tv_tensors()
    degrees = -boxes[:, 4:] * (180 / pi)
    rows = torch.cat([boxes[:, :4], degrees], 1)
    return tv.BoundingBoxes(rows, format=tv.BoundingBoxFormat.CXCYWHR, canvas_size=tuple(canvas_size))


def from_bounding_boxes(boxes: Any, pattern: str = "le90") -> Float[Tensor, "n 5"]:
    """Oriented boxes of ``BoundingBoxes`` of any format; upright ones get the angle 0.

    Args:
        boxes: ``BoundingBoxes``.
        pattern: Range of the angle, as ``geocore.planar.canonicalize``.

    Raises:
        TypeError: If it has no format.
        ValueError: If the format is unknown.
    """
    kind = getattr(getattr(boxes, "format", None), "value", None)
    if kind is None:
        raise TypeError(f"boxes must be BoundingBoxes of torchvision, got {type(boxes).__name__}")
    rows = boxes.as_subclass(Tensor)
    rows = rows if rows.is_floating_point() else rows.float()
    if kind == "XYXYXYXY":
        return canonicalize(corners_to_obb(rows.reshape(-1, 4, 2)), pattern)
    first, size = rows[:, :2], rows[:, 2:4]
    if kind == "XYXY":
        return canonicalize(aabb_to_obb(rows), pattern)
    if kind not in ("XYWH", "CXCYWH", "XYWHR", "CXCYWHR"):
        raise ValueError(f"boxes must have a format of torchvision 0.23 to 0.28, got {kind}")
    t = rows[:, 4:] * (-pi / 180) if kind.endswith("R") else torch.zeros_like(rows[:, :1])
    if kind.startswith("XY"):  # the first corner
        w, h, c, s = *size.split(1, 1), t.cos(), t.sin()
        first = first + 0.5 * torch.cat([c * w - s * h, s * w + c * h], 1)
    return canonicalize(torch.cat([first, size, t], 1), pattern)
