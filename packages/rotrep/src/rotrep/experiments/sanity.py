"""Experiment 1 of Zhou et al. 2019: can a network learn the identity on rotations, through each representation?

A multilayer perceptron 9-128-128-128-dim sees a rotation matrix and must return it through the representation; the loss is the mean squared
error of the decoded matrix. In miniature: Adam 1e-3 with cosine decay, 3000 steps of 64 Haar rotations, tested on 20 000.

    python -m rotrep.experiments.sanity                       # miniature, about a minute on one core
    python -m rotrep.experiments.sanity --full --device cuda  # the paper: 500 001 steps, Adam 1e-5 then 1e-6, test 100 000
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rotrep._base import Representation
from rotrep.experiments._ensemble import EnsembleMLP, one_thread
from rotrep.experiments._histogram import EDGES
from rotrep.losses import geodesic, matrix_mse
from rotrep.metrics import RotationErrorSummary, rotation_error_deg
from rotrep.registry import get_representation
from rotrep.sampling import haar

__all__ = ["ENTRIES", "FULL", "MINIATURE", "Recipe", "main", "run", "train"]

ENTRIES: dict[str, tuple[str, dict[str, str]]] = {
    "6d": ("6d", {}),
    "5d (official scale)": ("5d", {"output_scale": "official"}),
    "5d (no scale)": ("5d", {}),
    "9d svd": ("9d", {}),
    "10d": ("10d", {}),
    "quaternion": ("quaternion", {}),
    "axis_angle4": ("axis_angle4", {}),
    "rotvec": ("rotvec", {}),
    "euler": ("euler", {}),
}
"""Rows of the table: label to representation and options."""


@dataclass(frozen=True)
class Recipe:
    """How to train and test.

    Args:
        steps: Optimisation steps.
        batch: Rotations per step.
        lr: Learning rate at first.
        schedule: ``"cosine"`` to zero, or ``"drop"`` to a tenth after ``drop_after`` steps.
        drop_after: Step of the drop.
        test: Number of test rotations.
        loss: ``"matrix_mse"`` or ``"geodesic"``.
    """

    steps: int = 3000
    batch: int = 64
    lr: float = 1e-3
    schedule: str = "cosine"
    drop_after: int = 10_000
    test: int = 20_000
    loss: str = "matrix_mse"

    def rate(self, step: int) -> float:
        """Factor on the learning rate."""
        if self.schedule == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * step / self.steps))
        return 1.0 if step < self.drop_after else 0.1


MINIATURE = Recipe()
FULL = Recipe(steps=500_001, lr=1e-5, schedule="drop", test=100_000)


def train(
    representation: Representation,
    *,
    seeds: Sequence[int] = (0,),
    recipe: Recipe = MINIATURE,
    device: str = "cpu",
    progress: Callable[[float], None] | None = None,
) -> list[RotationErrorSummary]:
    """Train one network per seed, side by side, and test it.

    Args:
        representation: What the network's output means.
        seeds: One network each; seed ``s`` fixes its weights and its data, the same for every representation.
        recipe: Steps, rates and sizes.
        device: Torch device.
        progress: Called now and then with the fraction done.

    Returns:
        Test errors, one summary per seed.
    """
    with one_thread():
        net = EnsembleMLP((9, 128, 128, 128, representation.dim), seeds).to(device)
        optimizer = torch.optim.Adam(net.parameters(), lr=recipe.lr, foreach=True)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, recipe.rate)
        sources = [torch.Generator().manual_seed(1000 + seed) for seed in seeds]
        loss = {"matrix_mse": matrix_mse, "geodesic": geodesic}[recipe.loss]
        chunk = 100  # drawing one batch at a time would cost more than the network
        for start in range(0, recipe.steps, chunk):
            count = min(chunk, recipe.steps - start)
            data = torch.stack([haar(3, (count, recipe.batch), g) for g in sources], dim=1).to(device)
            for R in data:
                optimizer.zero_grad(set_to_none=True)
                # the sum over members: each network gets the gradient of its own mean
                value = loss(representation.decode(net(R.flatten(-2))), R) * len(seeds)
                value.backward()
                optimizer.step()
                scheduler.step()
            if progress is not None:
                progress((start + count) / recipe.steps)
        with torch.no_grad():
            R = torch.stack([haar(3, recipe.test, torch.Generator().manual_seed(2000 + seed)) for seed in seeds]).to(device)
            out = representation.decode(net(R.flatten(-2)))
    return [rotation_error_deg(p, t, thresholds=EDGES) for p, t in zip(out, R, strict=True)]


def run(
    labels: Sequence[str] = tuple(ENTRIES),
    *,
    seeds: Sequence[int] = (0,),
    recipe: Recipe = MINIATURE,
    device: str = "cpu",
    progress: Callable[[float, str], None] | None = None,
) -> dict[str, list[RotationErrorSummary]]:
    """The whole table.

    Args:
        labels: Rows, keys of ``ENTRIES``.
        seeds: Seeds.
        recipe: Steps, rates and sizes.
        device: Torch device.
        progress: Called with the fraction done and the row.

    Returns:
        Label to one summary per seed.
    """
    out = {}
    for i, label in enumerate(labels):
        name, options = ENTRIES[label]

        def report(part: float, i: int = i, label: str = label) -> None:
            if progress is not None:
                progress((i + part) / len(labels), label)

        out[label] = train(get_representation(name, **options), seeds=seeds, recipe=recipe, device=device, progress=report)
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; prints the table and returns 0."""
    parser = argparse.ArgumentParser(description="Sanity autoencoder of Zhou et al. 2019.")
    parser.add_argument("--full", action="store_true", help="the paper's recipe; hours, use a GPU")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", default=list(ENTRIES), choices=list(ENTRIES), metavar="ROW", help=f"of {list(ENTRIES)}")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, help="overrides the recipe")
    parser.add_argument("--json", type=Path, help="write the results here")
    options = parser.parse_args(argv)
    recipe = FULL if options.full else MINIATURE
    if options.steps:
        recipe = Recipe(**{**vars(recipe), "steps": options.steps})
    start = time.process_time()
    outcome = run(options.only, seeds=options.seeds, recipe=recipe, device=options.device)
    print(f"{'representation':22}" + "".join(f"{c:>9}" for c in ("mean", "median", "p99", "max")))  # noqa: T201
    for label, summaries in outcome.items():
        for seed, s in zip(options.seeds, summaries, strict=True):
            cells = "".join(f"{value:9.2f}" for value in (s.mean, s.median, s.percentiles[99], s.max))
            print(f"{label:22}{cells}  seed {seed}")  # noqa: T201
    print(f"degrees; {recipe}; {time.process_time() - start:.0f} CPU-seconds")  # noqa: T201
    if options.json:
        document = {label: [vars(s) for s in summaries] for label, summaries in outcome.items()}
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
