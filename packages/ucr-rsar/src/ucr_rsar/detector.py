"""A detector that trains on horizontal boxes and predicts oriented ones."""

from collections.abc import Mapping, Sequence
from math import pi
from typing import Any

import torch
from torch import Tensor, nn

from geocore import planar
from geocore._checks import check_option
from obbkit.coders import build_coder
from obbkit.models import FPN, TinyBackbone
from obbkit.views import three_views
from ucr_rsar.head import H2RBoxHead

__all__ = ["CODERS", "WeakOrientedDetector", "build_tiny_detector"]

CODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ucr2": ("ucr", {"m": 2}),
    "ucr3": ("ucr", {"m": 3}),
    "psc3": ("psc", {"num_step": 3, "dual_freq": False, "thr_mod": 0.0}),
    "psc3-dual": ("psc", {"num_step": 3, "dual_freq": True, "thr_mod": 0.0}),
    "acm2": ("acm", {}),
    "direct": ("direct", {}),
    "csl": ("csl", {"omega": 4.0}),
}
"""Short names of coders with their arguments."""


def horizontal(target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Targets with the upright boxes around theirs, written as oriented ones of angle 0: all that weak supervision sees."""
    boxes = target["boxes"]
    upright = boxes if boxes.shape[-1] == 4 else planar.obb_to_aabb(boxes)
    return {"boxes": planar.aabb_to_obb(upright), "labels": target["labels"]}


class WeakOrientedDetector(nn.Module):
    """Backbone, neck and head; in training it makes the views and returns losses, in evaluation detections.

    Args:
        backbone: From images to a list of maps.
        neck: From maps to maps; ``None`` for none.
        head: ``H2RBoxHead``.
        view_range: Range of the rotation of the second view, as shares of pi.
        view_padding: Of the rotated view: ``"reflection"``, ``"border"`` or ``"zeros"``.
        supervision: ``"hbb"``: only upright boxes are used, whatever the targets hold; ``"obb"``: full supervision, without views.
        generator: Source of the rotations; torch's global one otherwise.

    Raises:
        ValueError: If an option is out of range.
    """

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module | None,
        head: H2RBoxHead,
        view_range: tuple[float, float] = (0.25, 0.75),
        view_padding: str = "reflection",
        *,
        supervision: str = "hbb",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_option("view_padding", view_padding, ("reflection", "border", "zeros"))
        check_option("supervision", supervision, ("hbb", "obb"))
        if not 0 <= view_range[0] <= view_range[1] <= 1:
            raise ValueError(f"view_range must be shares of pi in increasing order, got {view_range}")
        self.backbone, self.neck, self.head = backbone, neck, head
        self.view_range, self.view_padding, self.supervision, self.generator = view_range, view_padding, supervision, generator

    def features(self, images: Tensor) -> Sequence[Tensor]:
        """Maps that the head sees."""
        maps = self.backbone(images)
        return maps if self.neck is None else self.neck(maps)

    def forward(
        self, images: Tensor, targets: Sequence[Mapping[str, Tensor]] | None = None, *, rotation: float | Tensor | None = None
    ) -> Any:
        """Losses by name if targets are given, detections otherwise.

        Args:
            images: Shape ``(batch, channels, H, W)``.
            targets: For each image ``boxes``, ``(n, 4)`` as ``x1, y1, x2, y2`` or ``(n, 5)`` oriented, and ``labels (n,)``.
            rotation: Angle of the second view; drawn if not given.

        Raises:
            ValueError: If targets do not fit, or full supervision is asked of upright boxes.
        """
        if targets is None:
            return self.predict(images)
        if len(targets) != len(images):
            raise ValueError(f"targets must be one an image, got {len(targets)} for {len(images)}")
        for i, target in enumerate(targets):
            if target["boxes"].ndim != 2 or target["boxes"].shape[-1] not in (4, 5) or len(target["boxes"]) != len(target["labels"]):
                got = tuple(target["boxes"].shape), tuple(target["labels"].shape)
                raise ValueError(f"targets[{i}] must have boxes (n, 4) or (n, 5) and labels (n,), got {got}")
        if self.supervision == "obb":
            if any(target["boxes"].shape[-1] != 5 for target in targets):
                raise ValueError("targets must have oriented boxes (n, 5) for supervision='obb'")
            return self.head.loss(self.head(self.features(images)), targets)
        if rotation is None:
            low, high = self.view_range
            rotation = pi * (low + (high - low) * float(torch.rand((), generator=self.generator)))
        views, view_targets = three_views(images, [horizontal(t) for t in targets], rotation, padding=self.view_padding)
        return self.head.loss(self.head(self.features(views)), view_targets, rotation)

    @torch.no_grad()
    def predict(self, images: Tensor, image_sizes: Sequence[tuple[int, int]] | None = None, **options: Any) -> list[dict[str, Tensor]]:
        """Detections: for each image ``boxes (k, 5)``, ``scores`` and ``labels``.

        Args:
            images: Shape ``(batch, channels, H, W)``.
            image_sizes: True sizes of padded images.
            **options: Thresholds of ``RotatedFCOSHead.predict``.
        """
        return self.head.predict(self.head(self.features(images)), image_sizes, **options)


def build_tiny_detector(
    num_classes: int,
    coder: str | nn.Module = "ucr3",
    *,
    in_channels: int = 1,
    supervision: str = "hbb",
    restriction: float = 0.05,
    warmup: int = 0,
    invalid_thr: float = 0.0,
    agnostic: Sequence[int] = (),
) -> WeakOrientedDetector:
    """A detector of about 60 000 parameters with one level at stride 4, which trains on a CPU.

    Args:
        num_classes: Classes.
        coder: One of ``CODERS``, or a coder.
        in_channels: Channels of the images.
        supervision: ``"hbb"`` or ``"obb"``.
        restriction, warmup: Weight and start of the restriction of unit-cycle coders.
        invalid_thr: Invalid zone of unit-cycle coders.
        agnostic: Classes without direction.

    Raises:
        ValueError: If the coder is unknown or a number out of range.
    """
    if isinstance(coder, str):
        check_option("coder", coder, tuple(CODERS))
        name, options = CODERS[coder]
        coder = build_coder(name, **(options | ({"invalid_thr": invalid_thr} if name == "ucr" else {})))
    backbone = TinyBackbone(in_channels, (16, 32), levels=1)
    neck = FPN(backbone.out_channels, 32)
    head = H2RBoxHead(
        32,
        num_classes,
        backbone.strides,
        coder,
        agnostic,
        feat_channels=32,
        stacked_convs=1,
        restriction=restriction,
        warmup=warmup,
    )
    return WeakOrientedDetector(backbone, neck, head, supervision=supervision)
