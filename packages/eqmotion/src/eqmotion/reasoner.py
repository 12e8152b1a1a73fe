"""Interaction categories of every pair of agents, without labels."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from eqmotion._fused import pair_norms, silu_linear
from eqmotion.graph import DensePairs, SparsePairs
from eqmotion.layers import _linear, in_blocks, mlp, pair_linear, silu
from geocore._checks import check_positive_int

__all__ = ["InteractionReasoner"]


class InteractionReasoner(nn.Module):
    """Soft categories of interaction from quantities that no rotation, reflection or translation changes.

    With ``d_ij`` the channel norms of ``R_i - R_j``: ``d' = MLP(d)``, ``e_ij = MLP([h_i; h_j; d'_ij])``,
    ``n_i = MLP([h_i; sum_{j != i} e_ij])``, ``logits = SiLU(Linear(SiLU(Linear([n_i; n_j; d'_ij]))))`` and
    ``c_ij = softmax(logits / tau)``. SiLU after every linear map, on the logits too, as in the official code.

    Args:
        channels: Channels of ``R``: twice the geometric channels, for positions and velocities.
        hidden_dim: Width ``D`` of the pattern feature.
        n_categories: Categories ``K``.
        tau: Temperature; 1 for prediction, 0.5 in the paper's reasoning experiment.
        pair_dim: Further invariant features of a pair.
        dtype: Of the weights.
        device: Of the weights.

    Raises:
        ValueError: If a size is not positive or ``tau`` is not.

    Example:
        >>> reasoner = InteractionReasoner(32, 64, n_categories=2)
        >>> categories, logits = reasoner(torch.randn(8, 5, 32, 3), torch.randn(8, 5, 64))
        >>> categories.shape
        torch.Size([8, 5, 5, 2])
    """

    def __init__(
        self,
        channels: int,
        hidden_dim: int,
        *,
        n_categories: int = 2,
        tau: float = 1.0,
        pair_dim: int = 0,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        check_positive_int("n_categories", n_categories)
        if not tau > 0:
            raise ValueError(f"tau must be positive, got {tau}")
        self.n_categories, self.tau = n_categories, tau
        options = {"dtype": dtype, "device": device}
        self.distance_mlp = mlp(channels, hidden_dim, channels, **options)
        self.edge_mlp = mlp(2 * hidden_dim + channels + pair_dim, hidden_dim, hidden_dim, **options)
        self.node_mlp = mlp(2 * hidden_dim, hidden_dim, hidden_dim, **options)
        self.category_mlp = mlp(2 * hidden_dim + channels, hidden_dim, n_categories, **options)

    def forward(
        self,
        R: Float[Tensor, "b n c d"],
        h: Float[Tensor, "b n f"],
        mask: Bool[Tensor, "b n"] | None = None,
        pair: Float[Tensor, "b n n p"] | None = None,
    ) -> tuple[Float[Tensor, "b n n k"], Float[Tensor, "b n n k"]]:
        """Categories, whose rows sum to 1, and logits, both ``(B, N, N, K)``.

        Args:
            R: Geometric features, shape ``(B, N, channels, d)``.
            h: Patterns, shape ``(B, N, D)``.
            mask: Valid agents, shape ``(B, N)``.
            pair: Further features of pairs, shape ``(B, N, N, pair_dim)``.
        """
        pairs = DensePairs(h, mask)
        categories, logits = self.rows(R, h, pairs, None if pair is None else pairs.rows(pair))
        return pairs.shaped(categories), pairs.shaped(logits)

    def rows(
        self, R: Float[Tensor, "b n c d"], h: Float[Tensor, "b n f"], pairs: DensePairs | SparsePairs, pair: Float[Tensor, "pairs p"] | None
    ) -> tuple[Float[Tensor, "pairs k"], Float[Tensor, "pairs k"]]:
        """The same with one row per pair, over any graph."""
        distances, totals = [], []
        blocks = in_blocks(pairs)
        for block in blocks:
            first, second = _linear(self.distance_mlp, 0), _linear(self.distance_mlp, 2)
            distance = silu(silu_linear(first(pair_norms(block, R).to(h.dtype)), second.weight, second.bias))
            extra = block.cut(pair)
            features = distance if extra is None else torch.cat([distance, extra], dim=-1)
            first, second = _linear(self.edge_mlp, 0), _linear(self.edge_mlp, 2)
            hidden = pair_linear(first.weight, first.bias, block, h, features)
            totals.append(block.total(silu(silu_linear(hidden, second.weight, second.bias))))
            distances.append(distance)
        node = self.node_mlp(torch.cat([h, totals[0] if len(totals) == 1 else torch.cat(totals, dim=1)], dim=-1))
        first, second = _linear(self.category_mlp, 0), _linear(self.category_mlp, 2)
        found = []
        for block, distance in zip(blocks, distances, strict=True):
            hidden = pair_linear(first.weight, first.bias, block, node, distance)
            found.append(block.shaped(F.silu(silu_linear(hidden, second.weight, second.bias))))
        logits = found[0] if len(found) == 1 else torch.cat(found, dim=1)
        logits = logits.reshape(-1, self.n_categories)
        return torch.softmax(logits / self.tau, dim=-1), logits

    def extra_repr(self) -> str:
        """Configuration for ``repr``."""
        return f"n_categories={self.n_categories}, tau={self.tau}"
