"""Pure functions: codes of objects over views, and horizontal boxes matched with oriented ones."""

from collections.abc import Mapping

import torch
from torch import Tensor

from geocore import planar
from geocore._checks import check_trailing

__all__ = ["aabb_iou", "match_horizontal", "object_codes"]


def object_codes(code: Tensor, obj: Tensor, view: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean code of every object in each of three views, by one scatter.

    Args:
        code: Codes of the positive points, ``(points, m)``.
        obj: Number of the object of each, below ``count``.
        view: View of each, 0 to 2.
        count: Number of objects.

    Returns:
        Codes ``(3, count, m)``, and which objects are in all three views, ``(count,)``.
    """
    slot = view * count + obj
    total = code.new_zeros(3 * count, code.shape[-1]).index_add(0, slot, code)
    number = code.new_zeros(3 * count).index_add(0, slot, torch.ones_like(code[:, 0]))
    mean = total / number.clamp(min=1).unsqueeze(-1)
    return mean.reshape(3, count, -1), (number.reshape(3, count) > 0).all(0)


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
