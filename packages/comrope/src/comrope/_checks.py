"""Argument checks of the position encodings."""

import torch
from torch import Tensor

from geocore._checks import check_floating

__all__ = ["check_positions", "check_tokens"]


def check_positions(positions: Tensor, num_axes: int, *, name: str = "positions", validate: bool = False) -> None:
    """Raise unless ``positions`` is floating with shape ``(..., L, num_axes)``.

    Raises:
        ValueError: If the shape or the dtype is wrong or, with ``validate``, an entry is not finite.
        TypeError: If it is not a tensor.
    """
    if not isinstance(positions, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(positions).__name__}; build it with grid_positions")
    if not positions.dtype.is_floating_point:
        raise ValueError(f"{name} must have a floating-point dtype, got {positions.dtype} of shape {tuple(positions.shape)}; use .float()")
    if positions.ndim < 2 or positions.shape[-1] != num_axes:
        raise ValueError(f"{name} must have shape (L, {num_axes}) or (B, L, {num_axes}), got {tuple(positions.shape)}")
    if validate and not bool(torch.isfinite(positions).all()):
        bad = int((~torch.isfinite(positions)).sum())
        raise ValueError(f"{name} must be finite, got {bad} NaN or infinite entries of {positions.numel()}")


def check_tokens(name: str, x: Tensor, positions: Tensor, num_heads: int, head_dim: int) -> None:
    """Raise unless ``x`` is floating with shape ``(..., num_heads, L, head_dim)`` that fits ``positions (..., L, N)``.

    Raises:
        ValueError: If a dimension differs.
        TypeError, NotImplementedError: If the dtype is not real floating point.
    """
    check_floating(name, x)
    if x.ndim < 3 or x.shape[-3] != num_heads or x.shape[-1] != head_dim:
        raise ValueError(f"{name} must have shape (..., H, L, D) = (..., {num_heads}, L, {head_dim}), got {tuple(x.shape)}")
    if x.shape[-2] != positions.shape[-2]:
        raise ValueError(
            f"{name} has L = {x.shape[-2]} tokens but positions {tuple(positions.shape)} has {positions.shape[-2]}; "
            "pass (positions_q, positions_k) if q and k differ"
        )
    batch = positions.shape[:-2]
    if batch and (len(batch) > x.ndim - 3 or any(p not in (1, s) for p, s in zip(reversed(batch), reversed(x.shape[:-3]), strict=False))):
        raise ValueError(f"{name} has batch dimensions {tuple(x.shape[:-3])} but positions {tuple(positions.shape)} has {tuple(batch)}")
