"""Every bad line of an annotation folder, and what is in it."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import pi
from pathlib import Path
from typing import Any, NamedTuple

import torch

from obbkit.data import Annotations, scan_dota_txt
from ucr_rsar.tools.formats import Labels, image_sizes

__all__ = ["Problem", "statistics", "validate"]


class Problem(NamedTuple):
    """Something wrong.

    Args:
        file: Path.
        line: Number of the line, from 1; 0 for the whole file.
        message: What is wrong.
    """

    file: str
    line: int
    message: str


def _file_problems(path: Path, classes: Sequence[str]) -> tuple[list[Problem], Annotations, list[int]]:
    """Problems of one DOTA file, its objects and their lines."""
    found, lines, bad = scan_dota_txt(path)
    problems = [Problem(str(path), number, text) for number, text in bad]
    seen: dict[tuple[Any, ...], int] = {}
    for corners, name, number in zip(found.polygons.flatten(1).tolist(), found.names, lines, strict=True):
        if classes and name not in classes:
            problems.append(Problem(str(path), number, f"class {name!r} is not one of {', '.join(classes)}"))
        key = (*corners, name)
        if key in seen:
            problems.append(Problem(str(path), number, f"the same object as in line {seen[key]}"))
        seen.setdefault(key, number)
    return problems, found, lines


def validate(
    annotations: str | Path,
    *,
    images: str | Path | None = None,
    classes: Sequence[str] = (),
    margin: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Problem]:
    """All problems of a folder of DOTA annotations.

    Lines that are no annotation, unknown classes, repeated objects, images without annotations and annotations without image; with
    ``margin`` also corners farther outside of the image than that. An object that reaches over the edge is otherwise fine.

    Args:
        annotations: Folder of text files.
        images: Folder of the images.
        classes: Names; any if not given.
        margin: Pixels.
        progress: Called after each file.

    Raises:
        FileNotFoundError: If a folder is missing, or holds no annotations.
    """
    folder = Path(annotations)
    if not folder.is_dir():
        raise FileNotFoundError(f"annotation folder {folder} is missing")
    sizes = image_sizes(images) if images is not None else None
    paths = sorted(folder.glob("*.txt"))
    if not paths:
        raise FileNotFoundError(f"annotation folder {folder} must hold .txt files, got none")
    problems: list[Problem] = []
    for k, path in enumerate(paths):
        bad, found, lines = _file_problems(path, classes)
        problems += bad
        if sizes is not None and path.stem not in sizes:
            problems.append(Problem(str(path), 0, f"there is no image {path.stem!r} in {images}"))
        elif sizes is not None and margin is not None:
            height, width = sizes[path.stem]
            for number, corners in zip(lines, found.polygons, strict=True):
                low, high = corners.amin(0), corners.amax(0)
                if min(low.tolist()) < -margin or high[0] > width + margin or high[1] > height + margin:
                    text = f"corners reach from {low.tolist()} to {high.tolist()}, outside of the image of {width} x {height}"
                    problems.append(Problem(str(path), number, text))
        if progress is not None:
            progress(k + 1, len(paths))
    if sizes is not None:
        have = {path.stem for path in paths}
        problems += [Problem(str(images), 0, f"image {stem!r} has no annotation file in {folder}") for stem in sizes if stem not in have]
    return sorted(problems)


def statistics(labels: Mapping[str, Labels]) -> dict[str, Any]:
    """Counts by class, and quantiles of sizes, aspects and angles.

    Args:
        labels: From ``read_labels``.

    Returns:
        ``images``, ``empty`` images, ``objects``, ``per_class`` (count, images, and the 5, 50 and 95 % quantiles of long side, short side
        and aspect), ``angles`` (share of the objects in 12 sectors of 15 degrees from -90), ``square`` (share with aspect above 0.9, whose
        angle means little), ``objects_per_image`` (largest).
    """
    boxes = torch.cat([entry.boxes() for entry in labels.values()] or [torch.zeros(0, 5)])
    names = [name for entry in labels.values() for name in entry.names]
    counts = Counter(names)
    with_class = Counter(name for entry in labels.values() for name in set(entry.names))
    levels = torch.tensor([0.05, 0.5, 0.95])
    table: dict[str, Any] = {}
    for name, count in sorted(counts.items()):
        own = boxes[torch.tensor([n == name for n in names])]
        long, short = own[:, 2], own[:, 3]
        table[name] = {
            "objects": count,
            "images": with_class[name],
            "long side": long.quantile(levels).tolist(),
            "short side": short.quantile(levels).tolist(),
            "aspect": (short / long.clamp(min=1e-6)).quantile(levels).tolist(),
        }
    sector = ((boxes[:, 4] + pi / 2) / (pi / 12)).long().clamp(0, 11)
    total = max(len(boxes), 1)
    return {
        "images": len(labels),
        "empty": sum(not entry.names for entry in labels.values()),
        "objects": len(boxes),
        "objects_per_image": max((len(entry.names) for entry in labels.values()), default=0),
        "skipped": sum(entry.skipped for entry in labels.values()),
        "per_class": table,
        "angles": (torch.bincount(sector, minlength=12) / total).tolist(),
        "square": float((boxes[:, 3] > 0.9 * boxes[:, 2]).sum()) / total,
    }
