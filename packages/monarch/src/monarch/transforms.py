"""Fast transforms as layers, exact at the start and trainable from there; convolution; order-p products; chains."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Inexact
from torch import Tensor, nn
from torch.nn import functional as F

from geocore._checks import check_option, check_positive_int
from geocore.structured import Permutation
from monarch._exact import KINDS, Norm, exact_factors, nearest_divisor
from monarch._layers import check_features, stored
from monarch.functional import monarch_dense, monarch_matmul

__all__ = ["MonarchChain", "MonarchConv1d", "MonarchTransform"]


class MonarchTransform(nn.Module):
    """A classical transform as a Monarch product; with ``learnable`` the point to start training from.

    Args:
        kind: ``"dft"`` and ``"idft"`` (complex), ``"dct2"``, ``"dct3"``, ``"dst2"``, ``"dst3"``, ``"hadamard"``, ``"identity"``.
        n: Length; composite, and for ``"hadamard"`` a power of two.
        learnable: Whether the factors are parameters, scaled to equal norms. Complex ones are stored as pairs of reals. Otherwise they are
            constants in float64 that take the precision of the input.
        norm: ``"backward"``: the values of ``torch.fft.fft``, ``scipy.fft.dct`` and ``scipy.linalg.hadamard`` as they are called without
            options; or ``"ortho"``.
        nblocks: Blocks of the first factor; the divisor of ``n`` nearest to its root by default.
        dtype: Real dtype of the parameters.
        device: Device.

    Raises:
        ValueError: If the kind is unknown, ``n`` is prime, or ``n`` is not a power of two for ``"hadamard"``.
        TypeError: If ``n`` is not an int or the dtype not real floating.

    Example:
        >>> fft = MonarchTransform("dft", 36, dtype=torch.float64)
        >>> x = torch.randn(2, 36, dtype=torch.float64)
        >>> torch.allclose(fft(x), torch.fft.fft(x))
        True
    """

    weight1: Tensor
    weight2: Tensor
    in_perm: Tensor | None
    out_perm: Tensor | None

    def __init__(
        self,
        kind: str,
        n: int,
        learnable: bool = False,
        *,
        norm: Norm = "backward",
        nblocks: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        check_option("kind", kind, KINDS)
        dtype = torch.get_default_dtype() if dtype is None else dtype.to_real() if dtype.is_complex else dtype
        if not dtype.is_floating_point:
            raise TypeError(f"dtype must be floating, got {dtype}")
        exact = exact_factors(kind, n, nblocks=nblocks, norm=norm)
        self.kind, self.n, self.learnable, self.is_complex = kind, n, learnable, exact.w1.is_complex()
        self.norm: Norm = norm
        for name, w in (("weight1", exact.w1), ("weight2", exact.w2)):
            value = stored(w).to(device=device)
            if learnable:
                self.register_parameter(name, nn.Parameter(value.to(dtype)))
            else:
                self.register_buffer(name, value, persistent=False)
        for name, perm in (("in_perm", exact.in_perm), ("out_perm", exact.out_perm)):
            self.register_buffer(name, None if perm is None else perm.index.to(device), persistent=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Back to the exact transform."""
        exact = exact_factors(self.kind, self.n, nblocks=self.weight1.shape[0], norm=self.norm)
        w1, w2 = exact.w1, exact.w2
        if self.learnable:  # factors of one norm: Adam moves both by the same share
            balance = (w2.abs().square().sum() / w1.abs().square().sum()).sqrt().sqrt()
            w1, w2 = w1 * balance, w2 / balance
        self.weight1.copy_(stored(w1))
        self.weight2.copy_(stored(w2))

    def _apply(self, fn: Any, recurse: bool = True) -> "MonarchTransform":
        super()._apply(fn, recurse)
        if not self.learnable and self.weight1.dtype != torch.float64:  # a module that is moved to half precision keeps exact constants
            for name in ("weight1", "weight2"):
                setattr(self, name, getattr(self, name).double())
            if self.weight1.device.type != "meta":
                self.reset_parameters()
        return self

    def _factors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        w1, w2 = self.weight1, self.weight2
        if not self.learnable:
            dtype = x.real.dtype if x.is_complex() else x.dtype  # not dtype.to_real(), which the compiler cannot trace
            if self.is_complex:  # there is hardly a complex product in half precision
                dtype = torch.promote_types(dtype, torch.float32)
            w1, w2 = w1.to(dtype), w2.to(dtype)
        return (torch.view_as_complex(w1), torch.view_as_complex(w2)) if self.is_complex else (w1, w2)

    @property
    def w1(self) -> Tensor:
        """First factor, complex where the transform is."""
        return torch.view_as_complex(self.weight1) if self.is_complex else self.weight1

    @property
    def w2(self) -> Tensor:
        """Second factor, complex where the transform is."""
        return torch.view_as_complex(self.weight2) if self.is_complex else self.weight2

    def forward(self, x: Inexact[Tensor, "*batch n"]) -> Inexact[Tensor, "*batch n"]:
        """Transform the last dimension.

        Raises:
            RuntimeError: If it does not have ``n`` entries.
            TypeError: If ``x`` is not floating or complex.
        """
        check_features(x, self.n, self)
        x = x if self.in_perm is None else x.index_select(-1, self.in_perm)
        y = monarch_matmul(x, *self._factors(x))
        return y if self.out_perm is None else y.index_select(-1, self.out_perm)

    def to_dense(self) -> Tensor:
        """Matrix of the transform, shape ``(n, n)``."""
        M = monarch_dense(self.w1, self.w2)
        M = M if self.in_perm is None else M[:, Permutation(self.in_perm, check=False).inverse().index]
        return M if self.out_perm is None else M[self.out_perm]

    def extra_repr(self) -> str:
        """Configuration for ``repr``."""
        return f"{self.kind!r}, {self.n}, learnable={self.learnable}, norm={self.norm!r}, blocks=({self.w1.shape[0]}, {self.w2.shape[0]})"


class MonarchConv1d(nn.Module):
    r"""Convolution of whole signals as a chain of two Monarch products, ``F^-1 diag(F h) F``.

    A circulant matrix is no single Monarch product of low rank; the chain represents it exactly and, with ``learnable``, goes on from
    there.

    Args:
        n: Length of the signals.
        kernel: Filter, shape ``(m,)`` or ``(channels, m)`` with ``m <= n``; random of variance ``1 / n`` if not given.
        circular: Whether the signal wraps around. Otherwise the causal convolution ``y_i = sum_j h_j x_(i-j)``, by padding.
        learnable: Whether the transforms are trained too; the kernel always is.
        dtype: Real dtype.
        device: Device.

    Raises:
        ValueError: If the kernel does not fit, or ``n`` is prime in the circular case.
        TypeError: If ``n`` is not an int or the kernel not real floating.

    Example:
        >>> conv = MonarchConv1d(16, torch.tensor([0.0, 1.0]))  # shift by one
        >>> conv(torch.arange(16.0))[:3].round()
        tensor([15.,  0.,  1.], grad_fn=<RoundBackward0>)
    """

    def __init__(
        self,
        n: int,
        kernel: Tensor | None = None,
        *,
        circular: bool = True,
        learnable: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        check_positive_int("n", n)
        dtype = dtype or (kernel.dtype if isinstance(kernel, Tensor) and kernel.dtype.is_floating_point else torch.get_default_dtype())
        if kernel is None:
            kernel = torch.randn(n, dtype=dtype, device=device) / math.sqrt(n)
        if not isinstance(kernel, Tensor) or not kernel.dtype.is_floating_point:
            raise TypeError(f"kernel must be a real floating tensor, got {getattr(kernel, 'dtype', type(kernel).__name__)}")
        if kernel.ndim not in (1, 2) or not 1 <= kernel.shape[-1] <= n:
            raise ValueError(f"kernel must have shape (m,) or (channels, m) with 1 <= m <= {n}, got {tuple(kernel.shape)}")
        self.n, self.circular = n, circular
        self.length = n if circular else _composite(n + kernel.shape[-1] - 1)
        self.weight = nn.Parameter(kernel.detach().clone().to(dtype=dtype, device=device))
        self.forward_transform = MonarchTransform("dft", self.length, learnable, dtype=dtype, device=device)
        self.inverse_transform = MonarchTransform("idft", self.length, learnable, dtype=dtype, device=device)

    def forward(self, x: Inexact[Tensor, "*batch n"]) -> Inexact[Tensor, "*batch n"]:
        """Convolve signals ``(..., n)``, or ``(..., channels, n)`` with a kernel of channels.

        Raises:
            RuntimeError: If the last dimensions do not fit.
            TypeError: If ``x`` is not floating or complex.
        """
        check_features(x, self.n, self)
        if self.weight.ndim == 2 and (x.ndim < 2 or x.shape[-2] != self.weight.shape[0]):
            raise RuntimeError(f"MonarchConv1d expects x of shape (..., {self.weight.shape[0]}, {self.n}), got {tuple(x.shape)}")
        response = self.forward_transform(F.pad(self.weight, (0, self.length - self.weight.shape[-1])))
        y = self.inverse_transform(response * self.forward_transform(F.pad(x, (0, self.length - self.n))))[..., : self.n]
        return y if x.is_complex() else y.real

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """A new random kernel of variance ``1 / n``, and the exact transforms."""
        self.weight.normal_(std=1 / math.sqrt(self.n))
        self.forward_transform.reset_parameters()
        self.inverse_transform.reset_parameters()

    def extra_repr(self) -> str:
        """Configuration for ``repr``."""
        return f"{self.n}, kernel={tuple(self.weight.shape)}, circular={self.circular}"


def _composite(least: int) -> int:
    """Smallest length from ``least`` on with a divisor near its root: between a half and twice of it."""
    n = least
    while n > 3 and nearest_divisor(n) ** 2 * 4 < n:
        n += 1
    return n


class MonarchChain(nn.Module):
    """Product of linear layers, ``A_1 A_2 ... A_m x``: the last one acts first, as in a formula.

    ``MonarchChain([M1, M2.conj().T])`` is the class ``M M*`` of the paper, four such factors ``(M M*)^2``.

    Args:
        layers: Modules that map vectors to vectors, each with ``to_dense``.

    Raises:
        ValueError: If there are none, or one has a bias.
        TypeError: If one has no ``to_dense``.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        if not layers:
            raise ValueError("layers must hold at least one layer, got none")
        for layer in layers:
            if not callable(getattr(layer, "to_dense", None)):
                raise TypeError(f"every layer must have to_dense(), got {type(layer).__name__}")
            if getattr(layer, "bias", None) is not None:
                raise ValueError(f"layers of a product must have no bias, but {type(layer).__name__} has one; make it with bias=False")
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Inexact[Tensor, "*batch n"]) -> Inexact[Tensor, "*batch m"]:
        """Apply to vectors ``(..., in_features)`` of the last layer."""
        for layer in reversed(self.layers):
            x = layer(x)
        return x

    def to_dense(self) -> Tensor:
        """Product of the dense matrices."""
        product: Any = None
        for layer in self.layers:
            dense = layer.to_dense()  # pyright: ignore[reportCallIssue]
            dtype = dense.dtype if product is None else torch.promote_types(product.dtype, dense.dtype)
            product = dense if product is None else product.to(dtype) @ dense.to(dtype)
        return product
