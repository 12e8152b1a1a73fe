"""The pieces of the compact WY form that every product of factors is made of."""

import torch
from torch import Tensor

__all__ = ["reflection_tau", "scaled_gram", "smallest_square", "unit_upper_solve"]


def smallest_square(V: Tensor) -> float:
    """Squared length below which a column counts as zero."""
    return 16.0 * torch.finfo(V.dtype).tiny


def reflection_tau(V: Tensor) -> Tensor:
    """``2 / |v|^2`` for each column of ``V``, and 0 where the column is zero: no direction means no reflection, never a NaN."""
    square = (V * V).sum(-2)
    usable = square > smallest_square(V)
    return torch.where(usable, 2.0 / torch.where(usable, square, 1.0), 0.0)


def scaled_gram(V: Tensor, tau: Tensor) -> Tensor:
    """``diag(tau) triu_1(V^T V)``: with it ``T = (I + .)^-1 diag(tau)``, which exists for ``tau = 0`` too."""
    return tau[..., :, None] * torch.triu(V.mT @ V, diagonal=1)


def unit_upper_solve(A: Tensor, B: Tensor, *, transpose: bool = False) -> Tensor:
    """``(I + A)^-1 B`` for strictly upper triangular ``A``, or with the transpose of that inverse."""
    if transpose:
        return torch.linalg.solve_triangular(A.mT, B, upper=False, unitriangular=True)
    return torch.linalg.solve_triangular(A, B, upper=True, unitriangular=True)
