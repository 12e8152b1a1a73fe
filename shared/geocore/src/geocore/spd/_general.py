"""Functions of symmetric matrices in general: any elementwise function, its Frechet derivative, a floor of the eigenvalues."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from geocore._checks import check_option
from geocore.spd._checks import check_matrix, check_real, no_autocast
from geocore.spd._differences import EXP, INV, INVSQRT, LOG, SQRT, Clamp, Elementwise, SpectralFunction
from geocore.spd._functions import expm, invm, invsqrtm, logm, sqrtm, sym
from geocore.spd._spectral import SymEig, apply, derivative, factorise

__all__ = ["clamp_eig", "frechet", "funcm"]

Matrix = Tensor | SymEig


@no_autocast
def funcm(
    X: Float[Tensor, "*batch n n"] | SymEig,
    f: Callable[[Tensor], Tensor],
    dd: Callable[[Tensor, Tensor], Tensor] | None = None,
    *,
    min_eig: float | str | None = None,
    compute_dtype: torch.dtype | None = None,
    check: bool = True,
) -> Float[Tensor, "*batch n n"]:
    r"""``U diag(f(l)) U^T`` for any elementwise ``f``.

    Args:
        X: Symmetric matrices, shape ``(..., n, n)``, or a ``SymEig``; the symmetric part is used.
        f: Elementwise function of the eigenvalues, differentiable by autograd. Gradients also reach tensors that it closes over.
        dd: Its divided difference ``(f(a) - f(b)) / (a - b)``, elementwise and right at ``a = b``. Without it, the quotient, or the
            derivative at the midpoint where ``|a - b| <= sqrt(eps) (|a| + |b|)``: the gradient then has about half the digits near repeated
            eigenvalues.
        min_eig, compute_dtype, check: As ``sqrtm``.

    Returns:
        Symmetric matrices, shape ``(..., n, n)``, dtype of ``X``.

    Raises:
        ValueError: If ``X`` is not square, not finite or not symmetric.
        TypeError: If ``X`` is not real floating point, or ``f`` or ``dd`` is not callable.

    Example:
        >>> funcm(torch.diag(torch.tensor([1.0, 3.0])), torch.nn.functional.softplus).diagonal()
        tensor([1.3133, 3.0486])
    """
    return _frechet_or_value(_function(f, dd), X, None, min_eig, compute_dtype, check)


def _function(f: Callable[[Tensor], Tensor] | str, dd: Callable[[Tensor, Tensor], Tensor] | None = None) -> SpectralFunction:
    named = {"sqrt": SQRT, "invsqrt": INVSQRT, "inv": INV, "log": LOG, "exp": EXP}
    if isinstance(f, SpectralFunction):
        return f
    if isinstance(f, str):
        check_option("f", f, named)
        return named[f]
    known = {torch.sqrt: SQRT, torch.rsqrt: INVSQRT, torch.reciprocal: INV, torch.log: LOG, torch.exp: EXP}
    known |= {sqrtm: SQRT, invsqrtm: INVSQRT, invm: INV, logm: LOG, expm: EXP}
    if dd is None:
        for function, spectral in known.items():
            if f is function:
                return spectral
    for name, value in (("f", f), ("dd", dd)):
        if value is not None and not callable(value):
            raise TypeError(f"{name} must be callable, got {type(value).__name__}")
    return Elementwise(f, dd)


def _frechet_or_value(
    f: SpectralFunction,
    X: Matrix,
    E: Tensor | None,
    min_eig: float | str | None,
    compute_dtype: torch.dtype | None,
    check: bool,
) -> Tensor:
    s = factorise("X", X, positive=f.positive, min_eig=min_eig, compute_dtype=compute_dtype, check=check)
    directions = () if E is None else (sym(E.to(s.values.dtype)),)
    learned = isinstance(f, Elementwise) and f.value(s.values).requires_grad
    return derivative(f, s.values, s.vectors, s.X, *directions, learned=learned).to(s.dtype)


@no_autocast
def frechet(
    f: Callable[[Tensor], Tensor] | str,
    X: Float[Tensor, "*batch n n"] | SymEig,
    E: Float[Tensor, "*ebatch n n"],
    *,
    dd: Callable[[Tensor, Tensor], Tensor] | None = None,
    compute_dtype: torch.dtype | None = None,
    check: bool = True,
) -> Float[Tensor, "*obatch n n"]:
    r"""Frechet derivative ``Df(X)[E] = U (L o (U^T E U)) U^T`` of a matrix function, itself differentiable twice in ``X``.

    Args:
        f: ``"sqrt"``, ``"invsqrt"``, ``"inv"``, ``"log"``, ``"exp"``, or an elementwise function as in ``funcm``; ``torch.log`` and its
            like, and ``logm`` and its like, are recognised.
        X: Symmetric (for the roots, the inverse and the logarithm SPD) matrices, shape ``(..., n, n)``, or a ``SymEig``.
        E: Directions, shape ``(..., n, n)`` broadcasting with ``X``; the symmetric part is used.
        dd: Divided difference of ``f``, as in ``funcm``.
        compute_dtype, check: As ``sqrtm``.

    Returns:
        Symmetric matrices of the broadcast shape, dtype of ``X``.

    Raises:
        NotPositiveDefiniteError: If an eigenvalue of ``X`` is outside the domain of ``f``.
        ValueError: If a shape is wrong, ``f`` is unknown, or ``X`` is not finite or not symmetric.
        TypeError: If a dtype is not real floating point, or ``f`` is not callable.

    Example:
        >>> frechet("sqrt", 4 * torch.eye(2), torch.eye(2)).diagonal()
        tensor([0.2500, 0.2500])
    """
    check_matrix("E", E)
    function = _function(f, dd)
    n = X.vectors.shape[-1] if isinstance(X, SymEig) else X.shape[-1] if isinstance(X, Tensor) and X.ndim else 0
    if E.shape[-1] != n and isinstance(X, Tensor | SymEig):
        raise ValueError(f"E must have the size of X, got {tuple(E.shape)} for n = {n}")
    return _frechet_or_value(function, X, E, None, compute_dtype, check)


@no_autocast
def clamp_eig(
    X: Float[Tensor, "*batch n n"] | SymEig,
    min: float | Float[Tensor, "*mbatch"],  # noqa: A002 - the name of torch.clamp
    *,
    compute_dtype: torch.dtype | None = None,
    check: bool = True,
) -> Float[Tensor, "*batch n n"]:
    r"""Raise the eigenvalues of a symmetric matrix to at least ``min`` (ReEig).

    Divided differences: 1 where both eigenvalues are above, 0 where neither is, ``(hi - min) / (hi - lo)`` across. An eigenvalue of exactly
    ``min`` counts as below: subgradient 0.

    Args:
        X: Symmetric matrices, shape ``(..., n, n)``, or a ``SymEig``.
        min: Floor, a number or a tensor that broadcasts with the batch; a constant for autograd.
        compute_dtype, check: As ``sqrtm``.

    Returns:
        Shape ``(..., n, n)``, dtype of ``X``.

    Raises:
        ValueError: If ``X`` is not square, not finite or not symmetric.
        TypeError: If ``X``, or a tensor ``min``, is not real floating point.

    Example:
        >>> clamp_eig(torch.diag(torch.tensor([-1.0, 2.0])), 0.5).diagonal()
        tensor([0.5000, 2.0000])
    """
    if isinstance(min, Tensor):
        check_real("min", min)
    s = factorise("X", X, positive=False, compute_dtype=compute_dtype, check=check)
    floor = min.detach().to(s.values) if isinstance(min, Tensor) else s.values.new_tensor(float(min))
    return apply(s, Clamp(floor)).to(s.dtype)
