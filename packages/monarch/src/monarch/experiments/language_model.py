"""MLPs of a language model as Monarch layers.

``python -m monarch.experiments.language_model`` trains a character model on Python's own documentation, a minute or two.
``--full --data FOLDER --tokenizer FOLDER`` trains GPT-2 small in the recipe of the paper on your text (for instance WikiText-103 as
``*.txt`` files).
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monarch.convert import ReverseSparsification, convert_model
from monarch.linear import BlockDiagLinear, MonarchLinear

__all__ = ["CharGPT", "corpus", "main", "miniature", "read_text", "train_char", "train_gpt2"]

CONTEXT, WIDTH, HEADS, LAYERS = 128, 128, 4, 3
Make = Callable[[int, int], nn.Module]


class LowRank(nn.Sequential):
    """A product of rank ``r`` with as many numbers as ``MonarchLinear`` with four blocks."""

    def __init__(self, into: int, out: int) -> None:
        rank = sum(
            w.numel() for w in (MonarchLinear(into, out, device="meta").weight1, MonarchLinear(into, out, device="meta").weight2)
        ) // (into + out)
        super().__init__(nn.Linear(into, rank, bias=False), nn.Linear(rank, out))


class _Layer(nn.Module):
    def __init__(self, make: Make) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = make(WIDTH, 4 * WIDTH), make(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class CharGPT(nn.Module):
    """A causal transformer over characters whose MLP layers come from ``make(in, out)``."""

    def __init__(self, vocabulary: int, make: Make) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(vocabulary, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.layers = nn.Sequential(*(_Layer(make) for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, vocabulary, bias=False)
        for table in (self.embed, self.position):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits ``(batch, time, vocabulary)``."""
        x = self.embed(tokens) + self.position(torch.arange(tokens.shape[1], device=tokens.device))
        return self.head(self.norm(self.layers(x)))


def corpus() -> tuple[Tensor, int]:
    """The topics of Python's help as character codes, and the size of the alphabet."""
    from pydoc_data.topics import topics

    text = "\n".join(topics[key] for key in sorted(topics))
    alphabet = {c: i for i, c in enumerate(sorted(set(text)))}
    return torch.tensor([alphabet[c] for c in text]), len(alphabet)


def _windows(text: Tensor, batch: int, generator: torch.Generator) -> Tensor:
    start = torch.randint(len(text) - CONTEXT - 1, (batch,), generator=generator)
    return text[start[:, None] + torch.arange(CONTEXT + 1)]


def _loss(model: nn.Module, window: Tensor) -> Tensor:
    return F.cross_entropy(model(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten())


def train_char(make: Make, *, steps: int, batch: int, lr: float, seed: int = 0, dense_from: float | None = None) -> tuple[float, int]:
    """Validation loss in nats per character, and the numbers in the MLPs at the start; ``dense_from`` is a share of the steps."""
    text, vocabulary = corpus()
    cut = int(0.9 * len(text))
    torch.manual_seed(seed)
    model = CharGPT(vocabulary, make)
    size = sum(p.numel() for layer in model.layers for m in (layer.up, layer.down) for p in m.parameters())  # pyright: ignore[reportAttributeAccessIssue]
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.1)
    schedule = ReverseSparsification(
        model, optimizer, math.ceil(dense_from * steps) if dense_from is not None else steps + 1, policy="keep-other"
    )
    generator = torch.Generator().manual_seed(seed)
    for i in range(steps):
        schedule.step(i)
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (i + 1) / 20) * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * i / steps)))
        optimizer.zero_grad()
        _loss(model, _windows(text[:cut], batch, generator)).backward()
        optimizer.step()
    generator.manual_seed(1)
    with torch.no_grad():
        return sum(float(_loss(model, _windows(text[cut:], 32, generator))) for _ in range(8)) / 8, size


def miniature(*, steps: int = 250, batch: int = 16, rates: tuple[float, ...] = (1e-3, 3e-3), seed: int = 0) -> dict[str, dict[str, float]]:
    """Validation loss of every kind of MLP, each at the better of the learning rates."""
    kinds: dict[str, tuple[Make, float | None]] = {
        "dense": (nn.Linear, None),
        "Monarch, 4 blocks": (MonarchLinear, None),
        "low rank, same size": (LowRank, None),
        "block-diagonal, 4 blocks": (BlockDiagLinear, None),
        "Monarch, dense from 70 %": (MonarchLinear, 0.7),
    }
    found = {}
    for name, (make, dense_from) in kinds.items():
        runs = [(*train_char(make, steps=steps, batch=batch, lr=lr, seed=seed, dense_from=dense_from), lr) for lr in rates]
        loss, size, lr = min(runs)
        found[name] = {"loss": loss, "numbers": size, "lr": lr}
        print(f"{name:<26} {size:>7} numbers in the MLPs, {loss:.3f} nats per character at lr {lr:g}", flush=True)  # noqa: T201
    return found


def read_text(folder: Path, part: str) -> Iterator[str]:
    """Lines of ``<part>*.txt`` in a folder.

    Raises:
        FileNotFoundError: With what to put there.
    """
    files = sorted(folder.glob(f"{part}*.txt"))
    if not files:
        raise FileNotFoundError(
            f"no {part}*.txt in {folder}. Put the text there as train*.txt and valid*.txt, UTF-8; WikiText-103 (raw) is at "
            "https://huggingface.co/datasets/Salesforce/wikitext"
        )
    for file in files:
        with file.open(encoding="utf-8") as lines:
            yield from lines


def _blocks(folder: Path, part: str, tokenizer: Any, length: int) -> Iterator[Tensor]:
    held: list[int] = []
    for line in read_text(folder, part):
        held += tokenizer(line)["input_ids"]
        while len(held) >= length:
            yield torch.tensor(held[:length])
            held = held[length:]


def train_gpt2(options: argparse.Namespace, *, config: dict[str, Any] | None = None) -> float:
    """GPT-2 small with Monarch MLPs: AdamW 6e-4, weight decay 0.1, 1 % warm-up, clipping at 1; returns the validation loss.

    Writes ``checkpoint.pt`` into ``--out`` every ``--save-every`` steps and resumes from it: weights, optimizer, switch, position in the
    data.
    """
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    torch.manual_seed(options.seed)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_positions=options.context, **(config or {}))).to(options.device)
    print(convert_model(model, include=r"mlp\.c_(fc|proj)$", nblocks=4, project=False))  # noqa: T201
    decay, plain = [], []
    for p in model.parameters():
        (decay if p.ndim >= 2 else plain).append(p)
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}], lr=6e-4)
    schedule = ReverseSparsification(model, optimizer, int(options.dense_from * options.steps))
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    saved, start = out / "checkpoint.pt", 0
    if saved.exists():
        state = torch.load(saved, map_location=options.device, weights_only=True)
        schedule.load_state_dict(state["schedule"])
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    stream = _endless(Path(options.data), tokenizer, options.context)
    for _ in range(start * options.batch):
        next(stream)
    model.train()
    began = time.monotonic()
    for step in range(start, options.steps):
        schedule.step(step)
        for group in optimizer.param_groups:
            group["lr"] = 6e-4 * min((step + 1) / max(1, options.steps // 100), 1 - step / options.steps)
        tokens = torch.stack([next(stream) for _ in range(options.batch)]).to(options.device)
        optimizer.zero_grad()
        with torch.autocast(torch.device(options.device).type, torch.bfloat16, enabled=options.bf16):
            loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % options.save_every == 0 or step + 1 == options.steps:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(), "step": step + 1}
            torch.save(state, saved.with_suffix(".tmp"))
            saved.with_suffix(".tmp").replace(saved)
            print(f"step {step + 1}/{options.steps}  loss {loss.item():.3f}  {time.monotonic() - began:.0f} s", flush=True)  # noqa: T201
    model.eval()
    with torch.no_grad():
        losses = []
        for i, block in enumerate(_blocks(Path(options.data), "valid", tokenizer, options.context)):
            if i == options.validation:
                break
            tokens = block[None].to(options.device)
            losses.append(float(model(input_ids=tokens, labels=tokens).loss))
    if not losses:
        raise ValueError(f"valid*.txt in {options.data} must hold at least {options.context} tokens")
    value = sum(losses) / len(losses)
    print(f"validation loss {value:.3f}, perplexity {math.exp(value):.1f}")  # noqa: T201
    return value


def _endless(folder: Path, tokenizer: Any, length: int) -> Iterator[Tensor]:
    while True:
        empty = True
        for block in _blocks(folder, "train", tokenizer, length):
            empty = False
            yield block
        if empty:
            raise ValueError(f"train*.txt in {folder} must hold at least {length} tokens")


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the table of the miniature to this file")
    parser.add_argument("--full", action="store_true", help="GPT-2 on your text")
    parser.add_argument("--data", type=Path, help="folder with train*.txt and valid*.txt")
    parser.add_argument("--tokenizer", help="folder of a tokenizer")
    parser.add_argument("--out", default="gpt2-monarch", help="folder for checkpoints")
    parser.add_argument("--steps", type=int, help="optimizer steps; 250, with --full 100000")
    parser.add_argument("--batch", type=int, help="sequences a step; 16, with --full 512")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--dense-from", type=float, default=1.0, help="share of the steps after which the model is dense")
    parser.add_argument("--save-every", type=int, default=1000)
    parser.add_argument("--validation", type=int, default=200, help="sequences of the validation")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.full:
        if options.data is None or options.tokenizer is None:
            parser.error("--full needs --data and --tokenizer")
        options.steps, options.batch = options.steps or 100_000, options.batch or 512
        train_gpt2(options)
        return
    found = miniature(steps=options.steps or 250, batch=options.batch or 16, seed=options.seed)
    if options.json:
        from geocore.testing.benchmark import environment

        document = {
            "command": "python -m monarch.experiments.language_model",
            "environment": environment(),
            "packages": ["geocore"],
            "units": "Nats per character on held-out text, at the better of two learning rates; numbers in the MLPs before the switch",
            "columns": ["loss", "numbers", "lr"],
            "rows": [{"name": name, "values": [row["loss"], row["numbers"], f"{row['lr']:g}"]} for name, row in found.items()],
        }
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
