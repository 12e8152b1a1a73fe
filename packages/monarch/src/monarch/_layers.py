"""What every layer does with its input and its complex weights."""

import torch
from torch import Tensor, nn

__all__ = ["check_features", "stored"]


def stored(w: Tensor) -> Tensor:
    """Complex numbers as pairs of reals, which optimizers, DDP and safetensors understand."""
    return torch.view_as_real(w.resolve_conj()).contiguous() if w.is_complex() else w.contiguous()


def check_features(x: Tensor, features: int, layer: nn.Module) -> None:
    if not isinstance(x, Tensor) or not (x.dtype.is_floating_point or x.dtype.is_complex):
        raise TypeError(f"x must be a floating or complex tensor, got {getattr(x, 'dtype', type(x).__name__)}; convert it with x.float()")
    if x.ndim == 0 or x.shape[-1] != features:
        # RuntimeError as nn.Linear raises, so that a replaced layer fails as the one it replaces did
        raise RuntimeError(f"{type(layer).__name__} expects x of shape (..., {features}), got {tuple(x.shape)}")
