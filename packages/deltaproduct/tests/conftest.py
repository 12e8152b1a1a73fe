from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F


def _draw(
    B: int = 2,
    T: int = 11,
    H: int = 2,
    K: int = 5,
    V: int = 3,
    n: int = 2,
    *,
    gated: bool = True,
    states: int | None = None,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor]:
    """Queries, unit keys, values, beta over [0, 2], log-gates and initial states."""
    generator = torch.Generator().manual_seed(seed)
    options: dict[str, Any] = {"generator": generator, "dtype": torch.float64}
    q = torch.randn(B, T, H, K, **options)
    k = F.normalize(torch.randn(B, T * n, H, K, **options), dim=-1)
    v = torch.randn(B, T * n, H, V, **options)
    beta = 2 * torch.rand(B, T * n, H, **options)
    g = -torch.rand(B, T, H, **options) if gated else None
    S = torch.randn(B if states is None else states, H, K, V, **options)
    q, k, v, beta, S = (x.to(dtype) for x in (q, k, v, beta, S))
    return q, k, v, beta, None if g is None else g.to(dtype), S


def _value_and_grads(fn: Callable[..., Any], inputs: tuple[Tensor | None, ...], **options: Any) -> list[Tensor]:
    """Outputs, final states and the gradient of every input, for random cotangents."""
    leaves = [None if x is None else x.detach().clone().requires_grad_() for x in inputs]
    *first, S = leaves
    out = fn(*first, initial_state=S, **options)
    weights = [torch.randn(o.shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64).to(o) for i, o in enumerate(out)]
    loss = sum((w * o).sum() for w, o in zip(weights, out, strict=True))
    return [*out, *torch.autograd.grad(loss, [x for x in leaves if x is not None])]


@pytest.fixture(scope="session")
def draw() -> Callable[..., tuple[Tensor, ...]]:
    return _draw


@pytest.fixture(scope="session")
def value_and_grads() -> Callable[..., list[Tensor]]:
    return _value_and_grads


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
