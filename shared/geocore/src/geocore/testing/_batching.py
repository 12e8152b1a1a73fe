"""Batch behaviour and low precision: what a formula per item must not depend on."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from geocore.testing._derivatives import tensor_leaves
from geocore.testing._transforms import assert_same

__all__ = ["check_batching", "check_half"]


def _strided(x: Tensor) -> Tensor:
    """The same values in memory with gaps and reversed dimension order."""
    wide = x.new_zeros([2 * s for s in reversed(x.shape)])
    view = wide[tuple(slice(None, None, 2) for _ in x.shape)].permute(*reversed(range(x.ndim)))
    view.copy_(x)
    return view


def check_batching(fn: Callable[..., Any], *args: Tensor, atol: float | None = None) -> None:
    """Check that ``fn`` treats batch dimensions as independent items.

    Empty batch, a single item without batch dimension, two batch dimensions, strided and expanded memory, and a permutation
    of the batch.

    Args:
        fn: Function of ``args`` whose every result keeps the leading batch dimension.
        args: Tensors with one leading batch dimension of the same size, at least 2.
        atol: Tolerance relative to the scale of the result; 8 eps of its dtype otherwise.

    Raises:
        AssertionError: If a result depends on how the batch is laid out.
    """
    n = args[0].shape[0]
    if n < 2 or any(a.shape[0] != n for a in args):
        raise ValueError(f"args must share a leading batch dimension of at least 2, got {[tuple(a.shape) for a in args]}")
    out = fn(*args)
    full = tensor_leaves(out)
    tol = 8 * torch.finfo(full[0].dtype).eps if atol is None else atol

    empty = tensor_leaves(fn(*(a[:0] for a in args)))
    for got, want in zip(empty, full, strict=True):
        if got.shape != (0, *want.shape[1:]) or got.dtype != want.dtype:
            raise AssertionError(f"empty batch gives {got.dtype} {tuple(got.shape)}, expected {want.dtype} {(0, *want.shape[1:])}")
    for i in (0, n - 1):
        assert_same("single item", fn(*(a[i] for a in args)), [leaf[i] for leaf in full], tol)
    assert_same("two batch dimensions", fn(*(torch.stack([a, a]) for a in args)), [torch.stack([leaf, leaf]) for leaf in full], tol)
    assert_same("strided input", fn(*(_strided(a) for a in args)), full, tol)
    expanded = fn(*(a[:1].expand(3, *a.shape[1:]) for a in args))
    assert_same("expanded input", expanded, [leaf[:1].expand(3, *leaf.shape[1:]) for leaf in full], tol)
    order = torch.arange(n).flip(0)
    assert_same("permuted batch", fn(*(a[order] for a in args)), [leaf[order] for leaf in full], tol)


def check_half(fn: Callable[..., Any], *args: Tensor) -> None:
    """Check the low-precision policy: half in, half out, computed in float32; autocast changes nothing.

    Args:
        fn: Function of ``args`` returning floating tensors.
        args: Floating tensors.

    Raises:
        AssertionError: If a result has another dtype, or is further from the float32 result than rounding explains.
    """
    for dtype in (torch.float16, torch.bfloat16):
        low = tuple(a.to(dtype) for a in args)
        want = [leaf.to(dtype) for leaf in tensor_leaves(fn(*(a.float() for a in low)))]
        assert_same(f"{dtype}", fn(*low), want, 2 * torch.finfo(dtype).eps)
    single = tuple(a.float() for a in args)
    plain = fn(*single)
    with torch.autocast(single[0].device.type, dtype=torch.bfloat16):
        mixed = fn(*single)
    assert_same("autocast", mixed, plain, 8 * torch.finfo(torch.float32).eps)
