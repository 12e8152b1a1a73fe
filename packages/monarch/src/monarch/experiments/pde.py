"""Learning the solution operator of a non-periodic heat equation: a transform that may change against one that may not.

``python -m monarch.experiments.pde``
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from monarch.linear import MonarchLinear
from monarch.transforms import MonarchTransform

__all__ = ["MINIATURE", "MODELS", "Recipe", "data", "run", "train"]

N = 64
BLOCKS = 8
Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Recipe:
    """Training of one model.

    Args:
        steps, batch, lr: Adam with a cosine schedule.
        train, test: Number of initial states.
    """

    steps: int = 600
    batch: int = 64
    lr: float = 5e-3
    train: int = 1000
    test: int = 200


MINIATURE = Recipe()


def solution_operator(n: int = N) -> Tensor:
    """``exp(A)`` for ``u_t = (kappa u_x)_x`` on ``(0, 1)``, zero at both ends, by central differences.

    ``kappa = 0.01 (1 + 0.8 sin 2 pi x)``.
    """
    h = 1 / (n + 1)
    middle = (torch.arange(n + 1, dtype=torch.float64) + 0.5) * h
    kappa = 0.01 * (1 + 0.8 * torch.sin(2 * torch.pi * middle))
    A = torch.diag(-(kappa[:-1] + kappa[1:])) + torch.diag(kappa[1:-1], 1) + torch.diag(kappa[1:-1], -1)
    return torch.matrix_exp((A / h**2).expand(2, n, n).contiguous())[0]


def data(count: int, *, seed: int, n: int = N) -> tuple[Tensor, Tensor]:
    """Initial states ``sum_k N(0, 1) sin(k pi x) / k^1.5`` up to ``k = 32`` and their states at time 1, ``(count, n)``."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.arange(1, n + 1, dtype=torch.float64) / (n + 1)
    k = torch.arange(1, 33, dtype=torch.float64)
    modes = torch.sin(torch.pi * k[:, None] * x) / k[:, None] ** 1.5
    u0 = torch.randn(count, 32, dtype=torch.float64, generator=generator) @ modes
    return u0.float(), (u0 @ solution_operator(n).T).float()


class Spectral(nn.Module):
    """``Re B diag(d) A u`` with two transforms and a learned complex diagonal."""

    def __init__(self, forward: nn.Module, inverse: nn.Module) -> None:
        super().__init__()
        self.transform, self.inverse = forward, inverse
        self.diagonal = nn.Parameter(torch.view_as_real(torch.ones(N, dtype=torch.complex64)).clone())

    def forward(self, u: Tensor) -> Tensor:
        spectrum = torch.view_as_complex(self.diagonal) * self.transform(u)
        return self.inverse(spectrum).real


def fixed_fft() -> nn.Module:
    """The classical spectral layer: only the diagonal learns."""
    return Spectral(*(MonarchTransform(kind, N, nblocks=BLOCKS, norm="ortho") for kind in ("dft", "idft")))


def monarch_fft() -> nn.Module:
    """Transforms that start as the Fourier transform and learn."""
    return Spectral(*(MonarchTransform(kind, N, True, nblocks=BLOCKS, norm="ortho") for kind in ("dft", "idft")))


def monarch_random() -> nn.Module:
    """Transforms of the same form that start at random."""
    return Spectral(*(MonarchLinear(N, N, False, nblocks=BLOCKS, rank=1, dtype=torch.complex64) for _ in range(2)))


def low_rank() -> nn.Module:
    """A real product of rank 32, which has as many numbers as the two transforms."""
    return nn.Sequential(nn.Linear(N, N // 2, bias=False), nn.Linear(N // 2, N, bias=False))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "Monarch from FFT": monarch_fft,
    "Monarch random": monarch_random,
    "low rank": low_rank,
    "fixed FFT": fixed_fft,
}


def relative_l2(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean over states of ``|predicted - target| / |target|``."""
    return ((predicted - target).norm(dim=-1) / target.norm(dim=-1)).mean()


def train(make: Callable[[], nn.Module], *, seed: int = 0, recipe: Recipe = MINIATURE, device: str = "cpu") -> tuple[float, int]:
    """Test error of a trained model, and its number of parameters."""
    torch.manual_seed(seed)
    model = make().to(device)
    u, target = (x.to(device) for x in data(recipe.train, seed=seed))
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(recipe.steps):
        index = torch.randint(recipe.train, (recipe.batch,), generator=generator).to(device)
        optimizer.zero_grad()
        relative_l2(model(u[index]), target[index]).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        u, target = (x.to(device) for x in data(recipe.test, seed=10_000 + seed))
        return float(relative_l2(model(u), target)), sum(p.numel() for p in model.parameters())


def run(
    *, seeds: tuple[int, ...] = (0,), recipe: Recipe = MINIATURE, device: str = "cpu", progress: Progress | None = None
) -> dict[str, tuple[list[float], int]]:
    """Test errors for each seed, and the number of parameters, of every model."""
    found: dict[str, tuple[list[float], int]] = {}
    for i, (name, make) in enumerate(MODELS.items()):
        errors, size = [], 0
        for j, seed in enumerate(seeds):
            if progress is not None:
                progress((i * len(seeds) + j) / (len(MODELS) * len(seeds)), name)
            error, size = train(make, seed=seed, recipe=recipe, device=device)
            errors.append(error)
        found[name] = errors, size
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=MINIATURE.steps)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    outcome = run(seeds=tuple(options.seeds), recipe=Recipe(steps=options.steps), device=options.device)
    for name, (errors, size) in outcome.items():
        print(f"{name:<18} {size:>6} parameters  relative L2 {' '.join(f'{e:.4f}' for e in errors)}")  # noqa: T201


if __name__ == "__main__":
    main()
