"""The Bures-Wasserstein metric and its pull-backs by a congruence."""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from geocore._checks import check_option, check_positive_int
from geocore._dispatch import eigvalsh
from geocore.spd._averages import MeanInfo, MeanOptions
from geocore.spd._checks import NotPositiveDefiniteError, check_matrix, check_symmetric, no_autocast, values_readable
from geocore.spd._differences import INVSQRT, SQRT, Clamp, Power, Product
from geocore.spd._equations import cholesky_of, solve_sylvester
from geocore.spd._flat import PullBack
from geocore.spd._means import Wasserstein, frechet_mean
from geocore.spd._metric import Metric
from geocore.spd._point import Point, color, direct, spectrum_of_gram, trace_function, wants_gradient, whiten
from geocore.spd._spectral import Spectrum, SymEig, apply, factorise, reassemble
from geocore.spd._transport import transport_from
from geocore.spd._vectorize import vech

__all__ = ["BuresWasserstein", "GeneralizedBuresWasserstein"]

_HALF_INVSQRT = Product(INVSQRT, Power(0.0), 0.5)
Domain = Literal["ignore", "raise", "clip"]


def _trace(X: Tensor) -> Tensor:
    return X.diagonal(dim1=-2, dim2=-1).sum(-1)


class BuresWasserstein(Metric):
    r"""Bures-Wasserstein metric, the 2-Wasserstein distance between centred Gaussians.

    ``d^2 = tr P + tr Q - 2 tr (P^1/2 Q P^1/2)^1/2``, ``<V, W>_P = tr(V L_P[W]) / 2`` with ``P L + L P = W`` (Bhatia, Jain and Lim, 2019).
    Invariant under rotation and homogeneous, ``d^2(cP, cQ) = c d^2(P, Q)``; of non-negative curvature and not complete: ``exp_P V = (I + L)
    P (I + L)`` is the exponential only while ``I + L`` is positive definite (``in_domain``); beyond, it is the same formula, still positive
    semidefinite, folded back.

    ``transport`` is in closed form where ``P`` and ``Q`` commute, to and from multiples of the identity in particular; otherwise it solves
    the equation of parallel transport along the geodesic by ``steps`` Runge-Kutta steps of fourth order (``method="ode"``; ``"closed"``
    forces the other).

    Args:
        domain: What ``exp`` does outside its domain: ``"ignore"``, ``"raise"`` (where values can be read), or ``"clip"``: floor the
            eigenvalues of ``I + L``.
        clip: Floor for ``domain="clip"``.
        check, compute_dtype: As ``Metric``.

    Raises:
        ValueError: If ``domain`` is unknown or ``clip`` is not positive.

    Example:
        >>> BuresWasserstein().dist(torch.eye(1), 4 * torch.eye(1))
        tensor(1.)
    """

    def __init__(
        self, *, domain: Domain = "ignore", clip: float = 1e-3, check: bool = True, compute_dtype: torch.dtype | None = None
    ) -> None:
        super().__init__(check=check, compute_dtype=compute_dtype)
        check_option("domain", domain, ("ignore", "raise", "clip"))
        if not clip > 0:
            raise ValueError(f"clip must be positive, got {clip}")
        self.domain: Domain = domain
        self.clip = float(clip)

    def _options(self) -> dict[str, Any]:
        return {} if self.domain == "ignore" else {"domain": self.domain, "clip": self.clip}

    @no_autocast
    def exp(self, P: Tensor | SymEig, V: Tensor, *, domain: Domain | None = None) -> Tensor:
        """Exponential map; see the class for what ``domain`` (its own by default) does.

        Args:
            P: SPD matrices, shape ``(..., n, n)``.
            V: Symmetric matrices of that shape.
            domain: ``"ignore"``, ``"raise"`` or ``"clip"``.

        Returns:
            Positive semidefinite matrices of the broadcast shape.

        Raises:
            NotPositiveDefiniteError: With ``domain="raise"``, if ``I + L`` is not positive definite somewhere.
        """
        if domain is not None:
            check_option("domain", domain, ("ignore", "raise", "clip"))
        (p,), (v,), leave = self._enter({"P": P}, {"V": V})
        return leave(self._exp(p, v, domain))

    def _dist2(self, p: Point, q: Point) -> Tensor:
        return _square_direct(p, q) if wants_gradient(p, q) else _square(p, q)

    def _inner(self, p: Point, V: Tensor, W: Tensor) -> Tensor:
        return (V * solve_sylvester(p.spectrum, p.spectrum, W)).sum((-2, -1)) / 2

    def _step(self, p: Point, V: Tensor) -> Tensor:
        L = solve_sylvester(p.spectrum, p.spectrum, V)
        return (L + L.mT) / 2 + torch.eye(L.shape[-1], dtype=L.dtype, device=L.device)

    def _exp(self, p: Point, V: Tensor, domain: Domain | None = None) -> Tensor:
        domain = domain or self.domain
        C = self._step(p, V)
        if domain == "raise" and values_readable(C):
            smallest = eigvalsh(C.detach())[..., 0]
            if C.numel() and not bool((smallest > 0).all()):
                worst = float(smallest.min())
                raise NotPositiveDefiniteError(
                    f"V must lie in the domain of the exponential, where I + L_P[V] is positive definite; its smallest eigenvalue is "
                    f"{worst:.6g}. Shorten V, or pass domain='clip'.",
                    tuple(int(i) for i in (~(smallest > 0)).nonzero()[0]),
                    worst,
                )
        if domain == "clip":
            s = factorise("I + L", C, positive=False, compute_dtype=C.dtype, check=False)
            C = apply(s, Clamp(C.new_tensor(self.clip)))
        X = C @ p.X @ C
        return (X + X.mT) / 2

    def _in_domain(self, p: Point, V: Tensor) -> Tensor:
        return eigvalsh(self._step(p, V))[..., 0] > 0

    def _log(self, p: Point, q: Point) -> Tensor:
        return _cross(p, q) - 2 * p.X

    def _geodesic(self, p: Point, q: Point, t: Tensor) -> Tensor:
        t = t[..., None, None]
        return (1 - t) ** 2 * p.X + t**2 * q.X + t * (1 - t) * _cross(p, q)

    def _transport(self, p: Point, q: Point, V: Tensor, **options: Any) -> Tensor:
        return _transport(p, q, V, **options)

    def _mean(self, X: Tensor, w: Tensor, options: MeanOptions, check: bool) -> tuple[Tensor, MeanInfo]:
        return frechet_mean(Wasserstein(), X, w, options, check)

    def _egrad2rgrad(self, p: Point, G: Tensor) -> Tensor:
        R = 2 * p.X @ G
        return R + R.mT

    def _vectorize(self, p: Point, ref: Point) -> Tensor:
        return vech(transport_from(ref.spectrum, self._log(ref, p), -1)) / 2


def _sandwich(p: Point, q: Point) -> Tensor:
    """``L^T Q L``, which has the spectrum of ``P^1/2 Q P^1/2``."""
    return p.cholesky.mT @ q.X @ p.cholesky


def _square(p: Point, q: Point) -> Tensor:
    """``tr P + tr Q - 2 tr (L^T Q L)^1/2``."""
    return _trace(p.X) + _trace(q.X) - 2 * trace_function(_sandwich(p, q), SQRT, _HALF_INVSQRT, lambda: _root(p, q))


def _square_direct(p: Point, q: Point) -> Tensor:
    """The same with its gradients ``I - T`` in ``P`` and ``I - T^-1`` in ``Q``, ``T = L^-T (L^T Q L)^1/2 L^-1`` the optimal map."""
    L = p.cholesky.detach()
    s = spectrum_of_gram(L.mT @ q.X.detach() @ L, lambda: _root(p, q))
    root = s.values.sqrt()
    value = _trace(p.X.detach()) + _trace(q.X.detach()) - 2 * root.sum(-1)

    def gradients() -> tuple[Tensor, Tensor]:
        eye = torch.eye(L.shape[-1], dtype=L.dtype, device=L.device)
        W = torch.linalg.solve_triangular(L.mT, s.vectors, upper=True)
        return eye - reassemble(W, root), eye - reassemble(L @ s.vectors, 1 / root)

    return direct(p, q, value, gradients, lambda P, Q: _square(Point(P, p.name, check=False), Point(Q, q.name, check=False)))


def _root(p: Point, q: Point) -> Tensor:
    return p.cholesky.detach().mT @ q.cholesky.detach()


def _seen(p: Point, q: Point) -> Spectrum:
    return spectrum_of_gram(_sandwich(p, q), lambda: _root(p, q))


def _cross(p: Point, q: Point) -> Tensor:
    """``(PQ)^1/2 + (QP)^1/2``: ``(PQ)^1/2 = L (L^T Q L)^1/2 L^-1``."""
    L = p.cholesky
    R = apply(_seen(p, q), SQRT)
    K = torch.linalg.solve_triangular(L.mT, (L @ R).mT, upper=True)
    return K + K.mT


def _transport(p: Point, q: Point, V: Tensor, *, method: str = "auto", steps: int = 40) -> Tensor:
    check_option("method", method, ("auto", "closed", "ode"))
    check_positive_int("steps", steps)
    if method == "closed" or (method == "auto" and _may_use_closed_form(p, q)):
        return transport_from(q.spectrum, transport_from(p.spectrum, V, -1), 1)
    return _transport_along(p, q, V, steps)


def _is_multiple_of_identity(x: Point) -> bool:
    X = x.X
    eye = torch.eye(X.shape[-1], dtype=X.dtype, device=X.device)
    return bool((X[..., :1, :1] * eye == X).all())


def _may_use_closed_form(p: Point, q: Point) -> bool:
    """The closed form has the right value where the two commute, and the right derivative only while they go on to."""
    if not values_readable(p.X) or not p.X.numel() or not q.X.numel():
        return False
    moving = [x for x in (p, q) if torch.is_grad_enabled() and x.X.requires_grad]
    still = [x for x in (p, q) if x not in moving]
    if any(_is_multiple_of_identity(x) for x in still):
        return True
    if moving:
        return False
    K = p.X @ q.X
    gap = (K - K.mT).abs().amax((-2, -1))
    return bool((gap <= 4 * K.shape[-1] * torch.finfo(K.dtype).eps * K.abs().amax((-2, -1))).all())


def _transport_along(p: Point, q: Point, V: Tensor, steps: int) -> Tensor:
    """Parallel transport as an ordinary differential equation for ``S`` in ``V = S P + P S``.

    Horizontal lifts ``S Y`` with ``Y Y^T = P`` are parallel if ``d(S Y)/dt`` is vertical: ``S' P + P S' = -(S N P + P N S)`` with ``P' = N
    P + P N``. The geodesic does not depend on ``V``, so all its points are factorised in one batch.
    """
    nodes = 2 * steps + 1
    L = p.cholesky
    R = apply(_seen(p, q), SQRT)
    half = torch.linalg.solve_triangular(L.mT, R, upper=True)
    T = torch.linalg.solve_triangular(L.mT, half.mT, upper=True)  # the optimal map, T P T = Q
    T = (T + T.mT) / 2
    t = torch.linspace(0, 1, nodes, dtype=T.dtype, device=T.device).reshape(-1, *(1,) * T.ndim)
    eye = torch.eye(T.shape[-1], dtype=T.dtype, device=T.device)
    step = (1 - t) * eye + t * T
    P = step @ p.X @ step
    P = (P + P.mT) / 2
    path = factorise("P", P, positive=False, compute_dtype=P.dtype, check=False)
    ahead = factorise("P", step, positive=False, compute_dtype=P.dtype, check=False)
    N = solve_sylvester(ahead, ahead, 2 * (T - eye).expand_as(step))
    NP = N @ P

    def at(k: int) -> Spectrum:
        return Spectrum(path.X[k], path.values[k], path.vectors[k], path.dtype)

    def slope(k: int, S: Tensor) -> Tensor:
        K = S @ NP[k]
        return -solve_sylvester(at(k), at(k), K + K.mT)

    S = solve_sylvester(p.spectrum, p.spectrum, V)
    S = S + torch.zeros_like(T)
    h = 1 / steps
    for i in range(steps):
        a = slope(2 * i, S)
        b = slope(2 * i + 1, S + h / 2 * a)
        c = slope(2 * i + 1, S + h / 2 * b)
        d = slope(2 * i + 2, S + h * c)
        S = S + h / 6 * (a + 2 * b + 2 * c + d)
    K = S @ q.X
    return K + K.mT


class GeneralizedBuresWasserstein(PullBack):
    r"""Bures-Wasserstein metric seen through ``M``: its pull-back by ``X -> M^-1/2 X M^-1/2`` (Han et al., 2023).

    ``<V, W>_P = tr(V L) / 2`` with ``P L M + M L P = W``. ``M = I`` is ``BuresWasserstein``; at ``P = M`` it is a quarter of
    ``AffineInvariant``. Since the Bures-Wasserstein metric does not change under rotation, a Cholesky factor of ``M`` serves for the square
    root.

    Args:
        M: SPD matrix, shape ``(n, n)`` or batched; may require a gradient.
        domain, clip, check, compute_dtype: As ``BuresWasserstein``.

    Raises:
        NotPositiveDefiniteError: If ``M`` is not positive definite.
        ValueError: If ``M`` is not symmetric, or an option is wrong.
        TypeError: If ``M`` is not real floating point.

    Example:
        >>> GeneralizedBuresWasserstein(4 * torch.eye(1)).dist(torch.eye(1), 4 * torch.eye(1))
        tensor(0.5000)
    """

    def __init__(
        self,
        M: Float[Tensor, "*mbatch n n"],
        *,
        domain: Domain = "ignore",
        clip: float = 1e-3,
        check: bool = True,
        compute_dtype: torch.dtype | None = None,
    ) -> None:
        check_matrix("M", M)
        if check and values_readable(M):
            check_symmetric("M", M)
        base = BuresWasserstein(domain=domain, clip=clip, check=check, compute_dtype=compute_dtype)
        super().__init__(base, check=check, compute_dtype=compute_dtype)
        self.M = M
        if check and values_readable(M):
            self._root(torch.float64)

    def _options(self) -> dict[str, Any]:
        return {"M": self.M}

    def _root(self, dtype: torch.dtype) -> Tensor:
        W = self.M.to(dtype)
        return cholesky_of("M", (W + W.mT) / 2, check=self.check)

    def _map(self, p: Point) -> Point:
        return p.image(self, lambda p: Point(whiten(self._root(p.X.dtype), p.X), p.name, check=p.check))

    def _unmap(self, Y: Tensor, name: str) -> Tensor:
        return color(self._root(Y.dtype), Y)

    def _push(self, p: Point, V: Tensor) -> Tensor:
        return whiten(self._root(p.X.dtype), V)

    def _pull(self, p: Point, W: Tensor) -> Tensor:
        return color(self._root(p.X.dtype), W)

    def _copull(self, p: Point, G: Tensor) -> Tensor:
        return color(self._root(p.X.dtype).mT, G)

    @no_autocast
    def exp(self, P: Tensor | SymEig, V: Tensor, *, domain: Domain | None = None) -> Tensor:
        """Exponential map; ``domain`` as in ``BuresWasserstein``.

        Args:
            P: SPD matrices, shape ``(..., n, n)``.
            V: Symmetric matrices of that shape.
            domain: ``"ignore"``, ``"raise"`` or ``"clip"``.

        Returns:
            Positive semidefinite matrices of the broadcast shape.

        Raises:
            NotPositiveDefiniteError: With ``domain="raise"``, outside the domain.
        """
        if domain is not None:
            check_option("domain", domain, ("ignore", "raise", "clip"))
        (p,), (v,), leave = self._enter({"P": P}, {"V": V})
        base: Any = self.base
        return leave(self._unmap(base._exp(self._map(p), self._push(p, v), domain), "exp(P, V)"))
