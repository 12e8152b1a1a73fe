"""Human3.6M in the exponential-map text files used with DMGNN: read, turn into joint positions, cut into windows."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from eqmotion.data.windows import TrajectoryDataset, make_windows
from geocore._checks import check_option, check_trailing
from geocore.so3 import exp, forward_kinematics

__all__ = ["Human36M", "expmap_to_positions", "read_expmap"]

SUBJECTS = {"train": (1, 6, 7, 8, 9), "val": (11,), "test": (5,)}
ACTIONS = (
    *("directions", "discussion", "eating", "greeting", "phoning", "posing", "purchases", "sitting", "sittingdown", "smoking"),
    *("takingphoto", "waiting", "walking", "walkingdog", "walkingtogether"),
)
JOINTS = 32
_CHAIN = (0, 1, 2, 3, 4, 5, 1, 7, 8, 9, 10, 1, 12, 13, 14, 15, 13, 17, 18, 19, 20, 21, 20, 23, 13, 25, 26, 27, 28, 29, 28, 31)
PARENTS = tuple(joint - 1 for joint in _CHAIN)  # the skeleton counts from 1, with 0 above the root
# the skeleton of the release, in millimetres: (joint, offset) where the offset from the parent is not zero
_OFFSETS: dict[int, tuple[float, float, float]] = {
    1: (-132.948591, 0.0, 0.0),
    2: (0.0, -442.894612, 0.0),
    3: (0.0, -454.206447, 0.0),
    4: (0.0, 0.0, 162.767078),
    5: (0.0, 0.0, 74.999437),
    6: (132.948826, 0.0, 0.0),
    7: (0.0, -442.894413, 0.0),
    8: (0.0, -454.20659, 0.0),
    9: (0.0, 0.0, 162.767426),
    10: (0.0, 0.0, 74.999948),
    11: (0.0, 0.1, 0.0),
    12: (0.0, 233.383263, 0.0),
    13: (0.0, 257.077681, 0.0),
    14: (0.0, 121.134938, 0.0),
    15: (0.0, 115.002227, 0.0),
    16: (0.0, 257.077681, 0.0),
    17: (0.0, 151.034226, 0.0),
    18: (0.0, 278.882773, 0.0),
    19: (0.0, 251.733451, 0.0),
    21: (0.0, 0.0, 99.999627),
    22: (0.0, 100.000188, 0.0),
    24: (0.0, 257.077681, 0.0),
    25: (0.0, 151.031437, 0.0),
    26: (0.0, 278.892924, 0.0),
    27: (0.0, 251.72868, 0.0),
    29: (0.0, 0.0, 99.999888),
    30: (0.0, 137.499922, 0.0),
}
# joints that stay where they are or sit on another one
_LEFT_OUT = (0, 1, 6, 11, 16, 20, 23, 24, 28, 31)
USED = tuple(joint for joint in range(JOINTS) if joint not in _LEFT_OUT)


def read_expmap(file: str | Path) -> Float[Tensor, "l 99"]:
    """Numbers of a text file: one frame a line, 99 comma-separated values (root position, then 32 exponential maps), float64.

    Raises:
        ValueError: If a line has another number of values; names it.
    """
    rows = []
    for number, line in enumerate(Path(file).read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        values = [float(value) for value in line.split(",")]
        if len(values) != 3 + 3 * JOINTS:
            raise ValueError(f"{file}, line {number}, must have {3 + 3 * JOINTS} comma-separated values, got {len(values)}")
        rows.append(values)
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 3 + 3 * JOINTS)


def expmap_to_positions(frames: Float[Tensor, "*batch 99"], *, keep_root: bool = False) -> Float[Tensor, "*batch 32 3"]:
    """Joint positions in millimetres.

    The release means rotations of row vectors, so the active rotation of a joint is the exponential of minus its vector.

    Args:
        frames: Root position and 32 exponential maps, shape ``(..., 99)``.
        keep_root: Whether position and rotation of the root count; the usual protocol sets them to zero.

    Returns:
        Shape ``(..., 32, 3)``.

    Raises:
        ValueError: If the last dimension is not 99.
    """
    check_trailing("frames", frames, (3 + 3 * JOINTS,))
    if not keep_root:
        frames = torch.cat([torch.zeros_like(frames[..., :6]), frames[..., 6:]], dim=-1)
    rotations = exp(-frames[..., 3:].unflatten(-1, (JOINTS, 3)))
    offsets = frames.new_zeros(JOINTS, 3)
    for joint, offset in _OFFSETS.items():
        offsets[joint] = torch.tensor(offset, dtype=frames.dtype, device=frames.device)
    places = forward_kinematics(rotations, offsets, PARENTS)[1]
    return places + frames[..., None, :3]


class Human36M(TrajectoryDataset):
    """Windows of 22 moving joints at 25 frames a second, in units of 100 mm.

    Reads ``<root>/S<subject>/<action>_<1|2>.txt`` (also below ``<root>/dataset``), the exponential-map release that ``limaosen0/DMGNN``
    uses (folder ``data/h3.6m``; research licence). Subjects 1, 6, 7, 8, 9 train, 11 validates, 5 tests.

    The official scripts choose their best epoch on the *test* set. Here there is a validation subject: use it.

    Args:
        root: Folder with the subjects.
        split: ``"train"``, ``"val"`` or ``"test"``.
        in_steps: Steps of the past (10 for the short horizon, 25 for the long).
        out_steps: Steps of the future (10 or 25).
        actions: Some of the fifteen, all if not given.
        stride: Frames from one window to the next.
        every: Frames of the 50 fps files per step.
        scale: Millimetres per unit of the result.

    Raises:
        FileNotFoundError: If a file is missing; says where to get it.
        ValueError: If an option is unknown or a file is not in the format.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        in_steps: int = 10,
        out_steps: int = 10,
        actions: tuple[str, ...] | None = None,
        stride: int = 1,
        every: int = 2,
        scale: float = 100.0,
    ) -> None:
        check_option("split", split, SUBJECTS)
        for action in actions or ():
            check_option("actions", action, ACTIONS)
        pasts, futures, labels = [], [], []
        for subject in SUBJECTS[split]:
            for action in actions or ACTIONS:
                for take in (1, 2):
                    frames = read_expmap(_find(Path(root), subject, action, take))[::every]
                    places = expmap_to_positions(frames)[:, list(USED)] / scale
                    past, future = make_windows(places.float(), in_steps, out_steps, stride=stride)
                    pasts.append(past)
                    futures.append(future)
                    labels += [action] * len(past)
        super().__init__(torch.cat(pasts), torch.cat(futures))
        self.actions = labels


def _find(root: Path, subject: int, action: str, take: int) -> Path:
    name = Path(f"S{subject}") / f"{action}_{take}.txt"
    for file in (root / name, root / "dataset" / name):
        if file.is_file():
            return file
    raise FileNotFoundError(
        f"root must hold {name}, got {root}; take the exponential-map text files of Human3.6M that limaosen0/DMGNN links to (data/h3.6m)"
    )
