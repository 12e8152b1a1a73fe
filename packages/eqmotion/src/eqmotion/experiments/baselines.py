"""What EqMotion is compared with: constant velocity, standing still, and a message-passing network without symmetry."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from eqmotion.layers import _linear, mlp

__all__ = ["InteractionNetwork", "constant_velocity", "repeat_last"]


def constant_velocity(x: Float[Tensor, "b n t d"], out_steps: int) -> Float[Tensor, "b n f d"]:
    """Go on with the last observed velocity."""
    ahead = torch.arange(1, out_steps + 1, dtype=x.dtype, device=x.device)[:, None]
    return x[:, :, -1:] + ahead * (x[:, :, -1:] - x[:, :, -2:-1])


def repeat_last(x: Float[Tensor, "b n t d"], out_steps: int) -> Float[Tensor, "b n f d"]:
    """Stay where one is."""
    return x[:, :, -1:].expand(-1, -1, out_steps, -1)


class InteractionNetwork(nn.Module):
    """Message passing on raw coordinates, all pairs; equivariant to permutations and, by centring, to translations, not to rotations.

    Reads past positions and velocities of each agent, sends ``MLP([h_i; h_j])`` along every pair, and predicts the deviation from constant
    velocity.

    Args:
        in_steps: Observed steps.
        out_steps: Predicted steps.
        dim: Dimension of space.
        width: Features of agents and messages.
        n_layers: Rounds of messages.
    """

    def __init__(self, in_steps: int, out_steps: int, *, dim: int = 2, width: int = 64, n_layers: int = 3) -> None:
        super().__init__()
        self.out_steps, self.dim = out_steps, dim
        self.encoder = mlp(2 * in_steps * dim, width, width)
        self.messages = nn.ModuleList(mlp(2 * width, width, width) for _ in range(n_layers))
        self.updates = nn.ModuleList(mlp(2 * width, width, width, last=False) for _ in range(n_layers))
        self.decoder = mlp(width, width, out_steps * dim, last=False)

    def forward(self, x: Float[Tensor, "b n t d"]) -> Float[Tensor, "b n f d"]:
        """Past positions to future positions."""
        N = x.shape[1]
        centre = x.mean((1, 2), keepdim=True)
        v = x.diff(dim=2, prepend=2 * x[:, :, :1] - x[:, :, 1:2])
        h = self.encoder(torch.cat([x - centre, v], dim=2).flatten(2))
        others = 1 - torch.eye(N, dtype=x.dtype, device=x.device)[..., None]
        for message, update in zip(self.messages, self.updates, strict=True):
            first, second = _linear(message, 0), _linear(message, 2)
            receiver, sender = first.weight.chunk(2, dim=-1)  # of [h_i; h_j], without the concatenation
            hidden = F.silu(F.linear(h, receiver, first.bias)[:, :, None] + F.linear(h, sender)[:, None])
            h = h + update(torch.cat([h, (F.silu(second(hidden)) * others).sum(2)], dim=-1))
        return constant_velocity(x, self.out_steps) + self.decoder(h).unflatten(-1, (self.out_steps, self.dim))
