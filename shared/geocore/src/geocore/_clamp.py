"""A clamp whose derivative is the same in every version of torch."""

import torch
from torch import Tensor

__all__ = ["clamp"]


def clamp(x: Tensor, min: float | None = None, max: float | None = None) -> Tensor:  # noqa: A002 - the names of torch.clamp
    """``torch.clamp`` of a floating-point tensor with slope 1 at the bounds themselves; NaN stays.

    The slope of ``torch.clamp`` where ``x`` equals a bound was 1 and is 0 since torch 2.15. For what starts there (an area of zero that is
    to grow) or stands there by design (a position in the centre of the last cell), zero is the end of learning.
    """
    if min is not None:
        x = torch.where(x < min, min, x)
    return x if max is None else torch.where(x > max, max, x)
