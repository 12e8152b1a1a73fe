"""Conformance of ``nn.Module`` classes: what every layer that we ship must do."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from geocore.testing._derivatives import assert_finite, tensor_leaves
from geocore.testing._transforms import assert_same

__all__ = ["check_module"]


def check_module(
    make: Callable[[], nn.Module],
    *inputs: Any,
    train: bool = True,
    compile: bool = True,  # noqa: A002 - the name a caller looks for
    backend: str = "aot_eager",
    unused: tuple[str, ...] = (),
) -> None:
    """Check a module class against the contract of ``torch.nn``.

    Determinism in eval mode, ``state_dict`` round trip into a freshly made module (strict), ``torch.save`` with
    ``weights_only``, ``deepcopy`` and ``pickle``, ``double()``, a finite gradient for every parameter, ``reset_parameters``,
    ``extra_repr``, and ``torch.compile(fullgraph=True)``.

    Args:
        make: Builds a new module; two calls may differ in their random values, not in their structure.
        inputs: Arguments of ``forward``.
        train: Whether to check the gradients of the parameters.
        compile: Whether to compile.
        backend: Compiler backend.
        unused: Names of parameters that need no gradient.

    Raises:
        AssertionError: With the part of the contract that does not hold.
    """
    module = make().eval()
    with torch.no_grad():
        expected = module(*inputs)
        assert_same("second call in eval mode", module(*inputs), expected)
        other = make().eval()
        buffer = io.BytesIO()
        torch.save(module.state_dict(), buffer)
        buffer.seek(0)
        other.load_state_dict(torch.load(buffer, weights_only=True), strict=True)
        assert_same("state_dict round trip", other(*inputs), expected)
        assert_same("deepcopy", copy.deepcopy(module)(*inputs), expected)
        assert_same("pickle", pickle.loads(pickle.dumps(module))(*inputs), expected)
        if compile:
            torch._dynamo.reset()
            assert_same("compile", torch.compile(module, fullgraph=True, backend=backend)(*inputs), expected)
        doubled = tree_map_only(Tensor, lambda x: x.double() if x.dtype.is_floating_point else x, inputs)
        for leaf in tensor_leaves(copy.deepcopy(module).double()(*doubled)):
            if leaf.dtype != torch.float64:
                raise AssertionError(f"double() module returns {leaf.dtype}")
    if any(p.numel() for p in module.parameters(recurse=False)):
        if not callable(getattr(module, "reset_parameters", None)):
            raise AssertionError(f"{type(module).__name__} has parameters but no reset_parameters()")
        if not module.extra_repr():
            raise AssertionError(f"{type(module).__name__} has parameters but an empty extra_repr()")
    if train:
        module = make().train()
        out = tensor_leaves(module(*inputs))
        weights = [torch.randn(o.shape, generator=torch.Generator().manual_seed(i)).to(o.dtype) for i, o in enumerate(out)]
        torch.stack([(w * o).sum() for w, o in zip(weights, out, strict=True)]).sum().backward()
        for name, parameter in module.named_parameters():
            if name in unused or not parameter.requires_grad:
                continue
            if parameter.grad is None:
                raise AssertionError(f"parameter {name} received no gradient")
            assert_finite(f"gradient of {name}", parameter.grad)
