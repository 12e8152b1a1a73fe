"""Matrix functions of symmetric matrices."""

import torch
from jaxtyping import Float
from torch import Tensor

from geocore._checks import check_option
from geocore._dispatch import eigh as decompose
from geocore._dispatch import needs_composable
from geocore.spd._checks import check_matrix, check_real, check_symmetric, no_autocast, values_readable, work_dtype
from geocore.spd._differences import EXP, INV, INVSQRT, LOG, SQRT, Power, SpectralFunction
from geocore.spd._equations import cholesky_of
from geocore.spd._newton_schulz import newton_schulz_roots
from geocore.spd._spectral import Spectrum, SymEig, apply, apply_all, factorise, moved

__all__ = [
    "eigh",
    "expm",
    "invm",
    "invsqrtm",
    "logm",
    "powm",
    "sqrtm",
    "sqrtm_invsqrtm",
    "sym",
]

Matrix = Tensor | SymEig


def sym(A: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """Symmetric part ``(A + A^T) / 2``.

    Args:
        A: Shape ``(..., n, n)``.

    Returns:
        Shape ``(..., n, n)``, dtype of ``A``.

    Raises:
        ValueError: If ``A`` is not square.
        TypeError: If ``A`` is not real floating point.

    Example:
        >>> sym(torch.tensor([[0.0, 2.0], [0.0, 1.0]]))
        tensor([[0., 1.],
                [1., 1.]])
    """
    check_matrix("A", A)
    return A / 2 + A.mT / 2


@no_autocast
def eigh(X: Float[Tensor, "*batch n n"], *, compute_dtype: torch.dtype | None = None, check: bool = True) -> SymEig:
    """Factorise once, use many times: ``X = U diag(values) U^T`` as a ``SymEig`` that any function of the room takes in place of ``X``.

    Args:
        X: Symmetric matrices, shape ``(..., n, n)``; the symmetric part is used.
        compute_dtype: ``torch.float64`` or ``torch.float32``; by default float64 for float32 input with ``n <= 64`` on the CPU, otherwise
            the dtype of ``X``, float32 for half precision.
        check: Whether to raise if ``X`` is not symmetric or not finite, where values can be read.

    Returns:
        ``SymEig(values, vectors)``: eigenvalues ascending, shape ``(..., n)``; eigenvectors in columns, shape ``(..., n, n)``.

    Raises:
        ValueError: If ``X`` is not square, not finite or not symmetric.
        TypeError: If ``X`` is not real floating point.

    Example:
        >>> values, vectors = eigh(torch.diag(torch.tensor([3.0, 1.0])))
        >>> values
        tensor([1., 3.])
    """
    if isinstance(X, SymEig):
        return X
    s = factorise("X", X, positive=False, compute_dtype=compute_dtype, check=check)
    values, vectors = s.values, s.vectors
    if s.X.requires_grad or needs_composable():
        values, vectors = decompose((s.X + s.X.mT) / 2)
    return SymEig(values.to(s.dtype), vectors.to(s.dtype), s)


def _spectral(X: Matrix, f: SpectralFunction, min_eig: float | str | None, compute_dtype: torch.dtype | None, check: bool) -> Tensor:
    s = factorise("X", X, positive=f.positive, min_eig=min_eig, compute_dtype=compute_dtype, check=check)
    return apply(s, f).to(s.dtype)


@no_autocast
def sqrtm(
    X: Float[Tensor, "*batch n n"] | SymEig,
    *,
    min_eig: float | str | None = None,
    method: str = "auto",
    compute_dtype: torch.dtype | None = None,
    check: bool = True,
) -> Float[Tensor, "*batch n n"]:
    r"""Principal square root of SPD matrices, ``U diag(sqrt(l)) U^T``.

    The derivative is ``U (L o (U^T E U)) U^T`` with ``L_ij = 1 / (sqrt(l_i) + sqrt(l_j))``: finite and exact at repeated eigenvalues, to
    the third order.

    Args:
        X: SPD matrices, shape ``(..., n, n)``, or a ``SymEig``; the symmetric part is used.
        min_eig: Floor of the eigenvalues: ``None`` (none), a number, or ``"eps"`` for ``n eps`` times the largest. Where it acts, the
            gradient is that of the floored matrix.
        method: ``"eigh"``; ``"newton_schulz"``, matrix products only, for well-conditioned matrices on accelerators (falls back to ``eigh``
            where it has not converged); ``"auto"`` is ``"eigh"``.
        compute_dtype: As ``eigh``.
        check: Whether to raise for bad values where they can be read (not under ``torch.func`` transforms, compile or export). Unchecked,
            a matrix with a negative eigenvalue gives NaN.

    Returns:
        Shape ``(..., n, n)``, symmetric, dtype of ``X``.

    Raises:
        NotPositiveDefiniteError: If an eigenvalue is not positive.
        ValueError: If ``X`` is not square, not finite or not symmetric, or an option is unknown.
        TypeError: If ``X`` is not real floating point.

    Example:
        >>> sqrtm(torch.diag(torch.tensor([4.0, 9.0])))
        tensor([[2., 0.],
                [0., 3.]])
    """
    check_option("method", method, ("auto", "eigh", "newton_schulz"))
    if method == "newton_schulz" and not isinstance(X, SymEig) and min_eig is None:
        return newton_schulz_roots(X, compute_dtype=compute_dtype, check=check)[0]
    return _spectral(X, SQRT, min_eig, compute_dtype, check)


@no_autocast
def invsqrtm(
    X: Float[Tensor, "*batch n n"] | SymEig,
    *,
    min_eig: float | str | None = None,
    method: str = "auto",
    compute_dtype: torch.dtype | None = None,
    check: bool = True,
) -> Float[Tensor, "*batch n n"]:
    r"""Inverse square root of SPD matrices, ``U diag(1 / sqrt(l)) U^T``.

    ``L_ij = -1 / (sqrt(l_i) sqrt(l_j) (sqrt(l_i) + sqrt(l_j)))``; otherwise as ``sqrtm``.

    Args:
        X, min_eig, method, compute_dtype, check: As ``sqrtm``.

    Returns:
        Shape ``(..., n, n)``, symmetric, dtype of ``X``.

    Raises:
        NotPositiveDefiniteError: If an eigenvalue is not positive.
        ValueError: If ``X`` is not square, not finite or not symmetric, or an option is unknown.
        TypeError: If ``X`` is not real floating point.

    Example:
        >>> invsqrtm(torch.diag(torch.tensor([4.0, 16.0]))).diagonal()
        tensor([0.5000, 0.2500])
    """
    check_option("method", method, ("auto", "eigh", "newton_schulz"))
    if method == "newton_schulz" and not isinstance(X, SymEig) and min_eig is None:
        return newton_schulz_roots(X, compute_dtype=compute_dtype, check=check)[1]
    return _spectral(X, INVSQRT, min_eig, compute_dtype, check)


@no_autocast
def sqrtm_invsqrtm(
    X: Float[Tensor, "*batch n n"] | SymEig,
    *,
    min_eig: float | str | None = None,
    method: str = "auto",
    compute_dtype: torch.dtype | None = None,
    check: bool = True,
) -> tuple[Float[Tensor, "*batch n n"], Float[Tensor, "*batch n n"]]:
    """``sqrtm`` and ``invsqrtm`` from one factorisation.

    Args:
        X, min_eig, method, compute_dtype, check: As ``sqrtm``.

    Returns:
        The root and the inverse root, each of shape ``(..., n, n)``.

    Raises:
        NotPositiveDefiniteError: If an eigenvalue is not positive.
        ValueError: If ``X`` is not square, not finite or not symmetric, or an option is unknown.
        TypeError: If ``X`` is not real floating point.

    Example:
        >>> root, inverse = sqrtm_invsqrtm(4 * torch.eye(2))
        >>> root @ inverse
        tensor([[1., 0.],
                [0., 1.]])
    """
    check_option("method", method, ("auto", "eigh", "newton_schulz"))
    if method == "newton_schulz" and not isinstance(X, SymEig) and min_eig is None:
        return newton_schulz_roots(X, compute_dtype=compute_dtype, check=check)
    s = factorise("X", X, min_eig=min_eig, compute_dtype=compute_dtype, check=check)
    root, inverse = apply_all(s, SQRT, INVSQRT)
    return root.to(s.dtype), inverse.to(s.dtype)


@no_autocast
def logm(
    X: Float[Tensor, "*batch n n"] | SymEig,
    *,
    min_eig: float | str | None = None,
    compute_dtype: torch.dtype | None = None,
    check: bool = True,
) -> Float[Tensor, "*batch n n"]:
    r"""Principal logarithm of SPD matrices.

    ``L_ij = log1p(d) / (d lo)`` with ``lo = min(l_i, l_j)`` and ``d = |l_i - l_j| / lo``: exact at equal, close and tiny eigenvalues.

    Args:
        X, min_eig, compute_dtype, check: As ``sqrtm``.

    Returns:
        Symmetric matrices, shape ``(..., n, n)``, dtype of ``X``.

    Raises:
        NotPositiveDefiniteError: If an eigenvalue is not positive.
        ValueError: If ``X`` is not square, not finite or not symmetric.
        TypeError: If ``X`` is not real floating point.

    Example:
        >>> logm(torch.eye(2))
        tensor([[0., 0.],
                [0., 0.]])
    """
    return _spectral(X, LOG, min_eig, compute_dtype, check)


@no_autocast
def expm(
    X: Float[Tensor, "*batch n n"] | SymEig, *, compute_dtype: torch.dtype | None = None, check: bool = True
) -> Float[Tensor, "*batch n n"]:
    r"""Exponential of symmetric matrices; SPD.

    Args:
        X: Symmetric matrices, shape ``(..., n, n)``, or a ``SymEig``; the symmetric part is used.
        compute_dtype, check: As ``sqrtm``.

    Returns:
        SPD matrices, shape ``(..., n, n)``, dtype of ``X``.

    Raises:
        ValueError: If ``X`` is not square, not finite or not symmetric.
        TypeError: If ``X`` is not real floating point.

    Example:
        >>> expm(torch.zeros(2, 2))
        tensor([[1., 0.],
                [0., 1.]])
    """
    return _spectral(X, EXP, None, compute_dtype, check)


def power_of(s: Spectrum, p: float | Tensor) -> Spectrum:
    """Factorisation of ``X^p``. A tensor ``p`` goes through the logarithm, which gives its gradient too."""
    if not isinstance(p, Tensor):
        return moved(s, Power(float(p)))
    p = p.to(s.values.dtype)[..., None]
    log = moved(s, LOG)
    scaled = Spectrum(p[..., None] * log.X, p.detach() * log.values, log.vectors, s.dtype)
    return moved(scaled, EXP)


@no_autocast
def powm(
    X: Float[Tensor, "*batch n n"] | SymEig,
    p: float | Float[Tensor, "*pbatch"],
    *,
    min_eig: float | str | None = None,
    compute_dtype: torch.dtype | None = None,
    check: bool = True,
) -> Float[Tensor, "*batch n n"]:
    r"""Real power ``X^p`` of SPD matrices.

    ``L_ij = lo^(p-1) expm1(p log1p(d)) / d`` with ``lo`` and ``d`` as in ``logm``.

    Args:
        X: As ``sqrtm``.
        p: Exponent; a tensor broadcasts with the batch and is differentiable.
        min_eig, compute_dtype, check: As ``sqrtm``.

    Returns:
        SPD matrices, shape ``(..., n, n)``, dtype of ``X``.

    Raises:
        NotPositiveDefiniteError: If an eigenvalue is not positive, whatever ``p``.
        ValueError: If ``X`` is not square, not finite or not symmetric.
        TypeError: If ``X``, or a tensor ``p``, is not real floating point.

    Example:
        >>> powm(torch.diag(torch.tensor([4.0, 9.0])), -0.5).diagonal()
        tensor([0.5000, 0.3333])
    """
    if isinstance(p, Tensor):
        check_real("p", p)
    elif isinstance(p, complex):
        raise TypeError(f"p must be real, got {p!r}")
    s = factorise("X", X, min_eig=min_eig, compute_dtype=compute_dtype, check=check)
    return power_of(s, p).X.to(s.dtype)


@no_autocast
def invm(
    X: Float[Tensor, "*batch n n"] | SymEig,
    *,
    min_eig: float | str | None = None,
    method: str = "auto",
    compute_dtype: torch.dtype | None = None,
    check: bool = True,
) -> Float[Tensor, "*batch n n"]:
    r"""Inverse of SPD matrices.

    Args:
        X, min_eig, compute_dtype, check: As ``sqrtm``.
        method: ``"cholesky"``, the default for a matrix, about three times faster; ``"eigh"``, used for a ``SymEig`` and with ``min_eig``.

    Returns:
        SPD matrices, shape ``(..., n, n)``, dtype of ``X``.

    Raises:
        NotPositiveDefiniteError: If an eigenvalue is not positive.
        ValueError: If ``X`` is not square, not finite or not symmetric, or an option is unknown.
        TypeError: If ``X`` is not real floating point.

    Example:
        >>> invm(torch.diag(torch.tensor([4.0, 0.5]))).diagonal()
        tensor([0.2500, 2.0000])
    """
    check_option("method", method, ("auto", "eigh", "cholesky"))
    if method == "eigh" or min_eig is not None or isinstance(X, SymEig):
        return _spectral(X, INV, min_eig, compute_dtype, check)
    check_matrix("X", X)
    if check and values_readable(X):
        check_symmetric("X", X)
    W = X.to(work_dtype(X, compute_dtype))
    L = cholesky_of("X", (W + W.mT) / 2, check=check)
    half = torch.linalg.solve_triangular(L, torch.eye(L.shape[-1], dtype=L.dtype, device=L.device).expand_as(L), upper=False)
    return (half.mT @ half).to(X.dtype)
