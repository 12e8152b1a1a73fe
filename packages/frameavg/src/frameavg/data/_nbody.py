"""Charged bodies: the generator of the benchmark, and its files."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from geocore._checks import check_positive_int

__all__ = ["NBody", "Trajectories", "read_nbody", "simulate_charged"]


class Trajectories(NamedTuple):
    """Positions and velocities ``(sims, frames, bodies, dim)`` and charges ``(sims, bodies)``."""

    x: Tensor
    v: Tensor
    charges: Tensor


def simulate_charged(
    n_sims: int,
    n_bodies: int = 5,
    *,
    steps: int = 5000,
    stride: int = 100,
    dt: float = 1e-3,
    strength: float = 1.0,
    speed: float = 0.5,
    max_force: float = 100.0,
    dim: int = 3,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Trajectories:
    """Coulomb forces between bodies of charge ``+-1``, integrated by leapfrog for all simulations at once, in float64.

    Positions start normal, velocities with one length. The components of a force are clamped, which bounds the step where two bodies of
    opposite charge meet.

    Source: Kipf et al., Neural Relational Inference, ICML 2018; Satorras et al., EGNN, ICML 2021 (no walls, three dimensions).

    Args:
        n_sims: Simulations.
        n_bodies: Bodies.
        steps: Integration steps.
        stride: Steps between kept frames.
        dt: Step.
        strength: Strength of the interaction.
        speed: Initial speed.
        max_force: Bound on each component of a body's force.
        dim: Dimension of space.
        seed: Seed.
        device: Where to integrate.

    Returns:
        ``steps / stride - 1`` frames of every simulation, float32.
    """
    for name, value in (("n_sims", n_sims), ("n_bodies", n_bodies), ("steps", steps), ("stride", stride), ("dim", dim)):
        check_positive_int(name, value)
    if steps < 2 * stride:
        raise ValueError(f"steps must be at least twice stride to keep a frame, got {steps} and {stride}")
    generator = torch.Generator().manual_seed(seed)
    shape = (n_sims, n_bodies)
    charges = (2.0 * torch.randint(2, shape, generator=generator) - 1).double().to(device)
    x = torch.randn(*shape, dim, generator=generator, dtype=torch.float64).to(device)
    v = torch.randn(*shape, dim, generator=generator, dtype=torch.float64).to(device)
    v = speed * v / v.norm(dim=-1, keepdim=True)
    coupling = strength * charges.unsqueeze(-1) * charges.unsqueeze(-2)
    diagonal = torch.eye(n_bodies, dtype=torch.float64, device=device)

    def force(x: Tensor) -> Tensor:
        apart = x.unsqueeze(-2) - x.unsqueeze(-3)
        cubed = (apart.square().sum(-1) + diagonal) ** 1.5
        scaled = coupling * (1 - diagonal) / cubed
        return torch.einsum("sij,sijd->sid", scaled, apart).clamp(-max_force, max_force)

    kept_x, kept_v = [], []
    v = v + 0.5 * dt * force(x)
    for step in range(1, steps):
        x = x + dt * v
        f = force(x)
        if step % stride == 0:
            kept_x.append(x.float())
            kept_v.append((v + 0.5 * dt * f).float())
        v = v + dt * f
    return Trajectories(torch.stack(kept_x, 1), torch.stack(kept_v, 1), charges.float())


def read_nbody(folder: str | Path, split: str = "train", suffix: str = "charged5_initvel1small") -> Trajectories:
    """Trajectories in the files of the benchmark: ``loc_<split>_<suffix>.npy``, ``vel_...`` and ``charges_...``.

    Args:
        folder: Folder with the files.
        split: ``"train"``, ``"valid"`` or ``"test"``.
        suffix: Rest of the names.

    Raises:
        FileNotFoundError: If one is missing; the message says how to make them.
        ValueError: If the shapes do not belong together.
    """
    arrays = []
    for part in ("loc", "vel", "charges"):
        path = Path(folder) / f"{part}_{split}_{suffix}.npy"
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing. The generator of the EGNN repository (n_body_system/dataset) writes loc, vel, edges and charges; "
                "simulate_charged makes data of the same kind"
            )
        arrays.append(torch.from_numpy(np.load(path)).float())
    x, v, charges = arrays
    if x.ndim == 4 and x.shape[2] in (2, 3) and x.shape[2] != charges.shape[1]:
        x, v = x.transpose(2, 3), v.transpose(2, 3)  # the generator stores (sims, frames, dim, bodies)
    charges = charges.flatten(1)
    if x.ndim != 4 or x.shape != v.shape or charges.shape != (x.shape[0], x.shape[2]):
        raise ValueError(
            f"files of {folder} must agree, got positions {tuple(x.shape)}, velocities {tuple(v.shape)}, charges {tuple(charges.shape)}"
        )
    return Trajectories(x, v, charges)


class NBody(Dataset[tuple[Tensor, Tensor, Tensor, Tensor]]):
    """Pairs for dynamics: positions, velocities and products of charges at one frame, positions at a later one.

    Args:
        trajectories: From ``simulate_charged`` or ``read_nbody``.
        start: Frame of the input.
        target: Frame of the prediction.
        limit: Use the first so many simulations.

    Raises:
        ValueError: If the frames are not there.
    """

    def __init__(self, trajectories: Trajectories, start: int = 30, target: int = 40, limit: int | None = None) -> None:
        frames = trajectories.x.shape[1]
        if not 0 <= start < target < frames:
            raise ValueError(f"start and target must satisfy 0 <= start < target < {frames}, got {start} and {target}")
        x, v, charges = (t[:limit] for t in trajectories)
        self.x, self.v, self.y = x[:, start], v[:, start], x[:, target]
        self.edge_attr = (charges.unsqueeze(-1) * charges.unsqueeze(-2)).unsqueeze(-1)

    def __len__(self) -> int:
        return self.x.shape[0]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``x, v, edge_attr, y``."""
        return self.x[index], self.v[index], self.edge_attr[index], self.y[index]
