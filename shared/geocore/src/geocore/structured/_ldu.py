"""LDU factorisation with pivoting, truncated to the first pivots at the cost of those pivots."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geocore._checks import check_floating, check_positive_int, check_square
from geocore._precision import full_precision
from geocore.structured._perm import Permutation

__all__ = ["LDU", "column_order", "full_ldu", "truncated_ldu"]


class LDU(NamedTuple):
    """``W[perm][:, columns]`` is about ``L diag(d) U``.

    Args:
        perm: Row order, shape ``(m,)``.
        L: Unit lower trapezoidal in pivoted row order, shape ``(m, r)``.
        d: Pivots, shape ``(r,)``; 0 where ``null_mask``.
        U: Unit upper trapezoidal, shape ``(r, n)``; a row of a null pivot is kept as it came out of the elimination, unscaled.
        null_mask: Pivots too small to divide by, shape ``(r,)``.
        columns: Column order, shape ``(n,)``, or ``None`` for the natural one.
    """

    perm: Int[Tensor, "m"]
    L: Float[Tensor, "m r"]
    d: Float[Tensor, "r"]
    U: Float[Tensor, "r n"]
    null_mask: Bool[Tensor, "r"]
    columns: Int[Tensor, "n"] | None

    def dense(self) -> Float[Tensor, "m n"]:
        """The product in the row and column order of ``W``; differentiable in ``L``, ``d`` and ``U``."""
        product = self.L @ (self.d[:, None] * self.U)
        product = product[Permutation(self.perm, check=False).inverse().index]
        if self.columns is None:
            return product
        return product[:, Permutation(self.columns, check=False).inverse().index]

    def residual(self, W: Float[Tensor, "m n"]) -> Float[Tensor, "m n"]:
        """``W`` minus the product: zero in the first ``r`` pivot rows and the first ``r`` columns (in the chosen order)."""
        return W - self.dense()

    def matvec(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m"]:
        """The product applied to vectors ``(..., n)`` without forming it."""
        if self.columns is not None:
            x = x[..., self.columns]
        y = ((x @ self.U.mT) * self.d) @ self.L.mT
        return y[..., Permutation(self.perm, check=False).inverse().index]

    def logabsdet(self) -> Float[Tensor, ""]:
        """``log |det W|`` of a full factorisation; minus infinity with a null pivot.

        Raises:
            ValueError: If the factorisation is not that of a square matrix with every pivot.
        """
        r = len(self.d)
        if self.L.shape[0] != r or self.U.shape[1] != r:
            raise ValueError(f"logabsdet needs every pivot of a square matrix, got {r} pivots of {self.L.shape[0]} x {self.U.shape[1]}")
        return self.d.abs().log().sum()


def column_order(W: Float[Tensor, "m n"], order: str = "natural") -> Int[Tensor, "n"]:
    """Column orders for ``truncated_ldu``: ``"natural"``, ``"norm"`` (longest first) or ``"qr"`` (column-pivoted QR, from SciPy).

    Raises:
        ValueError: If ``W`` is not a matrix or ``order`` is unknown.
        TypeError, NotImplementedError: If ``W`` is not real floating point.
    """
    check_floating("W", W)
    if W.ndim != 2:
        raise ValueError(f"W must be a matrix, got shape {tuple(W.shape)}")
    if order == "natural":
        return torch.arange(W.shape[1], device=W.device)
    if order == "norm":
        return W.detach().double().square().sum(0).argsort(descending=True, stable=True)
    if order == "qr":
        from scipy.linalg import qr

        found: Any = qr(W.detach().double().cpu().numpy(), mode="r", pivoting=True)
        return torch.as_tensor(found[-1], dtype=torch.int64, device=W.device)
    raise ValueError(f"order must be one of 'natural', 'norm', 'qr', got {order!r}")


@full_precision
def truncated_ldu(
    W: Float[Tensor, "m n"], r: int, pivots: Int[Tensor, "r"] | None = None, column_perm: Int[Tensor, "n"] | None = None
) -> LDU:
    """First ``r`` terms of the LDU factorisation of ``W`` with partial row pivoting, from the ``m x r`` panel alone.

    One LU of ``W[:, :r]`` and one triangular solve: equal to truncating the full factorisation, at a fraction of its cost. It interpolates
    ``W`` on ``r`` rows and ``r`` columns (a skeleton decomposition); it is not rank-revealing and not the best approximation of
    its rank. The factors are constants for autograd.

    Args:
        W: Matrix, shape ``(m, n)``.
        r: Number of terms, from 1 to ``min(m, n)``.
        pivots: The ``r`` pivot rows in order, counted from 0, to factorise without a search (reproducible across devices);
            ``LDU.perm[:r]`` of an earlier run.
        column_perm: Column order, shape ``(n,)``; see ``column_order``.

    Returns:
        ``LDU``. Pivots up to ``eps max|W|`` become ``d = 0`` with ``null_mask``; nothing is divided by them.

    Raises:
        ValueError: If ``W`` is not a matrix, ``r`` is out of range, or ``pivots`` or ``column_perm`` do not fit.
        TypeError, NotImplementedError: If ``W`` is not real floating point, ``r`` not an int or an index not an integer tensor.

    Example:
        >>> W = torch.randn(64, 48)
        >>> ldu = truncated_ldu(W, 16)
        >>> ldu.residual(W)[:, :16].abs().max() < 1e-4
        tensor(True)
    """
    check_floating("W", W)
    if W.ndim != 2:
        raise ValueError(f"W must be a matrix of shape (m, n), got {tuple(W.shape)}")
    check_positive_int("r", r)
    m, n = W.shape
    if r > min(m, n):
        raise ValueError(f"r must be at most min(m, n) = {min(m, n)}, got {r}")
    W = W.detach()
    columns = None
    if column_perm is not None:
        columns = Permutation(column_perm).index.long()
        if len(columns) != n:
            raise ValueError(f"column_perm must order {n} columns, got {len(columns)}")
        W = W[:, columns]
    if pivots is None:
        factors, swaps = torch.linalg.lu_factor_ex(W[:, :r])[:2]
        perm = Permutation.from_pivots(swaps, m).index
        below = factors
    else:
        perm = _complete(pivots, r, m, W.device)
        below = _eliminate(W[perm][:, :r])
    L = torch.tril(below, -1)
    L.diagonal()[:] = 1.0
    upper = torch.triu(below[:r])
    right = torch.linalg.solve_triangular(L[:r], W[perm[:r], r:], upper=False, unitriangular=True)
    U = torch.cat([upper, right], dim=1)
    d = U.diagonal().clone()
    low, high = W.aminmax()  # one pass: for small r, |W| would cost more than the factorisation
    null = d.abs() <= torch.finfo(W.dtype).eps * torch.maximum(-low, high)
    U = U / torch.where(null, 1.0, d)[:, None]
    return LDU(perm, L, torch.where(null, 0.0, d), U, null, columns)


def _complete(pivots: Tensor, r: int, m: int, device: torch.device) -> Tensor:
    """Row order that starts with the given pivot rows."""
    if not isinstance(pivots, Tensor) or pivots.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"pivots must be an int64 or int32 tensor, got {getattr(pivots, 'dtype', type(pivots).__name__)}")
    rows = pivots.tolist()
    if pivots.ndim != 1 or len(rows) != r or len(set(rows)) != r or any(not 0 <= p < m for p in rows):
        raise ValueError(f"pivots must be {r} distinct rows in 0 .. {m - 1}, got {rows[:20]}")
    chosen = set(rows)
    return torch.tensor([*rows, *(i for i in range(m) if i not in chosen)], dtype=torch.int64, device=device)


def _eliminate(A: Tensor) -> Tensor:
    """Packed LU of a tall matrix whose rows are in pivot order already; a zero pivot leaves its column of ``L`` zero."""
    r = A.shape[1]
    A = A.clone()
    for i in range(r):
        pivot = A[i, i]
        null = pivot == 0
        factor = torch.where(null, 0.0, A[i + 1 :, i] / torch.where(null, 1.0, pivot))
        A[i + 1 :, i] = factor
        A[i + 1 :, i + 1 :] -= factor[:, None] * A[i, i + 1 :]
    return A


def full_ldu(A: Float[Tensor, "n n"]) -> LDU:
    """LDU factorisation of a square matrix; ``truncated_ldu`` with every pivot.

    Raises:
        ValueError: If ``A`` is not square.
        TypeError, NotImplementedError: If ``A`` is not real floating point.
    """
    check_square("A", A)
    return truncated_ldu(A, A.shape[-1])
