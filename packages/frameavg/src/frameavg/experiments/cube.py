"""Where the theory stops: averaging over principal axes near a degenerate spectrum, against weighted frames.

``python -m frameavg.experiments.cube``
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from frameavg.functional import frame_average
from geocore.frames import PCAFrame, WeightedFrame
from geocore.so3 import random as random_rotation

__all__ = ["FRAMES", "corners", "jump", "run"]

FRAMES: dict[str, Callable[[], Any]] = {
    "principal axes": lambda: PCAFrame(3, "SE", degenerate="ignore"),
    "weighted pairs": lambda: WeightedFrame(3, "SE"),
}


def corners(gap: float = 0.0) -> Tensor:
    """The corners of a cube, ``(1, 8, 3)`` in float64, stretched so that the eigenvalues differ by about ``gap``, relatively."""
    axis = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    cube = torch.cartesian_prod(axis, axis, axis)
    stretch = 1 + 0.5 * gap * torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64)
    return (cube * stretch).unsqueeze(0)


def network(seed: int = 0) -> nn.Module:
    """A random perceptron of all coordinates, scaled to vary visibly over a turn."""
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(24, 64), nn.Tanh(), nn.Linear(64, 8)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) / p.shape[-1] ** 0.5)
    return net


def equivariance(frame: Any, x: Tensor, turns: int = 32, seed: int = 0) -> float:
    """Largest ``|f(R x) - f(x)| / |f(x)|`` of the averaged network over random rotations."""
    net = network(seed).to(x.dtype)
    R = random_rotation((turns,), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(x.dtype)
    with torch.no_grad():
        base = frame_average(net, x, frame, "position", "invariant")
        turned = frame_average(net, x @ R.mT, frame, "position", "invariant")
    return ((turned - base).norm(dim=-1) / base.norm(dim=-1)).max().item()


def jump(frame: Any, step: float = 1e-5, seed: int = 0) -> float:
    """Relative change of the output when the longest axis of the cube becomes another one, a change of the input by ``2 step``."""
    net = network(seed)
    bent = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    cube = corners()
    identity = torch.eye(3, dtype=torch.float64)
    first = cube @ (identity + step * torch.diag(torch.tensor([1.0, 0.4, -1.0], dtype=torch.float64)))
    second = cube @ (identity + step * bent @ torch.diag(torch.tensor([-1.0, 0.4, 1.0], dtype=torch.float64)) @ bent.mT)
    with torch.no_grad():
        a, b = (frame_average(net, x, frame, "position", "invariant") for x in (first, second))
    return ((a - b).norm() / a.norm()).item()


def run(
    gaps: tuple[float, ...] = (0.0, 1e-7, 1e-5, 1e-3, 1e-1), seed: int = 0, dtype: torch.dtype = torch.float64
) -> dict[str, dict[str, float]]:
    """For each kind of frame the equivariance error at each gap, computed in ``dtype``, and the jump across the degeneracy."""
    table = {}
    for name, make in FRAMES.items():
        row = {f"gap {gap:g}": equivariance(make(), corners(gap).to(dtype), seed=seed) for gap in gaps}
        table[name] = row | {"jump": jump(make(), seed=seed)}
    return table


if __name__ == "__main__":
    for dtype in (torch.float32, torch.float64):
        for label, row in run(dtype=dtype).items():
            print(f"{label:16} {dtype!s:14}", "  ".join(f"{key} {value:.1e}" for key, value in row.items()))  # noqa: T201
