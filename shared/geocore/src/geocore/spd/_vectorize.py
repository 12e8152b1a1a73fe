"""Symmetric matrices as vectors and back."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from geocore.spd._checks import check_matrix, check_real, check_symmetric, no_autocast, values_readable, work_dtype
from geocore.spd._equations import cholesky_of

__all__ = ["cholesky_unvector", "cholesky_vector", "unvech", "vech"]


def _lower(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    rows, columns = torch.tril_indices(n, n, device=device)
    return rows, columns


def _size(length: int, name: str) -> int:
    n = 1
    while n * (n + 1) // 2 < length:  # a comparison, so that a symbolic length is traced
        n += 1
    if n * (n + 1) // 2 != length:
        raise ValueError(f"{name} must have a last dimension of length n (n + 1) / 2, got {length}")
    return n


def vech(S: Float[Tensor, "*batch n n"], *, scale: float = math.sqrt(2.0)) -> Float[Tensor, "*batch p"]:
    """Lower triangle of a symmetric matrix, row by row, off-diagonal entries times ``scale``.

    With the default the map is isometric, ``|vech(S)| = |S|_F``. The symmetric part of ``S`` is used.

    Args:
        S: Symmetric matrices, shape ``(..., n, n)``.
        scale: Factor of the off-diagonal entries.

    Returns:
        Shape ``(..., n (n + 1) / 2)``, dtype of ``S``; order ``(0, 0), (1, 0), (1, 1), (2, 0), ...``.

    Raises:
        ValueError: If ``S`` is not square.
        TypeError: If ``S`` is not real floating point.

    Example:
        >>> vech(torch.tensor([[1.0, 2.0], [2.0, 3.0]]), scale=1.0)
        tensor([1., 2., 3.])
    """
    check_matrix("S", S)
    rows, columns = _lower(S.shape[-1], S.device)
    lower, upper = S[..., rows, columns], S[..., columns, rows]
    return torch.where(rows == columns, S.new_ones(()), float(scale)) * (lower / 2 + upper / 2)


def unvech(v: Float[Tensor, "*batch p"], *, scale: float = math.sqrt(2.0)) -> Float[Tensor, "*batch n n"]:
    """Inverse of ``vech``.

    Args:
        v: Shape ``(..., n (n + 1) / 2)``.
        scale: Factor that ``vech`` applied.

    Returns:
        Symmetric matrices, shape ``(..., n, n)``, dtype of ``v``.

    Raises:
        ValueError: If the length is not triangular, or ``scale`` is 0.
        TypeError: If ``v`` is not real floating point.

    Example:
        >>> unvech(torch.tensor([1.0, 2.0, 3.0]), scale=1.0)
        tensor([[1., 2.],
                [2., 3.]])
    """
    check_real("v", v)
    if v.ndim < 1:
        raise ValueError(f"v must have shape (..., n (n + 1) / 2), got {tuple(v.shape)}")
    if scale == 0:
        raise ValueError("scale must not be 0")
    n = _size(v.shape[-1], "v")
    return _scatter(v, n, 1 / float(scale), symmetric=True)


def _scatter(v: Tensor, n: int, factor: float, *, symmetric: bool) -> Tensor:
    """Gather rather than index assignment, which function transforms do not take."""
    row = torch.arange(n, device=v.device)
    low, high = torch.minimum(row[:, None], row[None]), torch.maximum(row[:, None], row[None])
    index = high * (high + 1) // 2 + low
    weight = torch.where(row[:, None] == row[None], v.new_ones(()), factor)
    if not symmetric:
        weight = torch.where(row[:, None] >= row[None], weight, 0.0)
    return v[..., index] * weight


@no_autocast
def cholesky_vector(
    X: Float[Tensor, "*batch n n"], *, compute_dtype: torch.dtype | None = None, check: bool = True
) -> Float[Tensor, "*batch p"]:
    """Cholesky factor as a vector: the lower triangle row by row, the diagonal as its logarithm.

    An unconstrained coordinate of SPD(n): any vector is the coordinate of one SPD matrix. It is the chart of ``LogCholesky``.

    Args:
        X: SPD matrices, shape ``(..., n, n)``.
        compute_dtype, check: As ``sqrtm``.

    Returns:
        Shape ``(..., n (n + 1) / 2)``, dtype of ``X``.

    Raises:
        NotPositiveDefiniteError: If ``X`` is not positive definite.
        ValueError: If ``X`` is not square, not finite or not symmetric.
        TypeError: If ``X`` is not real floating point.

    Example:
        >>> cholesky_vector(torch.diag(torch.tensor([1.0, 4.0])))
        tensor([0.0000, 0.0000, 0.6931])
    """
    check_matrix("X", X)
    if check and values_readable(X):
        check_symmetric("X", X)
    W = X.to(work_dtype(X, compute_dtype))
    L = cholesky_of("X", (W + W.mT) / 2, check=check)
    log = L.diagonal(dim1=-2, dim2=-1).log()
    rows, columns = _lower(X.shape[-1], X.device)
    diagonal = rows == columns
    return torch.where(diagonal, log[..., rows], L[..., rows, columns]).to(X.dtype)


@no_autocast
def cholesky_unvector(v: Float[Tensor, "*batch p"], *, compute_dtype: torch.dtype | None = None) -> Float[Tensor, "*batch n n"]:
    """Inverse of ``cholesky_vector``: ``L L^T`` with the exponential on the diagonal of ``L``; SPD for any vector.

    Args:
        v: Shape ``(..., n (n + 1) / 2)``.
        compute_dtype: As ``sqrtm``.

    Returns:
        SPD matrices, shape ``(..., n, n)``, dtype of ``v``.

    Raises:
        ValueError: If the length is not triangular.
        TypeError: If ``v`` is not real floating point.

    Example:
        >>> cholesky_unvector(torch.zeros(3))
        tensor([[1., 0.],
                [0., 1.]])
    """
    check_real("v", v)
    if v.ndim < 1:
        raise ValueError(f"v must have shape (..., n (n + 1) / 2), got {tuple(v.shape)}")
    n = _size(v.shape[-1], "v")
    low = _scatter(v.to(work_dtype(v, compute_dtype)), n, 1.0, symmetric=False)
    diagonal = low.diagonal(dim1=-2, dim2=-1)
    L = low - torch.diag_embed(diagonal) + torch.diag_embed(diagonal.exp())
    return (L @ L.mT).to(v.dtype)
