"""The claim in miniature: which one-layer models follow the permutations of three things, and which follow parity.

``python -m deltaproduct.experiments.s3 [--seeds N] [--json FILE]`` trains each model on words of length 16 and tests it on longer ones.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from deltaproduct import tasks
from deltaproduct.experiments._model import Shape, StateTracker

__all__ = ["LENGTHS", "MINIATURE", "Model", "Outcome", "Recipe", "check_claims", "run"]

LENGTHS = (16, 32, 64, 128)
LAST = 8  # accuracy is that of the last positions, the hardest


@dataclass(frozen=True)
class Model:
    """One row of the table: a task, the number of factors and the range of their eigenvalues."""

    task: str
    num_householder: int
    allow_neg_eigval: bool

    @property
    def label(self) -> str:
        """Text of the row."""
        return f"{self.task}, n_h = {self.num_householder}, {'[-1, 1]' if self.allow_neg_eigval else '[0, 1]'}"


@dataclass(frozen=True)
class Recipe:
    """Settings of the miniature."""

    length: int = 16
    batch: int = 64
    steps: dict[str, int] = field(default_factory=lambda: {"S3": 400, "parity": 150})
    learning_rate: float = 3e-3
    test: int = 256
    shape: Shape = field(default_factory=lambda: Shape(hidden_size=64, num_heads=4, head_dim=16))
    models: tuple[Model, ...] = (
        Model("S3", 2, True),
        Model("S3", 1, True),
        Model("S3", 2, False),
        Model("S3", 1, False),
        Model("parity", 1, True),
        Model("parity", 1, False),
    )


MINIATURE = Recipe()


@dataclass(frozen=True)
class Outcome:
    """What one run of one model gave: accuracies in percent by length, of the last positions and of whole sequences; loss; CPU seconds."""

    model: Model
    seed: int
    last: dict[int, float]
    sequence: dict[int, float]
    loss: float
    seconds: float


def make(task: str, length: int, n: int, seed: int) -> tasks.Task:
    """Data of a task."""
    return tasks.parity(length, n, seed) if task == "parity" else tasks.GroupWordProblem(task, length, n, seed=seed)


def train(model: StateTracker, task: str, recipe: Recipe, seed: int) -> float:
    """Train in place on fresh words at every step; returns the mean loss of the last ten steps."""
    steps = recipe.steps[task]
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps, pct_start=0.1)
    tokens, targets = (x.to(model.head.weight.device) for x in make(task, recipe.length, recipe.batch * steps, seed + 1_000_000))
    losses: list[Tensor] = []
    for x, y in zip(tokens.split(recipe.batch), targets.split(recipe.batch), strict=True):
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
    return float(torch.stack(losses[-10:]).mean())


@torch.no_grad()
def evaluate(model: StateTracker, task: str, recipe: Recipe, seed: int) -> tuple[dict[int, float], dict[int, float]]:
    """Accuracy in percent of the last positions, and of whole sequences, at every length."""
    last, whole = {}, {}
    for length in LENGTHS:
        tokens, targets = (x.to(model.head.weight.device) for x in make(task, length, recipe.test, seed + 2_000_000 + length))
        right = model(tokens).argmax(-1) == targets
        last[length] = 100 * float(right[:, -LAST:].float().mean())
        whole[length] = 100 * float(right.all(1).float().mean())
    return last, whole


def run(
    *, seeds: Sequence[int] = (0,), recipe: Recipe = MINIATURE, device: str = "cpu", progress: Callable[[float, str], None] | None = None
) -> list[Outcome]:
    """Train and test every model for every seed, two at a time.

    Args:
        seeds: Seeds of weights and words.
        recipe: Settings.
        device: Where to train.
        progress: Called with the fraction done and a message.

    Returns:
        One outcome per model and seed, in the order of the recipe.
    """
    jobs = [(model, seed) for seed in seeds for model in recipe.models]
    built = []
    for model, seed in jobs:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            classes = make(model.task, 1, 1, 0)
            shape = Shape(**asdict(recipe.shape) | {"num_householder": model.num_householder, "allow_neg_eigval": model.allow_neg_eigval})
            built.append(StateTracker(classes.vocab_size, classes.num_classes, shape).to(device))

    def work(job: tuple[Model, int], tracker: StateTracker) -> Outcome:
        start = time.thread_time()
        model, seed = job
        loss = train(tracker, model.task, recipe, seed)
        return Outcome(model, seed, *evaluate(tracker, model.task, recipe, seed), loss, time.thread_time() - start)

    outcomes = []
    with ThreadPoolExecutor(2, initializer=lambda: torch.set_num_threads(1)) as pool:
        for i, outcome in enumerate(pool.map(work, jobs, built)):
            outcomes.append(outcome)
            if progress is not None:
                progress((i + 1) / len(jobs), f"{outcome.model.label}, seed {outcome.seed}: {outcome.last[recipe.length]:.1f} %")
    return outcomes


def check_claims(outcomes: Sequence[Outcome], length: int = MINIATURE.length) -> list[tuple[str, bool, str]]:
    """The thresholds of the specification, for every seed: text, whether it is met, and the numbers."""

    def last(task: str, n: int, negative: bool, at: int = length) -> list[float]:
        return [o.last[at] for o in outcomes if o.model == Model(task, n, negative)]

    def spell(values: list[float]) -> str:
        return ", ".join(f"{v:.1f} %" for v in values)

    two, one, positive = last("S3", 2, True), last("S3", 1, True), last("S3", 2, False)
    even, odd = last("parity", 1, True), last("parity", 1, False)
    return [
        (f"S3, n_h = 2, [-1, 1]: at least 99 % at length {length}", min(two) >= 99, spell(two)),
        (f"S3, n_h = 1, [-1, 1]: at most 50 % at length {length}", max(one) <= 50, spell(one)),
        (f"S3, n_h = 2, [0, 1]: at most 30 % at length {length}", max(positive) <= 30, spell(positive)),
        (f"parity, n_h = 1, [-1, 1]: at least 99 % at length {length}", min(even) >= 99, spell(even)),
        (f"parity, n_h = 1, [0, 1]: at most 65 % at length {length}", max(odd) <= 65, spell(odd)),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns 1 if a claim is not met."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Table

    parser = argparse.ArgumentParser(prog="python -m deltaproduct.experiments.s3", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds, 0 to N-1")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write results, settings and versions to this file")
    options = parser.parse_args(argv)
    console = Console(width=140)
    with Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task("training", total=1.0)
        outcomes = run(
            seeds=range(options.seeds),
            device=options.device,
            progress=lambda done, text: bar.update(task, completed=done, description=text),
        )
    table = Table(title=f"accuracy of the last {LAST} positions in %, trained at length {MINIATURE.length}")
    for column in ("model", "seed", *(str(length) for length in LENGTHS), "whole sequences", "loss", "CPU s"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for o in outcomes:
        cells = [f"{o.last[length]:.1f}" for length in LENGTHS]
        table.add_row(o.model.label, str(o.seed), *cells, f"{o.sequence[MINIATURE.length]:.1f}", f"{o.loss:.4f}", f"{o.seconds:.1f}")
    console.print(table)
    claims = check_claims(outcomes)
    for text, met, measured in claims:
        console.print(f"{'met' if met else 'NOT met'}: {text} ({measured})")
    if options.json:
        versions: dict[str, Any] = {"torch": torch.__version__}
        document = {"recipe": asdict(MINIATURE), "outcomes": [asdict(o) for o in outcomes], "versions": versions}
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0 if all(met for _, met, _ in claims) else 1


if __name__ == "__main__":
    raise SystemExit(main())
