"""Oriented boxes on images, with pillow."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geocore.planar import obb_to_corners

__all__ = ["COLOURS", "draw_boxes", "save_image"]

COLOURS = ("#e0762a", "#2f6fde", "#2a9d6f", "#b04fc4", "#d64550", "#b8a02c", "#1aa3b8", "#7a8699")
"""Colour of each class, again from the first after the last."""


def draw_boxes(
    image: Tensor,
    found: Mapping[str, Tensor],
    classes: Sequence[str] = (),
    *,
    truth: Mapping[str, Tensor] | None = None,
    score_threshold: float = 0.3,
    scale: float = 1.0,
    line: int = 2,
) -> Any:
    """A picture: boxes in the colour of their class, with a stroke from the centre along the long axis; the truth in thin white.

    Args:
        image: Shape ``(channels, H, W)`` with one or three channels; brightness is stretched to its range.
        found: ``boxes (k, 5)`` and ``labels``, perhaps ``scores``.
        classes: Names to write, with the score; none are written if not given.
        truth: ``boxes (m, 5)``.
        score_threshold: Boxes below are left out.
        scale: Enlargement.
        line: Width of the lines.

    Returns:
        A ``PIL.Image.Image``.

    Raises:
        ValueError: If the image has another shape.
        ImportError: If pillow is missing.
    """
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise ImportError("drawing needs pillow: pip install 'ucr-rsar[images]'") from error
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"image must have shape (1 or 3, H, W), got {tuple(image.shape)}")
    x = image.detach().cpu().float()
    low, high = (float(v) for v in (x.min(), x.max()))
    x = (x - low) / max(high - low, 1e-6)
    pixels = np.ascontiguousarray((x.expand(3, -1, -1).permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
    picture = Image.fromarray(pixels)
    if scale != 1:
        picture = picture.resize((round(picture.width * scale), round(picture.height * scale)))
    pen = ImageDraw.Draw(picture)
    if truth is not None:
        for quad in (obb_to_corners(truth["boxes"].detach().cpu().float()) * scale).tolist():
            pen.polygon([tuple(p) for p in quad], outline="#ffffff")
    scores = found.get("scores", torch.ones(len(found["boxes"]))).detach().cpu()
    keep = scores >= score_threshold
    boxes = found["boxes"].detach().cpu().float()[keep]
    for box, quad, label, score in zip(
        boxes, (obb_to_corners(boxes) * scale).tolist(), found["labels"].cpu()[keep].tolist(), scores[keep].tolist(), strict=True
    ):
        colour = COLOURS[label % len(COLOURS)]
        pen.polygon([tuple(p) for p in quad], outline=colour, width=line)
        long = 0 if box[2] >= box[3] else 1
        middle = torch.tensor(quad).mean(0)
        side = torch.tensor(quad)[[1, 2] if long == 0 else [2, 3]].mean(0)
        pen.line([tuple(middle.tolist()), tuple(side.tolist())], fill=colour, width=max(line // 2, 1))
        if classes:
            top = min(quad, key=lambda p: p[1])
            pen.text((top[0] + 2, max(top[1] - 11, 0)), f"{classes[label]} {score:.2f}", fill=colour)
    return picture


def save_image(path: str | Path, picture: Any) -> None:
    """Write a picture, making the folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
