"""Composition with torch's function transforms, the compiler and export: one helper for every public function."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from geocore.testing._derivatives import tensor_leaves
from geocore.testing._tolerances import tolerance

__all__ = ["assert_same", "check_export", "check_transforms"]


def assert_same(what: str, actual: Any, expected: Any, atol: float | None = None) -> None:
    """Assert that two nested results agree to ``atol`` (default: the dtype's tolerance) relative to their scale."""
    got, want = tensor_leaves(actual), tensor_leaves(expected)
    if len(got) != len(want):
        raise AssertionError(f"{what}: {len(got)} tensors, expected {len(want)}")
    for a, b in zip(got, want, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            raise AssertionError(f"{what}: {a.dtype} {tuple(a.shape)}, expected {b.dtype} {tuple(b.shape)}")
        if a.numel() == 0:
            continue
        bound = (tolerance(b.dtype) if atol is None else atol) * max(1.0, b.detach().abs().max().item())
        gap = (a.detach() - b.detach()).abs().max().item()
        if not gap <= bound:
            raise AssertionError(f"{what}: differs by {gap:.3g}, allowed {bound:.3g}")


def check_transforms(
    fn: Callable[..., Any],
    *args: Tensor,
    vmap: bool = True,
    compile: bool = True,  # noqa: A002 - the name a caller looks for
    compiled_transforms: bool = True,
    export: bool = False,
    backend: str = "aot_eager",
    atol: float | None = None,
) -> None:
    """Check that ``fn`` means the same under every transform as it does eagerly.

    ``torch.func.grad`` against autograd, ``jvp`` against ``vjp`` (adjoint identity), ``jacrev`` against ``jacfwd``, ``vmap``
    over the leading dimension, ``torch.compile(fullgraph=True, dynamic=True)``, and, because wrong registrations return
    zeros there in silence, the *values* of compiled ``grad`` and ``jvp``. ``export`` adds ``torch.export`` with a dynamic
    batch.

    Args:
        fn: Function of the tensors ``args`` returning tensors.
        args: Floating inputs, each with one leading batch dimension of the same size.
        vmap, compile, compiled_transforms, export: Which parts to run.
        backend: Compiler backend.
        atol: Tolerance relative to the scale of the result; the dtype's default otherwise.

    Raises:
        AssertionError: If a transformed value differs.
    """
    eager = fn(*args)
    weights = [
        torch.randn(leaf.shape, generator=torch.Generator().manual_seed(i)).to(leaf.dtype) for i, leaf in enumerate(tensor_leaves(eager))
    ]
    tangents = tuple(torch.randn(a.shape, generator=torch.Generator().manual_seed(50 + i)).to(a.dtype) for i, a in enumerate(args))
    every = tuple(range(len(args)))

    def scalar(*xs: Tensor) -> Tensor:
        total = xs[0].new_zeros(())
        for w, leaf in zip(weights, tensor_leaves(fn(*xs)), strict=True):
            total = total + (w * leaf).sum()
        return total

    def grad(*xs: Tensor) -> Any:
        return torch.func.grad(scalar, argnums=every)(*xs)

    def jvp(*xs: Tensor) -> Any:
        return torch.func.jvp(lambda *ys: tuple(tensor_leaves(fn(*ys))), xs, tangents)[1]

    live = tuple(a.detach().clone().requires_grad_() for a in args)
    expected_grad = torch.autograd.grad(scalar(*live), live, allow_unused=True, materialize_grads=True)
    assert_same("torch.func.grad", grad(*args), expected_grad, atol)
    expected_jvp = jvp(*args)
    left = sum(float((w * t).double().sum()) for w, t in zip(weights, expected_jvp, strict=True))
    right = sum(float((g * t).double().sum()) for g, t in zip(expected_grad, tangents, strict=True))
    size = sum(float((g * t).abs().double().sum()) for g, t in zip(expected_grad, tangents, strict=True))
    bound = (tolerance(args[0].dtype) if atol is None else atol) * max(1.0, size)
    if not abs(left - right) <= bound:
        raise AssertionError(f"jvp and vjp disagree: {left:.9g} against {right:.9g}")

    one = tuple(a[:1] for a in args)
    flat = lambda *xs: tuple(tensor_leaves(fn(*xs)))  # noqa: E731
    assert_same("jacrev against jacfwd", torch.func.jacrev(flat, every)(*one), torch.func.jacfwd(flat, every)(*one), atol)
    if vmap:
        assert_same("vmap", torch.vmap(fn)(*args), eager, atol)
    if compile:
        torch._dynamo.reset()
        assert_same("compile", torch.compile(fn, fullgraph=True, dynamic=True, backend=backend)(*args), eager, atol)
    if compiled_transforms:
        torch._dynamo.reset()
        assert_same("compiled func.grad", torch.compile(grad, fullgraph=True, backend=backend)(*args), expected_grad, atol)
        assert_same("compiled func.jvp", torch.compile(jvp, fullgraph=True, backend=backend)(*args), expected_jvp, atol)
    if export:
        check_export(fn, *args, atol=atol)


def check_export(fn: Callable[..., Any], *args: Tensor, atol: float | None = None) -> None:
    """Check that ``fn`` exports with a dynamic batch and that the program agrees on another batch size."""

    class Wrapped(torch.nn.Module):
        def forward(self, *xs: Tensor) -> Any:
            return fn(*xs)

    batch = torch.export.Dim("batch", min=2, max=4096)
    program = torch.export.export(Wrapped(), args, dynamic_shapes=(tuple({0: batch} for _ in args),))
    more = tuple(torch.cat([a, a.flip(0)]) for a in args)
    assert_same("export", program.module()(*more), fn(*more), atol)
