"""Molecular dynamics trajectories in the ``.npz`` files of MD17 and rMD17."""

from pathlib import Path

import torch
from torch import Tensor

from eqmotion.data.windows import TrajectoryDataset
from geocore._checks import check_option

__all__ = ["MD17Trajectories"]

SHARES = {"train": (0.0, 5 / 8), "val": (5 / 8, 6 / 8), "test": (6 / 8, 1.0)}
SIZES = {"train": 5000, "val": 2000, "test": 2000}


class MD17Trajectories(TrajectoryDataset):
    """Windows of a molecule's trajectory: heavy atoms, every 20th frame, time cut 5 : 1 : 2 into train, val and test.

    Reads ``md17_<molecule>.npz`` (also ``<molecule>_dft.npz``, ``rmd17_<molecule>.npz``, ``<molecule>.npz``) with arrays ``R`` or
    ``coords`` of shape ``(frames, atoms, 3)`` in angstrom and ``z`` or ``nuclear_charges``. Get the files from sgdml.org.

    Args:
        root: Folder of the files, or the file.
        molecule: Such as ``"aspirin"``.
        split: ``"train"``, ``"val"`` or ``"test"``.
        in_steps: Steps of the past.
        out_steps: Steps of the future.
        every: Frames from one step to the next.
        size: Windows to draw without replacement; the paper's numbers (5000, 2000, 2000) if not given, fewer if there are not as many.
        heavy_only: Leave out hydrogen.
        seed: Of the choice of windows.

    Raises:
        FileNotFoundError: If there is no such file; says where to get it.
        ValueError: If the file lacks an array or is too short.
    """

    def __init__(
        self,
        root: str | Path,
        molecule: str,
        split: str = "train",
        *,
        in_steps: int = 10,
        out_steps: int = 10,
        every: int = 20,
        size: int | None = None,
        heavy_only: bool = True,
        seed: int = 0,
    ) -> None:
        check_option("split", split, SHARES)
        positions, numbers = _read(_find(Path(root), molecule))
        if heavy_only:
            positions = positions[:, numbers > 1]
        low, high = (round(share * len(positions)) for share in SHARES[split])
        part = positions[low:high]
        span = (in_steps + out_steps - 1) * every + 1
        if len(part) < span:
            raise ValueError(f"{molecule} must have at least {span} frames in its {split} part, got {len(part)}; use a smaller every")
        generator = torch.Generator().manual_seed(seed)
        count = len(part) - span + 1
        start = torch.randperm(count, generator=generator)[: SIZES[split] if size is None else size].sort().values
        frames = start[:, None] + every * torch.arange(in_steps + out_steps)
        windows = part[frames].transpose(1, 2).float()
        super().__init__(windows[:, :, :in_steps].contiguous(), windows[:, :, in_steps:].contiguous())
        self.numbers = numbers[numbers > 1] if heavy_only else numbers


def _find(root: Path, molecule: str) -> Path:
    names = [f"md17_{molecule}.npz", f"{molecule}_dft.npz", f"rmd17_{molecule}.npz", f"{molecule}.npz"]
    candidates = [root] if root.is_file() else [root / name for name in names]
    for file in candidates:
        if file.is_file():
            return file
    raise FileNotFoundError(
        f"root must be a file or hold one of {', '.join(names)}, got {root}; download {molecule} from sgdml.org (MD17 datasets)"
    )


def _read(file: Path) -> tuple[Tensor, Tensor]:
    import numpy as np

    with np.load(file) as arrays:
        found = {}
        for role, names in {"positions": ("R", "coords"), "numbers": ("z", "nuclear_charges")}.items():
            name = next((n for n in names if n in arrays), None)
            if name is None:
                raise ValueError(f"{file} must hold {' or '.join(names)}, got {', '.join(arrays.files)}")
            found[role] = torch.from_numpy(np.asarray(arrays[name], dtype=np.float64 if role == "positions" else np.int64))
    positions, numbers = found["positions"], found["numbers"]
    if positions.ndim != 3 or positions.shape[1:] != (len(numbers), 3):
        raise ValueError(
            f"{file} must hold positions (frames, atoms, 3) and one number per atom, "
            f"got {tuple(positions.shape)} and {tuple(numbers.shape)}"
        )
    return positions, numbers
