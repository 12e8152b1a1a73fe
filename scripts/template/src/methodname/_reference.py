"""The literal transcription of the method, loops and all: the oracle of tests and benchmarks."""

import torch
from torch import Tensor

__all__ = ["rotate_pairs_reference"]


def rotate_pairs_reference(x: Tensor, angle: Tensor) -> Tensor:
    """``rotate_pairs`` with one 2 x 2 matrix per pair."""
    parts = []
    for k in range(angle.shape[-1]):
        cos, sin = torch.cos(angle[..., k]), torch.sin(angle[..., k])
        matrix = torch.stack([torch.stack([cos, -sin], dim=-1), torch.stack([sin, cos], dim=-1)], dim=-2)
        parts.append((matrix @ x[..., 2 * k : 2 * k + 2, None])[..., 0])
    return torch.cat(parts, dim=-1)
