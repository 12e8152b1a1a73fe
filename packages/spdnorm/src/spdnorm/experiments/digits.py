"""Well-behaved real data: region covariances of scikit-learn's digits, where small eigenvalues carry signal.

    python -m spdnorm.experiments.digits [--seeds 0 1 2] [--only "LEM" "GBW theta=0.5"] [--json FILE]

900 digits to train, 600 others to test.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from spdnorm.experiments._data import digit_regions
from spdnorm.experiments._train import NORMS, Recipe, accuracy, map_in_threads, train

__all__ = ["RECIPE", "main", "run"]

RECIPE = Recipe(size=8, epochs=8)


def run(
    labels: Sequence[str] = tuple(NORMS),
    *,
    seeds: Sequence[int] = (0, 1, 2),
    recipe: Recipe = RECIPE,
    progress: Callable[[float, str], None] | None = None,
) -> dict[str, list[float]]:
    """Train and test.

    Args:
        labels: Rows, keys of ``NORMS``.
        seeds: One split and one network each.
        recipe: How to train.
        progress: Called with the fraction done and a message.

    Returns:
        Label to test accuracies, one per seed.

    Raises:
        ImportError: If scikit-learn or geoopt is missing.
    """
    data = {seed: digit_regions(seed) for seed in seeds}

    def work(item: tuple[str, int]) -> float:
        label, seed = item
        return accuracy(train(NORMS[label], data[seed], seed, recipe), data[seed].x_test, data[seed].y_test)

    items = [(label, seed) for label in labels for seed in seeds]
    report = progress or (lambda done, message: None)
    results = map_in_threads(work, items, lambda done: report(done, "digits"))
    out: dict[str, list[float]] = {label: [] for label in labels}
    for (label, _), value in zip(items, results, strict=True):
        out[label].append(value)
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; prints the table and returns 0."""
    parser = argparse.ArgumentParser(description="Normalisation of well-behaved region covariances of digits.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=list(NORMS), choices=list(NORMS), metavar="ROW", help=f"of {list(NORMS)}")
    parser.add_argument("--epochs", type=int, default=RECIPE.epochs)
    parser.add_argument("--json", type=Path, help="write the results here")
    options = parser.parse_args(argv)
    outcome = run(options.only, seeds=options.seeds, recipe=Recipe(size=RECIPE.size, epochs=options.epochs))
    for label, values in outcome.items():
        print(f"{label:22}{100 * fmean(values):8.1f} % of {len(values)} held-out splits")  # noqa: T201
    if options.json:
        options.json.write_text(json.dumps({"seeds": options.seeds, "accuracy": outcome}, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
