"""Thin modules over ``functional``."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geocore._checks import check_positive_int
from methodname.functional import rotate_pairs

__all__ = ["PairRotation"]


class PairRotation(nn.Module):
    """Rotate pairs of features by learned angles.

    Args:
        features: Number of features, even.
        dtype: Dtype of the angles.
        device: Device of the angles.

    Raises:
        ValueError: If ``features`` is odd or less than 2.
        TypeError: If ``features`` is not an int.

    Example:
        >>> PairRotation(4)(torch.randn(2, 4)).shape
        torch.Size([2, 4])
    """

    def __init__(self, features: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> None:
        super().__init__()
        check_positive_int("features", features, minimum=2)
        if features % 2:
            raise ValueError(f"features must be even, got {features}")
        self.features = features
        self.angle = nn.Parameter(torch.empty(features // 2, dtype=dtype, device=device))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the angles uniformly from ``[-pi, pi]``."""
        nn.init.uniform_(self.angle, -torch.pi, torch.pi)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """Rotate ``x`` of shape ``(..., features)``."""
        return rotate_pairs(x, self.angle)

    def extra_repr(self) -> str:
        """Configuration for ``repr``."""
        return f"features={self.features}"
