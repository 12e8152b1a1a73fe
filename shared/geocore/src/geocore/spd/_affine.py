"""The affine-invariant metric and Stein's divergence, both invariant under congruence; neither needs a square root of the base point."""

from typing import Any

import torch
from torch import Tensor

from geocore.spd._averages import MeanInfo, MeanOptions
from geocore.spd._differences import EXP, INV, INVSQRT, LOG, SQRT, Product
from geocore.spd._flat import check_alpha_beta, isometric
from geocore.spd._functions import power_of
from geocore.spd._means import Karcher, SteinMean, frechet_mean
from geocore.spd._metric import Metric
from geocore.spd._point import Point, color, direct, spectrum_of, spectrum_of_gram, trace_function, wants_gradient, whiten
from geocore.spd._spectral import Spectrum, apply, reassemble

__all__ = ["AffineInvariant", "Stein"]

_SQUARE, _SLOPE = Product(LOG, LOG), Product(LOG, INV, 2.0)


def _log_det(L: Tensor) -> Tensor:
    return 2 * L.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _root(p: Point, q: Point) -> Tensor:
    return torch.linalg.solve_triangular(p.cholesky.detach(), q.cholesky.detach(), upper=False)


def _seen(p: Point, q: Point) -> Spectrum:
    """``Q`` as seen from ``P``, ``L^-1 Q L^-T``; that of ``Q``, which is a check too, is asked for where this is not resolved."""
    return spectrum_of_gram(whiten(p.cholesky, q.X, exact=False), lambda: _root(p, q))


def _square(p: Point, q: Point) -> Tensor:
    """``|log(L^-1 Q L^-T)|^2``."""
    return trace_function(whiten(p.cholesky, q.X, exact=False), _SQUARE, _SLOPE, lambda: _root(p, q))


def _square_direct(p: Point, q: Point) -> Tensor:
    """The same with its gradients ``-2 W log(l) W^T`` in ``P`` and ``2 W (log(l) / l) W^T`` in ``Q``, ``W = L^-T U``."""
    L = p.cholesky.detach()
    s = spectrum_of_gram(whiten(L, q.X.detach(), exact=False), lambda: _root(p, q))
    log = s.values.log()

    def gradients() -> tuple[Tensor, Tensor]:
        W = torch.linalg.solve_triangular(L.mT, s.vectors, upper=True)
        return reassemble(W, -2 * log), reassemble(W, 2 * log / s.values)

    return direct(p, q, log.square().sum(-1), gradients, lambda P, Q: _square(Point(P, p.name, check=False), Point(Q, q.name, check=False)))


class AffineInvariant(Metric):
    r"""Affine-invariant metric ``alpha tr(P^-1 V P^-1 W) + beta tr(P^-1 V) tr(P^-1 W)``.

    ``d^2 = alpha |log(P^-1/2 Q P^-1/2)|^2 + beta (log det Q - log det P)^2``; exp, log, geodesics, transport and mean do not depend on
    ``alpha`` and ``beta``. Complete, of non-positive curvature, invariant under congruence and inversion (Pennec et al., 2006). With ``P =
    L L^T``, ``L^-1 Q L^-T`` is ``P^-1/2 Q P^-1/2`` up to a rotation that cancels everywhere, so a Cholesky factor replaces the square root.

    Args:
        alpha, beta: ``alpha > 0``, ``beta > -alpha / n``.
        check, compute_dtype: As ``Metric``.

    Raises:
        ValueError: If ``alpha`` or ``beta`` is out of range (``beta`` when a matrix size is known).

    Example:
        >>> AffineInvariant().dist(torch.eye(1), torch.e * torch.eye(1))
        tensor(1.)
    """

    def __init__(self, alpha: float = 1.0, beta: float = 0.0, *, check: bool = True, compute_dtype: torch.dtype | None = None) -> None:
        super().__init__(check=check, compute_dtype=compute_dtype)
        check_alpha_beta(alpha, beta)
        self.alpha, self.beta = float(alpha), float(beta)

    def _options(self) -> dict[str, Any]:
        return {"alpha": self.alpha, "beta": self.beta}

    def _dist2(self, p: Point, q: Point) -> Tensor:
        check_alpha_beta(self.alpha, self.beta, p.X.shape[-1])
        square = self.alpha * (_square_direct(p, q) if wants_gradient(p, q) else _square(p, q))
        if self.beta:
            square = square + self.beta * (_log_det(q.cholesky) - _log_det(p.cholesky)).square()
        return square

    def _inner(self, p: Point, V: Tensor, W: Tensor) -> Tensor:
        check_alpha_beta(self.alpha, self.beta, p.X.shape[-1])
        A = whiten(p.cholesky, V)
        B = A if V is W else whiten(p.cholesky, W)
        value = self.alpha * (A * B).sum((-2, -1))
        if self.beta:
            value = value + self.beta * A.diagonal(dim1=-2, dim2=-1).sum(-1) * B.diagonal(dim1=-2, dim2=-1).sum(-1)
        return value

    def _exp(self, p: Point, V: Tensor) -> Tensor:
        s = spectrum_of(whiten(p.cholesky, V), Point(V, "V", check=False))
        return color(p.cholesky, apply(s, EXP))

    def _log(self, p: Point, q: Point) -> Tensor:
        return color(p.cholesky, apply(_seen(p, q), LOG))

    def _geodesic(self, p: Point, q: Point, t: Tensor) -> Tensor:
        s = _seen(p, q)
        return color(p.cholesky, power_of(s, t).X)

    def _transport(self, p: Point, q: Point, V: Tensor, **options: Any) -> Tensor:
        root = apply(_seen(p, q), SQRT)
        return color(p.cholesky, color(root, whiten(p.cholesky, V)))

    def _mean(self, X: Tensor, w: Tensor, options: MeanOptions, check: bool) -> tuple[Tensor, MeanInfo]:
        return frechet_mean(Karcher(), X, w, options, check)

    def _egrad2rgrad(self, p: Point, G: Tensor) -> Tensor:
        n = p.X.shape[-1]
        check_alpha_beta(self.alpha, self.beta, n)
        R = p.X @ G @ p.X / self.alpha
        if self.beta:
            trace = (p.X * G).sum((-2, -1))[..., None, None]
            R = R - self.beta / (self.alpha * (self.alpha + n * self.beta)) * trace * p.X
        return (R + R.mT) / 2

    def _vectorize(self, p: Point, ref: Point) -> Tensor:
        check_alpha_beta(self.alpha, self.beta, p.X.shape[-1])
        inverse = apply(ref.spectrum, INVSQRT)
        s = spectrum_of_gram(color(inverse, p.X), lambda: inverse.detach() @ p.cholesky.detach())
        return isometric(apply(s, LOG), self.alpha, self.beta)


class Stein(Metric):
    r"""Stein's divergence ``d^2 = log det((P + Q) / 2) - log det(P Q) / 2`` (Sra, 2016): a distance without eigendecomposition.

    ``d`` is a metric, invariant under congruence and inversion, but not that of a Riemannian manifold: there is a mean and a variance, and
    no exp, log, geodesic or transport. Near ``P`` it is ``tr(P^-1 V P^-1 V) / 8``: ``inner``, ``norm`` and ``egrad2rgrad`` are those of
    that form.

    Args:
        check, compute_dtype: As ``Metric``.

    Example:
        >>> Stein().dist2(torch.eye(1), 3 * torch.eye(1))
        tensor(0.1438)
    """

    def _dist2(self, p: Point, q: Point) -> Tensor:
        middle = Point((p.X + q.X) / 2, f"({p.name} + {q.name}) / 2", check=p.check)
        parts = _log_det(p.cholesky) + _log_det(q.cholesky)
        return _log_det(middle.cholesky) - parts / 2

    def _inner(self, p: Point, V: Tensor, W: Tensor) -> Tensor:
        return (whiten(p.cholesky, V) * whiten(p.cholesky, W)).sum((-2, -1)) / 8

    def _egrad2rgrad(self, p: Point, G: Tensor) -> Tensor:
        R = 8 * p.X @ G @ p.X
        return (R + R.mT) / 2

    def _mean(self, X: Tensor, w: Tensor, options: MeanOptions, check: bool) -> tuple[Tensor, MeanInfo]:
        return frechet_mean(SteinMean(), X, w, options, check)
