"""Equivariance of a function under a group: measured, asserted, and its absence asserted."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import total_ordering
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from geocore._checks import check_positive_int
from geocore.groups._group import Group
from geocore.groups._types import transform

__all__ = ["EquivarianceReport", "assert_equivariant", "assert_not_equivariant", "equivariance_error"]

_FLOOR = 1e-6
_EPS_PER_STEP = 32
_USUAL_DEPTH = 32


@total_ordering
@dataclass(frozen=True, eq=False)
class EquivarianceReport:
    """How far ``fn(g x) = g fn(x)`` is from true. Compares and converts as a number: ``report < 1e-12``, ``float(report)``.

    Args:
        rel_error: Largest error over outputs and elements, relative to the size of the output.
        mean: Mean over the elements, one entry for each output.
        max: Largest over the elements, one entry for each output.
        worst: The element with the largest error.
        worst_index: Its number in the order of trial.
        elements: How many elements were tried.
        dtype: What was computed in; ``None`` if it was left to the inputs.
        depth: Length of the longest chain of differentiable operations from inputs or parameters to outputs; what a tolerance scales with.
    """

    rel_error: float
    mean: tuple[float, ...]
    max: tuple[float, ...]
    worst: Any
    worst_index: int
    elements: int
    dtype: torch.dtype | None
    depth: int

    def __float__(self) -> float:
        return self.rel_error

    def __eq__(self, other: object) -> bool:
        if isinstance(other, int | float | EquivarianceReport):
            return self.rel_error == float(other)
        return NotImplemented

    def __lt__(self, other: Any) -> bool:
        if isinstance(other, int | float | EquivarianceReport):
            return self.rel_error < float(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        kind = "its inputs' dtype" if self.dtype is None else str(self.dtype).removeprefix("torch.")
        parts = [f"output {i}: mean {m:.2e}, max {w:.2e}" for i, (m, w) in enumerate(zip(self.mean, self.max, strict=True))]
        tried = f"{self.elements} elements in {kind}, worst is number {self.worst_index}"
        return f"equivariance error {self.rel_error:.3e} ({tried}; {'; '.join(parts)})"


def equivariance_error(
    fn: Callable[..., Any],
    x: Any,
    group: Any,
    in_types: Any,
    out_types: Any = None,
    n: int = 16,
    generator: torch.Generator | None = None,
    *,
    dtype: torch.dtype | None = torch.float64,
    floor: float = _FLOOR,
) -> EquivarianceReport:
    """Measure the violation of ``fn(g x) = g fn(x)``.

    For each output, ``max |fn(g x) - g fn(x)| / (max |g fn(x)| + floor)``. An ``nn.Module`` is evaluated in eval mode and left as it was;
    with ``dtype`` a copy of it is converted, so that what is measured is the function and not its rounding.

    Args:
        fn: Function or module under test. Any other function must compute in the dtype of its inputs (or pass ``dtype=None``).
        x: Its input: a tensor or tree; a tuple is several arguments. Integer tensors pass motions unchanged.
        group: ``geocore.groups.Group``, or an iterable of elements in whatever form the types understand.
        in_types: Types of the inputs (``geocore.groups.transform``), or one function ``(g, x) -> x`` that acts on all of ``x``.
        out_types: The same for the outputs; ``None`` means invariance.
        n: Number of random elements; a finite group of at most so many is tried whole. Not used for an iterable.
        generator: Source of randomness, on the CPU; seed 0 if not given.
        dtype: Floating dtype of the computation; ``None`` leaves everything as it is.
        floor: Size below which outputs count as zero.

    Returns:
        ``EquivarianceReport``.

    Raises:
        ValueError: If there are no elements, or two calls with equal inputs differ, or types do not fit.
        TypeError: If ``group`` is neither a group nor an iterable.
        AssertionError: If outputs change their structure or shape.

    Example:
        >>> from geocore.groups import Orthogonal
        >>> x = torch.randn(5, 3)
        >>> equivariance_error(lambda v: 2 * v, x, Orthogonal(3), "vector", "vector") < 1e-14
        True
        >>> equivariance_error(torch.abs, x, Orthogonal(3), "vector", "vector") > 0.1
        True
    """
    x = _pytree.tree_map_only(Tensor, lambda v: _cast(v, dtype).detach(), x)
    device = next((v.device for v in _tensors(x)), None)
    elements = _draw(group, n, generator, dtype, device)
    with _ready(fn, dtype) as call:
        base = _detached(_call(call, x))
        again, depth = _second_call(call, x)
        repeat = max([_gap(a, b, floor) for a, b in zip(_tensors(again), _tensors(base), strict=True)], default=0.0)
        noise = 100 * max([torch.finfo(v.dtype).eps for v in _tensors(base) if v.dtype.is_floating_point], default=0.0)
        if not repeat <= noise:
            raise ValueError(
                f"fn must be deterministic, but two calls with the same input differ by {repeat:.1e} (dropout outside of eval mode, "
                "sampling, noise). Fix its seed inside of the function"
            )
        errors: list[list[float]] = []
        for g in elements:
            moved = _tensors(_detached(_call(call, _act(g, x, in_types))))
            wanted = _tensors(_act(g, base, out_types))
            if len(moved) != len(wanted):
                raise AssertionError(f"outputs change in number: {len(moved)} tensors for g x, {len(wanted)} for x")
            errors.append([_gap(a, b, floor) for a, b in zip(moved, wanted, strict=True)])
    if not errors[0]:
        raise ValueError("fn must return at least one tensor, got none")
    worst = max(range(len(errors)), key=lambda i: max(errors[i]))
    columns = list(zip(*errors, strict=True))
    return EquivarianceReport(
        rel_error=max(errors[worst]),
        mean=tuple(sum(column) / len(column) for column in columns),
        max=tuple(max(column) for column in columns),
        worst=elements[worst],
        worst_index=worst,
        elements=len(errors),
        dtype=dtype,
        depth=depth,
    )


def assert_equivariant(
    fn: Callable[..., Any],
    x: Any,
    group: Any,
    in_types: Any,
    out_types: Any = None,
    n: int = 16,
    generator: torch.Generator | None = None,
    *,
    tol: float | None = None,
    dtype: torch.dtype | None = torch.float64,
    floor: float = _FLOOR,
) -> EquivarianceReport:
    """Assert that ``equivariance_error`` is at most ``tol``.

    Pair it with ``assert_not_equivariant`` for a larger group or a broken variant, so that a test that cannot fail is seen.

    Args:
        fn, x, group, in_types, out_types, n, generator, dtype, floor: As ``equivariance_error``.
        tol: Allowed relative error; if not given, 32 eps of the dtype for every step of the longest chain of operations.

    Returns:
        The report.

    Raises:
        AssertionError: With the measured error.
        ValueError: As ``equivariance_error``.
    """
    report = equivariance_error(fn, x, group, in_types, out_types, n, generator, dtype=dtype, floor=floor)
    if tol is None:
        kinds = [dtype] if dtype is not None else [v.dtype for v in _tensors(x) if v.dtype.is_floating_point]
        eps = max([torch.finfo(kind).eps for kind in kinds], default=torch.finfo(torch.float32).eps)
        tol = _EPS_PER_STEP * eps * (1 + report.depth)
    if not report.rel_error <= tol:
        raise AssertionError(f"{report}, allowed {tol:.2g}")
    return report


def assert_not_equivariant(
    fn: Callable[..., Any],
    x: Any,
    group: Any,
    in_types: Any,
    out_types: Any = None,
    n: int = 16,
    generator: torch.Generator | None = None,
    *,
    at_least: float = 1e-2,
    dtype: torch.dtype | None = torch.float64,
    floor: float = _FLOOR,
) -> EquivarianceReport:
    """Assert that ``equivariance_error`` is above ``at_least``: the negative control of ``assert_equivariant``.

    Args:
        fn, x, group, in_types, out_types, n, generator, dtype, floor: As ``equivariance_error``.
        at_least: Relative error that must be exceeded.

    Returns:
        The report.

    Raises:
        AssertionError: With the measured error.
        ValueError: As ``equivariance_error``.
    """
    report = equivariance_error(fn, x, group, in_types, out_types, n, generator, dtype=dtype, floor=floor)
    if not report.rel_error > at_least:
        raise AssertionError(f"{report}, but more than {at_least:.2g} was expected: the input cannot tell the group from the identity")
    return report


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in _pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def _cast(v: Tensor, dtype: torch.dtype | None) -> Tensor:
    if dtype is None or not (v.dtype.is_floating_point or v.dtype.is_complex):
        return v
    return v.to(dtype.to_complex() if v.dtype.is_complex else dtype)


def _detached(value: Any) -> Any:
    return _pytree.tree_map_only(Tensor, Tensor.detach, value)


def _call(fn: Callable[..., Any], x: Any) -> Any:
    return fn(*x) if type(x) is tuple else fn(x)


def _act(g: Any, value: Any, types: Any) -> Any:
    if types is None:
        return value
    if callable(types):
        return types(g, value)
    return transform(g, value, types)


def _gap(a: Tensor, b: Tensor, floor: float) -> float:
    if a.shape != b.shape:
        raise AssertionError(f"shapes differ after the action: {tuple(a.shape)} against {tuple(b.shape)}")
    if not a.numel():
        return 0.0
    work = torch.complex128 if a.dtype.is_complex else torch.float64
    a, b = a.to(work), b.to(work)
    error = (a - b).abs().max().item() / (b.abs().max().item() + floor)
    return error if math.isfinite(error) else math.inf


def _draw(group: Any, n: int, generator: torch.Generator | None, dtype: torch.dtype | None, device: torch.device | None) -> list[Any]:
    if isinstance(group, Group):
        check_positive_int("n", n)
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        usual = torch.get_default_dtype()
        torch.set_default_dtype(usual if dtype is None else dtype)
        try:
            order = getattr(group, "order", None)
            whole = group.is_finite and order is not None and order <= n
            batch = group.elements() if whole else group.random((n,), generator)
        finally:
            torch.set_default_dtype(usual)
        leaves, spec = _pytree.tree_flatten(batch)
        count = len(next(leaf for leaf in leaves if isinstance(leaf, Tensor)))
        pick = lambda i: [v[i].to(device) if isinstance(v, Tensor) else v for v in leaves]  # noqa: E731
        return [_pytree.tree_unflatten(pick(i), spec) for i in range(count)]
    if not isinstance(group, Iterable):
        raise TypeError(f"group must be a geocore.groups.Group or an iterable of elements, got {type(group).__name__}")
    elements = list(group)
    if not elements:
        raise ValueError("group must hold at least one group element, got none")
    return elements


@contextmanager
def _ready(fn: Callable[..., Any], dtype: torch.dtype | None) -> Iterator[Callable[..., Any]]:
    """``fn``; a module in eval mode, a copy of it in ``dtype`` if it has another one."""
    if not isinstance(fn, nn.Module):
        yield fn
        return
    held = [*fn.parameters(), *fn.buffers()]
    if dtype is not None and any(v.dtype.is_floating_point and v.dtype != dtype for v in held):
        try:
            fn = copy.deepcopy(fn)
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"fn cannot be copied to be evaluated in {dtype} ({error}); pass dtype=None to use it as it is") from error
        fn = fn.to(dtype)
    modes = [(module, module.training) for module in fn.modules()]
    fn.eval()
    try:
        yield fn
    finally:
        for module, training in modes:
            module.training = training


def _second_call(fn: Callable[..., Any], x: Any) -> tuple[Any, int]:
    """The outputs again, and how long the chain of operations to them is, where autograd can follow."""
    live = _pytree.tree_map_only(Tensor, lambda v: v.clone().requires_grad_().clone() if v.dtype.is_floating_point else v, x)
    try:
        with torch.enable_grad():
            out = _call(fn, live)
    except (RuntimeError, TypeError):  # leaves torch, or writes into its input
        return _detached(_call(fn, x)), _USUAL_DEPTH
    return _detached(out), max([_depth(v) for v in _tensors(out) if v.grad_fn is not None], default=_USUAL_DEPTH)


def _depth(out: Tensor) -> int:
    """Longest path in the graph of a tensor."""
    known: dict[Any, int] = {}
    stack = [out.grad_fn]
    while stack:
        node: Any = stack[-1]
        children = [child for child, _ in node.next_functions if child is not None]
        missing = [child for child in children if child not in known]
        if missing:
            stack.extend(missing)
            continue
        known[node] = 1 + max([known[child] for child in children], default=0)
        stack.pop()
    return known[out.grad_fn]
