"""The effect in miniature: ill-conditioned covariances with a nuisance tail, at three conditionings.

    python -m spdnorm.experiments.nuisance [--seeds 0 1 2] [--ridges 1e-9 1e-5 1e-2] [--only "LEM" "GBW theta=0.5"] [--json FILE]

A small SPDNet (20 to 12) with every normalisation; test accuracy over held-out halves of ten classes.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from spdnorm.experiments._data import nuisance_covariances
from spdnorm.experiments._train import NORMS, Recipe, accuracy, map_in_threads, train

__all__ = ["RIDGES", "main", "run"]

RIDGES = (1e-9, 1e-5, 1e-2)
Outcome = dict[tuple[str, float], list[float]]


def run(
    jobs: Sequence[tuple[str, float]],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    recipe: Recipe | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> Outcome:
    """Train and test.

    Args:
        jobs: Pairs of a label of ``NORMS`` and a ridge.
        seeds: One data set and one network each.
        recipe: How to train.
        progress: Called with the fraction done and a message.

    Returns:
        Job to test accuracies, one per seed.
    """
    recipe = recipe or Recipe()
    data = {(seed, ridge): nuisance_covariances(seed, ridge=ridge) for seed in seeds for ridge in {r for _, r in jobs}}

    def work(item: tuple[str, float, int]) -> float:
        label, ridge, seed = item
        split = data[seed, ridge]
        return accuracy(train(NORMS[label], split, seed, recipe), split.x_test, split.y_test)

    items = [(label, ridge, seed) for label, ridge in jobs for seed in seeds]
    report = progress or (lambda done, message: None)
    results = map_in_threads(work, items, lambda done: report(done, items[min(len(items) - 1, round(done * len(items)))][0]))
    out: Outcome = {job: [] for job in jobs}
    for (label, ridge, _), value in zip(items, results, strict=True):
        out[label, ridge].append(value)
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; prints the table and returns 0."""
    parser = argparse.ArgumentParser(description="Normalisation of ill-conditioned covariances with a nuisance tail.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--ridges", type=float, nargs="+", default=list(RIDGES))
    parser.add_argument("--only", nargs="+", default=list(NORMS), choices=list(NORMS), metavar="ROW", help=f"of {list(NORMS)}")
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the results here")
    options = parser.parse_args(argv)
    jobs = [(label, ridge) for ridge in options.ridges for label in options.only]
    outcome = run(jobs, seeds=options.seeds, recipe=Recipe(epochs=options.epochs, device=options.device))
    print(f"{'test accuracy in %':22}" + "".join(f"{f'ridge {r:g}':>14}" for r in options.ridges))  # noqa: T201
    for label in options.only:
        print(f"{label:22}" + "".join(f"{100 * fmean(outcome[label, r]):14.1f}" for r in options.ridges))  # noqa: T201
    if options.json:
        rows = [{"norm": label, "ridge": ridge, "accuracy": values} for (label, ridge), values in outcome.items()]
        options.json.write_text(json.dumps({"seeds": options.seeds, "results": rows}, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
