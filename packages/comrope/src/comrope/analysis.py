"""Measures of what an encoding does."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from comrope._checks import check_positions

__all__ = ["rope_equation_error"]


@runtime_checkable
class _Rotates(Protocol):
    num_axes: int

    def rotation_blocks(self, positions: Tensor) -> Tensor: ...


@torch.no_grad()
def rope_equation_error(module: _Rotates, positions: Float[Tensor, "*batch tokens axes"], shift: float | Float[Tensor, "*shift"]) -> float:
    """Largest violation of the RoPE equation, ``max |R(x)^T R(y) - R(y - x)|`` over tokens ``x`` and ``y = x + shift``.

    Zero up to rounding means that attention logits depend on relative positions only. It is for ComRoPE and every RoPE with planar
    rotations, learned frequencies included; for LieRE it is of the order of 1.

    Args:
        module: An encoding with ``rotation_blocks(positions) -> (..., L, H, m, b, b)``.
        positions: Positions ``x``, shape ``(..., L, N)``.
        shift: Number added to every coordinate, or a tensor that broadcasts against ``positions``.

    Returns:
        The largest absolute entry, a Python float; 0 without tokens.

    Raises:
        ValueError: If the positions do not fit the module or ``shift`` does not broadcast.
        TypeError: If the module does not rotate.

    Example:
        >>> rope_equation_error(ComRoPE(64, 12, 2), grid_positions((14, 14)), 3.0) < 1e-4
        True
    """
    if not hasattr(module, "rotation_blocks"):
        raise TypeError(f"module must have rotation_blocks(positions), got {type(module).__name__}, which does not rotate")
    check_positions(positions, module.num_axes)
    try:
        y = positions + torch.as_tensor(shift, dtype=positions.dtype, device=positions.device)
    except RuntimeError:
        raise ValueError(
            f"shift must broadcast against positions {tuple(positions.shape)}, got {tuple(torch.as_tensor(shift).shape)}"
        ) from None
    relative = module.rotation_blocks(positions).mT @ module.rotation_blocks(y)
    error = (relative - module.rotation_blocks(y - positions)).abs()
    return float(error.max()) if error.numel() else 0.0
