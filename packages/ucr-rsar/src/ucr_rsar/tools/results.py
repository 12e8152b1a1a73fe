"""Result files of the DOTA server, and their evaluation against a folder of annotations."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geocore import planar
from geocore._checks import check_option
from obbkit.data import AnnotationError, read_dota_txt
from obbkit.metrics import COCO_THRESHOLDS, RotatedMAP

__all__ = ["evaluate_results", "read_results"]


def read_results(folder: str | Path, classes: Sequence[str], *, errors: str = "raise") -> tuple[dict[str, dict[str, Tensor]], int]:
    """Detections of files ``Task1_<class>.txt`` with lines ``image score x1 y1 ... y4``.

    Args:
        folder: Folder.
        classes: Names, in order of the labels; a file must be there for each.
        errors: ``"raise"``, or ``"skip"`` bad lines and count them.

    Returns:
        For each image ``boxes (k, 5)``, ``scores`` and ``labels``, and the number of lines left out.

    Raises:
        FileNotFoundError: If a file is missing.
        AnnotationError: For a bad line; the message names it.
    """
    check_option("errors", errors, ("raise", "skip"))
    rows: dict[str, list[tuple[list[float], float, int]]] = {}
    skipped = 0
    for label, name in enumerate(classes):
        path = Path(folder) / f"Task1_{name}.txt"
        if not path.is_file():
            raise FileNotFoundError(f"result file {path} is missing; a class without detections has an empty file")
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            columns = line.split()
            if not columns:
                continue
            try:
                if len(columns) != 10:
                    raise ValueError(f"expected an image, a score and 8 coordinates, got {len(columns)} columns")
                values = [float(v) for v in columns[1:]]
                if not all(math.isfinite(v) for v in values):
                    raise ValueError(f"numbers must be finite, got {line[:120]!r}")
            except ValueError as error:
                if errors == "raise":
                    raise AnnotationError(f"{path}, line {number}: {error}") from error
                skipped += 1
                continue
            rows.setdefault(columns[0], []).append((values[1:], values[0], label))
    out = {}
    for image, found in rows.items():
        corners = torch.tensor([f[0] for f in found], dtype=torch.float64).reshape(-1, 4, 2)
        out[image] = {
            "boxes": planar.canonicalize(planar.min_area_rect(corners), "le90").float(),
            "scores": torch.tensor([f[1] for f in found]),
            "labels": torch.tensor([f[2] for f in found]),
        }
    return out, skipped


def evaluate_results(
    results: str | Path,
    annotations: str | Path,
    classes: Sequence[str],
    *,
    eval_mode: str = "11points",
    iou_thrs: Sequence[float] = COCO_THRESHOLDS,
    difficulty_max: int | None = None,
    errors: str = "raise",
) -> dict[str, Any]:
    """``RotatedMAP`` of result files.

    Args:
        results: Folder of ``Task1_<class>.txt``.
        annotations: Folder of DOTA annotations; the images are those that have a file there.
        classes: Names.
        eval_mode, iou_thrs: As ``RotatedMAP``.
        difficulty_max: Harder objects do not count.
        errors: As ``read_results``, for both.

    Returns:
        What ``RotatedMAP.compute`` gives, and ``images`` and ``skipped`` lines.

    Raises:
        FileNotFoundError: If a folder or file is missing.
        AnnotationError: For a bad line or an unknown class.
        ValueError: If there are detections on images without annotations, which would be lost.
    """
    folder = Path(annotations)
    if not folder.is_dir():
        raise FileNotFoundError(f"annotation folder {folder} is missing")
    found, skipped = read_results(results, classes, errors=errors)
    paths = sorted(folder.glob("*.txt"))
    if not paths:
        raise FileNotFoundError(f"annotation folder {folder} must hold .txt files, got none")
    stray = sorted(set(found) - {path.stem for path in paths})
    if stray:
        raise ValueError(f"results must be on the images of {folder}, but {len(stray)} are on others, the first on {stray[0]!r}")
    metric = RotatedMAP(iou_thrs, eval_mode, len(classes))
    none = {"boxes": torch.zeros(0, 5), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}
    for path in paths:
        real = read_dota_txt(path, errors=errors)
        skipped += real.skipped
        unknown = sorted(set(real.names) - set(classes))
        if unknown and errors == "raise":
            raise AnnotationError(f"{path}: class {unknown[0]!r} is not one of {', '.join(classes)}")
        kept = [k for k, name in enumerate(real.names) if name in classes]
        skipped += len(real.names) - len(kept)
        target = {
            "boxes": planar.canonicalize(planar.min_area_rect(real.polygons[kept]), "le90").float() if kept else torch.zeros(0, 5),
            "labels": torch.tensor([classes.index(real.names[k]) for k in kept], dtype=torch.int64),
            "ignore": torch.zeros(len(kept), dtype=torch.bool) if difficulty_max is None else real.difficulty[kept] > difficulty_max,
        }
        metric.update([found.get(path.stem, none)], [target])
    return metric.compute() | {"images": len(paths), "skipped": skipped}
