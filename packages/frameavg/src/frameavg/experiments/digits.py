"""Rotated digits as weighted point clouds: exact invariance against augmentation at equal epochs.

``python -m frameavg.experiments.digits [--epochs 40] [--seed 0]``
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frameavg.modules import FrameAveraging
from geocore.frames import PCAFrame

__all__ = ["MODELS", "Recipe", "clouds", "rotate", "run", "train"]

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Recipe:
    """Training of one model.

    Args:
        epochs, batch, lr: Adam with a one-cycle schedule.
        train: Upright training images; the rest is the test set.
    """

    epochs: int = 40
    batch: int = 50
    lr: float = 3e-3
    train: int = 1000


def clouds() -> tuple[Tensor, Tensor, Tensor]:
    """scikit-learn's digits as points ``(1797, 64, 2)`` on the pixel grid, intensities ``(1797, 64)`` in [0, 1], and labels.

    The order of the images is a fixed random one, since neighbours in the file come from the same writer.
    """
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    axis = torch.linspace(-1, 1, 8)
    grid = torch.stack([axis.repeat(8), -axis.repeat_interleave(8)], -1)
    intensity = torch.from_numpy(digits.data).float() / 16
    labels = torch.from_numpy(digits.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return grid.expand(len(labels), 64, 2).contiguous(), intensity[order], labels[order]


def rotate(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Every cloud turned by its own uniformly random angle."""
    angle = 2 * torch.pi * torch.rand(x.shape[0], generator=generator)
    c, s = angle.cos(), angle.sin()
    Q = torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)
    return x @ Q.mT


class PointMLP(nn.Module):
    """A perceptron at every point, summed with the intensities as weights, and a classifier."""

    def __init__(self, hidden: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.point = nn.Sequential(nn.Linear(3, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, classes))

    def forward(self, x: Tensor, intensity: Tensor) -> Tensor:
        w = intensity.unsqueeze(-1)
        h = self.point(torch.cat([x, w], -1))
        return self.head((w * h).sum(-2))


def _framed(group: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: FrameAveraging(PointMLP(), PCAFrame(2, group, degenerate="ignore"), ("position", "invariant"), **options)


MODELS: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "frame averaging, SO(2)": (_framed("SE"), False),
    "stochastic frame averaging, SO(2)": (_framed("SE", train_samples=1), False),
    "frame averaging, O(2)": (_framed("E"), False),
    "backbone": (PointMLP, False),
    "backbone with rotation augmentation": (PointMLP, True),
}
"""Constructor, and whether training images are turned."""


def scores(model: nn.Module, x: Tensor, intensity: Tensor) -> Tensor:
    """Logits; the frame is weighted by the intensities."""
    return model(x, intensity, weights=intensity) if isinstance(model, FrameAveraging) else model(x, intensity)


def train(name: str, *, seed: int = 0, recipe: Recipe | None = None, device: str = "cpu") -> dict[str, float]:
    """Train one of ``MODELS``.

    Returns:
        Accuracy on upright and on rotated test images, and the largest difference of their logits.
    """
    recipe = Recipe() if recipe is None else recipe
    make, augmented = MODELS[name]
    torch.manual_seed(seed)
    model = make().to(device)
    x, intensity, labels = clouds()
    generator = torch.Generator().manual_seed(seed)
    steps = -(-recipe.train // recipe.batch) * recipe.epochs
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=steps)
    for _ in range(recipe.epochs):
        for index in torch.randperm(recipe.train, generator=generator).split(recipe.batch):
            points = rotate(x[index], generator) if augmented else x[index]
            optimizer.zero_grad()
            F.cross_entropy(scores(model, points.to(device), intensity[index].to(device)), labels[index].to(device)).backward()
            optimizer.step()
            schedule.step()
    model.eval()
    x, intensity, labels = x[recipe.train :], intensity[recipe.train :], labels[recipe.train :]
    turned = rotate(x, torch.Generator().manual_seed(10_000 + seed))
    with torch.no_grad():
        upright, rotated = (scores(model, points.to(device), intensity.to(device)).cpu() for points in (x, turned))
    return {
        "upright": (upright.argmax(-1) == labels).float().mean().item(),
        "rotated": (rotated.argmax(-1) == labels).float().mean().item(),
        "difference": (upright - rotated).abs().max().item(),
    }


def run(
    *, seed: int = 0, recipe: Recipe | None = None, device: str = "cpu", progress: Progress | None = None
) -> dict[str, dict[str, float]]:
    """Results of every model."""
    found = {}
    for i, name in enumerate(MODELS):
        if progress is not None:
            progress(i / len(MODELS), name)
        found[name] = train(name, seed=seed, recipe=recipe, device=device)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for label, found in run(seed=options.seed, recipe=Recipe(epochs=options.epochs)).items():
        print(f"{label:36}", "  ".join(f"{key} {value:.3g}" for key, value in found.items()))  # noqa: T201
