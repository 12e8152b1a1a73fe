"""The paper's word problems: train on words of one length, test on longer ones.

``python -m deltaproduct.experiments.state_tracking --out DIR [--medium | --full] [--group S5] [--num-householder 4]``, or under
``torchrun`` for several processes. A run goes on from its last checkpoint.

Recipes: the default is a trial of minutes on a CPU (length 16 to 64); ``--medium`` has the paper's lengths with a fifth of its data and
passes; ``--full`` is the paper's: 100 000 words of length 128, 99 % of them for training, 100 passes, test at 512; one layer of width
128, heads of 32 (12 of them for S5, else 8), no convolution, no gates, bfloat16 weights, AdamW 1e-3, decay 1e-6, cosine to 0, batch 2048.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deltaproduct import tasks
from deltaproduct.experiments._console import reporting
from deltaproduct.experiments._model import Shape, StateTracker
from deltaproduct.experiments._training import STRATEGIES, Optimisation, Place, fit, place, plain
from geocore._checks import check_positive_int

__all__ = ["FULL", "MEDIUM", "TRIAL", "Recipe", "Words", "evaluate", "load_task", "train"]


@dataclass(frozen=True)
class Recipe:
    """Settings of a run.

    Args:
        group: A group's name, ``"parity"``, ``"arithmetic"`` or ``"brackets"`` (modulo 5).
        num_householder: Factors per token; ``None`` for what one layer needs: 4 for S5, 1 for parity, otherwise 2.
        num_heads: Heads; ``None`` for the paper's, 12 for S5 and otherwise 8.
        allow_neg_eigval: Whether factors reach reflections.
        hidden_size, head_dim, num_layers, use_short_conv, use_forget_gate: Of the model.
        length, test_length: Elements per word in training and in the test.
        words, test_words: Numbers of words; 1 % of the first are kept for validation.
        epochs, batch, micro_batch: Passes, words per step, and words per piece of a step and process.
        learning_rate, weight_decay, precision: Of the optimiser.
        generators: ``"all"``, ``"transpositions"``, or a number of elements.
        extra_tokens: Thinking tokens after each element.
        curriculum: Start with words of length 4 and add one element whenever the loss is below 0.3.
        seed: Of weights, words and their order.
    """

    group: str = "S5"
    num_householder: int | None = None
    num_heads: int | None = None
    allow_neg_eigval: bool = True
    hidden_size: int = 128
    head_dim: int = 32
    num_layers: int = 1
    use_short_conv: bool = False
    use_forget_gate: bool = False
    length: int = 128
    test_length: int = 512
    words: int = 100_000
    test_words: int = 1000
    epochs: int = 100
    batch: int = 2048
    micro_batch: int = 2048
    learning_rate: float = 1e-3
    weight_decay: float = 1e-6
    precision: str = "bfloat16"
    generators: str | int = "all"
    extra_tokens: int = 0
    curriculum: bool = False
    seed: int = 0

    @property
    def factors(self) -> int:
        """Householder factors per token."""
        return self.num_householder or {"S5": 4, "parity": 1}.get(self.group, 2)

    @property
    def steps(self) -> int:
        """Optimiser steps of the run."""
        return self.epochs * max(1, self.kept // self.batch)

    @property
    def kept(self) -> int:
        """Words for training."""
        return self.words - self.words // 100

    def shape(self) -> Shape:
        """Sizes of the model."""
        heads = self.num_heads or (12 if self.group == "S5" else 8)
        return Shape(
            hidden_size=self.hidden_size,
            num_layers=self.num_layers,
            num_heads=heads,
            head_dim=self.head_dim,
            num_householder=self.factors,
            allow_neg_eigval=self.allow_neg_eigval,
            use_short_conv=self.use_short_conv,
            use_forget_gate=self.use_forget_gate,
        )


FULL = Recipe()
MEDIUM = replace(FULL, words=20_000, epochs=20, batch=256, micro_batch=256, precision="float32")
TRIAL = replace(
    FULL,
    group="S3",
    hidden_size=64,
    num_heads=4,
    head_dim=16,
    length=16,
    test_length=64,
    words=20_000,
    test_words=256,
    epochs=2,
    batch=64,
    micro_batch=64,
    learning_rate=3e-3,
    precision="float32",
)


def load_task(recipe: Recipe, length: int, n: int, seed: int) -> tasks.Task:
    """Words of a recipe, the beginning token first."""
    if recipe.group == "parity":
        return tasks.parity(length, n, seed)
    if recipe.group in ("arithmetic", "brackets"):
        return tasks.modular_arithmetic(5, recipe.group == "brackets", length, n, seed)
    return tasks.GroupWordProblem(recipe.group, length, n, recipe.generators, seed, bos=True, extra_tokens=recipe.extra_tokens)


class Words:
    """Training words in a new order for every pass; the batch is a function of the step."""

    def __init__(self, recipe: Recipe) -> None:
        if recipe.batch % recipe.micro_batch:
            raise ValueError(f"batch must be a multiple of micro_batch, got {recipe.batch} and {recipe.micro_batch}")
        check_positive_int("words", recipe.words)
        self.recipe = recipe
        self.task = load_task(recipe, recipe.length, recipe.words, recipe.seed)
        self.length = 4 if recipe.curriculum else recipe.length
        self._order = -1, torch.arange(0)

    def batches(self, step: int, place: Place) -> list[tuple[Tensor, ...]]:
        """This process's words of a step, in pieces."""
        recipe = self.recipe
        batch = min(recipe.batch, recipe.kept)
        per_epoch = max(1, recipe.kept // batch)
        epoch, position = divmod(step, per_epoch)
        if self._order[0] != epoch:
            self._order = epoch, torch.randperm(recipe.kept, generator=torch.Generator().manual_seed(recipe.seed + 7919 * (epoch + 1)))
        rows = self._order[1][position * batch : (position + 1) * batch][place.rank :: place.world]
        width = self.task.tokens.shape[1]
        if self.recipe.curriculum:
            first = width - recipe.length * (recipe.extra_tokens + 1)  # the beginning token, if there is one
            width = first + self.length * (recipe.extra_tokens + 1)
        tokens, targets = self.task.tokens[rows, :width], self.task.targets[rows, :width]
        pieces = max(1, -(-len(rows) // max(1, recipe.micro_batch // place.world)))
        return list(zip(tokens.chunk(pieces), targets.chunk(pieces), strict=True))

    def after(self, step: int, loss: float) -> None:
        """Lengthen the words of a curriculum when the loss is low."""
        del step
        if self.recipe.curriculum and loss < 0.3:
            self.length = min(self.length + 1, self.recipe.length)

    def state_dict(self) -> dict[str, Any]:
        """The length that a curriculum has reached."""
        return {"length": self.length}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with that length."""
        self.length = int(state_dict["length"])


def _loss(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    tokens, targets = batch
    return F.cross_entropy(model(tokens).float().flatten(0, 1), targets.flatten(), ignore_index=tasks.IGNORE)


@torch.no_grad()
def evaluate(model: nn.Module, task: tasks.Task, device: torch.device | str, batch: int = 128) -> dict[str, list[float]]:
    """Accuracy in percent by position, and of whole sequences up to every position.

    Returns:
        ``{"token": [...], "sequence": [...]}``, one number per position that has a target.
    """
    training, rows = model.training, []
    model.eval()
    for tokens, targets in zip(task.tokens.split(batch), task.targets.split(batch), strict=True):
        asked = targets[0] != tasks.IGNORE
        right = model(tokens.to(device)).argmax(-1).cpu() == targets
        rows.append(right[:, asked])
    model.train(training)
    right = torch.cat(rows)
    return {"token": (100 * right.double().mean(0)).tolist(), "sequence": (100 * right.long().cumprod(1).double().mean(0)).tolist()}


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    device: str | None = None,
    strategy: str = "ddp",
    until: int | None = None,
    save_every: int = 500,
    progress: Callable[[int, int, str], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train (or resume) and test.

    Args:
        recipe: Settings.
        out: Folder for ``checkpoint.pt`` and ``results.json``.
        device: The CUDA device of this process by default, if there is one.
        strategy: ``"ddp"`` or ``"fsdp"`` under ``torchrun``.
        until: Stop after this step without a test, to go on later.
        save_every: Steps between checkpoints.
        progress: Called with step, steps and a message.
        say: Called with lines of text.

    Returns:
        Recipe, last step and loss, and accuracies by length (those of ``results.json``).

    Raises:
        ValueError: If the checkpoint belongs to another recipe.
    """
    with place(device) as where:
        torch.manual_seed(recipe.seed)
        data = Words(recipe)
        model = StateTracker(data.task.vocab_size, data.task.num_classes, recipe.shape()).to(where.device)
        settings = Optimisation(
            recipe.steps,
            recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            precision=recipe.precision,
            save_every=save_every,
            seed=recipe.seed,
        )
        identity = {k: v for k, v in plain(recipe).items() if k not in ("test_length", "test_words", "micro_batch")}
        model, step, loss = fit(
            model,
            data,
            _loss,
            settings,
            out=out,
            identity=identity,
            where=where,
            strategy=strategy,
            until=until,
            progress=progress,
            say=say,
        )
        results: dict[str, Any] = {"recipe": plain(recipe), "step": step, "loss": loss}
        if step == settings.steps:
            valid = tasks.Task(
                *(x[recipe.kept :] if recipe.kept < recipe.words else x[-1:] for x in data.task),
                vocab_size=0,
                num_classes=data.task.num_classes,
            )
            results["validation"] = evaluate(model, valid, where.device)
            results["test"] = evaluate(model, load_task(recipe, recipe.test_length, recipe.test_words, recipe.seed + 1), where.device)
            if where.rank == 0:
                (Path(out) / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        return results


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m deltaproduct.experiments.state_tracking", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--medium", action="store_const", const=MEDIUM, dest="base", help="the paper's lengths, less data and passes")
    size.add_argument("--full", action="store_const", const=FULL, dest="base", help="the paper's recipe")
    parser.add_argument("--out", required=True, type=Path, help="folder for checkpoint and results; a run there is resumed")
    parser.add_argument("--group", help="S3, S4, A5, S5, Z60, S3_x_Z2, ..., parity, arithmetic, brackets")
    for name, kind in (("num-householder", int), ("num-heads", int), ("num-layers", int), ("seed", int), ("epochs", int), ("batch", int)):
        parser.add_argument(f"--{name}", type=kind)
    for name, kind in (
        ("micro-batch", int),
        ("length", int),
        ("test-length", int),
        ("words", int),
        ("extra-tokens", int),
        ("precision", str),
    ):
        parser.add_argument(f"--{name}", type=kind)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--generators", help="all, transpositions, or a number of elements")
    parser.add_argument("--positive-eigenvalues", action="store_true", help="beta in (0, 1) instead of (0, 2)")
    parser.add_argument("--curriculum", action="store_true", help="lengthen words from 4 as the loss allows")
    parser.add_argument("--strategy", choices=STRATEGIES, default="ddp", help="under torchrun")
    parser.add_argument("--device")
    parser.add_argument("--max-steps", type=int, help="stop early; the same command goes on")
    options = vars(parser.parse_args(argv))
    base = options.pop("base") or TRIAL
    out, device, strategy, until = (options.pop(name) for name in ("out", "device", "strategy", "max_steps"))
    changes = {name: value for name, value in options.items() if value is not None and name not in ("positive_eigenvalues", "curriculum")}
    if str(changes.get("generators", "")).isdigit():
        changes["generators"] = int(changes["generators"])
    recipe = replace(base, **changes, allow_neg_eigval=not options["positive_eigenvalues"], curriculum=options["curriculum"])
    if "batch" in changes and "micro_batch" not in changes:
        recipe = replace(recipe, micro_batch=min(recipe.micro_batch, recipe.batch))
    with reporting(f"{recipe.group}, n_h = {recipe.factors}") as (progress, say):
        results = train(recipe, out, device=device, strategy=strategy, until=until, progress=progress, say=say)
        if "test" in results:
            for part in ("validation", "test"):
                sequence = results[part]["sequence"]
                marks = [i for i in (7, 15, 31, 63, 127, 255, 511) if i < len(sequence)] or [len(sequence) - 1]
                say(f"{part}, whole sequences right up to: " + ", ".join(f"{i + 1}: {sequence[i]:.1f} %" for i in marks))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
