"""DOTA text files: one object a line, ``x1 y1 x2 y2 x3 y3 x4 y4 class [difficulty]``."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from geocore._checks import check_option, check_trailing
from geocore.planar import is_convex, is_simple, obb_to_corners

__all__ = ["AnnotationError", "Annotations", "read_dota_txt", "scan_dota_txt", "write_dota_results", "write_dota_txt"]

_HEADERS = ("imagesource:", "gsd:", "acquisition dates:")


class AnnotationError(ValueError):
    """A line that is no annotation; the message names file and line."""


class Annotations(NamedTuple):
    """Objects of an image.

    Args:
        polygons: Corners as written, ``(n, 4, 2)`` float64, in pixels; they may lie outside of the image.
        names: Class of each object.
        difficulty: Int64 ``(n,)``, 0 where a line has none.
        skipped: Lines left out with ``errors="skip"``.
    """

    polygons: Tensor
    names: list[str]
    difficulty: Tensor
    skipped: int


def read_dota_txt(path: str | Path, *, errors: str = "raise") -> Annotations:
    """Read a DOTA annotation file.

    Blank lines and the headers ``imagesource:`` and ``gsd:`` are passed over; Windows line ends and commas between columns are fine. An
    empty file has no objects.

    Args:
        path: File.
        errors: ``"raise"``, or ``"skip"`` lines that are no annotation and count them.

    Raises:
        FileNotFoundError: If there is no such file.
        AnnotationError: For a line with a wrong number of columns, numbers that are none or not finite, a difficulty that is no integer,
            or a quadrilateral that crosses itself, is not convex, or has no area.
    """
    check_option("errors", errors, ("raise", "skip"))
    found, _, problems = scan_dota_txt(path)
    if problems and errors == "raise":
        raise AnnotationError(f"{path}, line {problems[0][0]}: {problems[0][1]}")
    return found


def scan_dota_txt(path: str | Path) -> tuple[Annotations, list[int], list[tuple[int, str]]]:
    """Read a DOTA annotation file with everything that is wrong in it.

    Args:
        path: File.

    Returns:
        What ``read_dota_txt`` with ``errors="skip"`` gives, the number of the line of each object, and of each bad line number and fault.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"annotation file {path} is missing")
    rows, names, difficulty, places = [], [], [], []
    problems: list[tuple[int, str]] = []
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            text = line.strip()
            if not text or text.lower().startswith(_HEADERS):
                continue
            try:
                corners, name, hard = _parse(text)
            except ValueError as error:
                problems.append((number, str(error)))
                continue
            rows.append(corners)
            names.append(name)
            difficulty.append(hard)
            places.append(number)
    polygons = torch.tensor(rows, dtype=torch.float64).reshape(-1, 4, 2)
    bad = _misshapen(polygons)
    if bad.any():
        shape = "corners must be those of a convex quadrilateral, got"
        problems = sorted([*problems, *((places[i], f"{shape} {rows[i]}") for i in bad.nonzero()[:, 0].tolist())])
        keep = (~bad).nonzero()[:, 0].tolist()
        polygons = polygons[keep]
        names, difficulty, places = ([column[i] for i in keep] for column in (names, difficulty, places))
    return Annotations(polygons, names, torch.tensor(difficulty, dtype=torch.int64), len(problems)), places, problems


def _parse(text: str) -> tuple[list[float], str, int]:
    columns = text.replace(",", " ").split()
    if len(columns) not in (9, 10):
        raise ValueError(f"expected 8 coordinates, a class and perhaps a difficulty, got {len(columns)} columns: {text[:120]!r}")
    try:
        corners = [float(value) for value in columns[:8]]
    except ValueError:
        raise ValueError(f"expected 8 numbers before the class, got {' '.join(columns[:8])!r}") from None
    if not all(math.isfinite(value) for value in corners):
        raise ValueError(f"coordinates must be finite, got {' '.join(columns[:8])!r}")
    hard = columns[9] if len(columns) == 10 else "0"
    if not hard.lstrip("+-").isdigit():
        raise ValueError(f"difficulty must be an integer, got {hard!r}")
    return corners, columns[8], int(hard)


def _misshapen(polygons: Tensor) -> Tensor:
    """Quadrilaterals that cross themselves, are not convex, or are points or lines."""
    if len(polygons) == 0:
        return torch.zeros(0, dtype=torch.bool)
    d = polygons - polygons[:, :1]
    area = 0.5 * (d[:, 1:-1, 0] * d[:, 2:, 1] - d[:, 1:-1, 1] * d[:, 2:, 0]).sum(-1).abs()
    return (area <= 0) | ~is_convex(polygons) | ~is_simple(polygons)


def write_dota_txt(
    path: str | Path,
    boxes: Tensor,
    names: Sequence[str],
    difficulty: Sequence[int] | Tensor | None = None,
) -> None:
    """Write objects as ``x1 y1 ... class difficulty``, coordinates with two decimals.

    Args:
        path: File; replaced.
        boxes: Boxes ``(n, 5)`` or corners ``(n, 4, 2)``.
        names: Class of each; without spaces.
        difficulty: Of each, 0 by default.

    Raises:
        ValueError: If lengths or shapes do not fit, a class is no single word, or a coordinate is not finite.
    """
    corners = _corners(boxes)
    hard = [0] * len(corners) if difficulty is None else [int(value) for value in difficulty]
    if not len(corners) == len(names) == len(hard):
        raise ValueError(f"boxes, names and difficulty must have one length, got {len(corners)}, {len(names)} and {len(hard)}")
    for name in names:
        if not name or name.split() != [name] or "," in name:
            raise ValueError(f"names must be single words, got {name!r}")
    rows = [
        " ".join(f"{value:.2f}" for value in quad) + f" {name} {value}"
        for quad, name, value in zip(corners.flatten(1).tolist(), names, hard, strict=True)
    ]
    Path(path).write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


def _corners(boxes: Tensor) -> Tensor:
    boxes = boxes.detach().cpu().double()
    if boxes.shape[-2:] != (4, 2) or boxes.ndim != 3:
        check_trailing("boxes", boxes, (None, 5))
        boxes = obb_to_corners(boxes)
    if not bool(torch.isfinite(boxes).all()):
        raise ValueError("boxes must be finite, got NaN or infinity")
    return boxes


def write_dota_results(folder: str | Path, results: Mapping[str, Mapping[str, Tensor]], classes: Sequence[str]) -> list[Path]:
    """Write detections for the DOTA server: ``Task1_<class>.txt`` with lines ``image score x1 y1 ... y4``.

    Args:
        folder: Made if it does not exist.
        results: For each image ``boxes (k, 5)``, ``scores`` and ``labels``.
        classes: Names of the labels.

    Returns:
        The files, one a class, empty ones included.

    Raises:
        ValueError: If a label has no name or a shape is wrong.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[list[str]] = [[] for _ in classes]
    for image, found in results.items():
        corners = _corners(found["boxes"]).flatten(1).tolist()
        for quad, score, label in zip(corners, found["scores"].tolist(), found["labels"].tolist(), strict=True):
            if not 0 <= label < len(classes):
                raise ValueError(f"labels must be below {len(classes)}, got {label} for image {image!r}")
            lines[label].append(f"{image} {score:.6f} " + " ".join(f"{value:.2f}" for value in quad) + "\n")
    paths = []
    for name, rows in zip(classes, lines, strict=True):
        paths.append(folder / f"Task1_{name}.txt")
        paths[-1].write_text("".join(rows), encoding="utf-8")
    return paths
