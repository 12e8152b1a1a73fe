"""Outlines as sampled curves and as pixels."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geocore._checks import check_option, check_positive_int, check_trailing
from geocore.planar.boxes import wide
from geocore.planar.polygon import closed, contains

__all__ = ["rasterize", "resample_contour", "simplify", "soft_rasterize"]


def resample_contour(
    poly: Float[Tensor, "*#batch n 2"], n: int, start: str = "index", mask: Bool[Tensor, "*#batch n"] | None = None
) -> Float[Tensor, "*batch m 2"]:
    """``n`` points at equal arc length along the outline, differentiable.

    Args:
        poly: Vertices.
        n: Number of points.
        start: ``"index"``: at the first vertex; ``"topleft"``: at the vertex of least ``x + y``.
        mask: Valid vertices.

    Raises:
        ValueError: If a shape or option is wrong.
    """
    check_positive_int("n", n)
    check_option("start", start, ("index", "topleft"))
    p = wide(closed(poly, mask))
    if p.shape[-2] == 0:
        raise ValueError("poly must have at least one vertex, got none")
    if start == "topleft":
        first = p.detach().sum(-1).argmin(-1, keepdim=True)
        index = torch.remainder(torch.arange(p.shape[-2], device=p.device) + first, p.shape[-2])
        p = p.gather(-2, index.unsqueeze(-1).expand(p.shape))
    q = p.roll(-1, -2)
    square = (q - p).square().sum(-1)
    length = torch.where(square > 0, torch.where(square > 0, square, 1.0).sqrt(), 0.0)
    ends = length.cumsum(-1)
    total = ends[..., -1:]
    at = total * torch.arange(n, dtype=p.dtype, device=p.device) / n
    edge = torch.searchsorted(ends.detach().contiguous(), at.detach().contiguous(), right=True).clamp(max=p.shape[-2] - 1)
    own = length.gather(-1, edge)
    share = (at - (ends.gather(-1, edge) - own)) / torch.where(own > 0, own, 1.0)

    def take(v: Tensor) -> Tensor:
        return v.gather(-2, edge.unsqueeze(-1).expand(*edge.shape, 2))

    a, b = take(p), take(q)
    return (a + share.unsqueeze(-1) * (b - a)).to(poly.dtype)


@torch.no_grad()
def simplify(poly: Any, tolerance: float) -> Tensor:
    """Fewer vertices, none of the others farther than ``tolerance`` from the new outline (Douglas-Peucker). Without gradient.

    Args:
        poly: One polygon, shape ``(n, 2)``; anything that ``torch.as_tensor`` takes.
        tolerance: Largest distance.

    Returns:
        Shape ``(m, 2)`` with ``m <= n``, in the order and dtype of the input.

    Raises:
        ValueError: If the shape or the tolerance is wrong.
    """
    p = torch.as_tensor(poly)
    if p.ndim != 2 or p.shape[1] != 2:
        raise ValueError(f"poly must have shape (n, 2), got {tuple(p.shape)}")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must not be negative, got {tolerance}")
    n = len(p)
    if n <= 3:
        return p.clone()
    ring = torch.cat([p, p[:1]]).double()
    far = int((ring[:-1] - ring[0]).square().sum(1).argmax())
    keep = {0, far}
    spans = [(0, far), (far, n)]
    while spans:
        i, j = spans.pop()
        if j - i < 2:
            continue
        d = ring[j] - ring[i]
        between = ring[i + 1 : j] - ring[i]
        share = ((between @ d) / d.square().sum().clamp(min=1e-300)).clamp(0, 1).unsqueeze(-1)
        distance = (between - share * d).norm(dim=1)
        worst = int(distance.argmax())
        if float(distance[worst]) > tolerance:
            keep.add(i + 1 + worst)
            spans += [(i, i + 1 + worst), (i + 1 + worst, j)]
    return p[sorted(keep)]


def _pixels(poly: Tensor, size: tuple[int, int]) -> Tensor:
    """Pixel centres ``(H, W, 2)``."""
    check_trailing("poly", poly, (None, 2))
    height, width = size
    check_positive_int("size[0]", height)
    check_positive_int("size[1]", width)
    dtype = wide(poly).dtype
    y, x = (torch.arange(k, dtype=dtype, device=poly.device) + 0.5 for k in size)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


def rasterize(poly: Float[Tensor, "*batch n 2"], size: tuple[int, int], rule: str = "nonzero") -> Bool[Tensor, "*batch h w"]:
    """Pixels whose centre ``(j + 0.5, i + 0.5)`` lies in the polygon. Not the mask of pycocotools, which includes its traced boundary.

    Args:
        poly: Vertices, shape ``(..., n, 2)``.
        size: Height and width.
        rule: ``"nonzero"`` or ``"evenodd"``.

    Raises:
        ValueError: If a shape or option is wrong.
    """
    return contains(_pixels(poly, size), poly[..., None, None, :, :], rule)


def soft_rasterize(poly: Float[Tensor, "*batch n 2"], size: tuple[int, int], tau: float = 1.0) -> Float[Tensor, "*batch h w"]:
    """``sigmoid(signed distance / tau)`` from the outline, positive inside: a mask that is differentiable in the vertices.

    Args:
        poly: Vertices, shape ``(..., n, 2)``.
        size: Height and width.
        tau: Width of the transition in pixels.

    Raises:
        ValueError: If a shape or option is wrong.
    """
    if not tau > 0:
        raise ValueError(f"tau must be positive, got {tau}")
    centres = _pixels(poly, size)
    p = wide(poly)[..., None, None, :, :]
    q = p.roll(-1, -2)
    d, r = q - p, centres.unsqueeze(-2) - p
    square = d.square().sum(-1)
    share = ((r * d).sum(-1) / torch.where(square > 0, square, 1.0)).clamp(0, 1)
    gap = (r - share.unsqueeze(-1) * d).square().sum(-1).amin(-1)
    distance = torch.where(gap > 0, torch.where(gap > 0, gap, 1.0).sqrt(), 0.0)
    inside = contains(centres, poly[..., None, None, :, :])
    return torch.sigmoid(torch.where(inside, distance, -distance) / tau).to(poly.dtype)
