"""Divided differences of spectral functions up to order three, without cancellation and without a threshold on equality.

The Frechet derivatives of ``f(X) = U diag(f(l)) U^T`` are sums over divided differences of ``f`` at the eigenvalues (Daleckii and Krein).
First differences are closed forms; so are second ones of roots and the inverse. The others follow from the recursion where the points are
apart, and from the Taylor series of ``f`` about their midpoint where they are close, both to a few eps.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "EXP",
    "INV",
    "INVSQRT",
    "LOG",
    "SQRT",
    "Clamp",
    "Elementwise",
    "Exponential",
    "Logarithm",
    "Power",
    "Product",
    "SpectralFunction",
]

_CLOSE = 0.2
"""Spread relative to the smallest point below which the series is used; with 18 terms it is exact to rounding."""
_TERMS = 18


_TINY = 1e-30
"""Stands for a difference of 0: log1p and expm1 are the identity there, so the quotients below are exact."""


def _relative(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The smaller of two numbers, and their distance in its units."""
    low = torch.minimum(a, b)
    return low, (a - b).abs() / low + _TINY


def _sorted(*points: Tensor) -> list[Tensor]:
    if len(points) == 3:
        a, b, c = points
        low, high = torch.minimum(a, b), torch.maximum(a, b)
        return [torch.minimum(low, c), torch.maximum(low, torch.minimum(high, c)), torch.maximum(high, c)]
    return list(torch.stack(torch.broadcast_tensors(*points), dim=-1).sort(dim=-1)[0].unbind(-1))


def _complete(offsets: list[Tensor], terms: int) -> list[Tensor]:
    """Complete homogeneous symmetric polynomials of degree 0 to ``terms - 1``."""
    out = [torch.ones_like(offsets[0])]
    partial = [torch.ones_like(offsets[0]) for _ in offsets]
    for _ in range(terms - 1):
        total = torch.zeros_like(offsets[0])
        for r, u in enumerate(offsets):
            total = total + u * partial[r]
            partial[r] = total
        out.append(total)
    return out


class SpectralFunction:
    """A function on eigenvalues with its divided differences."""

    positive = True
    """Whether it is defined for positive definite matrices only."""

    def value(self, a: Tensor) -> Tensor:
        """``f(a)``."""
        raise NotImplementedError(f"{type(self).__name__} must implement this method")

    def first(self, a: Tensor, b: Tensor) -> Tensor:
        """``f[a, b]``, symmetric, broadcasting."""
        raise NotImplementedError(f"{type(self).__name__} must implement this method")

    def second(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        """``f[a, b, c]``, symmetric, broadcasting."""
        low, mid, high = _sorted(a, b, c)
        return self._recursion([low, mid, high], self.first)

    def third(self, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        """``f[a, b, c, d]``, symmetric, broadcasting."""
        return self._recursion(_sorted(a, b, c, d), self.second)

    def _close(self, low: Tensor, high: Tensor) -> Tensor:
        return high - low <= _CLOSE * low

    def _series(self, points: list[Tensor]) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must implement this method")

    def _recursion(self, points: list[Tensor], lower: Callable[..., Tensor]) -> Tensor:
        low, high = points[0], points[-1]
        close = self._close(low, high)
        apart = torch.where(close, 1.0, high - low)
        far = (lower(*points[1:]) - lower(*points[:-1])) / apart
        # Collapsed where unused, so that no overflow there reaches a derivative.
        near = [torch.where(close, x, low) for x in points]
        return torch.where(close, self._series(near), far)


@dataclass(frozen=True)
class Power(SpectralFunction):
    """``x^p`` on positive ``x``; closed forms for the roots and the inverse.

    Args:
        p: Exponent.
    """

    p: float

    def value(self, a: Tensor) -> Tensor:
        if self.p == 0.5:
            return torch.sqrt(a)
        if self.p == -0.5:
            return torch.rsqrt(a)
        return torch.reciprocal(a) if self.p == -1 else a**self.p

    def first(self, a: Tensor, b: Tensor) -> Tensor:
        p = self.p
        if p == 0.5:
            return 1 / (torch.sqrt(a) + torch.sqrt(b))
        if p == -0.5:
            r, s = torch.sqrt(a), torch.sqrt(b)
            return -1 / (r * s * (r + s))
        if p == -1:
            return -1 / (a * b)
        if p in (0.0, 1.0):
            return torch.full_like(a * b, p)
        if p == 2:
            return a + b
        low, step = _relative(a, b)
        return low ** (p - 1) * (torch.expm1(p * torch.log1p(step)) / step)

    def second(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        p = self.p
        if p == 0.5:
            x, y, z = torch.sqrt(a), torch.sqrt(b), torch.sqrt(c)
            return -1 / ((x + y) * (y + z) * (x + z))
        if p == -0.5:
            x, y, z = torch.sqrt(a), torch.sqrt(b), torch.sqrt(c)
            return (x + y + z) / (x * y * z) / ((x + y) * (y + z) * (x + z))
        if p == -1:
            return 1 / (a * b * c)
        if p in (0.0, 1.0, 2.0):
            return torch.full_like(a * b * c, 1.0 if p == 2 else 0.0)
        return super().second(a, b, c)

    def third(self, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        if self.p == -1:
            return -1 / (a * b * c * d)
        if self.p in (0.0, 1.0, 2.0):
            return torch.zeros_like(a * b * c * d)
        return super().third(a, b, c, d)

    def _series(self, points: list[Tensor]) -> Tensor:
        order = len(points) - 1
        center = points[0] / 2 + points[-1] / 2
        binomial = 1.0
        for i in range(order):
            binomial *= (self.p - i) / (i + 1)
        total = torch.zeros_like(center)
        for k, h in enumerate(_complete([(x - center) / center for x in points], _TERMS)):
            total = total + binomial * h
            binomial *= (self.p - order - k) / (order + k + 1)
        return total * center ** (self.p - order)


@dataclass(frozen=True)
class Logarithm(SpectralFunction):
    """Natural logarithm."""

    def value(self, a: Tensor) -> Tensor:
        return torch.log(a)

    def first(self, a: Tensor, b: Tensor) -> Tensor:
        low, step = _relative(a, b)
        return torch.log1p(step) / (step * low)

    def _series(self, points: list[Tensor]) -> Tensor:
        order = len(points) - 1
        center = points[0] / 2 + points[-1] / 2
        total = torch.zeros_like(center)
        for k, h in enumerate(_complete([(x - center) / center for x in points], _TERMS)):
            total = total + (-1) ** (k + order - 1) / (k + order) * h
        return total * center**-order


@dataclass(frozen=True)
class Exponential(SpectralFunction):
    """Exponential, of any symmetric matrix."""

    positive = False

    def value(self, a: Tensor) -> Tensor:
        return torch.exp(a)

    def first(self, a: Tensor, b: Tensor) -> Tensor:
        # e^{(a+b)/2} sinhc((a-b)/2), written so that only e^max can overflow.
        step = (a - b).abs() + _TINY
        return torch.exp(torch.maximum(a, b)) * (-torch.expm1(-step) / step)

    def _close(self, low: Tensor, high: Tensor) -> Tensor:
        return high - low <= 0.5

    def _series(self, points: list[Tensor]) -> Tensor:
        order = len(points) - 1
        center = points[0] / 2 + points[-1] / 2
        total = torch.zeros_like(center)
        for k, h in enumerate(_complete([x - center for x in points], _TERMS)):
            total = total + h / math.factorial(k + order)
        return total * torch.exp(center)


@dataclass(frozen=True)
class Clamp(SpectralFunction):
    """``max(x, t)``: 1 above, 0 below, 0 at exactly ``t``.

    Args:
        threshold: Tensor that broadcasts with eigenvalues of shape ``(..., n)``; differences see it with more trailing axes.
    """

    threshold: Tensor
    positive = False

    def value(self, a: Tensor) -> Tensor:
        return torch.maximum(a, self._like(a, 1))

    def _like(self, a: Tensor, axes: int) -> Tensor:
        t = self.threshold.to(a)
        return t.reshape(*t.shape, *(1,) * axes)

    def first(self, a: Tensor, b: Tensor) -> Tensor:
        return self._pair(torch.minimum(a, b), torch.maximum(a, b), self._like(a, 2))

    @staticmethod
    def _pair(low: Tensor, high: Tensor, t: Tensor) -> Tensor:
        apart = torch.where(high > low, high - low, 1.0)
        return torch.where(low > t, 1.0, torch.where(high <= t, 0.0, (high - t) / apart))

    def second(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return self._triple(_sorted(a, b, c), self._like(a, 3))

    def _triple(self, points: list[Tensor], t: Tensor) -> Tensor:
        low, mid, high = points
        straddling = (low <= t) & (high > t)
        apart = torch.where(straddling, high - low, 1.0)
        return torch.where(straddling, (self._pair(mid, high, t) - self._pair(low, mid, t)) / apart, 0.0)

    def third(self, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        points = _sorted(a, b, c, d)
        t = self._like(a, 4)
        straddling = (points[0] <= t) & (points[-1] > t)
        apart = torch.where(straddling, points[-1] - points[0], 1.0)
        return torch.where(straddling, (self._triple(points[1:], t) - self._triple(points[:-1], t)) / apart, 0.0)


@dataclass(frozen=True)
class Product(SpectralFunction):
    """``scale f g``, with the differences of Leibniz' rule.

    Args:
        f, g: Factors.
        scale: Constant.
    """

    f: SpectralFunction
    g: SpectralFunction
    scale: float = 1.0

    def value(self, a: Tensor) -> Tensor:
        return self.scale * self.f.value(a) * self.g.value(a)

    def first(self, a: Tensor, b: Tensor) -> Tensor:
        f, g = self.f, self.g
        return self.scale * (f.value(a) * g.first(a, b) + f.first(a, b) * g.value(b))

    def second(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        f, g = self.f, self.g
        return self.scale * (f.value(a) * g.second(a, b, c) + f.first(a, b) * g.first(b, c) + f.second(a, b, c) * g.value(c))

    def third(self, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        f, g = self.f, self.g
        outer = f.value(a) * g.third(a, b, c, d) + f.third(a, b, c, d) * g.value(d)
        return self.scale * (outer + f.first(a, b) * g.second(b, c, d) + f.second(a, b, c) * g.first(c, d))


@dataclass(frozen=True)
class Elementwise(SpectralFunction):
    """Any differentiable elementwise function of the eigenvalues.

    First differences come from ``dd``, or from the quotient, with the derivative at the midpoint where the points are within ``sqrt(eps)``.
    Higher ones follow from the recursion, with the derivative at the midpoint where all points are within ``eps^(1/3)``.

    Args:
        f: Elementwise function.
        dd: ``dd(a, b) = (f(a) - f(b)) / (a - b)`` without cancellation.
    """

    f: Callable[[Tensor], Tensor]
    dd: Callable[[Tensor, Tensor], Tensor] | None = None
    positive = False

    def value(self, a: Tensor) -> Tensor:
        return self.f(a)

    def _derivative(self, x: Tensor, order: int) -> Tensor:
        """``f^(order)(x) / order!``; the function is elementwise, so the gradient of its sum is its derivative."""
        g = self.f
        for _ in range(order):
            g = self._slope(g)
        return g(x) / math.factorial(order)

    @staticmethod
    def _slope(g: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return torch.func.grad(lambda x: g(x).sum())

    def first(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = torch.broadcast_tensors(a, b)
        if self.dd is not None:
            return self.dd(a, b)
        close = (a - b).abs() <= torch.finfo(a.dtype).eps ** 0.5 * (a.abs() + b.abs())
        apart = torch.where(close, 1.0, a - b)
        return torch.where(close, self._derivative(a / 2 + b / 2, 1), (self.f(a) - self.f(b)) / apart)

    def _close(self, low: Tensor, high: Tensor) -> Tensor:
        return high - low <= torch.finfo(low.dtype).eps ** (1 / 3) * (low.abs() + high.abs())

    def _series(self, points: list[Tensor]) -> Tensor:
        return self._derivative(points[0] / 2 + points[-1] / 2, len(points) - 1)


SQRT, INVSQRT, INV, LOG, EXP = Power(0.5), Power(-0.5), Power(-1.0), Logarithm(), Exponential()
