"""Boxes as the OBB models of ultralytics write them; that package is not imported.

Its ``xywhr`` has our axes and our sense of rotation, but another range: the labels are turned to ``[0, pi/2)``, whichever side is longer.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from geocore._checks import check_trailing
from geocore.planar import canonicalize

__all__ = ["from_results", "obb_to_xywhr", "to_results_data", "xywhr_to_obb"]


def obb_to_xywhr(boxes: Float[Tensor, "*batch 5"]) -> Float[Tensor, "*batch 5"]:
    """The same boxes with the angle in ``[0, pi/2)``.

    Args:
        boxes: Shape ``(..., 5)``.

    Raises:
        ValueError: If the shape is wrong.
    """
    return canonicalize(boxes, "ultra")


def xywhr_to_obb(boxes: Float[Tensor, "*batch 5"], pattern: str = "le90") -> Float[Tensor, "*batch 5"]:
    """The same boxes in one of the patterns of ``geocore.planar.canonicalize``.

    Args:
        boxes: Shape ``(..., 5)``, angles in any range.
        pattern: Range of the angle.

    Raises:
        ValueError: If the shape or pattern is wrong.
    """
    return canonicalize(boxes, pattern)


def from_results(result: Any) -> dict[str, Tensor]:
    """Detections of one image: ``boxes (k, 5)``, le90, ``scores`` and ``labels``, on the CPU.

    Args:
        result: A ``Results`` of an OBB model: what has ``obb.xywhr``, ``obb.conf`` and ``obb.cls``.

    Raises:
        ValueError: If the model was no OBB model.
    """
    obb = getattr(result, "obb", None)
    if obb is None:
        raise ValueError("result must come from an OBB model, but its obb is missing")
    boxes, scores, labels = (torch.as_tensor(x).detach().cpu() for x in (obb.xywhr, obb.conf, obb.cls))
    return {"boxes": xywhr_to_obb(boxes.float().reshape(-1, 5)), "scores": scores.float(), "labels": labels.long()}


def to_results_data(boxes: Float[Tensor, "n 5"], scores: Float[Tensor, "n"], labels: Tensor) -> Float[Tensor, "n 7"]:
    """Rows ``x y w h r score class``: what ``Results(..., obb=...)`` takes.

    Args:
        boxes: Shape ``(n, 5)``.
        scores, labels: Shape ``(n,)``.

    Raises:
        ValueError: If shapes do not fit.
    """
    check_trailing("boxes", boxes, (None, 5))
    if not tuple(scores.shape) == tuple(labels.shape) == (len(boxes),):
        raise ValueError(f"scores and labels must be one a box, got {tuple(scores.shape)} and {tuple(labels.shape)} for {len(boxes)}")
    return torch.cat([obb_to_xywhr(boxes), scores[:, None].to(boxes), labels[:, None].to(boxes)], 1)
