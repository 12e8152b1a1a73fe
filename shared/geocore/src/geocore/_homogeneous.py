"""Homogeneous matrices ``[[M, t], [0, 1]]``, shared by the rigid and similarity groups."""

import math

import torch
from torch import Tensor

from geocore._checks import check_broadcastable, check_trailing

__all__ = ["act", "assemble", "gauss_legendre", "inverse_linear", "split"]


def assemble(M: Tensor, t: Tensor) -> Tensor:
    """``[[M, t], [0, 1]]`` from ``M (..., n, n)`` and ``t (..., n)``; batch dimensions broadcast."""
    n = t.shape[-1]
    batch = torch.broadcast_shapes(M.shape[:-2], t.shape[:-1])
    dtype = torch.promote_types(M.dtype, t.dtype)
    top = torch.cat([M.to(dtype).expand(*batch, n, n), t.to(dtype).expand(*batch, n)[..., None]], dim=-1)
    last = top.new_zeros(n + 1)
    last = torch.cat([last[:n], last.new_ones(1)])
    return torch.cat([top, last.expand(*batch, 1, n + 1)], dim=-2)


def split(T: Tensor) -> tuple[Tensor, Tensor]:
    """``M`` and ``t`` of ``[[M, t], [0, 1]]``, as views."""
    return T[..., :-1, :-1], T[..., :-1, -1]


def inverse_linear(Minv: Tensor, t: Tensor) -> Tensor:
    """``[[M^-1, -M^-1 t], [0, 1]]`` from ``M^-1`` and ``t``."""
    return assemble(Minv, -(Minv @ t[..., None])[..., 0])


def act(T: Tensor, points: Tensor, n: int) -> Tensor:
    """``M p + t`` for points ``(..., n)``; batch dimensions broadcast.

    Raises:
        ValueError: If a shape does not fit.
    """
    check_trailing("T", T, (n + 1, n + 1))
    check_trailing("points", points, (n,), hint="points are not homogeneous: no trailing 1")
    check_broadcastable(T=T.shape[:-2], points=points.shape[:-1])
    M, t = split(T)
    return (M @ points[..., None])[..., 0] + t


def gauss_legendre(count: int) -> list[tuple[float, float]]:
    """Nodes and weights of the Gauss-Legendre rule on [0, 1], by Newton's method on the Legendre polynomial."""
    out = []
    for i in range(count):
        x, slope = math.cos(math.pi * (i + 0.75) / (count + 0.5)), 1.0
        for _ in range(8):  # quadratic from a start this good: rounding is reached in four
            p0, p1 = 1.0, x
            for k in range(2, count + 1):
                p0, p1 = p1, ((2 * k - 1) * x * p1 - (k - 1) * p0) / k
            slope = count * (x * p1 - p0) / (x * x - 1)
            x -= p1 / slope
        out.append(((1 - x) / 2, 1 / ((1 - x * x) * slope * slope)))
    return out
