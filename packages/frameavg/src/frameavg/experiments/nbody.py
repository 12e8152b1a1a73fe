"""Charged bodies: layer-wise frame averaging against the same network without frames.

``python -m frameavg.experiments.nbody [--full] [--folder DIR]``: ``--full`` is the paper's recipe (3 000 training scenes, 10 000 epochs);
``--folder`` reads the benchmark's files instead of simulating.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frameavg.data import NBody, read_nbody, simulate_charged
from frameavg.models._gnn import FAGNN, MessagePassing, other_nodes, pair_features

__all__ = ["FULL", "MINIATURE", "PlainGNN", "Recipe", "load", "train"]

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Recipe:
    """Training of one model.

    Args:
        scenes, test: Training and test scenes.
        epochs, batch, lr, weight_decay: Adam on the mean squared error.
        hidden, n_layers: Size of the network.
    """

    scenes: int = 3000
    test: int = 2000
    epochs: int = 10_000
    batch: int = 100
    lr: float = 1e-3
    weight_decay: float = 1e-12
    hidden: int = 60
    n_layers: int = 4


FULL = Recipe()
MINIATURE = replace(FULL, scenes=500, test=200, epochs=30)


class PlainGNN(nn.Module):
    """The backbone on positions and velocities as they come: sees axes, so has to learn the symmetry."""

    def __init__(self, hidden: int = 60, n_layers: int = 4) -> None:
        super().__init__()
        self.embed = nn.Linear(6, hidden)
        self.layers = nn.ModuleList(MessagePassing(hidden, 2) for _ in range(n_layers))
        self.decode = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 3))

    def forward(self, x: Tensor, v: Tensor, edge_attr: Tensor) -> Tensor:
        """Predicted positions."""
        t = x.mean(-2, keepdim=True)
        others = other_nodes(x.shape[-2], x.device)
        edges = pair_features(x, edge_attr, others)
        h = self.embed(torch.cat([x - t, v], -1)).unsqueeze(-3)
        for layer in self.layers:
            h = layer(h, edges, others)
        return self.decode(h).squeeze(-3) + t


def load(recipe: Recipe, *, folder: str | None = None, seed: int = 0) -> tuple[NBody, NBody]:
    """Training and test scenes, simulated or read."""
    if folder is not None:
        return NBody(read_nbody(folder, "train"), limit=recipe.scenes), NBody(read_nbody(folder, "test"), limit=recipe.test)
    sims = simulate_charged(recipe.scenes + recipe.test, steps=4200, seed=seed)
    return NBody(type(sims)(*(t[: recipe.scenes] for t in sims))), NBody(type(sims)(*(t[recipe.scenes :] for t in sims)))


def train(
    model: nn.Module, data: tuple[NBody, NBody], recipe: Recipe, *, seed: int = 0, device: str = "cpu", progress: Progress | None = None
) -> list[float]:
    """Train, and return the test error (MSE of positions) after each tenth of the epochs."""
    train_set, test_set = data
    model.to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    generator = torch.Generator().manual_seed(seed)
    tensors = [t.to(device) for t in (train_set.x, train_set.v, train_set.edge_attr, train_set.y)]
    errors = []
    for epoch in range(recipe.epochs):
        model.train()
        for index in torch.randperm(len(train_set), generator=generator).split(recipe.batch):
            x, v, edge_attr, y = (t[index.to(device)] for t in tensors)
            optimizer.zero_grad()
            F.mse_loss(model(x, v, edge_attr), y).backward()
            optimizer.step()
        if (epoch + 1) % max(recipe.epochs // 10, 1) == 0 or epoch + 1 == recipe.epochs:
            model.eval()
            with torch.no_grad():
                predicted = model(test_set.x.to(device), test_set.v.to(device), test_set.edge_attr.to(device))
                errors.append(F.mse_loss(predicted, test_set.y.to(device)).item())
            if progress is not None:
                progress((epoch + 1) / recipe.epochs, f"test MSE {errors[-1]:.4f}")
    return errors


def main() -> None:
    """Train both models and print their errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--folder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    recipe = FULL if options.full else MINIATURE
    data = load(recipe, folder=options.folder, seed=options.seed)
    for make in (FAGNN, PlainGNN):
        torch.manual_seed(options.seed)
        model = make(recipe.hidden, recipe.n_layers)
        errors = train(model, data, recipe, seed=options.seed, device=options.device)
        print(f"{make.__name__:10} test MSE", "  ".join(f"{e:.4f}" for e in errors))  # noqa: T201


if __name__ == "__main__":
    main()
