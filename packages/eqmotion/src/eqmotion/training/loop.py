"""Train and evaluate: resumes bit for bit, alone or under ``torchrun`` with DistributedDataParallel."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, distributed, nn

from eqmotion.data.windows import Scene, TrajectoryDataset
from eqmotion.losses import best_of_modes_loss, displacement_loss, horizon_weights, mode_score_loss
from eqmotion.metrics import interaction_accuracy
from eqmotion.model import EqMotion
from eqmotion.outputs import DetailedOutput
from eqmotion.training.checkpoint import Checkpoint, load_checkpoint
from eqmotion.training.recipes import Recipe

__all__ = ["evaluate", "fit", "loss_of"]

Progress = Callable[[int, int, str], None]


def loss_of(model: nn.Module, scene: Scene, settings: Recipe, reduction: Literal["mean", "sum"] = "mean") -> Tensor:
    """The recipe's loss of a batch: displacement, or the best of several modes."""
    out = model(scene.x, mask=scene.mask)
    if out.pred.ndim == 5:
        loss = best_of_modes_loss(out.pred, scene.y, scene.mask, supervise=settings.supervise, reduction=reduction)
        if isinstance(out, DetailedOutput) and out.mode_logits is not None:
            ego = slice(0, 1) if settings.supervise == "ego" else slice(None)
            loss = loss + mode_score_loss(
                out.mode_logits[:, ego], out.pred[:, ego], scene.y[:, ego], scene.mask[:, ego], reduction=reduction
            )
        return loss
    weights = horizon_weights(scene.y.shape[2], like=scene.y) if settings.horizon else None
    return displacement_loss(out.pred, scene.y, weights, scene.mask, reduction)


def _count(scene: Scene, settings: Recipe, modes: int) -> int:
    """Terms of the sum that ``loss_of`` makes."""
    if modes > 1:
        return int(scene.mask[:, 0].sum() if settings.supervise == "ego" else scene.mask.sum())
    return int(scene.mask.sum()) * scene.y.shape[2]


def _place() -> tuple[int, int]:
    started = distributed.is_available() and distributed.is_initialized()
    return (distributed.get_rank(), distributed.get_world_size()) if started else (0, 1)


def _order(settings: Recipe, epoch: int, n: int) -> Tensor:
    """Order of the scenes in an epoch, a function of seed and epoch alone."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch))


def fit(
    settings: Recipe,
    train: TrajectoryDataset,
    val: TrajectoryDataset,
    *,
    out: str | Path,
    device: torch.device | str = "cpu",
    max_steps: int | None = None,
    save_every: int | None = None,
    progress: Progress | None = None,
) -> tuple[EqMotion, list[dict[str, float]]]:
    """Train a recipe; goes on from ``out/last.pt`` if it is there, and keeps the best epoch on the validation set in ``out/best.pt``.

    A run that was stopped after any step and resumed gives the same bits as one that was not.

    Args:
        settings: The recipe.
        train: Training scenes.
        val: Validation scenes. The best epoch is chosen here, never on the test set.
        out: Folder of the checkpoints.
        device: Where to train.
        max_steps: Stop after so many steps of this call, writing a checkpoint.
        save_every: Steps between checkpoints within an epoch; at the end of every epoch there is always one.
        progress: Called with finished steps, all steps, and a message.

    Returns:
        The model as it is after the last step, and the numbers of every epoch.

    Raises:
        ValueError: If there are no scenes, or the checkpoint belongs to another recipe.
    """
    if len(train) == 0 or len(val) == 0:
        raise ValueError(f"train and val must hold scenes, got {len(train)} and {len(val)}")
    rank, world = _place()
    file, best_file = Path(out) / "last.pt", Path(out) / "best.pt"
    torch.manual_seed(settings.seed)
    model = settings.build().to(device)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    state = Checkpoint(settings.to_dict(), model.config, {})
    if file.exists():
        state = _resume(file, settings, model, optimizer, rank)
    parallel = nn.parallel.DistributedDataParallel(model) if world > 1 else model
    steps, done = -(-len(train) // settings.batch_size), 0

    def save() -> None:
        states: list[Any] = [torch.get_rng_state()]
        if world > 1:
            states = [None] * world
            distributed.all_gather_object(states, torch.get_rng_state())
        state.model, state.optimizer, state.random = model.state_dict(), optimizer.state_dict(), states
        state.largest_scene = model.largest_scene
        if rank == 0:
            state.save(file)
        if world > 1:
            distributed.barrier()

    while state.epoch < settings.epochs:
        order = _order(settings, state.epoch, len(train))
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * (
                settings.decay ** (state.epoch // settings.decay_every) if settings.decay_every else 1.0
            )
        parallel.train()
        while state.step < steps:
            indices = order[state.step * settings.batch_size : (state.step + 1) * settings.batch_size]
            loss = _step(parallel, optimizer, train, indices, settings, device, model.n_modes, rank, world)
            state.step, state.total = state.step + 1, (state.total[0] + loss * len(indices), state.total[1] + len(indices))
            done += 1
            if progress is not None and rank == 0:
                progress(state.epoch * steps + state.step, settings.epochs * steps, f"epoch {state.epoch + 1}, loss {loss:.4f}")
            if state.step < steps and ((save_every and state.step % save_every == 0) or done == max_steps):
                save()
            if done == max_steps and state.step < steps:
                return model, state.history
        numbers = {"epoch": float(state.epoch + 1), "loss": state.total[0] / state.total[1]}
        numbers |= {f"val_{name}": value for name, value in evaluate(model, val, settings, device=device).items()}
        state.history.append(numbers)
        state.epoch, state.step, state.total = state.epoch + 1, 0, (0.0, 0.0)
        if numbers["val_ade"] < state.best:
            state.best = numbers["val_ade"]
            if rank == 0:
                Checkpoint(
                    state.recipe, state.config, model.state_dict(), epoch=state.epoch, best=state.best, history=state.history,
                    largest_scene=model.largest_scene,
                ).save(best_file)  # fmt: skip
        save()
        if done == max_steps:
            break
    return model, state.history


def _resume(file: Path, settings: Recipe, model: EqMotion, optimizer: torch.optim.Optimizer, rank: int) -> Checkpoint:
    state = load_checkpoint(file)
    wanted, kept = settings.to_dict(), dict(state.recipe)
    changed = [
        f"{name}: {kept[name]!r} there, {value!r} here" for name, value in wanted.items() if name != "epochs" and kept[name] != value
    ]
    if changed:
        raise ValueError(f"{file} belongs to another run ({'; '.join(changed)}); give another folder or delete it")
    model.load_state_dict(state.model)
    optimizer.load_state_dict(state.optimizer)
    model.largest_scene = state.largest_scene
    state.recipe = wanted
    if rank < len(state.random):
        torch.set_rng_state(state.random[rank])
    return state


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    train: TrajectoryDataset,
    indices: Tensor,
    settings: Recipe,
    device: torch.device | str,
    modes: int,
    rank: int,
    world: int,
) -> float:
    """One step on this process's share; gradients are those of the mean over the whole batch however it is shared."""
    whole = train.take(indices)
    count = max(_count(whole, settings, modes), 1)
    share = whole if world == 1 else Scene(*(t[rank::world] for t in whole))
    share = Scene(*(t.to(device, non_blocking=True) for t in share))
    optimizer.zero_grad(set_to_none=True)
    if len(share.x):
        loss = loss_of(model, share, settings, reduction="sum") / count * world
    else:  # every process must take part in the exchange of gradients
        loss = 0.0 * loss_of(model, Scene(*(t[:1].to(device) for t in whole)), settings, reduction="sum")
    loss.backward()
    optimizer.step()
    mean = loss.detach() / world
    if world > 1:
        distributed.all_reduce(mean)
    return float(mean)


def evaluate(
    model: nn.Module,
    data: TrajectoryDataset,
    settings: Recipe,
    *,
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
    rotation: Tensor | None = None,
    edge_scenes: int = 500,
) -> dict[str, float]:
    """Errors on a data set, in the units of its positions.

    ``ade`` and ``fde`` of the agents that are supervised; with several modes ``ade`` and ``fde`` are those of the best mode (each of its
    own). For skeletons ``mpjpe_<ms>`` at 25 fps in millimetres; where the true types of pairs are known ``edge_accuracy``, up to
    relabelling.

    Args:
        model: The model.
        data: Scenes.
        settings: The recipe.
        device: Where the model is.
        batch_size: Scenes at once, the recipe's if not given.
        rotation: Turn every scene by this matrix first, shape ``(d, d)``.
        edge_scenes: Scenes to compare types of pairs on.

    Returns:
        Name to number.
    """
    training = model.training
    model.eval()
    per_step: Tensor | None = None
    weight, final = 0.0, 0.0
    found: list[Tensor] = []
    scale = float(getattr(data, "scale", 1.0))
    size = batch_size or settings.batch_size
    with torch.no_grad():
        for start in range(0, len(data), size):
            scene = Scene(*(t.to(device) for t in data.take(torch.arange(start, min(start + size, len(data))))))
            x, y = scene.x, scene.y
            if rotation is not None:
                x, y = x @ rotation.to(x).mT, y @ rotation.to(y).mT
            out = model(x, mask=scene.mask)
            pred, mask = out.pred, scene.mask
            if pred.ndim == 5:
                ego = slice(0, 1) if settings.supervise == "ego" else slice(None)
                pred, y, mask = pred[:, ego], y[:, ego], mask[:, ego]
                distance = torch.linalg.vector_norm(pred - y[:, :, None], dim=-1)
                last = distance[..., -1].amin(-1)
                best = distance.mean(-1).argmin(-1)
                distance = distance.take_along_dim(best[..., None, None], dim=2)[:, :, 0]
            else:
                distance = torch.linalg.vector_norm(pred - y, dim=-1)
                last = distance[..., -1]
            kept = (distance.double() * mask[..., None]).sum((0, 1)) * scale
            per_step = kept if per_step is None else per_step + kept
            final += float((last.double() * mask).sum()) * scale
            weight += float(mask.sum())
            if data.edges is not None and len(found) * size < edge_scenes:
                found.append(out.categories.argmax(-1).cpu())
    model.train(training)
    assert per_step is not None
    per_step = per_step / weight
    numbers = {"ade": float(per_step.mean()), "fde": final / weight}
    if settings.data == "human36m":
        unit = float(settings.data_options.get("scale", 100.0))
        for ms in (80, 160, 320, 400, 560, 1000):
            frame = ms // 40 - 1
            if frame < len(per_step):
                numbers[f"mpjpe_{ms}"] = float(per_step[frame]) * unit
    if found and data.edges is not None:
        labels = torch.cat(found)
        numbers["edge_accuracy"] = interaction_accuracy(labels, data.edges[: len(labels)].cpu(), data.mask[: len(labels)].cpu())
    return numbers
