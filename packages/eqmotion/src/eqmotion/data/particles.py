"""The paper's particle benchmark: charges, springs and masses in free space, all scenes simulated at once."""

from typing import NamedTuple

import torch
from torch import Tensor

from geocore._checks import check_option, check_positive_int

__all__ = ["ParticleRun", "integrate", "particle_energy", "simulate_particles", "start_particles"]

KINDS = ("charged", "springs", "gravity")
SPREAD = {"charged": 1.0, "springs": 0.5, "gravity": 1.0}
STRENGTH = {"charged": 1.0, "springs": 0.1, "gravity": 1.0}
LIMIT = 100.0
SOFTENING = 0.1


class ParticleRun(NamedTuple):
    """Positions ``(S, N, T, d)``, types of pairs ``(S, N, N)`` and charges ``(S, N)``."""

    x: Tensor
    edges: Tensor
    charges: Tensor


def start_particles(
    kind: str, n_sims: int, n_agents: int, dim: int, generator: torch.Generator | None, device: torch.device | str | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Draw the start of every scene.

    Returns:
        Positions and velocities ``(S, N, d)``, strengths of pairs ``(S, N, N)``, types ``(S, N, N)`` and charges ``(S, N)``; float64.
    """
    options = {"generator": generator, "dtype": torch.float64, "device": device}
    x = SPREAD[kind] * torch.randn(n_sims, n_agents, dim, **options)
    v = torch.randn(n_sims, n_agents, dim, **options)
    v = 0.5 * v / v.norm(dim=-1, keepdim=True)
    others = 1 - torch.eye(n_agents, dtype=torch.float64, device=device)
    if kind == "springs":
        upper = (torch.rand(n_sims, n_agents, n_agents, **options) < 0.5).double().triu(1)
        types = upper + upper.mT
        return x, v, STRENGTH[kind] * types, types.long(), torch.zeros(n_sims, n_agents, dtype=torch.float64, device=device)
    if kind == "gravity":
        charges = torch.ones(n_sims, n_agents, dtype=torch.float64, device=device)
    else:
        charges = 1 - 2 * torch.randint(2, (n_sims, n_agents), generator=generator, device=device).double()
    products = STRENGTH[kind] * charges[:, :, None] * charges[:, None, :] * others
    return x, v, products, (products > 0).long(), charges


def simulate_particles(
    kind: str = "charged",
    n_sims: int = 100,
    n_agents: int = 5,
    steps: int = 10_000,
    stride: int = 200,
    dim: int = 3,
    seed: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float64,
) -> ParticleRun:
    """Trajectories of interacting particles, by leapfrog with step 1e-3 in float64.

    ``"charged"``: Coulomb forces ``q_i q_j r / |r|^3``, charges +-1 with equal odds, positions from N(0, 1); pairs of type 1 repel, of
    type 0 attract. ``"springs"``: ``-0.1 r`` between a random half of the pairs (type 1), positions from N(0, 0.5^2). ``"gravity"``:
    unit masses, ``-r / (|r|^2 + 0.1^2)^(3/2)``, all pairs of type 1. Speeds start at 0.5, components of a force
    are cut at 100, there are no walls.

    Args:
        kind: ``"charged"``, ``"springs"`` or ``"gravity"``.
        n_sims: Scenes ``S``.
        n_agents: Particles ``N``.
        steps: Time steps.
        stride: Steps from one kept frame to the next; frames are at ``stride, 2 stride, ...`` before ``steps``, 49 with the defaults.
        dim: Dimension of space.
        seed: Of the start.
        device: Where to simulate.
        dtype: Of the result.

    Returns:
        ``(x, edges, charges)``: positions ``(S, N, frames, dim)``, integer types of pairs ``(S, N, N)`` with 0 on the diagonal, and charges
        ``(S, N)`` (masses for gravity, zeros for springs).

    Raises:
        ValueError: If ``kind`` is unknown, a size is not positive, or no frame would be kept.

    Example:
        >>> x, edges, charges = simulate_particles("springs", n_sims=10)
        >>> x.shape
        torch.Size([10, 5, 49, 3])
    """
    check_option("kind", kind, KINDS)
    for name, value in {"n_sims": n_sims, "n_agents": n_agents, "steps": steps, "stride": stride, "dim": dim}.items():
        check_positive_int(name, value)
    if (steps - 1) // stride < 1:
        raise ValueError(f"steps must be greater than stride for a frame to be kept, got steps={steps}, stride={stride}")
    generator = torch.Generator("cpu" if device is None else torch.device(device).type).manual_seed(seed)
    x, v, strength, types, charges = start_particles(kind, n_sims, n_agents, dim, generator, device)
    run, _ = integrate(kind, x, v, strength, steps=steps, stride=stride)
    return ParticleRun(run.to(dtype), types, charges.to(dtype))


def integrate(kind: str, x: Tensor, v: Tensor, strength: Tensor, *, steps: int, stride: int, dt: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Leapfrog (kick, drift, kick) from given starts.

    One row per particle or pair and one column per scene, so that every operation runs over all scenes, in place.

    Args:
        kind: ``"charged"``, ``"springs"`` or ``"gravity"``.
        x, v: Start, shape ``(S, N, d)``.
        strength: Of each pair, shape ``(S, N, N)``: spring constants, products of charges, or products of masses.
        steps, stride, dt: As ``simulate_particles``, and the step size.

    Returns:
        Positions and velocities at the kept frames, ``(S, N, frames, d)``.
    """
    S, N, d = x.shape
    first, second = torch.triu_indices(N, N, 1, device=x.device)
    B = torch.zeros(len(first), N, dtype=x.dtype, device=x.device)
    B[torch.arange(len(first), device=x.device), first] = 1.0
    B[torch.arange(len(first), device=x.device), second] = -1.0
    sign = 1.0 if kind == "charged" else -1.0
    weight = sign * strength[:, first, second].mT.contiguous()  # (pairs, S)
    at = x.permute(1, 2, 0).reshape(N, d * S).contiguous()
    speed = v.permute(1, 2, 0).reshape(N, d * S).contiguous()
    r = at.new_empty(len(first), d * S)
    force = torch.empty_like(at)
    square = at.new_empty(len(first), S)

    def update() -> None:
        torch.mm(B, at, out=r)
        parts = r.view(-1, d, S)
        if kind == "springs":
            parts.mul_(weight[:, None])
        else:
            torch.mul(parts[:, 0], parts[:, 0], out=square)
            for k in range(1, d):
                square.addcmul_(parts[:, k], parts[:, k])
            if kind == "gravity":
                square.add_(SOFTENING**2)
            root = square.rsqrt()
            root.mul_(root).mul_(torch.rsqrt(square, out=square)).mul_(weight)
            parts.mul_(root[:, None])
        torch.mm(B.mT, r, out=force)
        force.clamp_(-LIMIT, LIMIT)

    def frame(y: Tensor) -> Tensor:
        return y.view(N, d, S).permute(2, 0, 1).clone()

    xs, vs = [], []
    update()
    speed.add_(force, alpha=0.5 * dt)
    for step in range(1, steps):
        at.add_(speed, alpha=dt)
        update()
        if step % stride == 0:
            xs.append(frame(at))
            vs.append(frame(speed + 0.5 * dt * force))
        speed.add_(force, alpha=dt)
    return torch.stack(xs, dim=2), torch.stack(vs, dim=2)


def particle_energy(kind: str, x: Tensor, v: Tensor, strength: Tensor) -> Tensor:
    """Kinetic and potential energy of states ``(S, N, T, d)`` with strengths ``(S, N, N)``; shape ``(S, T)``. The cut-off is not in it."""
    check_option("kind", kind, KINDS)
    kinetic = 0.5 * (v * v).sum((1, 3))
    r = x[:, :, None] - x[:, None, :]
    square = (r * r).sum(-1)
    if kind == "springs":
        pair = 0.5 * square
    else:
        soft = SOFTENING**2 if kind == "gravity" else 0.0
        pair = (square + soft).masked_fill(square == 0, torch.inf).rsqrt() * (1.0 if kind == "charged" else -1.0)
    return kinetic + 0.5 * (strength[..., None] * pair).sum((1, 2))
