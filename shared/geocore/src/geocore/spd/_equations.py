"""Linear equations with symmetric coefficients: Lyapunov, its generalised form, Sylvester."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from geocore._checks import check_broadcastable
from geocore._dispatch import eigvalsh
from geocore.spd._checks import (
    check_matrix,
    check_positive,
    check_real,
    check_same_size,
    check_symmetric,
    no_autocast,
    values_readable,
    work_dtype,
)
from geocore.spd._spectral import Spectrum, SymEig, composable, factorise, orders_within, tripwire

__all__ = ["cholesky_of", "generalized_lyapunov", "lyapunov", "solve_sylvester", "sylvester"]


def _solve(a: Spectrum, b: Spectrum, C: Tensor) -> Tensor:
    core = (a.vectors.mT @ C @ b.vectors) / (a.values[..., :, None] + b.values[..., None, :])
    return a.vectors @ core @ b.vectors.mT


class _Sylvester(torch.autograd.Function):
    """``A X + X B = C``; the adjoint is the same equation, so the backward pass is differentiable to any order."""

    @staticmethod
    def forward(ctx: Any, A: Tensor, B: Tensor, C: Tensor, *parts: Tensor) -> Tensor:
        a, b = Spectrum(A, parts[0], parts[1], A.dtype), Spectrum(B, parts[2], parts[3], B.dtype)
        X = _solve(a, b, C)
        ctx.save_for_backward(A, B, C, X, *parts)
        return X

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        A, B, C, X, *parts = ctx.saved_tensors
        a, b = Spectrum(A, parts[0], parts[1], A.dtype), Spectrum(B, parts[2], parts[3], B.dtype)
        S = solve_sylvester(a, b, grads[0])
        dA, dB = -(S @ X.mT), -(X.mT @ S)
        return ((dA + dA.mT) / 2).sum_to_size(A.shape), ((dB + dB.mT) / 2).sum_to_size(B.shape), S.sum_to_size(C.shape), *(None,) * 4


class _Lyapunov(torch.autograd.Function):
    """``P X + X P = C``."""

    @staticmethod
    def forward(ctx: Any, P: Tensor, C: Tensor, values: Tensor, vectors: Tensor) -> Tensor:
        p = Spectrum(P, values, vectors, P.dtype)
        X = _solve(p, p, C)
        ctx.save_for_backward(P, C, X, values, vectors)
        return X

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        P, C, X, values, vectors = ctx.saved_tensors
        p = Spectrum(P, values, vectors, P.dtype)
        S = solve_sylvester(p, p, grads[0])
        dP = -(S @ X.mT + X.mT @ S)
        return ((dP + dP.mT) / 2).sum_to_size(P.shape), S.sum_to_size(C.shape), None, None


def solve_sylvester(a: Spectrum, b: Spectrum, C: Tensor) -> Tensor:
    """``X`` with ``A X + X B = C`` from the factorisations of ``A`` and ``B``, differentiable in all three."""
    if not composable():
        if torch.is_grad_enabled() and any(t.requires_grad for t in (a.X, b.X, C)):
            if a.X is b.X:
                return _Lyapunov.apply(a.X, C, a.values, a.vectors)
            return _Sylvester.apply(a.X, b.X, C, a.values, a.vectors, b.values, b.vectors)
        return _solve(a, b, C)
    # Zero in value, each pass adds one order of derivative in A and B.
    E, F = ((D + D.mT) / 2 for D in (a.X - a.X.detach(), b.X - b.X.detach()))
    start = _solve(a, b, C)
    X = start
    orders, guarded = orders_within(2, a.X, b.X)
    for _ in range(orders):
        X = start - _solve(a, b, E @ X + X @ F)
    return X + tripwire(E.sum((-2, -1)) + F.sum((-2, -1)), orders)[..., None, None] if guarded else X


def _size(X: Any) -> int:
    return X.vectors.shape[-1] if isinstance(X, SymEig) else X.shape[-1]


def _batch(X: Any) -> tuple[int, ...]:
    return tuple((X.vectors if isinstance(X, SymEig) else X).shape[:-2])


@no_autocast
def lyapunov(
    P: Float[Tensor, "*pbatch n n"] | SymEig,
    V: Float[Tensor, "*vbatch n n"],
    *,
    compute_dtype: torch.dtype | None = None,
    check: bool = True,
) -> Float[Tensor, "*batch n n"]:
    r"""``Y`` with ``P Y + Y P = V`` for SPD ``P``: ``U ((U^T V U)_ij / (l_i + l_j)) U^T``.

    Differentiable in both to any order; symmetric if ``V`` is.

    Args:
        P: SPD matrices, shape ``(..., n, n)``, or a ``SymEig``; the symmetric part is used.
        V: Right-hand sides, shape ``(..., n, n)`` broadcasting with ``P``.
        compute_dtype, check: As ``sqrtm``.

    Returns:
        The broadcast shape ``(..., n, n)``, dtype of ``V``.

    Raises:
        NotPositiveDefiniteError: If an eigenvalue of ``P`` is not positive.
        ValueError: If a shape is wrong, or ``P`` is not finite or not symmetric.
        TypeError: If a dtype is not real floating point.

    Example:
        >>> lyapunov(2 * torch.eye(2), torch.eye(2)).diagonal()
        tensor([0.2500, 0.2500])
    """
    check_matrix("V", V)
    if not isinstance(P, SymEig):
        check_same_size(P=P, V=V)
    elif _size(P) != V.shape[-1]:
        raise ValueError(f"P and V must have the same size, got {_size(P)} and {tuple(V.shape)}")
    s = factorise("P", P, compute_dtype=compute_dtype, check=check)
    return solve_sylvester(s, s, V.to(s.values.dtype)).to(V.dtype)


@no_autocast
def sylvester(
    A: Float[Tensor, "*abatch m m"] | SymEig,
    B: Float[Tensor, "*bbatch n n"] | SymEig,
    C: Float[Tensor, "*cbatch m n"],
    *,
    compute_dtype: torch.dtype | None = None,
    check: bool = True,
) -> Float[Tensor, "*batch m n"]:
    r"""``X`` with ``A X + X B = C`` for symmetric ``A`` and ``B``: ``U ((U^T C V)_ij / (a_i + b_j)) V^T``.

    Args:
        A, B: Symmetric matrices, shapes ``(..., m, m)`` and ``(..., n, n)``, or ``SymEig``; they need not be positive, but no eigenvalue of
            ``A`` may be the negative of one of ``B``.
        C: Right-hand sides, shape ``(..., m, n)``.
        compute_dtype, check: As ``sqrtm``.

    Returns:
        The broadcast shape ``(..., m, n)``, dtype of ``C``.

    Raises:
        ValueError: If a shape is wrong, ``A`` or ``B`` is not finite or not symmetric, or the equation is singular.
        TypeError: If a dtype is not real floating point.

    Example:
        >>> sylvester(torch.eye(2), 3 * torch.eye(3), torch.ones(2, 3))[0]
        tensor([0.2500, 0.2500, 0.2500])
    """
    check_real("C", C)
    for name, X in (("A", A), ("B", B)):
        if not isinstance(X, SymEig):
            check_matrix(name, X)
    if C.ndim < 2 or tuple(C.shape[-2:]) != (_size(A), _size(B)):
        raise ValueError(f"C must have shape (..., {_size(A)}, {_size(B)}), got {tuple(C.shape)}")
    check_broadcastable(A=_batch(A), B=_batch(B), C=C.shape[:-2])
    dtype = work_dtype(C, compute_dtype)
    a = factorise("A", A, positive=False, compute_dtype=dtype, check=check)
    b = factorise("B", B, positive=False, compute_dtype=dtype, check=check)
    if check and values_readable(C):
        least = (a.values[..., :, None] + b.values[..., None, :]).abs()
        if bool((least == 0).any()):
            raise ValueError("the equation A X + X B = C must be regular, but an eigenvalue of A is the negative of one of B")
    return solve_sylvester(a, b, C.to(a.values.dtype)).to(C.dtype)


def cholesky_of(name: str, X: Tensor, *, check: bool) -> Tensor:
    """Lower Cholesky factor of a symmetric matrix in working precision; NaN, or an error that gives the smallest eigenvalue."""
    L, info = torch.linalg.cholesky_ex(X)
    bad = info != 0
    if check and values_readable(X):
        if bool(bad.any()):
            check_positive(name, torch.where(bad, eigvalsh(X.detach())[..., 0].clamp(max=0.0), 1.0))
        return L
    return torch.where(bad[..., None, None], float("nan"), L)


@no_autocast
def generalized_lyapunov(
    P: Float[Tensor, "*pbatch n n"],
    M: Float[Tensor, "*mbatch n n"],
    V: Float[Tensor, "*vbatch n n"],
    *,
    compute_dtype: torch.dtype | None = None,
    check: bool = True,
) -> Float[Tensor, "*batch n n"]:
    r"""``Y`` with ``P Y M + M Y P = V`` for SPD ``P`` and ``M``: with ``M = C C^T`` a Lyapunov equation for ``C^T Y C``.

    Args:
        P, M: SPD matrices, shapes ``(..., n, n)``; the symmetric parts are used.
        V: Right-hand sides, shape ``(..., n, n)``.
        compute_dtype, check: As ``sqrtm``.

    Returns:
        The broadcast shape ``(..., n, n)``, dtype of ``V``.

    Raises:
        NotPositiveDefiniteError: If an eigenvalue of ``P`` or ``M`` is not positive.
        ValueError: If a shape is wrong, or ``P`` or ``M`` is not finite or not symmetric.
        TypeError: If a dtype is not real floating point.

    Example:
        >>> generalized_lyapunov(torch.eye(2), 2 * torch.eye(2), torch.eye(2)).diagonal()
        tensor([0.2500, 0.2500])
    """
    check_same_size(P=P, M=M, V=V)
    if check:
        for name, X in (("P", P), ("M", M)):
            if values_readable(X):
                check_symmetric(name, X)
    dtype = work_dtype(V, compute_dtype)
    W = M.to(dtype)
    C = cholesky_of("M", (W + W.mT) / 2, check=check)
    left = torch.linalg.solve_triangular(C, P.to(dtype), upper=False)
    whitened = torch.linalg.solve_triangular(C, left.mT, upper=False)
    s = factorise("P", (whitened + whitened.mT) / 2, compute_dtype=dtype, check=check)
    right = torch.linalg.solve_triangular(C, torch.linalg.solve_triangular(C, V.to(dtype), upper=False).mT, upper=False).mT
    Y = solve_sylvester(s, s, right)
    half = torch.linalg.solve_triangular(C.mT, Y, upper=True)
    return torch.linalg.solve_triangular(C.mT, half.mT, upper=True).mT.to(V.dtype)
