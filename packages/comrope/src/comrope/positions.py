"""Coordinates of the tokens of a grid."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from geocore._checks import check_option, check_positive_int

__all__ = ["grid_positions"]


def grid_positions(
    shape: Sequence[int],
    *,
    normalize: bool = True,
    prefix_tokens: int = 0,
    prefix_position: float | Literal["none"] | Tensor = 0.5,
    perturbation: float = 0.0,
    offset: float | Tensor = 0.0,
    perturb_axes: Sequence[int] | None = None,
    batch_size: int | None = None,
    time_scale: Literal["own", "official"] = "own",
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "*batch tokens axes"]:
    r"""Positions of the cells of a grid in row-major order, ``(i + 0.5) / G`` per axis, after those of the prefix tokens.

    Every resolution fills the same unit cube, so a larger image means denser coordinates, not larger ones. Training adds to each index
    ``clamp(0.5 p n, -0.5, 0.5)``, ``n ~ N(0, 1)``: a token moves within its own cell. Prefix tokens (CLS, registers) are not perturbed.

    Args:
        shape: Cells ``G`` per axis, for example ``(rows, columns)`` or ``(frames, rows, columns)``.
        normalize: Whether to map cell centres into ``(0, 1)``; otherwise positions are the indices ``0, 1, ...``.
        prefix_tokens: Number of tokens before the grid.
        prefix_position: Their position in the units of the result: a number for every axis, a tensor of shape ``(N,)`` or
            ``(prefix_tokens, N)``, or ``"none"`` for tokens that are never rotated (they stay at 0, also under ``offset``).
        perturbation: Intensity ``p``; the paper trains with 0 or 1, and uses 0 at evaluation.
        offset: Standard deviation of one random vector ``N(0, offset^2)^N`` added to all positions (one per batch item), or a tensor of
            shape ``(N,)`` or ``(B, 1, N)`` that is added as it is.
        perturb_axes: Axes that ``perturbation`` moves; all of them by default. The paper leaves the frame axis of videos alone:
            ``perturb_axes=(1, 2)``.
        batch_size: Number of independent draws ``B``; without it one grid is shared by the batch, which is also cheaper to rotate by.
        time_scale: ``"own"`` divides each axis by its own length. ``"official"`` divides the first of three axes by the length of
            the second, as the authors' code does for video, so that 16 frames over 14 rows of patches reach 1.107.
        generator: Source of the random draws.
        device: Device of the result.
        dtype: Floating-point dtype of the result.

    Returns:
        Shape ``(L, N)``, or ``(B, L, N)`` with ``batch_size``, where ``L = prefix_tokens + prod(shape)``.

    Raises:
        ValueError: If a size is not positive, an option is unknown, or a tensor has the wrong shape.
        TypeError: If a size is not an integer.

    Example:
        >>> grid_positions((1, 2), prefix_tokens=1)
        tensor([[0.5000, 0.5000],
                [0.5000, 0.2500],
                [0.5000, 0.7500]])
    """
    shape = tuple(shape)
    if not shape:
        raise ValueError("shape must name at least one axis, got ()")
    for i, size in enumerate(shape):
        check_positive_int(f"shape[{i}]", size, minimum=0)
    n = len(shape)
    check_positive_int("prefix_tokens", prefix_tokens, minimum=0)
    check_option("time_scale", time_scale, ("own", "official"))
    if time_scale == "official" and n != 3:
        raise ValueError(f"time_scale 'official' is for (frames, rows, columns), got {n} axes")
    if not perturbation >= 0:
        raise ValueError(f"perturbation must be at least 0, got {perturbation}")
    if batch_size is not None:
        check_positive_int("batch_size", batch_size, minimum=0)
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating-point dtype, got {dtype}")
    device = _device(device, offset, prefix_position, generator)
    batch = () if batch_size is None else (batch_size,)

    axes = [torch.arange(size, device=device, dtype=dtype) for size in shape]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(math.prod(shape), n)
    grid = grid.expand(*batch, *grid.shape)
    if perturbation > 0:
        noise = torch.randn(grid.shape, generator=generator, device=device, dtype=dtype)
        grid = grid + (0.5 * perturbation * noise).clamp(-0.5, 0.5) * _axis_mask(perturb_axes, n, grid)
    if normalize:
        lengths = [max(size, 1) for size in shape]
        if time_scale == "official":
            lengths[0] = lengths[1]
        grid = (grid + 0.5) / grid.new_tensor(lengths)
    shift = _shift(offset, n, batch, generator, grid)
    if shift is not None:
        grid = grid + shift
    if prefix_tokens == 0:
        return grid.contiguous()
    prefix = _prefix(prefix_position, prefix_tokens, n, grid)
    prefix = prefix.expand(*grid.shape[:-2], prefix_tokens, n)
    if shift is not None and not isinstance(prefix_position, str):
        prefix = prefix + shift
    return torch.cat((prefix, grid), dim=-2)


def _device(
    device: torch.device | str | None, offset: float | Tensor, prefix: float | str | Tensor, generator: torch.Generator | None
) -> torch.device | None:
    if device is not None:
        return torch.device(device)
    for value in (offset, prefix, generator):
        if isinstance(value, Tensor | torch.Generator):
            return value.device
    return None


def _axis_mask(perturb_axes: Sequence[int] | None, n: int, like: Tensor) -> Tensor:
    if perturb_axes is None:
        return like.new_ones(n)
    moved = set(perturb_axes)
    if not moved <= set(range(n)):
        raise ValueError(f"perturb_axes must be among 0..{n - 1}, got {tuple(perturb_axes)}")
    return like.new_tensor([1.0 if i in moved else 0.0 for i in range(n)])


def _shift(offset: float | Tensor, n: int, batch: tuple[int, ...], generator: torch.Generator | None, like: Tensor) -> Tensor | None:
    if isinstance(offset, Tensor):
        if offset.shape[-1:] != (n,) or offset.shape not in ((n,), (*batch, 1, n)):
            raise ValueError(f"offset must be a number or have shape ({n},) or (B, 1, {n}) with batch_size=B, got {tuple(offset.shape)}")
        return offset.to(like)
    if not offset >= 0:
        raise ValueError(
            f"offset is a standard deviation and must be at least 0, got {offset}; pass a tensor of shape ({n},) for a fixed shift"
        )
    if offset == 0:
        return None
    return offset * torch.randn((*batch, 1, n), generator=generator, device=like.device, dtype=like.dtype)


def _prefix(position: float | str | Tensor, count: int, n: int, like: Tensor) -> Tensor:
    if isinstance(position, str):
        check_option("prefix_position", position, ("none",))
        return like.new_zeros(count, n)
    if isinstance(position, Tensor):
        if position.shape not in ((n,), (count, n)):
            raise ValueError(f"prefix_position must have shape ({n},) or ({count}, {n}), got {tuple(position.shape)}")
        return position.to(like).expand(count, n)
    return like.new_full((count, n), float(position))
