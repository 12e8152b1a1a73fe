"""One picture of annotations, and the formats it is read from and written to."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geocore import planar
from geocore._checks import check_option
from obbkit.data import AnnotationError, read_dior_xml, read_dota_txt, to_coco, to_yolo_obb, write_dota_txt

__all__ = ["FORMATS", "READABLE", "Labels", "convert", "image_sizes", "read_labels", "write_labels"]

FORMATS = ("dota", "yolo-obb", "yolo", "xyxy", "coco")
READABLE = (*FORMATS, "dior")
"""``dota``: corners and class; ``yolo-obb``: class and relative corners; ``yolo``: class and relative horizontal box; ``xyxy``: horizontal
box in pixels and class; ``coco``: one JSON file, oriented where it has ``rbox`` or a quadrilateral ``segmentation``; to read
only ``dior``: XML with ``robndbox``, as DIOR-R has."""
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")


@dataclass
class Labels:
    """Objects of one image.

    Args:
        corners: ``(n, 4, 2)`` float64, in pixels.
        names: Class of each.
        difficulty: Of each.
        horizontal: Whether the source had horizontal boxes only.
        file_name: Of the image, if the source says it.
        size: Height and width, if known.
        skipped: Entries that were left out.
        problems: What was wrong with them.
    """

    corners: Tensor
    names: list[str]
    difficulty: list[int]
    horizontal: bool = False
    file_name: str = ""
    size: tuple[int, int] | None = None
    skipped: int = 0
    problems: list[str] = field(default_factory=list)

    def boxes(self) -> Tensor:
        """Rectangles of least area, ``(n, 5)`` le90 float32."""
        return planar.canonicalize(planar.min_area_rect(self.corners), "le90").float() if len(self.names) else torch.zeros(0, 5)

    def upright(self) -> Tensor:
        """Upright boxes around the corners, ``(n, 4)``."""
        if not self.names:
            return torch.zeros(0, 4)
        return torch.cat([self.corners.amin(-2), self.corners.amax(-2)], -1).float()


def image_sizes(folder: str | Path) -> dict[str, tuple[int, int]]:
    """Height and width of each image of a folder, by name without suffix; only the headers are read.

    Raises:
        FileNotFoundError: If there is no such folder.
        ImportError: If pillow is missing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"image folder {folder} is missing")
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("reading images needs pillow: pip install 'ucr-rsar[images]'") from error
    sizes = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in _SUFFIXES:
            with Image.open(path) as image:
                sizes[path.stem] = (image.height, image.width)
    return sizes


def _rect(x1: float, y1: float, x2: float, y2: float) -> list[float]:
    if not all(math.isfinite(v) for v in (x1, y1, x2, y2)):
        raise ValueError(f"coordinates must be finite, got {(x1, y1, x2, y2)}")
    if not (x2 > x1 and y2 > y1):
        raise ValueError(f"boxes must have x1 < x2 and y1 < y2, got {(x1, y1, x2, y2)}")
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def _class(text: str, classes: Sequence[str]) -> str:
    number = int(text)
    if not 0 <= number < len(classes):
        raise ValueError(f"class must be a number below {len(classes)}, got {number}")
    return classes[number]


def _row(kind: str, columns: list[str], classes: Sequence[str], size: tuple[int, int]) -> tuple[list[float], str]:
    height, width = size
    if kind == "xyxy":
        if len(columns) != 5:
            raise ValueError(f"expected x1 y1 x2 y2 and a class, got {len(columns)} columns")
        name = columns[4]
        if classes and name not in classes:
            raise ValueError(f"class {name!r} is not one of {', '.join(classes)}")
        x1, y1, x2, y2 = (float(v) for v in columns[:4])
        return _rect(x1, y1, x2, y2), name
    want = 9 if kind == "yolo-obb" else 5
    if len(columns) != want:
        raise ValueError(f"expected a class and {want - 1} numbers, got {len(columns)} columns")
    name = _class(columns[0], classes)
    values = [float(v) for v in columns[1:]]
    if kind == "yolo":
        x, y, w, h = values
        return _rect((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height), name
    corners = [v * (width if k % 2 == 0 else height) for k, v in enumerate(values)]
    if not all(math.isfinite(v) for v in corners):
        raise ValueError(f"coordinates must be finite, got {' '.join(columns[1:])!r}")
    return corners, name


def _read_text(path: Path, kind: str, classes: Sequence[str], size: tuple[int, int], errors: str) -> Labels:
    rows, names, problems = [], [], []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
        columns = line.replace(",", " ").split()
        if not columns:
            continue
        try:
            corners, name = _row(kind, columns, classes, size)
        except ValueError as error:
            problems.append(f"{path}, line {number}: {error}")
            if errors == "raise":
                raise AnnotationError(problems[-1]) from error
            continue
        rows.append(corners)
        names.append(name)
    corners = torch.tensor(rows, dtype=torch.float64).reshape(-1, 4, 2)
    return Labels(corners, names, [0] * len(names), kind != "yolo-obb", size=size, skipped=len(problems), problems=problems)


def _coco_object(entry: Mapping[str, Any], categories: Mapping[int, str]) -> tuple[list[float], str, bool]:
    if entry.get("category_id") not in categories:
        raise ValueError(f"category_id {entry.get('category_id')!r} is not among the categories")
    name = categories[entry["category_id"]]
    if "rbox" in entry:
        box = torch.tensor([float(v) for v in entry["rbox"]], dtype=torch.float64)
        if tuple(box.shape) != (5,) or not bool(torch.isfinite(box).all()):
            raise ValueError(f"rbox must have 5 finite numbers, got {entry['rbox']}")
        return planar.obb_to_corners(box).flatten().tolist(), name, False
    outline = entry.get("segmentation")
    if isinstance(outline, list) and len(outline) == 1 and len(outline[0]) == 8:
        corners = [float(v) for v in outline[0]]
        if not all(math.isfinite(v) for v in corners):
            raise ValueError(f"segmentation must be finite, got {corners}")
        return corners, name, False
    if len(entry.get("bbox", ())) != 4:
        raise ValueError(f"bbox must have 4 numbers, got {entry.get('bbox')}")
    x, y, w, h = (float(v) for v in entry["bbox"])
    return _rect(x, y, x + w, y + h), name, True


def _read_coco(path: Path, errors: str) -> dict[str, Labels]:
    if not path.is_file():
        raise FileNotFoundError(f"annotation file {path} is missing")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        images, entries = document["images"], document["annotations"]
        categories = {c["id"]: str(c["name"]).replace(" ", "-") for c in document["categories"]}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise AnnotationError(f"{path}: expected JSON with images, annotations and categories; {error!r}") from error
    found: dict[str, Labels] = {}
    rows: dict[str, list[list[float]]] = {}
    by_id = {}
    for image in images:
        stem = Path(image["file_name"]).stem
        size = (int(image["height"]), int(image["width"])) if "height" in image and "width" in image else None
        found[stem] = Labels(torch.zeros(0, 4, 2, dtype=torch.float64), [], [], file_name=image["file_name"], size=size)
        rows[stem], by_id[image["id"]] = [], stem
    for number, entry in enumerate(entries):
        stem = by_id.get(entry.get("image_id"), "")
        try:
            if not stem:
                raise ValueError(f"image_id {entry.get('image_id')!r} is not among the images")
            corners, name, horizontal = _coco_object(entry, categories)
        except (ValueError, TypeError) as error:
            text = f"{path}, annotation {number}: {error}"
            if errors == "raise":
                raise AnnotationError(text) from error
            target = found[stem] if stem else next(iter(found.values()), None)
            if target is not None:
                target.skipped += 1
                target.problems.append(text)
            continue
        rows[stem].append(corners)
        found[stem].names.append(name)
        found[stem].difficulty.append(0)
        found[stem].horizontal |= horizontal
    for stem, labels in found.items():
        labels.corners = torch.tensor(rows[stem], dtype=torch.float64).reshape(-1, 4, 2)
    return found


def read_labels(
    source: str | Path,
    kind: str,
    *,
    classes: Sequence[str] = (),
    images: str | Path | Mapping[str, tuple[int, int]] | None = None,
    errors: str = "raise",
) -> dict[str, Labels]:
    """Annotations of all images, by name without suffix.

    Args:
        source: Folder of text files, or the JSON file of ``"coco"``.
        kind: One of ``READABLE``.
        classes: Names; needed for ``"yolo"`` and ``"yolo-obb"``, which have numbers.
        images: Folder of the images, or their heights and widths; needed for the same two.
        errors: ``"raise"``, or ``"skip"`` bad entries and count them.

    Raises:
        FileNotFoundError: If a folder or file, or the size of an image, is missing.
        AnnotationError: For a bad entry; the message names file and line.
        ValueError: If an option is unknown or missing.
    """
    check_option("kind", kind, READABLE)
    check_option("errors", errors, ("raise", "skip"))
    source = Path(source)
    if kind == "coco":
        return _read_coco(source, errors)
    if not source.is_dir():
        raise FileNotFoundError(f"annotation folder {source} is missing")
    relative = kind in ("yolo", "yolo-obb")
    if relative and (not classes or images is None):
        raise ValueError(f"classes and images must be given for {kind!r}, whose files have neither names nor pixels")
    sizes = dict(images) if isinstance(images, Mapping) else image_sizes(images) if images is not None else {}
    out = {}
    suffix = "xml" if kind == "dior" else "txt"
    for path in sorted(source.glob(f"*.{suffix}")):
        if path.stem == "classes":
            continue
        if relative and path.stem not in sizes:
            raise FileNotFoundError(f"image of {path} is missing, so that its size is not known")
        size = sizes.get(path.stem)
        if kind in ("dota", "dior"):
            found = (read_dota_txt if kind == "dota" else read_dior_xml)(path, errors=errors)
            labels = Labels(found.polygons, found.names, found.difficulty.tolist(), skipped=found.skipped, size=size)
        else:
            labels = _read_text(path, kind, classes, size or (1, 1), errors)
            labels.size = size
        out[path.stem] = labels
    if not out:
        raise FileNotFoundError(f"annotation folder {source} must hold .{suffix} files, got none")
    return out


def _write_yolo(path: Path, labels: Labels, classes: Sequence[str], size: tuple[int, int]) -> None:
    height, width = size
    rows = []
    for (x1, y1, x2, y2), name in zip(labels.upright().tolist(), labels.names, strict=True):
        numbers = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
        rows.append(f"{classes.index(name)} " + " ".join(f"{v:.6f}" for v in numbers) + "\n")
    path.write_text("".join(rows), encoding="utf-8")


def _write_xyxy(path: Path, labels: Labels) -> None:
    rows = [" ".join(f"{v:.2f}" for v in box) + f" {name}\n" for box, name in zip(labels.upright().tolist(), labels.names, strict=True)]
    path.write_text("".join(rows), encoding="utf-8")


def write_labels(labels: Mapping[str, Labels], target: str | Path, kind: str, *, classes: Sequence[str]) -> None:
    """Write annotations; ``"yolo"`` and ``"xyxy"`` get the upright boxes around the corners.

    Args:
        labels: From ``read_labels``.
        target: Folder, or the JSON file of ``"coco"``.
        kind: One of ``FORMATS``.
        classes: Names, in order of the labels.

    Raises:
        ValueError: If a class is not listed, or the size of an image is needed and not known.
    """
    check_option("kind", kind, FORMATS)
    for stem, entry in labels.items():
        unknown = sorted(set(entry.names) - set(classes))
        if unknown:
            raise ValueError(f"classes must list {', '.join(unknown)}, which image {stem!r} has; got {', '.join(classes)}")
        if entry.size is None and kind in ("coco", "yolo", "yolo-obb"):
            raise ValueError(f"the size of image {stem!r} must be known to write {kind!r}; give the folder of the images")
    target = Path(target)
    (target.parent if kind == "coco" else target).mkdir(parents=True, exist_ok=True)
    if kind == "coco":
        images = [
            {"file_name": e.file_name or f"{stem}.png", "height": (e.size or (0, 0))[0], "width": (e.size or (0, 0))[1]}
            for stem, e in labels.items()
        ]
        targets = [{"boxes": e.boxes(), "labels": torch.tensor([classes.index(n) for n in e.names])} for e in labels.values()]
        target.write_text(json.dumps(to_coco(images, targets, classes)) + "\n", encoding="utf-8")
        return
    for stem, entry in labels.items():
        path = target / f"{stem}.txt"
        if kind == "dota":
            write_dota_txt(path, entry.corners, entry.names, entry.difficulty)
        elif kind == "yolo-obb":
            to_yolo_obb(path, entry.boxes(), [classes.index(n) for n in entry.names], entry.size or (1, 1))
        elif kind == "yolo":
            _write_yolo(path, entry, classes, entry.size or (1, 1))
        else:
            _write_xyxy(path, entry)


def convert(
    source: str | Path,
    kind: str,
    target: str | Path,
    to: str,
    *,
    classes: Sequence[str] = (),
    images: str | Path | None = None,
    errors: str = "raise",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, int]:
    """Read annotations in one format and write them in another.

    Args:
        source, kind: As ``read_labels``.
        target, to: As ``write_labels``.
        classes: Names; all found, sorted, if not given and the source has names.
        images: Folder of the images, where sizes are needed.
        errors: As ``read_labels``.
        progress: Called once all is written.

    Returns:
        Numbers of ``images``, ``objects`` and ``skipped`` entries.

    Raises:
        ValueError, FileNotFoundError: As the functions it calls.
    """
    labels = read_labels(source, kind, classes=classes, images=images, errors=errors)
    if images is not None:
        sizes = image_sizes(images)
        for stem, entry in labels.items():
            entry.size = entry.size or sizes.get(stem)
    names = list(classes) or sorted({name for entry in labels.values() for name in entry.names})
    write_labels(labels, target, to, classes=names)
    if progress is not None:
        progress(len(labels), len(labels))
    return {
        "images": len(labels),
        "objects": sum(len(e.names) for e in labels.values()),
        "skipped": sum(e.skipped for e in labels.values()),
    }
