"""What a batch normalisation needs to know of a metric: a working space, means and geodesics in it, tangent vectors, and the way back.

A geometry is made anew for every forward pass from the present parameters. ``centre`` returns something opaque that ``dispersion`` and
``finish`` of the same geometry understand.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from geocore import spd
from spdnorm import functional as F

__all__ = ["AffineInvariantGeometry", "BuresGeometry", "ChartGeometry", "Geometry", "MetricGeometry"]

Mean = Callable[[Tensor], Tensor]


def _eye(X: Tensor) -> Tensor:
    return torch.eye(X.shape[-1], dtype=X.dtype, device=X.device)


class Geometry:
    """Interface; by default statistics are kept as points of the working space."""

    outside: Tensor | None = None
    """After ``finish``: which matrices left the domain of the exponential map, if this geometry has one."""

    def encode(self, X: Tensor) -> Tensor:
        """SPD matrices to the working space."""
        raise NotImplementedError(f"{type(self).__name__} must implement this method")

    def mean(self, Y: Tensor, average: Mean, steps: int) -> Tensor:
        """Mean of a batch."""
        raise NotImplementedError(f"{type(self).__name__} must implement this method")

    def between(self, A: Tensor, B: Tensor, t: float | Tensor) -> Tensor:
        """Point at ``t`` on the geodesic from ``A`` to ``B``."""
        raise NotImplementedError(f"{type(self).__name__} must implement this method")

    def centre(self, Y: Tensor, m: Tensor) -> Any:
        """Tangent vectors at the origin."""
        raise NotImplementedError(f"{type(self).__name__} must implement this method")

    def converged_mean(self, Y: Tensor, steps: int) -> Tensor:
        """Mean over the first dimension, converged, whose gradient comes from its defining equation."""
        return Y.mean(0)

    def tangent(self, centred: Any) -> Tensor | None:
        """Those vectors as symmetric matrices (or coordinates); ``None`` where that would cost a factorisation."""
        return centred

    def dispersion(self, centred: Any) -> Tensor:
        """Squared length of every vector."""
        raise NotImplementedError(f"{type(self).__name__} must implement this method")

    def dispersion_about_identity(self, Y: Tensor) -> Tensor:
        """Squared distance of every point to ``I``, as released code measures it."""
        raise NotImplementedError(f"{type(self).__name__} has no dispersion about the identity")

    def finish(self, centred: Any, factor: Tensor) -> Tensor:
        """Multiply by ``factor (..., 1, 1)``, carry to the bias, and return to SPD matrices."""
        raise NotImplementedError(f"{type(self).__name__} must implement this method")

    def save(self, m: Tensor) -> Tensor:
        """SPD matrix that stands for a point of the working space."""
        return m

    def load(self, R: Tensor) -> Tensor:
        """Inverse of ``save``."""
        return R


class BuresGeometry(Geometry):
    """Bures-Wasserstein, generalised by ``M`` and deformed by ``theta``."""

    def __init__(
        self,
        W: Tensor,
        *,
        M: Tensor | None = None,
        theta: float = 1.0,
        domain: F.Domain = "ignore",
        clip: float = 1e-3,
        fold: bool = False,
        data_space: bool = False,
    ) -> None:
        self.domain: F.Domain = domain
        self.theta, self.clip, self.fold, self.data_space = theta, clip, fold, data_space
        self.root, self.inverse = (None, None) if M is None else spd.sqrtm_invsqrtm(M, check=False)
        self.w = self.encode(W)

    def encode(self, X: Tensor) -> Tensor:
        P = X if self.theta == 1 else spd.powm(X, self.theta, check=False)
        return P if self.inverse is None else F.congruence(self.inverse, P)

    def decode(self, Z: Tensor) -> Tensor:
        """Working space to SPD matrices."""
        return F.root_power(Z if self.root is None else F.congruence(self.root, Z), self.theta)

    def mean(self, Y: Tensor, average: Mean, steps: int) -> Tensor:
        m = average(Y)
        for _ in range(steps):
            m = F.barycentre_step(Y, m, average)
        return m

    def between(self, A: Tensor, B: Tensor, t: float | Tensor) -> Tensor:
        return F.bures_geodesic(A, B, t)

    def converged_mean(self, Y: Tensor, steps: int) -> Tensor:
        return spd.BuresWasserstein(check=False).mean(Y, grad="implicit", max_iter=max(100, steps))

    def centre(self, Y: Tensor, m: Tensor) -> Tensor:
        V = F.centre(Y, m)
        return self._there_and_back(V) if self.fold else V

    def dispersion(self, centred: Tensor) -> Tensor:
        return centred.square().sum((-2, -1)) / (2 * self.theta) ** 2

    def dispersion_about_identity(self, Y: Tensor) -> Tensor:
        """``theta^-2 d^2(Y, I)``: the sum of ``(sqrt(lambda) - 1)^2``."""
        return (torch.linalg.eigvalsh(Y).clamp(min=0).sqrt() - 1).square().sum(-1) / self.theta**2

    def finish(self, centred: Tensor, factor: Tensor) -> Tensor:
        V = factor * centred
        V = self._there_and_back(V) if self.fold else V
        Z, map_ = F.grow(V, self.w, self.domain, self.clip)
        if self.domain == "ignore":
            self.outside = torch.linalg.cholesky_ex(map_.detach())[1] > 0
        return self.decode(Z)

    def _there_and_back(self, V: Tensor) -> Tensor:
        """``log_I(exp_I(V)) = 2 |I + V / 2| - 2 I``, as released: folds eigenvalues below -2."""
        grown = _eye(V) + V / 2
        return 2 * F.root_power(grown @ grown, 2.0) - 2 * _eye(V)

    def save(self, m: Tensor) -> Tensor:
        return self.decode(m) if self.data_space else m

    def load(self, R: Tensor) -> Tensor:
        return self.encode(R) if self.data_space else R


class AffineInvariantGeometry(Geometry):
    """Affine-invariant metric, deformed by ``theta``; the bias is a congruence with ``W^(1/2)`` or with the Cholesky factor of ``W``."""

    def __init__(
        self,
        W: Tensor,
        *,
        theta: float = 1.0,
        alpha: float = 1.0,
        beta: float = 0.0,
        bias_map: Literal["sqrt", "cholesky"] = "sqrt",
        scaled: bool = True,
    ) -> None:
        self.theta, self.alpha, self.beta, self.scaled = theta, alpha, beta, scaled
        w = self.encode(W)
        self.root = spd.sqrtm(w, check=False) if bias_map == "sqrt" else torch.linalg.cholesky_ex(w)[0]

    def encode(self, X: Tensor) -> Tensor:
        return X if self.theta == 1 else spd.powm(X, self.theta, check=False)

    def mean(self, Y: Tensor, average: Mean, steps: int) -> Tensor:
        m = average(Y)
        for _ in range(steps):
            root, inverse = spd.sqrtm_invsqrtm(m, check=False)
            m = F.congruence(root, spd.expm(average(spd.logm(F.congruence(inverse, Y), check=False)), check=False))
        return m

    def between(self, A: Tensor, B: Tensor, t: float | Tensor) -> Tensor:
        root, inverse = spd.sqrtm_invsqrtm(A, check=False)
        return F.congruence(root, spd.expm(t * spd.logm(F.congruence(inverse, B), check=False), check=False))

    def converged_mean(self, Y: Tensor, steps: int) -> Tensor:
        return spd.AffineInvariant(check=False).mean(Y, grad="implicit", max_iter=max(100, steps))

    def centre(self, Y: Tensor, m: Tensor) -> Tensor:
        X = F.congruence(spd.invsqrtm(m, check=False), Y)
        return spd.logm(X, check=False) if self.scaled else X

    def tangent(self, centred: Tensor) -> Tensor | None:
        return centred if self.scaled else None

    def dispersion(self, centred: Tensor) -> Tensor:
        return invariant_norm2(centred, self.alpha, self.beta) / self.theta**2

    def finish(self, centred: Tensor, factor: Tensor) -> Tensor:
        Z = F.congruence(self.root, spd.expm(factor * centred, check=False) if self.scaled else centred)
        return F.root_power(Z, self.theta)


def invariant_norm2(V: Tensor, alpha: float, beta: float) -> Tensor:
    """``alpha |V|_F^2 + beta (tr V)^2``."""
    value = alpha * V.square().sum((-2, -1))
    return value if beta == 0 else value + beta * V.diagonal(dim1=-2, dim2=-1).sum(-1).square()


class ChartGeometry(Geometry):
    """Metrics that are Euclidean in a chart: Log-Euclidean, Log-Cholesky, Power-Euclidean."""

    def __init__(
        self,
        W: Tensor,
        *,
        chart: Literal["lem", "lcm", "pem"],
        theta: float = 1.0,
        alpha: float = 1.0,
        beta: float = 0.0,
        domain: F.Domain = "clip",
        clip: float = 1e-3,
    ) -> None:
        self.chart, self.theta, self.alpha, self.beta, self.domain, self.clip = chart, theta, alpha, beta, domain, clip
        self.shift = self.encode(W)

    def encode(self, X: Tensor) -> Tensor:
        if self.chart == "lem":  # the power deformation of this metric is itself
            return spd.logm(X, check=False)
        P = X if self.theta == 1 else spd.powm(X, self.theta, check=False)
        if self.chart == "pem":
            return P / self.theta
        L = torch.linalg.cholesky_ex(P)[0]
        return (torch.tril(L, -1) + torch.diag_embed(L.diagonal(dim1=-2, dim2=-1).log())) / self.theta

    def decode(self, C: Tensor) -> Tensor:
        """Chart to SPD matrices."""
        if self.chart == "lem":
            return spd.expm(C, check=False)
        if self.chart == "pem":
            return F.root_power(self._inside(self.theta * C), self.theta)
        L = torch.tril(self.theta * C, -1) + torch.diag_embed((self.theta * C.diagonal(dim1=-2, dim2=-1)).exp())
        return F.root_power(L @ L.mT, self.theta)

    def _inside(self, P: Tensor) -> Tensor:
        """The image of the Power-Euclidean chart is a cone, and sums leave it: raise eigenvalues to ``clip`` of the mean size."""
        outside = torch.linalg.cholesky_ex(P.detach())[1] > 0
        if self.domain == "raise" and bool(outside.any()):
            raise ValueError(
                f"every matrix must stay in the image of the power chart, but {int(outside.sum())} of {outside.numel()} leave it. Use "
                "domain='clip', or a smaller scale s or larger bias W."
            )
        self.outside = outside
        floor = self.clip * P.detach().square().mean((-2, -1), keepdim=True).mul(P.shape[-1]).sqrt()
        return floor * spd.clamp_eig(P / floor, 1.0, check=False) if self.domain == "clip" else P

    def mean(self, Y: Tensor, average: Mean, steps: int) -> Tensor:
        return average(Y)

    def between(self, A: Tensor, B: Tensor, t: float | Tensor) -> Tensor:
        return A + t * (B - A)

    def centre(self, Y: Tensor, m: Tensor) -> Tensor:
        return Y - m

    def dispersion(self, centred: Tensor) -> Tensor:
        return invariant_norm2(centred, self.alpha, self.beta)

    def finish(self, centred: Tensor, factor: Tensor) -> Tensor:
        return self.decode(factor * centred + self.shift)

    def save(self, m: Tensor) -> Tensor:
        return self.decode(m)

    def load(self, R: Tensor) -> Tensor:
        return self.encode(R)


class MetricGeometry(Geometry):
    """Any ``geocore.spd`` metric that has exponential, logarithm, transport and inner product, by the textbook steps."""

    def __init__(self, W: Tensor, *, metric: Any) -> None:
        self.metric, self.W = metric, W

    def encode(self, X: Tensor) -> Tensor:
        return X

    def mean(self, Y: Tensor, average: Mean, steps: int) -> Tensor:
        m = average(Y)
        for _ in range(steps):
            m = self.metric.exp(m, average(self.metric.log(m, Y)))
        return m

    def between(self, A: Tensor, B: Tensor, t: float | Tensor) -> Tensor:
        return self.metric.geodesic(A, B, t)

    def converged_mean(self, Y: Tensor, steps: int) -> Tensor:
        return self.metric.mean(Y, grad="implicit", max_iter=max(100, steps))

    def centre(self, Y: Tensor, m: Tensor) -> Tensor:
        return self.metric.transport(m, _eye(Y), self.metric.log(m, Y))

    def dispersion(self, centred: Tensor) -> Tensor:
        return self.metric.inner(_eye(centred), centred, centred)

    def finish(self, centred: Tensor, factor: Tensor) -> Tensor:
        return self.metric.exp(self.W, self.metric.transport(_eye(centred), self.W, factor * centred))
