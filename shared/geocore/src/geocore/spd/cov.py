"""Covariance estimators for batches of signals: differentiable, on any device, with the numbers of scikit-learn and pyRiemann.

Signals are ``(..., channels, samples)``, so that a batch of EEG trials gives a batch of covariances.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from geocore._checks import check_option, check_positive_int
from geocore.spd._checks import check_real, no_autocast, work_dtype

__all__ = ["cov", "lagged_cov", "ledoit_wolf", "oas", "schaefer_strimmer"]

Estimator = Literal["scm", "cov", "corr", "lwf", "oas", "sch"]


def _signals(X: Any, assume_centered: bool) -> Tensor:
    check_real("X", X)
    if X.ndim < 2 or X.shape[-1] < 1 or X.shape[-2] < 1:
        raise ValueError(f"X must have shape (..., channels, samples) with at least one of each, got {tuple(X.shape)}")
    # The size that decides the working precision is the number of channels.
    W = X.to(work_dtype(X[..., :1], None)) if X.shape[-2] <= 64 else X.to(work_dtype(X, None))
    return W if assume_centered else W - W.mean(-1, keepdim=True)


def _trace(S: Tensor) -> Tensor:
    return S.diagonal(dim1=-2, dim2=-1).sum(-1)


def _shrunk(S: Tensor, amount: Tensor) -> Tensor:
    """``(1 - a) S + a (tr S / p) I``."""
    p = S.shape[-1]
    a = amount[..., None, None]
    return (1 - a) * S + a * (_trace(S) / p)[..., None, None] * torch.eye(p, dtype=S.dtype, device=S.device)


def _ratio(numerator: Tensor, denominator: Tensor, otherwise: float) -> Tensor:
    """Quotient in ``[0, 1]``; ``otherwise`` where the denominator is 0."""
    zero = denominator == 0
    value = numerator / torch.where(zero, 1.0, denominator)
    return torch.where(zero, otherwise, value).clamp(0, 1)


def _result(X: Tensor, S: Tensor, amount: Tensor, return_shrinkage: bool) -> Any:
    S = ((S + S.mT) / 2).to(X.dtype)
    return (S, amount.to(X.dtype)) if return_shrinkage else S


@no_autocast
def oas(X: Float[Tensor, "*batch channels samples"], *, assume_centered: bool = False, return_shrinkage: bool = False) -> Any:
    r"""Covariance shrunk towards a multiple of the identity by the oracle approximating formula.

    Chen et al. (2010); as ``sklearn.covariance.oas``.

    Args:
        X: Signals, shape ``(..., channels, samples)``.
        assume_centered: Whether not to subtract the mean over samples.
        return_shrinkage: Also return the amount of shrinkage, in ``[0, 1]``, shape ``(...)``.

    Returns:
        Covariances, shape ``(..., channels, channels)``, dtype of ``X``; positive definite wherever the shrinkage is positive.

    Raises:
        ValueError: If ``X`` has fewer than two dimensions, or no samples.
        TypeError: If ``X`` is not real floating point.

    Example:
        >>> oas(torch.randn(10, 4, 100)).shape
        torch.Size([10, 4, 4])
    """
    W = _signals(X, assume_centered)
    p, n = W.shape[-2:]
    S = W @ W.mT / n
    mean_square = S.square().mean((-2, -1))
    mu = _trace(S) / p
    amount = _ratio(mean_square + mu.square(), (n + 1) * (mean_square - mu.square() / p), 1.0)
    return _result(X, _shrunk(S, amount), amount, return_shrinkage)


@no_autocast
def ledoit_wolf(X: Float[Tensor, "*batch channels samples"], *, assume_centered: bool = False, return_shrinkage: bool = False) -> Any:
    r"""Covariance shrunk towards a multiple of the identity by the formula of Ledoit and Wolf.

    Ledoit and Wolf (2004); as ``sklearn.covariance.ledoit_wolf``.

    Args:
        X, assume_centered, return_shrinkage: As ``oas``.

    Returns:
        Covariances, shape ``(..., channels, channels)``, dtype of ``X``; with ``return_shrinkage`` a tuple with the amount, shape
        ``(...)``.

    Raises:
        ValueError: If ``X`` has fewer than two dimensions, or no samples.
        TypeError: If ``X`` is not real floating point.

    Example:
        >>> ledoit_wolf(torch.randn(10, 4, 100)).shape
        torch.Size([10, 4, 4])
    """
    W = _signals(X, assume_centered)
    p, n = W.shape[-2:]
    S = W @ W.mT / n
    # sum_ij var(x_i x_j) without the n x p x p products: (sum_i x_i^2)^2 summed over samples.
    fourth = W.square().sum(-2).square().sum(-1) / n
    square = S.square().sum((-2, -1))
    distance = (square - _trace(S).square() / p) / p
    noise = torch.minimum((fourth - square) / (n * p), distance)
    amount = torch.where(noise == 0, 0.0, _ratio(noise, distance, 0.0))
    return _result(X, _shrunk(S, amount), amount, return_shrinkage)


@no_autocast
def schaefer_strimmer(X: Float[Tensor, "*batch channels samples"], *, assume_centered: bool = False, return_shrinkage: bool = False) -> Any:
    r"""Covariance whose correlations are shrunk towards 0, variances kept (Schaefer and Strimmer, 2005).

    The amount is ``sum_ij var(r_ij) / sum_ij r_ij^2`` over off-diagonal correlations ``r``; the covariance is the unbiased one.

    Args:
        X, assume_centered, return_shrinkage: As ``oas``; at least two samples.

    Returns:
        Covariances, shape ``(..., channels, channels)``, dtype of ``X``; with ``return_shrinkage`` a tuple with the amount, shape
        ``(...)``.

    Raises:
        ValueError: If ``X`` has fewer than two dimensions or samples.
        TypeError: If ``X`` is not real floating point.

    Example:
        >>> schaefer_strimmer(torch.randn(10, 4, 100)).shape
        torch.Size([10, 4, 4])
    """
    W = _signals(X, assume_centered)
    p, n = W.shape[-2:]
    if n < 2:
        raise ValueError(f"X must have at least 2 samples, got shape {tuple(X.shape)}")
    C = W @ W.mT / n
    power = C.diagonal(dim1=-2, dim2=-1)
    d = torch.where(power > 0, power, 1.0).sqrt()  # a silent channel has no correlations, and a zero has no root to derive
    scale = d[..., :, None] * d[..., None, :]
    safe = torch.where(scale > 0, scale, 1.0)
    squares = W.square()
    R = C / safe * (n / (n - 1))
    variance = (squares @ squares.mT / n - C.square()) / safe.square() * (n / (n - 1) ** 3 * n)
    off = 1 - torch.eye(p, dtype=W.dtype, device=W.device)
    amount = _ratio((variance * off).sum((-2, -1)), (R.square() * off).sum((-2, -1)), 0.0)
    S = C * (n / (n - 1))
    return _result(X, S * (1 - amount[..., None, None] * off), amount, return_shrinkage)


def _scm(X: Tensor, assume_centered: bool, unbiased: bool) -> Tensor:
    W = _signals(X, assume_centered)
    n = W.shape[-1] - (1 if unbiased else 0)
    if n < 1:
        raise ValueError(f"X must have at least 2 samples for the unbiased estimator, got shape {tuple(X.shape)}")
    return (W @ W.mT / n).to(X.dtype)


def _corr(X: Tensor, assume_centered: bool) -> Tensor:
    W = _signals(X, assume_centered)
    size = W.square().sum(-1, keepdim=True)
    zero = size == 0
    U = W / torch.where(zero, 1.0, size).sqrt()
    eye = torch.eye(W.shape[-2], dtype=W.dtype, device=W.device)
    R = U @ U.mT
    return (R * (1 - eye) + eye).to(X.dtype)


@no_autocast
def cov(
    X: Float[Tensor, "*batch channels samples"],
    estimator: Estimator | Callable[[Tensor], Tensor] = "scm",
    *,
    assume_centered: bool = False,
) -> Float[Tensor, "*batch channels channels"]:
    r"""Covariances of a batch of signals.

    | estimator | what | the same as |
    |---|---|---|
    | ``"scm"`` | ``X X^T / samples`` | ``sklearn.covariance.empirical_covariance`` |
    | ``"cov"`` | ``X X^T / (samples - 1)`` | ``numpy.cov`` |
    | ``"corr"`` | correlations | ``numpy.corrcoef`` |
    | ``"lwf"`` | ``ledoit_wolf`` | ``sklearn.covariance.ledoit_wolf`` |
    | ``"oas"`` | ``oas`` | ``sklearn.covariance.oas`` |
    | ``"sch"`` | ``schaefer_strimmer`` | ``pyriemann``'s ``"sch"`` |

    The first three are singular for fewer samples than channels (and one more if centred); the shrinking ones are not.

    Args:
        X: Signals, shape ``(..., channels, samples)``.
        estimator: A name, or a function of ``X``.
        assume_centered: Whether not to subtract the mean over samples.

    Returns:
        Shape ``(..., channels, channels)``, dtype of ``X``.

    Raises:
        ValueError: If the estimator is unknown, or ``X`` has too few dimensions or samples.
        TypeError: If ``X`` is not real floating point.

    Example:
        >>> cov(torch.randn(10, 4, 100), "oas").shape
        torch.Size([10, 4, 4])
    """
    if callable(estimator):
        check_real("X", X)
        return estimator(X)
    check_option("estimator", estimator, ("scm", "cov", "corr", "lwf", "oas", "sch"))
    if estimator == "oas":
        return oas(X, assume_centered=assume_centered)
    if estimator == "lwf":
        return ledoit_wolf(X, assume_centered=assume_centered)
    if estimator == "sch":
        return schaefer_strimmer(X, assume_centered=assume_centered)
    if estimator == "corr":
        return _corr(X, assume_centered)
    return _scm(X, assume_centered, estimator == "cov")


@no_autocast
def lagged_cov(
    X: Float[Tensor, "*batch channels samples"], lag: int | Sequence[int], *, assume_centered: bool = False, unbiased: bool = False
) -> Tensor:
    r"""Lagged covariances ``R(k)_ij = sum_t x_i(t) x_j(t + k) / samples``.

    Divided by the number of samples whatever the lag, the block-Toeplitz matrix of ``R(j - i)`` is positive semidefinite; ``unbiased``
    divides by the number of products instead, which loses that.

    Args:
        X: Signals, shape ``(..., channels, samples)``.
        lag: ``k``, from 0 to ``samples - 1``, or several.
        assume_centered: Whether not to subtract the mean over samples.
        unbiased: Whether to divide by ``samples - k``.

    Returns:
        Shape ``(..., channels, channels)``, or ``(..., lags, channels, channels)`` for several; dtype of ``X``. ``R(0)`` is ``cov(X,
        "scm")``.

    Raises:
        ValueError: If a lag is out of range, or ``X`` has fewer than two dimensions.
        TypeError: If ``X`` is not real floating point, or a lag is not an int.

    Example:
        >>> lagged_cov(torch.randn(10, 4, 100), [0, 1, 2]).shape
        torch.Size([10, 3, 4, 4])
    """
    W = _signals(X, assume_centered)
    n = W.shape[-1]
    lags = [lag] if isinstance(lag, int) else list(lag)
    if not lags:
        raise ValueError("lag must name at least one lag, got none")
    out = []
    for k in lags:
        check_positive_int("lag", k, minimum=0)
        if k >= n:
            raise ValueError(f"lag must be below the number of samples {n}, got {k}")
        out.append(W[..., : n - k] @ W[..., k:].mT / (n - k if unbiased else n))
    return (out[0] if isinstance(lag, int) else torch.stack(out, dim=-3)).to(X.dtype)
