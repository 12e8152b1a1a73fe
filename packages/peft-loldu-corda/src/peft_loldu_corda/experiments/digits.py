"""Digits, then the same digits turned by 90 degrees: what a method learns of the new task against what it keeps of the old.

``python -m peft_loldu_corda.experiments.digits`` prints every learning rate of every method, untuned ones included.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import peft
import torch
from peft import LoraConfig
from torch import Tensor, nn
from torch.nn import functional as F

from peft_loldu_corda.corda.config import CordaLoraConfig
from peft_loldu_corda.corda.preprocess import preprocess_corda
from peft_loldu_corda.loldu.config import LolduConfig

__all__ = ["METHODS", "Digits", "Outcome", "Study", "adapt", "best", "load_digits", "pretrain", "study"]

LAYERS = ["0", "2", "4"]
RANK = 8
LORA_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
METHODS: dict[str, tuple[float, ...]] = {
    "LoRA": LORA_RATES,
    "PiSSA": LORA_RATES,
    "smallest SVD": LORA_RATES,
    "CorDA KPM": LORA_RATES,
    "CorDA IPM": LORA_RATES,
    "full": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3),
    "LoLDU": (3e-3, 1e-2, 3e-2, 1e-1, 3e-1),
    "LoLDU, QR order": (3e-3, 1e-2, 3e-2, 1e-1, 3e-1),
    "LoLDU, relative": (3e-3, 1e-2, 3e-2, 1e-1, 3e-1),
    "VeRA": (3e-3, 1e-2, 3e-2, 1e-1, 3e-1),
    "head": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
}
"""Methods and the learning rates tried for each."""


@dataclass(frozen=True)
class Digits:
    """Images as rows of 64 numbers, upright and turned."""

    old: Tensor
    new: Tensor
    labels: Tensor
    old_test: Tensor
    new_test: Tensor
    labels_test: Tensor


@dataclass(frozen=True)
class Outcome:
    """Accuracy on both tasks, on the new one after 100 steps, and the trained numbers."""

    new: float
    old: float
    early: float
    numbers: int


Study = dict[tuple[str, float], list[Outcome]]


def load_digits(device: str = "cpu", n_train: int = 1200) -> Digits:
    """The digits of scikit-learn, ``n_train`` to train on and the others to test."""
    from sklearn.datasets import load_digits as load

    data: Any = load()
    images = torch.tensor(data.images, dtype=torch.float32) / 16
    labels = torch.tensor(data.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    old, new = images.flatten(1).to(device), images.rot90(1, (1, 2)).flatten(1).to(device)
    labels = labels.to(device)
    return Digits(old[:n_train], new[:n_train], labels[:n_train], old[n_train:], new[n_train:], labels[n_train:])


def accuracy(model: nn.Module, x: Tensor, labels: Tensor) -> float:
    """Share of right answers, in percent."""
    with torch.no_grad():
        return 100 * float((model(x).argmax(-1) == labels).float().mean())


def fit(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    lr: float,
    epochs: int,
    seed: int,
    cosine: bool = False,
    batch: int = 64,
    at_step: tuple[int, Callable[[], None]] | None = None,
) -> None:
    """AdamW on cross-entropy."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0, fused=True)
    generator = torch.Generator().manual_seed(seed)
    total = epochs * -(-len(x) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total) if cosine else None
    step = 0
    for _ in range(epochs):
        for part in torch.randperm(len(x), generator=generator).to(x.device).split(batch):
            optimizer.zero_grad()
            F.cross_entropy(model(x[part]), labels[part]).backward()
            optimizer.step()
            if schedule is not None:
                schedule.step()
            step += 1
            if at_step is not None and step == at_step[0]:
                at_step[1]()


def pretrain(data: Digits, seed: int, epochs: int = 30) -> nn.Sequential:
    """The base: a perceptron 64-256-256-10 trained on upright digits."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)).to(data.old.device)
    fit(model, data.old, data.labels, lr=2e-3, epochs=epochs, seed=seed, cosine=True)
    return model


def adapt(base: nn.Sequential, method: str, data: Digits) -> nn.Module:
    """A copy of the base made ready for a method.

    Raises:
        ValueError: If the method is unknown.
    """
    model: Any = copy.deepcopy(base)
    common: dict[str, Any] = {"target_modules": LAYERS}
    low_rank = {"r": RANK, "lora_alpha": RANK, **common}
    if method == "full":
        return model
    if method == "head":
        for p in model[:-1].parameters():
            p.requires_grad_(False)
        return model
    if method == "LoRA":
        return peft.get_peft_model(model, LoraConfig(**low_rank))
    if method == "PiSSA":
        return peft.get_peft_model(model, LoraConfig(init_lora_weights="pissa", **low_rank))
    if method.startswith("LoLDU"):
        option: Any = {"QR order": {"column_order": "qr"}, "relative": {"parametrization": "relative"}}.get(method.partition(", ")[2], {})
        return peft.get_peft_model(model, LolduConfig(r="full", lora_alpha="r", **common, **option))
    if method == "VeRA":
        return peft.get_peft_model(model, peft.VeraConfig(r=64, projection_prng_key=0, **common))
    ways: dict[str, dict[str, Any]] = {
        "smallest SVD": {"mode": "kpm", "whitening": "none"},
        "CorDA KPM": {"mode": "kpm", "data": [data.old]},  # keep what the old task needs
        "CorDA IPM": {"mode": "ipm", "data": [data.new]},  # change what the new one uses
    }
    if method not in ways:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    return peft.get_peft_model(model, preprocess_corda(model, CordaLoraConfig(**low_rank), **ways[method]))


def run(base: nn.Sequential, method: str, lr: float, data: Digits, *, seed: int, epochs: int) -> Outcome:
    """Train one method on turned digits and test it on both tasks."""
    torch.manual_seed(1000 + seed)
    model = adapt(base, method, data)
    early: list[float] = []
    at = (100, lambda: early.append(accuracy(model, data.new_test, data.labels_test)))
    fit(model, data.new, data.labels, lr=lr, epochs=epochs, seed=seed, at_step=at)
    numbers = sum(p.numel() for p in model.parameters() if p.requires_grad)
    new, old = accuracy(model, data.new_test, data.labels_test), accuracy(model, data.old_test, data.labels_test)
    return Outcome(new, old, early[0] if early else new, numbers)


def study(
    data: Digits,
    methods: dict[str, Sequence[float]],
    *,
    seeds: Sequence[int],
    epochs: int = 8,
    progress: Callable[[float, str], None] | None = None,
) -> Study:
    """Every method at every learning rate on the base of every seed."""
    found: Study = {}
    total, done = len(seeds) * sum(len(rates) for rates in methods.values()), 0
    for seed in seeds:
        base = pretrain(data, seed)
        for method, rates in methods.items():
            for lr in rates:
                if progress is not None:
                    progress(done / total, f"{method}, lr {lr:g}, seed {seed}")
                found.setdefault((method, lr), []).append(run(base, method, lr, data, seed=seed, epochs=epochs))
                done += 1
    return found


def average(outcomes: Sequence[Outcome]) -> Outcome:
    """Mean over seeds."""
    new, old, early = (mean(getattr(o, name) for o in outcomes) for name in ("new", "old", "early"))
    return Outcome(new, old, early, outcomes[0].numbers)


def best(found: Study, method: str, by: Callable[[Outcome], float]) -> tuple[float, Outcome]:
    """The learning rate of a method with the largest mean of a measure, and its outcome."""
    rates = {lr: average(o) for (name, lr), o in found.items() if name == method}
    lr = max(rates, key=lambda rate: by(rates[rate]))
    return lr, rates[lr]


def main() -> None:
    """Print the whole study."""
    from rich.console import Console
    from rich.table import Table

    torch.set_num_threads(1)
    found = study(load_digits(), dict(METHODS), seeds=(0, 1, 2))
    table = Table("method", "lr", "new task %", "old task %", "new at step 100 %", "numbers", box=None)
    for (method, lr), outcomes in found.items():
        o = average(outcomes)
        table.add_row(method, f"{lr:g}", f"{o.new:.1f}", f"{o.old:.1f}", f"{o.early:.1f}", f"{o.numbers:,}")
    Console().print(table)


if __name__ == "__main__":
    main()
