"""What can go wrong with a frame."""

import torch
from jaxtyping import Int
from torch import Tensor

__all__ = ["DegenerateFrameError", "FrameTooLargeError"]


class DegenerateFrameError(ValueError):
    """An input has more symmetry than its frame accounts for.

    Args:
        message: What is wrong and how to go on.
        indices: Positions of those inputs in the flattened batch, shape ``(m,)``.
    """

    def __init__(self, message: str, indices: Int[Tensor, "m"]) -> None:
        super().__init__(message)
        self.indices = indices

    @classmethod
    def of(cls, degenerate: Tensor, what: str, advice: str) -> "DegenerateFrameError":
        """The error for a mask of degenerate items, shape ``(...)``."""
        indices = torch.nonzero(degenerate.reshape(-1))[:, 0]
        shown = ", ".join(map(str, indices[:10].tolist())) + (", ..." if len(indices) > 10 else "")
        return cls(f"{what} for {len(indices)} of {degenerate.numel()} items, at positions {shown}. {advice}", indices)


class FrameTooLargeError(ValueError):
    """A frame has more elements than allowed.

    Args:
        message: What is wrong and how to go on.
        size: Number of elements of the largest frame.
    """

    def __init__(self, message: str, size: int) -> None:
        super().__init__(message)
        self.size = size
