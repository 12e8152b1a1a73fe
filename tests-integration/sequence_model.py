"""A sequence model of three packages, and a task for it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from comrope import ComRoPE, RotaryTable
from deltaproduct import DeltaProduct
from geocore import so3
from rotrep import RotationHead

WIDTH, HEADS, DIM = 32, 2, 16


class CausalAttention(nn.Module):
    """Softmax attention over the past with a learned rotary embedding of the time step."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.rope: ComRoPE | RotaryTable = ComRoPE(DIM, HEADS, 1, block_size=4)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (HEADS, DIM)).transpose(1, 2) for f in (self.q, self.k, self.v))
        q, k = self.rope.apply(q, k, positions) if isinstance(self.rope, RotaryTable) else self.rope(q, k, positions)
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class Tracker(nn.Module):
    """Commands in, the orientation after each of them out."""

    def __init__(self, commands: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(commands, WIDTH)
        self.first = DeltaProduct(WIDTH, num_heads=HEADS, head_dim=DIM, num_householder=2, use_short_conv=False, layer_idx=0)
        self.attention = CausalAttention()
        self.second = DeltaProduct(WIDTH, num_heads=HEADS, head_dim=DIM, num_householder=2, use_short_conv=False, layer_idx=1)
        self.norms = nn.ModuleList(nn.RMSNorm(WIDTH) for _ in range(4))
        self.head = RotationHead(WIDTH, "6d", hidden=(64,))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        positions = torch.arange(tokens.shape[1], dtype=x.dtype, device=x.device)[:, None]
        x = x + self.first(self.norms[0](x))[0]
        x = x + self.attention(self.norms[1](x), positions)
        x = x + self.second(self.norms[2](x))[0]
        return self.head(self.norms[3](x)).matrix


def commands(batch: int, length: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Quarter turns about the three axes, and the products so far: a state to track, not a feature to read off."""
    tokens = torch.randint(3, (batch, length), generator=torch.Generator().manual_seed(seed))
    turns = so3.exp(torch.eye(3) * torch.pi / 2)
    state, states = torch.eye(3).expand(batch, 3, 3), []
    for step in tokens.unbind(1):
        state = turns[step] @ state
        states.append(state)
    return tokens, torch.stack(states, 1)
