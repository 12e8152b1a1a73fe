"""Argument checks shared by every room and package: one wording for one mistake.

All checks look at shapes and dtypes only, so they cost no device synchronisation and trace under ``torch.compile``.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["check_broadcastable", "check_floating", "check_option", "check_positive_int", "check_square", "check_trailing"]


def _spell(shape: Sequence[int | str | None]) -> str:
    return "(" + ", ".join(["...", *("n" if s is None else str(s) for s in shape)]) + ")"


def check_floating(name: str, x: Any, *, allow_complex: bool = False) -> None:
    """Raise unless ``x`` is a floating-point tensor.

    Raises:
        TypeError: If ``x`` is not a tensor, or is an integer or boolean tensor.
        NotImplementedError: If ``x`` is complex and ``allow_complex`` is false.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}; wrap it with torch.as_tensor")
    if x.dtype.is_complex and not allow_complex:
        raise NotImplementedError(f"{name} must be real, got {x.dtype}; complex input is not supported here")
    if not (x.dtype.is_floating_point or x.dtype.is_complex):
        raise TypeError(f"{name} must have a floating-point dtype, got {x.dtype}; convert it with {name}.float()")


def check_trailing(name: str, x: Tensor, shape: Sequence[int | None], *, hint: str = "") -> None:
    """Raise unless ``x`` is floating and its last dimensions are ``shape`` (``None`` matches any size).

    Raises:
        ValueError: If the trailing dimensions differ.
        TypeError, NotImplementedError: As ``check_floating``.
    """
    check_floating(name, x)
    got = tuple(x.shape)
    n = len(shape)
    if len(got) < n or any(want is not None and have != want for want, have in zip(shape, got[len(got) - n :], strict=True)):
        raise ValueError(f"{name} must have shape {_spell(shape)}, got {got}" + (f"; {hint}" if hint else ""))


def check_square(name: str, x: Tensor, *, minimum: int = 1, hint: str = "") -> None:
    """Raise unless ``x`` is floating with shape ``(..., n, n)`` and ``n >= minimum``.

    Raises:
        ValueError: If the last two dimensions differ or are too small.
        TypeError, NotImplementedError: As ``check_floating``.
    """
    check_floating(name, x)
    if x.ndim < 2 or x.shape[-1] != x.shape[-2] or x.shape[-1] < minimum:
        at_least = f" with n >= {minimum}" if minimum > 1 else ""
        raise ValueError(f"{name} must be square, of shape (..., n, n){at_least}, got {tuple(x.shape)}" + (f"; {hint}" if hint else ""))


def check_option(name: str, value: Any, options: Iterable[str]) -> None:
    """Raise unless ``value`` is one of ``options``.

    Raises:
        ValueError: If it is not; the message lists the options.
    """
    options = tuple(options)
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}, got {value!r}")


def check_positive_int(name: str, value: Any, *, minimum: int = 1) -> None:
    """Raise unless ``value`` is an integer of at least ``minimum``.

    Raises:
        TypeError: If ``value`` is not an integer.
        ValueError: If it is too small.
    """
    if isinstance(value, bool) or not isinstance(value, int | torch.SymInt):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")


def check_broadcastable(**batches: Sequence[int | torch.SymInt]) -> tuple[Any, ...]:
    """Broadcast shape of the named batch shapes.

    Raises:
        ValueError: If they do not broadcast; the message gives every name with its shape.
    """
    try:
        return tuple(torch.broadcast_shapes(*batches.values()))
    except RuntimeError:
        listed = ", ".join(f"{name} {tuple(shape)}" for name, shape in batches.items())
        raise ValueError(f"batch dimensions must broadcast, got {listed}") from None
