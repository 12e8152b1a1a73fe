"""Small networks that use our layers the way a user would."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from comrope import ComRoPE, RotaryTable, grid_positions

HEADS, DIM, GRID = 2, 16, (4, 4)


class Attention(nn.Module):
    """Self-attention with ComRoPE on queries and keys, or with a folded table in its place."""

    def __init__(self, variant: str) -> None:
        super().__init__()
        width = HEADS * DIM
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.rope: ComRoPE | RotaryTable = ComRoPE(DIM, HEADS, len(GRID), block_size=4, variant=variant)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (HEADS, DIM)).transpose(-3, -2) for f in (self.q, self.k, self.v))
        q, k = self.rope.apply(q, k, positions) if isinstance(self.rope, RotaryTable) else self.rope(q, k, positions)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(-3, -2).flatten(-2))

    def fold(self) -> None:
        """Turn the layer into plain RoPE."""
        assert isinstance(self.rope, ComRoPE)
        self.rope = self.rope.fold_into_(self.q, self.k)


class Transformer(nn.Module):
    """Two pre-norm blocks over a grid of patches, mean pooling and a linear head; no absolute position anywhere."""

    def __init__(self, variant: str = "ld", classes: int = 3) -> None:
        super().__init__()
        width = HEADS * DIM
        self.embed = nn.Linear(4, width)
        self.attention = nn.ModuleList(Attention(variant) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.mlp = nn.ModuleList(nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width)) for _ in range(2))
        self.head = nn.Linear(width, classes)

    def forward(self, patches: Tensor, positions: Tensor) -> Tensor:
        x = self.embed(patches)
        for i in range(2):
            x = x + self.attention[i](self.norms[2 * i](x), positions)
            x = x + self.mlp[i](self.norms[2 * i + 1](x))
        return self.head(x.mean(-2))

    def fold(self) -> "Transformer":
        """Fold every layer's basis into its projections."""
        for layer in self.attention:
            layer.fold()
        return self


def batch(size: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Patches (size, 16, 4), positions (16, 2) and labels (size,)."""
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randn(size, GRID[0] * GRID[1], 4, generator=generator)
    return patches, grid_positions(GRID), torch.randint(3, (size,), generator=generator)


def make(variant: str = "ld", seed: int = 0) -> Transformer:
    """The network with seeded weights."""
    torch.manual_seed(seed)
    return Transformer(variant)
