"""Training that can be stopped and goes on bit for bit, prediction on images of any size, evaluation."""

import json
import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from geocore import planar
from obbkit.data import collate, merge_tiles, tile_windows
from obbkit.metrics import COCO_THRESHOLDS, RotatedMAP
from obbkit.views import flip_view, resize_view
from ucr_rsar.detector import WeakOrientedDetector
from ucr_rsar.recipes import Recipe, build_detector

__all__ = ["Trainer", "evaluate", "learning_rate", "load_detector", "predict_image", "total_steps"]

Progress = Callable[[int, int, Mapping[str, float]], None]
_FLIPS = ("horizontal", "vertical", "diagonal")
_PAD = 32


def total_steps(recipe: Recipe, images: int) -> int:
    """Steps of a training; the last batch of an epoch may be smaller."""
    return recipe.epochs * -(-images // recipe.batch)


def learning_rate(recipe: Recipe, step: int, per_epoch: int) -> float:
    """Rate at a step: linear growth at the start, a tenth after each milestone."""
    grown = 1.0
    if step < recipe.warm_steps:
        grown = recipe.warm_factor + (1 - recipe.warm_factor) * step / recipe.warm_steps
    return recipe.lr * grown * 0.1 ** sum(step >= epoch * per_epoch for epoch in recipe.milestones)


def _upright(boxes: Tensor) -> Tensor:
    return planar.aabb_to_obb(boxes) if boxes.shape[-1] == 4 else boxes


def _fit(batch: Sequence[tuple[Tensor, Mapping[str, Any]]], size: int) -> tuple[Tensor, list[dict[str, Any]]]:
    """Images no larger than ``size``, padded together to a multiple of 32; upright boxes as oriented ones of angle 0."""
    items: list[tuple[Tensor, dict[str, Any]]] = []
    for image, target in batch:
        boxes, ignore = _upright(target["boxes"]), target.get("ignore")
        keep = torch.ones(len(boxes), dtype=torch.bool) if ignore is None else ~ignore
        factor = size / max(image.shape[-2:])
        if factor < 1:
            images, moved = resize_view(image[None], [boxes], factor)
            image, boxes = images[0], moved[0]
        items.append((image, {"boxes": boxes[keep], "labels": target["labels"][keep]}))
    images, targets = collate(items)
    height, width = images.shape[-2:]
    return nn.functional.pad(images, (0, -width % _PAD, 0, -height % _PAD)), targets


class _Fit:
    """``_fit`` with a size, which a worker process can receive."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, batch: Sequence[tuple[Tensor, Mapping[str, Any]]]) -> tuple[Tensor, list[dict[str, Any]]]:
        return _fit(batch, self.size)


class Trainer:
    """A training of a recipe on a data set: ``run`` does it, ``save`` and ``resume`` keep everything that it depends on.

    The order of the images depends on the seed and the epoch; flips and rotations come from one generator, whose state is saved with the
    model, the optimizer and torch's own states. A training that was stopped and resumed gives the same weights, bit for bit, as one that
    was not (on one device and with one version of torch).

    Args:
        recipe: Recipe.
        data: Images and targets, as ``obbkit.data.DOTADataset`` or a list.
        model: Detector; that of the recipe if not given.
        seed: Of weights, order, flips and rotations.
        device: Where to train.
        workers: Processes that load images.
        pretrained: As ``build_detector``.

    Raises:
        ValueError: If there are no images.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Any,
        model: WeakOrientedDetector | None = None,
        *,
        seed: int = 0,
        device: str = "cpu",
        workers: int = 0,
        pretrained: bool = False,
    ) -> None:
        if len(data) == 0:
            raise ValueError("data must hold images, got none")
        self.recipe, self.data, self.seed, self.device, self.workers = recipe, data, seed, device, workers
        self.total = total_steps(recipe, len(data))
        self.per_epoch = self.total // recipe.epochs
        torch.manual_seed(seed)
        if model is None:
            model = build_detector(recipe, pretrained=pretrained, steps=self.total, in_channels=data[0][0].shape[0])
        self.model = model.to(device)
        self.generator = torch.Generator().manual_seed(seed)
        self.model.generator = self.generator
        trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay)
        self.step = 0

    def _batches(self) -> Iterator[tuple[Tensor, list[dict[str, Any]]]]:
        """Batches from the current step to the end."""
        for epoch in range(self.step // self.per_epoch, self.recipe.epochs):
            order = torch.randperm(len(self.data), generator=torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)).tolist()
            rows = [order[k : k + self.recipe.batch] for k in range(0, len(order), self.recipe.batch)]
            rest = rows[self.step - epoch * self.per_epoch :]
            loader_rng = torch.Generator().manual_seed(self.seed)  # or the loader would draw from the global state
            fit = _Fit(self.recipe.image_size)
            yield from DataLoader(self.data, batch_sampler=rest, collate_fn=fit, num_workers=self.workers, generator=loader_rng)

    def _flip(self, images: Tensor, targets: list[dict[str, Any]]) -> tuple[Tensor, list[dict[str, Any]]]:
        images = images.clone()
        for i, target in enumerate(targets):
            draw = float(torch.rand((), generator=self.generator))
            if draw < self.recipe.flip:
                direction = _FLIPS[int(3 * draw / self.recipe.flip)]
                flipped, (target["boxes"],) = flip_view(images[i : i + 1], [target["boxes"]], direction)
                images[i] = flipped[0]
        return images, targets

    def run(
        self,
        out: str | Path | None = None,
        *,
        stop_at: int | None = None,
        save_every: int = 1000,
        progress: Progress | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> list[dict[str, float]]:
        """Train to the end, or to a step.

        Args:
            out: Folder of ``checkpoint.pt`` and ``log.jsonl``; none for no files.
            stop_at: Step to stop at.
            save_every: Steps between checkpoints; one is written at the end too.
            progress: Called after each step with the steps done, all steps, and the losses.
            stop: Asked after each step; the training ends there, with a checkpoint, if it says so.

        Returns:
            Losses of each step.

        Raises:
            FloatingPointError: If a loss is not finite; the weights stay those before the step.
        """
        folder = None if out is None else Path(out)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        end = self.total if stop_at is None else min(stop_at, self.total)
        history: list[dict[str, float]] = []
        self.model.train()
        batches = self._batches()
        while self.step < end:
            images, targets = self._flip(*next(batches))
            images = images.to(self.device)
            targets = [{k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in t.items()} for t in targets]
            losses = self.model(images, targets)
            loss = torch.stack(list(losses.values())).sum()
            values = {name: float(value.detach()) for name, value in losses.items()}
            if not bool(torch.isfinite(loss)):
                raise FloatingPointError(f"loss must be finite, got {values} at step {self.step}; a lower rate may help")
            rate = learning_rate(self.recipe, self.step, self.per_epoch)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
            self.optimizer.step()
            self.step += 1
            history.append(values | {"loss": float(loss.detach()), "lr": rate, "step": self.step})
            if folder is not None:
                with (folder / "log.jsonl").open("a", encoding="utf-8") as log:
                    log.write(json.dumps(history[-1]) + "\n")
                if self.step % save_every == 0:
                    self.save(folder / "checkpoint.pt")
            if progress is not None:
                progress(self.step, self.total, values)
            if stop is not None and stop():
                break
        if folder is not None:
            self.save(folder / "checkpoint.pt")
        return history

    def save(self, path: str | Path) -> None:
        """Write everything to a file, which is never half written."""
        path = Path(path)
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seed": self.seed,
            "recipe": asdict(self.recipe),
            "in_channels": self.data[0][0].shape[0],
            "generator": self.generator.get_state(),
            "rng": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        torch.save(state, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)

    def resume(self, path: str | Path) -> None:
        """Go on where a file ends.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is of another recipe or seed.
        """
        state = _read(path)
        if state["recipe"] != asdict(self.recipe) or state["seed"] != self.seed:
            changed = [k for k, v in asdict(self.recipe).items() if state["recipe"].get(k) != v] or ["seed"]
            raise ValueError(f"{path} must be of the same recipe and seed, but {', '.join(changed)} changed")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["rng"])
        if state["cuda"]:
            torch.cuda.set_rng_state_all(state["cuda"])


def _read(path: str | Path) -> dict[str, Any]:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} is missing")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(f"{path} is no checkpoint: {str(error).splitlines()[0]}") from None
    if not isinstance(state, dict) or not {"model", "recipe", "step"} <= set(state):
        raise ValueError(f"{path} must be a checkpoint of this package's Trainer")
    return state


def load_detector(path: str | Path, device: str = "cpu") -> tuple[WeakOrientedDetector, Recipe]:
    """The detector of a checkpoint, in evaluation, and its recipe.

    Args:
        path: ``checkpoint.pt``.
        device: Where to put it.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    state = _read(path)
    recipe = Recipe(**state["recipe"])
    model = build_detector(recipe, in_channels=state["in_channels"])
    model.load_state_dict(state["model"])
    return model.to(device).eval(), recipe


@torch.no_grad()
def predict_image(model: WeakOrientedDetector, image: Tensor, recipe: Recipe, *, nms_iou: float = 0.1, **options: Any) -> dict[str, Tensor]:
    """Detections of one image of any size; one larger than the recipe's is cut into overlapping tiles.

    Args:
        model: Detector in evaluation.
        image: Shape ``(channels, H, W)``.
        recipe: Of the sizes and ``shrink``.
        nms_iou: Overlap that suppresses, within tiles and between them.
        **options: Thresholds of ``RotatedFCOSHead.predict``.

    Returns:
        ``boxes (k, 5)``, ``scores`` and ``labels`` on the CPU.
    """
    height, width = image.shape[-2:]
    device = next(model.parameters()).device
    tiles = {}
    for x, y, w, h in tile_windows(width, height, recipe.image_size, recipe.overlap):
        part = nn.functional.pad(image[:, y : y + h, x : x + w], (0, -w % _PAD, 0, -h % _PAD))[None].to(device)
        found = model.predict(part, [(h, w)], nms_iou=nms_iou, **options)[0]
        tiles[f"image__{x}___{y}"] = {k: v.cpu() for k, v in found.items()}
    found = merge_tiles(tiles, nms_iou)["image"] if len(tiles) > 1 else next(iter(tiles.values()))
    for label, factor in recipe.shrink.items():
        chosen = (found["labels"] == label)[:, None]
        sides = torch.where(chosen, factor, 1.0) * found["boxes"][:, 2:4]
        found["boxes"] = torch.cat([found["boxes"][:, :2], sides, found["boxes"][:, 4:]], 1)
    return found


def evaluate(
    model: WeakOrientedDetector,
    data: Any,
    recipe: Recipe,
    *,
    eval_mode: str = "11points",
    iou_thrs: Sequence[float] = COCO_THRESHOLDS,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """``RotatedMAP`` of a detector on a data set with oriented boxes.

    Args:
        model: Detector.
        data: Images and targets.
        recipe: Recipe.
        eval_mode, iou_thrs: As ``RotatedMAP``.
        progress: Called after each image.
        **options: Of ``predict_image``.

    Raises:
        ValueError: If the data set has upright boxes only.
    """
    metric = RotatedMAP(iou_thrs, eval_mode, len(recipe.classes))
    model.eval()
    for i in range(len(data)):
        image, target = data[i]
        if target["boxes"].shape[-1] != 5:
            raise ValueError("data must have oriented boxes to be measured against; open it with supervision='obb'")
        metric.update([predict_image(model, image, recipe, **options)], [target])
        if progress is not None:
            progress(i + 1, len(data))
    return metric.compute()
