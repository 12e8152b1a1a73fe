"""Energies with forces as derivatives, for molecules of different sizes in one padded batch."""

import torch
from torch import nn

from frameavg import FrameAveraging, PCAFrame


class Energy(nn.Module):
    """Squared charge-weighted sum over atoms."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 32), nn.SiLU(), nn.Linear(32, 1))

    def forward(self, x: torch.Tensor, charge: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Energy of each molecule."""
        per_atom = self.net(torch.cat([x, charge], -1)).squeeze(-1)
        return (per_atom * mask).sum(-1) ** 2


x = torch.randn(2, 7, 3, dtype=torch.float64, requires_grad=True)
charge = torch.rand(2, 7, 1, dtype=torch.float64)
mask = torch.arange(7) < torch.tensor([7, 5])[:, None]
model = FrameAveraging(Energy().double(), PCAFrame(3, "SE", detach=False), ("position", "invariant"))
energy = model(x, charge, mask=mask)
forces = -torch.autograd.grad(energy.sum(), x)[0]
print("energies", energy.tolist())
print("net force", forces.sum(1).abs().max().item(), " force on padding", forces[~mask].abs().max().item())
