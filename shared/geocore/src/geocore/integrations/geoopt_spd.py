"""SPD matrices as a manifold for geoopt's Riemannian optimizers, with any metric of ``geocore.spd`` (extra ``geoopt``)."""

from typing import Any, Literal

import torch
from torch import Tensor

try:
    from geoopt import ManifoldTensor
    from geoopt.manifolds.base import Manifold
    from geoopt.utils import size2shape
except ImportError as error:  # pragma: no cover - depends on the environment
    raise ImportError("geocore's manifolds need geoopt: pip install 'geocore[geoopt]'") from error

from geocore._checks import check_option
from geocore.spd import AffineInvariant, BuresWasserstein, Deformed, GeneralizedBuresWasserstein, Metric, is_spd, nearest_spd, sym

__all__ = ["SPD"]


def _curved(metric: Metric) -> bool:
    """Whether transport is the solution of a differential equation."""
    if isinstance(metric, Deformed):
        return _curved(metric.metric)
    return isinstance(metric, BuresWasserstein | GeneralizedBuresWasserstein)


class SPD(Manifold):
    """Symmetric positive definite matrices ``(..., n, n)`` with a metric of ``geocore.spd``.

    Args:
        metric: ``AffineInvariant()`` by default; any metric with an exponential map.
        retraction: ``"second_order"``, ``P + V + V P^-1 V / 2``, positive definite for every step and without eigendecomposition; or
            ``"exp"``, the geodesic.
        transport: ``"parallel"``, or ``"identity"``: a symmetric matrix is tangent everywhere. By default parallel where it is in closed
            form, and the identity for the Bures-Wasserstein metrics, where it is not.

    Raises:
        ValueError: If an option is unknown.
        TypeError: If ``metric`` is not a ``Metric``.

    Example:
        >>> W = geoopt.ManifoldParameter(SPD(BuresWasserstein()).random(8, 8))
        >>> optimizer = geoopt.optim.RiemannianAdam([W], lr=1e-2)
    """

    name = "SPD"
    ndim = 2
    reversible = False

    def __init__(
        self,
        metric: Metric | None = None,
        *,
        retraction: Literal["second_order", "exp"] = "second_order",
        transport: Literal["parallel", "identity"] | None = None,
    ) -> None:
        super().__init__()
        metric = AffineInvariant() if metric is None else metric
        if not isinstance(metric, Metric):
            raise TypeError(f"metric must be a Metric of geocore.spd, got {type(metric).__name__}")
        check_option("retraction", retraction, ("second_order", "exp"))
        if transport is not None:
            check_option("transport", transport, ("parallel", "identity"))
        self.metric, self.retraction = metric, retraction
        self.transport = transport or ("identity" if _curved(metric) else "parallel")

    def extra_repr(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride] - geoopt's is typed as a literal
        return f"{self.metric!r}, retraction={self.retraction!r}, transport={self.transport!r}"

    def _check_shape(self, shape: Any, name: str) -> Any:
        found: Any = super()._check_shape(shape, name)
        ok, reason = found
        if ok and shape[-1] != shape[-2]:
            return False, f"'{name}' on the {self} must be square, got {tuple(shape)}"
        return ok, reason

    def _check_point_on_manifold(self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> Any:
        error = float((x - x.mT).abs().max()) if x.numel() else 0.0
        if not error <= atol + rtol * (float(x.abs().max()) if x.numel() else 0.0):
            return False, f"the matrix must be symmetric, |x - x^T| is {error:.3g} with atol={atol}, rtol={rtol}"
        if not bool(is_spd(x.detach(), atol=1.0).all()):
            return False, "the matrix must be positive definite, an eigenvalue is not positive"
        return True, None

    def _check_vector_on_tangent(self, x: Tensor, u: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> Any:
        error = float((u - u.mT).abs().max()) if u.numel() else 0.0
        if not error <= atol + rtol * (float(u.abs().max()) if u.numel() else 0.0):
            return False, f"a tangent vector must be symmetric, |u - u^T| is {error:.3g} with atol={atol}, rtol={rtol}"
        return True, None

    def projx(self, x: Tensor) -> Tensor:
        return nearest_spd(x)

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        return sym(u)

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return self.metric.egrad2rgrad(x, u)

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        value = self.metric.inner(x, u, u if v is None else v)
        return value[..., None, None] if keepdim else value

    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False) -> Tensor:
        value = self.metric.norm(x, u)
        return value[..., None, None] if keepdim else value

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        value = self.metric.dist(x, y)
        return value[..., None, None] if keepdim else value

    def dist2(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        value = self.metric.dist2(x, y)
        return value[..., None, None] if keepdim else value

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return self.metric.exp(x, u)

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        return self.metric.log(x, y)

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        return self.metric.exp(x, u) if self.retraction == "exp" else self.metric.retract(x, u)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        if self.transport == "identity":
            return v.expand(torch.broadcast_shapes(x.shape, y.shape, v.shape))
        return self.metric.transport(x, y, v)

    def geodesic(self, x: Tensor, y: Tensor, t: float | Tensor) -> Tensor:
        """Point at time ``t`` on the geodesic from ``x`` to ``y``."""
        return self.metric.geodesic(x, y, t)

    def mean(self, x: Tensor, weights: Tensor | None = None, dim: int = 0, **options: Any) -> Tensor:
        """Frechet mean, see ``geocore.spd.Metric.mean``."""
        return self.metric.mean(x, weights, dim, **options)

    def random(
        self,
        *size: Any,
        scale: float = 0.5,
        dtype: torch.dtype | None = None,
        device: Any = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The exponential of a symmetric Gaussian matrix."""
        shape: Any = size2shape(*size)
        self._assert_check_shape(shape, "x")
        make: Any = ManifoldTensor
        return make(self.metric.random(*shape, scale=scale, dtype=dtype, device=device, generator=generator), manifold=self)

    def origin(self, *size: Any, dtype: torch.dtype | None = None, device: Any = None, seed: int | None = 42) -> Tensor:
        """The identity."""
        shape: Any = size2shape(*size)
        self._assert_check_shape(shape, "x")
        make: Any = ManifoldTensor
        return make(torch.eye(shape[-1], dtype=dtype, device=device).expand(shape).clone(), manifold=self)
