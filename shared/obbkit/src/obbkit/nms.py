"""Greedy suppression of overlapping oriented boxes, by exact overlap."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from geocore._checks import check_positive_int, check_trailing
from geocore.planar import obb_iou

__all__ = ["rotated_nms"]

_ROWS = 2**22
_BLOCK = 512


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
    kinds = None if labels is None else labels[order]
    alive = torch.ones(n, dtype=torch.bool, device=boxes.device)
    kept, count = [order[:0]], 0
    for start in range(0, n, _BLOCK):
        own = start + alive[start : start + _BLOCK].nonzero()[:, 0]
        i, j = _overlapping(sorted_boxes, kinds, own, own, iou_threshold)
        keep = own[_greedy(len(own), i.cpu().numpy(), j.cpu().numpy()).to(own.device)]
        kept.append(keep)
        count += len(keep)
        if start + _BLOCK >= n or (max_output is not None and count >= max_output):
            break
        rest = start + _BLOCK + alive[start + _BLOCK :].nonzero()[:, 0]
        _, j = _overlapping(sorted_boxes, kinds, keep, rest, iou_threshold)
        alive[rest[j]] = False
    return order[torch.cat(kept)[:max_output]]


def _overlapping(boxes: Tensor, labels: Tensor | None, a: Tensor, b: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Places in ``a`` and ``b`` of the boxes that overlap too much, in order of ``a``.

    Only pairs whose circumscribed circles meet are measured; the table of distances is made a slab at a time.
    """
    radius = 0.5 * torch.hypot(boxes[:, 2], boxes[:, 3])
    first, second = [a[:0]], [a[:0]]
    rows = max(_ROWS // max(len(b), 1), 1)
    for start in range(0, len(a), rows):
        part = a[start : start + rows]
        near = (boxes[part, None, :2] - boxes[b, :2]).square().sum(-1) < (radius[part, None] + radius[b]).square()
        if labels is not None:
            near &= labels[part, None] == labels[b]
        if a is b:
            near = near.triu(1 + start)
        i, j = near.nonzero(as_tuple=True)
        for p, q in zip(i.split(2**16), j.split(2**16), strict=True):
            over = obb_iou(boxes[part[p]], boxes[b[q]]) > threshold
            first.append(p[over] + start)
            second.append(q[over])
    return torch.cat(first), torch.cat(second)


def _greedy(n: int, i: np.ndarray, j: np.ndarray) -> Tensor:
    """Places kept when each kept box removes those paired with it, best first."""
    alive = np.ones(n, dtype=bool)
    starts = np.searchsorted(i, np.arange(n + 1))
    for k in range(n):
        if alive[k]:
            alive[j[starts[k] : starts[k + 1]]] = False
    return torch.from_numpy(alive.nonzero()[0])
