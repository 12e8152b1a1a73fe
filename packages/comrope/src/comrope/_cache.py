"""Inference-time memory of values derived from tensors, safe against every way those tensors may change."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

__all__ = ["InferenceCache", "may_cache", "own_tensors"]

T = TypeVar("T")


def may_cache(module: nn.Module, *inputs: Tensor) -> bool:
    """Whether a module may use values remembered from an earlier call.

    Only in eval mode, eagerly, outside ``torch.func`` and forward-mode transforms, and when no gradient can flow to the
    module's parameters or to ``inputs``.
    """
    if module.training or torch.compiler.is_compiling():
        return False
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return False
    if not torch.is_grad_enabled():
        return True
    return not any(t.requires_grad for t in (*inputs, *own_tensors(module)))


def own_tensors(module: nn.Module) -> tuple[Tensor, ...]:
    """Parameters and buffers of the module itself; ``module.parameters()`` would cost more than the rest of a look-up."""
    return tuple(t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None)


class InferenceCache:
    """One value per name, valid while the tensors that it came from are the same objects, unchanged.

    A tensor counts as unchanged while its version counter and its storage are. Copies and pickles start empty.
    """

    def __init__(self) -> None:
        self._entries: dict[str, tuple[list[tuple[Any, int, int]], Any]] = {}

    def get(self, name: str, sources: tuple[Tensor, ...], make: Callable[[], T]) -> T:
        """The remembered value of ``name``, or that of ``make()``, which must be a function of ``sources`` alone."""
        # Subclasses (fake, distributed) and inference tensors carry no usable version.
        if any(type(s) not in (Tensor, nn.Parameter) or s.is_inference() for s in sources):
            return make()
        stamps = [(s, s._version, s.data_ptr()) for s in sources]
        entry = self._entries.get(name)
        if entry is not None and len(entry[0]) == len(stamps):
            pairs = zip(entry[0], stamps, strict=True)
            if all(a is b and va == vb and pa == pb for (a, va, pa), (b, vb, pb) in pairs):
                return entry[1]
        with torch.inference_mode(mode=False), torch.no_grad():  # so that autograd may use the value later
            value = make()
        self._entries[name] = (stamps, value)
        return value

    def clear(self) -> None:
        """Forget everything."""
        self._entries = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> "InferenceCache":
        return InferenceCache()

    def __reduce__(self) -> tuple[Any, ...]:
        return InferenceCache, ()
