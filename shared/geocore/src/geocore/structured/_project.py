"""Optimal projection of a dense matrix onto Monarch products, block by block."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Inexact
from torch import Tensor

from geocore._checks import check_option, check_positive_int
from geocore._precision import full_precision

__all__ = ["MonarchProjection", "project_monarch"]


class MonarchProjection(NamedTuple):
    """Factors ``w1 (k, q, p)`` and ``w2 (l, s, r)``, the Frobenius error ``|M - M'|`` and that error over ``|M|``."""

    w1: Tensor
    w2: Tensor
    error: Tensor
    rel_error: Tensor


def _triplets(B: Tensor, count: int, method: str) -> tuple[Tensor, Tensor, Tensor]:
    """Leading ``count`` singular triplets of the blocks ``B (l, k, s, p)``: ``U (..., s, c)``, ``S (..., c)``, ``Vh (..., c, p)``."""
    s, p = B.shape[-2:]
    if method == "auto":
        method = "gram" if 4 * count <= min(s, p) and not B.is_complex() else "svd"
    if method == "svd":
        U, S, Vh = torch.linalg.svd(B, full_matrices=False)
        return U[..., :count], S[..., :count], Vh[..., :count, :]
    wide = s <= p
    A = B if wide else B.mH
    high = A.to(torch.complex128 if B.is_complex() else torch.float64)
    if method == "gram":
        left = torch.linalg.eigh(high @ high.mH)[1][..., -count:].flip(-1)
    else:  # "power": the leading vector by 20 iterations from the longest row's image
        left = high @ high.mH.gather(
            -1, high.abs().square().sum(-1).argmax(-1)[..., None, None].expand(*high.shape[:-2], high.shape[-1], 1)
        )
        for _ in range(20):
            left = high @ (high.mH @ left)
            left = left / left.abs().square().sum(-2, keepdim=True).sqrt().clamp(min=torch.finfo(torch.float64).tiny)
    right = left.mH @ high
    S = right.abs().square().sum(-1).sqrt()
    right = right / torch.where(S > 0, S, 1.0)[..., None]
    left, right = left.to(B.dtype), right.to(B.dtype)
    S = S.to(B.real.dtype if B.is_complex() else B.dtype)
    return (left, S, right) if wide else (right.mH, S, left.mH)


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(torch.view_as_real(x) if x.is_complex() else x, dtype=torch.float64)


@full_precision
def project_monarch(
    M: Inexact[Tensor, "out in"],
    k: int,
    l: int,  # noqa: E741 - the letter of the paper
    q: int | None = None,
    *,
    rank: int | None = None,
    gauge: Literal["balanced", "left", "right"] = "balanced",
    method: Literal["auto", "svd", "gram", "power"] = "auto",
) -> MonarchProjection:
    r"""Monarch product nearest to ``M`` in the Frobenius norm, for any block sizes.

    In the index convention of ``geocore.blocks.monarch_matmul``, block ``B[ll, kk] = M[ll::l, kk p : (kk + 1) p]`` of the product has
    rank at most ``c(kk, ll) = #{qq < q : (kk q + qq) mod l = ll}``, and the blocks share no parameters: truncating the SVD of each
    block is the global optimum (Dao et al., ICML 2022, for ``q`` a multiple of ``l``; here for any ``q``). The squared error is the
    sum of the dropped ``sigma^2``.

    Args:
        M: Matrix, shape ``(out, in)``, real or complex; ``k`` divides ``in`` and ``l`` divides ``out``.
        k: Number of blocks of the first factor.
        l: Number of blocks of the second factor; divides ``k q``.
        q: Rows of a block of the first factor. Give ``q`` or ``rank``.
        rank: Rank of every block: ``q = rank l``.
        gauge: Which factor carries the singular values: both their roots (``"balanced"``), ``w2`` (``"left"``) or ``w1`` (``"right"``).
        method: ``"svd"``; ``"gram"``, eigenvectors of the Gram matrices in float64, faster for small ranks; ``"power"``, for rank 1;
            or ``"auto"``.

    Returns:
        ``MonarchProjection``; constant for autograd.

    Raises:
        ValueError: If the sizes do not divide, neither or both of ``q`` and ``rank`` are given, or ``"power"`` is asked for a higher rank.
        TypeError: If ``M`` is not a floating or complex tensor, or a size not an int.

    Example:
        >>> projection = project_monarch(torch.randn(16, 16), 4, 4, rank=1)
        >>> projection.w1.shape, projection.w2.shape
        (torch.Size([4, 4, 4]), torch.Size([4, 4, 4]))
    """
    if not isinstance(M, Tensor) or not (M.dtype.is_floating_point or M.dtype.is_complex):
        raise TypeError(f"M must be a floating or complex tensor, got {getattr(M, 'dtype', type(M).__name__)}")
    if M.ndim != 2:
        raise ValueError(f"M must have shape (out, in), got {tuple(M.shape)}")
    check_positive_int("k", k)
    check_positive_int("l", l)
    check_option("gauge", gauge, ("balanced", "left", "right"))
    check_option("method", method, ("auto", "svd", "gram", "power"))
    if (q is None) == (rank is None):
        raise ValueError(f"give exactly one of q and rank, got q={q} and rank={rank}")
    if q is None:
        check_positive_int("rank", rank)
        q = int(rank or 1) * l
    check_positive_int("q", q)
    out, into = M.shape
    if into % k or out % l or (k * q) % l:
        raise ValueError(f"k must divide in, l must divide out and k q, got M {tuple(M.shape)}, k={k}, l={l}, q={q}; pad M with zeros")
    s, p, r = out // l, into // k, k * q // l
    count = min(-(-q // l), s, p)
    if method == "power" and count > 1:
        raise ValueError(f"method 'power' finds one triplet per block, but blocks have rank {count} here; use 'gram' or 'svd'")
    M = M.detach()
    B = M.reshape(s, l, k, p).permute(1, 2, 0, 3)
    U, S, Vh = _triplets(B, count, method)

    kk, qq = torch.meshgrid(torch.arange(k, device=M.device), torch.arange(q, device=M.device), indexing="ij")
    i = kk * q + qq
    ll, rr, t = i % l, i // l, qq // l
    held = (t < count).to(S.dtype)
    t = t.clamp(max=count - 1)
    sigma = S[ll, kk, t] * held
    first, second = {"balanced": (sigma.sqrt(), sigma.sqrt()), "left": (held, sigma), "right": (sigma, held)}[gauge]
    w1 = first[..., None] * Vh[ll, kk, t]
    w2 = M.new_zeros(l, s, r)
    w2[ll, :, rr] = second[..., None] * U.mT[ll, kk, t]
    ends = torch.arange(k + 1, device=M.device) * q - 1
    block = torch.arange(l, device=M.device)[:, None]
    ranks = (ends - block).div(l, rounding_mode="floor").diff(dim=-1)
    kept = S * (torch.arange(count, device=M.device) < ranks[..., None])
    # block by block: the dense product of the factors would cost more than the decomposition
    error = _norm(B - (U * kept[..., None, :]) @ Vh)
    norm = _norm(M)
    real = S.dtype
    return MonarchProjection(w1, w2, error.to(real), torch.where(norm > 0, error / torch.where(norm > 0, norm, 1.0), 0.0).to(real))
