"""The layers of SPD networks (Huang and Van Gool, AAAI 2017) around a batch normalisation."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geocore import spd
from geocore._checks import check_option, check_positive_int, check_trailing
from geocore._precision import full_precision
from spdnorm._checks import check_definite, check_matrices, pass_nan, readable
from spdnorm._weights import Param, StiefelWeight

__all__ = ["BiMap", "CovPool", "ExpEig", "LogEig", "ReEig", "Vech"]


class BiMap(nn.Module):
    """``W^T X W`` with orthonormal columns ``W``: fewer rows and columns, still SPD.

    With channels, every output channel is the sum over the input channels of such products.

    Args:
        n_in: Size of the input matrices.
        n_out: Size of the output matrices, at most ``n_in``.
        h_in, h_out: Channels of the input and of the output. Both 1: no channel dimension.
        param: ``"exp"`` for any optimizer, ``"geoopt"`` for Riemannian ones.
        generator: Randomness of the start, the Q factor of a Gaussian matrix.
        dtype, device: Of the weight.

    Shape:
        ``(..., n_in, n_in)`` to ``(..., n_out, n_out)``; with channels ``(..., h_in, n_in, n_in)`` to ``(..., h_out, n_out, n_out)``.

    Raises:
        ValueError: If a size is below 1, ``n_out > n_in``, or ``param`` is unknown.
        TypeError: If a size is not an int.

    Example:
        >>> BiMap(20, 12)(torch.eye(20)).shape
        torch.Size([12, 12])
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        h_in: int = 1,
        h_out: int = 1,
        *,
        param: Param = "exp",
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        for name, size in (("n_in", n_in), ("n_out", n_out), ("h_in", h_in), ("h_out", h_out)):
            check_positive_int(name, size)
        if n_out > n_in:
            raise ValueError(f"n_out must be at most n_in = {n_in}, got {n_out}: orthonormal columns cannot be more than rows")
        self.n_in, self.n_out, self.h_in, self.h_out = n_in, n_out, h_in, h_out
        shape = (n_in, n_out) if h_in == h_out == 1 else (h_out, h_in, n_in, n_out)
        self.stiefel = StiefelWeight(shape, param=param, generator=generator, dtype=dtype, device=device)

    @property
    def W(self) -> Tensor:
        """The weight, ``(n_in, n_out)`` or ``(h_out, h_in, n_in, n_out)``; assign to set it (projected to orthonormal columns)."""
        return self.stiefel()

    @W.setter
    def W(self, value: Tensor) -> None:
        self.stiefel.assign(value)

    def forward(self, X: Float[Tensor, "*batch m m"]) -> Float[Tensor, "*obatch k k"]:
        """Map matrices.

        Raises:
            ValueError: If the size or the number of channels is wrong.
            TypeError: If ``X`` is an integer or complex tensor.
        """
        check_matrices("X", X, self.n_in)
        if self.h_in == self.h_out == 1:
            return _bimap(X, self.W)
        if X.ndim < 3 or X.shape[-3] != self.h_in:
            raise ValueError(f"X must have shape (..., {self.h_in}, {self.n_in}, {self.n_in}), got {tuple(X.shape)}")
        return _bimap(X.unsqueeze(-4), self.W).sum(-3)

    def extra_repr(self) -> str:
        """Configuration for ``repr``."""
        channels = "" if self.h_in == self.h_out == 1 else f", h_in={self.h_in}, h_out={self.h_out}"
        return f"{self.n_in}, {self.n_out}{channels}"


@full_precision
def _bimap(X: Tensor, W: Tensor) -> Tensor:
    dtype = torch.promote_types(X.dtype, W.dtype)
    W = W.to(dtype)
    return (W.mT @ X.to(dtype) @ W).to(X.dtype)


class ReEig(nn.Module):
    """Raise eigenvalues to at least ``threshold``: the nonlinearity of SPD networks.

    Args:
        threshold: 1e-4 in SPDNet; choose it well below the eigenvalues that matter (1e-5, 1e-6 for traces of 1).

    Shape:
        ``(..., n, n)`` to the same.

    Raises:
        ValueError: If the threshold is not positive.

    Example:
        >>> ReEig(0.5)(torch.diag(torch.tensor([0.1, 2.0]))).diagonal()
        tensor([0.5000, 2.0000])
    """

    def __init__(self, threshold: float = 1e-4) -> None:
        super().__init__()
        _check_threshold(threshold)
        self.threshold = threshold

    def forward(self, X: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
        """Rectify symmetric matrices.

        Raises:
            ValueError: If ``X`` is not square.
            TypeError: If ``X`` is an integer or complex tensor.
        """
        check_matrices("X", X)
        return pass_nan(lambda x: spd.clamp_eig(x, torch.tensor(self.threshold, dtype=torch.float64), check=False), X)

    def extra_repr(self) -> str:
        """Configuration for ``repr``."""
        return f"threshold={self.threshold}"


def _check_threshold(threshold: float) -> None:
    if not threshold > 0:
        raise ValueError(f"threshold must be positive, got {threshold}")


class LogEig(nn.Module):
    """Matrix logarithm: from SPD matrices to a vector space.

    Args:
        threshold: Raise eigenvalues to this first, as ``ReEig`` would, with the same factorisation; ``None`` for not.

    Shape:
        ``(..., n, n)`` to the same.

    Raises:
        ValueError: If the threshold is not positive.

    Example:
        >>> LogEig()(torch.eye(2))
        tensor([[0., 0.],
                [0., 0.]])
    """

    def __init__(self, threshold: float | None = None) -> None:
        super().__init__()
        if threshold is not None:
            _check_threshold(threshold)
        self.threshold = threshold

    def forward(self, X: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
        """Logarithm of SPD matrices.

        Raises:
            NotPositiveDefiniteError: If a matrix is not positive definite and there is no threshold (where values can be read: on the CPU).
            ValueError: If ``X`` is not square.
            TypeError: If ``X`` is an integer or complex tensor.
        """
        check_matrices("X", X)
        if self.threshold is None and X.device.type == "cpu" and readable():
            check_definite("X", X)
        return pass_nan(lambda x: spd.logm(x, min_eig=self.threshold, check=False), X)

    def extra_repr(self) -> str:
        """Configuration for ``repr``."""
        return f"threshold={self.threshold}"


class ExpEig(nn.Module):
    """Matrix exponential: from symmetric matrices to SPD.

    Shape:
        ``(..., n, n)`` to the same.

    Example:
        >>> ExpEig()(torch.zeros(2, 2))
        tensor([[1., 0.],
                [0., 1.]])
    """

    def forward(self, X: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
        """Exponential of symmetric matrices.

        Raises:
            ValueError: If ``X`` is not square.
            TypeError: If ``X`` is an integer or complex tensor.
        """
        check_matrices("X", X)
        return pass_nan(lambda x: spd.expm(x, check=False), X)


class Vech(nn.Module):
    """Lower triangle of symmetric matrices as vectors, off-diagonal entries times ``sqrt(2)``, so that lengths stay.

    Args:
        scale: Factor of the off-diagonal entries.

    Shape:
        ``(..., n, n)`` to ``(..., n (n + 1) / 2)``.

    Example:
        >>> Vech()(torch.eye(2))
        tensor([1., 0., 1.])
    """

    def __init__(self, scale: float = 2.0**0.5) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, X: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch p"]:
        """Vectors of symmetric matrices.

        Raises:
            ValueError: If ``X`` is not square.
            TypeError: If ``X`` is an integer or complex tensor.
        """
        check_matrices("X", X)
        return spd.vech(X, scale=self.scale)

    def extra_repr(self) -> str:
        """Configuration for ``repr``."""
        return f"scale={self.scale:.6g}"


class CovPool(nn.Module):
    """Covariance of features over time or space: from signals to SPD matrices.

    Args:
        centre: Subtract the mean over samples.
        normalise: ``"none"``, or ``"trace"``: divide by the trace.
        shrinkage: Weight of the scaled identity in ``(1 - a) C + a tr(C) / n I``, from 0 to 1.
        ridge: Multiple of the identity to add at the end. With fewer samples than features the covariance is singular without it.
        dtype: Of the computation and the result; at least that of the input if not given.

    Shape:
        ``(..., n, samples)`` to ``(..., n, n)``.

    Raises:
        ValueError: If an option is unknown or out of range.

    Example:
        >>> CovPool(ridge=1e-5)(torch.randn(30, 15, 125)).shape
        torch.Size([30, 15, 15])
    """

    def __init__(
        self,
        *,
        centre: bool = True,
        normalise: Literal["none", "trace"] = "none",
        shrinkage: float = 0.0,
        ridge: float = 0.0,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_option("normalise", normalise, ("none", "trace"))
        if not 0 <= shrinkage <= 1:
            raise ValueError(f"shrinkage must lie in [0, 1], got {shrinkage}")
        if not ridge >= 0:
            raise ValueError(f"ridge must be at least 0, got {ridge}")
        self.centre, self.normalise, self.shrinkage, self.ridge, self.dtype = centre, normalise, shrinkage, ridge, dtype

    def forward(self, x: Float[Tensor, "*batch n samples"]) -> Float[Tensor, "*batch n n"]:
        """Covariance matrices of signals.

        Raises:
            ValueError: If there are fewer samples than the estimate needs (2, or 1 without centring).
            TypeError: If ``x`` is an integer or complex tensor.
        """
        if isinstance(x, Tensor) and x.dtype.is_complex:
            raise TypeError(f"x must be real, got {x.dtype}")
        check_trailing("x", x, (None, None))
        freedom = x.shape[-1] - int(self.centre)
        if freedom < 1:
            raise ValueError(f"x must have at least {1 + int(self.centre)} samples in its last dimension, got {x.shape[-1]}")
        return self._pool(x if self.dtype is None else x.to(self.dtype), freedom)

    @full_precision
    def _pool(self, x: Tensor, freedom: int) -> Tensor:
        x = x - x.mean(-1, keepdim=True) if self.centre else x
        C = x @ x.mT / freedom
        trace = C.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
        eye = torch.eye(C.shape[-1], dtype=C.dtype, device=C.device)
        if self.normalise == "trace":
            C, trace = C / trace, torch.ones_like(trace)
        if self.shrinkage:
            C = (1 - self.shrinkage) * C + self.shrinkage * trace / C.shape[-1] * eye
        return C + self.ridge * eye if self.ridge else C

    def extra_repr(self) -> str:
        """Configuration for ``repr``."""
        return f"centre={self.centre}, normalise={self.normalise!r}, shrinkage={self.shrinkage}, ridge={self.ridge}"
