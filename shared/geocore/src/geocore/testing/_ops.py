"""Checks for registered operators."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.deterministic as deterministic

__all__ = ["check_op", "nan_filled_empty"]


@contextmanager
def nan_filled_empty() -> Iterator[None]:
    """Fill every ``torch.empty`` with NaN inside, so that an element a kernel leaves unwritten cannot pass for a result."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fill = deterministic.fill_uninitialized_memory  # pyright: ignore[reportAttributeAccessIssue] - set through a module class
    torch.use_deterministic_algorithms(True, warn_only=True)
    setattr(deterministic, "fill_uninitialized_memory", True)  # noqa: B010
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        setattr(deterministic, "fill_uninitialized_memory", fill)  # noqa: B010


def check_op(op: Any, *args: Any, **kwargs: Any) -> None:
    """Run ``torch.library.opcheck`` on one call: schema, fake implementation, autograd registration, compiled execution.

    Raises:
        AssertionError: With the checks that failed.
    """
    with nan_filled_empty(), warnings.catch_warnings():
        # torch's own check reads .grad of every input, also of one that is not a leaf and has none.
        warnings.filterwarnings("ignore", message=r"The \.grad attribute of a Tensor that is not a leaf Tensor is being accessed")
        results = torch.library.opcheck(op, args, kwargs or None, raise_exception=False)
    failed = {name: str(result) for name, result in results.items() if result != "SUCCESS"}
    if failed:
        raise AssertionError(f"opcheck failed: {failed}")
