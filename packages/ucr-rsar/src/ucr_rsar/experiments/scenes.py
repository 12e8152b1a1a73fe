"""A detector trained on horizontal boxes of ships over photographs: what it finds, how well, and where its codes are.

``python -m ucr_rsar.experiments.scenes [--coders ucr3,ucr3-paper,psc3] [--epochs 14] [--seeds 0,1,2] [--pictures DIR] [--json F]``;
``--full`` trains for 60 epochs on 4,000 scenes. ``ucr3-paper`` has the paper's invalid zone and no warm-up.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
from math import pi
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from geocore import planar
from obbkit.data import ship_scenes
from obbkit.metrics import RotatedMAP
from ucr_rsar.coder import UCRCoder
from ucr_rsar.detector import WeakOrientedDetector
from ucr_rsar.recipes import RECIPES, Recipe
from ucr_rsar.training import Trainer

__all__ = ["MINIATURE", "Outcome", "backgrounds", "horizontal_as_oriented", "make", "measure", "run"]

Progress = Callable[[float, str], None]
MINIATURE = dataclasses.replace(RECIPES["tiny"], epochs=6, milestones=(5,), image_size=64, overlap=16)


def backgrounds() -> list[Tensor]:
    """The two photographs that ship with scikit-learn, grey, in [0, 1].

    Raises:
        ImportError: If scikit-learn is missing.
    """
    try:
        from sklearn.datasets import load_sample_images
    except ImportError as error:
        raise ImportError("real backgrounds need scikit-learn: pip install 'ucr-rsar[demo]'") from error
    photographs: Any = load_sample_images()
    return [torch.from_numpy(image.copy()).float().mean(-1) / 255 for image in photographs.images]


def make(count: int, seed: int, real: bool = True) -> tuple[Tensor, list[dict[str, Any]]]:
    """Scenes of 64 x 64 with up to four ships, over photographs or waves."""
    return ship_scenes(count, seed=seed, backgrounds=backgrounds() if real else None)


class Outcome(NamedTuple):
    """What a training led to.

    Args:
        numbers: ``AP50``, ``AP75``, ``mAP`` (area under the curve), ``angle error`` in degrees of the ships found, ``found``, their share,
            and ``median A^2`` of the codes at their centres.
        model: The detector.
        images, targets, found: Test scenes and what it finds in them.
    """

    numbers: dict[str, float]
    model: WeakOrientedDetector
    images: Tensor
    targets: list[dict[str, Any]]
    found: list[dict[str, Tensor]]


def horizontal_as_oriented(targets: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Overlap of upright boxes with the ships in them: what one has without a method."""
    true = torch.cat([t["boxes"] for t in targets])
    iou = planar.obb_iou(planar.aabb_to_obb(planar.obb_to_aabb(true)), true)
    return {
        "mean IoU": float(iou.mean()),
        "recall at .5": float((iou > 0.5).float().mean()),
        "recall at .75": float((iou > 0.75).float().mean()),
    }


@torch.no_grad()
def measure(model: WeakOrientedDetector, images: Tensor, targets: list[dict[str, Any]]) -> tuple[dict[str, float], list[dict[str, Tensor]]]:
    """Numbers of ``Outcome``, and the detections."""
    model.eval()
    found = model.predict(images)
    metric = RotatedMAP(eval_mode="area", num_classes=model.head.num_classes)
    metric.update(found, targets)
    scores = metric.compute()
    gaps, total = [], 0
    for pred, real in zip(found, targets, strict=True):
        total += len(real["boxes"])
        if len(pred["boxes"]) and len(real["boxes"]):
            near, place = torch.cdist(real["boxes"][:, :2], pred["boxes"][:, :2]).min(1)
            angle = planar.canonicalize(pred["boxes"], "le90")[place, 4]
            gaps.append(planar.angle_diff(angle, real["boxes"][:, 4]).abs()[near < 4])
    gap = torch.cat([*gaps, torch.zeros(0)])
    numbers = {name: scores[name] for name in ("AP50", "AP75", "mAP")}
    numbers |= {"angle error": float(gap.mean()) * 180 / pi, "found": len(gap) / max(total, 1), "median A^2": float("nan")}
    coder = model.head.coder
    if coder.encode_size in (2, 3):
        preds = model.head(model.features(images))
        flat, points, levels = model.head.flatten(preds)
        row = model.head.assign(points, levels, targets).row
        code = flat["code"].flatten(0, 1)[row]
        numbers["median A^2"] = float(UCRCoder(coder.encode_size).amplitude(code).square().median())
    return numbers, found


def run(
    coder: str = "ucr3",
    *,
    recipe: Recipe = MINIATURE,
    train: int = 400,
    test: int = 100,
    real: bool = True,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Outcome:
    """Train on the horizontal boxes of scenes and measure against the oriented ones of others.

    Args:
        coder: Name in ``CODERS``.
        recipe: Training.
        train, test: Numbers of scenes.
        real: Photographs as backgrounds, waves otherwise.
        seed: Of the training.
        device: Where to train.
        progress: Called with the fraction done and a message.
    """
    images, targets = make(train, 0, real)
    data = [(image, {**t, "boxes": planar.obb_to_aabb(t["boxes"])}) for image, t in zip(images, targets, strict=True)]
    trainer = Trainer(dataclasses.replace(recipe, coder=coder), data, seed=seed, device=device)

    def report(done: int, total: int, _: Any) -> None:
        if progress is not None and done % 10 == 0:
            progress(done / total, f"scenes, {coder}")

    trainer.run(progress=report)
    held, truth = make(test, 10_000, real)
    model = trainer.model.cpu()
    numbers, found = measure(model, held, truth)
    return Outcome(numbers, model, held, truth, found)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    from rich.console import Console

    from geocore.testing.benchmark import environment
    from ucr_rsar.draw import draw_boxes, save_image

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--coders", default="ucr3,ucr3-paper,psc3")
    parser.add_argument("--full", action="store_true", help="the long version: 60 epochs, 4,000 scenes; hours on a CPU")
    parser.add_argument("--epochs", type=int, help="14, or 60 with --full")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--train", type=int, help="scenes: 400, or 4,000 with --full")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--waves", action="store_true", help="waves as backgrounds instead of photographs")
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    console = Console(stderr=True)
    epochs = options.epochs or (60 if options.full else 14)
    train = options.train or (4000 if options.full else 400)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    rows: list[dict[str, Any]] = []
    columns: list[str] = []
    for name in options.coders.split(","):
        coder, paper = name.removesuffix("-paper"), name.endswith("-paper")
        recipe = dataclasses.replace(MINIATURE, epochs=epochs, milestones=(max(epochs * 5 // 6, 1),))
        if paper:
            recipe = dataclasses.replace(recipe, warmup=0.0, invalid_thr=0.2)
        for seed in seeds:
            outcome = run(
                coder,
                recipe=recipe,
                train=train,
                real=not options.waves,
                seed=seed,
                device=options.device,
                progress=lambda done, text, seed=seed: console.print(f"{done:4.0%} {text}, seed {seed}"),
            )
            columns = list(outcome.numbers)
            rows.append({"name": f"{name}, seed {seed}", "values": list(outcome.numbers.values())})
            Console().print(name, seed, {k: round(v, 3) for k, v in outcome.numbers.items()} | horizontal_as_oriented(outcome.targets))
            for k in range(min(10, len(outcome.images)) if options.pictures else 0):
                picture = draw_boxes(outcome.images[k], outcome.found[k], truth=outcome.targets[k], scale=4.0)
                save_image(options.pictures / name / str(seed) / f"{k}.png", picture)
    if options.json:
        steps = epochs * -(-train // MINIATURE.batch)
        document = {
            "command": f"python -m ucr_rsar.experiments.scenes --epochs {epochs} --train {train} --seeds {options.seeds}",
            "environment": environment(),
            "packages": ["geocore"],
            "units": f"average precision (area), angle error in degrees, share of ships found; {steps} steps",
            "columns": columns,
            "rows": rows,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
