"""Image folders with DOTA annotations."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from geocore._checks import check_option
from geocore.planar import canonicalize, min_area_rect
from obbkit.data.dota import AnnotationError, scan_dota_txt

__all__ = ["RSAR_CLASSES", "DOTADataset", "RSARDataset", "collate"]

RSAR_CLASSES = ("ship", "aircraft", "car", "tank", "bridge", "harbor")
_IMAGES = ("images", "JPEGImages", "img")
_LABELS = ("labelTxt", "annfiles", "labels", "annotations")
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")


class DOTADataset(Dataset[tuple[Tensor, dict[str, Any]]]):
    """Images with oriented boxes, in the layout of DOTA: ``root/images/*`` and ``root/labelTxt/*.txt`` (or ``annfiles``), names alike.

    Quadrilaterals become the rectangles of least area around them. ``supervision="hbb"`` gives the upright boxes around the corners and
    nothing else, so that no angle can leak.

    Args:
        root: Folder.
        classes: Names, in order of the labels.
        supervision: ``"obb"``: boxes ``(n, 5)``, le90; ``"hbb"``: boxes ``(n, 4)`` as ``x1, y1, x2, y2``.
        difficulty_max: Objects harder than this are marked ``ignore``.
        missing: For images without annotation file: ``"error"``, or ``"empty"`` for no objects.
        unknown: For classes not listed: ``"error"`` or ``"skip"``, counted in ``skipped``.
        errors: For lines that are no annotation: ``"raise"`` or ``"skip"``, counted in ``skipped``.

    Raises:
        FileNotFoundError: If a folder, the images, or with ``missing="error"`` an annotation file is missing; the message names it.
        ValueError: If an option is unknown.
    """

    def __init__(
        self,
        root: str | Path,
        classes: Sequence[str],
        supervision: str = "obb",
        difficulty_max: int | None = None,
        missing: str = "error",
        *,
        unknown: str = "error",
        errors: str = "raise",
    ) -> None:
        check_option("supervision", supervision, ("hbb", "obb"))
        check_option("missing", missing, ("error", "empty"))
        check_option("unknown", unknown, ("error", "skip"))
        check_option("errors", errors, ("raise", "skip"))
        self.root, self.classes = Path(root), tuple(classes)
        self.supervision, self.difficulty_max, self.missing = supervision, difficulty_max, missing
        self.unknown, self.errors = unknown, errors
        self._skipped: dict[int, int] = {}
        images = self._folder(_IMAGES)
        self.labels = self._folder(_LABELS)
        self.images = sorted(p for p in images.iterdir() if p.suffix.lower() in _SUFFIXES)
        if not self.images:
            raise FileNotFoundError(f"{images} must hold images ({', '.join(_SUFFIXES)}), got none")
        names = [p.stem for p in self.images]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"images must have different names, got {twice!r} with several suffixes in {images}")
        if missing == "error":
            absent = [name for name in names if not (self.labels / f"{name}.txt").is_file()]
            if absent:
                raise FileNotFoundError(
                    f"{self.labels} lacks the annotations of {len(absent)} of {len(names)} images, the first is {absent[0]!r}; "
                    "missing='empty' takes them as images without objects"
                )

    def _folder(self, names: Sequence[str]) -> Path:
        for name in names:
            if (self.root / name).is_dir():
                return self.root / name
        raise FileNotFoundError(f"{self.root} must hold one of the folders {', '.join(names)}")

    @property
    def skipped(self) -> int:
        """Entries left out of the annotations read so far, in this process; each image counts once."""
        return sum(self._skipped.values())

    def scan(self, progress: Callable[[int, int], None] | None = None) -> int:
        """Read all annotations, so that what is wrong shows before a training and not in the middle of it.

        Args:
            progress: Called with the files read and all.

        Returns:
            Number of entries left out.

        Raises:
            AnnotationError: As ``target``.
        """
        for index in range(len(self)):
            self.target(index)
            if progress is not None:
                progress(index + 1, len(self))
        return self.skipped

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        """Image ``(3, H, W)`` in [0, 1], and ``boxes``, ``labels``, ``ignore`` and ``name``."""
        return self.image(index), self.target(index)

    def image(self, index: int) -> Tensor:
        """The image alone.

        Raises:
            ValueError: If the file is no image, or cut off.
        """
        try:
            from PIL import Image
        except ImportError as error:
            raise ImportError("reading images needs pillow: pip install 'obbkit[images]'") from error
        try:
            with Image.open(self.images[index]) as image:
                return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255
        except FileNotFoundError:
            raise
        except OSError as error:
            raise ValueError(f"image {self.images[index]} cannot be read: {error}") from None

    def target(self, index: int) -> dict[str, Any]:
        """The objects alone.

        Raises:
            AnnotationError: For a bad line or, with ``unknown="error"``, a class that is not listed.
        """
        name = self.images[index].stem
        path = self.labels / f"{name}.txt"
        if not path.is_file():
            return self._empty(name)
        found, lines, problems = scan_dota_txt(path)
        if problems and self.errors == "raise":
            raise AnnotationError(f"{path}, line {problems[0][0]}: {problems[0][1]}")
        keep = []
        for i, label in enumerate(found.names):
            if label in self.classes:
                keep.append(i)
            elif self.unknown == "error":
                raise AnnotationError(f"{path}, line {lines[i]}: class {label!r} is not one of {', '.join(self.classes)}")
        self._skipped[index] = len(problems) + len(found.names) - len(keep)
        if not keep:
            return self._empty(name)
        polygons = found.polygons[keep]
        if self.supervision == "hbb":
            boxes = torch.cat([polygons.amin(-2), polygons.amax(-2)], -1)
        else:
            boxes = canonicalize(min_area_rect(polygons), "le90")
        hard = found.difficulty[keep]
        return {
            "boxes": boxes.float(),
            "labels": torch.tensor([self.classes.index(found.names[i]) for i in keep]),
            "ignore": torch.zeros(len(keep), dtype=torch.bool) if self.difficulty_max is None else hard > self.difficulty_max,
            "name": name,
        }

    def _empty(self, name: str) -> dict[str, Any]:
        size = 4 if self.supervision == "hbb" else 5
        none = torch.zeros(0, dtype=torch.int64)
        return {"boxes": torch.zeros(0, size), "labels": none, "ignore": none.bool(), "name": name}


class RSARDataset(DOTADataset):
    """RSAR: six classes of SAR images, suffixes mixed; ``root/images`` and ``root/annfiles`` of a split.

    Args:
        root: Folder of the split.
        supervision, difficulty_max, missing, unknown, errors: As ``DOTADataset``.

    Raises:
        FileNotFoundError: As ``DOTADataset``.
    """

    def __init__(
        self,
        root: str | Path,
        supervision: str = "obb",
        difficulty_max: int | None = None,
        missing: str = "error",
        *,
        unknown: str = "error",
        errors: str = "raise",
    ) -> None:
        super().__init__(root, RSAR_CLASSES, supervision, difficulty_max, missing, unknown=unknown, errors=errors)


def collate(batch: Sequence[tuple[Tensor, dict[str, Any]]]) -> tuple[Tensor, list[dict[str, Any]]]:
    """Images padded at the right and bottom to one size, and their targets with ``size``, the true ``(height, width)``.

    Args:
        batch: Items of a data set.
    """
    height = max(image.shape[-2] for image, _ in batch)
    width = max(image.shape[-1] for image, _ in batch)
    images = torch.stack([torch.nn.functional.pad(i, (0, width - i.shape[-1], 0, height - i.shape[-2])) for i, _ in batch])
    return images, [{**target, "size": tuple(image.shape[-2:])} for image, target in batch]
