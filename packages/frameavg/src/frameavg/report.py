"""How equivariant a model is, in one number, with the share of inputs for which theory promises nothing."""

from typing import Any

import torch
from torch import Tensor

from frameavg._types import Types
from frameavg.modules import FrameAveraging
from geocore.groups import Euclidean, Orthogonal, SpecialEuclidean, SpecialOrthogonal, Symmetric
from geocore.testing import equivariance_error

__all__ = ["equivariance_report"]

_GROUPS = {"O": Orthogonal, "SO": SpecialOrthogonal, "E": Euclidean, "SE": SpecialEuclidean, "S": Symmetric}


def equivariance_report(
    model: Any,
    x: Any,
    group: Any = "E",
    n: int = 16,
    *,
    in_types: Types = None,
    out_types: Types = None,
    generator: torch.Generator | None = None,
) -> dict[str, float]:
    """Measure ``model(g x)`` against ``g model(x)`` for random elements.

    Args:
        model: Module or function, run in evaluation mode.
        x: Its input; several inputs as a tuple.
        group: ``"O"``, ``"SO"``, ``"E"``, ``"SE"`` or ``"S"`` (permutations) of the size that ``x`` has, or a group of ``geocore.groups``.
        n: Random elements.
        in_types: Types of the inputs; those of a ``FrameAveraging`` by default.
        out_types: Types of the outputs; the same.
        generator: Source of the randomness.

    Returns:
        ``rel_error`` (mean over the elements, of the worst output), ``worst`` (the largest),
        and ``degenerate_fraction``: items whose frame is ambiguous, NaN
        for a model without a frame.

    Raises:
        ValueError: If types are missing for a model that does not carry them.

    Example:
        >>> from frameavg import PCAFrame
        >>> model = FrameAveraging(lambda x: x.amax((-2, -1)), PCAFrame(3, "E"))
        >>> equivariance_report(model, torch.randn(4, 10, 3, dtype=torch.float64))["worst"] < 1e-12
        True
    """
    wrapped = isinstance(model, FrameAveraging)
    in_types = model.in_types if in_types is None and wrapped else in_types
    out_types = model.out_types if out_types is None and wrapped else out_types
    if in_types is None or out_types is None:
        raise ValueError("in_types and out_types must be given for a model that is not a FrameAveraging")
    first = x[0] if isinstance(x, tuple | list) else x
    if isinstance(first, dict):
        first = next(value for key, value in first.items() if not isinstance(in_types, dict) or in_types.get(key) == "position")
    if isinstance(group, str):
        if group not in _GROUPS:
            raise ValueError(f"group must be a group or one of {', '.join(map(repr, _GROUPS))}, got {group!r}")
        group = _GROUPS[group](first.shape[-1])
    if isinstance(x, tuple | list) and not isinstance(in_types, tuple | list):
        in_types = _listed(in_types, len(x))
    report = equivariance_error(model, x, group, in_types, out_types, n=n, generator=generator)
    fraction = float("nan")
    if wrapped:
        with torch.no_grad():
            frame: Any = model.frame
            degenerate: Tensor = frame(first).info.degenerate
        fraction = degenerate.double().mean().item() if degenerate.numel() else 0.0
    return {"rel_error": max(report.mean), "worst": report.rel_error, "degenerate_fraction": fraction}


def _listed(types: Any, count: int) -> tuple[Any, ...]:
    """Types of positional inputs as a tuple."""
    if isinstance(types, dict):
        return tuple(types.get(i, "invariant") for i in range(count))
    return (types, *["invariant"] * (count - 1))
