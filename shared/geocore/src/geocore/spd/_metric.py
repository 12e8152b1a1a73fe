"""What all metrics on SPD(n) share: checks, precision, means, and what follows from exp, log and the inner product."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from geocore._checks import check_broadcastable
from geocore.spd._averages import Averages
from geocore.spd._checks import (
    check_real,
    check_same_size,
    check_symmetric,
    no_autocast,
    values_readable,
    work_dtype,
)
from geocore.spd._differences import EXP
from geocore.spd._point import Point
from geocore.spd._spectral import Spectrum, SymEig, apply, factorise, wants_grad

__all__ = ["Metric", "safe_root"]


def safe_root(square: Tensor, zero: Tensor) -> Tensor:
    """Square root with value and gradient 0 where ``zero``."""
    return torch.where(zero, 0.0, torch.sqrt(torch.where(zero, 1.0, square)))


class Metric(Averages):
    """Base class of the metrics.

    Methods take SPD matrices of shape ``(..., n, n)`` and symmetric tangent vectors of the same shape, with broadcasting batches; ``P``,
    ``Q`` and the like may be a ``SymEig``. Results have the dtype of the first argument. ``|log_P Q|_P = d(P, Q)`` for every metric.

    Args:
        check: Whether to raise for arguments that are not symmetric positive definite, where values can be read.
        compute_dtype: Working precision as in ``eigh``.
    """

    def __init__(self, *, check: bool = True, compute_dtype: torch.dtype | None = None) -> None:
        self.check, self.compute_dtype = check, compute_dtype

    def __repr__(self) -> str:
        listed = ", ".join(f"{k}={v!r}" for k, v in self._options().items())
        return f"{type(self).__name__}({listed})"

    def _options(self) -> dict[str, Any]:
        return {}

    # What a metric defines; matrices in working precision.

    def _dist2(self, p: Point, q: Point) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no distance")

    def _inner(self, p: Point, V: Tensor, W: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no inner product")

    def _exp(self, p: Point, V: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no exponential map")

    def _log(self, p: Point, q: Point) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no logarithm")

    def _geodesic(self, p: Point, q: Point, t: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no geodesics")

    def _transport(self, p: Point, q: Point, V: Tensor, **options: Any) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no parallel transport")

    def _egrad2rgrad(self, p: Point, G: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no Riemannian gradient")

    def _vectorize(self, p: Point, ref: Point) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no tangent coordinates")

    def _in_domain(self, p: Point, V: Tensor) -> Tensor:
        return torch.ones(torch.broadcast_shapes(p.X.shape[:-2], V.shape[:-2]), dtype=torch.bool, device=V.device)

    # Entering and leaving.

    def _enter(
        self, points: dict[str, Any], vectors: dict[str, Tensor] | None = None
    ) -> tuple[list[Point], list[Tensor], Callable[[Tensor], Tensor]]:
        plain = {name: (x.matrix if isinstance(x, SymEig) else x) for name, x in points.items()}
        vectors = vectors or {}
        check_same_size(**plain, **vectors)
        first = next(iter(plain.values()))
        out = first.dtype
        work = torch.float32
        for x in (*plain.values(), *vectors.values()):
            work = torch.promote_types(work, work_dtype(x, self.compute_dtype))
        made = []
        for name, x in points.items():
            if isinstance(x, SymEig):
                s = factorise(name, x, check=self.check)
                s = Spectrum((s.X.to(work) + s.X.to(work).mT) / 2, s.values.to(work), s.vectors.to(work), work)
                made.append(Point(s.X, name, check=self.check, spectrum=s))
                continue
            exact = self.check and values_readable(x) and check_symmetric(name, x)
            W = x.to(work)
            made.append(Point(W if exact and not wants_grad(W) else (W + W.mT) / 2, name, check=self.check))
        tangents = []
        for V in vectors.values():
            W = V.to(work)
            tangents.append((W + W.mT) / 2)

        def leave(x: Tensor) -> Tensor:
            return x.to(out)

        return made, tangents, leave

    # Public methods.

    @no_autocast
    def dist2(self, P: Tensor | SymEig, Q: Tensor | SymEig) -> Tensor:
        """Squared distance, smooth at ``P = Q``.

        Args:
            P, Q: SPD matrices, shape ``(..., n, n)``.

        Returns:
            Shape ``(...)``.

        Raises:
            NotPositiveDefiniteError: If an argument is not positive definite.
            ValueError: If shapes differ or an argument is not symmetric.
            TypeError: If a dtype is not real floating point.

        Example:
            >>> LogEuclidean().dist2(torch.eye(2), torch.e * torch.eye(2))
            tensor(2.)
        """
        (p, q), _, leave = self._enter({"P": P, "Q": Q})
        return leave(self._dist2(p, q))

    @no_autocast
    def dist(self, P: Tensor | SymEig, Q: Tensor | SymEig) -> Tensor:
        """Distance; its gradient at ``P = Q``, where none exists, is 0.

        Args:
            P, Q: SPD matrices, shape ``(..., n, n)``.

        Returns:
            Shape ``(...)``.
        """
        (p, q), _, leave = self._enter({"P": P, "Q": Q})
        square = self._dist2(p, q)
        same = (p.X == q.X).all(-1).all(-1)
        return leave(safe_root(square, same | (square <= 0)))

    @no_autocast
    def inner(self, P: Tensor | SymEig, V: Tensor, W: Tensor) -> Tensor:
        """Inner product of tangent vectors at ``P``.

        Args:
            P: SPD matrices, shape ``(..., n, n)``.
            V, W: Symmetric matrices of that shape.

        Returns:
            Shape ``(...)``.
        """
        (p,), (v, w), leave = self._enter({"P": P}, {"V": V, "W": W})
        return leave(self._inner(p, v, w))

    @no_autocast
    def norm(self, P: Tensor | SymEig, V: Tensor) -> Tensor:
        """Length of a tangent vector at ``P``; gradient 0 at ``V = 0``.

        Args:
            P: SPD matrices, shape ``(..., n, n)``.
            V: Symmetric matrices of that shape.

        Returns:
            Shape ``(...)``.
        """
        (p,), (v,), leave = self._enter({"P": P}, {"V": V})
        square = self._inner(p, v, v)
        return leave(safe_root(square, square <= 0))

    @no_autocast
    def exp(self, P: Tensor | SymEig, V: Tensor) -> Tensor:
        """Exponential map: the end of the geodesic that leaves ``P`` with velocity ``V``; see ``in_domain``.

        Args:
            P: SPD matrices, shape ``(..., n, n)``.
            V: Symmetric matrices of that shape.

        Returns:
            SPD matrices of the broadcast shape.
        """
        (p,), (v,), leave = self._enter({"P": P}, {"V": V})
        return leave(self._exp(p, v))

    def in_domain(self, P: Tensor | SymEig, V: Tensor) -> Bool[Tensor, "*batch"]:
        """Where the geodesic from ``P`` with velocity ``V`` stays inside the cone until time 1, so that ``exp`` is right.

        Args:
            P: SPD matrices, shape ``(..., n, n)``.
            V: Symmetric matrices of that shape.

        Returns:
            Boolean mask of shape ``(...)``; true everywhere for the complete metrics.
        """
        (p,), (v,), _ = self._enter({"P": P}, {"V": V})
        return self._in_domain(p, v)

    @no_autocast
    def log(self, P: Tensor | SymEig, Q: Tensor | SymEig) -> Tensor:
        """Logarithm: the velocity at ``P`` of the geodesic that reaches ``Q`` at time 1.

        Args:
            P, Q: SPD matrices, shape ``(..., n, n)``.

        Returns:
            Symmetric matrices of the broadcast shape.
        """
        (p, q), _, leave = self._enter({"P": P, "Q": Q})
        return leave(self._log(p, q))

    @no_autocast
    def geodesic(self, A: Tensor | SymEig, B: Tensor | SymEig, t: float | Tensor) -> Tensor:
        """Point at time ``t`` on the geodesic from ``A`` (0) to ``B`` (1).

        Args:
            A, B: SPD matrices, shape ``(..., n, n)``.
            t: Number, or tensor that broadcasts with the batch; differentiable.

        Returns:
            SPD matrices of the broadcast shape.
        """
        (a, b), _, leave = self._enter({"A": A, "B": B})
        if isinstance(t, Tensor):
            check_real("t", t)
            check_broadcastable(A=a.X.shape[:-2], B=b.X.shape[:-2], t=t.shape)
        time = t.to(a.X) if isinstance(t, Tensor) else torch.as_tensor(float(t), dtype=a.X.dtype, device=a.X.device)
        return leave(self._geodesic(a, b, time))

    @no_autocast
    def transport(self, P: Tensor | SymEig, Q: Tensor | SymEig, V: Tensor, **options: Any) -> Tensor:
        """Parallel transport of ``V`` along the geodesic from ``P`` to ``Q``; an isometry.

        Args:
            P, Q: SPD matrices, shape ``(..., n, n)``.
            V: Symmetric matrices of that shape.
            options: Of the Bures-Wasserstein metrics, see there.

        Returns:
            Symmetric matrices of the broadcast shape.
        """
        (p, q), (v,), leave = self._enter({"P": P, "Q": Q}, {"V": V})
        return leave(self._transport(p, q, v, **options))

    @no_autocast
    def egrad2rgrad(self, P: Tensor | SymEig, G: Tensor) -> Tensor:
        """Riemannian gradient at ``P`` of a function whose Euclidean gradient is ``G`` (its symmetric part counts).

        Args:
            P: SPD matrices, shape ``(..., n, n)``.
            G: Shape ``(..., n, n)``.

        Returns:
            Symmetric matrices ``R`` with ``<R, V>_P = tr(G V)`` for all ``V``.
        """
        (p,), (g,), leave = self._enter({"P": P}, {"G": G})
        return leave(self._egrad2rgrad(p, g))

    @no_autocast
    def retract(self, P: Tensor | SymEig, V: Tensor) -> Tensor:
        """``P + V + V P^-1 V / 2``: positive definite for every ``V``, no eigendecomposition.

        Agrees with ``exp`` to first order, with that of ``AffineInvariant`` to second.

        Args:
            P: SPD matrices, shape ``(..., n, n)``.
            V: Symmetric matrices of that shape.

        Returns:
            SPD matrices of the broadcast shape.
        """
        (p,), (v,), leave = self._enter({"P": P}, {"V": V})
        # (P + (P + V) P^-1 (P + V)) / 2
        half = torch.linalg.solve_triangular(p.cholesky, p.X + v, upper=False)
        return leave((p.X + half.mT @ half) / 2)

    @no_autocast
    def vectorize(self, X: Tensor | SymEig, ref: Tensor | SymEig | None = None) -> Tensor:
        """Coordinates of ``log_ref X`` in an orthonormal basis of the tangent space at ``ref``: ``|vectorize(X, ref)| = d(ref, X)``.

        Args:
            X: SPD matrices, shape ``(..., n, n)``.
            ref: Base points, shape ``(..., n, n)``; the identity by default.

        Returns:
            Shape ``(..., n (n + 1) / 2)``.
        """
        if ref is None:
            (x,), _, leave = self._enter({"X": X})
            r = Point(torch.eye(x.X.shape[-1], dtype=x.X.dtype, device=x.X.device), "ref", check=False)
        else:
            (x, r), _, leave = self._enter({"X": X, "ref": ref})
        return leave(self._vectorize(x, r))

    @no_autocast
    def random(
        self,
        *size: Any,
        scale: float = 0.5,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Random SPD matrices: the exponential of a symmetric Gaussian matrix (isotropic for ``|.|_F``).

        Args:
            size: Shape ``(..., n, n)``, as numbers or one tuple.
            scale: Standard deviation of the diagonal of the logarithm.
            generator: Randomness.
            dtype, device: Of the result.

        Returns:
            Shape ``size``.

        Raises:
            ValueError: If ``size`` does not end in two equal numbers.
        """
        shape = tuple(size[0]) if len(size) == 1 and isinstance(size[0], tuple | list | torch.Size) else size
        if len(shape) < 2 or shape[-1] != shape[-2]:
            raise ValueError(f"size must end in two equal numbers (..., n, n), got {shape}")
        A = torch.randn(shape, generator=generator, dtype=dtype, device=device)
        S = (torch.tril(A, -1) + torch.tril(A, -1).mT) * 0.5**0.5 + torch.diag_embed(A.diagonal(dim1=-2, dim2=-1))
        s = factorise("size", scale * S, positive=False, check=False)
        return apply(s, EXP).to(s.dtype)
