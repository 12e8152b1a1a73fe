"""The evaluator as a torchmetrics metric, for loops that log those."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from obbkit.metrics import COCO_THRESHOLDS, RotatedMAP

try:
    from torchmetrics import Metric
except ImportError as error:
    raise ImportError("obbkit.integrations.torchmetrics needs torchmetrics: pip install 'obbkit[torchmetrics]'") from error

__all__ = ["RotatedMAPMetric"]


class RotatedMAPMetric(Metric):
    """``RotatedMAP`` whose state, rows of boxes, is gathered from all processes by torchmetrics.

    ``compute`` gives ``mAP``, ``AP50``, ``AP75`` as tensors.

    Args:
        iou_thrs, eval_mode, num_classes: As ``RotatedMAP``.
        **options: Of ``torchmetrics.Metric``.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    found: Any
    real: Any
    images: Tensor

    def __init__(
        self, iou_thrs: Sequence[float] = COCO_THRESHOLDS, eval_mode: str = "11points", num_classes: int = 1, **options: Any
    ) -> None:
        super().__init__(**options)
        self.options: dict[str, Any] = {"iou_thrs": tuple(iou_thrs), "eval_mode": eval_mode, "num_classes": num_classes}
        RotatedMAP(**self.options)
        self.add_state("found", default=[], dist_reduce_fx="cat")
        self.add_state("real", default=[], dist_reduce_fx="cat")
        self.add_state("images", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, preds: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Tensor]]) -> None:
        """Add images; as ``RotatedMAP.update``, which also checks them."""
        RotatedMAP(**self.options).update(preds, targets)
        rank = torch.distributed.get_rank() if torch.distributed.is_available() and torch.distributed.is_initialized() else 0
        for pred, target in zip(preds, targets, strict=True):
            number = float(rank * 2**40 + int(self.images))  # float64 holds it exactly, so images of different processes stay apart
            ignore = torch.as_tensor(target.get("ignore", torch.zeros(len(target["boxes"]))))
            for state, boxes, columns in (
                (self.found, pred["boxes"], (pred["scores"], pred["labels"])),
                (self.real, target["boxes"], (target["labels"], ignore)),
            ):
                rest = [column.to(self.device, torch.float64)[:, None] for column in columns]
                wide = boxes.detach().to(self.device, torch.float64)
                state.append(torch.cat([torch.full_like(wide[:, :1], number), wide, *rest], 1))
            self.images += 1

    def compute(self) -> dict[str, Tensor]:
        """Averages over all images."""
        found, real = (torch.cat(list(s)) if len(s) else torch.zeros(0, 8) for s in (self._rows(self.found), self._rows(self.real)))
        metric = RotatedMAP(**self.options)
        for number in torch.cat([found[:, 0], real[:, 0]]).unique().tolist():
            p, t = found[found[:, 0] == number], real[real[:, 0] == number]
            metric.update(
                [{"boxes": p[:, 1:6], "scores": p[:, 6], "labels": p[:, 7].long()}],
                [{"boxes": t[:, 1:6], "labels": t[:, 6].long(), "ignore": t[:, 7].bool()}],
            )
        values = metric.compute()
        return {name: torch.tensor(values[name]) for name in ("mAP", "AP50", "AP75")}

    @staticmethod
    def _rows(state: Any) -> Sequence[Tensor]:
        return [state] if isinstance(state, Tensor) else state
