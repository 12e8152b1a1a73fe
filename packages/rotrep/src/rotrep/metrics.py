"""Summaries of rotation errors in degrees. These read results from the device: they are for evaluation, not for training loops."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from geocore import so3
from geocore._checks import check_positive_int, check_trailing

__all__ = ["ErrorByAngle", "RotationErrorSummary", "error_by_angle", "rotation_error_deg"]


@dataclass(frozen=True)
class RotationErrorSummary:
    """Statistics of rotation errors, in degrees.

    Attributes:
        count: Number of rotations.
        mean: Mean error.
        median: Median error.
        std: Standard deviation (of the sample itself, divided by ``count``).
        max: Largest error.
        percentiles: Percentile to error, linearly interpolated.
        accuracy: Threshold in degrees to the fraction of errors at or below it.
    """

    count: int
    mean: float
    median: float
    std: float
    max: float
    percentiles: Mapping[float, float]
    accuracy: Mapping[float, float]

    def __str__(self) -> str:
        parts = [f"{k} {getattr(self, k):.3g}" for k in ("mean", "median", "std", "max")]
        parts += [f"p{k:g} {v:.3g}" for k, v in self.percentiles.items()]
        parts += [f"acc@{k:g} {v:.1%}" for k, v in self.accuracy.items()]
        return f"{self.count} rotations, degrees: " + ", ".join(parts)


class ErrorByAngle(NamedTuple):
    """Mean error against the angle of the true rotation.

    Attributes:
        edges: Bin edges in degrees, shape ``(bins + 1,)``.
        counts: Rotations per bin, shape ``(bins,)``.
        mean: Mean error per bin in degrees, NaN for empty bins, shape ``(bins,)``.
        max: Largest error per bin in degrees, NaN for empty bins, shape ``(bins,)``.
    """

    edges: Tensor
    counts: Tensor
    mean: Tensor
    max: Tensor


def _errors(R: Tensor, R_gt: Tensor) -> Tensor:
    return so3.geodesic(R.detach().double(), R_gt.detach().double()).rad2deg()


def rotation_error_deg(
    R: Float[Tensor, "*#batch 3 3"],
    R_gt: Float[Tensor, "*#batch 3 3"],
    *,
    percentiles: Sequence[float] = (50.0, 75.0, 90.0, 95.0, 99.0),
    thresholds: Sequence[float] = (5.0, 10.0, 20.0),
) -> RotationErrorSummary:
    """Statistics of the angles between rotations, computed in float64.

    Args:
        R: Predicted rotations, shape ``(..., 3, 3)``.
        R_gt: True rotations, shape ``(..., 3, 3)``; batch dimensions broadcast.
        percentiles: Wanted percentiles, 0 to 100.
        thresholds: Degrees for ``accuracy``.

    Returns:
        The summary, in Python floats.

    Raises:
        ValueError: If a shape is wrong, there is no rotation, or a percentile is out of range.
        TypeError, NotImplementedError: If an argument has an integer or a complex dtype.

    Example:
        >>> rotation_error_deg(torch.eye(3), torch.diag(torch.tensor([-1.0, -1.0, 1.0]))).max
        180.0
    """
    check_trailing("R", R, (3, 3))
    check_trailing("R_gt", R_gt, (3, 3))
    errors = _errors(R, R_gt).flatten().sort().values
    count = errors.numel()
    if count == 0:
        raise ValueError(f"R must hold at least one rotation, got shapes {tuple(R.shape)} and {tuple(R_gt.shape)}")
    if any(not 0 <= p <= 100 for p in percentiles):
        raise ValueError(f"percentiles must lie in 0..100, got {list(percentiles)}")

    def percentile(p: float) -> float:
        place = p / 100 * (count - 1)  # torch.quantile refuses more than 16 million numbers
        low = min(math.floor(place), count - 1)
        high = min(low + 1, count - 1)
        return torch.lerp(errors[low], errors[high], place - low).item()

    return RotationErrorSummary(
        count=count,
        mean=errors.mean().item(),
        median=percentile(50.0),
        std=errors.std(correction=0).item(),
        max=errors[-1].item(),
        percentiles={p: percentile(p) for p in percentiles},
        accuracy={t: (errors <= t).double().mean().item() for t in thresholds},
    )


def error_by_angle(R: Float[Tensor, "*#batch 3 3"], R_gt: Float[Tensor, "*#batch 3 3"], *, bins: int = 18) -> ErrorByAngle:
    """Error against the angle of the true rotation: a discontinuous representation shows as a rise towards 180 degrees.

    Args:
        R: Predicted rotations, shape ``(..., 3, 3)``.
        R_gt: True rotations, shape ``(..., 3, 3)``; batch dimensions broadcast.
        bins: Number of equal bins from 0 to 180 degrees.

    Returns:
        ``ErrorByAngle(edges, counts, mean, max)`` in float64.

    Raises:
        ValueError: If a shape is wrong or ``bins < 1``.
        TypeError, NotImplementedError: If an argument has an integer or a complex dtype, or ``bins`` is not an int.

    Example:
        >>> error_by_angle(torch.eye(3)[None], torch.eye(3)[None], bins=2).counts
        tensor([1, 0])
    """
    check_trailing("R", R, (3, 3))
    check_trailing("R_gt", R_gt, (3, 3))
    check_positive_int("bins", bins)
    errors = _errors(R, R_gt)
    angle = _errors(R_gt, torch.eye(3, dtype=R_gt.dtype, device=R_gt.device)).expand(errors.shape)
    errors, angle = errors.flatten(), angle.flatten()
    which = (angle * (bins / 180.0)).long().clamp(max=bins - 1)
    count = torch.bincount(which, minlength=bins)
    empty = count == 0
    total = torch.zeros(bins, dtype=errors.dtype, device=errors.device).index_add(0, which, errors)
    most = torch.zeros_like(total).scatter_reduce(0, which, errors, "amax")
    nan = float("nan")
    edges = torch.linspace(0.0, 180.0, bins + 1, dtype=errors.dtype, device=errors.device)
    return ErrorByAngle(edges, count, torch.where(empty, nan, total / count), torch.where(empty, nan, most))
