"""NTU RGB+D 60 skeletons: the published text files, and the 75 x 75 joint covariance of a sequence."""

import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from spdnorm.integrations._files import need_folder

__all__ = ["CROSS_SUBJECT", "joint_covariance", "load_ntu", "read_skeleton"]

LAYOUT = (
    "expected <root>/S001C001P001R001A001.skeleton and so on (nturgbd_skeletons_s001_to_s017.zip, unpacked), from "
    "https://rose1.ntu.edu.sg/dataset/actionRecognition after registration"
)
CROSS_SUBJECT = frozenset({1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38})
"""Performers of the training half of the cross-subject protocol; in the cross-view protocol cameras 2 and 3 train."""

_NAME = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})")


def read_skeleton(path: str | Path) -> dict[str, Tensor]:
    """Joint positions of every body in a ``.skeleton`` file.

    Args:
        path: The file: number of frames; per frame the number of bodies; per body a line of ten numbers that starts with its id, the number
            of joints, and a line of at least three numbers per joint.

    Returns:
        Body id to positions ``(frames, joints, 3)`` in metres, float64; a body has only the frames in which it was seen.

    Raises:
        ValueError: If the file is not of this format.
    """
    lines = iter(Path(path).read_text(encoding="utf-8").split("\n"))

    def bad(what: str) -> ValueError:
        return ValueError(f"{path} must be an NTU RGB+D skeleton file: {what}")

    bodies: dict[str, list[list[list[float]]]] = {}
    try:
        for _ in range(int(next(lines))):
            for _ in range(int(next(lines))):
                body = next(lines).split()[0]
                joints = [[float(word) for word in next(lines).split()[:3]] for _ in range(int(next(lines)))]
                if any(len(joint) != 3 for joint in joints):
                    raise bad("a joint has fewer than three numbers")
                bodies.setdefault(body, []).append(joints)
    except StopIteration:
        raise bad("it ends too early") from None
    except (IndexError, ValueError) as error:
        raise bad(str(error)) from error
    return {body: torch.tensor(frames, dtype=torch.float64) for body, frames in bodies.items()}


def joint_covariance(positions: Tensor, *, ridge: float = 1e-6) -> Tensor:
    """Covariance of all joint coordinates over time, divided by its trace, plus ``ridge`` times the identity.

    Args:
        positions: ``(frames, joints, 3)``, at least two frames.
        ridge: Multiple of the identity; with fewer frames than coordinates the covariance is singular without it.

    Returns:
        ``(3 joints, 3 joints)``.

    Raises:
        ValueError: If there are fewer than two frames, or nothing moves.
    """
    if positions.ndim != 3 or len(positions) < 2:
        raise ValueError(f"positions must have shape (frames, joints, 3) with at least 2 frames, got {tuple(positions.shape)}")
    x = positions.flatten(1)
    x = x - x.mean(0)
    C = x.mT @ x / (len(x) - 1)
    trace = float(C.trace())
    if not trace > 0:
        raise ValueError("positions must change over time, but every frame is the same")
    return C / trace + ridge * torch.eye(len(C), dtype=C.dtype)


def load_ntu(
    root: str | Path, *, protocol: str = "subject", ridge: float = 1e-6, progress: Callable[[float], None] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Covariances of all sequences below a folder; of several bodies the one that moves most.

    Args:
        root: Folder with ``*.skeleton``.
        protocol: ``"subject"`` or ``"view"``.
        ridge: As ``joint_covariance``.
        progress: Called with the fraction done.

    Returns:
        ``(X, y, train)``: float64 ``(N, 75, 75)``, action labels ``(N,)`` from 0, and which sequences train, boolean ``(N,)``. Files in
        which nobody was seen for two frames are left out.

    Raises:
        FileNotFoundError: If the folder is missing or empty; the message says where the data comes from.
        ValueError: If the protocol is unknown, or a file or its name is not of the format.

    Example:
        >>> X, y, train = load_ntu("data/nturgb+d_skeletons")
    """
    if protocol not in ("subject", "view"):
        raise ValueError(f"protocol must be one of 'subject', 'view', got {protocol!r}")
    files = need_folder(root, "*.skeleton", LAYOUT)
    matrices, labels, train = [], [], []
    for i, path in enumerate(files):
        found = _NAME.search(path.stem)
        if found is None:
            raise ValueError(f"{path} must be named like S001C001P001R001A001.skeleton")
        _, camera, performer, _, action = map(int, found.groups())
        moving = [p for p in read_skeleton(path).values() if len(p) > 1 and float(p.flatten(1).var(0).sum()) > 0]
        if moving:
            most = max(moving, key=lambda p: float(p.flatten(1).var(0).sum()))
            matrices.append(joint_covariance(most, ridge=ridge))
            labels.append(action - 1)
            train.append(performer in CROSS_SUBJECT if protocol == "subject" else camera in (2, 3))
        if progress is not None:
            progress((i + 1) / len(files))
    if not matrices:
        raise ValueError(f"{root} holds no sequence in which somebody moves")
    return torch.stack(matrices), torch.tensor(labels), torch.tensor(train)
