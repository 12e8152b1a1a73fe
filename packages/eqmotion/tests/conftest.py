from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from eqmotion import EqMotion


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def small() -> Callable[..., EqMotion]:
    """A small float64 model."""

    def make(in_steps: int = 7, out_steps: int = 5, **options: Any) -> EqMotion:
        torch.manual_seed(1)
        return EqMotion(in_steps, out_steps, **{"channels": 6, "hidden_dim": 9, "n_layers": 2, **options}).double().eval()

    return make


@pytest.fixture(scope="session")
def scenes() -> Callable[..., Tensor]:
    """Random scenes, float64."""

    def make(*shape: int, seed: int = 0) -> Tensor:
        return torch.randn(*(shape or (2, 5, 7, 3)), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    return make
