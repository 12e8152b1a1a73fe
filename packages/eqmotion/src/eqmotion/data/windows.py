"""Past and future cut out of longer sequences."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from geocore._checks import check_floating, check_positive_int

__all__ = ["Scene", "TrajectoryDataset", "make_windows"]


class Scene(NamedTuple):
    """One training example: past ``(N, T, d)``, future ``(N, F, d)``, valid agents ``(N,)``."""

    x: Tensor
    y: Tensor
    mask: Tensor


def make_windows(
    sequence: Float[Tensor, "l n d"], in_steps: int, out_steps: int, *, stride: int = 1, every: int = 1
) -> tuple[Float[Tensor, "w n t d"], Float[Tensor, "w n f d"]]:
    """All windows of a sequence of frames, split into past and future.

    Args:
        sequence: Positions by frame, shape ``(L, N, d)``.
        in_steps: Steps ``T`` of the past.
        out_steps: Steps ``F`` of the future.
        stride: Frames from the start of one window to that of the next.
        every: Keep every so many frames of a window.

    Returns:
        Past ``(W, N, T, d)`` and future ``(W, N, F, d)``; ``W = 0`` if the sequence is too short.

    Raises:
        ValueError: If ``sequence`` is not of rank 3 or a size is not positive.

    Example:
        >>> past, future = make_windows(torch.randn(100, 5, 3), 10, 10)
        >>> past.shape, future.shape
        (torch.Size([81, 5, 10, 3]), torch.Size([81, 5, 10, 3]))
    """
    check_floating("sequence", sequence)
    if sequence.ndim != 3:
        raise ValueError(f"sequence must have shape (L, N, d), got {tuple(sequence.shape)}")
    for name, value in {"in_steps": in_steps, "out_steps": out_steps, "stride": stride, "every": every}.items():
        check_positive_int(name, value)
    span = (in_steps + out_steps - 1) * every + 1
    if len(sequence) < span:
        empty = sequence.new_zeros((0, sequence.shape[1], in_steps + out_steps, sequence.shape[2]))
        return empty[:, :, :in_steps], empty[:, :, in_steps:]
    windows = sequence.unfold(0, span, stride)[..., ::every].transpose(-1, -2)  # (W, N, steps, d)
    return windows[:, :, :in_steps].contiguous(), windows[:, :, in_steps:].contiguous()


class TrajectoryDataset(Dataset[Scene]):
    """Scenes held in memory.

    Args:
        x: Past, shape ``(S, N, T, d)``.
        y: Future, shape ``(S, N, F, d)``.
        mask: Valid agents, shape ``(S, N)``; all if not given.
        edges: True types of pairs ``(S, N, N)``, where they are known; for evaluation only.

    Raises:
        ValueError: If shapes do not fit.
    """

    def __init__(self, x: Tensor, y: Tensor, mask: Tensor | None = None, *, edges: Tensor | None = None) -> None:
        if x.ndim != 4 or y.ndim != 4 or x.shape[:2] != y.shape[:2] or x.shape[-1] != y.shape[-1]:
            raise ValueError(f"x and y must have shapes (S, N, T, d) and (S, N, F, d), got {tuple(x.shape)} and {tuple(y.shape)}")
        if mask is not None and mask.shape != x.shape[:2]:
            raise ValueError(f"mask must have shape {tuple(x.shape[:2])}, got {tuple(mask.shape)}")
        self.x, self.y = x, y
        self.mask = torch.ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
        self.edges = edges

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Scene:
        return Scene(self.x[index], self.y[index], self.mask[index])

    def take(self, index: Tensor) -> Scene:
        """Scenes of a batch at once."""
        return Scene(self.x[index], self.y[index], self.mask[index])
