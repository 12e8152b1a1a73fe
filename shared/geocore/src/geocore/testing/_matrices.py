"""Checks on matrices: orthonormal columns, subspaces, rank, spectra to try, and the matrix of a linear function."""

from collections.abc import Callable

import torch
from torch import Tensor

from geocore._checks import check_option, check_positive_int, check_trailing

__all__ = ["assert_low_rank", "assert_orthonormal", "assert_same_subspace", "linear_map_to_dense", "spectra"]

SPECTRA = ("exp", "power", "flat", "clustered", "cond")


def assert_orthonormal(Q: Tensor, tol: float) -> None:
    """Assert that the columns of ``Q (..., m, k)`` are orthonormal: ``|Q^T Q - I|`` at most ``tol`` in every entry.

    Raises:
        AssertionError: With the largest deviation, also if there are more columns than rows.
    """
    check_trailing("Q", Q, (None, None))
    Q = Q.detach().double()
    worst = _largest(Q.mT @ Q - torch.eye(Q.shape[-1], dtype=Q.dtype, device=Q.device))
    if not worst <= tol:
        raise AssertionError(f"the columns of Q {tuple(Q.shape)} are not orthonormal: Q^T Q is off by {worst:.3g}, allowed {tol:g}")


def assert_same_subspace(P: Tensor, Q: Tensor, tol: float) -> None:
    """Assert that the columns of ``P`` and ``Q``, shapes ``(..., m, k)``, span the same subspace.

    The largest principal angle has sine ``|(I - Q Q^T) P|_2`` for orthonormal columns; both are orthonormalised first.

    Raises:
        AssertionError: If that sine exceeds ``tol``.
        ValueError: If the shapes differ.
    """
    check_trailing("P", P, (None, None))
    check_trailing("Q", Q, tuple(P.shape[-2:]), hint="one basis of the same size")
    P, Q = (torch.linalg.qr(x.detach().double())[0] for x in (P, Q))
    sine = _largest(torch.linalg.matrix_norm(P - Q @ (Q.mT @ P), 2))
    if not sine <= tol:
        raise AssertionError(f"the subspaces differ: the sine of the largest principal angle is {sine:.3g}, allowed {tol:g}")


def assert_low_rank(M: Tensor, rank: int, tol: float) -> None:
    """Assert that ``M (..., m, n)`` has at most the given rank: singular values beyond it at most ``tol`` times the largest.

    Raises:
        AssertionError: With the first singular value too many.
    """
    check_trailing("M", M, (None, None))
    check_positive_int("rank", rank, minimum=0)
    s = torch.linalg.svdvals(M.detach().double())
    if rank >= s.shape[-1]:
        return
    relative = s[..., rank] / torch.where(s[..., 0] > 0, s[..., 0], 1.0)
    worst = _largest(relative)
    if not worst <= tol:
        raise AssertionError(
            f"M {tuple(M.shape)} is not of rank {rank}: singular value {rank + 1} is {worst:.3g} of the first, allowed {tol:g}"
        )


def spectra(kind: str, n: int, *, cond: float = 1e6, dtype: torch.dtype = torch.float64) -> Tensor:
    """Spectrum of ``n`` positive numbers from 1 downwards, to build test matrices from.

    Args:
        kind: ``"exp"``, ``exp(-8 i / n)``; ``"power"``, ``1 / i``; ``"flat"``, all 1; ``"clustered"``, groups of equal values 1, 1/2,
            1/4, ... of sizes 3, 2, 3, 2, ...; ``"cond"``, geometric from 1 to ``1 / cond``.
        n: How many.
        cond: Ratio of the largest to the smallest, for ``"cond"``.
        dtype: Result type.

    Returns:
        Shape ``(n,)``, descending.

    Raises:
        ValueError: If the kind is unknown, ``n`` too small or ``cond`` below 1.
    """
    check_option("kind", kind, SPECTRA)
    check_positive_int("n", n)
    if not cond >= 1:
        raise ValueError(f"cond must be at least 1, got {cond}")
    i = torch.arange(n, dtype=torch.float64)
    if kind == "exp":
        values = torch.exp(-8 * i / n)
    elif kind == "power":
        values = 1 / (i + 1)
    elif kind == "flat":
        values = torch.ones_like(i)
    elif kind == "clustered":
        group = 2 * (i // 5) + (i % 5 >= 3)
        values = 0.5**group
    else:
        values = cond ** (-i / max(n - 1, 1))
    return values.to(dtype)


def linear_map_to_dense(fn: Callable[[Tensor], Tensor], n: int, *, dtype: torch.dtype = torch.float64) -> Tensor:
    """Matrix ``A (m, n)`` of a linear function of vectors, ``fn(x) = A x``, from its values on the basis and zero.

    Args:
        fn: Maps ``(batch, n)`` to ``(batch, m)``.
        n: Input length.
        dtype: Type of the probes.

    Raises:
        ValueError: If ``fn`` is not linear: its value at zero is not zero, or at a random vector is not ``A x``.
    """
    check_positive_int("n", n)
    A = fn(torch.eye(n, dtype=dtype)).mT
    x = torch.randn(1, n, dtype=dtype, generator=torch.Generator().manual_seed(0))
    limit = 1e3 * n * torch.finfo(dtype).eps * max(_largest(A), 1e-30)
    for name, probe in (("zero", torch.zeros_like(x)), ("a random vector", x)):
        error = _largest(fn(probe) - probe @ A.mT)
        if not error <= limit:
            raise ValueError(f"fn must be linear, but at {name} it is off by {error:.3g}")
    return A


def _largest(x: Tensor) -> float:
    """Largest entry in size; 0 for none, infinite if one is not finite."""
    if x.numel() == 0:
        return 0.0
    x = x.detach().abs()
    return float(torch.where(torch.isfinite(x), x, torch.inf).max())
