"""One ship an image, known by its horizontal box only: which angle does each coder learn, and how far do codes drift?

``python -m ucr_rsar.experiments.single [--seeds 3] [--json F]``
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import pi
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geocore import planar
from obbkit.coders import build_coder
from obbkit.data import ship_scenes
from obbkit.losses import circumscribed_iou_loss, symmetry_consistency
from obbkit.views import rotate_view
from ucr_rsar.coder import UCRCoder, UnitCircleLoss
from ucr_rsar.detector import CODERS

__all__ = ["METHODS", "Recipe", "Regressor", "crops", "run", "train"]

Progress = Callable[[float, str], None]
SIZE = 32


@dataclass(frozen=True)
class Method:
    """A coder and its restriction.

    Args:
        coder: Name in ``CODERS``; empty for no network, the horizontal box as it is.
        weight: Weight of the restriction.
        invalid_thr: Invalid zone.
        warmup: Share of the steps before the restriction starts.
    """

    coder: str
    weight: float = 0.0
    invalid_thr: float = 0.0
    warmup: float = 0.0


METHODS = {
    "horizontal box as it is": Method(""),
    "direct": Method("direct"),
    "PSC m=3": Method("psc3"),
    "ACM m=2": Method("acm2"),
    "UCR m=2, w .05": Method("ucr2", 0.05),
    "UCR m=3, w .05": Method("ucr3", 0.05),
    "UCR m=3, w .05, thr .2": Method("ucr3", 0.05, 0.2),
}


@dataclass(frozen=True)
class Recipe:
    """Training of one network.

    Args:
        steps, batch, lr, weight_decay: AdamW with a cosine schedule.
        train, test: Numbers of images.
    """

    steps: int = 400
    batch: int = 32
    lr: float = 3e-3
    weight_decay: float = 0.05
    train: int = 1500
    test: int = 500


@lru_cache(maxsize=4)
def crops(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images ``(count, 1, 32, 32)`` with a ship in the middle, to the pixel, and its box ``(count, 5)``, le90.

    In the middle, because the direction from there to a ship turns with the image too: a network that sees the whole image learns that
    angle instead of the ship's, and every symmetry is satisfied. A convolutional detector cannot.
    """
    images, targets = ship_scenes(count, size=2 * SIZE, objects=1, seed=seed)
    boxes = torch.cat([t["boxes"] for t in targets])
    start = boxes[:, :2].round().long() - SIZE // 2
    padded = nn.functional.pad(images, (SIZE // 2,) * 4, mode="reflect")
    low = (start + SIZE // 2).tolist()
    cut = torch.stack([image[:, y : y + SIZE, x : x + SIZE] for image, (x, y) in zip(padded, low, strict=True)])
    return cut, planar.translate(boxes, -start.to(boxes.dtype))


class Regressor(nn.Module):
    """Three strided convolutions (8, 16, 32 channels) and a linear layer: centre, sides and the code of an angle.

    Args:
        encode_size: Numbers of a code.
    """

    def __init__(self, encode_size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b in ((1, 8), (8, 16), (16, 32)):
            layers += [nn.Conv2d(a, b, 3, 2, 1), nn.GroupNorm(4, b), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * (SIZE // 8) ** 2, 64), nn.ReLU())
        self.box = nn.Linear(64, 4)
        self.code = nn.Linear(64, encode_size)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(cx, cy, w, h)`` in pixels, and the code."""
        features = self.body(x)
        raw = self.box(features)
        return torch.cat([0.5 * SIZE + 8 * raw[:, :2], 8 * nn.functional.softplus(raw[:, 2:])], 1), self.code(features)


def _hulls(boxes: Tensor) -> Tensor:
    return planar.aabb_to_obb(planar.obb_to_aabb(boxes))


def train(method: Method, data: tuple[Tensor, Tensor], recipe: Recipe, seed: int, device: str = "cpu") -> tuple[Regressor, Any]:
    """A network trained on horizontal boxes, and its coder.

    Args:
        method: Coder and restriction.
        data: From ``crops``; of the boxes only the upright hulls are used.
        recipe: Recipe.
        seed: Of the weights, batches and rotations.
        device: Where to train.
    """
    torch.manual_seed(seed)
    name, options = CODERS[method.coder]
    if name == "ucr":
        options = options | {"invalid_thr": method.invalid_thr}
    coder = build_coder(name, **options).to(device)
    restrict = UnitCircleLoss(coder, method.weight, warmup=round(method.warmup * recipe.steps)) if isinstance(coder, UCRCoder) else None
    net = Regressor(coder.encode_size).to(device)
    optimizer = torch.optim.AdamW(net.parameters(), recipe.lr, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
    generator = torch.Generator().manual_seed(seed)
    images, hulls = data[0].to(device), _hulls(data[1]).to(device)
    for _ in range(recipe.steps):
        rows = torch.randint(len(images), (recipe.batch,), generator=generator)
        turn = pi * (0.25 + 0.5 * float(torch.rand((), generator=generator)))
        x, h = images[rows], hulls[rows]
        turned, boxes = rotate_view(x, list(h[:, None]), turn, padding="reflection")
        views = torch.cat([x, turned, x.flip(-2)])
        wanted = torch.cat([h, torch.cat(boxes), planar.flip(h, (SIZE, SIZE), "vertical")])
        box, code = net(views)
        angle = coder.decode(code)
        loss = circumscribed_iou_loss(torch.cat([box, angle.detach()[:, None]], 1), wanted)
        still, rotated, mirrored = angle.chunk(3)
        loss = loss + symmetry_consistency(still, rotated, mirrored, turn)
        if restrict is not None:
            loss = loss + restrict(code)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 35.0)
        optimizer.step()
        schedule.step()
    return net.eval(), coder


@torch.no_grad()
def measure(boxes: Tensor, true: Tensor) -> dict[str, float]:
    """Overlap and angle error (degrees, long axes) of predicted boxes."""
    iou = planar.obb_iou(boxes, true)
    gap = planar.angle_diff(planar.canonicalize(boxes, "le90")[:, 4], true[:, 4]).abs()
    return {
        "mean IoU": float(iou.mean()),
        "IoU > .5": float((iou > 0.5).float().mean()),
        "IoU > .75": float((iou > 0.75).float().mean()),
        "angle error": float(gap.mean()) * 180 / pi,
    }


@torch.no_grad()
def evaluate(net: Regressor, coder: Any, data: tuple[Tensor, Tensor]) -> dict[str, float | None]:
    """Numbers on test images: overlap, angle error before and after joint int8 rounding of boxes and code, and where the codes are."""
    device = next(net.parameters()).device
    box, code = (x.cpu() for x in net(data[0].to(device)))
    coder = coder.cpu() if isinstance(coder, nn.Module) else coder
    out: dict[str, float | None] = dict(measure(torch.cat([box, coder.decode(code)[:, None]], 1), data[1]))
    both = torch.cat([box[:, 2:], code], 1)
    scale = both.abs().max() / 127
    rounded = (both / scale).round().clamp(-127, 127) * scale
    coarse = torch.cat([box[:, :2], rounded[:, :2], coder.decode(rounded[:, 2:])[:, None]], 1)
    out["angle error, int8"] = measure(coarse, data[1])["angle error"]
    out["median A^2"] = out["|sum x|"] = None
    if coder.encode_size in (2, 3):
        out["median A^2"] = float(UCRCoder(coder.encode_size).amplitude(code).square().median())
    if coder.encode_size == 3:
        out["|sum x|"] = float(code.sum(-1).abs().mean())
    return out


def run(
    *,
    seeds: Sequence[int] = (0,),
    methods: Sequence[str] = tuple(METHODS),
    recipe: Recipe | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> dict[str, list[dict[str, float | None]]]:
    """Train and measure each method with each seed.

    Args:
        seeds: One network each; the test images are the same.
        methods: Names in ``METHODS``.
        recipe: Recipe.
        device: Where to train.
        progress: Called with the fraction done and a message.
    """
    recipe = recipe or Recipe()
    test = crops(recipe.test, seed=10_000)
    train_data = crops(recipe.train, seed=0)
    out: dict[str, list[dict[str, float | None]]] = {}
    total = len(methods) * len(seeds)
    for i, name in enumerate(methods):
        method = METHODS[name]
        for k, seed in enumerate(seeds):
            if progress is not None:
                progress((i * len(seeds) + k) / total, f"one ship, {name}, seed {seed}")
            if not method.coder:
                found: dict[str, float | None] = dict(measure(_hulls(test[1]), test[1]))
                found |= {"angle error": None, "angle error, int8": None, "median A^2": None, "|sum x|": None}
            else:
                net, coder = train(method, train_data, recipe, seed, device)
                found = evaluate(net, coder, test)
            out.setdefault(name, []).append(found)
    return out


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    from rich.console import Console

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    console = Console(stderr=True)
    outcome = run(
        seeds=range(options.seeds), recipe=Recipe(options.steps), progress=lambda done, text: console.print(f"{done:4.0%} {text}")
    )
    for name, found in outcome.items():
        mean = {k: sum(f[k] or 0.0 for f in found) / len(found) for k in found[0]}
        Console().print(f"{name:28}" + "  ".join(f"{k} {v:.3f}" for k, v in mean.items()), highlight=False)
    if options.json:
        options.json.write_text(json.dumps(outcome, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
