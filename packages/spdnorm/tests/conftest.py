from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

torch.set_num_threads(1)  # at these sizes threads only wait for each other

Make = Callable[..., Tensor]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def spd() -> Make:
    """``spd(5, n=4)``: five well-conditioned SPD matrices of size 4, a new draw at every call of one test, the same in every run."""
    generator = torch.Generator().manual_seed(0)

    def make(*batch: int, n: int = 4, condition: float | None = None) -> Tensor:
        A = torch.randn(*batch, n, 3 * n, generator=generator, dtype=torch.float64)
        if condition is None:
            return A @ A.mT / (3 * n)
        Q = torch.linalg.qr(A[..., :n])[0]
        values = torch.logspace(0, -torch.log10(torch.tensor(condition)).item(), n, dtype=torch.float64)
        X = (Q * values) @ Q.mT
        return (X + X.mT) / 2

    return make


@pytest.fixture
def skeleton() -> Callable[..., str]:
    """A skeleton file of NTU RGB+D: counts, a line of ten numbers per body, twelve per joint."""

    def write(frames, bodies=("72057594037931101",), joints=25, scale=1.0):
        lines = [str(frames)]
        for t in range(frames):
            lines.append(str(len(bodies)))
            for k, body in enumerate(bodies):
                lines.append(f"{body} 0 1 1 0 0 0 -0.19 0.02 2")
                lines.append(str(joints))
                for j in range(joints):
                    x, y, z = (scale * (k + 1) * np.sin(0.3 * t + j + c) for c in range(3))
                    lines.append(f"{x:.6f} {y:.6f} {z:.6f} 277.5 191.8 1036.9 519.6 0.2 0.03 0.97 0.02 2")
        return "\n".join(lines) + "\n"

    return write
