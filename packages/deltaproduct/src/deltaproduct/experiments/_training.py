"""One training loop for all recipes: resumes exactly, shows its progress, runs alone or under ``torchrun`` with DDP or FSDP2."""

import json
import math
import os
from collections.abc import Callable, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from deltaproduct.experiments._model import parameter_groups
from geocore._checks import check_option, check_positive_int

__all__ = ["PRECISIONS", "STRATEGIES", "Optimisation", "Place", "Progressive", "fit", "place", "plain"]

STRATEGIES = ("ddp", "fsdp")
PRECISIONS = ("float32", "autocast", "bfloat16")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Optimisation:
    """Settings of the loop; AdamW with linear warm-up and cosine decay.

    Args:
        steps: Optimiser steps in all; the schedule is made for them.
        learning_rate: At its highest.
        betas: Of AdamW.
        weight_decay: Of matrices.
        warmup: Steps of linear rise.
        floor: What the cosine ends at, as a part of the highest rate.
        clip: Largest norm of the gradient; ``None`` for no limit.
        precision: ``"float32"``, ``"autocast"`` (bfloat16 products) or ``"bfloat16"`` (weights too).
        save_every: Steps between checkpoints.
        seed: Of weights and data.
    """

    steps: int
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-6
    warmup: int = 0
    floor: float = 0.0
    clip: float | None = 1.0
    precision: str = "float32"
    save_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive_int("steps", self.steps)
        check_positive_int("save_every", self.save_every)
        check_option("precision", self.precision, PRECISIONS)

    def rate(self, step: int) -> float:
        """The learning rate at a step as a part of the highest."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


@dataclass(frozen=True)
class Place:
    """Which process this is, and where it computes."""

    device: torch.device
    rank: int = 0
    world: int = 1

    def mean(self, x: Tensor) -> Tensor:
        """Average over processes."""
        if self.world > 1:
            distributed.all_reduce(x)
            x = x / self.world
        return x


@contextmanager
def place(device: str | None = None) -> Any:
    """The process as ``torchrun`` describes it; joins the group if there are several, and leaves it at the end."""
    rank, world, local = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")))
    if device is None:
        device = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
    where = torch.device(device)
    if where.type == "cuda":
        torch.cuda.set_device(where)
    started = world > 1 and not distributed.is_initialized()
    if started:
        distributed.init_process_group("nccl" if where.type == "cuda" else "gloo")
    try:
        yield Place(where, rank, world)
    finally:
        if started:
            distributed.destroy_process_group()


@runtime_checkable
class Progressive(Protocol):
    """Data that goes with the loop: batches by step, and what they remember between steps."""

    def batches(self, step: int, place: Place) -> Sequence[tuple[Tensor, ...]]:
        """This process's share of a step, in pieces whose gradients are added."""
        ...

    def after(self, step: int, loss: float) -> None:
        """Learn what a step's loss was."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what a checkpoint held."""
        ...


def plain(settings: Any) -> dict[str, Any]:
    """A dataclass as JSON would return it."""
    return json.loads(json.dumps(asdict(settings)))


def _parallel(model: nn.Module, strategy: str, where: Place) -> nn.Module:
    if where.world == 1:
        return model
    if strategy == "fsdp":
        from torch.distributed.fsdp import fully_shard

        for module in model.modules():
            if isinstance(module, nn.ModuleList):
                for block in module:
                    fully_shard(block)
        fully_shard(model)  # in place
        return model
    return nn.parallel.DistributedDataParallel(model, device_ids=[where.device.index] if where.device.type == "cuda" else None)


def _whole(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def fit(
    model: nn.Module,
    data: Progressive,
    loss_of: Callable[[nn.Module, tuple[Tensor, ...]], Tensor],
    settings: Optimisation,
    *,
    out: str | Path,
    identity: dict[str, Any],
    where: Place,
    strategy: str = "ddp",
    until: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    say: Say | None = None,
) -> tuple[nn.Module, int, float]:
    """Train to ``settings.steps``, going on from ``out/checkpoint.pt`` if it is there.

    A run that was interrupted and resumed gives the weights of one that was not: the checkpoint holds model, optimiser, schedule, random
    states and what ``data`` remembers, and batches are a function of the step.

    Args:
        model: Model on its device.
        data: Batches.
        loss_of: Mean loss of a batch.
        settings: Settings.
        out: Folder of the checkpoint.
        identity: What a checkpoint must agree with to be resumed.
        where: This process.
        strategy: ``"ddp"`` or ``"fsdp"``, with several processes.
        until: Stop early after this step.
        progress: Called with step, steps and a message.
        say: Called with lines of text.

    Returns:
        The model (wrapped, with several processes), the last step, and the last loss.

    Raises:
        ValueError: If the checkpoint belongs to other settings, or ``strategy`` is unknown.
    """
    check_option("strategy", strategy, STRATEGIES)
    if settings.precision == "bfloat16":
        model = model.bfloat16()
    parallel = _parallel(model, strategy, where)
    optimizer = torch.optim.AdamW(parameter_groups(parallel, settings.weight_decay), lr=settings.learning_rate, betas=settings.betas)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, settings.rate)
    file = Path(out) / "checkpoint.pt"
    torch.manual_seed(settings.seed + where.rank)
    step, loss = 0, math.nan
    if file.exists():
        step, loss = _resume(file, parallel, optimizer, schedule, data, identity, where)
        if say is not None and where.rank == 0:
            say(f"resumed {file} at step {step}")
    last = settings.steps if until is None else min(until, settings.steps)
    autocast = torch.autocast(where.device.type, torch.bfloat16) if settings.precision == "autocast" else nullcontext()
    parallel.train()
    while step < last:
        pieces = data.batches(step, where)
        optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=where.device)
        for i, piece in enumerate(pieces):
            waiting = i < len(pieces) - 1 and isinstance(parallel, nn.parallel.DistributedDataParallel)
            with parallel.no_sync() if waiting else nullcontext():  # pyright: ignore[reportCallIssue]
                with autocast:
                    part = loss_of(parallel, tuple(x.to(where.device, non_blocking=True) for x in piece)) / len(pieces)
                part.backward()
            total += part.detach().float()
        if settings.clip is not None:
            nn.utils.clip_grad_norm_(parallel.parameters(), settings.clip)
        optimizer.step()
        schedule.step()
        step += 1
        loss = float(where.mean(total))
        data.after(step, loss)
        if progress is not None and where.rank == 0:
            progress(step, settings.steps, f"loss {loss:.4f}")
        if step % settings.save_every == 0 or step == last:
            _save(file, parallel, optimizer, schedule, data, identity, where, step, loss)
    return parallel, step, loss


def _random_states(where: Place) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if where.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(where.device)
    return states


def _save(
    file: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    data: Progressive,
    identity: dict[str, Any],
    where: Place,
    step: int,
    loss: float,
) -> None:
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    bare = _whole(model)
    weights, moments = get_model_state_dict(bare, options=options), get_optimizer_state_dict(bare, optimizer, options=options)
    states: list[Any] = [_random_states(where)]
    if where.world > 1:
        states = [None] * where.world
        distributed.all_gather_object(states, _random_states(where))
    if where.rank == 0:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        torch.save(
            {
                "model": weights,
                "optimizer": moments,
                "schedule": schedule.last_epoch,  # all that it holds: the rate is a function of the step
                "data": data.state_dict(),
                "random": states,
                "identity": identity,
                "step": step,
                "loss": loss,
            },
            partial,
        )
        partial.replace(file)  # a run killed while writing leaves the last whole checkpoint
    if where.world > 1:
        distributed.barrier()


def _resume(
    file: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    data: Progressive,
    identity: dict[str, Any],
    where: Place,
) -> tuple[int, float]:
    state = torch.load(file, map_location="cpu", weights_only=True)
    changed = [f"{k}: {state['identity'].get(k)!r} there, {v!r} here" for k, v in identity.items() if state["identity"].get(k) != v]
    if changed:
        raise ValueError(f"{file} belongs to another run ({'; '.join(changed)}); give another folder or delete it")
    options = StateDictOptions(full_state_dict=True)
    bare = _whole(model)
    set_model_state_dict(bare, state["model"], options=options)
    set_optimizer_state_dict(bare, optimizer, state["optimizer"], options=options)
    schedule.last_epoch = int(state["schedule"])
    data.load_state_dict(state["data"])
    states = state["random"]
    if where.rank < len(states):
        torch.set_rng_state(states[where.rank]["cpu"])
        if where.device.type == "cuda" and "cuda" in states[where.rank]:
            torch.cuda.set_rng_state(states[where.rank]["cuda"], where.device)
    return int(state["step"]), float(state["loss"])
