"""Reader of ``.pts`` point clouds: one point per line, three coordinates, anything after them ignored."""

import math
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["read_pts"]


def read_pts(file: str | Path, *, limit: int | None = None) -> Tensor:
    """Points of a file, shape ``(n, 3)``, float32.

    Lines that are empty or start with ``#`` are passed over, and so is a first line that holds only the number of points.

    Args:
        file: Path.
        limit: Read at most so many points.

    Returns:
        The points.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: With file and line, if a line does not start with three finite numbers, or there is no point.
    """
    file = Path(file)
    points: list[list[float]] = []
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            words = line.replace(",", " ").split()
            if not words or words[0].startswith("#") or (len(words) == 1 and not points and words[0].isdigit()):
                continue
            try:
                point = [float(w) for w in words[:3]]
            except ValueError:
                point = []
            if len(point) < 3 or not all(map(math.isfinite, point)):
                raise ValueError(f"{file}:{number}: a point needs three finite numbers, got {line.strip()[:60]!r}")
            points.append(point)
            if limit is not None and len(points) == limit:
                break
    if not points:
        raise ValueError(f"{file}: no points")
    return torch.tensor(points, dtype=torch.float32)
