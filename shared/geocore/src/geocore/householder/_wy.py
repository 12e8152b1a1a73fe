"""The pieces of the compact WY form that every product of factors is made of."""

from typing import Any

import torch
from torch import Tensor

from geocore import _ops

__all__ = ["reflection_tau", "scaled_gram", "smallest_square", "unit_solve", "unit_upper_solve"]


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


def unit_solve_reference(A: Tensor, B: Tensor, upper: bool, transpose: bool) -> Tensor:
    """``unit_solve`` by ``torch.linalg``."""
    return torch.linalg.solve_triangular(A.mT if transpose else A, B, upper=upper != transpose, unitriangular=True).contiguous()


def _backward(inputs: tuple[Any, ...], outputs: tuple[Tensor, ...], grads: tuple[Tensor, ...], needs: tuple[bool, ...]) -> tuple[Any, ...]:
    (A, _, upper, transpose), (X,) = inputs, outputs
    back = torch.ops.geocore.unit_solve(A, grads[0], upper, not transpose)
    if not needs[0]:
        return None, back
    outer = X @ back.mT if transpose else back @ X.mT
    return -(outer.triu(1) if upper else outer.tril(-1)), back


_ops.define(
    "unit_solve",
    "(Tensor A, Tensor B, bool upper, bool transpose) -> Tensor",
    unit_solve_reference,
    lambda A, B, upper, transpose: B.new_empty(B.shape),
    backward=_backward,
    tell_needs=True,
)


def unit_solve(A: Tensor, B: Tensor, *, upper: bool, transpose: bool = False) -> Tensor:
    """``(I + T)^-1 B``, or with the transpose of that inverse, for the strictly triangular part ``T`` of ``A``; batches broadcast."""
    compiling = torch.compiler.is_compiling()  # then sizes may be symbolic: nothing is counted
    if _ops.kernel_may_run("unit_solve", A, B, size=A.shape[-1], count=None if compiling else _columns(A, B)):
        batch = torch.broadcast_shapes(A.shape[:-2], B.shape[:-2])
        return torch.ops.geocore.unit_solve(A.expand(*batch, *A.shape[-2:]), B.expand(*batch, *B.shape[-2:]), upper, transpose)
    return torch.linalg.solve_triangular(A.mT if transpose else A, B, upper=upper != transpose, unitriangular=True)


def _columns(A: Tensor, B: Tensor) -> int:
    """Right-hand sides, all systems together."""
    return torch.broadcast_shapes(A.shape[:-2], B.shape[:-2]).numel() * B.shape[-1]


def unit_upper_solve(A: Tensor, B: Tensor, *, transpose: bool = False) -> Tensor:
    """``(I + A)^-1 B`` for strictly upper triangular ``A``, or with the transpose of that inverse."""
    return unit_solve(A, B, upper=True, transpose=transpose)
