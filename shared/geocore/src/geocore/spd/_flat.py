"""Metrics pulled back from a simpler one by a chart, and the flat metrics that most of them come from."""

from typing import Any

import torch
from torch import Tensor

from geocore._dispatch import eigvalsh
from geocore.spd._averages import MeanInfo, MeanOptions
from geocore.spd._differences import EXP, LOG, Power, SpectralFunction
from geocore.spd._metric import Metric
from geocore.spd._point import Point, spectrum_of
from geocore.spd._spectral import Spectrum, apply, derivative, moved
from geocore.spd._vectorize import vech

__all__ = [
    "Deformed",
    "Euclidean",
    "LogEuclidean",
    "PowerEuclidean",
    "PullBack",
    "check_alpha_beta",
    "check_theta",
    "closed_form",
    "isometric",
]


def check_alpha_beta(alpha: float, beta: float, n: int | None = None) -> None:
    """Raise unless ``alpha <V, W> + beta tr V tr W`` is an inner product on symmetric ``n x n`` matrices."""
    if not alpha > 0:
        raise ValueError(f"alpha must be positive, got {alpha}")
    if n is not None and not beta > -alpha / n:
        raise ValueError(f"beta must be greater than -alpha / n = {-alpha / n:g} for n = {n}, got {beta}")


def closed_form(X: Tensor) -> MeanInfo:
    """Information on a mean without iterations; ``X`` has its shape."""
    return MeanInfo(
        torch.ones(X.shape[:-2], dtype=torch.bool, device=X.device),
        torch.zeros(X.shape[:-2], dtype=X.dtype, device=X.device),
        torch.zeros((), dtype=torch.long, device=X.device),
    )


def isometric(S: Tensor, alpha: float, beta: float) -> Tensor:
    """Coordinates of symmetric matrices whose Euclidean norm is that of ``alpha <V, W> + beta tr V tr W``."""
    n = S.shape[-1]
    if beta:
        shift = ((1 + n * beta / alpha) ** 0.5 - 1) / n
        trace = S.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
        S = S + shift * trace * torch.eye(n, dtype=S.dtype, device=S.device)
    return alpha**0.5 * vech(S)


class Euclidean(Metric):
    """The flat inner product ``alpha <V, W> + beta tr V tr W`` on symmetric matrices, or ``<V, W>`` on lower triangular ones.

    Args:
        alpha, beta: Weights, ``alpha > 0``, ``beta > -alpha / n``.
        triangular: Whether points are lower triangular matrices.
    """

    def __init__(self, alpha: float = 1.0, beta: float = 0.0, *, triangular: bool = False) -> None:
        super().__init__()
        check_alpha_beta(alpha, beta)
        self.alpha, self.beta, self.triangular = float(alpha), float(beta), triangular

    def _product(self, V: Tensor, W: Tensor) -> Tensor:
        check_alpha_beta(self.alpha, self.beta, V.shape[-1])
        value = self.alpha * (V * W).sum((-2, -1))
        if self.beta:
            value = value + self.beta * V.diagonal(dim1=-2, dim2=-1).sum(-1) * W.diagonal(dim1=-2, dim2=-1).sum(-1)
        return value

    def _inner(self, p: Point, V: Tensor, W: Tensor) -> Tensor:
        return self._product(V, W)

    def _dist2(self, p: Point, q: Point) -> Tensor:
        D = p.X - q.X
        return self._product(D, D)

    def _exp(self, p: Point, V: Tensor) -> Tensor:
        return p.X + V

    def _log(self, p: Point, q: Point) -> Tensor:
        return q.X - p.X

    def _geodesic(self, p: Point, q: Point, t: Tensor) -> Tensor:
        t = t[..., None, None]
        return (1 - t) * p.X + t * q.X

    def _transport(self, p: Point, q: Point, V: Tensor, **options: Any) -> Tensor:
        return V + torch.zeros_like(p.X) + torch.zeros_like(q.X)

    def _mean(self, X: Tensor, w: Tensor, options: MeanOptions, check: bool) -> tuple[Tensor, MeanInfo]:
        M = (w[..., None, None] * X).sum(-3)
        return M, closed_form(M)

    def _egrad2rgrad(self, p: Point, G: Tensor) -> Tensor:
        n = G.shape[-1]
        check_alpha_beta(self.alpha, self.beta, n)
        if self.beta:
            trace = G.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
            G = G - self.beta / (self.alpha + n * self.beta) * trace * torch.eye(n, dtype=G.dtype, device=G.device)
        return G / self.alpha

    def _vectorize(self, p: Point, ref: Point) -> Tensor:
        D = p.X - ref.X
        if self.triangular:
            rows, columns = torch.tril_indices(D.shape[-1], D.shape[-1], device=D.device)
            return D[..., rows, columns]
        check_alpha_beta(self.alpha, self.beta, D.shape[-1])
        return isometric(D, self.alpha, self.beta)


class PullBack(Metric):
    """A metric pulled back by a chart, its inner product times ``scale``.

    Args:
        base: Metric on the image of the chart.
        scale: Factor of the inner product.
    """

    def __init__(self, base: Metric, scale: float = 1.0, *, check: bool = True, compute_dtype: torch.dtype | None = None) -> None:
        super().__init__(check=check, compute_dtype=compute_dtype)
        self.base, self.scale = base, scale

    def _map(self, p: Point) -> Point:
        """The chart."""
        raise NotImplementedError(f"{type(self).__name__} defines no chart")

    def _unmap(self, Y: Tensor, name: str) -> Tensor:
        """The inverse of the chart."""
        raise NotImplementedError(f"{type(self).__name__} defines no chart")

    def _push(self, p: Point, V: Tensor) -> Tensor:
        """Differential of the chart."""
        raise NotImplementedError(f"{type(self).__name__} defines no chart")

    def _pull(self, p: Point, W: Tensor) -> Tensor:
        """Inverse of the differential."""
        raise NotImplementedError(f"{type(self).__name__} defines no chart")

    def _copull(self, p: Point, G: Tensor) -> Tensor:
        """Adjoint of ``_pull``; the same for a chart whose differential is self-adjoint."""
        return self._pull(p, G)

    def _dist2(self, p: Point, q: Point) -> Tensor:
        return self.scale * self.base._dist2(self._map(p), self._map(q))

    def _inner(self, p: Point, V: Tensor, W: Tensor) -> Tensor:
        return self.scale * self.base._inner(self._map(p), self._push(p, V), self._push(p, W))

    def _exp(self, p: Point, V: Tensor) -> Tensor:
        return self._unmap(self.base._exp(self._map(p), self._push(p, V)), "exp(P, V)")

    def _in_domain(self, p: Point, V: Tensor) -> Tensor:
        return self.base._in_domain(self._map(p), self._push(p, V))

    def _log(self, p: Point, q: Point) -> Tensor:
        return self._pull(p, self.base._log(self._map(p), self._map(q)))

    def _geodesic(self, p: Point, q: Point, t: Tensor) -> Tensor:
        return self._unmap(self.base._geodesic(self._map(p), self._map(q), t), "geodesic(A, B, t)")

    def _transport(self, p: Point, q: Point, V: Tensor, **options: Any) -> Tensor:
        return self._pull(q, self.base._transport(self._map(p), self._map(q), self._push(p, V), **options))

    def _mean(self, X: Tensor, w: Tensor, options: MeanOptions, check: bool) -> tuple[Tensor, MeanInfo]:
        Y, info = self.base._mean(self._map(Point(X, "X", check=check)).X, w, options, check)
        return self._unmap(Y, "mean(X)"), info

    def _egrad2rgrad(self, p: Point, G: Tensor) -> Tensor:
        return self._pull(p, self.base._egrad2rgrad(self._map(p), self._copull(p, G))) / self.scale

    def _vectorize(self, p: Point, ref: Point) -> Tensor:
        return self.scale**0.5 * self.base._vectorize(self._map(p), self._map(ref))


class _Spectral(PullBack):
    """Pull-back by a matrix function ``f`` with inverse ``g``."""

    def __init__(
        self, base: Metric, f: SpectralFunction, g: SpectralFunction, scale: float, *, check: bool, compute_dtype: torch.dtype | None
    ) -> None:
        super().__init__(base, scale, check=check, compute_dtype=compute_dtype)
        self._f, self._g = f, g

    def _image(self, p: Point) -> Spectrum:
        return p.image(self._f, lambda p: moved(p.spectrum, self._f))

    def _map(self, p: Point) -> Point:
        return p.image(self, self._mapped)

    def _mapped(self, p: Point) -> Point:
        s = self._image(p)
        # The power of a negative number reverses the order of eigenvalues, which a factorisation promises.
        if isinstance(self._f, Power) and self._f.p < 0:
            s = Spectrum(s.X, s.values.flip(-1), s.vectors.flip(-1), s.dtype)
        return Point(s.X, p.name, check=p.check, spectrum=s)

    def _unmap(self, Y: Tensor, name: str) -> Tensor:
        return apply(self._preimage(Y, name), self._g)

    def _preimage(self, Y: Tensor, name: str) -> Spectrum:
        return spectrum_of(Y, Point(Y, name, check=self.check and self._g.positive))

    def _push(self, p: Point, V: Tensor) -> Tensor:
        s = p.spectrum
        return derivative(self._f, s.values, s.vectors, s.X, V)

    def _pull(self, p: Point, W: Tensor) -> Tensor:
        s = self._image(p)
        return derivative(self._g, s.values, s.vectors, s.X, W)

    def _in_domain(self, p: Point, V: Tensor) -> Tensor:
        inside = self.base._in_domain(self._map(p), self._push(p, V))
        if isinstance(self.base, Euclidean) and self._g.positive:
            return eigvalsh(self._map(p).X + self._push(p, V))[..., 0] > 0
        return inside


class LogEuclidean(_Spectral):
    r"""Log-Euclidean metric: flat in ``log X``. ``d^2 = alpha |log P - log Q|_F^2 + beta (tr(log P - log Q))^2``.

    Complete, mean in closed form, invariant under similarity and inversion (Arsigny et al., 2007).

    Args:
        alpha, beta: Weights of the O(n)-invariant inner product, ``alpha > 0``, ``beta > -alpha / n``.
        check, compute_dtype: As ``Metric``.

    Raises:
        ValueError: If ``alpha`` or ``beta`` is out of range (``beta`` when a matrix size is known).

    Example:
        >>> LogEuclidean().dist(torch.eye(2), torch.e * torch.eye(2))
        tensor(1.4142)
    """

    def __init__(self, alpha: float = 1.0, beta: float = 0.0, *, check: bool = True, compute_dtype: torch.dtype | None = None) -> None:
        super().__init__(Euclidean(alpha, beta), LOG, EXP, 1.0, check=check, compute_dtype=compute_dtype)
        self.alpha, self.beta = float(alpha), float(beta)

    def _options(self) -> dict[str, Any]:
        return {"alpha": self.alpha, "beta": self.beta}


def check_theta(theta: float, instead: str) -> float:
    """Raise unless ``theta`` is a number other than 0."""
    if not isinstance(theta, int | float) or isinstance(theta, bool):
        raise TypeError(f"theta must be a number, got {type(theta).__name__}")
    if theta == 0:
        raise ValueError(f"theta must not be 0; the limit is {instead}")
    return float(theta)


class PowerEuclidean(_Spectral):
    r"""Power-Euclidean metric: flat in ``X^theta``. ``d = |P^theta - Q^theta|_F / |theta|``.

    Not complete: ``exp`` of a long vector leaves the cone (``in_domain``). ``theta = 1`` is Euclidean; as ``theta`` goes to 0 it becomes
    log-Euclidean.

    Args:
        theta: Power, not 0.
        check, compute_dtype: As ``Metric``.

    Raises:
        ValueError: If ``theta`` is 0.

    Example:
        >>> PowerEuclidean(0.5).dist(torch.eye(1), 4 * torch.eye(1))
        tensor(2.)
    """

    def __init__(self, theta: float = 1.0, *, check: bool = True, compute_dtype: torch.dtype | None = None) -> None:
        self.theta = check_theta(theta, "LogEuclidean()")
        f, g = Power(self.theta), Power(1 / self.theta)
        super().__init__(Euclidean(), f, g, self.theta**-2, check=check, compute_dtype=compute_dtype)

    def _options(self) -> dict[str, Any]:
        return {"theta": self.theta}


class Deformed(_Spectral):
    r"""Power deformation of any metric: its pull-back by ``X^theta``, the inner product divided by ``theta^2``.

    ``d(P, Q) = d_metric(P^theta, Q^theta) / |theta|``. Deforming ``BuresWasserstein`` tends to half of ``LogEuclidean`` as ``theta`` goes
    to 0, in distance; log-Euclidean itself does not change (Thanwerdas and Pennec, 2022).

    Args:
        metric: What to deform.
        theta: Power, not 0.

    Raises:
        ValueError: If ``theta`` is 0.
        TypeError: If ``metric`` is not a ``Metric``.

    Example:
        >>> Deformed(AffineInvariant(), 0.5).dist(torch.eye(1), torch.e * torch.eye(1))
        tensor(1.)
    """

    def __init__(self, metric: Metric, theta: float) -> None:
        if not isinstance(metric, Metric):
            raise TypeError(f"metric must be a Metric, got {type(metric).__name__}")
        self.metric, self.theta = metric, check_theta(theta, "proportional to LogEuclidean()")
        f, g = Power(self.theta), Power(1 / self.theta)
        super().__init__(metric, f, g, self.theta**-2, check=metric.check, compute_dtype=metric.compute_dtype)

    def _options(self) -> dict[str, Any]:
        return {"metric": self.metric, "theta": self.theta}
