"""Monarch products, their projection from dense matrices, and the conversions that layers are built from.

Index convention (normative): ``w1 (k, q, p)`` maps block ``kk`` of the input, entries ``kk p .. (kk+1) p``, to ``q`` middle entries; middle
entry ``i = rr l + ll`` is input ``rr`` of block ``ll`` of ``w2 (l, s, r)``, ``k q = l r``; output entry ``ss l + ll`` is output ``ss`` of
block ``ll``.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Inexact
from torch import Tensor
from torch.nn import functional as F

from geocore import spd, structured
from geocore._checks import check_option, check_positive_int
from geocore.blocks import blockdiag_matmul, monarch_dense, monarch_matmul

__all__ = [
    "ProjectionInfo",
    "blockdiag_matmul",
    "kronecker_factors",
    "monarch_dense",
    "monarch_matmul",
    "project_monarch",
    "transpose_factors",
]

Gauge = Literal["balanced", "left", "right"]
_SOLVERS = {"auto": "auto", "svd": "svd", "gram-eigh": "gram", "power": "power"}


class ProjectionInfo(NamedTuple):
    """How far a projection is from its matrix."""

    error: Tensor
    """``|M - M'|``, Frobenius, or in the metric asked for."""
    rel_error: Tensor
    """``error`` over the same norm of ``M``."""


def project_monarch(
    M: Inexact[Tensor, "out in"],
    k: int,
    l: int,  # noqa: E741 - the letter of the paper
    q: int | None = None,
    *,
    rank: int | None = None,
    gauge: Gauge = "balanced",
    solver: Literal["auto", "svd", "gram-eigh", "power"] = "auto",
    metric: Float[Tensor, "in in"] | None = None,
) -> tuple[Tensor, Tensor, ProjectionInfo]:
    r"""Monarch product nearest to a dense matrix, the global optimum (Dao et al., ICML 2022, sec. 3.3, here for any block sizes).

    Blocks ``M[ll::l, kk p : (kk+1) p]`` share no parameters, so the SVD of each is truncated on its own. Sizes that ``k`` and ``l`` do
    not divide are padded with zeros, which costs nothing.

    Args:
        M: Matrix, shape ``(out, in)``, real or complex.
        k: Blocks of ``w1``; at most ``in``.
        l: Blocks of ``w2``; at most ``out``, and divides ``k q``.
        q: Outputs of a block of ``w1``. Give ``q`` or ``rank``.
        rank: Rank of every block, ``q = rank l``.
        gauge: Where the singular values go: their roots to both factors, all to ``w2`` (``"left"``: rows of ``w1`` are orthonormal; no
            factor vanishes with its block, the better start for training) or all to ``w1`` (``"right"``).
        solver: ``"svd"``; ``"gram-eigh"``, eigenvectors of Gram matrices in float64, faster for small ranks; ``"power"``, 20 power
            iterations, for rank 1: not the optimum where the two largest singular values of a block are close.
        metric: Second moment ``C`` of the inputs, shape ``(in, in)``: minimises ``|(M - M') C^(1/2)|`` with the diagonal blocks of ``C``
            only; a full ``C`` couples the blocks, and its optimum is no SVD.

    Returns:
        ``w1 (k, q, p)`` with ``p = ceil(in / k)``, ``w2 (l, s, r)`` with ``s = ceil(out / l)``, and the errors. Constants for autograd.

    Raises:
        ValueError: If sizes do not fit, or neither or both of ``q`` and ``rank`` are given.
        TypeError: If ``M`` is not a floating or complex tensor, or a size not an int.

    Example:
        >>> w1, w2, info = project_monarch(torch.randn(7, 10), 3, 3, rank=1)
        >>> w1.shape, w2.shape
        (torch.Size([3, 3, 4]), torch.Size([3, 3, 3]))
    """
    if not isinstance(M, Tensor) or not (M.dtype.is_floating_point or M.dtype.is_complex):
        raise TypeError(f"M must be a floating or complex tensor, got {getattr(M, 'dtype', type(M).__name__)}")
    if M.ndim != 2:
        raise ValueError(f"M must have shape (out, in), got {tuple(M.shape)}")
    check_positive_int("k", k)
    check_positive_int("l", l)
    check_option("solver", solver, _SOLVERS)
    out, into = M.shape
    if k > into or l > out:
        raise ValueError(f"k must be at most in = {into} and l at most out = {out}, got k={k}, l={l}")
    p, s = -(-into // k), -(-out // l)
    padded = F.pad(M.detach(), (0, k * p - into, 0, l * s - out))
    if metric is None:
        found = structured.project_monarch(padded, k, l, q, rank=rank, gauge=gauge, method=_SOLVERS[solver])  # pyright: ignore[reportArgumentType]
        return found.w1, found.w2, ProjectionInfo(found.error, found.rel_error)
    roots = _metric_roots(metric, into, k, p)
    weighed = (padded.reshape(-1, k, p).transpose(0, 1) @ roots[0].to(M.dtype)).transpose(0, 1).reshape(padded.shape)
    found = structured.project_monarch(weighed, k, l, q, rank=rank, gauge=gauge, method=_SOLVERS[solver])  # pyright: ignore[reportArgumentType]
    return found.w1 @ roots[1].to(M.dtype), found.w2, ProjectionInfo(found.error, found.rel_error)


def _metric_roots(C: Tensor, into: int, k: int, p: int) -> tuple[Tensor, Tensor]:
    """Roots and inverse roots of the diagonal blocks, padded by the identity so that padding keeps its zeros."""
    if not isinstance(C, Tensor) or C.dtype.is_complex or not C.dtype.is_floating_point:
        raise TypeError(f"metric must be a real floating tensor, got {getattr(C, 'dtype', type(C).__name__)}")
    if tuple(C.shape) != (into, into):
        raise ValueError(f"metric must have shape ({into}, {into}), the inputs of M, got {tuple(C.shape)}")
    extra = k * p - into
    full = torch.block_diag(C.detach().double(), torch.eye(extra, dtype=torch.float64, device=C.device)) if extra else C.detach().double()
    index = torch.arange(k, device=C.device)
    blocks = full.reshape(k, p, k, p)[index, :, index, :]
    return spd.sqrtm_invsqrtm(blocks, min_eig="eps")


def kronecker_factors(A: Inexact[Tensor, "o i"], B: Inexact[Tensor, "o2 i2"]) -> tuple[Tensor, Tensor]:
    """Factors of the Kronecker product ``A (x) B``, whose blocks have rank 1: ``k = i``, ``l = q = o2``.

    Args:
        A: Shape ``(o, i)``.
        B: Shape ``(o2, i2)``.

    Returns:
        ``w1 (i, o2, i2)`` and ``w2 (o2, o, i)``.
    """
    return B.expand(A.shape[1], *B.shape).clone(), A.expand(B.shape[0], *A.shape).clone()


def _triplets(w1: Tensor, w2: Tensor) -> tuple[Tensor, Tensor]:
    """``V (k, l, b, p)`` and ``U (k, l, b, s)``: block ``ll, kk`` is the sum over ``t`` of ``u_t v_t^T``.

    Zero-padded to ``b = ceil(q / l)`` terms.
    """
    k, q, p = w1.shape
    l, s, _ = w2.shape  # noqa: E741
    b = -(-q // l)
    kk, qq = torch.meshgrid(torch.arange(k, device=w1.device), torch.arange(q, device=w1.device), indexing="ij")
    i = kk * q + qq
    ll, rr, t = i % l, i // l, qq // l
    V, U = w1.new_zeros(k, l, b, p), w2.new_zeros(k, l, b, s)
    V[kk, ll, t] = w1
    U[kk, ll, t] = w2[ll, :, rr]
    return V, U


def transpose_factors(w1: Inexact[Tensor, "k q p"], w2: Inexact[Tensor, "l s r"]) -> tuple[Tensor, Tensor]:
    """Factors of the transpose between strided orders: ``Q_in M^T Q_out`` is a Monarch product with ``k' = l``, ``l' = k``.

    ``Q_out`` reads entry ``ss l + ll`` at ``ll s + ss``, and ``Q_in`` writes entry ``kk p + pp`` at ``pp k + kk``. Where ``l`` does not
    divide ``q`` the factors are padded with zeros first.
    """
    V, U = _triplets(w1, w2)
    k, l, b, p = V.shape  # noqa: E741
    s = U.shape[-1]
    # Row t k + kk of block ll of the new first factor reaches block kk of the second as its input ll b + t.
    first = U.permute(1, 2, 0, 3).reshape(l, b * k, s)
    second = V.permute(0, 3, 1, 2).reshape(k, p, l * b)
    return first, second
