"""Random numbers that trace with dynamic shapes: a ``generator`` argument, even ``None``, keeps torch from tracing them."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["integers", "normal"]


def normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal, shape, dtype and device of ``like``."""
    if generator is None:
        return torch.randn_like(like)
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)


def integers(high: int, shape: Sequence[int], generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Uniform below ``high``."""
    if generator is None:
        return torch.randint(high, shape, device=device)
    return torch.randint(high, shape, generator=generator, device=device)
