"""Ready networks: SPDNet, a TSMNet-like one for raw signals, and an RResNet-like one with a Riemannian residual block."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geocore import spd
from geocore._checks import check_option, check_positive_int
from geocore._precision import full_precision
from spdnorm._checks import check_matrices, pass_nan
from spdnorm._metrics import METRICS
from spdnorm._weights import Param
from spdnorm.batchnorm import GBWBatchNorm, SPDBatchNorm
from spdnorm.domain import DomainSPDBatchNorm
from spdnorm.heads import SPDMLR
from spdnorm.layers import BiMap, CovPool, LogEig, ReEig

__all__ = ["RResNet", "SPDNet", "SpectralResidual", "TSMNet"]

BatchNorm = str | Callable[[int], nn.Module] | None


def _make_norm(bn: BatchNorm, n: int, options: dict[str, Any] | None, param: Param, dtype: torch.dtype) -> nn.Module:
    if bn is None:
        return nn.Identity()
    if callable(bn):
        return bn(n)
    check_option("bn", bn, ("gbw", *METRICS))
    settings = {"param": param, "dtype": dtype, **(options or {})}
    return GBWBatchNorm(n, **settings) if bn == "gbw" else SPDBatchNorm(n, bn, **settings)


def _check_dims(dims: Sequence[int]) -> list[int]:
    dims = list(dims)
    if len(dims) < 2:
        raise ValueError(f"dims must hold the input size and at least one more, got {dims}")
    return dims


class _Classifier(nn.Module):
    """Logarithm and a linear layer on all ``n^2`` entries, or a logistic regression on the manifold."""

    def __init__(
        self, n: int, n_classes: int, head: str, threshold: float, options: dict[str, Any] | None, param: Param, dtype: torch.dtype
    ):
        super().__init__()
        check_option("head", head, ("linear", "mlr"))
        if head == "linear":
            self.before: nn.Module = LogEig(threshold)
            self.last: nn.Module = nn.Linear(n * n, n_classes, dtype=dtype)
        else:
            self.before = ReEig(threshold)
            self.last = SPDMLR(n, n_classes, **{"param": param, "dtype": dtype, **(options or {})})

    def forward(self, X: Tensor) -> Tensor:
        """Logits ``(..., classes)``."""
        features = self.before(X)
        return self.last(features.flatten(-2) if isinstance(self.last, nn.Linear) else features)


class SPDNet(nn.Module):
    """Blocks of ``BiMap``, batch normalisation and ``ReEig``, then ``LogEig`` and a linear layer (Huang and Van Gool, AAAI 2017).

    Args:
        dims: Size of the input matrices and of those after every block, falling: ``[93, 70, 50, 30]``.
        bn: Batch normalisation after every ``BiMap``: ``"gbw"``, a metric of ``SPDBatchNorm``, a function of the size that makes a module,
            or ``None``.
        n_classes: Number of classes.
        bn_options: For the named ones, such as ``{"theta": 0.5}``.
        threshold: Of ``ReEig``; in the last block one factorisation serves it and the logarithm.
        head: ``"linear"`` on all ``n^2`` entries of the logarithm, or ``"mlr"``.
        head_options: For ``SPDMLR``, such as ``{"metric": "lcm"}``.
        param: ``"exp"`` for any optimizer, ``"geoopt"`` for Riemannian ones.
        dtype: Of parameters and the computation, float64 or float32.

    Shape:
        ``(..., n, n)`` to logits ``(..., classes)``, dtype of the input.

    Raises:
        ValueError, TypeError: If an option is unknown or out of range.

    Example:
        >>> net = SPDNet([20, 12], bn="gbw", n_classes=10, bn_options={"theta": 0.5})
        >>> net(torch.eye(20).expand(8, 20, 20)).shape
        torch.Size([8, 10])
    """

    def __init__(
        self,
        dims: Sequence[int],
        bn: BatchNorm = "gbw",
        n_classes: int = 2,
        *,
        bn_options: dict[str, Any] | None = None,
        threshold: float = 1e-4,
        head: Literal["linear", "mlr"] = "linear",
        head_options: dict[str, Any] | None = None,
        param: Param = "exp",
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        dims = _check_dims(dims)
        check_positive_int("n_classes", n_classes)
        self.dims, self.n_classes, self.dtype = dims, n_classes, dtype
        self.blocks = nn.ModuleList()
        for i, (n, k) in enumerate(pairwise(dims)):
            block = nn.Sequential()
            block.append(BiMap(n, k, param=param, dtype=dtype))
            block.append(_make_norm(bn, k, bn_options, param, dtype))
            if i < len(dims) - 2:
                block.append(ReEig(threshold))
            self.blocks.append(block)
        self.classifier = _Classifier(dims[-1], n_classes, head, threshold, head_options, param, dtype)

    def forward(self, X: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch classes"]:
        """Logits of SPD matrices.

        Raises:
            ValueError, TypeError, NotPositiveDefiniteError: As the layers.
        """
        check_matrices("X", X, self.dims[0])
        return self._run(X)

    @full_precision
    def _run(self, X: Tensor) -> Tensor:
        x = X.to(torch.promote_types(X.dtype, self.dtype))
        for block in self.blocks:
            x = block(x)
        return self.classifier(x).to(X.dtype)

    def extra_repr(self) -> str:
        """Configuration for ``repr``."""
        return f"dims={self.dims}, n_classes={self.n_classes}"


class TSMNet(nn.Module):
    """Convolutions over time and space, covariance, SPD layers, tangent space: for raw signals such as EEG (after Kobler et al. 2022).

    Args:
        n_channels: Electrodes.
        n_classes: Number of classes.
        temporal: Temporal filters.
        kernel: Their length in samples.
        spatial: Spatial filters.
        subspace: Size of the matrices after ``BiMap``.
        bn: ``"airm"`` and so on; with ``domains`` any metric of ``DomainSPDBatchNorm``; a function of the size that makes a
            module; ``None``.
        domains: Identifiers of domains known beforehand; ``None`` for one set of statistics. Then ``forward`` takes identifiers.
        bn_options: For the batch normalisation.
        threshold: Of ``ReEig``.
        ridge: Multiple of the identity added to covariances.
        param: As ``SPDNet``.
        dtype: Of the SPD layers; the convolutions have torch's default dtype.

    Shape:
        ``(N, channels, samples)``, or with a dimension of 1 before the channels, to logits ``(N, classes)``.

    Raises:
        ValueError, TypeError: If an option is unknown or out of range.

    Example:
        >>> net = TSMNet(22, 4, domains=["s1", "s2"])
        >>> net(torch.randn(4, 22, 250), ["s1", "s1", "s2", "s2"]).shape
        torch.Size([4, 4])
    """

    def __init__(
        self,
        n_channels: int,
        n_classes: int,
        *,
        temporal: int = 4,
        kernel: int = 25,
        spatial: int = 40,
        subspace: int = 20,
        bn: BatchNorm = "airm",
        domains: Iterable[Hashable] | None = None,
        bn_options: dict[str, Any] | None = None,
        threshold: float = 1e-4,
        ridge: float = 1e-6,
        param: Param = "exp",
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        for name, size in (("n_channels", n_channels), ("n_classes", n_classes), ("temporal", temporal), ("kernel", kernel)):
            check_positive_int(name, size)
        self.n_channels, self.n_classes, self.dtype = n_channels, n_classes, dtype
        self.features = nn.Sequential(
            nn.Conv2d(1, temporal, (1, kernel), padding="same", padding_mode="reflect"), nn.Conv2d(temporal, spatial, (n_channels, 1))
        )
        self.pool = CovPool(ridge=ridge, dtype=dtype)
        self.bimap = BiMap(spatial, subspace, param=param, dtype=dtype)
        self.rectify = ReEig(threshold)
        self.takes_domains = domains is not None
        if domains is not None:
            if not isinstance(bn, str):
                raise ValueError(f"bn must be the name of a metric with domains, got {bn!r}")
            settings = {"param": param, "dtype": dtype, **(bn_options or {})}
            self.norm: nn.Module = DomainSPDBatchNorm(subspace, bn, domains, **settings)
        else:
            self.norm = _make_norm(bn, subspace, bn_options, param, dtype)
        self.log = LogEig(None if bn is not None and bn != "gbw" and bn != "bw" else threshold)
        self.last = nn.Linear(subspace * subspace, n_classes, dtype=dtype)

    def forward(self, x: Float[Tensor, "b *one channels samples"], domains: Any = None) -> Float[Tensor, "b classes"]:
        """Logits of signals; ``domains`` as ``DomainSPDBatchNorm.forward``.

        Raises:
            ValueError: If the shape is wrong, or identifiers are missing or not expected.
            KeyError: If a domain is unknown.
        """
        if not isinstance(x, Tensor) or not x.dtype.is_floating_point:
            raise TypeError(f"x must be a real floating-point tensor, got {x.dtype if isinstance(x, Tensor) else type(x).__name__}")
        if (domains is not None) != self.takes_domains:
            state = "made with domains and needs" if self.takes_domains else "made without domains and takes no"
            raise ValueError(f"this network was {state} domain identifiers")
        signal = x.unsqueeze(1) if x.ndim == 3 else x
        if signal.ndim != 4 or signal.shape[1] != 1 or signal.shape[2] != self.n_channels:
            raise ValueError(
                f"x must have shape (N, {self.n_channels}, samples) or (N, 1, {self.n_channels}, samples), got {tuple(x.shape)}"
            )
        C = self.rectify(self.bimap(self.pool(self.features(signal).squeeze(-2))))
        C = self.norm(C, domains) if self.takes_domains else self.norm(C)
        return self._classify(C).to(x.dtype)

    @full_precision
    def _classify(self, C: Tensor) -> Tensor:
        return self.last(self.log(C).flatten(-2))

    def extra_repr(self) -> str:
        """Configuration for ``repr``."""
        return f"n_channels={self.n_channels}, n_classes={self.n_classes}"


class SpectralResidual(nn.Module):
    r"""Riemannian residual: move along the affine-invariant geodesic in a direction that a small convolution finds from the spectrum.

    With ``X = Q diag(l) Q^T``: convolutions 1-3-3-1 of length 5 over ``l`` give ``f``; the direction ``Q diag(f) Q^T`` is brought to unit
    affine-invariant length, and the exponential map is ``Q diag(l_i exp(u_i)) Q^T`` with ``u = (f / l) / |f / l|``.

    The result depends on the order of the eigenvalues, so where some coincide it is not differentiable: pairs closer than a relative
    ``1e-9`` get gradient 0 between their eigenvectors.

    Args:
        hidden: Channels of the convolutions.
        kernel: Their length, odd.
        dtype: Of the parameters.

    Shape:
        ``(..., n, n)`` to the same.

    Raises:
        ValueError: If the kernel is even or a size is below 1.
        TypeError: If a size is not an int.

    Example:
        >>> SpectralResidual()(torch.diag(torch.tensor([1.0, 2.0]))).shape
        torch.Size([2, 2])
    """

    def __init__(self, hidden: int = 3, kernel: int = 5, *, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        check_positive_int("hidden", hidden)
        check_positive_int("kernel", kernel)
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, got {kernel}")
        widths = (1, hidden, hidden, 1)
        self.convolutions = nn.Sequential()
        for i, (a, b) in enumerate(pairwise(widths)):
            self.convolutions.append(nn.Conv1d(a, b, kernel, padding=kernel // 2, dtype=dtype))
            if i < 2:
                self.convolutions.append(nn.ReLU())
        self.dtype = dtype

    def forward(self, X: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
        """Move SPD matrices.

        Raises:
            ValueError: If ``X`` is not square.
            TypeError: If ``X`` is an integer or complex tensor.
        """
        check_matrices("X", X)
        return pass_nan(self._move, X)

    @full_precision
    def _move(self, X: Tensor) -> Tensor:
        x = spd.sym(X.to(torch.promote_types(X.dtype, self.dtype)))
        values, Q = torch.linalg.eigh(x.detach())
        inner = Q.mT @ x @ Q
        spectrum = inner.diagonal(dim1=-2, dim2=-1)  # the eigenvalues, with their derivative
        f = self.convolutions(spectrum.reshape(-1, 1, spectrum.shape[-1])).reshape(spectrum.shape)
        u = f / spectrum
        square = u.square().sum(-1, keepdim=True)
        u = u * (square + torch.finfo(u.dtype).eps ** 2).rsqrt()
        moved = spectrum * u.exp()
        # zero in value; its derivative is that of the eigenvectors in Q diag(moved) Q^T
        gap = values[..., :, None] - values[..., None, :]
        close = gap.abs() <= 1e-9 * values[..., -1:, None].abs()
        step = (moved[..., :, None] - moved[..., None, :]).detach()
        slope = torch.where(close, 0.0, step / torch.where(close, 1.0, gap))
        turn = slope * (inner - inner.detach())
        return (Q @ (torch.diag_embed(moved) + turn) @ Q.mT).to(X.dtype)


class RResNet(nn.Module):
    """One ``BiMap``, batch normalisation, a ``SpectralResidual``, ``LogEig`` and a linear layer (the HDM05 recipe of Wang et al.).

    Args:
        dims: Size of the input matrices and after ``BiMap``; more numbers give more blocks.
        bn: As ``SPDNet``.
        n_classes: Number of classes.
        bn_options, threshold, head, head_options, param, dtype: As ``SPDNet``.

    Shape:
        ``(..., n, n)`` to logits ``(..., classes)``, dtype of the input.

    Raises:
        ValueError, TypeError: If an option is unknown or out of range.

    Example:
        >>> RResNet([93, 30], "gbw", 117, bn_options={"theta": 0.5})(torch.eye(93).expand(2, 93, 93)).shape
        torch.Size([2, 117])
    """

    def __init__(
        self,
        dims: Sequence[int],
        bn: BatchNorm = "gbw",
        n_classes: int = 2,
        *,
        bn_options: dict[str, Any] | None = None,
        threshold: float = 1e-4,
        head: Literal["linear", "mlr"] = "linear",
        head_options: dict[str, Any] | None = None,
        param: Param = "exp",
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        dims = _check_dims(dims)
        check_positive_int("n_classes", n_classes)
        self.dims, self.n_classes, self.dtype = dims, n_classes, dtype
        self.blocks = nn.ModuleList(
            nn.Sequential(
                BiMap(n, k, param=param, dtype=dtype),
                _make_norm(bn, k, bn_options, param, dtype),
                ReEig(threshold),
                SpectralResidual(dtype=dtype),
            )
            for n, k in pairwise(dims)
        )
        self.classifier = _Classifier(dims[-1], n_classes, head, threshold, head_options, param, dtype)

    def forward(self, X: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch classes"]:
        """Logits of SPD matrices.

        Raises:
            ValueError, TypeError, NotPositiveDefiniteError: As the layers.
        """
        check_matrices("X", X, self.dims[0])
        return self._run(X)

    @full_precision
    def _run(self, X: Tensor) -> Tensor:
        x = X.to(torch.promote_types(X.dtype, self.dtype))
        for block in self.blocks:
            x = block(x)
        return self.classifier(x).to(X.dtype)

    def extra_repr(self) -> str:
        """Configuration for ``repr``."""
        return f"dims={self.dims}, n_classes={self.n_classes}"
