"""Experiment 2 of Zhou et al. 2019: the rotation between two point clouds.

A shared pointwise network and a maximum over points describe the source and the rotated cloud, a small head regresses the rotation between
them. It does not converge in minutes on a CPU, so there is no miniature.

    python -m rotrep.experiments.point_cloud --train DIR --test DIR --device cuda      # the paper's recipe: 2.6 million steps

The paper's data are 2290 airplanes for training and 400 for testing from ShapeNet, as ``.pts`` files of about 2500 points. ShapeNet asks
for a registration and allows non-commercial use only, so they are not shipped: sample points from its meshes, or take the files that the
authors published, and point ``--train`` and ``--test`` at the folders. Training writes ``checkpoint.pt`` and goes on from it.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geocore import so3
from rotrep._base import Representation
from rotrep.experiments._histogram import EDGES
from rotrep.experiments._pts import read_pts
from rotrep.losses import matrix_mse
from rotrep.metrics import RotationErrorSummary, rotation_error_deg
from rotrep.registry import get_representation

__all__ = ["FULL", "NAMES", "PointCloudNet", "Recipe", "evaluate", "load_clouds", "main", "train"]

NAMES = ("6d", "5d", "9d", "10d", "quaternion", "axis_angle4", "euler")


@dataclass(frozen=True)
class Recipe:
    """How to train and test.

    Args:
        steps: Optimisation steps.
        rotations: Rotations of one random shape per step.
        lr: Learning rate of Adam.
        points: Points kept of each cloud (the first ones); ``None`` for the first half of the file.
        widths: Of the pointwise network.
        head: Hidden width of the head.
        test_rotations: Rotations of each test shape.
        save_every: Steps between checkpoints.
        seed: Of weights and data.
    """

    steps: int = 2_600_000
    rotations: int = 10
    lr: float = 1e-5
    points: int | None = None
    widths: tuple[int, ...] = (64, 128, 1024)
    head: int = 512
    test_rotations: int = 10
    save_every: int = 10_000
    seed: int = 0


FULL = Recipe()


class PointCloudNet(nn.Module):
    """Pointwise layers with LeakyReLU (the last one linear), maximum over points, both clouds side by side, two-layer head.

    Args:
        representation: What the output means.
        widths: Of the pointwise network.
        head: Hidden width of the head.
    """

    def __init__(self, representation: Representation, widths: Sequence[int] = (64, 128, 1024), head: int = 512) -> None:
        super().__init__()
        self.representation = representation
        sizes = (3, *widths)
        self.pointwise = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.hidden, self.out = nn.Linear(2 * sizes[-1], head), nn.Linear(head, representation.dim)

    def describe(self, cloud: Tensor) -> Tensor:
        """Features ``(..., widths[-1])`` of clouds ``(..., n, 3)``, whatever the order of the points."""
        for i, layer in enumerate(self.pointwise):
            cloud = layer(cloud)
            if i < len(self.pointwise) - 1:
                cloud = F.leaky_relu(cloud)
        return cloud.amax(-2)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Rotations ``(..., 3, 3)`` that take ``source (..., n, 3)`` to ``target``."""
        both = torch.cat(torch.broadcast_tensors(self.describe(source), self.describe(target)), dim=-1)
        return self.representation.decode(self.out(F.leaky_relu(self.hidden(both))))


def load_clouds(folder: str | Path, *, points: int | None = None) -> list[Tensor]:
    """Clouds of a folder, sorted by name; the first half of each file, or its first ``points``.

    Raises:
        FileNotFoundError: If there is no ``.pts`` file, with what to put there.
        ValueError: If a file cannot be read, or has fewer than ``points``; the message names it.
    """
    files = sorted(Path(folder).rglob("*.pts"))
    if not files:
        raise FileNotFoundError(
            f"no .pts file under {folder}; put one cloud per file there, a point 'x y z' per line (the paper's are ShapeNet airplanes)"
        )
    clouds = []
    for file in files:
        cloud = read_pts(file, limit=points)
        if points is None:
            cloud = cloud[: max(1, len(cloud) // 2)]
        elif len(cloud) < points:
            raise ValueError(f"{file}: {len(cloud)} points, {points} are wanted")
        clouds.append(cloud)
    return clouds


def _rotated(cloud: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rotations with uniform angle and axis, as in the paper (not Haar), and the cloud turned by each."""
    R = so3.random((count,), "uniform_angle", generator=generator).to(cloud.device)
    return R, cloud @ R.mT


def train(
    representation: Representation,
    clouds: Sequence[Tensor],
    *,
    recipe: Recipe = FULL,
    device: str = "cpu",
    out: str | Path | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> PointCloudNet:
    """Train one network.

    Args:
        representation: What its output means.
        clouds: Training shapes.
        recipe: Steps, rates and sizes.
        device: Torch device.
        out: Folder for ``checkpoint.pt``, from which training goes on if it is there; none is written by default.
        progress: Called with step and loss now and then.

    Returns:
        The network.

    Raises:
        ValueError: If there is no shape.
    """
    if not clouds:
        raise ValueError("clouds must hold at least one shape, got none")
    torch.manual_seed(recipe.seed)
    net = PointCloudNet(representation, recipe.widths, recipe.head).to(device)
    optimizer = torch.optim.Adam(net.parameters(), lr=recipe.lr)
    generator = torch.Generator().manual_seed(1000 + recipe.seed)
    start, file = 0, None if out is None else Path(out) / "checkpoint.pt"
    if file is not None and file.exists():
        state = torch.load(file, map_location="cpu", weights_only=True)
        net.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        start = int(state["step"])
    for step in range(start, recipe.steps):
        cloud = clouds[int(torch.randint(len(clouds), (), generator=generator))].to(device)
        R, turned = _rotated(cloud, recipe.rotations, generator)
        optimizer.zero_grad(set_to_none=True)
        loss = matrix_mse(net(cloud, turned), R)
        loss.backward()
        optimizer.step()
        if progress is not None and step % 100 == 0:
            progress(step, loss.item())
        if file is not None and ((step + 1) % recipe.save_every == 0 or step + 1 == recipe.steps):
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(".partial")
            state = {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "generator": generator.get_state(), "step": step + 1}
            torch.save(state, partial)
            partial.replace(file)
    return net


@torch.no_grad()
def evaluate(net: PointCloudNet, clouds: Sequence[Tensor], *, recipe: Recipe = FULL, device: str = "cpu") -> RotationErrorSummary:
    """Errors over ``recipe.test_rotations`` rotations of every shape."""
    generator = torch.Generator().manual_seed(2000 + recipe.seed)
    guess, truth = [], []
    for cloud in clouds:
        R, turned = _rotated(cloud.to(device), recipe.test_rotations, generator)
        guess.append(net(cloud.to(device), turned))
        truth.append(R)
    return rotation_error_deg(torch.cat(guess), torch.cat(truth), thresholds=EDGES)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; prints the table and returns 0."""
    parser = argparse.ArgumentParser(description="Point-cloud rotations of Zhou et al. 2019.")
    parser.add_argument("--train", type=Path, required=True, help="folder with .pts files")
    parser.add_argument("--test", type=Path, required=True, help="folder with .pts files")
    parser.add_argument("--only", nargs="+", default=list(NAMES), metavar="NAME", help="representations")
    parser.add_argument("--out", type=Path, default=Path("point-cloud"), help="folder for checkpoints, one folder per representation")
    parser.add_argument("--steps", type=int, help="overrides the recipe")
    parser.add_argument("--points", type=int, help="points of each cloud; half of the file by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(argv)
    recipe = Recipe(steps=options.steps or FULL.steps, points=options.points, seed=options.seed)
    training, testing = (load_clouds(folder, points=recipe.points) for folder in (options.train, options.test))
    print(f"{'representation':16}{'mean':>9}{'median':>9}{'p99':>9}{'max':>9}")  # noqa: T201
    for name in options.only:
        net = train(get_representation(name), training, recipe=recipe, device=options.device, out=options.out / name)
        s = evaluate(net, testing, recipe=recipe, device=options.device)
        print(f"{name:16}" + "".join(f"{v:9.2f}" for v in (s.mean, s.median, s.percentiles[99], s.max)), flush=True)  # noqa: T201
    print(f"degrees; {recipe}; {len(training)} shapes for training, {len(testing)} for testing")  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
