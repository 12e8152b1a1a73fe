"""The frozen factors of LoLDU: ``W`` about ``L diag(d) U`` on the first pivots, in the row and column order of ``W``."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geocore._checks import check_floating
from geocore.structured import truncated_ldu

__all__ = ["LolduFactors", "loldu_factors"]


class LolduFactors(NamedTuple):
    """``W - L diag(d) U`` vanishes on the pivot rows and on the chosen columns.

    Args:
        L: Shape ``(m, r)``; its pivot rows are unit lower triangular.
        d: Pivots, shape ``(r,)``; 0 where the elimination met nothing.
        U: Shape ``(r, n)``; its chosen columns are unit upper triangular. A row of a null pivot is kept unscaled.
        pivots: The pivot rows in order, shape ``(r,)``, int32.
    """

    L: Float[Tensor, "m r"]
    d: Float[Tensor, "r"]
    U: Float[Tensor, "r n"]
    pivots: Int[Tensor, "r"]


def loldu_factors(
    W: Float[Tensor, "m n"], r: int, *, pivots: Int[Tensor, "r"] | None = None, columns: Int[Tensor, "r"] | None = None
) -> LolduFactors:
    r"""First ``r`` terms of ``W = P L diag(d) U`` with partial row pivoting, from the ``m x r`` panel alone.

    ``P`` is applied to ``L``, so the product needs no permutation. Not rank-revealing and not orthogonal: a skeleton of ``W`` on
    ``r`` rows and ``r`` columns. LoLDU, arXiv 2410.13618, section 3.

    Args:
        W: Matrix, shape ``(m, n)``; float16 and bfloat16 are factorised in float32, and the factors stay in float32.
        r: Number of terms, from 1 to ``min(m, n)``.
        pivots: Pivot rows of an earlier factorisation; then there is no search, and the result is the same on every device.
        columns: The ``r`` columns to eliminate, in order; the first ``r`` by default.

    Returns:
        ``LolduFactors``.

    Raises:
        ValueError: If ``r``, ``pivots`` or ``columns`` do not fit ``W``.
        TypeError: If ``W`` is not floating point.

    Example:
        >>> W = torch.randn(6, 8)
        >>> f = loldu_factors(W, 3)
        >>> (W - f.L * f.d @ f.U)[:, :3].abs().max() < 1e-5
        tensor(True)
    """
    check_floating("W", W)
    if W.ndim != 2:
        raise ValueError(f"W must be a matrix of shape (m, n), got {tuple(W.shape)}")
    W = W.detach()
    if W.dtype not in (torch.float32, torch.float64):
        W = W.float()
    n = W.shape[1]
    order = None if columns is None else _complete(columns, n, W.device)
    if pivots is not None and 0 < r <= min(W.shape) and pivots.shape == (r,) and 0 <= int(pivots.min()) <= int(pivots.max()) < W.shape[0]:
        found = _without_search(W, pivots.to(W.device).long(), None if order is None else order[:r])
        if found is not None:
            return found
    ldu = truncated_ldu(W, r, pivots=None if pivots is None else pivots.to(W.device), column_perm=order)
    L = torch.empty_like(ldu.L)
    L[ldu.perm] = ldu.L
    U = ldu.U
    if order is not None:
        U = torch.empty_like(ldu.U)
        U[:, order] = ldu.U
    return LolduFactors(L, ldu.d, U, ldu.perm[:r].to(torch.int32))


def _complete(columns: Tensor, n: int, device: torch.device) -> Tensor:
    """A full column order that starts with the given columns."""
    chosen = columns.to(device).long()
    if (
        chosen.ndim != 1
        or chosen.unique().numel() != chosen.numel()
        or (chosen.numel() and not 0 <= int(chosen.min()) <= int(chosen.max()) < n)
    ):
        raise ValueError(f"columns must be distinct columns in 0 .. {n - 1}, got {chosen.tolist()[:20]}")
    rest = torch.ones(n, dtype=torch.bool, device=device)
    rest[chosen] = False
    return torch.cat([chosen, rest.nonzero()[:, 0]])


def _without_search(W: Tensor, pivots: Tensor, columns: Tensor | None) -> LolduFactors | None:
    """Factors from the ``r`` pivot rows alone, in two triangular solves; ``None`` where that would divide by nothing or reorder rows."""
    r = len(pivots)
    rows = W[pivots]
    panel = W[:, :r] if columns is None else W[:, columns]
    packed, swaps = torch.linalg.lu_factor_ex(panel[pivots])[:2]
    if not torch.equal(swaps.long(), torch.arange(1, r + 1, device=swaps.device)):
        return None
    d = packed.diagonal().clone()
    low, high = W.aminmax()
    if bool((d.abs() <= torch.finfo(W.dtype).eps * torch.maximum(-low, high)).any()):
        return None
    U = torch.linalg.solve_triangular(packed, rows, upper=False, unitriangular=True) / d[:, None]
    L = torch.linalg.solve_triangular(packed, panel, upper=True, left=False)
    L[pivots] = torch.tril(packed, -1)
    L[pivots, torch.arange(r, device=L.device)] = 1.0
    U[:, torch.arange(r, device=U.device) if columns is None else columns] = torch.triu(packed, 1) / d[:, None] + torch.eye(
        r, dtype=U.dtype, device=U.device
    )
    return LolduFactors(L, d, U, pivots.to(torch.int32))
