"""Equivariance of a function under a group, measured and asserted."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from geocore.testing._derivatives import tensor_leaves

__all__ = ["assert_equivariant", "equivariance_error"]


def equivariance_error(
    fn: Callable[[Any], Any],
    x: Any,
    elements: Iterable[Any],
    *,
    act_in: Callable[[Any, Any], Any],
    act_out: Callable[[Any, Any], Any] | None = None,
) -> float:
    """Largest relative violation of ``fn(g x) = g fn(x)`` over the given group elements.

    Args:
        fn: Function under test.
        x: Its input, a tensor or any structure that ``act_in`` understands.
        elements: Group elements, in whatever form the actions take.
        act_in: ``act_in(g, x)``, the action on inputs.
        act_out: The action on outputs; ``None`` means invariance.

    Returns:
        ``max |fn(g x) - g fn(x)|`` over elements and entries, divided by ``max(1, max |fn(x)|)``.

    Raises:
        ValueError: If there are no elements.

    Example:
        >>> x = torch.randn(5, 3)
        >>> g = torch.linalg.qr(torch.randn(3, 3)).Q
        >>> equivariance_error(lambda v: 2 * v, x, [g], act_in=lambda g, v: v @ g.T, act_out=lambda g, v: v @ g.T) < 1e-5
        True
    """
    base = fn(x)
    scale = max([1.0, *(leaf.detach().abs().max().item() for leaf in tensor_leaves(base) if leaf.numel())])
    worst, count = 0.0, 0
    for g in elements:
        count += 1
        moved = tensor_leaves(fn(act_in(g, x)))
        wanted = tensor_leaves(base if act_out is None else act_out(g, base))
        for a, b in zip(moved, wanted, strict=True):
            worst = max(worst, _gap(a, b))
    if count == 0:
        raise ValueError("elements must hold at least one group element, got none")
    return worst / scale


def _gap(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        raise AssertionError(f"shapes differ after the action: {tuple(a.shape)} against {tuple(b.shape)}")
    gap = (a.detach() - b.detach()).abs()
    return torch.nan_to_num(gap, nan=torch.inf).max().item() if gap.numel() else 0.0


def assert_equivariant(
    fn: Callable[[Any], Any],
    x: Any,
    elements: Iterable[Any],
    *,
    act_in: Callable[[Any, Any], Any],
    act_out: Callable[[Any, Any], Any] | None = None,
    atol: float = 1e-5,
) -> None:
    """Assert that ``equivariance_error`` is at most ``atol``.

    Raises:
        AssertionError: With the measured error.
    """
    error = equivariance_error(fn, x, elements, act_in=act_in, act_out=act_out)
    if not error <= atol:
        raise AssertionError(f"equivariance error {error:.3g}, allowed {atol:g}")
