"""Oriented boxes from horizontal labels: the head of H2RBox-v2 with any angle coder."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from obbkit.coders import CSLCoder
from obbkit.losses import circumscribed_iou_loss, symmetry_consistency
from obbkit.models import Positives, RotatedFCOSHead
from obbkit.points import decode_points
from ucr_rsar.coder import UCRCoder, UnitCircleLoss
from ucr_rsar.functional import object_codes

__all__ = ["H2RBoxHead"]


class H2RBoxHead(RotatedFCOSHead):
    """Rotated FCOS head that learns angles from symmetry and sizes from horizontal boxes.

    With targets of three views (``obbkit.views.three_views``) the loss is that of weak supervision: class, centerness, the box around the
    prediction against the turned horizontal box, consistency of an object's angle under the rotation and the flip, and the restriction of
    the code (``UnitCircleLoss``) if the coder is a ``UCRCoder``. With plain targets it is that of full supervision plus the restriction.

    Source: Yu et al., H2RBox-v2, NeurIPS 2023, arXiv 2304.04403; RSAR, CVPR 2025, arXiv 2501.04440.

    Args:
        in_channels, num_classes, strides, coder, agnostic: As ``obbkit.models.RotatedFCOSHead``.
        restriction: Weight of the restriction, or a loss of codes.
        warmup: Steps before the restriction starts.
        symmetry_weight: Weight of the consistency.
        **options: Further arguments of ``RotatedFCOSHead``.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        strides: Sequence[int],
        coder: Any,
        agnostic: Sequence[int] = (),
        *,
        restriction: float | UnitCircleLoss = 0.05,
        warmup: int = 0,
        symmetry_weight: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(in_channels, num_classes, strides, coder, agnostic, **options)
        self.symmetry_weight = symmetry_weight
        self.restriction: UnitCircleLoss | None
        if isinstance(restriction, UnitCircleLoss):
            self.restriction = restriction
        else:
            self.restriction = UnitCircleLoss(coder, restriction, warmup=warmup) if isinstance(coder, UCRCoder) else None

    def loss(
        self, preds: Mapping[str, Sequence[Tensor]], targets: Sequence[Mapping[str, Any]], rotation: float | Tensor | None = None
    ) -> dict[str, Tensor]:
        """Losses by name; their sum is what is minimised.

        Args:
            preds: From ``forward``.
            targets: For each image ``boxes (n, 5)`` and ``labels (n,)``; of three views also ``object``, ``view`` and ``image``.
            rotation: Angle of the second view, for all or each original image; ``None`` for full supervision.

        Raises:
            ValueError: If views are missing although a rotation is given, or the coder decodes without a gradient, as CSL does, so that
                consistency could teach it nothing.
        """
        if rotation is None:
            losses = super().loss(preds, targets)
            if self.restriction is not None:
                flat, points, levels = self.flatten(preds)
                losses["restriction"] = self.restriction(flat["code"].flatten(0, 1)[self.assign(points, levels, targets).row])
            return losses
        if any("view" not in target for target in targets):
            raise ValueError("targets must come from three_views when a rotation is given")
        if isinstance(self.coder, CSLCoder):
            raise ValueError("coder must decode with a gradient for weak supervision, got CSLCoder, which reads the likeliest class")  # noqa: TRY004 - of a right type, but no use here
        flat, points, levels = self.flatten(preds)
        found = self.assign(points, levels, targets)
        losses, weight = self.common_losses(flat, found)
        code = flat["code"].flatten(0, 1)[found.row]
        still = self.is_agnostic(found.labels)
        angle = torch.where(still, 0.0, self.coder.decode(code)).detach()
        boxes = decode_points(found.points, flat["distances"].flatten(0, 1)[found.row], angle)
        wanted = torch.cat([found.boxes[:, :4], torch.where(still, 0.0, found.boxes[:, 4])[:, None]], 1)
        losses["box"] = circumscribed_iou_loss(boxes, wanted, weight=weight)
        losses["symmetry"] = self.symmetry_weight * self._symmetry(code, found, targets, rotation)
        if self.restriction is not None:
            losses["restriction"] = self.restriction(code)
        return losses

    def _symmetry(self, code: Tensor, found: Positives, targets: Sequence[Mapping[str, Any]], rotation: float | Tensor) -> Tensor:
        views = torch.tensor([target["view"] for target in targets], device=code.device)
        count = 1 + max((int(target["object"].max()) for target in targets if len(target["object"])), default=-1)
        if count == 0:
            return code.sum() * 0.0
        mean, complete = object_codes(code, found.object, views[found.image], count)
        label = torch.zeros(count, dtype=torch.int64, device=code.device)
        image = torch.zeros(count, dtype=torch.int64, device=code.device)
        for target in targets:
            label[target["object"]] = target["labels"]
            image[target["object"]] = target["image"]
        angles = self.coder.decode(mean)[:, complete]
        turn = torch.as_tensor(rotation, dtype=angles.dtype, device=angles.device)
        turn = turn[image[complete]] if turn.ndim else turn
        return symmetry_consistency(angles[0], angles[1], angles[2], turn, self.is_agnostic(label[complete]))
