"""Mean and covariance of weighted point sets, dense with a mask or ragged with an index."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geocore._checks import check_floating
from geocore.spd._checks import values_readable

__all__ = ["Moments", "check_finite", "check_points", "count_items", "moments", "to_dense"]

_CHUNK = 1 << 16
"""Points above which float32 sums are accumulated in float64, chunk by chunk."""


class Moments(NamedTuple):
    """Mean, covariance (not divided by the total weight) and total weight of each item.

    Args:
        mean: Shape ``(*batch, d)``; zero for an item without weight.
        covariance: Shape ``(*batch, d, d)``.
        total: Shape ``(*batch)``.
    """

    mean: Tensor
    covariance: Tensor
    total: Tensor


def check_points(x: Tensor, dim: int | None, weights: Tensor | None, batch: Tensor | None, n_items: int | None) -> None:
    """Raise unless ``x`` is ``(..., n, dim)`` with ``n > 0`` and the rest fits it.

    Raises:
        ValueError: If a shape does not fit.
        TypeError: If a dtype does not.
    """
    check_floating("x", x)
    if x.ndim < 2 or (dim is not None and x.shape[-1] != dim):
        raise ValueError(f"x must have shape (..., n, {'d' if dim is None else dim}), got {tuple(x.shape)}")
    if x.shape[-2] == 0:
        raise ValueError(f"x must hold at least one point, got n = 0 in shape {tuple(x.shape)}; empty items are points of weight 0")
    if weights is not None:
        if not isinstance(weights, Tensor) or weights.dtype.is_complex:
            raise TypeError("weights must be a real tensor of one weight per point")
        try:
            fits = torch.broadcast_shapes(weights.shape, x.shape[:-1]) == x.shape[:-1]
        except RuntimeError:
            fits = False
        if not fits or weights.shape[-1:] != x.shape[-2:-1]:
            raise ValueError(f"weights must have shape {tuple(x.shape[:-1])}, one per point of x, got {tuple(weights.shape)}")
    if batch is not None:
        if not isinstance(batch, Tensor) or batch.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"batch must be an int64 or int32 tensor, got {getattr(batch, 'dtype', type(batch).__name__)}")
        if x.ndim != 2 or batch.shape != x.shape[:1]:
            raise ValueError(f"batch must have shape (N,) and x shape (N, d), got {tuple(batch.shape)} and {tuple(x.shape)}")
    elif n_items is not None:
        raise ValueError("n_items must come with batch, the item of each point")


def check_finite(covariance: Float[Tensor, "*batch d d"]) -> None:
    """Raise if a covariance is not finite, where that costs no waiting for a device.

    Raises:
        ValueError: With the positions in the flattened batch.
    """
    if covariance.device.type == "cpu" and values_readable(covariance) and not bool(torch.isfinite(covariance).all()):
        bad = torch.nonzero(~torch.isfinite(covariance).all(-1).all(-1).reshape(-1))[:, 0].tolist()
        raise ValueError(
            f"x must be finite, and not so large that its squares overflow; {len(bad)} items are not, at positions {bad[:10]}. Points of "
            "weight zero may be anything"
        )


def count_items(batch: Int[Tensor, "N"], n_items: int | None) -> int:
    """Number of items; without ``n_items`` it reads the largest index."""
    return int(batch.max()) + 1 if n_items is None else n_items


def moments(
    x: Float[Tensor, "*batch n d"],
    weights: Tensor | None = None,
    batch: Tensor | None = None,
    n_items: int | None = None,
    *,
    center: bool = True,
) -> Moments:
    """Moments of each item; ``x`` is float32 or float64 and already checked. Points of weight zero may hold anything."""
    if weights is not None:
        x = torch.where((weights > 0).expand(x.shape[:-1])[..., None], x, 0.0)
    if batch is not None:
        return _ragged(x, weights, batch.long(), count_items(batch, n_items), center)
    n = x.shape[-2]
    if n > _CHUNK and x.dtype == torch.float32:
        return _chunked(x, weights, center)
    if weights is None:
        total = x.new_full((), n).expand(x.shape[:-2])
        mean = x.mean(-2)
        offset = x - mean[..., None, :] if center else x
        return Moments(mean, offset.mT @ offset, total)
    w = weights.to(x.dtype)[..., None, :]
    total = w.sum(-1)
    mean = (w @ x)[..., 0, :] / torch.where(total > 0, total, 1.0)
    offset = x - mean[..., None, :] if center else x
    total = total[..., 0].expand(x.shape[:-2])
    return Moments(mean, (offset.mT * w) @ offset, total)


def _chunked(x: Tensor, weights: Tensor | None, center: bool) -> Moments:
    starts = range(0, x.shape[-2], _CHUNK)
    w = torch.ones_like(x[..., 0]) if weights is None else weights.to(x.dtype).expand(x.shape[:-1])
    part = [(x[..., i : i + _CHUNK, :].double(), w[..., None, i : i + _CHUNK].double()) for i in starts]
    total = torch.stack([v.sum(-1) for _, v in part]).sum(0)
    mean = torch.stack([(v @ y)[..., 0, :] for y, v in part]).sum(0) / torch.where(total > 0, total, 1.0)
    shift = mean[..., None, :] if center else torch.zeros_like(mean[..., None, :])
    covariance = torch.stack([((y - shift).mT * v) @ (y - shift) for y, v in part]).sum(0)
    return Moments(mean.to(x.dtype), covariance.to(x.dtype), total[..., 0].to(x.dtype))


def _ragged(x: Tensor, weights: Tensor | None, batch: Tensor, items: int, center: bool) -> Moments:
    d = x.shape[-1]
    w = x.new_ones(len(x)) if weights is None else weights.to(x.dtype).expand(len(x))
    total = x.new_zeros(items).index_add(0, batch, w)
    mean = x.new_zeros(items, d).index_add(0, batch, x * w[:, None]) / torch.where(total > 0, total, 1.0)[:, None]
    offset = x - mean[batch] if center else x
    outer = (offset * w[:, None])[:, :, None] * offset[:, None, :]
    return Moments(mean, x.new_zeros(items, d, d).index_add(0, batch, outer), total)


def to_dense(
    x: Float[Tensor, "N d"], weights: Tensor | None, batch: Int[Tensor, "N"], items: int
) -> tuple[Float[Tensor, "items n d"], Float[Tensor, "items n"], Bool[Tensor, "items n"]]:
    """Ragged points as dense ones with weights that are zero on padding, points in their order; reads the largest count.

    Returns:
        Points, weights, and the mask of what is a point.
    """
    batch = batch.long()
    counts = torch.zeros(items, dtype=torch.int64, device=x.device).index_add(0, batch, torch.ones_like(batch))
    order = torch.argsort(batch, stable=True)
    first = torch.cumsum(counts, 0) - counts
    place = torch.empty_like(batch)
    place[order] = torch.arange(len(batch), device=x.device) - first[batch[order]]
    n = max(1, int(counts.max()) if items else 1)
    dense = x.new_zeros(items, n, x.shape[-1]).index_put((batch, place), x)
    w = x.new_ones(len(x)) if weights is None else weights.to(x.dtype).expand(len(x))
    mask = torch.zeros(items, n, dtype=torch.bool, device=x.device)
    mask[batch, place] = True
    return dense, x.new_zeros(items, n).index_put((batch, place), w), mask
