"""Formula and operators behind the overlap of oriented boxes; ``iou.py`` has the public functions and says how the formula works."""

import torch
from torch import Tensor

from geocore._ops import define, kernel_may_run


def clamped_mean(lo: Tensor, hi: Tensor, a: Tensor, eps: float) -> Tensor:
    """Mean of ``clamp(x, -a, a)`` for ``x`` uniform between ``lo <= hi``; every case is free of cancellation, in the gradient too."""
    mid = 0.5 * (lo + hi)
    floor = eps * (a + mid.detach().abs()) + 1e-30
    den = torch.maximum(hi - lo, floor)
    above = (a - lo).clamp(min=0)
    below = (hi + a).clamp(min=0)
    upper = a - 0.5 * above * (above / den)
    lower = 0.5 * below * (below / den) - a
    both = a * ((hi + lo) / den)
    low_in, high_in = lo >= -a, hi <= a
    return torch.where(high_in, torch.where(low_in, mid, lower), torch.where(low_in, upper, both))


def clamped_area(p: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Signed area of the part of closed polygons ``(..., n, 2)`` with ``|x| <= a``, ``|y| <= b``."""
    x0, y0 = p.unbind(-1)
    x1, y1 = p.roll(-1, -2).unbind(-1)
    a, b = a.unsqueeze(-1), b.unsqueeze(-1)
    low, high = torch.maximum(torch.minimum(y0, b), -b), torch.maximum(torch.minimum(y1, b), -b)
    dy = y1 - y0
    level = dy.abs() < 1e-30  # adds nothing to the area, but to its slopes: an edge that tilts sweeps area
    slope = torch.where(level, 0.0, (x1 - x0) / torch.where(level, 1.0, dy))
    start, end = x0 + slope * (low - y0), x1 + slope * (high - y1)
    mean = clamped_mean(torch.minimum(start, end), torch.maximum(start, end), a, 4 * torch.finfo(p.dtype).eps)
    return ((high - low) * mean).sum(-1)


def relative(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centre of ``a`` in the frame of ``b``, and cosine and sine of the angle between them."""
    dx, dy = (a[..., :2] - b[..., :2]).unbind(-1)
    c, s = b[..., 4].cos(), b[..., 4].sin()
    turn = a[..., 4] - b[..., 4]
    return c * dx + s * dy, c * dy - s * dx, turn.cos(), turn.sin()


def intersection_reference(a: Tensor, b: Tensor) -> Tensor:
    """Area of the overlap of boxes of one shape and dtype, float32 at least."""
    x, y, c, s = relative(a, b)
    ux, uy = 0.5 * a[..., 2] * c, 0.5 * a[..., 2] * s
    vx, vy = -0.5 * a[..., 3] * s, 0.5 * a[..., 3] * c
    px = torch.stack([x - ux - vx, x + ux - vx, x + ux + vx, x - ux + vx], -1)
    py = torch.stack([y - uy - vy, y + uy - vy, y + uy + vy, y - uy + vy], -1)
    half_w, half_h = 0.5 * b[..., 2], 0.5 * b[..., 3]
    area = clamped_area(torch.stack([px, py], -1), half_w, half_h)
    with torch.no_grad():
        away_x, away_y = (c * x + s * y).abs(), (c * y - s * x).abs()
        apart = (x.abs() >= half_w + ux.abs() + vx.abs()) | (y.abs() >= half_h + uy.abs() + vy.abs())
        apart |= away_x >= 0.5 * a[..., 2] + half_w * c.abs() + half_h * s.abs()
        apart |= away_y >= 0.5 * a[..., 3] + half_w * s.abs() + half_h * c.abs()
        apart |= area < 0  # not a clamp, whose slope at 0 depends on torch: a box without area must be able to grow
        apart &= ~area.isnan()  # separated along one axis, but not a box
    return torch.where(apart, 0.0, area)


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """The same by the compiled kernel where there is one."""
    if kernel_may_run("obb_intersection", a, b, count=a.numel() // 5):
        return torch.ops.geocore.obb_intersection(a, b)
    return intersection_reference(a, b)


def share(a: Tensor, b: Tensor, shared: Tensor, of_first: bool) -> Tensor:
    """``shared`` over the area of the union, or of the first box; 0 without area."""
    area = a[..., 2] * a[..., 3]
    whole = area if of_first else area + b[..., 2] * b[..., 3] - shared
    return torch.where(whole > 0, shared / torch.where(whole > 0, whole, 1.0), 0.0)


def ratio_reference(a: Tensor, b: Tensor, of_first: bool) -> Tensor:
    """Overlap over the union, or over the first box, of boxes as in ``intersection_reference``."""
    return share(a, b, intersection_reference(a, b), of_first)


def ratio(a: Tensor, b: Tensor, of_first: bool) -> Tensor:
    """The same by the compiled kernel where there is one."""
    if kernel_may_run("obb_ratio", a, b, count=a.numel() // 5):
        return torch.ops.geocore.obb_ratio(a, b, of_first)
    return ratio_reference(a, b, of_first)


def circles_meet(a: Tensor, b: Tensor) -> Tensor:
    """Whether the circumscribed circles of two sets of boxes overlap, shape ``(..., n, m)``."""
    radius_a, radius_b = (0.5 * torch.hypot(box[..., 2], box[..., 3]) for box in (a, b))
    reach = radius_a.unsqueeze(-1) + radius_b.unsqueeze(-2)
    dx = a[..., 0].unsqueeze(-1) - b[..., 0].unsqueeze(-2)
    dy = a[..., 1].unsqueeze(-1) - b[..., 1].unsqueeze(-2)
    return dx * dx + dy * dy < reach * reach


def held_ratio(a: Tensor, b: Tensor, of_first: bool) -> Tensor:
    """The ratio with the overlap held to the area of the smaller box, as pairs are measured where no derivative is asked for."""
    smaller = torch.minimum(a[..., 2] * a[..., 3], b[..., 2] * b[..., 3])
    return share(a, b, torch.minimum(intersection_reference(a, b), smaller), of_first)


def iou_table_reference(a: Tensor, b: Tensor, of_first: bool) -> Tensor:
    """Ratios of all pairs of ``(k, n, 5)`` and ``(k, m, 5)``, shape ``(k, n, m)``."""
    shape = (len(a), a.shape[1], b.shape[1], 5)
    return torch.where(circles_meet(a, b), held_ratio(a.unsqueeze(2).expand(shape), b.unsqueeze(1).expand(shape), of_first), 0.0)


def iou_list_reference(a: Tensor, b: Tensor, of_first: bool) -> tuple[Tensor, Tensor]:
    """Places ``(2, pairs)``, row by row, and ratios of the pairs of ``(n, 5)`` and ``(m, 5)`` whose ratio is not zero."""
    index = circles_meet(a, b).nonzero().mT
    value = held_ratio(a[index[0]], b[index[1]], of_first)
    keep = value != 0
    return index[:, keep].contiguous(), value[keep]


def _backward_reference(a: Tensor, b: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    return torch.func.vjp(intersection_reference, a, b)[1](grad)


def _ratio_backward_reference(a: Tensor, b: Tensor, grad: Tensor, of_first: bool) -> tuple[Tensor, Tensor]:
    return torch.func.vjp(lambda x, y: ratio_reference(x, y, of_first), a, b)[1](grad)


def _list_fake(a: Tensor, b: Tensor, of_first: bool) -> tuple[Tensor, Tensor]:
    del b, of_first
    count = torch.library.get_ctx().new_dynamic_size()
    return a.new_empty((2, count), dtype=torch.int64), a.new_empty((count,))


define(
    "obb_intersection_backward",
    "(Tensor a, Tensor b, Tensor grad) -> (Tensor, Tensor)",
    _backward_reference,
    lambda a, b, grad: (a.new_empty(a.shape), b.new_empty(b.shape)),
)
define(
    "obb_intersection",
    "(Tensor a, Tensor b) -> Tensor",
    intersection_reference,
    lambda a, b: a.new_empty(a.shape[:-1]),
    backward=lambda inputs, outputs, grads: torch.ops.geocore.obb_intersection_backward(*inputs, *grads),
    save_outputs=False,
)
define(
    "obb_ratio_backward",
    "(Tensor a, Tensor b, Tensor grad, bool of_first) -> (Tensor, Tensor)",
    _ratio_backward_reference,
    lambda a, b, grad, of_first: (a.new_empty(a.shape), b.new_empty(b.shape)),
)
define(
    "obb_ratio",
    "(Tensor a, Tensor b, bool of_first) -> Tensor",
    ratio_reference,
    lambda a, b, of_first: a.new_empty(a.shape[:-1]),
    backward=lambda inputs, outputs, grads: torch.ops.geocore.obb_ratio_backward(*inputs[:2], *grads, inputs[2]),
    save_outputs=False,
)
define(
    "obb_iou_table",
    "(Tensor a, Tensor b, bool of_first) -> Tensor",
    iou_table_reference,
    lambda a, b, of_first: a.new_empty((a.shape[0], a.shape[1], b.shape[1])),
)
define("obb_iou_list", "(Tensor a, Tensor b, bool of_first) -> (Tensor, Tensor)", iou_list_reference, _list_fake, differentiable=False)
