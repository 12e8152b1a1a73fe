"""One policy for low precision: float16 and bfloat16 are computed in float32 and cast back, also under autocast."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

__all__ = ["full_precision"]

P = ParamSpec("P")
T = TypeVar("T")
_HALF = (torch.float16, torch.bfloat16)


def _map(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_map(v, change) for v in value))
    if isinstance(value, tuple | list):
        return type(value)(_map(v, change) for v in value)
    return value


def full_precision(fn: Callable[P, T]) -> Callable[P, T]:
    """Decorate a tensor function so that it never computes below float32.

    float16 and bfloat16 arguments enter as float32 and every float32 tensor of the result leaves in the input's dtype.
    Mixed float32 and half input computes and returns float32. Autocast is switched off inside, since it would send the
    matrix products of a float32 input to half precision.
    """

    @wraps(fn)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor) and a.dtype.is_floating_point]
        if not tensors:
            return fn(*args, **kwargs)
        device = tensors[0].device.type
        if device != "meta" and torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return _call(tensors, args, kwargs)
        return _call(tensors, args, kwargs)

    def _call(tensors: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        if all(t.dtype not in _HALF for t in tensors):
            return fn(*args, **kwargs)
        out_dtype = tensors[0].dtype
        for t in tensors[1:]:
            out_dtype = torch.promote_types(out_dtype, t.dtype)

        def up(t: Tensor) -> Tensor:
            return t.float() if t.dtype in _HALF else t

        def down(t: Tensor) -> Tensor:
            return t.to(out_dtype) if t.dtype == torch.float32 else t

        result = fn(*_map(args, up), **{k: _map(v, up) for k, v in kwargs.items()})
        return _map(result, down)

    return wrapper
