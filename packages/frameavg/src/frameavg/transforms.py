"""Frames as a step of data loading, for pipelines that cannot wrap their model."""

from collections.abc import Mapping
from copy import copy
from typing import Any

import torch
from torch import Tensor

from geocore._checks import check_positive_int
from geocore.frames import PCAFrame

__all__ = ["AddFrames"]


class AddFrames:
    """Add the canonical poses of a structure to it: ``fa_pos``, ``fa_rot`` and, for a periodic one, ``fa_cell``.

    Works on anything with entries ``pos`` (``(n, d)``) and perhaps ``cell`` (rows are lattice vectors) as attributes or keys:
    ``torch_geometric.data.Data``, dicts, objects. The input is not changed. A cell is rotated, row by row, and never translated;
    fractional coordinates stay what they were. Average the model over the pose axis and take vectors back with ``fa_rot``.

    Source: Duval et al., FAENet: Frame Averaging Equivariant GNN for Materials Modeling, ICML 2023.

    Args:
        frame: Frame of the positions; ``PCAFrame(3, "SE")`` by default.
        n_samples: Random elements instead of the whole frame, independent for every structure.
        generator: Source of the randomness.

    Example:
        >>> data = AddFrames()({"pos": torch.randn(12, 3), "cell": torch.eye(3)})
        >>> data["fa_pos"].shape, data["fa_rot"].shape, data["fa_cell"].shape
        (torch.Size([12, 4, 3]), torch.Size([1, 4, 3, 3]), torch.Size([1, 4, 3, 3]))
    """

    def __init__(self, frame: Any = None, n_samples: int | None = None, generator: torch.Generator | None = None) -> None:
        if n_samples is not None:
            check_positive_int("n_samples", n_samples)
        self.frame = PCAFrame(3, "SE") if frame is None else frame
        self.n_samples, self.generator = n_samples, generator

    def __call__(self, data: Any) -> Any:
        """A shallow copy of ``data`` with the poses on the second axis, so that batches concatenate nodes and structures.

        Raises:
            ValueError: If there are no positions or shapes do not fit.
        """
        is_mapping = isinstance(data, Mapping)
        pos, cell = ((data.get(name) if is_mapping else getattr(data, name, None)) for name in ("pos", "cell"))
        if not isinstance(pos, Tensor) or pos.ndim != 2:
            got = tuple(pos.shape) if isinstance(pos, Tensor) else type(pos).__name__
            raise ValueError(f"data must have positions 'pos' of shape (n, d), got {got}")
        frame = self.frame(pos)
        if self.n_samples is not None and frame.size > self.n_samples:
            frame = frame.sample(self.n_samples, self.generator)
        motion: Any = frame.elements
        added = {"fa_pos": frame.canonicalize(pos, "position").transpose(0, 1), "fa_rot": motion.Q.unsqueeze(0)}
        if isinstance(cell, Tensor):
            if tuple(cell.shape[-2:]) != (pos.shape[-1],) * 2:
                raise ValueError(f"cell must have {pos.shape[-1]} rows of lattice vectors, got shape {tuple(cell.shape)}")
            added["fa_cell"] = frame.canonicalize(cell.reshape(pos.shape[-1], pos.shape[-1]), "vector").unsqueeze(0)
        if is_mapping:
            return {**data, **added}
        out = copy(data)
        for name, value in added.items():
            setattr(out, name, value)
        return out

    def __repr__(self) -> str:
        return f"AddFrames({self.frame!r}, n_samples={self.n_samples})"
