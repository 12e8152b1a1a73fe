"""Polar factor by the QR-based dynamically weighted Halley iteration (Nakatsukasa, Bai and Gygi, SIAM J. Matrix Anal. Appl. 31, 2010)."""

import math

import torch
from torch import Tensor

__all__ = ["qdwh"]


def _weights(dtype: torch.dtype) -> tuple[tuple[float, float, float], ...]:
    """``(a, b, c)`` of each step, eqs. (3.5) to (3.8), for singular values from ``eps / 4`` to 1: six steps in float64, four in float32.

    ``lower`` bounds the singular values from below; assuming the worst makes the schedule a constant of the dtype.
    """
    eps = torch.finfo(dtype).eps
    lower, steps = eps / 4, []
    while 1 - lower > eps:
        square = lower * lower
        d = (4 * (1 - square) / square**2) ** (1 / 3)
        root = math.sqrt(1 + d)
        a = root + 0.5 * math.sqrt(8 - 4 * d + 8 * (2 - square) / (square * root))
        b = (a - 1) ** 2 / 4
        c = a + b - 1
        steps.append((a, b, c))
        lower = min(lower * (a + b * square) / (1 + c * square), 1.0)
    return tuple(steps)


_SCHEDULES = {dtype: _weights(dtype) for dtype in (torch.float32, torch.float64)}


def qdwh(M: Tensor) -> Tensor:
    """Orthogonal factor of square or tall ``M``: ``X <- X (a I + b X^T X) (I + c X^T X)^-1``, by QR for large ``c``, then by Cholesky."""
    n = M.shape[-1]
    most = torch.nn.functional.pad(M.detach().abs().flatten(-2), (0, 1)).amax(-1)[..., None, None]
    X = M / torch.where(most > 0, most, 1.0)
    # Any positive scale leaves the answer unchanged, so it is a constant to autograd; the Frobenius norm bounds the largest singular value.
    norm = torch.sqrt(X.detach().square().sum((-2, -1), keepdim=True))
    X = X / torch.where(norm > 0, norm, 1.0)
    eye = torch.eye(n, dtype=M.dtype, device=M.device)
    for a, b, c in _SCHEDULES[M.dtype]:
        keep = b / c
        if c > 100:
            stacked = torch.cat([math.sqrt(c) * X, eye.expand(*X.shape[:-2], n, n)], dim=-2)
            top, bottom = torch.linalg.qr(stacked)[0].split([X.shape[-2], n], dim=-2)
            X = keep * X + (a - keep) / math.sqrt(c) * (top @ bottom.mT)
        else:
            factor = torch.linalg.cholesky_ex(eye + c * (X.mT @ X))[0]
            X = keep * X + (a - keep) * torch.cholesky_solve(X.mT, factor).mT
    return X
