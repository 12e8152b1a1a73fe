"""Mean average precision of oriented detections, by the rules of VOC (as mmrotate counts) and of COCO."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geocore._checks import check_option, check_positive_int
from geocore.planar import obb_iou_matrix

__all__ = ["COCO_THRESHOLDS", "RotatedMAP", "average_precision"]

WHOLE = 1 << 16
COCO_THRESHOLDS = tuple(round(0.5 + 0.05 * k, 2) for k in range(10))


def average_precision(recall: np.ndarray, precision: np.ndarray, mode: str = "area") -> float:
    """Area under the falling hull of a precision-recall curve.

    Args:
        recall: Growing, one entry a detection.
        precision: The same length.
        mode: ``"area"`` (all steps, VOC 2010), ``"11points"`` (VOC 2007) or ``"101points"`` (COCO).

    Raises:
        ValueError: If the mode is unknown.
    """
    check_option("mode", mode, ("area", "11points", "101points"))
    hull = np.maximum.accumulate(np.concatenate([precision, [0.0]])[::-1])[::-1]
    if mode == "area":
        edges = np.concatenate([[0.0], recall])
        return float(np.sum(np.diff(edges) * hull[:-1]))
    levels = np.linspace(0, 1, 11 if mode == "11points" else 101)
    return float(np.mean(hull[np.searchsorted(recall, levels - 1e-12)]))


class RotatedMAP:
    """Mean average precision over classes and overlap thresholds.

    The overlaps of an image and class are computed once and serve all thresholds. With ``eval_mode`` ``"11points"`` and ``"area"`` a
    detection may only claim the object it overlaps most (VOC); a second claim is false. With ``"coco"`` it takes the best object that is
    still free, and precision is read at 101 recalls. Difficult or ignored objects neither count nor make a detection false. Classes without
    objects are left out of the mean.

    State is a list of small arrays on the CPU; ``merge`` joins two evaluators, ``all_gather`` those of all processes.

    Args:
        iou_thrs: Thresholds.
        eval_mode: ``"11points"`` (the numbers of mmrotate and RSAR), ``"area"`` or ``"coco"``.
        num_classes: Number of classes.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> metric = RotatedMAP(num_classes=1)
        >>> boxes = torch.tensor([[10.0, 10, 8, 4, 0.3]])
        >>> metric.update(
        ...     [{"boxes": boxes, "scores": torch.ones(1), "labels": torch.zeros(1).long()}],
        ...     [{"boxes": boxes, "labels": torch.zeros(1).long()}],
        ... )
        >>> metric.compute()["mAP"]
        1.0
    """

    def __init__(self, iou_thrs: Sequence[float] = COCO_THRESHOLDS, eval_mode: str = "11points", num_classes: int = 1) -> None:
        check_option("eval_mode", eval_mode, ("11points", "area", "coco"))
        check_positive_int("num_classes", num_classes)
        self.iou_thrs = tuple(float(t) for t in iou_thrs)
        if not self.iou_thrs or not all(0 < t <= 1 for t in self.iou_thrs):
            raise ValueError(f"iou_thrs must be thresholds in (0, 1], got {iou_thrs}")
        self.eval_mode, self.num_classes = eval_mode, num_classes
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.images = 0
        self._objects = np.zeros(self.num_classes, dtype=np.int64)
        self._found: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(self.num_classes)]

    def update(self, preds: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Tensor]]) -> None:
        """Add images.

        Args:
            preds: One dict an image: ``boxes (k, 5)``, ``scores (k,)``, ``labels (k,)``.
            targets: One dict an image: ``boxes (m, 5)``, ``labels (m,)``, and optionally ``ignore (m,)``, the objects that do not count.

        Raises:
            ValueError: If lengths, keys, shapes or labels do not fit.
        """
        if len(preds) != len(targets):
            raise ValueError(f"preds and targets must have one entry an image, got {len(preds)} and {len(targets)}")
        for i, (pred, target) in enumerate(zip(preds, targets, strict=True)):
            boxes, scores, labels = self._read(f"preds[{i}]", pred, ("boxes", "scores", "labels"))
            gt, gt_labels = self._read(f"targets[{i}]", target, ("boxes", "labels"))
            ignore = torch.as_tensor(target.get("ignore", torch.zeros(len(gt)))).bool().cpu().numpy()
            self.images += 1
            self._count(boxes, scores.numpy(), labels.numpy(), gt, gt_labels.numpy(), ignore)

    def _count(self, boxes: Tensor, scores: np.ndarray, labels: np.ndarray, gt: Tensor, gt_labels: np.ndarray, ignore: np.ndarray) -> None:
        """Add one image: one matrix of overlaps for all of its classes, if it is small, or one a class."""
        order = np.argsort(-scores, kind="stable")
        scores, labels, boxes = scores[order], labels[order], boxes[torch.from_numpy(order)]
        whole = obb_iou_matrix(boxes, gt).numpy() if len(boxes) * len(gt) <= WHOLE else None
        self._objects += np.bincount(gt_labels[~ignore], minlength=self.num_classes)
        for c in np.unique(labels).tolist():
            dets, objects = np.flatnonzero(labels == c), np.flatnonzero(gt_labels == c)
            if whole is None:
                iou = obb_iou_matrix(boxes[torch.from_numpy(dets)], gt[torch.from_numpy(objects)]).numpy()
            else:
                iou = whole[np.ix_(dets, objects)]
            self._found[c].append((scores[dets], self._judge(iou, ignore[objects])))

    def compute(self) -> dict[str, Any]:
        """``mAP`` (mean over classes and thresholds), ``AP50``, ``AP75`` (NaN if not among the thresholds), and ``per_class``.

        ``per_class`` has for each class ``AP`` (mean over thresholds), ``by_threshold``, ``objects`` and ``detections``; the average
        precision of a class without objects is NaN.
        """
        table = np.full((self.num_classes, len(self.iou_thrs)), np.nan)
        for c in range(self.num_classes):
            if self._objects[c]:
                table[c] = self._curve(c)
        seen = self._objects > 0

        def at(threshold: float) -> float:
            column = [k for k, t in enumerate(self.iou_thrs) if abs(t - threshold) < 1e-9]
            return float(table[seen][:, column[0]].mean()) if column and seen.any() else float("nan")

        return {
            "mAP": float(table[seen].mean()) if seen.any() else float("nan"),
            "AP50": at(0.5),
            "AP75": at(0.75),
            "per_class": [
                {
                    "AP": float(table[c].mean()),
                    "by_threshold": dict(zip(self.iou_thrs, table[c].tolist(), strict=True)),
                    "objects": int(self._objects[c]),
                    "detections": sum(len(scores) for scores, _ in self._found[c]),
                }
                for c in range(self.num_classes)
            ],
        }

    def merge(self, other: "RotatedMAP") -> None:
        """Add what another evaluator has seen.

        Raises:
            ValueError: If it counts differently.
        """
        mine, theirs = ((m.iou_thrs, m.eval_mode, m.num_classes) for m in (self, other))
        if mine != theirs:
            raise ValueError(f"other must have the same thresholds, mode and classes, got {theirs} for {mine}")
        self.images += other.images
        self._objects = self._objects + other._objects
        for own, more in zip(self._found, other._found, strict=True):
            own.extend(more)

    def as_torchmetrics(self, **options: Any) -> Any:
        """A new, empty torchmetrics metric that counts in the same way.

        Args:
            **options: Of ``torchmetrics.Metric``.

        Raises:
            ImportError: If torchmetrics is missing.
        """
        from obbkit.integrations.torchmetrics import RotatedMAPMetric

        return RotatedMAPMetric(self.iou_thrs, self.eval_mode, self.num_classes, **options)

    def all_gather(self) -> None:
        """Join the evaluators of all processes of ``torch.distributed``; in each of them, in order of rank. Alone, nothing happens."""
        import torch.distributed as dist

        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return
        states: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(states, (self.images, self._objects, self._found))
        self.reset()
        for images, objects, found in states:
            self.images += images
            self._objects = self._objects + objects
            for own, more in zip(self._found, found, strict=True):
                own.extend(more)

    def _read(self, name: str, entry: Mapping[str, Tensor], keys: tuple[str, ...]) -> list[Tensor]:
        missing = [key for key in keys if key not in entry]
        if missing:
            raise ValueError(f"{name} must have the keys {', '.join(keys)}, got {', '.join(entry) or 'none'}")
        boxes = entry["boxes"].detach().cpu()
        boxes = boxes.to(torch.promote_types(boxes.dtype, torch.float32))
        rest = [entry[key].detach().cpu() for key in keys[1:]]
        if boxes.ndim != 2 or boxes.shape[1] != 5 or any(tuple(t.shape) != (len(boxes),) for t in rest):
            raise ValueError(f"{name} must have boxes (n, 5) and one entry each of the rest, got {[tuple(entry[k].shape) for k in keys]}")
        labels = rest[-1].long()
        if len(labels) and not bool(((labels >= 0) & (labels < self.num_classes)).all()):
            raise ValueError(f"{name} must have labels below {self.num_classes}, got {labels.min().item()} to {labels.max().item()}")
        if bool(boxes.isnan().any()):
            raise ValueError(f"{name} must not have NaN boxes")
        return [boxes, *(t.float() for t in rest[:-1]), labels]

    def _judge(self, iou: np.ndarray, ignore: np.ndarray) -> np.ndarray:
        """For detections in order of score and each threshold: 1 true, 0 false, -1 not counted; int8 ``(dets, thresholds)``."""
        thresholds = np.asarray(self.iou_thrs, dtype=iou.dtype)
        if iou.shape[1] == 0 or len(iou) == 0:
            return np.zeros((len(iou), len(thresholds)), dtype=np.int8)
        if self.eval_mode == "coco":
            return self._judge_coco(iou, ignore, thresholds)
        best = iou.argmax(1)
        ranks = np.argsort(np.argsort(thresholds, kind="stable"), kind="stable")
        level = np.searchsorted(np.sort(thresholds), iou[np.arange(len(iou)), best], side="right")  # how many thresholds each one passes
        by_object = np.argsort(best, kind="stable")
        shifted = level[by_object] + (len(thresholds) + 1) * best[by_object]  # so that one running maximum serves all objects
        before = np.maximum.accumulate(np.concatenate([[-1], shifted[:-1]])) - (len(thresholds) + 1) * best[by_object]
        earlier = np.empty_like(level)
        earlier[by_object] = before  # the most that an earlier claim on the same object passes; below 1 if none did
        claims = level[:, None] > ranks
        return np.where(claims & ignore[best][:, None], -1, claims & (earlier[:, None] <= ranks)).astype(np.int8)

    @staticmethod
    def _judge_coco(iou: np.ndarray, ignore: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
        out = np.zeros((len(iou), len(thresholds)), dtype=np.int8)
        free = np.repeat(~ignore[:, None], len(thresholds), 1)
        columns = np.arange(len(thresholds))
        for d in np.flatnonzero(iou.max(1) >= thresholds.min()):
            own = np.where(free, iou[d][:, None], -1.0)
            g = own.argmax(0)
            hit = own[g, columns] >= thresholds
            free[g[hit], columns[hit]] = False
            out[d, hit] = 1
            if ignore.any():
                out[d, ~hit & (iou[d][ignore].max() >= thresholds)] = -1
        return out

    def _curve(self, c: int) -> list[float]:
        if not self._found[c]:
            return [0.0] * len(self.iou_thrs)
        scores = np.concatenate([s for s, _ in self._found[c]])
        verdicts = np.concatenate([v for _, v in self._found[c]])[np.argsort(-scores, kind="stable")]
        mode = {"coco": "101points"}.get(self.eval_mode, self.eval_mode)
        values = []
        for verdict in verdicts.T:
            counted = verdict[verdict >= 0]
            true = np.cumsum(counted)
            recall, precision = true / self._objects[c], true / np.arange(1, len(counted) + 1)
            values.append(average_precision(recall, precision, mode))
        return values
