"""Oriented labels for images whose horizontal boxes are known."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geocore import planar
from geocore._checks import check_option, check_trailing
from obbkit.data import write_dota_txt
from ucr_rsar.detector import WeakOrientedDetector
from ucr_rsar.recipes import Recipe
from ucr_rsar.training import predict_image

__all__ = ["PseudoReport", "aabb_iou", "match_horizontal", "pseudo_label"]


def aabb_iou(a: Tensor, b: Tensor) -> Tensor:
    """Overlap of each upright box of ``a (n, 4)`` with each of ``b (m, 4)``, as ``x1, y1, x2, y2``; ``(n, m)``."""
    low, high = torch.maximum(a[:, None, :2], b[None, :, :2]), torch.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = (high - low).clamp(min=0).prod(-1)
    area = [(x[:, 2:] - x[:, :2]).clamp(min=0).prod(-1) for x in (a, b)]
    union = area[0][:, None] + area[1] - inter
    return torch.where(union > 0, inter / torch.where(union > 0, union, 1.0), 0.0)


def match_horizontal(pred: Mapping[str, Tensor], boxes: Tensor, labels: Tensor, min_iou: float = 0.5) -> tuple[Tensor, Tensor]:
    """For each horizontal box the prediction of its class whose upright hull fits it best; each prediction serves one box.

    Pairs are taken in order of overlap, the higher score first among equal ones.

    Args:
        pred: ``boxes (k, 5)``, ``scores`` and ``labels``.
        boxes: Horizontal boxes ``(n, 4)``.
        labels: Their classes.
        min_iou: Least overlap of hull and box.

    Returns:
        Oriented boxes ``(n, 5)``, the horizontal one itself where nothing fits, and which were matched, ``(n,)``.

    Raises:
        ValueError: If shapes do not fit or ``min_iou`` is not in (0, 1].
    """
    check_trailing("boxes", boxes, (None, 4))
    if tuple(labels.shape) != (len(boxes),):
        raise ValueError(f"labels must be one a box, got {tuple(labels.shape)} for {len(boxes)}")
    if not 0 < min_iou <= 1:
        raise ValueError(f"min_iou must lie in (0, 1], got {min_iou}")
    out = planar.aabb_to_obb(boxes).clone()
    matched = torch.zeros(len(boxes), dtype=torch.bool)
    order = pred["scores"].argsort(descending=True, stable=True)
    found, kinds = pred["boxes"][order].to(boxes.dtype), pred["labels"][order]
    iou = aabb_iou(boxes, planar.obb_to_aabb(found)) * (labels[:, None] == kinds)
    rows, columns = (iou >= min_iou).nonzero(as_tuple=True)
    best = iou[rows, columns].argsort(descending=True, stable=True)
    used: set[int] = set()
    for i, j in zip(rows[best].tolist(), columns[best].tolist(), strict=True):
        if not matched[i] and j not in used:
            out[i], matched[i] = found[j], True
            used.add(j)
    return out, matched


@dataclass(frozen=True)
class PseudoReport:
    """What became of the boxes.

    Args:
        images, boxes, matched: Numbers.
        unmatched: Image and number of boxes for which nothing fitted.
    """

    images: int
    boxes: int
    matched: int
    unmatched: dict[str, int]


def pseudo_label(
    model: WeakOrientedDetector,
    data: Any,
    folder: str | Path,
    recipe: Recipe,
    *,
    unmatched: str = "upright",
    min_iou: float = 0.5,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> PseudoReport:
    """Predict on images with horizontal boxes and write oriented annotations in DOTA's format, one file an image.

    Args:
        model: Detector in evaluation.
        data: Images and targets with ``boxes (n, 4)`` (oriented ones are replaced by their hulls), ``labels`` and ``name``.
        folder: Where to write, made if it does not exist.
        recipe: Of the classes and sizes.
        unmatched: For boxes without a fitting prediction: ``"upright"`` writes them as they are, with difficulty 1 to find them again,
            ``"drop"`` leaves them out.
        min_iou: As ``match_horizontal``.
        progress: Called after each image.
        **options: Of ``predict_image``.

    Raises:
        ValueError: If an option is unknown.
    """
    check_option("unmatched", unmatched, ("upright", "drop"))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    total, good = 0, 0
    missed: dict[str, int] = {}
    for i in range(len(data)):
        image, target = data[i]
        boxes = target["boxes"] if target["boxes"].shape[-1] == 4 else planar.obb_to_aabb(target["boxes"])
        found, matched = match_horizontal(predict_image(model, image, recipe, **options), boxes, target["labels"], min_iou)
        total, good = total + len(boxes), good + int(matched.sum())
        if not matched.all():
            missed[target["name"]] = int((~matched).sum())
        kept = torch.arange(len(boxes)) if unmatched == "upright" else matched.nonzero()[:, 0]
        names = [recipe.classes[k] for k in target["labels"][kept].tolist()]
        write_dota_txt(folder / f"{target['name']}.txt", found[kept], names, (~matched[kept]).long())
        if progress is not None:
            progress(i + 1, len(data))
    return PseudoReport(len(data), total, good, missed)
