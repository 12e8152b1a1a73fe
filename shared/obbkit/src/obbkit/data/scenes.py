"""Scenes as a radar sees ships: bright pointed hulls on speckled clutter."""

from collections.abc import Sequence
from math import pi
from typing import Any

import torch
from torch import Tensor

from geocore._checks import check_positive_int
from geocore.planar import canonicalize

__all__ = ["ship_scenes"]


def ship_scenes(
    n_scenes: int,
    *,
    size: int = 64,
    objects: int = 4,
    length: tuple[float, float] = (9.0, 20.0),
    aspect: tuple[float, float] = (0.2, 0.55),
    looks: int = 4,
    seed: int = 0,
    backgrounds: Sequence[Tensor] | Tensor | None = None,
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Ships with a pointed bow and four bright scatterers, multiplicative gamma speckle, logarithmic intensity.

    Args:
        n_scenes: Images.
        size: Pixels of a side.
        objects: Ships of an image at most; fewer where they would overlap.
        length: Range of lengths in pixels.
        aspect: Range of width over length.
        looks: Looks of the speckle: variance ``1 / looks``.
        seed: Seed.
        backgrounds: Grey images ``(H, W)`` in [0, 1], at least ``size`` large; random crops of them, mirrored and turned by quarters, are
            the clutter instead of waves.

    Returns:
        Images ``(n, 1, size, size)`` and for each ``boxes (k, 5)``, le90, and ``labels``.

    Raises:
        ValueError: If a size or range makes no sense.
    """
    for name, value in (("n_scenes", n_scenes), ("size", size), ("objects", objects)):
        check_positive_int(name, value)
    if not (0 < length[0] <= length[1] < size and 0 < aspect[0] <= aspect[1] <= 1 and looks > 0):
        raise ValueError(f"length, aspect and looks must be ranges within the image, got {length}, {aspect}, {looks} for {size} pixels")
    if backgrounds is not None and (len(backgrounds) == 0 or any(b.ndim != 2 or min(b.shape) < size for b in backgrounds)):
        got = [tuple(b.shape) for b in backgrounds]
        raise ValueError(f"backgrounds must be grey images (H, W) of at least {size} x {size}, got {got}")
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    axis = torch.arange(size) + 0.5
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    images, targets = [], []
    for _ in range(n_scenes):
        if backgrounds is None:
            clutter = uniform(0.05, 0.25, 1) * (1 + 0.3 * torch.sin(x * uniform(0.05, 0.3, 1) + y * uniform(0.05, 0.3, 1)))
        else:
            clutter = uniform(0.1, 0.4, 1) * _crop(backgrounds, size, generator)
        kept: list[Tensor] = []
        for _ in range(4 * objects):
            long = uniform(*length, 1)
            margin = min(0.5 * float(long), 0.45 * size)
            box = torch.cat([uniform(margin, size - margin, 2), long, long * uniform(*aspect, 1), uniform(-pi, pi, 1)])
            grown = box + torch.tensor([0, 0, 2.0, 2.0, 0])
            reach = [0.5 * float(torch.hypot(grown[2] + other[2], grown[3] + other[3])) for other in kept]
            if any(float((box[:2] - other[:2]).norm()) < r for other, r in zip(kept, reach, strict=True)):
                continue
            kept.append(box)
            if len(kept) == objects:
                break
        for box in kept:
            cx, cy, w, h, _ = box.tolist()
            c, s = torch.cos(box[4]), torch.sin(box[4])
            u, v = c * (x - cx) + s * (y - cy), c * (y - cy) - s * (x - cx)
            bow = (0.5 * w - u) / (0.3 * w)  # the width shrinks over the last third
            hull = (u.abs() <= 0.5 * w) & (v.abs() <= 0.5 * h * bow.clamp(max=1))
            clutter = torch.where(hull, uniform(0.5, 1.0, 1), clutter)
            for place in uniform(-0.4, 0.3, 4).tolist():
                bright = torch.exp(-((u - place * w).square() + v.square()) / 2)
                clutter = clutter + uniform(0.5, 2.0, 1) * bright * hull
        speckle = -(1 - torch.rand(looks, size, size, generator=generator)).log().mean(0)  # gamma: a mean of exponentials
        images.append(torch.log1p(clutter * speckle)[None])
        targets.append({"boxes": canonicalize(torch.stack(kept), "le90"), "labels": torch.zeros(len(kept), dtype=torch.int64)})
    return torch.stack(images), targets


def _crop(backgrounds: Sequence[Tensor] | Tensor, size: int, generator: torch.Generator) -> Tensor:
    def draw(count: int) -> int:
        return int(torch.randint(count, (), generator=generator))

    image = backgrounds[draw(len(backgrounds))]
    top, left = draw(image.shape[0] - size + 1), draw(image.shape[1] - size + 1)
    part = torch.rot90(image[top : top + size, left : left + size], draw(4))
    return (part.mT if draw(2) else part).float()
