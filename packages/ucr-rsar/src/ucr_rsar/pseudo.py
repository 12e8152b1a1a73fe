"""Oriented labels for images whose horizontal boxes are known."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from geocore import planar
from geocore._checks import check_option
from obbkit.data import write_dota_txt
from ucr_rsar.detector import WeakOrientedDetector
from ucr_rsar.functional import match_horizontal
from ucr_rsar.recipes import Recipe
from ucr_rsar.training import predict_image

__all__ = ["PseudoReport", "pseudo_label"]


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
