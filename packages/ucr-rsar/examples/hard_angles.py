"""Axis-aligned boxes and squares: a network that predicts the angle itself, with labels in [0, pi/2), against one that predicts a code.

Near an axis such labels jump from 0 to pi/2, and the sides change places; a square looks the same after every quarter turn. Codes do not
jump: ``UCRCoder()`` for boxes, ``UCRCoder(period=pi / 2)`` for squares.
"""

from math import pi

import torch
from torch import Tensor, nn

from geocore import planar
from obbkit.integrations.ultralytics import obb_to_xywhr
from ucr_rsar import UCRCoder, UnitCircleLoss

SIZE, STEPS, NEAR = 24, 200, pi / 36  # NEAR: 5 degrees


def drawn(count: int, square: bool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noisy pictures of one box in the middle, and the boxes; a third of them within 5 degrees of an axis."""
    r = torch.rand(5, count, generator=generator)
    long = 10 + 6 * r[0]
    short = long if square else (0.3 + 0.3 * r[1]) * long
    angle = torch.where(r[2] < 1 / 3, (r[3] * 4).floor() * pi / 2 + NEAR * (2 * r[4] - 1), pi * r[3])
    boxes = torch.stack([torch.full_like(long, SIZE / 2), torch.full_like(long, SIZE / 2), long, short, angle], -1)
    y, x = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    c, s, dx, dy = angle.cos()[:, None, None], angle.sin()[:, None, None], x - SIZE / 2, y - SIZE / 2
    u, v = (c * dx + s * dy).abs(), (c * dy - s * dx).abs()
    inside = (long[:, None, None] / 2 - u + 0.5).clamp(0, 1) * (short[:, None, None] / 2 - v + 0.5).clamp(0, 1)
    return (inside + 0.1 * torch.randn(inside.shape, generator=generator))[:, None], boxes


def error(kind: str, square: bool, seed: int = 0) -> tuple[float, float]:
    """Mean angle error in degrees after training: within 5 degrees of an axis, and elsewhere."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    period = pi / 2 if square else pi
    coder = UCRCoder(period=period)
    restriction = UnitCircleLoss(coder)
    net = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(32 * (SIZE // 4) ** 2, 64), nn.ReLU(), nn.Linear(64, 3 if kind == "angle" else 5)),
    )
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        images, boxes = drawn(32, square, generator)
        out = net(images)
        if kind == "angle":
            label = obb_to_xywhr(boxes)
            loss = nn.functional.smooth_l1_loss(out[:, 2], label[:, 4])
        else:
            label = planar.canonicalize(boxes, "le90")
            loss = nn.functional.smooth_l1_loss(out[:, 2:], coder.encode(label[:, 4])) + restriction(out[:, 2:])
        loss = loss + nn.functional.smooth_l1_loss(10 * out[:, :2], label[:, 2:4]) / 10
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        images, boxes = drawn(2000, square, torch.Generator().manual_seed(seed + 1))
        out = net(images)
        angle = out[:, 2] if kind == "angle" else coder.decode(out[:, 2:])
        found = planar.canonicalize(torch.cat([boxes[:, :2], 10 * out[:, :2], angle[:, None]], 1), "le90")
        gap = planar.angle_diff(found[:, 4], boxes[:, 4], period).abs() * 180 / pi
        near = planar.angle_diff(boxes[:, 4], torch.zeros(()), pi / 2).abs() < NEAR
    return float(gap[near].mean()), float(gap[~near].mean())


if __name__ == "__main__":
    print("mean angle error in degrees: within 5 degrees of an axis, elsewhere")
    for square in (False, True):
        for kind in ("angle", "code"):
            print("squares" if square else "boxes  ", kind.ljust(5), "  ".join(f"{value:5.2f}" for value in error(kind, square)))
