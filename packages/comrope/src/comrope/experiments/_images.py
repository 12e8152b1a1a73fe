"""ImageNet-style folders read with Pillow: ``root/train/<class>/*.JPEG``, ``root/val/<class>/*.JPEG``."""

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

__all__ = ["FolderImages"]

SUFFIXES = frozenset({".jpeg", ".jpg", ".png", ".webp", ".bmp"})
LAYOUT = (
    "expected <root>/train/<class>/*.JPEG and <root>/val/<class>/*.JPEG. ImageNet-1K is available from https://image-net.org/download.php "
    "after registration; its validation images must be sorted into one folder per class (synset)"
)


class FolderImages(Dataset[tuple[Tensor, int]]):
    """Images of one split, normalised to ``[-1, 1]`` (mean and standard deviation 0.5).

    Training: shorter side to ``1.1 size``, random crop, random flip. Otherwise: shorter side to ``1.1 size``, centre crop.

    Args:
        root: Folder with the splits.
        split: ``"train"`` or ``"val"``.
        size: Side of the square crop in pixels.
        augment: Whether to crop and flip at random (from torch's global generator, which data loader workers seed apart).
        classes: Class names in the order of their labels; those of this split, sorted, by default.

    Raises:
        FileNotFoundError: If the folder is missing or empty; the message says where the data comes from and how to lay it out.
        ValueError: If a class of this split is not among ``classes``.
        ImportError: If Pillow is missing.
    """

    def __init__(self, root: str | Path, split: str, *, size: int, augment: bool = False, classes: list[str] | None = None) -> None:
        try:
            import PIL  # noqa: F401
        except ImportError as error:
            raise ImportError("reading image folders needs Pillow: pip install 'comrope[imagenet]'") from error
        folder = Path(root) / split
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {folder}: {LAYOUT}")
        found = sorted(p.name for p in folder.iterdir() if p.is_dir())
        self.classes = found if classes is None else list(classes)
        extra = sorted(set(found) - set(self.classes))
        if extra:
            raise ValueError(f"{folder} has classes that the training split lacks: {extra[:5]}")
        self.files = [
            (path, label)
            for label, name in enumerate(self.classes)
            if (folder / name).is_dir()
            for path in sorted((folder / name).iterdir())
            if path.suffix.lower() in SUFFIXES
        ]
        if not self.files:
            raise FileNotFoundError(f"no images in {folder}: {LAYOUT}")
        self.size, self.augment = size, augment

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        path, label = self.files[index]
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        shorter = round(1.1 * self.size)
        scale = shorter / min(image.size)
        width, height = (max(shorter, round(scale * s)) for s in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        if self.augment:
            left = int(torch.randint(width - self.size + 1, ()))
            top = int(torch.randint(height - self.size + 1, ()))
        else:
            left, top = (width - self.size) // 2, (height - self.size) // 2
        image = image.crop((left, top, left + self.size, top + self.size))
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(self.size, self.size, 3).permute(2, 0, 1)
        if self.augment and torch.rand(()) < 0.5:
            pixels = pixels.flip(-1)
        return pixels.float() / 127.5 - 1, label
