"""Registered operators and the one gate that chooses a compiled kernel or the plain reference.

geocore defines each operator here in Python: schema, reference, fake implementation and gradient. So ``torch.ops.geocore.*``
exists without any compiled code. The package ``geocore-cuda`` only adds implementations for a device and announces them with
``announce``. A room asks ``kernel_may_run`` and calls the operator or its reference; where a kernel pays is written in
``_kernel_table``.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from geocore._kernel_table import pays

__all__ = [
    "KERNEL_INTERFACE",
    "KernelStatus",
    "announce",
    "define",
    "define_map",
    "defined",
    "kernel_may_run",
    "kernel_status",
    "without_kernels",
]

KERNEL_INTERFACE = 1
"""Raised whenever the schema of an operator changes; a library compiled for another number is refused."""

_LIBRARY = torch.library.Library("geocore", "DEF")
_DEFINED: dict[str, Callable[..., Any]] = {}
_KERNELS: dict[str, frozenset[str]] = {}
"""Device type to the operators that have a kernel there."""

Backward = Callable[..., tuple[Tensor | None, ...]]


def define(
    name: str,
    schema: str,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    *,
    backward: Backward | None = None,
    save_outputs: bool | tuple[int, ...] = True,
    tell_needs: bool = False,
    differentiable: bool = True,
) -> None:
    """Register ``geocore::<name>``.

    The reference serves every device until a kernel is loaded. Without ``backward`` the gradient differentiates the reference, so a
    kernel needs none of its own and second derivatives come for free.

    Args:
        name: Operator name.
        schema: Arguments and result, as in ``"(Tensor w) -> Tensor"`` or ``"(Tensor A, int k) -> (Tensor, Tensor)"``; every
            floating-point tensor is differentiable.
        reference: Plain PyTorch implementation.
        fake: Gives empty results of the right shape, dtype and device.
        backward: Gradient ``(inputs, outputs, grads)``, written with differentiable operations;
            one per floating-point tensor.
        save_outputs: Whether ``backward`` looks at the outputs, or at which of them; it gets those only, and no others are kept.
        tell_needs: Whether ``backward`` gets a fourth argument, per input whether its gradient is needed, and may give ``None`` elsewhere.
        differentiable: Whether there is a gradient at all; ``False`` for results that are indices.

    Raises:
        ValueError: If the name is taken.
    """
    if name in _DEFINED:
        raise ValueError(f"name must be new, but geocore::{name} is defined already")
    _LIBRARY.define(name + schema)
    _LIBRARY.impl(name, reference, "CompositeExplicitAutograd")
    torch.library.register_fake(f"geocore::{name}", fake, lib=_LIBRARY)
    _DEFINED[name] = reference
    if not differentiable:
        return

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.is_tensor = [isinstance(value, Tensor) and value.is_floating_point() for value in inputs]
        ctx.constants = [None if tensor else value for tensor, value in zip(ctx.is_tensor, inputs, strict=True)]
        kept = output if isinstance(output, tuple) else (output,)
        if backward is None or save_outputs is False:
            kept = ()
        elif save_outputs is not True:
            kept = tuple(kept[i] for i in save_outputs)
        ctx.save_for_backward(*(value for tensor, value in zip(ctx.is_tensor, inputs, strict=True) if tensor), *kept)

    def gradient(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        count = sum(ctx.is_tensor)
        tensors, outputs = ctx.saved_tensors[:count], ctx.saved_tensors[count:]

        def merged(given: tuple[Tensor, ...]) -> tuple[Any, ...]:
            rest = iter(given)
            return tuple(next(rest) if t else c for t, c in zip(ctx.is_tensor, ctx.constants, strict=True))

        if backward is not None:
            given = grads
            if len(outputs) == len(grads):
                given = tuple(torch.zeros_like(o) if g is None else g for o, g in zip(outputs, grads, strict=True))
            needs = (tuple(ctx.needs_input_grad),) if tell_needs else ()
            found = iter(backward(merged(tensors), outputs, given, *needs))
        else:
            values, vjp = torch.func.vjp(lambda *given: reference(*merged(given)), *tensors)[:2]
            if isinstance(values, tuple):
                found = iter(vjp(tuple(torch.zeros_like(v) if g is None else g for v, g in zip(values, grads, strict=True))))
            else:
                found = iter(vjp(grads[0]))
        return tuple(next(found) if t else None for t in ctx.is_tensor)

    torch.library.register_autograd(f"geocore::{name}", gradient, setup_context=setup_context, lib=_LIBRARY)


def define_map(
    name: str,
    reference: Callable[[Tensor], Tensor],
    fake: Callable[[Tensor], Tensor],
    gradient: Callable[[Tensor, Tensor], Tensor],
) -> None:
    """Register ``geocore::<name>`` of one tensor together with ``geocore::<name>_backward``, its gradient, so that both have kernels.

    Args:
        name: Operator name.
        reference: Plain PyTorch implementation.
        fake: Gives an empty result of the right shape, dtype and device.
        gradient: Gradient in the argument, of the argument and the gradient in the result, by plain operations: autograd does not
            run inside an operator.
    """
    define(f"{name}_backward", "(Tensor x, Tensor g) -> Tensor", gradient, lambda x, g: x.new_empty(x.shape))
    back = getattr(torch.ops.geocore, f"{name}_backward")
    define(
        name, "(Tensor x) -> Tensor", reference, fake, backward=lambda inputs, _, grads: (back(inputs[0], grads[0]),), save_outputs=False
    )


def defined() -> tuple[str, ...]:
    """Names of all operators defined so far, sorted."""
    return tuple(sorted(_DEFINED))


def announce(device_type: str, names: frozenset[str]) -> None:
    """Tell the gate that these operators have kernels on ``device_type`` (called by ``geocore-cuda`` while it loads).

    A room defines its operators when it is imported, which may be later; names that no room defines are never asked for.
    """
    _KERNELS[device_type] = _KERNELS.get(device_type, frozenset()) | names


@contextmanager
def without_kernels() -> Iterator[None]:
    """Run the references inside the block, whatever is loaded: for comparisons and benchmarks. What is announced inside ends with it."""
    held = dict(_KERNELS)
    _KERNELS.clear()
    try:
        yield
    finally:
        _KERNELS.clear()
        _KERNELS.update(held)


def kernel_may_run(name: str, *tensors: Tensor, size: int = 0, count: int | None = None) -> bool:
    """Whether ``torch.ops.geocore.<name>`` may be called on these tensors and pays; otherwise call the reference.

    An operator with a registered gradient has no rule for ``torch.func`` transforms or forward mode: eager ``grad`` raises,
    and compiled ``grad`` and every ``jvp`` return zeros in silence (torch 2.11 to 2.15). The reference composes with all of
    them, so inside any transform the answer is no. It is no for tensor subclasses too, which know plain operations only, and
    during ``torch.export``, so that a saved program needs nothing but torch.

    Args:
        name: Operator.
        tensors: Its tensor arguments, of one device and dtype.
        size: Matrix size or the like, what the cost of one item depends on.
        count: Number of independent items; not asked while compiling, where it may be symbolic.
    """
    if not _KERNELS:
        return False
    first = tensors[0]
    kind = first.device.type
    if name not in _KERNELS.get(kind, ()):
        return False
    if any(t.device != first.device or t.dtype != first.dtype for t in tensors[1:]):
        return False
    if torch._C._are_functorch_transforms_active():
        return False
    if torch.compiler.is_compiling():
        return not torch.compiler.is_exporting() and pays(name, kind, first.dtype, size, None)
    if any(type(t) is not Tensor and type(t) is not torch.nn.Parameter for t in tensors):
        return False
    return forward_ad._current_level < 0 and pays(name, kind, first.dtype, size, count)


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
    """Load ``geocore-cuda`` once if it is there; a broken library must never break geocore, so its error becomes the reason."""
    if os.environ.get("GEOCORE_KERNELS", "on").lower() in ("0", "off", "no"):
        return False, "switched off by GEOCORE_KERNELS; geocore runs its plain PyTorch formulas"
    if find_spec("geocore_cuda") is None:
        return False, "geocore-cuda is not installed; geocore runs its plain PyTorch formulas"
    try:
        version = metadata.version("geocore-cuda")
    except metadata.PackageNotFoundError:
        version = "from its sources"
    try:
        import_module("geocore_cuda")
    except Exception as error:
        return False, f"geocore-cuda {version} is there but does not load: {type(error).__name__}: {error}"
    return True, f"geocore-cuda {version}"


def kernel_status() -> KernelStatus:
    """Look for the compiled kernels and report what was found, or why not."""
    found, reason = _load()
    return KernelStatus(found, reason, {device: tuple(sorted(names)) for device, names in sorted(_KERNELS.items())})


_load()
