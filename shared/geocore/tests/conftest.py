"""What the rooms' tests share: a cheaper derivative check for functions of many numbers, and a patient garbage collector."""

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from geocore.testing import check_derivatives, tensor_leaves


def pytest_collection_finish() -> None:
    # Tracing makes millions of small objects that live until the graph is done; looking for garbage among them costs a tenth of the run.
    gc.collect()
    gc.set_threshold(50_000, 20, 50)


def _draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _check_directional(fn: Callable[..., Any], *args: Tensor, count: int = 2, joint: bool = False, **options: Any) -> None:
    """``check_derivatives`` of one random combination of each result, along ``count`` random directions of each argument.

    A wrong entry of a first or second derivative changes all its products with generic vectors, so the same formulas are checked to the
    same tolerances; what falls is the number of evaluations, from one for each number in and out to a few. Two directions, not one,
    because a Hessian with a wrong antisymmetric part agrees along a single one. ``joint`` combines all results into one number; for results
    that come from one another's graph it would hide what happens when only some of them are used.
    """
    args = tuple(a.detach().double() for a in args)
    whole = [a.numel() <= count for a in args]
    bases = [_draw(a.numel(), count, seed=10 + i) for i, a in enumerate(args)]
    bases = [b / b.norm(dim=0) for b in bases]
    weights = [_draw(*leaf.shape, seed=50 + i) for i, leaf in enumerate(tensor_leaves(fn(*args)))]

    def along(*moves: Tensor) -> tuple[Tensor, ...]:
        xs = [m if w else a + (b @ m).reshape(a.shape) for a, b, m, w in zip(args, bases, moves, whole, strict=True)]
        parts = tuple((w * leaf).sum() for w, leaf in zip(weights, tensor_leaves(fn(*xs)), strict=True))
        return (torch.stack(parts).sum(),) if joint else parts

    starts = [a if w else a.new_zeros(count) for a, w in zip(args, whole, strict=True)]
    check_derivatives(along, *starts, **options)


@pytest.fixture(scope="session")
def check_directional() -> Callable[..., None]:
    return _check_directional
