"""What the model derives from positions before its first layer, and the checks of its arguments."""

from typing import NamedTuple

import torch
from torch import Tensor

from eqmotion.functional import legacy_angle, masked_mean, safe_angle, safe_norm
from eqmotion.graph import DensePairs, SparsePairs
from geocore._checks import check_floating

__all__ = ["Motion", "check_mask", "check_positions", "check_velocity", "derive", "eager", "pair_rows"]


def eager() -> bool:
    """Whether values may be looked at: not while tracing or under a function transform."""
    return not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active())


class Motion(NamedTuple):
    """Centred positions, velocities and their invariants, in the model's dtype, and the centre in the input's."""

    x: Tensor
    v: Tensor
    speed: Tensor
    angle: Tensor
    centre: Tensor


def check_positions(x: Tensor, steps: int, agents: int | None) -> None:
    """Shape and dtype of ``x``."""
    check_floating("x", x)
    if x.ndim not in (3, 4):
        raise ValueError(f"x must have shape (B, N, T, d) or (N, T, d), got {tuple(x.shape)}")
    if x.shape[-2] != steps:
        raise ValueError(f"x must have T = in_steps = {steps} steps, shape (B, N, {steps}, d), got {tuple(x.shape)}")
    if x.shape[-1] < 1 or x.shape[-3] < 1:
        raise ValueError(f"x must have at least one agent and one dimension, got shape {tuple(x.shape)}")
    if agents is not None and x.shape[-3] != agents:
        raise ValueError(f"x must have N = agent_tokens = {agents} agents, got shape {tuple(x.shape)}")


def check_velocity(v: Tensor, x: Tensor) -> None:
    """``v`` is like ``x``."""
    check_floating("v", v)
    if v.shape != x.shape:
        raise ValueError(f"v must have the shape of x, {tuple(x.shape)}, got {tuple(v.shape)}")


def check_mask(mask: Tensor, x: Tensor, *, allow_empty: bool) -> None:
    """Shape, dtype and, on CPU, that every scene has a valid agent."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise TypeError(
            f"mask must be a bool tensor, got {mask.dtype if isinstance(mask, Tensor) else type(mask).__name__}; use mask.bool()"
        )
    if mask.shape != x.shape[:-2]:
        raise ValueError(f"mask must have shape {tuple(x.shape[:-2])}, one entry per agent of x, got {tuple(mask.shape)}")
    if not allow_empty and mask.device.type == "cpu" and eager():  # elsewhere the check would stop the device
        empty = ~mask.any(-1)
        if bool(empty.any()):
            scenes = empty.reshape(-1).nonzero().flatten().tolist()
            raise ValueError(
                f"mask must have a valid agent in every scene, got none in scene {scenes[:8]}; pass allow_empty=True for zeros"
            )


def derive(x: Tensor, v: Tensor | None, mask: Tensor | None, dtype: torch.dtype, *, legacy: bool) -> Motion:
    """Centre the scene in the precision of ``x``, then change to ``dtype``.

    Args:
        x: Positions ``(B, N, T, d)``.
        v: Velocities, or ``None`` for ``V_t = X_t - X_{t-1}`` with ``V_0 = V_1``.
        mask: Valid agents ``(B, N)``; the others enter as zeros, whatever they hold.
        dtype: Of the model.
        legacy: The official, biased turning angle.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    hidden = None if mask is None else ~mask[..., None, None]
    if hidden is not None:
        x = x.masked_fill(hidden, 0.0)
    centre = masked_mean(x, mask, (2,))
    raw, x = x, x - centre
    if v is None:
        v = (raw if legacy else x).diff(dim=2)  # the biased angle shows every ulp, so there the order of the official code counts
        v = torch.cat([v[:, :, :1], v], dim=2)
    if hidden is not None:
        x, v = x.masked_fill(hidden, 0.0), v.masked_fill(hidden, 0.0)
    x, v = x.to(dtype), v.to(dtype)
    before = torch.cat([v[:, :, :1], v[:, :, :-1]], dim=2)
    return Motion(x, v, safe_norm(v), (legacy_angle if legacy else safe_angle)(before, v), centre)


def pair_rows(
    name: str, value: Tensor | None, size: int, pairs: DensePairs | SparsePairs, edges: Tensor | None, dtype: torch.dtype
) -> Tensor | None:
    """One row per pair of what the caller gave."""
    if value is None:
        if name == "edge_attr" and size:
            raise ValueError(f"edge_attr must be given, with edge_attr_dim = {size}, got None")
        return None
    check_floating(name, value)
    B, N = pairs.batch, pairs.agents
    dense = (B, N, N, size)
    if tuple(value.shape) == dense[1:] and B == 1:
        value = value[None]
    if tuple(value.shape) == dense:
        value = value.to(dtype)
        if edges is None:
            return pairs.rows(value)
        return value[edges[1] // N, edges[1] % N, edges[0] % N]
    if edges is not None and tuple(value.shape) == (edges.shape[1], size):
        return value.to(dtype)
    other = "" if edges is None else f" or {(edges.shape[1], size)}"
    raise ValueError(f"{name} must have shape {dense}{other}, got {tuple(value.shape)}")
