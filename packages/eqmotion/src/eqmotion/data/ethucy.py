"""Pedestrians of ETH and UCY, in the text files distributed with AgentFormer or in four plain columns."""

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from eqmotion.data.windows import TrajectoryDataset
from geocore._checks import check_option, check_positive_int

__all__ = ["ETHUCY", "read_tracks"]

TEST = {
    "eth": ("biwi_eth",),
    "hotel": ("biwi_hotel",),
    "univ": ("students001", "students003"),
    "zara1": ("crowds_zara01",),
    "zara2": ("crowds_zara02",),
}
MAX_AGENTS = {"eth": 1, "hotel": 1, "univ": 2, "zara1": 3, "zara2": 1}


def read_tracks(file: str | Path) -> tuple[Tensor, Tensor, Tensor]:
    """Frames, ids and positions in metres of a text file.

    A line is ``frame id Pedestrian ...`` with 17 fields, of which number 13 and 15 (from 0) are the coordinates on the ground, or
    ``frame id x y``. Separated by blanks, tabs or commas.

    Returns:
        Frame numbers divided by their common step ``(n,)``, ids ``(n,)`` and positions ``(n, 2)`` in float64.

    Raises:
        ValueError: If a line has another number of fields; names it.
    """
    frames, ids, places = [], [], []
    for number, line in enumerate(Path(file).read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.replace(",", " ").split()
        if not fields:
            continue
        if len(fields) == 17:
            x, y = fields[13], fields[15]
        elif len(fields) == 4:
            x, y = fields[2], fields[3]
        else:
            raise ValueError(f"{file}, line {number}, must have 17 fields (or 4: frame id x y), got {len(fields)}")
        frames.append(round(float(fields[0])))
        ids.append(round(float(fields[1])))
        places.append((float(x), float(y)))
    frame = torch.tensor(frames, dtype=torch.long)
    step = 0
    for gap in frame.unique().diff().tolist():
        step = math.gcd(step, gap)
    return (
        (frame - (frame.min() if frames else 0)) // max(step, 1),
        torch.tensor(ids, dtype=torch.long),
        torch.tensor(places, dtype=torch.float64),
    )


class ETHUCY(TrajectoryDataset):
    """Scenes around one pedestrian each, leave-one-out: the ego is agent 0, then its nearest neighbours, padded.

    A scene is a pedestrian seen for ``in_steps + out_steps`` frames in a row, with those others, seen as long, that are nearer than
    ``radius`` at the last observed step. The paper's numbers of agents leave most scenes without any neighbour: 1 means the ego alone.

    The files are those of ``datasets/eth_ucy`` in Khrylx/AgentFormer: ``<root>/<leave_one_out>/<sequence>.txt`` for the test set, and
    ``<sequence>_train.txt`` and ``<sequence>_val.txt`` beside it.

    Args:
        root: That folder.
        leave_one_out: The test set: ``"eth"``, ``"hotel"``, ``"univ"``, ``"zara1"`` or ``"zara2"``.
        split: ``"train"``, ``"val"`` or ``"test"``.
        in_steps: Steps of the past, 8 in the literature.
        out_steps: Steps of the future, 12 in the literature.
        radius: Of the neighbourhood, in metres.
        max_agents: Agents per scene, the ego included; the paper's number if not given.
        test_scale: Divide the positions of the test split by this. The official code uses 1.6 for ``eth`` alone (and multiplies the
            prediction afterwards), a correction for that data set; off by default.

    Raises:
        FileNotFoundError: If files are missing; says where to get them.
        ValueError: If an option is unknown or a file is not in the format.
    """

    def __init__(
        self,
        root: str | Path,
        leave_one_out: str,
        split: str = "train",
        *,
        in_steps: int = 8,
        out_steps: int = 12,
        radius: float = 5.0,
        max_agents: int | None = None,
        test_scale: float = 1.0,
    ) -> None:
        check_option("leave_one_out", leave_one_out, TEST)
        check_option("split", split, ("train", "val", "test"))
        agents = MAX_AGENTS[leave_one_out] if max_agents is None else max_agents
        check_positive_int("max_agents", agents)
        self.scale = test_scale if split == "test" else 1.0
        scenes, masks = [], []
        for file in _files(Path(root) / leave_one_out, TEST[leave_one_out], split):
            for scene, mask in _scenes(file, in_steps, out_steps, radius, agents):
                scenes.append(scene)
                masks.append(mask)
        size = (0, agents, in_steps + out_steps, 2)
        all_scenes = (torch.stack(scenes) if scenes else torch.zeros(size, dtype=torch.float64)) / self.scale
        mask = torch.stack(masks) if masks else torch.zeros(size[:2], dtype=torch.bool)
        all_scenes = all_scenes.float()
        super().__init__(all_scenes[:, :, :in_steps].contiguous(), all_scenes[:, :, in_steps:].contiguous(), mask)


def _files(folder: Path, test: tuple[str, ...], split: str) -> list[Path]:
    files = [folder / f"{name}.txt" for name in test] if split == "test" else sorted(folder.glob(f"*_{split}.txt"))
    missing = [str(file) for file in files if not file.is_file()]
    if missing or not files:
        raise FileNotFoundError(
            f"root must hold {', '.join(missing) or folder / f'*_{split}.txt'}; "
            "copy datasets/eth_ucy of Khrylx/AgentFormer to the folder you give as root"
        )
    return files


def _scenes(file: Path, in_steps: int, out_steps: int, radius: float, agents: int) -> Iterator[tuple[Tensor, Tensor]]:
    frame, ids, places = read_tracks(file)
    steps = in_steps + out_steps
    length = int(frame.max()) + 1 if len(frame) else 0
    names = ids.unique()
    table = torch.full((len(names), length, 2), torch.nan, dtype=torch.float64)
    table[torch.searchsorted(names, ids), frame] = places
    for start in range(length - steps + 1):
        window = table[:, start : start + steps]
        seen = window[~window.isnan().any(-1).any(-1)]
        last = seen[:, in_steps - 1]
        distance = torch.cdist(last, last, compute_mode="donot_use_mm_for_euclid_dist")
        for ego in range(len(seen)):
            order = distance[ego].clone()
            order[ego] = -1.0
            near = order.argsort(stable=True)[:agents]
            near = near[order[near] < radius]
            scene = torch.zeros(agents, steps, 2, dtype=torch.float64)
            scene[: len(near)] = seen[near]
            yield scene, torch.arange(agents) < len(near)
