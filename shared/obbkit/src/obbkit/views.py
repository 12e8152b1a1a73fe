"""Views of images with their boxes: rotated, flipped and resized, objects known by number."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from geocore import planar
from geocore._checks import check_option, check_trailing

__all__ = ["flip_view", "resize_view", "rotate_view", "three_views"]


def rotate_view(
    images: Float[Tensor, "batch channels h w"],
    boxes: Sequence[Tensor],
    angle: float | Float[Tensor, "batch"],
    *,
    padding: str = "reflection",
    align_corners: bool = False,
) -> tuple[Float[Tensor, "batch channels h w"], list[Tensor]]:
    """Images turned about their centre ``(W / 2, H / 2)``, bilinearly and in pixels, so that no one is sheared; boxes likewise.

    Args:
        images: Shape ``(batch, channels, H, W)``.
        boxes: Boxes of each image.
        angle: Radians from +x towards +y; one for all or one for each image.
        padding: ``"reflection"``, ``"border"`` or ``"zeros"``.
        align_corners: Sample as mmrotate does, half a pixel off from the boxes.

    Returns:
        Turned images, and boxes with ``t + angle``, not wrapped.

    Raises:
        ValueError: If a shape or option is wrong.
    """
    check_trailing("images", images, (None, None, None, None))
    check_option("padding", padding, ("reflection", "border", "zeros"))
    if len(boxes) != len(images):
        raise ValueError(f"boxes must be one tensor an image, got {len(boxes)} for {len(images)}")
    height, width = images.shape[-2:]
    dtype = torch.promote_types(images.dtype, torch.float32)
    a = torch.as_tensor(angle, dtype=dtype, device=images.device).expand(len(images))
    c, s = a.cos()[:, None, None], a.sin()[:, None, None]
    shift = 0.0 if align_corners else 0.5
    cx, cy = (0.5 * (width - 1), 0.5 * (height - 1)) if align_corners else (0.5 * width, 0.5 * height)
    x = torch.arange(width, dtype=dtype, device=images.device) + shift - cx
    y = (torch.arange(height, dtype=dtype, device=images.device) + shift - cy)[:, None]
    source = torch.stack([c * x + s * y, c * y - s * x], -1)
    half = torch.tensor([cx, cy], dtype=dtype, device=images.device).clamp(min=1e-6)
    turned = F.grid_sample(images.to(dtype), source / half, mode="bilinear", padding_mode=padding, align_corners=align_corners)
    middle = torch.tensor([0.5 * width, 0.5 * height], device=images.device)
    if not boxes:
        return turned.to(images.dtype), []
    joined, counts = torch.cat(list(boxes)), [len(b) for b in boxes]
    each = a.repeat_interleave(torch.tensor(counts, device=a.device)).to(joined.dtype)
    moved = list(planar.rotate(joined, each, middle.to(joined.dtype)).split(counts))
    return turned.to(images.dtype), moved


def flip_view(
    images: Float[Tensor, "batch channels h w"], boxes: Sequence[Tensor], direction: str = "vertical"
) -> tuple[Float[Tensor, "batch channels h w"], list[Tensor]]:
    """Mirrored images with their boxes.

    Args:
        images: Shape ``(batch, channels, H, W)``.
        boxes: Boxes of each image.
        direction: ``"horizontal"``, ``"vertical"`` or ``"diagonal"``.

    Raises:
        ValueError: If a shape or option is wrong.
    """
    check_trailing("images", images, (None, None, None, None))
    check_option("direction", direction, ("horizontal", "vertical", "diagonal"))
    dims = {"horizontal": (-1,), "vertical": (-2,), "diagonal": (-1, -2)}[direction]
    size = (images.shape[-1], images.shape[-2])
    return images.flip(dims), [planar.flip(b, size, direction) for b in boxes]


def resize_view(
    images: Float[Tensor, "batch channels h w"], boxes: Sequence[Tensor], factor: float
) -> tuple[Float[Tensor, "batch channels h2 w2"], list[Tensor]]:
    """Images resized by one factor, with antialiasing, and their boxes.

    Args:
        images: Shape ``(batch, channels, H, W)``.
        boxes: Boxes of each image.
        factor: Positive.

    Raises:
        ValueError: If a shape or the factor is wrong.
    """
    check_trailing("images", images, (None, None, None, None))
    if not factor > 0:
        raise ValueError(f"factor must be positive, got {factor}")
    size = [max(round(k * factor), 1) for k in images.shape[-2:]]
    resized = F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)
    ratio = [new / old for new, old in zip(size, images.shape[-2:], strict=True)]
    A = torch.tensor([[ratio[1], 0.0, 0.0], [0.0, ratio[0], 0.0]], device=images.device)
    if ratio[0] == ratio[1]:
        return resized, [planar.scale(b, ratio[0]) for b in boxes]
    return resized, [planar.transform_obb(b, A.to(b.dtype)) for b in boxes]


def three_views(
    images: Float[Tensor, "batch channels h w"],
    targets: Sequence[Mapping[str, Tensor]],
    angle: float | Float[Tensor, "batch"],
    *,
    padding: str = "reflection",
) -> tuple[Float[Tensor, "views channels h w"], list[dict[str, Any]]]:
    """The original, rotated and vertically flipped images in one batch, ``3 batch`` long, each object keeping its number.

    Objects whose centre leaves the rotated image are dropped there, by number, so that those of different views can still be matched.

    Args:
        images: Shape ``(batch, channels, H, W)``.
        targets: One dict an image with ``boxes (n, 5)`` and ``labels (n,)``.
        angle: Rotation of the second view, for all or each image.
        padding: As ``rotate_view``.

    Returns:
        Images, and for each of them ``boxes`` (le90), ``labels``, ``object`` (int64, unique over the batch), ``view`` and ``image``.

    Raises:
        ValueError: If a shape or option is wrong.
    """
    boxes = [target["boxes"] for target in targets]
    turned, turned_boxes = rotate_view(images, boxes, angle, padding=padding)
    flipped, flipped_boxes = flip_view(images, boxes, "vertical")
    height, width = images.shape[-2:]
    start, numbers = 0, []
    for b in boxes:
        numbers.append(torch.arange(start, start + len(b), device=b.device))
        start += len(b)
    out: list[dict[str, Any]] = []
    for view, moved in enumerate((boxes, turned_boxes, flipped_boxes)):
        for i, (b, target) in enumerate(zip(moved, targets, strict=True)):
            x, y = b[:, 0], b[:, 1]
            kept = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            out.append(
                {
                    "boxes": planar.canonicalize(b, "le90")[kept],
                    "labels": target["labels"][kept],
                    "object": numbers[i][kept],
                    "view": view,
                    "image": i,
                }
            )
    return torch.cat([images, turned, flipped]), out
