"""Batch normalisation layers: generalised Bures-Wasserstein with a learnable metric, and every other metric behind one interface."""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from geocore._checks import check_option
from spdnorm import functional as F
from spdnorm._base import RiemannianBatchNorm, StatsGrad, Variance
from spdnorm._geometry import BuresGeometry, Geometry
from spdnorm._metrics import geometry_maker
from spdnorm._statistics import RunningStatistics
from spdnorm._weights import Param, SPDWeight

__all__ = ["GBWBatchNorm", "SPDBatchNorm"]


class GBWBatchNorm(RunningStatistics, RiemannianBatchNorm):
    r"""Batch normalisation of SPD matrices in generalised, power-deformed Bures-Wasserstein geometry (Wang et al., CVPR 2025).

    With ``phi(X) = M^(-1/2) X^theta M^(-1/2)``: the batch is centred at its barycentre, tangent vectors are multiplied by ``s / sqrt(v +
    eps)``
    with the dispersion ``v``, carried to ``w = phi(W)``, and sent back. In training with the batch's statistics, in evaluation with running
    ones. Bures-Wasserstein geometry is linear in ``X``, so noise in small eigenvalues stays small: for ill-conditioned covariances.

    Everything is computed in float64 by default; the result has the dtype of the input. Four factorisations a matrix in training, three
    without ``theta``'s. Training does not wait for the device, except for the check of the first batch.

    Args:
        num_features: Size ``n`` of the matrices.
        theta: Power, not zero; towards 0 the layer becomes Log-Euclidean. The paper uses 0.25 to 1.5.
        learn_metric: Whether ``M`` is trained.
        bias: Whether ``W`` is trained.
        scale: Whether ``s`` is trained.
        momentum: Weight of a new batch in the running statistics; ``None`` for the average over all batches.
        eps: Added to the dispersion, which has the unit of ``X^theta``: bring data to the order of 1 (EEG in volt is 1e-12).
        karcher_steps: Fixed-point steps from the arithmetic mean to the barycentre; 1 in the paper.
        variance: ``"mean"``: dispersion about the mean. ``"identity"``: of the uncentred batch about ``I``, as released. ``"none"``: 1.
        domain: Where a result leaves the domain of the exponential map: ``"ignore"`` (it is folded back; ``diagnostics`` counts),
            ``"clip"`` (one more factorisation), ``"raise"`` (waits for the device).
        clip: Smallest eigenvalue of ``I + L`` for ``"clip"``.
        param: ``"exp"`` for any optimizer, ``"geoopt"`` for Riemannian ones.
        per_channel: ``False``: all matrices share the statistics. A number of channels (dimension -3): one set each; ``True`` takes the
            number from the first batch, which is not for DDP.
        variant: ``"paper"``, or ``"released"`` for the numbers of the published code: dispersion about ``I``, tangent vectors folded at
            -2 on the way, ``W`` off the identity by ``diag(1..n) 1e-7``.
        dtype: Of parameters, statistics and (at least) the computation, float64 or float32.
        stats_grad: Gradient through the mean and the dispersion: ``"none"`` (paper and code), ``"unroll"``, ``"implicit"`` (of the
            converged barycentre; ``karcher_steps`` is then the largest number of steps, and at least 100).
        running_space: ``"phi"`` keeps the running mean pulled back by ``M``; ``"data"`` as a data matrix, which does not lag while ``M``
        moves. train_momentum: Normalise with statistics that move by this much a batch (Kobler et al.); ``None``: with the batch's own.
        check: Look for matrices that are not positive definite: by default always on the CPU, on other devices in the first training
            batch; ``True`` always, ``False`` never. Not under compile.
        sync: Statistics over all processes of ``process_group``, as ``torch.nn.SyncBatchNorm``.
        process_group: Group for ``sync``.
        device: Of parameters and statistics.

    Shape:
        ``(..., n, n)`` to the same; all leading dimensions are the batch.

    Raises:
        ValueError: If an option is unknown or out of range, or ``theta`` is 0 (use ``SPDBatchNorm(metric="lem")``).
        TypeError: If ``dtype`` or a size is of the wrong type.
        ImportError: If ``param="geoopt"`` and geoopt is missing.

    Example:
        >>> layer = GBWBatchNorm(12, theta=0.5)
        >>> A = torch.randn(30, 12, 40, dtype=torch.float64)
        >>> layer(A @ A.mT / 40).shape
        torch.Size([30, 12, 12])
    """

    def __init__(
        self,
        num_features: int,
        theta: float = 1.0,
        learn_metric: bool = True,
        bias: bool = True,
        scale: bool = True,
        momentum: float | None = 0.1,
        eps: float = 1e-5,
        karcher_steps: int = 1,
        variance: Variance = "mean",
        domain: F.Domain = "ignore",
        clip: float = 1e-3,
        param: Param = "exp",
        per_channel: bool | int = False,
        variant: Literal["paper", "released"] = "paper",
        dtype: torch.dtype = torch.float64,
        *,
        stats_grad: StatsGrad = "none",
        running_space: Literal["phi", "data"] = "phi",
        train_momentum: float | None = None,
        check: bool | None = None,
        sync: bool = False,
        process_group: Any = None,
        device: torch.device | str | None = None,
    ) -> None:
        F.check_theta(theta)
        check_option("domain", domain, ("ignore", "clip", "raise"))
        check_option("variant", variant, ("paper", "released"))
        check_option("running_space", running_space, ("phi", "data"))
        if not clip > 0:
            raise ValueError(f"clip must be positive, got {clip}")
        super().__init__(
            num_features, per_channel=per_channel, momentum=momentum, train_momentum=train_momentum, dtype=dtype, device=device
        )
        self._setup(
            num_features,
            bias=bias,
            scale=scale,
            eps=eps,
            karcher_steps=karcher_steps,
            variance="identity" if variant == "released" and variance == "mean" else variance,
            stats_grad=stats_grad,
            param=param,
            check=check,
            sync=sync,
            process_group=process_group,
            dtype=dtype,
            device=device,
        )
        self.domain: F.Domain = domain
        self.theta, self.clip, self.variant, self.running_space = float(theta), clip, variant, running_space
        self.learn_metric = learn_metric
        eye = torch.eye(num_features, dtype=dtype, device=device)
        self.metric_matrix = SPDWeight(eye, param=param, learn=learn_metric)
        self.reset_parameters()

    @property
    def M(self) -> Tensor:
        """The metric parameter, SPD ``(n, n)``; assign to set it."""
        return self.metric_matrix()

    @M.setter
    def M(self, value: Tensor) -> None:
        self.metric_matrix.assign(value)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """``M = W = I``, ``s = 1``; in the released variant ``W`` is off by ``diag(1..n) 1e-7``."""
        super().reset_parameters()
        n = self.num_features
        self.metric_matrix.assign(torch.eye(n))
        if self.variant == "released":
            self.W = torch.eye(n, dtype=torch.float64) + 1e-7 * torch.diag(torch.arange(1, n + 1, dtype=torch.float64))

    def geometry(self) -> Geometry:
        """The metric with the present parameters."""
        return BuresGeometry(
            self.W,
            M=self.M,
            theta=self.theta,
            domain=self.domain,
            clip=self.clip,
            fold=self.variant == "released",
            data_space=self.running_space == "data",
        )

    def forward(self, X: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
        """Normalise SPD matrices.

        Args:
            X: Shape ``(..., n, n)``, all leading dimensions the batch; float16 and bfloat16 are computed in higher precision. In training a
                batch of one gives ``W``, with a warning once; non-finite matrices make the batch NaN and leave the statistics alone.

        Returns:
            Same shape and dtype.

        Raises:
            ValueError: If the shape is wrong, or with ``domain="raise"`` a result leaves the domain.
            TypeError: If ``X`` is an integer or complex tensor.
            NotPositiveDefiniteError: If a matrix is not positive definite (see ``check``), with its batch index and smallest eigenvalue.
        """
        self._check_input(X, self.num_features)
        return self._normalise(X, self, training=self.training)

    @torch.no_grad()
    def refit(self, X: Float[Tensor, "*batch n n"]) -> None:
        """Set the running statistics to those of ``X`` alone, such as an unlabelled set from where the model will be used.

        Args:
            X: SPD matrices, shape ``(..., n, n)``.

        Raises:
            ValueError, TypeError, NotPositiveDefiniteError: As ``forward``.
        """
        self._check_input(X, self.num_features)
        self._refit(X, self)

    def diagnostics(self) -> dict[str, float]:
        """Numbers to watch; reads them from the device.

        Returns:
            Condition numbers of ``M``, ``W`` and the running mean; the fraction of matrices so far that left the domain of the exponential
            map (in ``domain="ignore"``); the residual of the batch mean in the latest training batch, ``|mean V| / rms |V|``, 0 at the
            exact barycentre.
        """
        return {**self._common_diagnostics(), **self._condition("M", self.M), **self._condition("running_mean", self.running_mean)}

    def extra_repr(self) -> str:
        """Configuration for ``repr``."""
        shown = (
            f"theta={self.theta}, eps={self.eps}, karcher_steps={self.karcher_steps}, variance={self.variance!r}, variant={self.variant!r}"
        )
        return f"{super().extra_repr()}, {shown}"


class SPDBatchNorm(RunningStatistics, RiemannianBatchNorm):
    r"""Batch normalisation of SPD matrices under any metric, with the interface of ``GBWBatchNorm``.

    | metric | centre | scale | bias |
    |---|---|---|---|
    | ``"airm"`` | ``m^(-1/2) X m^(-1/2)`` | power ``s / sqrt(v + eps)`` | congruence with ``W^(1/2)``, or with ``chol W`` (LieBN) |
    | ``"lem"``, ``"lcm"``, ``"pem"`` | subtraction in the chart | factor in the chart | addition in the chart |
    | ``"bw"`` | transport along the geodesic | factor on tangent vectors | transport and exponential map |

    ``theta`` deforms each by ``X -> X^theta`` (Log-Euclidean stays as it is). ``alpha`` and ``beta`` weigh ``<V, W>`` and ``tr V tr W``
    in the dispersion, where the metric has such a family (airm, lem, pem). SPDNetBN (Brooks et al. 2019) is
    ``SPDBatchNorm(n, variance="none", scale=False)``; SPDBN and SPDMBN (Kobler et al. 2022) are the default with ``bias=False`` or a frozen
    bias, and ``train_momentum``; LieBN (Chen et al. 2024) is ``bias_map="cholesky"``, ``"lem"`` or ``"lcm"``.

    Args:
        num_features: Size ``n`` of the matrices.
        metric: A name above, or a metric of ``geocore.spd``: those above with their parameters, or any other that has exponential,
            logarithm, transport to and from ``I``, and inner product.
        theta: Power, not zero.
        alpha: Positive.
        beta: More than ``-alpha / n``.
        bias, scale, momentum, eps, karcher_steps: As ``GBWBatchNorm``; one Karcher step from the arithmetic mean, as in SPDNetBN.
        variance: ``"mean"`` (also ``"scalar"``): dispersion about the mean. ``"none"``: 1.
        bias_map: ``"sqrt"`` or ``"cholesky"``, for ``"airm"``.
        domain, clip: As ``GBWBatchNorm`` for ``"bw"`` (``None`` is ``"ignore"``). The power chart has a boundary too: for ``"pem"``,
            ``"clip"`` (the default) raises eigenvalues to ``clip`` times their root mean square.
        param, per_channel, dtype, stats_grad, train_momentum, check, sync, process_group, device: As ``GBWBatchNorm``.

    Raises:
        ValueError: If an option is unknown or out of range.
        TypeError: If ``metric`` is neither a name nor a metric, or a size or dtype is of the wrong type.
        ImportError: If ``param="geoopt"`` and geoopt is missing.

    Example:
        >>> layer = SPDBatchNorm(12, "lem")
        >>> layer(torch.eye(12, dtype=torch.float64).expand(30, 12, 12)).shape
        torch.Size([30, 12, 12])
    """

    def __init__(
        self,
        num_features: int,
        metric: str | Any = "airm",
        theta: float = 1.0,
        alpha: float = 1.0,
        beta: float = 0.0,
        bias: bool = True,
        scale: bool = True,
        momentum: float | None = 0.1,
        eps: float = 1e-5,
        karcher_steps: int = 1,
        variance: Literal["mean", "scalar", "none"] = "mean",
        bias_map: Literal["sqrt", "cholesky"] = "sqrt",
        domain: F.Domain | None = None,
        clip: float = 1e-3,
        param: Param = "exp",
        per_channel: bool | int = False,
        dtype: torch.dtype = torch.float64,
        *,
        stats_grad: StatsGrad = "none",
        train_momentum: float | None = None,
        check: bool | None = None,
        sync: bool = False,
        process_group: Any = None,
        device: torch.device | str | None = None,
    ) -> None:
        check_option("variance", variance, ("mean", "scalar", "none"))
        check_option("bias_map", bias_map, ("sqrt", "cholesky"))
        super().__init__(
            num_features, per_channel=per_channel, momentum=momentum, train_momentum=train_momentum, dtype=dtype, device=device
        )
        self._setup(
            num_features,
            bias=bias,
            scale=scale,
            eps=eps,
            karcher_steps=karcher_steps,
            variance="none" if variance == "none" else "mean",
            stats_grad=stats_grad,
            param=param,
            check=check,
            sync=sync,
            process_group=process_group,
            dtype=dtype,
            device=device,
        )
        self.metric, self.theta, self.alpha, self.beta, self.bias_map, self.clip = metric, float(theta), alpha, beta, bias_map, clip
        self.domain = domain
        self._make = geometry_maker(
            metric,
            num_features,
            theta=theta,
            alpha=alpha,
            beta=beta,
            bias_map=bias_map,
            domain=domain,
            clip=clip,
            scaled=scale or variance != "none",
        )

    def geometry(self) -> Geometry:
        """The metric with the present parameters."""
        kind, options = self._make
        make: Any = kind
        return make(self.W, **options)

    def forward(self, X: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
        """Normalise SPD matrices, as ``GBWBatchNorm.forward``.

        Raises:
            ValueError, TypeError, NotPositiveDefiniteError: As ``GBWBatchNorm.forward``.
        """
        self._check_input(X, self.num_features)
        return self._normalise(X, self, training=self.training)

    @torch.no_grad()
    def refit(self, X: Float[Tensor, "*batch n n"]) -> None:
        """Set the running statistics to those of ``X`` alone.

        Raises:
            ValueError, TypeError, NotPositiveDefiniteError: As ``forward``.
        """
        self._check_input(X, self.num_features)
        self._refit(X, self)

    def diagnostics(self) -> dict[str, float]:
        """Numbers to watch, as ``GBWBatchNorm.diagnostics`` without ``M``."""
        return {**self._common_diagnostics(), **self._condition("running_mean", self.running_mean)}

    def extra_repr(self) -> str:
        """Configuration for ``repr``."""
        name = self.metric if isinstance(self.metric, str) else type(self.metric).__name__
        return f"{super().extra_repr()}, metric={name!r}, theta={self.theta}, eps={self.eps}, variance={self.variance!r}"
