"""Greedy suppression of overlapping boxes: the operator and its plain formula, for detection layers built on geocore."""

import torch
from torch import Tensor

from geocore._ops import define, kernel_may_run
from geocore.planar._overlap import ratio

_ROWS = 2**22
_BLOCK = 512


def suppress(boxes: Tensor, kinds: Tensor | None, threshold: float, max_output: int | None) -> Tensor:
    """Places of the boxes that no kept one before them, of the same kind, overlaps by more than ``threshold``.

    Args:
        boxes: Shape ``(n, 5)``, best first, float32 or float64, not NaN.
        kinds: int64 of shape ``(n,)``, or ``None`` if all are of one kind.
        threshold: Largest overlap, area over area of the union, that is let through.
        max_output: Stop after so many.

    Returns:
        int64, ascending.
    """
    kinds = torch.empty(0, dtype=torch.int64, device=boxes.device) if kinds is None else kinds
    limit = -1 if max_output is None else max_output
    boxes = boxes.detach()
    if kernel_may_run("obb_nms", boxes, count=len(boxes)):
        return torch.ops.geocore.obb_nms(boxes, kinds, threshold, limit)
    return nms_reference(boxes, kinds, threshold, limit)


@torch.no_grad()
def nms_reference(boxes: Tensor, kinds: Tensor, threshold: float, max_output: int) -> Tensor:
    """The plain formula, a block of boxes at a time; empty ``kinds`` and negative ``max_output`` stand for none."""
    n = len(boxes)
    alive = torch.ones(n, dtype=torch.bool, device=boxes.device)
    kept, count = [alive.new_empty(0, dtype=torch.int64)], 0
    for start in range(0, n, _BLOCK):
        own = start + alive[start : start + _BLOCK].nonzero()[:, 0]
        i, j = _overlapping(boxes, kinds, own, own, threshold)
        keep = own[_greedy(len(own), i.cpu(), j.cpu()).to(own.device)]
        kept.append(keep)
        count += len(keep)
        if start + _BLOCK >= n or 0 <= max_output <= count:
            break
        rest = start + _BLOCK + alive[start + _BLOCK :].nonzero()[:, 0]
        _, j = _overlapping(boxes, kinds, keep, rest, threshold)
        alive[rest[j]] = False
    found = torch.cat(kept)
    return found if max_output < 0 else found[:max_output].clone()


def _overlapping(boxes: Tensor, kinds: Tensor, a: Tensor, b: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Places in ``a`` and ``b`` of the boxes that overlap too much, in order of ``a``.

    Only pairs whose circumscribed circles meet are measured; the table of distances is made a slab at a time.
    """
    radius = 0.5 * torch.hypot(boxes[:, 2], boxes[:, 3])
    first, second = [a[:0]], [a[:0]]
    rows = max(_ROWS // max(len(b), 1), 1)
    for start in range(0, len(a), rows):
        part = a[start : start + rows]
        near = (boxes[part, None, :2] - boxes[b, :2]).square().sum(-1) < (radius[part, None] + radius[b]).square()
        if len(kinds):
            near &= kinds[part, None] == kinds[b]
        if a is b:
            near = near.triu(1 + start)
        i, j = near.nonzero(as_tuple=True)
        for p, q in zip(i.split(2**16), j.split(2**16), strict=True):
            over = ratio(boxes[part[p]], boxes[b[q]], of_first=False) > threshold
            first.append(p[over] + start)
            second.append(q[over])
    return torch.cat(first), torch.cat(second)


def _greedy(n: int, i: Tensor, j: Tensor) -> Tensor:
    """Places kept when each kept box removes those paired with it, best first."""
    alive = [True] * n
    starts, others = torch.searchsorted(i, torch.arange(n + 1)).tolist(), j.tolist()
    for k in range(n):
        if alive[k]:
            for other in others[starts[k] : starts[k + 1]]:
                alive[other] = False
    return torch.tensor(alive).nonzero()[:, 0]


def _fake(boxes: Tensor, kinds: Tensor, threshold: float, max_output: int) -> Tensor:
    del kinds, threshold, max_output
    return boxes.new_empty((torch.library.get_ctx().new_dynamic_size(),), dtype=torch.int64)


define("obb_nms", "(Tensor boxes, Tensor kinds, float threshold, int max_output) -> Tensor", nms_reference, _fake, differentiable=False)
