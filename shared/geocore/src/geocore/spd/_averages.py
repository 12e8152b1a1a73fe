"""Means and variances, for every metric: the batch dimension, weights, what comes back."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geocore._checks import check_option, check_positive_int
from geocore.spd._checks import check_matrix, check_real, check_symmetric, no_autocast, values_readable, work_dtype

__all__ = ["Averages", "MeanInfo", "MeanOptions"]


class MeanInfo(NamedTuple):
    """How far to trust a mean.

    Args:
        converged: Whether the residual is below the tolerance, or below what rounding leaves at the condition of the matrices, shape
            ``(...)``; always true in closed form.
        residual: Length of the mean tangent vector at the mean, relative to the size of the mean where the metric has a scale, shape
            ``(...)``; 0 in closed form.
        iterations: Steps taken by the slowest item, a scalar.
    """

    converged: Bool[Tensor, "*batch"]
    residual: Float[Tensor, "*batch"]
    iterations: Int[Tensor, ""]


@dataclass(frozen=True)
class MeanOptions:
    """Options of ``Metric.mean`` for the iterative means."""

    grad: str
    steps: int | None
    max_iter: int
    tol: float
    info: bool


class Averages:
    """The methods ``mean`` and ``var`` of a metric, from its ``dist2`` and ``_mean``."""

    check: bool
    compute_dtype: torch.dtype | None

    def dist2(self, P: Tensor, Q: Tensor) -> Tensor:
        """Squared distance, see ``Metric``."""
        raise NotImplementedError(f"{type(self).__name__} has no distance")

    def _mean(self, X: Tensor, w: Tensor, options: MeanOptions, check: bool) -> tuple[Tensor, MeanInfo]:
        raise NotImplementedError(f"{type(self).__name__} has no mean")

    def _batch(self, X: Tensor, weights: Tensor | None, dim: int) -> tuple[Tensor, Tensor]:
        """Points with the averaged dimension third last, and normalised weights with it last."""
        check_matrix("X", X)
        at = dim if dim >= 0 else X.ndim + dim
        if not 0 <= at < X.ndim - 2:
            raise ValueError(f"dim must name a batch dimension of X with shape {tuple(X.shape)}, got {dim}")
        count = X.shape[at]
        if count < 1:
            raise ValueError(f"X must hold at least one matrix along dim = {dim}, got shape {tuple(X.shape)}")
        moved = X.movedim(at, -3)
        work = work_dtype(X, self.compute_dtype)
        if weights is None:
            return moved, torch.full((count,), 1.0 / count, dtype=work, device=X.device)
        check_real("weights", weights)
        w = weights.to(work)
        if w.ndim > 1:
            try:
                w = w.expand(X.shape[:-2]).movedim(at, -1)
            except RuntimeError:
                raise ValueError(
                    f"weights must have shape ({count},) or broadcast with {tuple(X.shape[:-2])}, got {tuple(weights.shape)}"
                ) from None
        elif tuple(w.shape) != (count,):
            raise ValueError(f"weights must have shape ({count},) or broadcast with {tuple(X.shape[:-2])}, got {tuple(weights.shape)}")
        if self.check and values_readable(w) and (bool((w < 0).any()) or not bool((w.sum(-1) > 0).all())):
            raise ValueError("weights must be non-negative with a positive sum")
        return moved, w / w.sum(-1, keepdim=True)

    @no_autocast
    def mean(
        self,
        X: Tensor,
        weights: Tensor | None = None,
        dim: int = 0,
        *,
        grad: Literal["implicit", "unroll", "none"] = "implicit",
        steps: int | None = None,
        max_iter: int = 100,
        tol: float | None = None,
        return_info: bool = False,
    ) -> Any:
        """Weighted Frechet mean, the minimiser of ``sum_k w_k d(M, X_k)^2``.

        Args:
            X: SPD matrices, shape ``(..., n, n)`` with at least one batch dimension.
            weights: Non-negative, shape ``(k,)`` for the averaged dimension or broadcasting with the batch; normalised here; equal by
                default.
            dim: Batch dimension to average over, counted on the whole shape.
            grad: ``"implicit"``: derivative of the converged mean by the implicit function theorem, first and second order; ``"unroll"``:
                through the iterations; ``"none"``: a constant. All the same for means in closed form, except ``"none"``.
            steps: Take exactly this many plain steps from the arithmetic mean (the unit Karcher step, the Bures-Wasserstein fixed point)
                and do not ask for convergence; the gradient is then that of the steps, or none.
            max_iter: Limit of iterations otherwise. Where values cannot be read (function transforms, compile) exactly this many plain
                steps are taken, and two Newton steps that solve a dense system in ``n (n + 1) / 2`` unknowns.
            tol: Residual that counts as converged; ``1e-12`` in float64, ``1e-5`` in float32. The iteration also stops where rounding stops
                it.
            return_info: Also return ``MeanInfo``.

        Returns:
            Shape of ``X`` without ``dim``; with ``return_info`` a tuple with ``MeanInfo``.

        Raises:
            NotPositiveDefiniteError: If a matrix is not positive definite.
            ValueError: If a shape or an option is wrong, or weights are negative.
            TypeError: If a dtype is not real floating point.

        Example:
            >>> X = torch.stack([torch.eye(2), 4 * torch.eye(2)])
            >>> AffineInvariant().mean(X).diagonal()
            tensor([2., 2.])
        """
        check_option("grad", grad, ("implicit", "unroll", "none"))
        if steps is not None:
            check_positive_int("steps", steps)
        check_positive_int("max_iter", max_iter)
        check_matrix("X", X)
        if self.check and values_readable(X):
            check_symmetric("X", X)
        points, w = self._batch(X, weights, dim)
        W = points.to(w.dtype)
        W = (W + W.mT) / 2
        if grad == "none":
            W, w = W.detach(), w.detach()
        if tol is None:
            tol = 1e-12 if W.dtype == torch.float64 else 1e-5
        M, info = self._mean(W, w, MeanOptions(grad, steps, max_iter, float(tol), return_info), self.check)
        M = M.to(X.dtype)
        return (M, info) if return_info else M

    def var(self, X: Tensor, weights: Tensor | None = None, dim: int = 0, *, mean: Tensor | None = None, **options: Any) -> Tensor:
        """Weighted Frechet variance ``sum_k w_k d(M, X_k)^2``.

        Args:
            X, weights, dim: As ``mean``.
            mean: ``M``, shape of ``X`` without ``dim``; the mean by default.
            options: For ``mean``.

        Returns:
            Shape ``(...)``, the batch of ``X`` without ``dim``.
        """
        M = self.mean(X, weights, dim, **options) if mean is None else mean
        points, w = self._batch(X, weights, dim)
        return (w.to(X.dtype) * self.dist2(points, M.unsqueeze(-3))).sum(-1)
