"""Registered operators and the one gate that chooses a compiled kernel or the plain reference.

geocore defines each operator here in Python: schema, reference, fake implementation and gradient. So ``torch.ops.geocore.*``
exists without any compiled code. The package ``geocore-cuda`` only adds implementations for a device and announces them with
``announce``. A room asks ``kernel_may_run`` and calls the operator or its reference.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["KernelStatus", "announce", "define", "defined", "kernel_may_run", "kernel_status", "withdraw"]

_LIBRARY = torch.library.Library("geocore", "DEF")
_DEFINED: dict[str, Callable[..., Any]] = {}
_KERNELS: dict[str, frozenset[str]] = {}
"""Device type to the operators that have a kernel there."""


def define(name: str, schema: str, reference: Callable[..., Tensor], fake: Callable[..., Tensor]) -> None:
    """Register ``geocore::<name>``.

    The reference serves every device until a kernel is loaded; the gradient differentiates the reference, so a kernel needs
    none of its own and second derivatives come for free.

    Args:
        name: Operator name.
        schema: Arguments and result, as in ``"(Tensor w) -> Tensor"``; every tensor argument is differentiable.
        reference: Plain PyTorch implementation.
        fake: Gives an empty result of the right shape, dtype and device.

    Raises:
        ValueError: If the name is taken.
    """
    if name in _DEFINED:
        raise ValueError(f"name must be new, but geocore::{name} is defined already")
    _LIBRARY.define(name + schema)
    _LIBRARY.impl(name, reference, "CompositeExplicitAutograd")
    torch.library.register_fake(f"geocore::{name}", fake, lib=_LIBRARY)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        del output
        ctx.is_tensor = [isinstance(value, Tensor) for value in inputs]
        ctx.constants = [None if isinstance(value, Tensor) else value for value in inputs]
        ctx.save_for_backward(*(value for value in inputs if isinstance(value, Tensor)))

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        def of_tensors(*tensors: Tensor) -> Tensor:
            rest = iter(tensors)
            return reference(*(next(rest) if t else c for t, c in zip(ctx.is_tensor, ctx.constants, strict=True)))

        grads = iter(torch.func.vjp(of_tensors, *ctx.saved_tensors)[1](grad))
        return tuple(next(grads) if t else None for t in ctx.is_tensor)

    torch.library.register_autograd(f"geocore::{name}", backward, setup_context=setup_context, lib=_LIBRARY)
    _DEFINED[name] = reference


def defined() -> tuple[str, ...]:
    """Names of all operators defined so far, sorted."""
    return tuple(sorted(_DEFINED))


def announce(device_type: str, names: frozenset[str]) -> None:
    """Tell the gate that these operators have kernels on ``device_type`` (called by ``geocore-cuda`` while it loads).

    A room defines its operators when it is imported, which may be later; names that no room defines are never asked for.
    """
    _KERNELS[device_type] = _KERNELS.get(device_type, frozenset()) | names


def withdraw(device_type: str) -> None:
    """Forget the kernels of a device type: every operator there runs its reference again."""
    _KERNELS.pop(device_type, None)


def kernel_may_run(name: str, *tensors: Tensor) -> bool:
    """Whether ``torch.ops.geocore.<name>`` may be called on these tensors; otherwise call the reference.

    An operator with a registered gradient has no rule for ``torch.func`` transforms or forward mode: eager ``grad`` raises,
    and compiled ``grad`` and every ``jvp`` return zeros in silence (torch 2.11 to 2.15). The reference composes with all of
    them, so inside any transform the answer is no.
    """
    if not _KERNELS or name not in _KERNELS.get(tensors[0].device.type, ()):
        return False
    if any(t.device != tensors[0].device or t.dtype != tensors[0].dtype for t in tensors[1:]):
        return False
    if torch._C._are_functorch_transforms_active():
        return False
    return torch.compiler.is_compiling() or forward_ad._current_level < 0


@dataclass(frozen=True)
class KernelStatus:
    """What ``geocore info`` says about compiled kernels.

    Args:
        found: Whether the compiled package is loaded.
        reason: Why not, or its version.
        kernels: Device type to the operators with a kernel.
    """

    found: bool
    reason: str
    kernels: dict[str, tuple[str, ...]]


@cache
def _load() -> tuple[bool, str]:
    """Load ``geocore-cuda`` once if it is installed; a broken library must never break geocore, so its error becomes the reason."""
    try:
        version = metadata.version("geocore-cuda")
    except metadata.PackageNotFoundError:
        return False, "geocore-cuda is not installed; geocore runs its plain PyTorch formulas"
    try:
        import_module("geocore_cuda")
    except Exception as error:
        return False, f"geocore-cuda {version} is installed but does not load: {type(error).__name__}: {error}"
    return True, f"geocore-cuda {version}"


def kernel_status() -> KernelStatus:
    """Look for the compiled kernels and report what was found, or why not."""
    found, reason = _load()
    return KernelStatus(found, reason, {device: tuple(sorted(names)) for device, names in sorted(_KERNELS.items())})


_load()
