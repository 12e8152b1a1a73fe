"""The full-size experiment: ViT-B/16 on ImageNet-1K, trained at 224 px and tested from 112 to 512 px.

``python -m comrope.experiments.imagenet --data DIR --out DIR [--encoding ld] [--perturbation 1]``, or under ``torchrun`` for several
GPUs. The authors publish no optimiser, schedule, number of epochs or batch size, so these are **our recipe**: AdamW 3e-4, weight decay
0.05, cosine schedule with 5 % warm-up, batch 1024, 200 epochs, bfloat16 autocast on CUDA. Read from their code: augmentation (flip,
resize to 1.1, random crop), mean and standard deviation 0.5, one linear head on the CLS token; patch 16 is inferred. A run resumes from
its last checkpoint.
"""

import argparse
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, DistributedSampler

from comrope.baselines import LearnedAPE
from comrope.experiments._images import FolderImages
from comrope.experiments._vit import ENCODINGS, ViT, build_encoding, parameter_groups
from comrope.positions import grid_positions

__all__ = ["PAPER", "RESOLUTIONS", "Recipe", "build", "evaluate", "train"]

RESOLUTIONS = (112, 128, 160, 192, 224, 256, 288, 320, 384, 448, 512)
PAPER = {  # ComRoPE (CVPR 2025), perturbation 1, top-1 in percent at 224, 384, 512 px
    "ape": (58.76, 57.04, 50.99),
    "axial": (63.09, 59.24, 51.11),
    "liere": (64.36, 61.15, 53.74),
    "ap": (65.32, 61.88, 54.02),
    "ld": (65.49, 62.62, 55.29),
}


@dataclass(frozen=True)
class Recipe:
    """Settings of a run; the defaults are ViT-B/16 and our recipe."""

    data: str
    out: str
    encoding: str = "ld"
    perturbation: float = 1.0
    size: int = 224
    patch: int = 16
    dim: int = 768
    depth: int = 12
    heads: int = 12
    block_size: int = 8
    epochs: int = 200
    batch: int = 1024
    micro_batch: int = 128
    learning_rate: float = 3e-4
    weight_decay: float = 0.05
    warmup: float = 0.05
    workers: int = 8
    seed: int = 0
    max_steps: int | None = None
    resolutions: tuple[int, ...] = RESOLUTIONS

    def __post_init__(self) -> None:
        if self.encoding not in ENCODINGS:
            raise ValueError(f"encoding must be one of {', '.join(map(repr, ENCODINGS))}, got {self.encoding!r}")
        wrong = [s for s in (self.size, *self.resolutions) if s % self.patch]
        if wrong:
            raise ValueError(f"sizes must be multiples of the patch size {self.patch}, got {wrong}")
        if self.batch % self.micro_batch:
            raise ValueError(f"batch must be a multiple of micro_batch, got {self.batch} and {self.micro_batch}")


def build(recipe: Recipe, classes: int) -> ViT:
    """The model of a recipe."""
    grid = recipe.size // recipe.patch
    return ViT(
        patch=recipe.patch,
        channels=3,
        dim=recipe.dim,
        depth=recipe.depth,
        heads=recipe.heads,
        hidden=4 * recipe.dim,
        classes=classes,
        make_rope=lambda: build_encoding(recipe.encoding, recipe.dim // recipe.heads, recipe.heads, block_size=recipe.block_size),
        ape=LearnedAPE(recipe.dim, (grid, grid)) if recipe.encoding == "ape" else None,
    )


def _schedule(step: int, total: int, warmup: float) -> float:
    rise = max(1, round(warmup * total))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))


def _autocast(device: torch.device) -> Any:
    return torch.autocast("cuda", dtype=torch.bfloat16) if device.type == "cuda" else nullcontext()


def _save(path: Path, state: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)  # a run killed while writing leaves the last whole checkpoint


class _Stream:
    """Batches of all epochs from a given step on, the same ones whether or not the run was interrupted in between."""

    def __init__(self, data: FolderImages, recipe: Recipe, rank: int, world: int) -> None:
        self.data, self.recipe, self.rank, self.world = data, recipe, rank, world
        micro = min(recipe.micro_batch, max(1, len(data) // world))
        self.sampler: DistributedSampler[Any] = DistributedSampler(
            data, world, rank, shuffle=True, seed=recipe.seed, drop_last=len(data) > world
        )
        self.micro = micro
        self.accumulate = max(1, recipe.batch // (recipe.micro_batch * world))
        self.steps_per_epoch = max(1, len(self.sampler) // (micro * self.accumulate))

    def epoch(self, epoch: int) -> Iterator[list[tuple[Tensor, Tensor]]]:
        self.sampler.set_epoch(epoch)
        generator = torch.Generator().manual_seed(self.recipe.seed + 1000 * epoch + self.rank)
        loader = DataLoader(
            self.data,
            batch_size=self.micro,
            sampler=self.sampler,
            num_workers=self.recipe.workers,
            pin_memory=torch.cuda.is_available(),
            drop_last=True,
            generator=generator,
        )
        group: list[tuple[Tensor, Tensor]] = []
        for batch in loader:
            group.append(batch)
            if len(group) == self.accumulate:
                yield group
                group = []
        if group and self.steps_per_epoch == 1:
            yield group


def train(recipe: Recipe, *, device: torch.device | str | None = None, log: Any = None) -> dict[str, Any]:
    """Train (or resume) a run and test it at every resolution.

    Args:
        recipe: Settings. ``out/checkpoint.pt`` is read if it is there and written after every epoch; ``out/results.json`` at the end.
        device: Defaults to the CUDA device of this process if there is one.
        log: Called with lines of text.

    Returns:
        Settings, last step and top-1 accuracy per resolution, as in ``results.json``.

    Raises:
        FileNotFoundError: If the data is missing; the message says where to get it and how to lay it out.
        ValueError: If the checkpoint in ``out`` belongs to other settings.
    """
    say = log or (lambda text: None)
    rank, world, local = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")))
    if device is None:
        device = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
    device = torch.device(device)
    started = world > 1 and not torch.distributed.is_initialized()
    if started:
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    data = FolderImages(recipe.data, "train", size=recipe.size, augment=True)
    torch.manual_seed(recipe.seed)
    model = build(recipe, len(data.classes)).to(device)
    optimizer = torch.optim.AdamW(parameter_groups(model, recipe.weight_decay), lr=recipe.learning_rate)
    stream = _Stream(data, recipe, rank, world)
    total = recipe.epochs * stream.steps_per_epoch
    checkpoint = Path(recipe.out) / "checkpoint.pt"
    epoch = step = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        _check_same(state["recipe"], asdict(recipe), checkpoint)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        epoch, step = state["epoch"], state["step"]
        say(f"resumed {checkpoint} at epoch {epoch}, step {step}")
    parallel: nn.Module = (
        nn.parallel.DistributedDataParallel(model, device_ids=[local] if device.type == "cuda" else None) if world > 1 else model
    )
    while epoch < recipe.epochs and (recipe.max_steps is None or step < recipe.max_steps):
        parallel.train()
        torch.manual_seed(recipe.seed + 7919 * epoch + rank)
        draws = torch.Generator().manual_seed(recipe.seed + 104_729 * epoch)
        for group in stream.epoch(epoch):
            for parameters in optimizer.param_groups:
                parameters["lr"] = recipe.learning_rate * _schedule(step, total, recipe.warmup)
            grid = (recipe.size // recipe.patch,) * 2
            positions = grid_positions(grid, prefix_tokens=1, perturbation=recipe.perturbation, generator=draws).to(device)
            optimizer.zero_grad(set_to_none=True)
            loss = torch.zeros((), device=device)
            for i, (images, labels) in enumerate(group):
                last = i == len(group) - 1
                sync = nullcontext() if last or not isinstance(parallel, nn.parallel.DistributedDataParallel) else parallel.no_sync()
                with sync:
                    with _autocast(device):
                        part = F.cross_entropy(parallel(images.to(device, non_blocking=True), positions), labels.to(device)) / len(group)
                    part.backward()
                loss += part.detach()
            optimizer.step()
            step += 1
            if step % 50 == 0 or step == recipe.max_steps:
                say(f"epoch {epoch} step {step}/{total} loss {loss.item():.4f}")
            if recipe.max_steps is not None and step >= recipe.max_steps:
                break
        epoch += 1
        if rank == 0:
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "epoch": epoch,
                "step": step,
                "recipe": _plain(recipe),
            }
            _save(checkpoint, state)
    accuracy = {}
    for size in recipe.resolutions:
        accuracy[str(size)] = evaluate(model, recipe, size, data.classes, device=device, rank=rank, world=world)
        say(f"{size} px: top-1 {accuracy[str(size)]:.2f} %")
    paper = dict(zip(("224", "384", "512"), PAPER.get(recipe.encoding, ()), strict=False))
    results = {"recipe": _plain(recipe), "step": step, "top1": accuracy, "paper": paper}
    if rank == 0:
        (Path(recipe.out) / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if started:
        torch.distributed.destroy_process_group()
    return results


def _plain(recipe: Recipe) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(recipe)))


def _check_same(saved: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    free = {"data", "out", "workers", "max_steps", "resolutions", "epochs"}
    changed = [f"{k}: {saved.get(k)} there, {v} here" for k, v in now.items() if k not in free and saved.get(k) != v]
    if changed:
        raise ValueError(f"{path} belongs to another run ({'; '.join(changed)}); give another --out or delete it")


@torch.no_grad()
def evaluate(
    model: ViT, recipe: Recipe, size: int, classes: list[str], *, device: torch.device | str = "cpu", rank: int = 0, world: int = 1
) -> float:
    """Top-1 accuracy in percent on the validation split at ``size`` pixels, every process taking its share."""
    device = torch.device(device)
    data = FolderImages(recipe.data, "val", size=size, classes=classes)
    share = torch.utils.data.Subset(data, range(rank, len(data), world))
    model.eval()
    positions = grid_positions((size // recipe.patch,) * 2, prefix_tokens=1, device=device)
    counts = torch.zeros(2, dtype=torch.float64, device=device)
    for images, labels in DataLoader(share, batch_size=recipe.micro_batch, num_workers=recipe.workers):
        with _autocast(device):
            predicted = model(images.to(device), positions).argmax(-1).cpu()
        counts += torch.tensor([float((predicted == labels).sum()), float(len(labels))], dtype=torch.float64, device=device)
    if world > 1:
        torch.distributed.all_reduce(counts)
    return 100 * float(counts[0] / counts[1].clamp(min=1))


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    from rich.console import Console

    parser = argparse.ArgumentParser(prog="python -m comrope.experiments.imagenet", description=__doc__)
    parser.add_argument("--data", required=True, help="folder with train/<class>/ and val/<class>/")
    parser.add_argument("--out", required=True, help="folder for the checkpoint and the results")
    parser.add_argument("--encoding", default="ld", choices=ENCODINGS)
    for name, kind in (("perturbation", float), ("epochs", int), ("batch", int), ("micro-batch", int), ("workers", int), ("seed", int)):
        default = getattr(Recipe, name.replace("-", "_"))
        parser.add_argument(f"--{name}", type=kind, default=default, help=f"default {default}")
    parser.add_argument("--max-steps", type=int, help="stop early, to try the pipeline")
    console = Console(width=140)
    results = train(Recipe(**vars(parser.parse_args(argv))), log=console.print)
    console.print(f"{'px':>6} {'ours':>7} {'paper':>7}   ours: {Path(results['recipe']['out']) / 'results.json'}")
    for size, value in results["top1"].items():
        console.print(f"{size:>6} {value:7.2f} {results['paper'].get(size, ''):>7}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
