"""Normals of point clouds, upright in training and turned in the test: PointNet against its frame-averaged form.

``python -m frameavg.experiments.normals [--full --folder ABC] [--local]``: ``--full`` is the paper's recipe on a folder of ABC meshes.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frameavg.data import SurfaceNormals, sample_shapes
from frameavg.models._pointnet import FAPointNet, PointNet, normal_loss
from geocore import so3

__all__ = ["FULL", "MINIATURE", "PlainPointNet", "Recipe", "evaluate", "train"]

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Recipe:
    """Training of one model.

    Args:
        points: Points of a cloud.
        epochs, batch, lr: Adam; the rate halves every ``halve`` epochs.
        halve: See ``lr``.
        shapes, test: Clouds that are generated where no folder is given.
        widths, head: Layers of PointNet.
    """

    points: int = 512
    epochs: int = 250
    batch: int = 32
    lr: float = 1e-3
    halve: int = 100
    shapes: int = 2000
    test: int = 500
    widths: tuple[int, ...] = (64, 128, 1024)
    head: tuple[int, ...] = (512, 256, 128)


FULL = Recipe()
MINIATURE = Recipe(points=64, epochs=8, batch=16, shapes=64, test=32, widths=(32, 64, 128), head=(64, 32))


class PlainPointNet(nn.Module):
    """PointNet on the centred cloud as it stands."""

    def __init__(self, widths: tuple[int, ...], head: tuple[int, ...]) -> None:
        super().__init__()
        self.net = PointNet(3, 3, widths, head)

    def forward(self, x: Tensor) -> Tensor:
        """Unit normals."""
        return F.normalize(self.net(x - x.mean(-2, keepdim=True)), dim=-1)


def _batches(data: tuple[Tensor, Tensor] | SurfaceNormals, batch: int, generator: torch.Generator) -> list[Tensor]:
    count = len(data) if isinstance(data, SurfaceNormals) else len(data[0])
    return list(torch.randperm(count, generator=generator).split(batch))


def _draw(data: tuple[Tensor, Tensor] | SurfaceNormals, index: Tensor) -> tuple[Tensor, Tensor]:
    if isinstance(data, SurfaceNormals):
        points, normals = zip(*(data[int(i)] for i in index), strict=True)
        return torch.stack(points), torch.stack(normals)
    return data[0][index], data[1][index]


def train(
    model: nn.Module,
    data: tuple[Tensor, Tensor] | SurfaceNormals,
    recipe: Recipe,
    *,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> nn.Module:
    """Minimise ``1 - <n, n'>^2`` with random scaling of the clouds."""
    model.to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.lr)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, recipe.halve, 0.5)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(recipe.epochs):
        for index in _batches(data, recipe.batch, generator):
            if len(index) == 1:
                continue  # batch statistics of a single cloud are none
            x, normals = _draw(data, index)
            x = x * (0.8 + 0.4 * torch.rand(len(x), 1, 1, generator=generator))
            optimizer.zero_grad()
            normal_loss(model(x.to(device)), normals.to(device)).backward()
            optimizer.step()
        schedule.step()
        if progress is not None:
            progress((epoch + 1) / recipe.epochs, "normals")
    return model


def evaluate(model: nn.Module, data: tuple[Tensor, Tensor] | SurfaceNormals, *, rotated: bool, batch: int = 32, seed: int = 0) -> float:
    """Mean loss over the data, as it stands or with every cloud turned at random."""
    model.eval()
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    count = len(data) if isinstance(data, SurfaceNormals) else len(data[0])
    total = 0.0
    with torch.no_grad():
        for start in range(ceil(count / batch)):
            index = torch.arange(start * batch, min((start + 1) * batch, count))
            x, normals = _draw(data, index)
            if rotated:
                R = so3.random((len(x),), generator=generator)
                x, normals = x @ R.mT, normals @ R.mT
            total += len(x) * normal_loss(model(x.to(device)), normals.to(device)).item()
    return total / count


def main() -> None:
    """Train PointNet and its frame-averaged form upright, test them turned."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--folder", help="meshes, in subfolders train and test")
    parser.add_argument("--local", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    recipe = FULL if options.full else MINIATURE
    if options.folder:
        train_set: tuple[Tensor, Tensor] | SurfaceNormals = SurfaceNormals(f"{options.folder}/train", recipe.points)
        test_set: tuple[Tensor, Tensor] | SurfaceNormals = SurfaceNormals(f"{options.folder}/test", recipe.points)
    else:
        train_set = sample_shapes(recipe.shapes, recipe.points, seed=options.seed)
        test_set = sample_shapes(recipe.test, recipe.points, seed=10_000 + options.seed)
    for name in ("FAPointNet", "PointNet"):
        torch.manual_seed(options.seed)
        shape: Any = {"widths": recipe.widths, "head": recipe.head}
        model = FAPointNet(options.local, **shape) if name == "FAPointNet" else PlainPointNet(**shape)
        train(model, train_set, recipe, seed=options.seed, device=options.device)
        upright, turned = (evaluate(model, test_set, rotated=rotated) for rotated in (False, True))
        print(f"{name:11} upright {upright:.3f}  turned {turned:.3f}")  # noqa: T201


if __name__ == "__main__":
    main()
