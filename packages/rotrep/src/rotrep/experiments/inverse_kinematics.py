"""Experiment 3 of Zhou et al. 2019: joint rotations of a skeleton from its joint positions.

A multilayer perceptron sees the positions of all joints, its output is decoded to local rotations, and forward kinematics turns those
into positions; the loss is their mean squared error plus ten times that of the three joints next to the root. In miniature: a tree of 17
joints with random poses, Adam 1e-3 with cosine decay, 3000 steps.

    python -m rotrep.experiments.inverse_kinematics                                 # miniature, about two minutes on one core
    python -m rotrep.experiments.inverse_kinematics --full --bvh DIR --device cuda  # motion capture, 2 million steps

The paper's data are CMU motion capture recordings converted to BVH, available from public mirrors; point ``--bvh`` at the folder.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from geocore import so3
from rotrep._base import Representation
from rotrep.experiments._bvh import Motion, read_bvh
from rotrep.experiments._ensemble import EnsembleMLP, one_thread
from rotrep.experiments._histogram import EDGES
from rotrep.metrics import RotationErrorSummary, rotation_error_deg
from rotrep.registry import get_representation

__all__ = ["NAMES", "OFFSETS", "PARENTS", "Outcome", "Recipe", "main", "positions_loss", "sample_clip", "sample_poses", "train"]

NAMES = ("9d", "6d", "quaternion", "euler")
PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15)
"""Root, two legs of three joints, spine and chest, neck and head, two arms of three joints."""
OFFSETS = (
    *((0.0, 0.0, 0.0), (-0.1, -0.05, 0.0), (0.0, -0.42, 0.0), (0.0, -0.42, 0.05), (0.1, -0.05, 0.0), (0.0, -0.42, 0.0), (0.0, -0.42, 0.05)),
    *((0.0, 0.12, 0.0), (0.0, 0.25, 0.0), (0.0, 0.2, 0.02), (0.0, 0.15, 0.03), (0.16, 0.12, 0.0), (0.28, 0.0, 0.0), (0.25, 0.0, 0.0)),
    *((-0.16, 0.12, 0.0), (-0.28, 0.0, 0.0), (-0.25, 0.0, 0.0)),
)
"""Position of each joint in its parent's frame, metres."""


@dataclass(frozen=True)
class Recipe:
    """How to train and test.

    Args:
        steps: Optimisation steps.
        batch: Poses per step.
        lr: Learning rate at first.
        cosine: Whether it decays to zero.
        hidden: Widths of the hidden layers.
        test: Number of test poses.
        hip_weight: Weight of the extra loss on the joints next to the root.
    """

    steps: int = 3000
    batch: int = 64
    lr: float = 1e-3
    cosine: bool = True
    hidden: tuple[int, ...] = (256, 256, 256)
    test: int = 5000
    hip_weight: float = 10.0


MINIATURE = Recipe()
FULL = Recipe(steps=2_000_000, lr=1e-5, cosine=False, hidden=(1024, 1024, 1024))


@dataclass(frozen=True)
class Outcome:
    """Test result: mean distance of joints in the unit of the offsets, and the root's rotation error."""

    joint_error: float
    root: RotationErrorSummary


def sample_poses(count: int, generator: torch.Generator) -> Tensor:
    """Local rotations (count, 17, 3, 3): Haar at the root, normal rotation vectors with standard deviation 0.5 elsewhere."""
    root = so3.random((count, 1), generator=generator)
    return torch.cat([root, so3.random((count, len(PARENTS) - 1), "wrapped_normal", sigma=0.5, generator=generator)], dim=1)


def sample_clip(motions: Sequence[Motion], generator: torch.Generator) -> Tensor:
    """Local rotations of a random clip of 16 to 64 frames, a multiple of 16, turned as a whole about the vertical axis."""
    usable = [m for m in motions if len(m.rotations) >= 16]
    if not usable:
        raise ValueError("motions must hold a recording of at least 16 frames")

    def draw(high: int) -> int:
        return int(torch.randint(high, (), generator=generator))

    motion = usable[draw(len(usable))]
    length = min(16 * (1 + draw(4)), len(motion.rotations) // 16 * 16)
    start = draw(len(motion.rotations) - length + 1)
    clip = motion.rotations[start : start + length].clone()
    yaw = so3.exp(torch.tensor([0.0, 2.0 * math.pi * float(torch.rand((), generator=generator)), 0.0]))
    root = motion.parents.index(-1)
    clip[:, root] = yaw @ clip[:, root]
    return clip


def positions_loss(positions: Tensor, target: Tensor, hips: Sequence[int], weight: float) -> Tensor:
    """Mean squared error of all coordinates plus ``weight`` times that of the joints ``hips``."""
    square = (positions - target).square()
    return square.mean() + weight * square[..., list(hips), :].mean()


def train(
    representation: Representation,
    *,
    seeds: Sequence[int] = (0,),
    recipe: Recipe = MINIATURE,
    device: str = "cpu",
    motions: Sequence[Motion] = (),
    progress: Callable[[float], None] | None = None,
) -> list[Outcome]:
    """Train one network per seed, side by side, and test it.

    Args:
        representation: What the network's output means, per joint.
        seeds: One network each.
        recipe: Steps, rates and sizes.
        device: Torch device.
        motions: Recordings of one skeleton, the last tenth of them for testing (a single one is used for both); by default random
            poses of the tree of 17 joints. One clip of 16 to 64 frames with a random yaw serves all seeds of a step.
        progress: Called now and then with the fraction done.

    Returns:
        One outcome per seed.
    """
    parents = list(motions[0].parents) if motions else list(PARENTS)
    offsets = (motions[0].offsets if motions else torch.tensor(OFFSETS)).to(device)
    hips = [j for j, p in enumerate(parents) if p == parents.index(-1)]
    joints, members = len(parents), len(seeds)
    held_out = motions[-max(1, len(motions) // 10) :] if len(motions) > 1 else motions
    training = motions[: -len(held_out)] if len(motions) > 1 else motions

    def positions(R: Tensor) -> Tensor:
        return so3.forward_kinematics(R, offsets, parents)[1]

    with one_thread():
        net = EnsembleMLP((3 * joints, *recipe.hidden, joints * representation.dim), seeds).to(device)
        optimizer = torch.optim.Adam(net.parameters(), lr=recipe.lr, foreach=True)
        sources = [torch.Generator().manual_seed(1000 + seed) for seed in seeds]

        def predict(p: Tensor) -> Tensor:
            return representation.decode(net(p.flatten(-2)).unflatten(-1, (joints, representation.dim)))

        for step in range(recipe.steps):
            if recipe.cosine:
                optimizer.param_groups[0]["lr"] = recipe.lr * 0.5 * (1.0 + math.cos(math.pi * step / recipe.steps))
            if motions:
                R = sample_clip(training, sources[0]).expand(members, -1, -1, -1, -1)
            else:
                R = torch.stack([sample_poses(recipe.batch, g) for g in sources])
            target = positions(R.to(device))
            optimizer.zero_grad(set_to_none=True)
            # the sum over members: each network gets the gradient of its own mean
            (members * positions_loss(positions(predict(target)), target, hips, recipe.hip_weight)).backward()
            optimizer.step()
            if progress is not None and step % 100 == 0:
                progress(step / recipe.steps)
        out = []
        with torch.no_grad():
            tests = [torch.Generator().manual_seed(2000 + seed) for seed in seeds]
            if motions:
                R = torch.cat([m.rotations for m in held_out]).expand(members, -1, -1, -1, -1).to(device)
            else:
                R = torch.stack([sample_poses(recipe.test, g) for g in tests]).to(device)
            target = positions(R)
            guess = predict(target)
            distance = (positions(guess) - target).norm(dim=-1).mean((-2, -1))
            root = parents.index(-1)
            for member in range(members):
                summary = rotation_error_deg(guess[member, :, root], R[member, :, root], thresholds=EDGES)
                out.append(Outcome(float(distance[member]), summary))
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; prints the table and returns 0."""
    parser = argparse.ArgumentParser(description="Inverse kinematics of Zhou et al. 2019.")
    parser.add_argument("--full", action="store_true", help="the paper's recipe on motion capture; days, use a GPU")
    parser.add_argument("--bvh", type=Path, help="folder with BVH files of one skeleton")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", default=list(NAMES), metavar="NAME", help="representations")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, help="overrides the recipe")
    options = parser.parse_args(argv)
    if options.full and options.bvh is None:
        parser.error("--full needs --bvh DIR")
    motions = [read_bvh(file, scale=0.01) for file in sorted(options.bvh.rglob("*.bvh"))] if options.bvh else []
    if options.bvh and not motions:
        parser.error(f"no .bvh file under {options.bvh}")
    recipe = FULL if options.full else MINIATURE
    if options.steps:
        recipe = Recipe(**{**vars(recipe), "steps": options.steps})
    print(f"{'representation':16}{'joints':>9}{'root mean':>11}{'root max':>10}")  # noqa: T201
    for name in options.only:
        for seed, o in zip(
            options.seeds,
            train(get_representation(name), seeds=options.seeds, recipe=recipe, device=options.device, motions=motions),
            strict=True,
        ):
            print(f"{name:16}{100 * o.joint_error:9.1f}{o.root.mean:11.1f}{o.root.max:10.1f}  seed {seed}")  # noqa: T201
    print(f"joints in hundredths of the offsets' unit, root in degrees; {recipe}")  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
