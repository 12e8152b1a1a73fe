"""What a call hands over: types of its inputs, the tensor that decides the frame, and the frame itself."""

import inspect
from collections.abc import Mapping
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn

from frameavg._types import Types
from geocore.frames import Frame, FrameInfo, PermutationFrame
from geocore.groups import Motion

__all__ = ["as_frame", "call_frame", "find_source", "frame_weights", "sampling", "split_types", "takes"]


def as_frame(value: Any, x: Tensor) -> Frame:
    """What a frame or a learned canonicaliser returned as a frame: a ``Frame``, a ``Motion``, ``(Q, t)`` or ``Q``, one an item.

    Raises:
        TypeError: If it is none of these.
    """
    if isinstance(value, Frame):
        return value
    if isinstance(value, Tensor):
        value = Motion(value, None)
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], Tensor):
        Q, t = value
        if tuple(Q.shape) != (*x.shape[:-2], x.shape[-1], x.shape[-1]):
            raise ValueError(
                f"frame must give one matrix an item, of shape {(*x.shape[:-2], x.shape[-1], x.shape[-1])}, got {tuple(Q.shape)}"
            )
        info = FrameInfo(
            torch.zeros(x.shape[:-2], dtype=torch.bool, device=x.device),
            torch.full(x.shape[:-2], torch.inf, device=x.device),
            torch.full(x.shape[:-2], x.shape[-1], device=x.device),
        )
        return Frame(Motion(Q.unsqueeze(-3), None if t is None else t.unsqueeze(-2)), None, info)
    raise TypeError(f"frame must return a Frame, a matrix or (matrix, translation) for each item, got {type(value).__name__}")


def split_types(in_types: Types, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[list[Types], dict[str, Types]]:
    """Types of positional and of keyword inputs; a single type is that of the first input, the rest being invariant."""
    if isinstance(in_types, tuple | list):
        if len(in_types) != len(args):
            raise ValueError(f"in_types must have one entry for each of the {len(args)} positional inputs, got {len(in_types)}")
        return list(in_types), {}
    if isinstance(in_types, Mapping):
        whole = len(args) == 1 and isinstance(args[0], Mapping)
        if whole:
            return [in_types], {}
        unknown = [key for key in in_types if not (key in kwargs or (isinstance(key, int) and 0 <= key < len(args)))]
        if unknown:
            raise ValueError(f"in_types name inputs {unknown}, but the call has {len(args)} positional ones and {sorted(kwargs)}")
        return [in_types.get(i, "invariant") for i in range(len(args))], {k: v for k, v in in_types.items() if isinstance(k, str)}
    return [in_types, *["invariant"] * (len(args) - 1)] if args else [], {}


def find_source(args: tuple[Any, ...], kwargs: Mapping[str, Any], frame_input: Any, arg_types: list[Types]) -> Tensor:
    """The tensor that decides the frame."""
    if callable(frame_input):
        found = frame_input(*args, **kwargs)
    elif isinstance(frame_input, str) and frame_input in kwargs:
        found = kwargs[frame_input]
    elif isinstance(frame_input, str) and args and isinstance(args[0], Mapping) and frame_input in args[0]:
        found = args[0][frame_input]
    elif isinstance(frame_input, int) and 0 <= frame_input < len(args):
        found = args[frame_input]
        if isinstance(found, Mapping):
            types = arg_types[frame_input]
            keys = [key for key in found if isinstance(types, Mapping) and types.get(key) == "position"] or list(found)
            found = found[keys[0]]
    else:
        raise ValueError(f"frame_input must name an input, got {frame_input!r} for {len(args)} positional inputs and {sorted(kwargs)}")
    if not isinstance(found, Tensor) or found.ndim < 2:
        what = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"frame_input must be a tensor of shape (..., n, d), got {what}")
    return found


def frame_weights(weights: Tensor | None, mask: Tensor | None, x: Tensor) -> Tensor | None:
    for name, value in (("weights", weights), ("mask", mask)):
        if value is not None and tuple(value.shape) != tuple(x.shape[:-1]):
            raise ValueError(f"{name} must have one entry a point, shape {tuple(x.shape[:-1])}, got {tuple(value.shape)}")
    if mask is None:
        return weights
    valid = mask.to(x.dtype if x.is_floating_point() else torch.get_default_dtype())
    return valid if weights is None else torch.where(mask.bool(), weights, torch.zeros_like(weights))


def call_frame(frame: Any, x: Tensor, weights: Tensor | None, batch: Tensor | None, generator: Any) -> Any:
    """The frame, given only what is there, so that any ``x -> (Q, t)`` serves."""
    options: dict[str, Any] = {"weights": weights, "batch": batch}
    options = {name: value for name, value in options.items() if value is not None}
    if generator is not None and takes(frame, "generator"):
        options["generator"] = generator
    return frame(x, **options)


def sampling(frame: Any, n_samples: int | None) -> Any:
    """A permutation frame that draws what is too large to list, instead of failing before there is anything to draw from."""
    if n_samples is None or not isinstance(frame, PermutationFrame):
        return frame
    frame = copy(frame)
    frame.n_samples = n_samples if frame.n_samples is None else min(frame.n_samples, n_samples)
    return frame


def takes(fn: Any, name: str) -> bool:
    call = fn.forward if isinstance(fn, nn.Module) else fn
    try:
        return name in inspect.signature(call).parameters
    except (TypeError, ValueError):
        return False
