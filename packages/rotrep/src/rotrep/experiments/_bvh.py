"""Motion capture in BVH text files: a skeleton with offsets and, per frame, Euler angles of every joint."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from geocore import so3

__all__ = ["Motion", "read_bvh"]


@dataclass(frozen=True)
class Motion:
    """A recording.

    Attributes:
        names: Joint names; end sites are named after their parent with ``_end``.
        parents: Parent of every joint, -1 for the root.
        offsets: Position of every joint in its parent's frame, shape ``(joints, 3)``.
        rotations: Local rotations, shape ``(frames, joints, 3, 3)``; the identity for joints without rotation channels.
        translation: Root translation, shape ``(frames, 3)``.
        frame_time: Seconds per frame.
    """

    names: tuple[str, ...]
    parents: tuple[int, ...]
    offsets: Tensor
    rotations: Tensor
    translation: Tensor
    frame_time: float


def read_bvh(path: str | Path, *, scale: float = 1.0) -> Motion:
    """Read a BVH file.

    Args:
        path: The file.
        scale: Factor on offsets and translations; the paper uses 0.01.

    Returns:
        The recording, float32. Rotations are the product of the channels in the order of the file.

    Raises:
        ValueError: If the file is not BVH, or its numbers do not fit its channels.
    """
    words = iter(Path(path).read_text(encoding="utf-8").split())
    names: list[str] = []
    parents: list[int] = []
    offsets: list[list[float]] = []
    channels: list[list[str]] = []
    stack: list[int] = []

    def bad(what: str) -> ValueError:
        return ValueError(f"{path} must be a BVH file: {what}")

    try:
        if next(words) != "HIERARCHY":
            raise bad("it does not start with HIERARCHY")
        for word in words:
            if word in ("ROOT", "JOINT", "End"):
                name = next(words)
                names.append(f"{names[stack[-1]]}_end" if word == "End" else name)
                parents.append(stack[-1] if stack else -1)
                offsets.append([0.0, 0.0, 0.0])
                channels.append([])
            elif word == "{":
                stack.append(len(names) - 1)
            elif word == "}":
                stack.pop()
            elif word == "OFFSET":
                offsets[-1] = [float(next(words)) for _ in range(3)]
            elif word == "CHANNELS":
                channels[stack[-1]] = [next(words) for _ in range(int(next(words)))]
            elif word == "MOTION":
                break
            else:
                raise bad(f"unknown word {word!r}")
        if next(words) != "Frames:":
            raise bad("no 'Frames:' after MOTION")
        frames = int(next(words))
        if (next(words), next(words)) != ("Frame", "Time:"):
            raise bad("no 'Frame Time:'")
        frame_time = float(next(words))
        numbers = [float(word) for word in words]
    except (StopIteration, IndexError) as error:
        raise bad("it ends too early") from error
    width = sum(map(len, channels))
    if len(numbers) != frames * width:
        raise bad(f"{frames} frames of {width} channels need {frames * width} numbers, found {len(numbers)}")
    data = torch.tensor(numbers).reshape(frames, width)
    rotations = torch.eye(3).repeat(frames, len(names), 1, 1)
    translation = torch.zeros(frames, 3)
    column = 0
    for joint, kinds in enumerate(channels):
        turns = [i for i, kind in enumerate(kinds) if kind.endswith("rotation")]
        for i in turns:
            axis = "XYZ".index(kinds[i][0])
            vector = torch.nn.functional.one_hot(torch.tensor(axis), 3) * data[:, column + i, None].deg2rad()
            rotations[:, joint] = rotations[:, joint] @ so3.exp(vector)
        if parents[joint] < 0:
            for i, kind in enumerate(kinds):
                if kind.endswith("position"):
                    translation[:, "XYZ".index(kind[0])] = data[:, column + i] * scale
        column += len(kinds)
    return Motion(tuple(names), tuple(parents), torch.tensor(offsets) * scale, rotations, translation, frame_time)
