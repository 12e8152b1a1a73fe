"""Settings of the published trainings, and detectors and data built from them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from geocore._checks import check_option
from obbkit.coders import build_coder
from obbkit.data import RSAR_CLASSES, DOTADataset
from obbkit.models import FPN
from ucr_rsar.detector import CODERS, WeakOrientedDetector, build_tiny_detector
from ucr_rsar.head import H2RBoxHead

__all__ = ["DOTA_CLASSES", "HRSC_CLASSES", "RECIPES", "Recipe", "build_detector", "open_data"]

DOTA_CLASSES = (
    *("plane", "baseball-diamond", "bridge", "ground-track-field", "small-vehicle", "large-vehicle", "ship", "tennis-court"),
    *("basketball-court", "storage-tank", "soccer-ball-field", "roundabout", "harbor", "swimming-pool", "helicopter"),
)
HRSC_CLASSES = ("ship",)


@dataclass(frozen=True)
class Recipe:
    """A training: model, loss, optimizer, schedule and data.

    Args:
        classes: Names, in order of the labels.
        coder: Name in ``CODERS``.
        restriction, invalid_thr, warmup: Weight of the restriction, invalid zone, share of the training before the restriction starts.
        agnostic: Classes without direction.
        shrink: At test, factor of the sides of the boxes of a class.
        epochs, milestones: Epochs, and those after which the rate falls to a tenth.
        lr, betas, weight_decay, clip: AdamW and the largest norm of the gradient.
        warm_steps, warm_factor: Linear growth of the rate from a share of it.
        batch, image_size, overlap: Images of a step; longest side, larger images are scaled down in training and tiled at test.
        flip: Probability that an image is mirrored: horizontally, vertically or both, equally often.
        supervision: ``"hbb"`` or ``"obb"``.
        backbone: ``"tiny"``, or a name of timm.
    """

    classes: tuple[str, ...]
    coder: str = "ucr3"
    restriction: float = 0.05
    invalid_thr: float = 0.2
    warmup: float = 0.0
    agnostic: tuple[int, ...] = ()
    shrink: Mapping[int, float] = field(default_factory=dict)
    epochs: int = 12
    milestones: tuple[int, ...] = (8, 11)
    lr: float = 5e-5
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.05
    clip: float = 35.0
    warm_steps: int = 500
    warm_factor: float = 1 / 3
    batch: int = 2
    image_size: int = 1024
    overlap: int = 200
    flip: float = 0.75
    supervision: str = "hbb"
    backbone: str = "resnet50"


RECIPES: dict[str, Recipe] = {
    "rsar": Recipe(RSAR_CLASSES, warmup=0.3, agnostic=(3,), image_size=800),
    "dota": Recipe(DOTA_CLASSES, restriction=0.03, warmup=0.3, agnostic=(1, 9, 11), shrink={1: 0.85}),
    "hrsc": Recipe(HRSC_CLASSES, invalid_thr=0.1, warmup=0.3, epochs=72, milestones=(48, 66), weight_decay=0.005, image_size=800),
    "tiny": Recipe(("ship",), invalid_thr=0.0, warmup=0.3, lr=2e-3, warm_steps=50, batch=8, image_size=256, overlap=32, backbone="tiny"),
}
"""The paper's settings for RSAR, DOTA and HRSC but for ``warmup``, which is 0 there, and one for small images and a CPU."""


def build_detector(recipe: Recipe, *, pretrained: bool = False, steps: int = 0, in_channels: int = 3) -> WeakOrientedDetector:
    """The detector of a recipe.

    Args:
        recipe: Recipe.
        pretrained: Whether timm loads the ImageNet weights of the backbone.
        steps: Steps of the whole training, of which ``recipe.warmup`` is a share.
        in_channels: Channels of the images, of the tiny backbone only.

    Raises:
        ValueError: If the coder is unknown.
        ImportError: If timm is missing and the backbone is one of its.
    """
    check_option("recipe.coder", recipe.coder, tuple(CODERS))
    warmup = round(recipe.warmup * steps)
    if recipe.backbone == "tiny":
        return build_tiny_detector(
            len(recipe.classes),
            recipe.coder,
            in_channels=in_channels,
            supervision=recipe.supervision,
            restriction=recipe.restriction,
            warmup=warmup,
            invalid_thr=recipe.invalid_thr,
            agnostic=recipe.agnostic,
        )
    from ucr_rsar.integrations.timm import timm_backbone

    backbone = timm_backbone(recipe.backbone, pretrained=pretrained)
    channels: Any = backbone.out_channels
    neck: nn.Module = FPN(channels, 256, extra=2)
    name, options = CODERS[recipe.coder]
    coder = build_coder(name, **(options | ({"invalid_thr": recipe.invalid_thr} if name == "ucr" else {})))
    head = H2RBoxHead(256, len(recipe.classes), (8, 16, 32, 64, 128), coder, recipe.agnostic, restriction=recipe.restriction, warmup=warmup)
    return WeakOrientedDetector(backbone, neck, head, supervision=recipe.supervision)


def open_data(folder: str | Path, recipe: Recipe, *, missing: str = "error", errors: str = "raise", unknown: str = "error") -> DOTADataset:
    """The user's copy of a data set, in the layout of DOTA: ``images`` and ``labelTxt`` or ``annfiles``.

    RSAR: the link in its README; where its annotations of the validation or test split are missing, a mirror on ModelScope has them. DOTA
    and HRSC2016 ask for a registration; cut DOTA into tiles first (``ucr-rsar convert --tiles``).

    Args:
        folder: Folder of a split.
        recipe: Recipe.
        missing, errors, unknown: As ``obbkit.data.DOTADataset``.

    Raises:
        FileNotFoundError: If a folder or an annotation file is missing; the message names it.
    """
    return DOTADataset(folder, recipe.classes, recipe.supervision, missing=missing, errors=errors, unknown=unknown)
