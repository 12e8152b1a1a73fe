"""Derivative checks in float64: numerical against analytic, both modes, twice."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError, gradcheck, gradgradcheck
from torch.utils import _pytree

__all__ = ["assert_finite", "check_derivatives", "tensor_leaves"]


def tensor_leaves(value: Any) -> list[Tensor]:
    """Floating-point tensors of a nested result, in order."""
    leaves = _pytree.tree_leaves(value)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.dtype.is_floating_point]


def assert_finite(name: str, value: Any) -> None:
    """Assert that every floating tensor in ``value`` is free of NaN and infinity."""
    for leaf in tensor_leaves(value):
        if not torch.isfinite(leaf).all():
            raise AssertionError(f"{name} is not finite: {int((~torch.isfinite(leaf)).sum())} of {leaf.numel()} entries")


def check_derivatives(
    fn: Callable[..., Any],
    *args: Tensor,
    second: bool = True,
    forward: bool = True,
    atol: float = 1e-8,
    rtol: float = 1e-6,
    eps: float = 1e-6,
) -> None:
    """Check the derivatives of ``fn`` at ``args`` in float64.

    gradcheck (reverse mode, and forward mode if ``forward``), gradgradcheck if ``second``, the adjoint identity
    ``<v, J u> = <J^T v, u>`` to 1e-9, and finiteness of every gradient.

    Args:
        fn: Function of the tensors ``args`` that returns a tensor or a nested structure of tensors.
        args: Inputs; floating ones are converted to float64 and differentiated.
        second: Whether to check second derivatives.
        forward: Whether to check forward mode.
        atol, rtol, eps: As ``torch.autograd.gradcheck``.

    Raises:
        AssertionError: If an analytic derivative is wrong or not finite.
    """
    xs = tuple(a.detach().double().clone().requires_grad_() if a.dtype.is_floating_point else a for a in args)
    diff = tuple(x for x in xs if x.requires_grad)

    live = [leaf.requires_grad for leaf in tensor_leaves(fn(*xs))]  # fixed once: forward mode carries no requires_grad

    def leaves(*inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(leaf for leaf, keep in zip(tensor_leaves(fn(*inputs)), live, strict=True) if keep)

    out = leaves(*xs)
    assert_finite("value", out)
    cotangents = tuple(torch.randn(o.shape, dtype=o.dtype, generator=torch.Generator().manual_seed(i)) for i, o in enumerate(out))
    grads = torch.autograd.grad(out, diff, cotangents, allow_unused=True)
    assert_finite("gradient", grads)
    _call_check(gradcheck, leaves, xs, atol=atol, rtol=rtol, eps=eps, check_forward_ad=forward)
    if forward:
        _check_adjoint(leaves, xs, cotangents)
    if second:
        _call_check(gradgradcheck, leaves, xs, atol=max(atol, 1e-6), rtol=max(rtol, 1e-5), eps=eps)


def _call_check(check: Callable[..., bool], fn: Callable[..., Any], xs: tuple[Tensor, ...], **options: Any) -> None:
    try:
        check(fn, xs, **options)
    except GradcheckError as error:
        raise AssertionError(f"{check.__name__} failed: {error}") from error


def _check_adjoint(fn: Callable[..., tuple[Tensor, ...]], xs: tuple[Tensor, ...], cotangents: tuple[Tensor, ...]) -> None:
    index = [i for i, x in enumerate(xs) if x.requires_grad]
    tangents = tuple(torch.randn(xs[i].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(100 + i)) for i in index)

    def of_diff(*moved: Tensor) -> tuple[Tensor, ...]:
        full = list(xs)
        for i, value in zip(index, moved, strict=True):
            full[i] = value
        return fn(*full)

    at = tuple(xs[i] for i in index)
    out, push = torch.autograd.functional.jvp(of_diff, at, tangents)
    del out
    pull = torch.autograd.functional.vjp(of_diff, at, cotangents)[1]
    with torch.autograd.forward_ad.dual_level():
        duals = tuple(torch.autograd.forward_ad.make_dual(x.detach().requires_grad_(), t) for x, t in zip(at, tangents, strict=True))
        pushed = [torch.autograd.forward_ad.unpack_dual(o).tangent for o in of_diff(*duals)]
    left = sum((v * p).sum() for v, p in zip(cotangents, pushed, strict=True) if p is not None)
    right = sum((u * g).sum() for u, g in zip(tangents, pull, strict=True))
    scale = 1.0 + sum(float((v.abs() * p.detach().abs()).sum()) for v, p in zip(cotangents, push, strict=True))
    left, right = float(torch.as_tensor(left).detach()), float(torch.as_tensor(right).detach())
    gap = abs(left - right)
    if not gap <= 1e-9 * scale:
        raise AssertionError(f"adjoint identity fails: <v, J u> = {left:.12g}, <J^T v, u> = {right:.12g}")
