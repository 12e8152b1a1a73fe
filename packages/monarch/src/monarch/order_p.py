"""Monarch products of any order: one small matrix along every line of a tensor, axis after axis."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Inexact
from torch import Tensor, nn

from geocore import structured
from geocore._checks import check_positive_int
from geocore.structured import Permutation
from monarch._exact import exact_factors
from monarch._layers import check_features, stored

__all__ = ["MonarchOrderP", "order_p_matmul", "project_order_p"]


def _check_radices(radices: Sequence[int]) -> tuple[int, ...]:
    radices = tuple(radices)
    if not radices:
        raise ValueError("radices must hold at least one factor, got none")
    for radix in radices:
        check_positive_int("radices", radix)
    return radices


def order_p_matmul(x: Inexact[Tensor, "*batch n"], weights: Sequence[Tensor], radices: Sequence[int]) -> Inexact[Tensor, "*batch n"]:
    r"""View ``x`` as a tensor with axes ``radices`` and, from the last axis to the first, multiply every line along it by its own matrix.

    ``weights[i]`` has shape ``(n / b_i, b_i, b_i)``, one matrix for each setting of the other axes in order. Order 2 is
    ``monarch_matmul(x, weights[1], weights[0])``; order ``log2 n`` is a butterfly product. ``n sum(b_i)`` parameters.

    Args:
        x: Vectors, shape ``(..., n)`` with ``n`` the product of the radices.
        weights: One tensor for each axis.
        radices: Sizes of the axes.

    Returns:
        Shape ``(..., n)``.

    Raises:
        ValueError: If a shape does not fit.
    """
    radices = _check_radices(radices)
    n = math.prod(radices)
    if x.ndim == 0 or x.shape[-1] != n:
        raise ValueError(f"x must have shape (..., {n}), the product of the radices {radices}, got {tuple(x.shape)}")
    if len(weights) != len(radices):
        raise ValueError(f"weights must be one for each of the {len(radices)} radices, got {len(weights)}")
    lead = x.shape[:-1]
    y = x.reshape(-1, n).T
    for axis in reversed(range(len(radices))):
        b = radices[axis]
        w = weights[axis]
        if tuple(w.shape) != (n // b, b, b):
            raise ValueError(f"weights[{axis}] must have shape {(n // b, b, b)}, got {tuple(w.shape)}")
        outer, inner = math.prod(radices[:axis]), math.prod(radices[axis + 1 :])
        dtype = torch.promote_types(y.dtype, w.dtype)
        lines = y.reshape(outer, b, inner, -1).transpose(1, 2).reshape(outer * inner, b, -1)
        y = torch.bmm(w.to(dtype), lines.to(dtype)).reshape(outer, inner, b, -1).transpose(1, 2).reshape(n, -1)
    return y.T.reshape(*lead, n)


def project_order_p(M: Inexact[Tensor, "n n"], radices: Sequence[int]) -> list[Tensor]:
    """Order-p product near a dense matrix: split off the first axis by the optimal order-2 projection, and recurse into its blocks.

    Exact where ``M`` is such a product; otherwise, for more than two axes, greedy and not the optimum.

    Args:
        M: Matrix, shape ``(n, n)``, real or complex.
        radices: Sizes of the axes, with product ``n``.

    Returns:
        Weights as ``order_p_matmul`` takes them; constants for autograd.

    Raises:
        ValueError: If ``M`` is not square or its size is not the product of the radices.
        TypeError: If ``M`` is not a floating or complex tensor.
    """
    radices = _check_radices(radices)
    n = math.prod(radices)
    if not isinstance(M, Tensor) or not (M.dtype.is_floating_point or M.dtype.is_complex):
        raise TypeError(f"M must be a floating or complex tensor, got {getattr(M, 'dtype', type(M).__name__)}")
    if tuple(M.shape) != (n, n):
        raise ValueError(f"M must have shape ({n}, {n}), the product of the radices {radices}, got {tuple(M.shape)}")
    M = M.detach()
    if len(radices) == 1:
        return [M[None]]
    b, m = radices[0], n // radices[0]
    found = structured.project_monarch(M, b, m, rank=1)
    inner = [project_order_p(block, radices[1:]) for block in found.w1]
    return [found.w2, *(torch.cat(parts) for parts in zip(*inner, strict=True))]


def _dft_weights(radices: tuple[int, ...]) -> tuple[list[Tensor], Tensor]:
    """Weights and input order of the Fourier transform by mixed radices."""
    n = math.prod(radices)
    if len(radices) == 1:
        one = torch.arange(n)
        angle = (one[:, None] * one % n).double() * (2 * math.pi / n)
        return [torch.complex(angle.cos(), -angle.sin())[None]], one
    b = radices[0]
    outer = exact_factors("dft", n, nblocks=b)
    weights, order = _dft_weights(radices[1:])
    assert outer.in_perm is not None
    index = outer.in_perm.index.reshape(b, n // b)[:, order].flatten()
    return [outer.w2, *(w.repeat(b, 1, 1) for w in weights)], index


class MonarchOrderP(nn.Module):
    """Order-p Monarch product as a layer (Fu et al., Monarch Mixer, NeurIPS 2023), square, without padding.

    Args:
        radices: Sizes ``b_1 ... b_p``; features are their product. ``[2] * p`` is a butterfly product.
        bias: Whether to add a bias.
        in_perm: Fixed permutation of the input.
        dtype: Dtype, real or complex (stored as pairs of reals).
        device: Device.

    Raises:
        ValueError: If there are no radices or the permutation does not fit.
        TypeError: If a radix is not an int.

    Example:
        >>> layer = MonarchOrderP([4, 4, 4])
        >>> layer(torch.randn(2, 64)).shape
        torch.Size([2, 64])
    """

    in_perm: Tensor | None

    def __init__(
        self,
        radices: Sequence[int],
        bias: bool = False,
        *,
        in_perm: Tensor | Permutation | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.radices = _check_radices(radices)
        self.n = self.in_features = self.out_features = math.prod(self.radices)
        dtype = torch.get_default_dtype() if dtype is None else dtype
        self.is_complex = dtype.is_complex
        index = None if in_perm is None else in_perm.index if isinstance(in_perm, Permutation) else Permutation(in_perm).index
        if index is not None and len(index) != self.n:
            raise ValueError(f"in_perm must order {self.n} features, got {len(index)}")
        self.register_buffer("in_perm", None if index is None else index.to(device))
        self.weights = nn.ParameterList(stored(torch.empty(self.n // b, b, b, dtype=dtype, device=device)) for b in self.radices)
        self.bias = nn.Parameter(torch.empty(self.n, dtype=dtype, device=device)) if bias else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the parameters anew: outputs have a third of the input's variance, as those of ``nn.Linear``."""
        share = 3 ** (-0.5 / len(self.radices))
        for w, b in zip(self.weights, self.radices, strict=True):
            bound = share * math.sqrt(3 / (b * (2 if self.is_complex else 1)))
            nn.init.uniform_(w, -bound, bound, generator=generator)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -1 / math.sqrt(self.n), 1 / math.sqrt(self.n), generator=generator)

    @classmethod
    def dft(cls, radices: Sequence[int], *, dtype: torch.dtype = torch.complex64) -> "MonarchOrderP":
        """The Fourier transform ``torch.fft.fft`` by mixed radices, exactly.

        Raises:
            TypeError: If the dtype is not complex.
        """
        if not dtype.is_complex:
            raise TypeError(f"dtype must be complex, got {dtype}")
        weights, order = _dft_weights(_check_radices(radices))
        layer = cls(radices, in_perm=order, dtype=dtype)
        layer._set(weights)
        return layer

    @classmethod
    def from_dense(cls, M: Tensor, radices: Sequence[int]) -> "MonarchOrderP":
        """``project_order_p`` as a layer.

        Raises:
            ValueError, TypeError: As ``project_order_p``.
        """
        weights = project_order_p(M, radices)
        layer = cls(radices, dtype=M.dtype, device=M.device)
        layer._set(weights)
        return layer

    @torch.no_grad()
    def _set(self, weights: Sequence[Tensor]) -> None:
        for parameter, w in zip(self.weights, weights, strict=True):
            parameter.copy_(stored(w.to(self.to_dense_dtype())))

    def to_dense_dtype(self) -> torch.dtype:
        """Dtype of the dense matrix."""
        return self.weights[0].dtype.to_complex() if self.is_complex else self.weights[0].dtype

    def _factors(self) -> list[Tensor]:
        return [torch.view_as_complex(w) if self.is_complex else w for w in self.weights]

    def forward(self, x: Inexact[Tensor, "*batch n"]) -> Inexact[Tensor, "*batch n"]:
        """Apply to vectors ``(..., n)``.

        Raises:
            RuntimeError: If the last dimension does not fit.
            TypeError: If ``x`` is not floating or complex.
        """
        check_features(x, self.n, self)
        x = x if self.in_perm is None else x.index_select(-1, self.in_perm)
        y = order_p_matmul(x, self._factors(), self.radices)
        return y if self.bias is None else y + self.bias

    def to_dense(self) -> Tensor:
        """Dense matrix, shape ``(n, n)``; differentiable."""
        eye = torch.eye(self.n, dtype=self.to_dense_dtype(), device=self.weights[0].device)
        M = order_p_matmul(eye, self._factors(), self.radices).T
        return M if self.in_perm is None else M[:, Permutation(self.in_perm, check=False).inverse().index.long()]

    def extra_repr(self) -> str:
        """Configuration for ``repr``."""
        return f"radices={self.radices}, bias={self.bias is not None}"
