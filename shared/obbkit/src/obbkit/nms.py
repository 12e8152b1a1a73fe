"""Greedy suppression of overlapping oriented boxes, by exact overlap."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geocore._checks import check_positive_int, check_trailing
from geocore.planar._suppress import suppress

__all__ = ["rotated_nms"]


@torch.no_grad()
def rotated_nms(
    boxes: Float[Tensor, "n 5"],
    scores: Float[Tensor, "n"],
    iou_threshold: float,
    labels: Int[Tensor, "n"] | None = None,
    *,
    max_output: int | None = None,
) -> Int[Tensor, "kept"]:
    """Boxes that no better one overlaps by more than ``iou_threshold``.

    Args:
        boxes: Shape ``(n, 5)``.
        scores: Shape ``(n,)``; of equal scores the one that comes first is the better.
        iou_threshold: In [0, 1].
        labels: Classes; boxes of different ones do not suppress each other.
        max_output: Stop after so many.

    Returns:
        Indices of the kept boxes, best first.

    Raises:
        ValueError: If shapes do not fit, the threshold is out of range, or a box or score is NaN.

    Example:
        >>> boxes = torch.tensor([[0.0, 0, 4, 2, 0], [0, 0, 4, 2, 0.1], [9, 9, 4, 2, 0]])
        >>> rotated_nms(boxes, torch.tensor([0.5, 0.9, 0.1]), 0.5)
        tensor([1, 2])
    """
    check_trailing("boxes", boxes, (None, 5))
    n = len(boxes)
    if boxes.ndim != 2 or tuple(scores.shape) != (n,) or (labels is not None and tuple(labels.shape) != (n,)):
        got = [tuple(t.shape) for t in (boxes, scores, labels) if t is not None]
        raise ValueError(f"boxes, scores and labels must have shapes (n, 5), (n,), (n,), got {got}")
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold must lie in [0, 1], got {iou_threshold}")
    if max_output is not None:
        check_positive_int("max_output", max_output)
    if bool(boxes.isnan().any()) or bool(scores.isnan().any()):
        raise ValueError("boxes and scores must not be NaN; remove such predictions first")
    order = torch.argsort(scores, descending=True, stable=True)
    sorted_boxes = boxes[order].to(torch.promote_types(boxes.dtype, torch.float32))
    kinds = None if labels is None else labels[order].long()
    return order[suppress(sorted_boxes, kinds, iou_threshold, max_output)]
