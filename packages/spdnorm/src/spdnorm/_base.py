"""The procedure that every batch normalisation of this package follows, whatever its metric."""

import warnings
from typing import Any, Literal

import torch
from torch import Tensor, nn

from geocore._checks import check_option
from geocore._precision import full_precision
from spdnorm._checks import check_definite, check_matrices, readable, set_aside
from spdnorm._geometry import Geometry
from spdnorm._statistics import RunningStatistics, store
from spdnorm._sync import Average
from spdnorm._weights import Param, SPDWeight

__all__ = ["RiemannianBatchNorm", "StatsGrad", "Variance"]

Variance = Literal["mean", "identity", "none"]
StatsGrad = Literal["none", "unroll", "implicit"]


class RiemannianBatchNorm(nn.Module):
    """Centre at a mean, divide by the dispersion, carry to a bias: the common part.

    A subclass says in ``geometry()`` under which metric. Statistics are kept in a ``RunningStatistics``, which a layer with one set of them
    is itself, and a layer with domains holds several of.
    """

    _mean_residual: Tensor
    _outside: Tensor
    _seen: Tensor

    def _setup(
        self,
        num_features: int,
        *,
        bias: bool,
        scale: bool,
        eps: float,
        karcher_steps: int,
        variance: Variance,
        stats_grad: StatsGrad,
        param: Param,
        check: bool | None,
        sync: bool,
        process_group: Any,
        dtype: torch.dtype,
        device: torch.device | str | None,
    ) -> None:
        check_option("variance", variance, ("mean", "identity", "none"))
        check_option("stats_grad", stats_grad, ("none", "unroll", "implicit"))
        if not eps >= 0:
            raise ValueError(f"eps must be at least 0, got {eps}")
        if isinstance(karcher_steps, bool) or not isinstance(karcher_steps, int) or karcher_steps < 0:
            raise ValueError(f"karcher_steps must be an int of at least 0, got {karcher_steps!r}")
        if dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"dtype must be torch.float32 or torch.float64, got {dtype}; lower precision has too few digits for eigenvalues"
            )
        self.eps, self.karcher_steps, self.variance, self.stats_grad, self.param = eps, karcher_steps, variance, stats_grad, param
        self.check, self.sync, self.process_group = check, sync, process_group
        self.learn_bias, self.learn_scale = bias, scale
        eye = torch.eye(num_features, dtype=dtype, device=device)
        self.bias_matrix = SPDWeight(eye, param=param, learn=bias)
        one = torch.ones((), dtype=dtype, device=device)
        if scale:
            self.s = nn.Parameter(one)
        else:
            self.register_buffer("s", one)
        for name in ("_mean_residual", "_outside", "_seen"):
            self.register_buffer(name, torch.zeros((), dtype=dtype, device=device), persistent=False)
        self._first_batch_checked = self._warned_of_one = False

    @property
    def W(self) -> Tensor:
        """The bias, SPD ``(n, n)``; assign to set it."""
        return self.bias_matrix()

    @W.setter
    def W(self, value: Tensor) -> None:
        self.bias_matrix.assign(value)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Bias ``I`` and scale 1."""
        self.bias_matrix.assign(torch.eye(self.bias_matrix.weight.shape[-1]))
        self.s.fill_(1.0)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay must not touch."""
        return {"s"}

    def geometry(self) -> Geometry:
        """The metric with the present parameters."""
        raise NotImplementedError(f"{type(self).__name__} must implement this method")

    def _check_values(self, X: Tensor) -> None:
        """Look at the eigenvalues where that is asked for, free (on the CPU), or the documented first training batch."""
        if self.check is False or not readable() or X.device.type == "meta":
            return
        if self.check or X.device.type == "cpu" or (self.training and not self._first_batch_checked):
            check_definite("X", X)
            self._first_batch_checked = self._first_batch_checked or self.training

    @full_precision
    def _normalise(self, X: Tensor, stats: RunningStatistics, *, training: bool) -> Tensor:
        given = X.dtype
        W = self.W
        dtype = torch.promote_types(given, W.dtype)
        self._check_values(X)
        x, bad = set_aside(X.to(dtype))
        if stats.per_channel is not False:
            if X.ndim < 3:
                raise ValueError(f"X must have shape (..., channels, n, n) with per_channel, got {tuple(X.shape)}")
            stats.fit_channels(X.shape[-3])
        geometry = self.geometry()
        Y = geometry.encode(x)
        if training:
            out = self._train(geometry, Y, bad, stats, W.to(dtype))
        else:
            m, v = geometry.load(stats.running_mean.to(dtype)), stats.running_var.to(dtype)
            out = geometry.finish(geometry.centre(Y, m), self._factor(v))
            out = torch.where(bad[..., None, None], float("nan"), out)
        return out.to(given)

    def _factor(self, v: Tensor) -> Tensor:
        s = self.s.to(v.dtype)
        return (s if self.variance == "none" else s * (v + self.eps).rsqrt())[..., None, None]

    def _train(self, geometry: Geometry, Y: Tensor, bad: Tensor, stats: RunningStatistics, W: Tensor) -> Tensor:
        average = Average(Y.shape[:-2], per_channel=stats.per_channel is not False, sync=self.sync, group=self.process_group, like=Y)
        if average.local == 0 and not average.sync:
            return Y
        poisoned = average.any(bad)
        alone = average.local == 1 and not average.sync
        if alone and not self._warned_of_one and not torch.compiler.is_compiling():
            self._warned_of_one = True
            warnings.warn(
                f"{type(self).__name__} was trained on a batch of one matrix: the batch has no dispersion, and the output is the bias W",
                stacklevel=4,
            )
        differentiate = self.stats_grad != "none"
        source = Y if differentiate else Y.detach()
        with torch.set_grad_enabled(differentiate and torch.is_grad_enabled()):
            m = self._mean(geometry, source, average)
        with torch.no_grad():
            stats.num_batches_tracked.add_(1)
        batch_mean = m
        if stats.renormalise:
            m = stats.move("train", geometry, batch_mean, stats._train_momentum, poisoned)
        centred = geometry.centre(Y, m)
        v = self._dispersion(geometry, Y, centred, average)
        v = v if differentiate else v.detach()
        used = v
        if stats.renormalise and self.variance != "none":
            used = stats.move_variance("train", v.detach(), stats._train_momentum, poisoned)
        self._track(geometry, batch_mean.detach(), v.detach(), Y.detach(), average, stats, poisoned)
        if alone:
            out = W + 0.0 * Y  # exactly W, still connected to everything upstream
        else:
            factor = self._factor(used)
            if average.sync:  # whether there is only one matrix in all is known on the device only
                factor = torch.where(torch.as_tensor(average.count) > 1, factor, torch.zeros_like(factor))
            out = geometry.finish(centred, factor)
        self._diagnose(geometry, centred, average)
        return torch.where(poisoned, float("nan"), out)

    def _mean(self, geometry: Geometry, Y: Tensor, average: Average) -> Tensor:
        if self.stats_grad == "implicit":
            if average.sync:
                raise NotImplementedError("stats_grad must be 'none' or 'unroll' with sync=True: implicit gradients stay on one process")
            keep = Y.shape[len(average.dims) :]
            return geometry.converged_mean(Y.reshape(-1, *keep), self.karcher_steps)
        return geometry.mean(Y, average, self.karcher_steps)

    def _dispersion(self, geometry: Geometry, Y: Tensor, centred: Any, average: Average) -> Tensor:
        if self.variance == "none":
            return self.s.new_ones((), dtype=Y.dtype)
        if self.variance == "identity":
            return average(geometry.dispersion_about_identity(Y if self.stats_grad != "none" else Y.detach()))
        return average(geometry.dispersion(centred))

    @torch.no_grad()
    def _track(self, geometry: Geometry, m: Tensor, v: Tensor, Y: Tensor, average: Average, stats: RunningStatistics, skip: Tensor) -> None:
        """Move the statistics for evaluation."""
        rate = stats.rate()
        moved = stats.move("running", geometry, m, rate, skip)
        if stats.renormalise and self.variance == "mean":  # measured to the updated running mean (Kobler et al.)
            v = average(geometry.dispersion(geometry.centre(Y, moved)))
        if self.variance != "none":
            stats.move_variance("running", v, rate, skip)

    @torch.no_grad()
    def _diagnose(self, geometry: Geometry, centred: Any, average: Average) -> None:
        """What ``diagnostics`` reports of the latest batch, kept on the device."""
        V = geometry.tangent(centred)
        if V is None:
            return
        size = V.square().sum((-2, -1)).mean().sqrt()
        residual = V.mean(average.dims) if average.dims else V
        store(self._mean_residual, residual.square().sum((-2, -1)).mean().sqrt() / torch.where(size > 0, size, 1.0))
        if geometry.outside is not None:
            store(self._outside, self._outside + geometry.outside.sum())
            store(self._seen, self._seen + geometry.outside.numel())

    @torch.no_grad()
    def _refit(self, X: Tensor, stats: RunningStatistics) -> None:
        """Set the statistics to those of one batch."""
        rate = stats._momentum.clone()
        count, cumulative = stats.num_batches_tracked.clone(), stats.cumulative
        stats._momentum.fill_(1.0)
        stats.cumulative = False
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._normalise(X, stats, training=True)
        finally:
            stats._momentum.copy_(rate)
            stats.cumulative = cumulative
            stats.num_batches_tracked.copy_(count)

    @staticmethod
    def _condition(name: str, A: Tensor) -> dict[str, float]:
        values = torch.linalg.eigvalsh(A.detach())
        return {f"condition_{name}": float((values[..., -1] / values[..., 0]).max())}

    @torch.no_grad()
    def _common_diagnostics(self) -> dict[str, float]:
        seen = float(self._seen)
        return {
            **self._condition("W", self.W),
            "domain_violation_rate": float(self._outside) / seen if seen else 0.0,
            "mean_residual": float(self._mean_residual),
        }

    def _check_input(self, X: Any, num_features: int) -> None:
        check_matrices("X", X, num_features)
