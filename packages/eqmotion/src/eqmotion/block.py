"""One layer of EqMotion: pattern messages and geometric features move together."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from eqmotion._fused import pair_norms, silu_linear
from eqmotion.functional import masked_mean, wide
from eqmotion.graph import DensePairs, SparsePairs
from eqmotion.layers import (
    EquivariantLinear,
    InnerAgentAttention,
    InterAgentAggregation,
    VectorReLU,
    _linear,
    in_blocks,
    mlp,
    pair_linear,
    silu,
)

__all__ = ["EqMotionLayer", "PseudoVectors"]


class PseudoVectors(nn.Module):
    """Vectors that change sign under reflections, from pairs of channels.

    In three dimensions ``a x b / sqrt(|b|^2 + eps)`` with ``a = W_a Z`` and ``b = W_b U``; in two dimensions a quarter turn of ``a + b``.
    Added to the features they leave rotations alone and give up reflections.

    Args:
        channels: Geometric channels ``C``.
        eps: Added to ``|b|^2``.
        dtype: Of the weights.
        device: Of the weights.
    """

    def __init__(
        self, channels: int, *, eps: float = 1e-4, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        self.eps = eps
        self.W_a = EquivariantLinear(channels, channels, dtype=dtype, device=device)
        self.W_b = EquivariantLinear(channels, channels, dtype=dtype, device=device)
        self.W_p = EquivariantLinear(channels, channels, dtype=dtype, device=device)

    def forward(self, Z: Float[Tensor, "*batch c d"], U: Float[Tensor, "*batch c d"]) -> Float[Tensor, "*batch c d"]:
        """Centred features and velocities ``(..., C, d)``, ``d`` 2 or 3, to pseudo-vectors of the same shape."""
        a, b = self.W_a(Z), self.W_b(U)
        if Z.shape[-1] == 2:
            turned = torch.stack([-a[..., 1] - b[..., 1], a[..., 0] + b[..., 0]], dim=-1)
        elif Z.shape[-1] == 3:
            a, b = wide(a), wide(b)
            turned = (torch.linalg.cross(a, b, dim=-1) / ((b * b).sum(-1, keepdim=True) + self.eps).sqrt()).to(Z.dtype)
        else:
            raise ValueError(f"group='SO' must have vectors of dimension 2 or 3, got {Z.shape[-1]}; use group='O'")
        return self.W_p(turned)


class EqMotionLayer(nn.Module):
    """Attention within agents, aggregation between them, velocity, vector non-linearity, and the update of the patterns.

    All quantities of pairs come from the layer's input; the first maps of the message and of all experts are one matrix product.

    Args:
        channels: Geometric channels ``C``.
        hidden_dim: Width ``D`` of the pattern feature.
        n_experts: Categories that act.
        inner_attention: ``"residual"`` or ``"paper"``.
        expert_mixer: As ``InterAgentAggregation``.
        pair_dim: Further features of a pair.
        n_axes: Fixed directions that the symmetry leaves alone, see ``EqMotion(up_axis=...)``.
        chiral: Whether to add pseudo-vectors.
        eps: Of the vector non-linearity.
        patterns: Whether to update the patterns. After the last layer nobody reads them, so there the update is left out, and its
            weights, which official checkpoints have, are not trained.
        dtype: Of the weights.
        device: Of the weights.
    """

    def __init__(
        self,
        channels: int,
        hidden_dim: int,
        *,
        n_experts: int = 2,
        inner_attention: str = "residual",
        expert_mixer: bool = True,
        pair_dim: int = 0,
        n_axes: int = 0,
        chiral: bool = False,
        eps: float = 1e-4,
        patterns: bool = True,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.patterns = patterns
        options = {"dtype": dtype, "device": device}
        pair_dim = pair_dim + n_axes * channels
        self.edge_mlp = mlp(2 * hidden_dim + channels + pair_dim, hidden_dim, hidden_dim, **options)
        self.attention = InnerAgentAttention(hidden_dim, channels, mode=inner_attention, **options)
        self.aggregation = InterAgentAggregation(
            channels, hidden_dim, n_experts=n_experts, expert_mixer=expert_mixer, pair_dim=pair_dim, **options
        )
        self.W_u = EquivariantLinear(channels, channels, **options)
        self.pseudo = PseudoVectors(channels, eps=eps, **options) if chiral else None
        self.axes = AxisFeatures(channels, hidden_dim, n_axes, **options) if n_axes else None
        self.relu = VectorReLU(channels, eps=eps, **options)
        self.node_mlp = mlp(2 * hidden_dim, hidden_dim, hidden_dim, last=False, **options)
        if not patterns:
            self.edge_mlp.requires_grad_(False)
            self.node_mlp.requires_grad_(False)

    def forward(
        self,
        h: Float[Tensor, "b n f"],
        G: Float[Tensor, "b n c d"],
        U: Float[Tensor, "b n c d"],
        categories: Float[Tensor, "pairs k"],
        pairs: DensePairs | SparsePairs,
        *,
        mask: Bool[Tensor, "b n"] | None = None,
        pair: Float[Tensor, "pairs p"] | None = None,
        axes: Float[Tensor, "a d"] | None = None,
    ) -> tuple[Float[Tensor, "b n f"], Float[Tensor, "b n c d"]]:
        """New patterns and features.

        Args:
            h: Patterns ``(B, N, D)``.
            G: Features ``(B, N, C, d)``.
            U: Velocity features ``(B, N, C, d)``.
            categories: One row per pair.
            pairs: The graph.
            mask: Valid agents.
            pair: Further features, one row per pair.
            axes: Fixed directions, one per row.
        """
        mean = masked_mean(G, mask, (2,))
        centred = G - mean
        parts = [self._interact(h, G, centred, block.cut(categories), block, block.cut(pair), axes) for block in in_blocks(pairs)]
        pull = parts[0][1] if len(parts) == 1 else torch.cat([p for _, p in parts], dim=1)
        weighed = F.silu(self.attention.linear(h))[..., None] * centred
        moved = (G if self.attention.mode == "residual" else mean) + weighed + pull + self.W_u(U)
        if self.pseudo is not None:
            moved = moved + self.pseudo(centred, U)
        if self.axes is not None:
            moved = moved + self.axes(h, axes)
        mean = masked_mean(moved, mask, (2,))
        if self.patterns:
            message = torch.cat([m for m, _ in parts if m is not None], dim=1)
            h = h + self.node_mlp(torch.cat([h, message], dim=-1))
        return h, self.relu(moved - mean) + mean

    def _interact(
        self,
        h: Tensor,
        G: Tensor,
        centred: Tensor,
        categories: Tensor | None,
        pairs: DensePairs | SparsePairs,
        pair: Tensor | None,
        axes: Tensor | None,
    ) -> tuple[Tensor | None, Tensor]:
        """Sum of messages, and the pull of the others, for the receivers of a block."""
        assert categories is not None
        features = pair_norms(pairs, G).to(h.dtype)
        if self.axes is not None:
            assert axes is not None
            features = torch.cat([features, pairs.difference((G @ axes.mT).flatten(-2))], dim=-1)
        if pair is not None:
            features = torch.cat([features, pair], dim=-1)
        weight, bias = self.aggregation.first()
        if self.patterns:
            edge = _linear(self.edge_mlp, 0)
            weight, bias = torch.cat([weight, edge.weight]), torch.cat([bias, edge.bias])
        n = self.aggregation.n_experts
        hidden = pair_linear(weight, bias, pairs, h, features).chunk(n + self.patterns, dim=-1)
        pull = pairs.pull(self.aggregation.factor(hidden[:n], categories), centred)
        if not self.patterns:
            return None, pull
        last = _linear(self.edge_mlp, 2)
        return pairs.total(silu(silu_linear(hidden[n], last.weight, last.bias))), pull


class AxisFeatures(nn.Module):
    """A multiple of each fixed direction for every channel, ``sum_a Linear(h)_ca axis_a``.

    Args:
        channels: Geometric channels ``C``.
        hidden_dim: Width ``D`` of the pattern feature.
        n_axes: Directions.
        dtype: Of the weights.
        device: Of the weights.
    """

    def __init__(
        self,
        channels: int,
        hidden_dim: int,
        n_axes: int,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.n_axes = n_axes
        self.linear = nn.Linear(hidden_dim, channels * n_axes, dtype=dtype, device=device)

    def forward(self, h: Float[Tensor, "b n f"], axes: Float[Tensor, "a d"]) -> Float[Tensor, "b n c d"]:
        """Patterns ``(B, N, D)`` and directions ``(n_axes, d)`` to vectors ``(B, N, C, d)``."""
        return self.linear(h).unflatten(-1, (-1, self.n_axes)) @ axes
