"""Manifolds for geoopt's Riemannian optimizers: SO(n), Stiefel with every retraction, Grassmann (extra ``geoopt``).

Each class is a ``geoopt.Manifold``: use it with ``geoopt.ManifoldParameter`` and ``geoopt.optim.RiemannianAdam`` or ``RiemannianSGD``.
Points are matrices in the last two dimensions, everything before is batch. Methods are those of ``geoopt.Manifold``.
"""

from typing import Any, Literal

import torch
from torch import Tensor

try:
    from geoopt import ManifoldTensor
    from geoopt.manifolds.base import Manifold
    from geoopt.utils import size2shape
except ImportError as error:  # pragma: no cover - depends on the environment
    raise ImportError("geocore's manifolds need geoopt: pip install 'geocore[geoopt]'") from error

from geocore import son
from geocore._checks import check_option, check_positive_int
from geocore._dispatch import matrix_exp
from geocore.orthogonal._polar import polar
from geocore.orthogonal._validate import orthogonality_error

__all__ = ["Grassmann", "SpecialOrthogonal", "Stiefel"]

_RETRACTIONS = ("qr", "polar", "cayley", "exp")


def _point(x: Tensor, manifold: Manifold) -> Tensor:
    make: Any = ManifoldTensor
    return make(x, manifold=manifold)


def _sym(A: Tensor) -> Tensor:
    return (A + A.mT) / 2


def _qf(A: Tensor) -> Tensor:
    """Orthogonal factor with the signs that make ``R`` positive: the retraction, not LAPACK's choice."""
    Q, R = torch.linalg.qr(A)
    return Q * torch.where(R.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(Q.dtype)[..., None, :]


def _inner(u: Tensor, v: Tensor, keepdim: bool) -> Tensor:
    return (u * v).sum((-2, -1), keepdim=keepdim)


class _Frames(Manifold):
    """What manifolds of orthonormal columns share."""

    ndim = 2
    reversible = False

    def _check_shape(self, shape: Any, name: str) -> Any:
        found: Any = super()._check_shape(shape, name)
        ok, reason = found
        if ok and shape[-1] > shape[-2]:
            return False, f"'{name}' on the {self} needs at least as many rows as columns, got {tuple(shape)}"
        return ok, reason

    def _check_point_on_manifold(self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> Any:
        error = float(torch.nan_to_num(orthogonality_error(x.detach()), nan=torch.inf).max()) if x.numel() else 0.0
        if error > atol + rtol:
            return False, f"columns must be orthonormal, |x^T x - I| is {error:.3g} with atol={atol}, rtol={rtol}"
        return True, None

    def _check_vector_on_tangent(self, x: Tensor, u: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> Any:
        error = float((u - self.proju(x, u)).abs().max()) if u.numel() else 0.0
        if error > atol + rtol * float(u.abs().max() if u.numel() else 0.0):
            return False, f"the vector leaves the tangent space by {error:.3g} with atol={atol}, rtol={rtol}"
        return True, None

    def projx(self, x: Tensor) -> Tensor:
        return polar(x)

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        return _inner(u, u if v is None else v, keepdim)

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return self.proju(x, u)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return self.proju(y, v)

    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False) -> Tensor:
        square = self.inner(x, u, keepdim=keepdim)
        some = square > 0
        return torch.where(some, torch.where(some, square, 1.0).sqrt(), 0.0)  # zero with zero gradient at the zero vector

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        return self.norm(x, self.logmap(x, y), keepdim=keepdim)

    def random(self, *size: Any, dtype: torch.dtype | None = None, device: Any = None, generator: torch.Generator | None = None) -> Tensor:
        """Point distributed uniformly (Haar)."""
        shape = size2shape(*size)
        self._assert_check_shape(shape, "x")
        x = torch.randn(shape, dtype=dtype, device=device, generator=generator)
        return _point(_qf(x), self)

    def origin(self, *size: Any, dtype: torch.dtype | None = None, device: Any = None, seed: int | None = 42) -> Tensor:
        """Columns of the identity."""
        shape = size2shape(*size)
        self._assert_check_shape(shape, "x")
        eye = torch.eye(*shape[-2:], dtype=dtype, device=device).expand(shape).clone()
        return _point(eye, self)


class SpecialOrthogonal(_Frames):
    """Rotations SO(n) with the bi-invariant metric ``<u, v> = tr(u^T v)``; tangent vectors at ``x`` are ``x S`` with ``S`` skew.

    Geodesics, logarithm, distance and transport (left translation, isometric) are exact.

    Args:
        n: Size of the matrices.
        retraction: ``"cayley"`` (one linear solve, second order), ``"exp"``, ``"polar"`` or ``"qr"``.

    Raises:
        ValueError: If ``n`` is below 1 or the retraction is unknown.
        TypeError: If ``n`` is not an int.

    Example:
        >>> R = geoopt.ManifoldParameter(SpecialOrthogonal(3).random(3, 3))
        >>> optimizer = geoopt.optim.RiemannianAdam([R], lr=1e-2)
    """

    name = "SpecialOrthogonal"
    reversible = True

    def __init__(self, n: int, *, retraction: Literal["qr", "polar", "cayley", "exp"] = "cayley") -> None:
        super().__init__()
        check_positive_int("n", n)
        check_option("retraction", retraction, _RETRACTIONS)
        self.n, self.retraction = n, retraction

    def extra_repr(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride] - geoopt's is typed as a literal
        return f"n={self.n}, retraction={self.retraction!r}"

    def _check_shape(self, shape: Any, name: str) -> Any:
        ok, reason = super()._check_shape(shape, name)
        if ok and tuple(shape[-2:]) != (self.n, self.n):
            return False, f"'{name}' on the {self} must have shape (..., {self.n}, {self.n}), got {tuple(shape)}"
        return ok, reason

    def _check_point_on_manifold(self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> Any:
        ok, reason = super()._check_point_on_manifold(x, atol=atol, rtol=rtol)
        if ok and bool((torch.linalg.det(x.detach()) < 0).any()):
            return False, "determinant must be +1, but it is -1: a reflection, not a rotation"
        return ok, reason

    def projx(self, x: Tensor) -> Tensor:
        return son.special_procrustes(x)

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        A = x.mT @ u
        return x @ ((A - A.mT) / 2)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return x @ son.exp(x.mT @ u)

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        return x @ son.log(x.mT @ y)

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        if self.retraction == "exp":
            return self.expmap(x, u)
        if self.retraction == "cayley":
            return x @ son.cayley(x.mT @ u)
        return _qf(x + u) if self.retraction == "qr" else polar(x + u)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return y @ (x.mT @ v)

    def random(self, *size: Any, dtype: torch.dtype | None = None, device: Any = None, generator: torch.Generator | None = None) -> Tensor:
        """Rotation distributed uniformly (Haar); without arguments one of size ``n``."""
        shape: Any = size2shape(*size) if size else (self.n, self.n)
        self._assert_check_shape(shape, "x")
        return _point(son.haar(self.n, shape[:-2], generator=generator, dtype=dtype, device=device), self)


class Stiefel(_Frames):
    """Orthonormal ``k``-frames of ``R^n``, matrices ``(..., n, k)`` with ``x^T x = I``.

    Args:
        metric: ``"euclidean"``, ``tr(u^T v)``, or ``"canonical"``, ``tr(u^T (I - x x^T / 2) v)``.
        retraction: ``"qr"``, ``"polar"``, ``"cayley"`` (one ``2k x 2k`` solve), or ``"exp"`` (the geodesic of the metric).
        max_iter: Steps of the logarithm, which has no closed form: a shooting method that converges for points within about 1.5 of
            each other.

    Raises:
        ValueError: If an option is unknown or ``max_iter`` is below 1.

    Example:
        >>> W = geoopt.ManifoldParameter(Stiefel(retraction="cayley").random(64, 8))
    """

    name = "Stiefel"

    def __init__(
        self,
        metric: Literal["euclidean", "canonical"] = "euclidean",
        retraction: Literal["qr", "polar", "cayley", "exp"] = "qr",
        *,
        max_iter: int = 100,
    ) -> None:
        super().__init__()
        check_option("metric", metric, ("euclidean", "canonical"))
        check_option("retraction", retraction, _RETRACTIONS)
        check_positive_int("max_iter", max_iter)
        self.metric, self.retraction, self.max_iter = metric, retraction, max_iter

    def extra_repr(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride] - geoopt's is typed as a literal
        return f"metric={self.metric!r}, retraction={self.retraction!r}"

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        return u - x @ _sym(x.mT @ u)

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return u - x @ u.mT @ x if self.metric == "canonical" else self.proju(x, u)

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        v = u if v is None else v
        value = _inner(u, v, keepdim)
        return value - _inner(x.mT @ u, x.mT @ v, keepdim) / 2 if self.metric == "canonical" else value

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        x, u = torch.broadcast_tensors(x, u)
        k = x.shape[-1]
        A = x.mT @ u
        if self.metric == "canonical":  # Edelman, Arias and Smith (1998), eq. 2.45
            Q, R = torch.linalg.qr(u - x @ A)
            core = torch.cat([torch.cat([A, -R.mT], dim=-1), torch.cat([R, torch.zeros_like(A)], dim=-1)], dim=-2)
            return torch.cat([x, Q], dim=-1) @ matrix_exp(core)[..., :k]
        # eq. 2.42
        eye = torch.eye(k, dtype=x.dtype, device=x.device).expand_as(A)
        core = torch.cat([torch.cat([A, -(u.mT @ u)], dim=-1), torch.cat([eye, A], dim=-1)], dim=-2)
        return torch.cat([x, u], dim=-1) @ matrix_exp(core)[..., :k] @ matrix_exp(-A)

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        if self.retraction == "qr":
            return _qf(x + u)
        if self.retraction == "polar":
            return polar(x + u)
        if self.retraction == "exp":
            return self.expmap(x, u)
        # Cayley transform of W = P u x^T - x u^T P, P = I - x x^T / 2, of rank 2k: solved in 2k dimensions (Wen and Yin, 2013).
        x, u = torch.broadcast_tensors(x, u)
        p = u - x @ (x.mT @ u) / 2
        left, right = torch.cat([p, x], dim=-1), torch.cat([x, -p], dim=-1)
        inner = right.mT @ left
        eye = torch.eye(inner.shape[-1], dtype=x.dtype, device=x.device)
        return x + left @ torch.linalg.solve_ex(eye - inner / 2, right.mT @ x)[0]

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """Tangent vector whose geodesic reaches ``y``, by shooting: the miss at the end, carried back, corrects the start.

        Raises:
            RuntimeError: If some item has not converged, because the points are too far apart.
        """
        u = self.proju(x, y - x)
        miss = torch.zeros_like(u)
        for _ in range(self.max_iter):
            end = self.expmap(x, u)
            miss = self.proju(end, y - end)
            back = self.proju(x, miss)
            # Projection shortens; keep the length of the miss.
            scale = _inner(miss, miss, True).sqrt() / _inner(back, back, True).sqrt().clamp(min=torch.finfo(u.dtype).tiny)
            u = u + scale.clamp(max=2.0) * back
            if bool((miss.abs() <= 4 * torch.finfo(u.dtype).eps).all()):
                break
        worst = float((self.expmap(x, u) - y).abs().max()) if u.numel() else 0.0
        if not worst <= 1e4 * torch.finfo(u.dtype).eps:
            raise RuntimeError(
                f"the Stiefel logarithm did not converge in {self.max_iter} steps (error {worst:.3g}); the points are too far apart"
            )
        return u


class Grassmann(_Frames):
    """``k``-dimensional subspaces of ``R^n``, each held as an orthonormal basis ``(..., n, k)``; the choice of basis does not matter.

    Tangent vectors are horizontal, ``x^T u = 0``, with ``<u, v> = tr(u^T v)``. Distance is the norm of the principal angles.

    Args:
        retraction: ``"qr"``, ``"polar"``, or ``"exp"`` (the geodesic).

    Raises:
        ValueError: If the retraction is unknown.

    Example:
        >>> basis = geoopt.ManifoldParameter(Grassmann().random(50, 3))
    """

    name = "Grassmann"

    def __init__(self, retraction: Literal["qr", "polar", "exp"] = "qr") -> None:
        super().__init__()
        check_option("retraction", retraction, ("qr", "polar", "exp"))
        self.retraction = retraction

    def extra_repr(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride] - geoopt's is typed as a literal
        return f"retraction={self.retraction!r}"

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        return u - x @ (x.mT @ u)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        U, s, Vh = torch.linalg.svd(u, full_matrices=False)
        y = (x @ Vh.mT) * torch.cos(s)[..., None, :] + U * torch.sin(s)[..., None, :]
        return y @ Vh

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """Horizontal vector whose geodesic reaches the subspace of ``y`` (some basis of it); angles below pi/2 make it unique."""
        # Turn y to the basis closest to x first: then sine and cosine of the same planes stand side by side.
        P, cos, Qh = torch.linalg.svd(x.mT @ y)
        aligned = y @ Qh.mT
        rest = aligned - (x @ P) * cos[..., None, :]
        sin = rest.square().sum(-2).sqrt()
        angle = torch.atan2(sin, cos)
        direction = rest / torch.where(sin > 0, sin, 1.0)[..., None, :]
        return self.proju(x, (direction * angle[..., None, :]) @ P.mT)

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        if self.retraction == "exp":
            return self.expmap(x, u)
        return _qf(x + u) if self.retraction == "qr" else polar(x + u)

    def same(self, x: Tensor, y: Tensor, *, atol: float = 1e-5) -> Tensor:
        """Whether two bases span the same subspace, shape ``(...)``."""
        return self.dist(x, y) <= atol
