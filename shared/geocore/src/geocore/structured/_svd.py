"""Truncated, randomised and weighted singular value decompositions with a deterministic sign."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import LinAlgError  # pyright: ignore[reportAttributeAccessIssue] - public, but not in the stubs

from geocore._checks import check_option, check_positive_int, check_trailing
from geocore._precision import full_precision

__all__ = ["SVD", "block_power_iteration", "svd_trunc", "svd_weighted"]


class SVD(NamedTuple):
    """Factors of ``A`` about ``U diag(S) Vh``: ``U (..., m, r)``, ``S (..., r)`` descending, ``Vh (..., r, n)``."""

    U: Tensor
    S: Tensor
    Vh: Tensor


def _fix_signs(U: Tensor, S: Tensor, Vh: Tensor) -> SVD:
    """Make the largest entry of each left vector positive."""
    if U.numel() == 0:
        return SVD(U, S, Vh)
    largest = U.detach().abs().argmax(-2, keepdim=True)
    sign = torch.where(U.detach().gather(-2, largest) < 0, -1.0, 1.0).to(U.dtype)
    return SVD(U * sign, S, Vh * sign.mT)


def _exact(A: Tensor) -> SVD:
    """SVD that retries once in float64 on the CPU, and once more with a relative jitter of 1e-7, where the driver fails."""
    try:
        return SVD(*torch.linalg.svd(A, full_matrices=False))
    except LinAlgError:
        retry = A.detach().double().cpu()
        try:
            U, S, Vh = torch.linalg.svd(retry, full_matrices=False)
        except LinAlgError:
            jitter = torch.randn(retry.shape, dtype=retry.dtype, generator=torch.Generator().manual_seed(0))
            U, S, Vh = torch.linalg.svd(retry + 1e-7 * retry.abs().amax() * jitter, full_matrices=False)
        return SVD(U.to(A), S.to(A), Vh.to(A))


def _gram(A: Tensor, r: int) -> SVD:
    """Leading triplets from the eigenvectors of the smaller Gram matrix, in float64; small triplets lose half of their digits."""
    wide = A.shape[-2] <= A.shape[-1]
    B = A.double() if wide else A.double().mT
    values, vectors = torch.linalg.eigh(B @ B.mT)
    S = values[..., -r:].flip(-1).clamp(min=0).sqrt()
    left = vectors[..., -r:].flip(-1)
    right = left.mT @ B
    # |left^T B| is the singular value to full accuracy; orthonormalise the rows, whose small ones are noise.
    Q, R = torch.linalg.qr(right.mT)
    Q = Q * torch.where(R.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)[..., None, :]
    U, Vh = (left, Q.mT) if wide else (Q, left.mT)
    return SVD(U.to(A.dtype), S.to(A.dtype), Vh.to(A.dtype))


@full_precision
def block_power_iteration(A: Float[Tensor, "*batch m n"], Q0: Float[Tensor, "*batch n r"], n: int = 1) -> Float[Tensor, "*batch n r"]:
    """Orthonormal basis approaching the leading right singular space: ``n`` times ``Q <- qr(A^T A Q)``.

    Args:
        A: Matrices, shape ``(..., m, n)``.
        Q0: Start, shape ``(..., n, r)``; a warm start from a nearby matrix needs one iteration.
        n: Number of iterations; 0 only orthonormalises.

    Returns:
        Orthonormal columns, shape ``(..., n, r)``; constant for autograd.

    Raises:
        ValueError: If a shape does not fit or ``n`` is negative.
        TypeError, NotImplementedError: If an argument is not real floating point, or ``n`` not an int.
    """
    check_trailing("A", A, (None, None))
    check_trailing("Q0", Q0, (A.shape[-1], None), hint=f"one row for each of the {A.shape[-1]} columns of A")
    check_positive_int("n", n, minimum=0)
    A, Q = A.detach(), torch.linalg.qr(Q0.detach())[0]
    for _ in range(n):
        Q = torch.linalg.qr(A.mT @ torch.linalg.qr(A @ Q)[0])[0]
    return Q


def _randomized(A: Tensor, r: int, oversample: int, n_iter: int, generator: torch.Generator | None) -> SVD:
    """Halko, Martinsson and Tropp (2011), algorithm 4.4 with re-orthonormalised power iterations."""
    columns = min(r + oversample, *A.shape[-2:])
    start = torch.randn(*A.shape[:-2], A.shape[-1], columns, dtype=A.dtype, device=A.device, generator=generator)
    Q = torch.linalg.qr(A @ start)[0]
    for _ in range(n_iter):
        Q = torch.linalg.qr(A @ torch.linalg.qr(A.mT @ Q)[0])[0]
    U, S, Vh = _exact(Q.mT @ A)
    return SVD((Q @ U)[..., :r], S[..., :r], Vh[..., :r, :])


@full_precision
def svd_trunc(
    A: Float[Tensor, "*batch m n"],
    r: int,
    which: Literal["largest", "smallest"] = "largest",
    method: Literal["exact", "gram", "randomized"] = "exact",
    *,
    oversample: int = 16,
    n_iter: int = 4,
    generator: torch.Generator | None = None,
) -> SVD:
    """``r`` singular triplets of a matrix.

    The sign is fixed: the largest entry of each left vector is positive. Constant for autograd: the derivative of singular vectors
    does not exist at repeated singular values.

    Args:
        A: Matrices, shape ``(..., m, n)``.
        r: Number of triplets, from 1 to ``min(m, n)``.
        which: ``"largest"``, or ``"smallest"`` (exact, in float64, only).
        method: ``"exact"``; ``"gram"``, eigenvectors of the smaller Gram matrix in float64, for leading triplets down to about 1e-7 of the
            largest; ``"randomized"``, a range finder with ``oversample`` more columns and ``n_iter`` power iterations.
        oversample: Extra columns of the range finder.
        n_iter: Its power iterations.
        generator: Its randomness; the global generator otherwise.

    Returns:
        ``SVD(U, S, Vh)``, singular values descending (also the smallest ones).

    Raises:
        ValueError: If ``r`` is out of range, an option is unknown, or ``"smallest"`` is combined with another method.
        TypeError, NotImplementedError: If ``A`` is not real floating point or a count not an int.

    Example:
        >>> U, S, Vh = svd_trunc(torch.randn(50, 40), 5, method="randomized")
    """
    check_trailing("A", A, (None, None))
    check_option("which", which, ("largest", "smallest"))
    check_option("method", method, ("exact", "gram", "randomized"))
    check_positive_int("r", r)
    check_positive_int("oversample", oversample, minimum=0)
    check_positive_int("n_iter", n_iter, minimum=0)
    if r > min(A.shape[-2:]):
        raise ValueError(f"r must be at most min(m, n) = {min(A.shape[-2:])}, got {r}")
    if which == "smallest" and method != "exact":
        raise ValueError(f"which='smallest' needs method='exact': the others do not see small singular values, got {method!r}")
    A = A.detach()
    if which == "smallest":
        U, S, Vh = (f.to(A.dtype) for f in _exact(A.double()))
        return _fix_signs(U[..., -r:], S[..., -r:], Vh[..., -r:, :])
    if method == "gram":
        return _fix_signs(*_gram(A, r))
    if method == "randomized":
        return _fix_signs(*_randomized(A, r, oversample, n_iter, generator))
    U, S, Vh = _exact(A)
    return _fix_signs(U[..., :r], S[..., :r], Vh[..., :r, :])


@full_precision
def svd_weighted(
    W: Float[Tensor, "*batch m n"],
    C: Float[Tensor, "*batch n n"],
    r: int | None = None,
    *,
    whitening: Literal["cov", "sqrt", "diag"] = "cov",
    damping: float = 1e-6,
) -> SVD:
    r"""SVD of ``W`` seen through the second moment ``C = E[x x^T]`` of its inputs, mapped back to ``W``.

    ``W G = U S V^T`` with ``G = C`` (``"cov"``), ``C^{1/2}`` (``"sqrt"``, for which truncation minimises ``E|W x - W_r x|^2``) or
    ``diag(C)^{1/2}`` (``"diag"``). Returned is ``Vh = V^T G^{-1}``, by a Cholesky or eigenvector solve, never an explicit inverse, so
    ``U diag(S) Vh`` with every term is ``W``. ``C`` is damped first, ``C + damping mean(diag C) I``, in the product and in the solve
    alike.

    Args:
        W: Weights, shape ``(..., m, n)``.
        C: Symmetric positive semidefinite, shape ``(..., n, n)``; only its symmetric part acts.
        r: Number of terms; all by default.
        whitening: Which ``G``.
        damping: Relative to the mean of the diagonal.

    Returns:
        ``SVD(U, S, Vh)``; the rows of ``Vh`` are not orthonormal. Computed in float64, constant for autograd.

    Raises:
        ValueError: If shapes do not fit, ``r`` is out of range, ``damping`` is negative, or the damped ``C`` is not positive definite.
        TypeError, NotImplementedError: If an argument is not real floating point.
    """
    check_trailing("W", W, (None, None))
    n = W.shape[-1]
    check_trailing("C", C, (n, n), hint=f"one row and column for each of the {n} inputs of W")
    check_option("whitening", whitening, ("cov", "sqrt", "diag"))
    if not damping >= 0:
        raise ValueError(f"damping must be at least 0, got {damping}")
    r = min(W.shape[-2:]) if r is None else r
    check_positive_int("r", r)
    if r > min(W.shape[-2:]):
        raise ValueError(f"r must be at most min(m, n) = {min(W.shape[-2:])}, got {r}")
    A, G = W.detach().double(), C.detach().double()
    G = (G + G.mT) / 2
    diagonal = G.diagonal(dim1=-2, dim2=-1)
    shift = damping * diagonal.mean(-1, keepdim=True)
    if whitening == "diag":
        scale = (diagonal + shift).sqrt()
        _require_positive(scale)
        U, S, Vh = _exact(A * scale[..., None, :])
        return _finish(W, U, S, Vh / scale[..., None, :], r)
    G = G + torch.diag_embed(shift.expand(diagonal.shape))
    if whitening == "cov":
        factor, info = torch.linalg.cholesky_ex(G)
        _require_positive(torch.where(info == 0, 1.0, -1.0))
        U, S, Vh = _exact(A @ G)
        return _finish(W, U, S, torch.cholesky_solve(Vh.mT, factor).mT, r)
    values, vectors = torch.linalg.eigh(G)
    _require_positive(values)
    root = values.sqrt()[..., None, :]
    U, S, Vh = _exact((A @ vectors) * root)  # in the eigenbasis of C the square root is a scaling
    return _finish(W, U, S, (Vh / root) @ vectors.mT, r)


def _require_positive(values: Tensor) -> None:
    if not bool((values > 0).all()):
        smallest = float(torch.nan_to_num(values, nan=-torch.inf).min())
        raise ValueError(f"C must be positive definite after damping, but it is not (smallest value {smallest:.3g}); raise damping")


def _finish(W: Tensor, U: Tensor, S: Tensor, Vh: Tensor, r: int) -> SVD:
    U, S, Vh = _fix_signs(U[..., :r], S[..., :r], Vh[..., :r, :])
    return SVD(U.to(W.dtype), S.to(W.dtype), Vh.to(W.dtype))
