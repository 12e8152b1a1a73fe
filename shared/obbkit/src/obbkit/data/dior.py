"""DIOR-R annotation files: XML in the way of VOC, the corners of an object in ``robndbox``, or a horizontal box in ``bndbox``."""

import math
import xml.etree.ElementTree as ET
from pathlib import Path

import torch

from geocore._checks import check_option
from obbkit.data.dota import AnnotationError, Annotations, _misshapen

__all__ = ["read_dior_xml"]

_CORNERS = [f"{axis}_{corner}" for corner in ("left_top", "right_top", "right_bottom", "left_bottom") for axis in "xy"]


def read_dior_xml(path: str | Path, *, errors: str = "raise") -> Annotations:
    """Read a DIOR-R annotation file.

    Args:
        path: File. Of an object ``name``, ``robndbox`` with ``x_left_top``, ``y_left_top`` and so on, or else ``bndbox`` with ``xmin``,
            ``ymin``, ``xmax``, ``ymax``, and ``difficult``, 0 if there is none, are read.
        errors: ``"raise"``, or ``"skip"`` objects that are no annotation and count them.

    Returns:
        As ``read_dota_txt``; a file without objects has none.

    Raises:
        FileNotFoundError: If there is no such file.
        AnnotationError: If the file is no XML, or for an object without name or box, numbers that are none or not finite, or a
            quadrilateral that crosses itself, is not convex, or has no area. The message names the file and the number of the object.
    """
    check_option("errors", errors, ("raise", "skip"))
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"annotation file {path} is missing")
    try:
        root = ET.fromstring(path.read_bytes())
    except (ET.ParseError, ValueError, LookupError) as error:  # the last two for an encoding that is unknown
        raise AnnotationError(f"{path}: no XML: {error}") from None
    rows, names, difficulty, skipped = [], [], [], 0
    for number, entry in enumerate(root.iter("object"), 1):
        try:
            corners, name, hard = _object(entry)
        except ValueError as error:
            if errors == "raise":
                raise AnnotationError(f"{path}, object {number}: {error}") from None
            skipped += 1
            continue
        rows.append(corners)
        names.append(name)
        difficulty.append(hard)
    return Annotations(
        torch.tensor(rows, dtype=torch.float64).reshape(-1, 4, 2), names, torch.tensor(difficulty, dtype=torch.int64), skipped
    )


def _object(entry: ET.Element) -> tuple[list[float], str, int]:
    name = (entry.findtext("name") or "").strip()
    if not name:
        raise ValueError("name is missing")
    turned, upright = entry.find("robndbox"), entry.find("bndbox")
    box, keys = (turned, _CORNERS) if turned is not None else (upright, ["xmin", "ymin", "xmax", "ymax"])
    if box is None:
        raise ValueError("robndbox or bndbox is missing")
    texts = [box.findtext(key) for key in keys]
    try:
        values = [float(text) for text in texts if text is not None]
    except ValueError:
        raise ValueError(f"expected numbers in {box.tag}, got {texts}") from None
    if len(values) < len(keys) or not all(math.isfinite(value) for value in values):
        raise ValueError(f"expected {len(keys)} finite numbers in {box.tag}, got {texts}")
    if turned is None:
        x1, y1, x2, y2 = values
        values = [x1, y1, x2, y1, x2, y2, x1, y2]
    if _misshapen(torch.tensor(values, dtype=torch.float64).reshape(1, 4, 2)).item():
        raise ValueError(f"corners must be those of a convex quadrilateral, got {values}")
    hard = (entry.findtext("difficult") or "0").strip()
    if not hard.lstrip("+-").isdigit():
        raise ValueError(f"difficult must be an integer, got {hard!r}")
    return values, name, int(hard)
