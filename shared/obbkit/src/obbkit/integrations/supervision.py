"""Detections as those of supervision, whose annotators, trackers and zones read oriented boxes from ``data["xyxyxyxy"]``."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geocore.planar import canonicalize, corners_to_obb, obb_to_aabb, obb_to_corners

__all__ = ["from_detections", "to_detections"]

CORNERS = "xyxyxyxy"


def to_detections(found: Mapping[str, Tensor]) -> Any:
    """``supervision.Detections``: upright hulls in ``xyxy``, corners in ``data["xyxyxyxy"]``.

    Args:
        found: ``boxes (k, 5)``, ``scores (k,)``, ``labels (k,)``, as detectors return them.

    Raises:
        ImportError: If supervision is missing.
        ValueError: If shapes do not fit.
    """
    boxes, scores, labels = (found[key].detach().cpu() for key in ("boxes", "scores", "labels"))
    if boxes.ndim != 2 or boxes.shape[1] != 5 or not tuple(scores.shape) == tuple(labels.shape) == (len(boxes),):
        shapes = [tuple(t.shape) for t in (boxes, scores, labels)]
        raise ValueError(f"found must have boxes (k, 5) and one score and label each, got {shapes}")
    try:
        supervision: Any = import_module("supervision")
    except ImportError as error:
        raise ImportError("obbkit.integrations.supervision needs supervision: pip install supervision") from error
    return supervision.Detections(
        xyxy=obb_to_aabb(boxes).numpy(),
        confidence=scores.float().numpy(),
        class_id=labels.numpy().astype(np.int64),
        data={CORNERS: obb_to_corners(boxes).numpy()},
    )


def from_detections(detections: Any) -> dict[str, Tensor]:
    """``boxes (k, 5)``, le90, ``scores`` and ``labels`` of ``supervision.Detections`` with corners.

    Without confidences the scores are 1, without classes the labels 0.

    Raises:
        ValueError: If there are detections without corners.
    """
    count = len(detections.xyxy)
    corners = detections.data.get(CORNERS)
    if corners is None:
        if count:
            raise ValueError(f"detections must have data[{CORNERS!r}], got {sorted(detections.data) or 'no data'}")
        corners = np.zeros((0, 4, 2), dtype=np.float32)
    boxes = canonicalize(corners_to_obb(torch.as_tensor(np.asarray(corners, dtype=np.float32)).reshape(-1, 4, 2)), "le90")
    scores = np.ones(count) if detections.confidence is None else detections.confidence
    labels = np.zeros(count) if detections.class_id is None else detections.class_id
    return {"boxes": boxes, "scores": torch.as_tensor(scores).float(), "labels": torch.as_tensor(labels).long()}
