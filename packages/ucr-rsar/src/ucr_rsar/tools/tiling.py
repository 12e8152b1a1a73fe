"""A folder of large images cut into tiles with their annotations."""

from collections.abc import Callable
from pathlib import Path

import torch

from obbkit.data import read_dota_txt, split_tiles, write_dota_txt

__all__ = ["tile_folder"]

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")


def tile_folder(
    images: str | Path,
    annotations: str | Path | None,
    target: str | Path,
    *,
    size: int = 1024,
    overlap: int = 200,
    min_share: float = 0.7,
    errors: str = "raise",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, int]:
    """Write ``target/images/<name>__<x>___<y>.png`` and ``target/annfiles``; the padding of small tiles is left to training.

    Args:
        images: Folder of the images.
        annotations: Folder of their DOTA annotations; none for images alone.
        target: Folder, made if it does not exist.
        size, overlap, min_share: As ``obbkit.data.split_tiles``.
        errors: As ``read_dota_txt``.
        progress: Called after each image.

    Returns:
        Numbers of ``images``, ``tiles``, ``objects`` in tiles, and ``skipped`` lines.

    Raises:
        FileNotFoundError: If a folder or an annotation file is missing.
        ImportError: If pillow is missing.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("cutting images needs pillow: pip install 'ucr-rsar[images]'") from error
    folder, out = Path(images), Path(target)
    if not folder.is_dir():
        raise FileNotFoundError(f"image folder {folder} is missing")
    (out / "images").mkdir(parents=True, exist_ok=True)
    if annotations is not None:
        (out / "annfiles").mkdir(exist_ok=True)
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES)
    counts = {"images": len(paths), "tiles": 0, "objects": 0, "skipped": 0}
    for k, path in enumerate(paths):
        found = None if annotations is None else read_dota_txt(Path(annotations) / f"{path.stem}.txt", errors=errors)
        with Image.open(path) as image:
            quads = torch.zeros(0, 4, 2) if found is None else found.polygons
            tiles = split_tiles(path.stem, image.width, image.height, quads, size=size, overlap=overlap, min_share=min_share)
            for tile in tiles:
                x, y, w, h = tile.window
                image.crop((x, y, x + w, y + h)).save(out / "images" / f"{tile.name}.png")
                if found is not None:
                    own = tile.objects.tolist()
                    names, hard = [found.names[i] for i in own], found.difficulty[tile.objects]
                    write_dota_txt(out / "annfiles" / f"{tile.name}.txt", tile.polygons, names, hard)
                    counts["objects"] += len(own)
        counts["tiles"] += len(tiles)
        counts["skipped"] += 0 if found is None else found.skipped
        if progress is not None:
            progress(k + 1, len(paths))
    return counts
