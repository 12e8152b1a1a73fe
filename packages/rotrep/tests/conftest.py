import math
from collections.abc import Iterator

import jaxtyping
import pytest
import torch
from torch import Tensor

from geocore import so3
from rotrep import sampling


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def rng() -> torch.Generator:
    return generator()


@pytest.fixture(autouse=True)
def no_shape_checks_while_tracing(request: pytest.FixtureRequest) -> Iterator[None]:
    """The compiler cannot trace the runtime checker: with checking switched on, the tests that compile run without it."""
    traces = any(word in request.node.name for word in ("transforms", "contract", "export"))
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", before or traces)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture(scope="session")
def hard_rotations() -> Tensor:
    """Haar, near the identity, the identity, half turns about generic and coordinate axes, near half turns, gimbal lock; float64."""
    g = generator(7)
    axes = torch.nn.functional.normalize(torch.randn(500, 3, generator=g, dtype=torch.float64), dim=-1)
    axes = torch.cat([axes, torch.eye(3, dtype=torch.float64)])
    eye = torch.eye(3, dtype=torch.float64)
    half = 2 * axes[:, :, None] * axes[:, None] - eye
    some = axes[:40]
    near = torch.cat([so3.exp(a * some) for a in (1e-12, 1e-8, 1e-4, 1e-2, math.pi - 1e-2, math.pi - 1e-6, math.pi - 1e-9)])
    lock = so3.euler_to_matrix(torch.tensor([[0.3, math.pi / 2, 0.0], [0.3, -math.pi / 2, 1.0]], dtype=torch.float64))
    return torch.cat([sampling.haar(3, 2000, g, dtype=torch.float64), half, near, eye[None], lock])
