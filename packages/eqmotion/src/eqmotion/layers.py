"""The parts of EqMotion that stand alone: linear maps on channels, the vector non-linearity, attention, aggregation, time transform.

Geometric features have shape ``(B, N, C, d)``: ``C`` vectors of dimension ``d`` for each of ``N`` agents. Every layer here acts on the
channels only, never on ``d``, so it commutes with rotations and reflections; those that do not subtract the mean expect features
without it.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from eqmotion._fused import pair_norms, silu_linear, silu_scale
from eqmotion.functional import channel_map, masked_mean, vector_relu, wide
from eqmotion.graph import DensePairs, SparsePairs
from geocore._checks import check_option, check_positive_int
from geocore.structured import dct, idct

__all__ = ["EquivariantLinear", "InnerAgentAttention", "InterAgentAggregation", "TimeDCT", "VectorReLU"]

Pairs = DensePairs | SparsePairs


class EquivariantLinear(nn.Module):
    """Mix channels of vectors, ``Y = W X`` with ``W`` of shape ``(out, in)`` and no bias.

    Initialised as ``nn.Linear``.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        dtype: Of the weight.
        device: Of the weight.

    Raises:
        ValueError, TypeError: If a size is not a positive int.

    Example:
        >>> EquivariantLinear(20, 64)(torch.randn(8, 5, 20, 3)).shape
        torch.Size([8, 5, 64, 3])
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        check_positive_int("in_channels", in_channels)
        check_positive_int("out_channels", out_channels)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, dtype=dtype, device=device))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform on ``+- 1 / sqrt(in_channels)``."""
        bound = 1 / math.sqrt(self.in_channels)
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Float[Tensor, "*batch c d"]) -> Float[Tensor, "*batch o d"]:
        """Shape ``(..., in_channels, d)`` to ``(..., out_channels, d)``."""
        if x.ndim < 2 or x.shape[-2] != self.in_channels:
            raise ValueError(f"x must have shape (..., {self.in_channels}, d), got {tuple(x.shape)}")
        return channel_map(self.weight, x)

    def extra_repr(self) -> str:
        """Configuration for ``repr``."""
        return f"in_channels={self.in_channels}, out_channels={self.out_channels}"


class VectorReLU(nn.Module):
    """Equivariant non-linearity ``vector_relu(W_q Z, W_k Z)`` for each agent and channel.

    Args:
        channels: Channels ``C``, in and out.
        eps: Added to ``|k|^2``.
        dtype: Of the weights.
        device: Of the weights.

    Example:
        >>> VectorReLU(16)(torch.randn(8, 5, 16, 3)).shape
        torch.Size([8, 5, 16, 3])
    """

    def __init__(
        self, channels: int, *, eps: float = 1e-4, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        self.channels, self.eps = channels, eps
        self.W_q = EquivariantLinear(channels, channels, dtype=dtype, device=device)
        self.W_k = EquivariantLinear(channels, channels, dtype=dtype, device=device)

    def forward(self, Z: Float[Tensor, "*batch c d"]) -> Float[Tensor, "*batch c d"]:
        """Features without their mean, shape ``(..., C, d)``, to the same shape."""
        q, k = channel_map(torch.cat([self.W_q.weight, self.W_k.weight]), Z).chunk(2, dim=-2)
        return vector_relu(wide(q), wide(k), self.eps).to(q.dtype)

    def extra_repr(self) -> str:
        """Configuration for ``repr``."""
        return f"channels={self.channels}, eps={self.eps}"


class InnerAgentAttention(nn.Module):
    """Weigh the channels of each agent about the mean of the scene, with weights ``SiLU(Linear(h))``.

    ``G_i + w_i (G_i - Gbar)`` (``"residual"``, the official code) or ``w_i (G_i - Gbar) + Gbar`` (``"paper"``, its equation).

    Args:
        hidden_dim: Width ``D`` of the pattern feature.
        channels: Geometric channels ``C``.
        mode: ``"residual"`` or ``"paper"``.
        dtype: Of the weights.
        device: Of the weights.

    Raises:
        ValueError: If ``mode`` is unknown.
    """

    def __init__(
        self,
        hidden_dim: int,
        channels: int,
        *,
        mode: str = "residual",
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        check_option("mode", mode, ("residual", "paper"))
        self.mode = mode
        self.linear = nn.Linear(hidden_dim, channels, dtype=dtype, device=device)

    def forward(
        self, G: Float[Tensor, "b n c d"], h: Float[Tensor, "b n f"], mask: Bool[Tensor, "b n"] | None = None
    ) -> Float[Tensor, "b n c d"]:
        """Features ``(B, N, C, d)`` and patterns ``(B, N, D)`` to new features."""
        mean = masked_mean(G, mask, (2,))
        weighed = F.silu(self.linear(h))[..., None] * (G - mean)
        return (G if self.mode == "residual" else mean) + weighed

    def extra_repr(self) -> str:
        """Configuration for ``repr``."""
        return f"mode={self.mode!r}"


def mlp(*sizes: int, last: bool = True, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> nn.Sequential:
    """Linear layers with SiLU after each, or after all but the last."""
    layers: list[nn.Module] = []
    for i in range(len(sizes) - 1):
        layers.append(nn.Linear(sizes[i], sizes[i + 1], dtype=dtype, device=device))
        if last or i < len(sizes) - 2:
            layers.append(nn.SiLU())
    return nn.Sequential(*layers)


def silu(x: Tensor) -> Tensor:
    """SiLU, in place where nobody can ask for a gradient."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def pair_linear(
    weight: Float[Tensor, "o i"], bias: Float[Tensor, "o"] | None, pairs: Pairs, h: Float[Tensor, "b n f"], pair: Float[Tensor, "pairs p"]
) -> Float[Tensor, "pairs o"]:
    """``W [h_i; h_j; pair_ij] + b`` without the concatenation: ``W1 h_i + W2 h_j + W3 pair_ij``."""
    width = h.shape[-1]
    first, second, third = weight.split([width, width, pair.shape[-1]], dim=-1)
    ends = pairs.ends(F.linear(h, first, bias), F.linear(h, second))
    if pair.dtype == ends.dtype == third.dtype and not torch.is_grad_enabled():
        return ends.addmm_(pair, third.mT)
    return torch.addmm(ends, pair, third.mT)


_BLOCK = 2560  # pairs at once where nothing is kept for a backward pass: a few megabytes, near the caches


def in_blocks(pairs: Pairs) -> Sequence[Pairs]:
    """Blocks of receivers, so that inference never holds the hidden layers of all pairs; one block where gradients are wanted."""
    if isinstance(pairs, SparsePairs) or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return [pairs]
    return pairs.blocks(_BLOCK) if pairs.batch * pairs.agents**2 > _BLOCK else [pairs]


class InterAgentAggregation(nn.Module):
    """Move the features of each agent along the differences to the others, by factors from the interaction categories.

    ``f_ij = factor_mlp(sum_k c_ijk expert_k([h_i; h_j; |G_i - G_j|]))`` and ``G_i + sum_j f_ij (G_i - G_j)``; SiLU after every
    linear map. The sum is not divided by the number of agents unless ``aggregation="mean"``.

    Args:
        channels: Geometric channels ``C``.
        hidden_dim: Width ``D`` of the pattern feature.
        n_experts: Categories that act; further categories mean "no interaction".
        expert_mixer: Whether the ``factor_mlp`` of the official code is there (the paper has none).
        pair_dim: Further invariant features of a pair, beyond the ``C`` norms.
        dtype: Of the weights.
        device: Of the weights.

    Example:
        >>> layer = InterAgentAggregation(16, 32, n_experts=2)
        >>> layer(torch.randn(8, 5, 16, 3), torch.randn(8, 5, 32), torch.rand(8, 5, 5, 2)).shape
        torch.Size([8, 5, 16, 3])
    """

    def __init__(
        self,
        channels: int,
        hidden_dim: int,
        *,
        n_experts: int = 2,
        expert_mixer: bool = True,
        pair_dim: int = 0,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        check_positive_int("n_experts", n_experts)
        self.n_experts, self.expert_mixer = n_experts, expert_mixer
        size = 2 * hidden_dim + channels + pair_dim
        self.experts = nn.ModuleList(mlp(size, hidden_dim, channels, dtype=dtype, device=device) for _ in range(n_experts))
        self.factor_mlp = mlp(channels, channels, channels, dtype=dtype, device=device) if expert_mixer else None

    def forward(
        self,
        G: Float[Tensor, "b n c d"],
        h: Float[Tensor, "b n f"],
        categories: Float[Tensor, "b n n k"],
        mask: Bool[Tensor, "b n"] | None = None,
        pair: Float[Tensor, "b n n p"] | None = None,
    ) -> Float[Tensor, "b n c d"]:
        """Features, patterns and categories (the first ``n_experts`` count) to new features.

        Args:
            G: Shape ``(B, N, C, d)``.
            h: Shape ``(B, N, D)``.
            categories: Shape ``(B, N, N, K)`` with ``K >= n_experts``.
            mask: Valid agents, shape ``(B, N)``.
            pair: Further features of pairs, shape ``(B, N, N, pair_dim)``.

        Returns:
            Shape ``(B, N, C, d)``.
        """
        pairs = DensePairs(h, mask)
        features = pair_norms(pairs, G).to(h.dtype)
        if pair is not None:
            features = torch.cat([features, pairs.rows(pair)], dim=-1)
        weight, bias = self.first()
        hidden = pair_linear(weight, bias, pairs, h, features)
        factor = self.factor(hidden.chunk(self.n_experts, dim=-1), pairs.rows(categories))
        return G + pairs.pull(factor, G - masked_mean(G, mask, (2,)))

    def first(self) -> tuple[Tensor, Tensor]:
        """First layers of all experts as one."""
        linears = [_linear(expert, 0) for expert in self.experts]
        return torch.cat([linear.weight for linear in linears]), torch.cat([linear.bias for linear in linears])

    def factor(self, hidden: tuple[Tensor, ...], categories: Float[Tensor, "pairs k"]) -> Float[Tensor, "pairs c"]:
        """``f_ij`` from the experts' hidden layers, before their activation."""
        total = None
        for k, x in enumerate(hidden):
            linear = _linear(self.experts[k], 2)
            part = silu_scale(silu_linear(x, linear.weight, linear.bias), categories[:, k : k + 1])
            total = part if total is None else total + part
        assert total is not None
        if self.factor_mlp is None:
            return total
        last = _linear(self.factor_mlp, 2)
        return silu(silu_linear(_linear(self.factor_mlp, 0)(total), last.weight, last.bias))

    def extra_repr(self) -> str:
        """Configuration for ``repr``."""
        return f"n_experts={self.n_experts}, expert_mixer={self.expert_mixer}"


def _linear(sequence: nn.Module, index: int) -> nn.Linear:
    """A linear map of an ``mlp``, for the type checker."""
    if TYPE_CHECKING:
        assert isinstance(sequence, nn.Sequential)
        assert isinstance(sequence[index], nn.Linear)
    return sequence[index]  # pyright: ignore[reportReturnType]


class TimeDCT(nn.Module):
    """Orthonormal cosine transform (DCT-II) over the time axis, the second to last.

    Args:
        steps: Length of the time axis.

    Example:
        >>> transform = TimeDCT(20)
        >>> x = torch.randn(8, 5, 20, 3)
        >>> torch.allclose(transform.inverse(transform(x)), x, atol=1e-5)
        True
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        check_positive_int("steps", steps)
        self.steps = steps

    def _check(self, x: Tensor) -> None:
        if x.ndim < 2 or x.shape[-2] != self.steps:
            raise ValueError(f"x must have shape (..., {self.steps}, d), got {tuple(x.shape)}")

    def forward(self, x: Float[Tensor, "*batch t d"]) -> Float[Tensor, "*batch t d"]:
        """Coefficients of a sequence, shape ``(..., steps, d)``."""
        self._check(x)
        return dct(x, dim=-2)

    def inverse(self, c: Float[Tensor, "*batch t d"]) -> Float[Tensor, "*batch t d"]:
        """Sequence of coefficients, shape ``(..., steps, d)``."""
        self._check(c)
        return idct(c, dim=-2)

    def extra_repr(self) -> str:
        """Configuration for ``repr``."""
        return f"steps={self.steps}"
