"""Pure functions on tensors, one per equation. This one is a placeholder: replace it by the method's first equation."""

import torch
from jaxtyping import Float
from torch import Tensor

from geocore._checks import check_broadcastable, check_floating
from geocore._precision import full_precision

__all__ = ["rotate_pairs"]


@full_precision
def rotate_pairs(x: Float[Tensor, "*xbatch d"], angle: Float[Tensor, "*abatch pairs"]) -> Float[Tensor, "*batch d"]:
    r"""Rotate consecutive pairs of features, ``(a, b) -> (a cos t - b sin t, a sin t + b cos t)``.

    Active rotation, counter-clockwise, angles in radians.

    Args:
        x: Features, shape ``(..., d)`` with even ``d``.
        angle: One angle per pair, shape ``(..., d / 2)``; batch dimensions broadcast.

    Returns:
        Rotated features, shape ``(..., d)``, dtype and device of ``x``.

    Raises:
        ValueError: If ``d`` is odd, ``angle`` has not ``d / 2`` entries, or the batches do not broadcast.
        TypeError: If an argument is not a floating tensor.

    Example:
        >>> rotate_pairs(torch.tensor([1.0, 0.0]), torch.tensor([torch.pi / 2]))  # about [0, 1]
    """
    check_floating("x", x)
    check_floating("angle", angle)
    if x.ndim == 0 or x.shape[-1] % 2:
        raise ValueError(f"x must have an even last dimension, got shape {tuple(x.shape)}")
    if angle.ndim == 0 or 2 * angle.shape[-1] != x.shape[-1]:
        raise ValueError(f"angle must have {x.shape[-1] // 2} entries in its last dimension, one per pair of x, got {tuple(angle.shape)}")
    check_broadcastable(x=x.shape[:-1], angle=angle.shape[:-1])
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = torch.cos(angle), torch.sin(angle)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)
