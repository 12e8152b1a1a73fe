"""What the box loss compares: ``python examples/nested_projection.py [FILE.svg]`` prints its numbers and draws the README's figure."""

import sys
from math import cos, pi, sin
from pathlib import Path

import torch
from torch import Tensor

from geocore import planar
from obbkit.losses import circumscribed_iou_loss

SHIP = torch.tensor([0.0, 0, 130, 44, 0.5], dtype=torch.float64)  # cx, cy, w, h, angle: what nobody labelled
TURN = 0.9  # of the second view
ERROR = torch.tensor([5.0, -4, -24, 10, -0.25], dtype=torch.float64)  # of the prediction, in that view
TRUTH, LABEL, FOUND, SHADE = "#2a9d6f", "#2f6fde", "#e0762a", "#f7dcc6"
PANEL, TOP, BOTTOM = 260, 34, 60


def scene() -> dict[str, Tensor]:
    """The boxes of the figure, about the middle of a panel."""
    label = planar.aabb_to_obb(planar.obb_to_aabb(SHIP))
    ship, target = planar.rotate(SHIP, TURN), planar.rotate(label, TURN)
    found = ship + ERROR
    own = planar.rotate(found, -TURN)  # the same prediction where the target is upright
    return {"label": label, "ship": ship, "target": target, "found": found, "own": own, "hull": planar.aabb_to_obb(planar.obb_to_aabb(own))}


def numbers(boxes: dict[str, Tensor]) -> dict[str, float]:
    """Sizes in pixels, overlap and loss."""
    w, h = boxes["hull"][2:4].tolist()
    turn = float(boxes["own"][4])
    c, s = abs(cos(turn)), abs(sin(turn))
    return {
        "predicted w": float(boxes["found"][2]),
        "predicted h": float(boxes["found"][3]),
        "angle to the target": turn,
        "projected w": w,
        "projected h": h,
        "w |cos| + h |sin|": float(boxes["found"][2]) * c + float(boxes["found"][3]) * s,
        "label w": float(boxes["label"][2]),
        "label h": float(boxes["label"][3]),
        "IoU": float(planar.obb_iou(boxes["hull"], boxes["label"])),
        "L_box": float(circumscribed_iou_loss(boxes["found"], boxes["target"])),
    }


def figure() -> str:
    """The figure as SVG."""
    boxes = scene()
    n = numbers(boxes)
    size = f"0 0 {3 * PANEL} {PANEL + TOP + BOTTOM}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}" font-family="sans-serif" font-size="12">',
        "<title>The box loss compares the box around the prediction with the horizontal label, in the frame of the label</title>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]

    def draw(panel: int, box: Tensor, colour: str, style: str = "") -> None:
        corners = planar.obb_to_corners(box) + torch.tensor([(panel + 0.5) * PANEL, TOP + 0.5 * PANEL])
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners.tolist())
        parts.append(f'<polygon points="{points}" stroke="{colour}" stroke-width="2" fill="none" {style}/>')

    def write(panel: int, line: int, text: str, colour: str = "#222222", weight: str = "normal") -> None:
        y = 20 if line == 0 else TOP + PANEL + 16 * line - 2
        parts.append(f'<text x="{panel * PANEL + 12}" y="{y}" fill="{colour}" font-weight="{weight}">{text}</text>')

    dashed, dotted = 'stroke-dasharray="7 4"', 'stroke-dasharray="2 3"'
    write(0, 0, "1  the image and its label", weight="bold")
    draw(0, boxes["label"], LABEL, dashed)
    draw(0, SHIP, TRUTH)
    write(0, 1, "ship, unlabelled", TRUTH)
    write(0, 2, f"label: the box around it, {n['label w']:.0f} x {n['label h']:.0f}", LABEL)
    write(0, 3, "its angle 0 is not the ship's")

    write(1, 0, f"2  the view turned by R = {TURN * 180 / pi:.0f}&#176;", weight="bold")
    draw(1, boxes["target"], LABEL, dashed)
    draw(1, boxes["ship"], TRUTH)
    draw(1, boxes["found"], FOUND)
    write(1, 1, "target: the label, turned by R", LABEL)
    write(1, 2, f"prediction: {n['predicted w']:.0f} x {n['predicted h']:.0f}, angle free", FOUND)
    write(1, 3, "these two are not compared")

    write(2, 0, "3  the frame of the target", weight="bold")
    draw(2, boxes["hull"], FOUND, f'{dotted} style="fill:{SHADE}"')
    draw(2, boxes["label"], LABEL, dashed)
    draw(2, boxes["own"], FOUND)
    write(2, 1, f"box around the prediction: {n['projected w']:.0f} x {n['projected h']:.0f}", FOUND)
    write(2, 2, f"target: {n['label w']:.0f} x {n['label h']:.0f}", LABEL)
    write(2, 3, f"IoU {n['IoU']:.2f}, L_box = -log IoU = {n['L_box']:.2f}")
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    for name, value in numbers(scene()).items():
        print(f"{name}: {value:.4f}")
    if len(sys.argv) == 2:
        Path(sys.argv[1]).write_text(figure(), encoding="utf-8")
