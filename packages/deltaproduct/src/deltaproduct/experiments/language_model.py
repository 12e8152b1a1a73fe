"""The paper's language model: DeltaProduct against DeltaNet with as many parameters, and the loss at every position of long contexts.

``python -m deltaproduct.experiments.language_model --data TEXT --out DIR [--medium | --full] [--num-householder 3]``, or under ``torchrun``
for several processes. A run goes on from its last checkpoint.

Recipes: the default is a trial of minutes on a CPU, on bytes; ``--medium`` is 8 layers of width 512, context 1024, 5 000 steps of 64 k
tokens, on bytes; ``--full`` is the paper's: 24 layers of width 1024, heads of 128 (8, or 6 for three factors), tied embeddings, context
2048, 0.5 M tokens per step, 66 758 steps (35 B tokens), AdamW 3e-4 (.9, .95), decay 0.01, 512 steps of warm-up, cosine to a tenth, clip
1, bfloat16 autocast. The paper's data are FineWeb with the tokenizer of Mistral-7B-v0.1: give their local folders.
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

from deltaproduct.experiments._console import reporting
from deltaproduct.experiments._text import BYTES, Corpus
from deltaproduct.experiments._training import STRATEGIES, Optimisation, Place, fit, place, plain

__all__ = ["FULL", "MEDIUM", "TRIAL", "Recipe", "Windows", "build", "loss_by_position", "train"]


@dataclass(frozen=True)
class Recipe:
    """Settings of a run.

    Args:
        data: File or folder of text.
        tokenizer: ``"bytes"`` or a local folder.
        num_householder, num_heads, head_dim, hidden_size, num_layers, use_forget_gate, allow_neg_eigval: Of the model; without
            ``num_heads``, as many as match the parameters of the paper's models (8, or 6 for three factors).
        context, test_context: Tokens per window in training, and in the test of long contexts.
        tokens_per_step, micro_batch: Tokens of a step, and windows per piece of a step and process.
        steps, warmup, learning_rate, precision: Of the optimiser.
        checkpointing: Whether blocks are recomputed in the backward pass.
        compile: Whether to compile the model.
        seed: Of weights and the order of the windows.
    """

    data: str = ""
    tokenizer: str = BYTES
    num_householder: int = 2
    num_heads: int | None = None
    head_dim: int = 128
    hidden_size: int = 1024
    num_layers: int = 24
    use_forget_gate: bool = False
    allow_neg_eigval: bool = True
    context: int = 2048
    test_context: int = 4096
    tokens_per_step: int = 524_288
    micro_batch: int = 8
    steps: int = 66_758
    warmup: int = 512
    learning_rate: float = 3e-4
    precision: str = "autocast"
    checkpointing: bool = False
    compile: bool = False
    seed: int = 0

    @property
    def heads(self) -> int:
        """Heads of the model."""
        return self.num_heads or {1: 8, 2: 8}.get(self.num_householder, 6)


FULL = Recipe()
MEDIUM = replace(
    FULL, hidden_size=512, num_layers=8, head_dim=64, context=1024, test_context=4096, tokens_per_step=65_536, steps=5000, warmup=200
)
TRIAL = replace(
    FULL,
    hidden_size=64,
    num_layers=2,
    head_dim=16,
    num_heads=4,
    context=64,
    test_context=256,
    tokens_per_step=1024,
    micro_batch=16,
    steps=300,
    warmup=20,
    learning_rate=3e-3,
    precision="float32",
)


def build(recipe: Recipe, vocab_size: int) -> nn.Module:
    """The model of a recipe, a ``DeltaProductForCausalLM``.

    Raises:
        ImportError: If transformers is missing.
    """
    import deltaproduct

    config = deltaproduct.DeltaProductConfig(
        vocab_size=vocab_size,
        hidden_size=recipe.hidden_size,
        num_hidden_layers=recipe.num_layers,
        num_heads=recipe.heads,
        head_dim=recipe.head_dim,
        num_householder=recipe.num_householder,
        use_forget_gate=recipe.use_forget_gate,
        allow_neg_eigval=recipe.allow_neg_eigval,
        initializer_range=0.006 if recipe.hidden_size >= 512 else 0.02,
        max_position_embeddings=recipe.context,
        bos_token_id=None,
        eos_token_id=None,
        use_cache=False,
    )
    model = deltaproduct.DeltaProductForCausalLM(config)
    if recipe.checkpointing:
        model.activation_checkpointing_enable()
    return model


class Windows:
    """Windows of text in a new order for every pass; the batch is a function of the step."""

    def __init__(self, corpus: Corpus, recipe: Recipe) -> None:
        self.corpus, self.recipe = corpus, recipe
        self.kept, self.valid = corpus.windows(recipe.context)
        self.batch = max(1, recipe.tokens_per_step // recipe.context)
        self._order = -1, torch.arange(0)

    def _epoch(self, epoch: int) -> Tensor:
        if self._order[0] != epoch:
            self._order = epoch, torch.randperm(self.kept, generator=torch.Generator().manual_seed(self.recipe.seed + 7919 * (epoch + 1)))
        return self._order[1]

    def batches(self, step: int, place: Place) -> list[tuple[Tensor, ...]]:
        """This process's windows of a step, in pieces; a step may reach over the end of a pass."""
        first = step * self.batch
        rows: list[Tensor] = []
        while first < (step + 1) * self.batch:
            epoch, position = divmod(first, self.kept)
            part = self._epoch(epoch)[position : position + (step + 1) * self.batch - first]
            rows.append(part)
            first += len(part)
        mine = torch.cat(rows)[place.rank :: place.world]
        return [(self.corpus.window(part, self.recipe.context),) for part in mine.split(self.recipe.micro_batch)]

    def after(self, step: int, loss: float) -> None:
        """Nothing to learn."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing but the text's identity: the position is the step."""
        return {"corpus": self.corpus.key}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that the text is the same.

        Raises:
            ValueError: If it is not.
        """
        if state_dict["corpus"] != self.corpus.key:
            raise ValueError("the checkpoint was made from other text or another tokenizer; give another --out or the same data")


def _loss(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    return model(input_ids=batch[0], labels=batch[0], use_cache=False).loss


@torch.no_grad()
def loss_by_position(model: nn.Module, corpus: Corpus, recipe: Recipe, device: torch.device | str, windows: int = 16) -> dict[str, float]:
    """Mean loss in nats per token of validation text, by position within contexts longer than those of training.

    Returns:
        The last position of each part (powers of two up to ``test_context``) to the mean loss of the part.
    """
    training = model.training
    model.eval()
    length = min(recipe.test_context, len(corpus.tokens) // 2)
    count = len(corpus.tokens) // length
    total, seen = torch.zeros(length - 1, dtype=torch.float64), 0
    for index in range(max(0, count - windows), count):
        tokens = corpus.window(torch.tensor([index]), length).to(device)
        logits = model(input_ids=tokens, use_cache=False).logits[0, :-1].float()
        total += F.cross_entropy(logits, tokens[0, 1:], reduction="none").double().cpu()
        seen += 1
    model.train(training)
    out, start, end = {}, 0, 16
    while start < length - 1:
        stop = min(end, length - 1)
        out[str(stop)] = float(total[start:stop].mean() / seen)
        start, end = stop, 2 * end
    return out


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
    """Train (or resume), test at long contexts, and save the model.

    Args:
        recipe: Settings.
        out: Folder for ``checkpoint.pt``, ``results.json`` and, in the end, ``model`` for ``from_pretrained``.
        device, strategy, until, save_every, progress, say: As in ``deltaproduct.experiments.state_tracking.train``.

    Returns:
        Recipe, last step and loss, number of parameters, and loss by position, as in ``results.json``.

    Raises:
        FileNotFoundError: If the text or the tokenizer is missing; the message says what to put where.
        ValueError: If the text is too short, or the checkpoint belongs to another recipe.
        ImportError: If transformers is missing.
    """
    with place(device) as where:
        corpus = Corpus(recipe.data, recipe.tokenizer, Path(out))
        torch.manual_seed(recipe.seed)
        model: Any = build(recipe, corpus.vocab_size).to(where.device)
        parameters = sum(p.numel() for p in model.parameters())
        if recipe.compile:
            model.compile()
        settings = Optimisation(
            recipe.steps,
            recipe.learning_rate,
            betas=(0.9, 0.95),
            weight_decay=0.01,
            warmup=recipe.warmup,
            floor=0.1,
            precision=recipe.precision,
            save_every=save_every,
            seed=recipe.seed,
        )
        data = Windows(corpus, recipe)
        identity = {k: v for k, v in plain(recipe).items() if k not in ("data", "test_context", "micro_batch", "compile", "checkpointing")}
        parallel, step, loss = fit(
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
        results: dict[str, Any] = {"recipe": plain(recipe), "step": step, "loss": loss, "parameters": parameters}
        if step == settings.steps:
            results["loss_by_position"] = loss_by_position(parallel, corpus, recipe, where.device)
            if where.rank == 0:
                (Path(out) / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            if where.world == 1 or strategy == "ddp":
                if where.rank == 0:
                    model.save_pretrained(Path(out) / "model")
            elif say is not None:
                say("the weights are in checkpoint.pt under 'model'; save_pretrained them from one process")
        return results


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m deltaproduct.experiments.language_model", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--medium", action="store_const", const=MEDIUM, dest="base", help="a small model of bytes")
    size.add_argument("--full", action="store_const", const=FULL, dest="base", help="the paper's recipe")
    parser.add_argument("--data", required=True, help="file or folder of *.txt, *.jsonl or *.parquet")
    parser.add_argument("--out", required=True, type=Path, help="folder for checkpoint, results and model; a run there is resumed")
    parser.add_argument("--tokenizer", help="'bytes', or a local folder with tokenizer files")
    for name in ("num-householder", "num-heads", "context", "test-context", "micro-batch", "tokens-per-step", "steps", "seed"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--learning-rate", type=float)
    for name in ("use-forget-gate", "checkpointing", "compile"):
        parser.add_argument(f"--{name}", action="store_true", default=None)
    parser.add_argument("--strategy", choices=STRATEGIES, default="ddp", help="under torchrun")
    parser.add_argument("--device")
    parser.add_argument("--max-steps", type=int, help="stop early; the same command goes on")
    options = vars(parser.parse_args(argv))
    base = options.pop("base") or TRIAL
    out, device, strategy, until = (options.pop(name) for name in ("out", "device", "strategy", "max_steps"))
    recipe = replace(base, **{name: value for name, value in options.items() if value is not None})
    with reporting(f"language model, n_h = {recipe.num_householder}") as (progress, say):
        results = train(recipe, out, device=device, strategy=strategy, until=until, progress=progress, say=say)
        if "loss_by_position" in results:
            say("loss up to position " + ", ".join(f"{end}: {value:.3f}" for end, value in results["loss_by_position"].items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
