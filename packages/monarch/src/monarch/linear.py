"""Drop-in linear layers: ``MonarchLinear`` and ``BlockDiagLinear``."""

import copy
import math
from typing import Any, Literal

import torch
from jaxtyping import Inexact
from torch import Tensor, nn
from torch.nn import functional as F

from geocore._checks import check_option, check_positive_int
from geocore.structured import Permutation
from monarch._exact import Factors, exact_factors, nearest_divisor
from monarch._layers import check_features, stored
from monarch.functional import Gauge, blockdiag_matmul, monarch_dense, monarch_matmul, project_monarch, transpose_factors

__all__ = ["BlockDiagLinear", "MonarchLinear"]

Init = Literal["variance", "official", "dense", "fft", "dct", "hadamard", "identity"]
INITS = ("variance", "official", "dense", "fft", "dct", "hadamard", "identity")


class _Structured(nn.Module):
    """What both layers share: bias, autocast, conversion."""

    in_features: int
    out_features: int
    bias: nn.Parameter | None

    def _make_bias(self, bias: bool, dtype: torch.dtype | None, device: Any) -> None:
        self.bias = nn.Parameter(torch.empty(self.out_features, dtype=dtype, device=device)) if bias else None

    def _reset_bias(self, generator: torch.Generator | None = None) -> None:
        if self.bias is not None:
            nn.init.uniform_(self.bias, -1 / math.sqrt(self.in_features), 1 / math.sqrt(self.in_features), generator=generator)

    def _in_autocast(self, x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        device = x.device.type
        if device != "meta" and torch.is_autocast_enabled(device) and not any(w.is_complex() for w in (x, *weights)):
            dtype = torch.get_autocast_dtype(device)
            return tuple(t.to(dtype) for t in (x, *weights))
        return (x, *weights)

    def to_dense(self) -> Tensor:
        """Weight of the equivalent ``nn.Linear``, shape ``(out, in)``; differentiable."""
        raise NotImplementedError(f"{type(self).__name__} must implement this method")

    @torch.no_grad()
    def to_linear(self) -> nn.Linear:
        """``nn.Linear`` that computes the same."""
        weight = self.to_dense()
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, device=weight.device, dtype=weight.dtype)
        linear.weight.copy_(weight)
        if self.bias is not None:
            linear.bias.copy_(self.bias)
        return linear.train(self.training)

    @property
    def density(self) -> float:
        """Numbers in the factors over numbers in the dense weight."""
        stored = sum(p.numel() for name, p in self.named_parameters(recurse=False) if name.startswith("weight"))
        return stored / (self.in_features * self.out_features * (2 if self.to_dense_dtype().is_complex else 1))

    def to_dense_dtype(self) -> torch.dtype:
        """Dtype of the dense weight."""
        raise NotImplementedError(f"{type(self).__name__} must implement this method")


class MonarchLinear(_Structured):
    r"""``y = M x + b`` with ``M = P_2 blockdiag(w2) P_1 blockdiag(w1)``, two batched small products in place of one large one.

    Dao et al., "Monarch: Expressive Structured Matrices for Efficient and Accurate Training", ICML 2022 (arXiv 2204.00595). The input is
    padded with zeros to ``k p``, the output cropped to ``out_features``. With ``k = l = N`` blocks, the default ``q = r = min(p, s)`` gives
    every ``s x p`` block rank about ``min(p, s) / N``; ``rank=b`` gives every block rank ``b``.

    Args:
        in_features: Size of the last dimension of the input.
        out_features: Size of the last dimension of the output.
        bias: Whether to add a bias.
        nblocks: Blocks of the first factor, ``k``, and of the second; ``"sqrt"`` is the divisor of ``in_features`` nearest to its root.
        rank: Rank of the blocks.
        out_nblocks: Blocks of the second factor, ``l``.
        in_perm: Fixed permutation of the input, ``x[..., in_perm]``.
        out_perm: Fixed permutation of the output, ``y[..., out_perm]``.
        init: ``"variance"``, outputs vary as those of ``nn.Linear``; ``"official"``, uniform with ``1 / sqrt(fan)`` for each factor, a
            third of that; ``"dense"``, projection of a default ``nn.Linear`` weight; for square layers exactly ``"identity"``,
            ``"hadamard"`` (power of two), ``"dct"`` (sets ``in_perm``; blocks of rank 2) and, with a complex dtype, ``"fft"``.
        device: Device of the parameters.
        dtype: Dtype of the parameters. Complex ones are stored as pairs of reals (last dimension 2).

    Attributes:
        weight1: ``(k, q, p)``, with a last dimension 2 if complex.
        weight2: ``(l, s, r)``, with a last dimension 2 if complex.

    Raises:
        ValueError: If there are more blocks than features, the sizes do not fit, or the initialisation does not exist for them.
        TypeError: If a size is not an int or the dtype not floating or complex.

    Example:
        >>> layer = MonarchLinear(768, 3072)
        >>> layer(torch.randn(2, 768)).shape, layer.density
        (torch.Size([2, 3072]), 0.3125)
    """

    in_perm: Tensor | None
    out_perm: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        nblocks: int | Literal["sqrt"] = 4,
        rank: int | None = None,
        out_nblocks: int | None = None,
        in_perm: Tensor | Permutation | None = None,
        out_perm: Tensor | Permutation | None = None,
        init: Init = "variance",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive_int("in_features", in_features)
        check_positive_int("out_features", out_features)
        check_option("init", init, INITS)
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if not (dtype.is_floating_point or dtype.is_complex):
            raise TypeError(f"dtype must be floating or complex, got {dtype}")
        self.in_features, self.out_features, self.init, self.is_complex = in_features, out_features, init, dtype.is_complex
        exact = None
        if init in ("fft", "dct", "hadamard", "identity"):
            exact = self._exact(init, None if nblocks == "sqrt" else nblocks, in_perm, out_perm)
            self._sizes = (*exact.w1.shape, *exact.w2.shape)
            in_perm, out_perm = exact.in_perm, exact.out_perm
        else:
            self._sizes = self._fit(nblocks, rank, out_nblocks)
        k, q, p, l, s, r = self._sizes  # noqa: E741
        self.weight1 = nn.Parameter(stored(torch.empty(k, q, p, dtype=dtype, device=device)))
        self.weight2 = nn.Parameter(stored(torch.empty(l, s, r, dtype=dtype, device=device)))
        for name, perm, size in (("in_perm", in_perm, in_features), ("out_perm", out_perm, out_features)):
            index = perm.index if isinstance(perm, Permutation) else None if perm is None else Permutation(perm).index
            if index is not None and len(index) != size:
                raise ValueError(f"{name} must order {size} features, got {len(index)}")
            self.register_buffer(name, None if index is None else index.to(device))
        self._make_bias(bias, dtype, device)
        self.reset_parameters()

    def _fit(self, nblocks: Any, rank: int | None, out_nblocks: int | None) -> tuple[int, ...]:
        if nblocks == "sqrt":
            nblocks = min(nearest_divisor(self.in_features), self.out_features)
        check_positive_int("nblocks", nblocks)
        k, l = nblocks, nblocks if out_nblocks is None else out_nblocks  # noqa: E741
        check_positive_int("out_nblocks", l)
        if k > self.in_features or l > self.out_features:
            raise ValueError(
                f"nblocks must be at most the features, got {k} and {l} for {self.in_features} inputs and {self.out_features} outputs"
            )
        p, s = -(-self.in_features // k), -(-self.out_features // l)
        if rank is not None:
            check_positive_int("rank", rank)
            return k, rank * l, p, l, s, rank * k
        unit = l // math.gcd(k, l)  # q must be a multiple of it for r to be whole
        q = max(unit, min(p, s) // unit * unit)
        return k, q, p, l, s, k * q // l

    def _exact(self, init: str, nblocks: int | None, in_perm: Any, out_perm: Any) -> Factors:
        n = self.in_features
        if n != self.out_features:
            raise ValueError(f"init={init!r} needs a square layer, got {n} inputs and {self.out_features} outputs")
        if in_perm is not None or out_perm is not None:
            raise ValueError(f"init={init!r} sets the permutations itself, got in_perm or out_perm")
        if init == "fft" and not self.is_complex:
            raise ValueError("init='fft' needs a complex dtype such as torch.complex64; 'dct' is the real transform")
        kind = {"fft": "dft", "dct": "dct2"}.get(init, init)
        blocks = nblocks if nblocks is not None and n % nblocks == 0 and nblocks > 1 else None
        return exact_factors(kind, n, nblocks=blocks, norm="ortho")

    @property
    def w1(self) -> Tensor:
        """First factor ``(k, q, p)``, complex where the layer is."""
        return torch.view_as_complex(self.weight1) if self.is_complex else self.weight1

    @property
    def w2(self) -> Tensor:
        """Second factor ``(l, s, r)``, complex where the layer is."""
        return torch.view_as_complex(self.weight2) if self.is_complex else self.weight2

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the parameters anew."""
        k, _, p, _, _, r = self._sizes
        if self.init in ("fft", "dct", "hadamard", "identity"):
            kind = {"fft": "dft", "dct": "dct2"}.get(self.init, self.init)
            exact = exact_factors(kind, self.in_features, nblocks=k, norm="ortho")
            self._set(exact.w1, exact.w2)
        elif self.init == "dense":
            dense = torch.empty(self.out_features, self.in_features, dtype=self.weight1.dtype, device=self.weight1.device)
            nn.init.kaiming_uniform_(dense, a=math.sqrt(5), generator=generator)
            self._set(*self._project(dense, "balanced")[:2])
        else:
            # Entries of variance 1 / (3 fan) in each factor leave a ninth of the input's variance, nn.Linear a third
            fan1, fan2 = (p, r) if self.init == "official" else (self.in_features / k, r)
            gain = 1.0 if self.init == "official" else 3**0.25
            for w, fan in ((self.weight1, fan1), (self.weight2, fan2)):
                bound = gain / math.sqrt(fan * (2 if self.is_complex else 1))
                nn.init.uniform_(w, -bound, bound, generator=generator)
        self._reset_bias(generator)

    def _set(self, w1: Tensor, w2: Tensor) -> None:
        with torch.no_grad():
            for parameter, w in ((self.weight1, w1), (self.weight2, w2)):
                parameter.copy_(stored(w.to(self.to_dense_dtype())))

    def to_dense_dtype(self) -> torch.dtype:
        """Dtype of the dense weight."""
        return self.weight1.dtype.to_complex() if self.is_complex else self.weight1.dtype

    def _project(self, dense: Tensor, gauge: Gauge, metric: Tensor | None = None) -> tuple[Tensor, Tensor, Any]:
        k, q, _, l, _, _ = self._sizes  # noqa: E741
        if self.in_perm is not None:
            dense = dense[:, self.in_perm.long()]
            metric = None if metric is None else metric[self.in_perm.long()][:, self.in_perm.long()]
        if self.out_perm is not None:
            dense = dense[Permutation(self.out_perm, check=False).inverse().index.long()]
        return project_monarch(dense, k, l, q, gauge=gauge, metric=metric)

    @classmethod
    def from_dense(
        cls,
        linear: nn.Linear | Tensor,
        bias: Tensor | None = None,
        *,
        gauge: Gauge = "balanced",
        metric: Tensor | None = None,
        **options: Any,
    ) -> "MonarchLinear":
        """Layer nearest to a linear layer or weight ``(out, in)``; the relative error is left in ``projection_error``.

        Args:
            linear: ``nn.Linear``, or a weight.
            bias: Bias of a weight given as a tensor.
            gauge: As ``project_monarch``.
            metric: As ``project_monarch``.
            options: ``nblocks``, ``rank``, ``out_nblocks``, ``in_perm``, ``out_perm``.

        Raises:
            ValueError, TypeError: As the constructor and ``project_monarch``.
        """
        weight = linear.weight if isinstance(linear, nn.Module) else linear
        bias = getattr(linear, "bias", None) if isinstance(linear, nn.Module) else bias
        if not isinstance(weight, Tensor) or weight.ndim != 2:
            raise ValueError(f"linear must be an nn.Linear or a weight of shape (out, in), got {type(linear).__name__}")
        if {"init", "dtype", "device"} & set(options):
            raise ValueError("from_dense takes its values, dtype and device from the layer, got init, dtype or device")
        layer = cls(weight.shape[1], weight.shape[0], bias is not None, device=weight.device, dtype=weight.dtype, **options)
        w1, w2, info = layer._project(weight.detach(), gauge, metric)
        layer._set(w1, w2)
        if bias is not None and layer.bias is not None:
            with torch.no_grad():
                layer.bias.copy_(bias)
        layer.projection_error = float(info.rel_error)
        if isinstance(linear, nn.Module):
            layer.train(linear.training)
        return layer

    projection_error: float | None = None
    """Relative Frobenius error of the projection that made this layer, if one did."""

    def forward(self, x: Inexact[Tensor, "*batch in"]) -> Inexact[Tensor, "*batch out"]:
        """Apply to vectors ``(..., in_features)``.

        Raises:
            RuntimeError: If the last dimension does not fit.
            TypeError: If ``x`` is not floating or complex.
        """
        check_features(x, self.in_features, self)
        k, _, p, _, _, _ = self._sizes
        if self.in_perm is not None:
            x = x.index_select(-1, self.in_perm)
        if k * p != self.in_features:
            x = F.pad(x, (0, k * p - self.in_features))
        x, w1, w2 = self._in_autocast(x, self.w1, self.w2)
        y = monarch_matmul(x, w1, w2)
        if y.shape[-1] != self.out_features:
            y = y[..., : self.out_features]
        if self.out_perm is not None:
            y = y.index_select(-1, self.out_perm)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def to_dense(self) -> Tensor:
        """Weight of the equivalent ``nn.Linear``, shape ``(out, in)``; differentiable."""
        M = monarch_dense(self.w1, self.w2)[: self.out_features, : self.in_features]
        if self.in_perm is not None:
            M = M[:, Permutation(self.in_perm, check=False).inverse().index.long()]
        return M if self.out_perm is None else M[self.out_perm.long()]

    @torch.no_grad()
    def transpose(self) -> "MonarchLinear":
        """A new layer, without bias, with the transposed matrix.

        Raises:
            NotImplementedError: If features are padded, where the strided order of the transpose would cut through the padding.
        """
        k, _, p, l, s, _ = self._sizes  # noqa: E741
        if k * p != self.in_features or l * s != self.out_features:
            raise NotImplementedError(
                f"transpose() needs blocks that divide the features, got {k} for {self.in_features} and {l} for {self.out_features}"
            )
        first, second = transpose_factors(self.w1, self.w2)
        # The transposed product reads what out_perm wrote and writes what in_perm read.
        read = Permutation(torch.arange(l * s).reshape(s, l).T.flatten(), check=False)
        write = Permutation(torch.arange(k * p).reshape(p, k).T.flatten(), check=False)
        if self.out_perm is not None:
            read = read @ Permutation(self.out_perm.cpu(), check=False).inverse()
        if self.in_perm is not None:
            write = Permutation(self.in_perm.cpu(), check=False).inverse() @ write
        made = MonarchLinear(
            self.out_features,
            self.in_features,
            False,
            nblocks=l,
            out_nblocks=k,
            rank=first.shape[1] // k,
            in_perm=read,
            out_perm=write,
            device=self.weight1.device,
            dtype=self.to_dense_dtype(),
        )
        made._set(first, second)
        return made.train(self.training)

    @torch.no_grad()
    def conj(self) -> "MonarchLinear":
        """A new layer with the conjugated matrix and bias."""
        made = copy.deepcopy(self)
        if self.is_complex:
            made._set(self.w1.conj(), self.w2.conj())
            if made.bias is not None and self.bias is not None:
                made.bias.copy_(self.bias.conj())
        return made

    @property
    def T(self) -> "MonarchLinear":
        """``transpose()``."""
        return self.transpose()

    def extra_repr(self) -> str:
        """Configuration for ``repr``."""
        k, q, p, l, s, r = self._sizes  # noqa: E741
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"w1=({k}, {q}, {p}), w2=({l}, {s}, {r}), density={self.density:.3g}"
        )


class BlockDiagLinear(_Structured):
    """``y = blockdiag(w) x + b``: block ``i`` of the input feeds block ``i`` of the output only.

    Args:
        in_features: Size of the last dimension of the input, padded to a multiple of ``nblocks``.
        out_features: Size of the last dimension of the output.
        bias: Whether to add a bias.
        nblocks: Number of blocks.
        device: Device of the parameters.
        dtype: Dtype of the parameters, real.

    Raises:
        ValueError: If there are more blocks than features.
        TypeError: If a size is not an int.

    Example:
        >>> BlockDiagLinear(8, 4, nblocks=2)(torch.randn(3, 8)).shape
        torch.Size([3, 4])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        nblocks: int = 4,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, size in (("in_features", in_features), ("out_features", out_features), ("nblocks", nblocks)):
            check_positive_int(name, size)
        if nblocks > min(in_features, out_features):
            raise ValueError(f"nblocks must be at most the features, got {nblocks} for {in_features} inputs and {out_features} outputs")
        self.in_features, self.out_features, self.nblocks = in_features, out_features, nblocks
        self._p, self._q = -(-in_features // nblocks), -(-out_features // nblocks)
        self.weight = nn.Parameter(torch.empty(nblocks, self._q, self._p, dtype=dtype, device=device))
        self._make_bias(bias, dtype, device)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the parameters anew: outputs vary as those of ``nn.Linear``."""
        bound = 1 / math.sqrt(self.in_features / self.nblocks)
        nn.init.uniform_(self.weight, -bound, bound, generator=generator)
        self._reset_bias(generator)

    def to_dense_dtype(self) -> torch.dtype:
        """Dtype of the dense weight."""
        return self.weight.dtype

    def forward(self, x: Inexact[Tensor, "*batch in"]) -> Inexact[Tensor, "*batch out"]:
        """Apply to vectors ``(..., in_features)``.

        Raises:
            RuntimeError: If the last dimension does not fit.
            TypeError: If ``x`` is not floating or complex.
        """
        check_features(x, self.in_features, self)
        x = F.pad(x, (0, self.nblocks * self._p - self.in_features)) if self.nblocks * self._p != self.in_features else x
        x, w = self._in_autocast(x, self.weight)
        y = blockdiag_matmul(x, w)[..., : self.out_features]
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def to_dense(self) -> Tensor:
        """Weight of the equivalent ``nn.Linear``, shape ``(out, in)``; differentiable."""
        return torch.block_diag(*self.weight)[: self.out_features, : self.in_features]

    def extra_repr(self) -> str:
        """Configuration for ``repr``."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, nblocks={self.nblocks}"
