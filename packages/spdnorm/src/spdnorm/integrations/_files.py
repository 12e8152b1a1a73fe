"""What the readers share: clear errors for missing files, ``.mat`` and ``.npz`` arrays by name."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["first_array", "load_arrays", "need_folder"]


def need_folder(root: str | Path, pattern: str, layout: str) -> list[Path]:
    """Sorted files of ``root`` that match ``pattern``, searched in subfolders too.

    Raises:
        FileNotFoundError: If the folder is missing or holds none; the message says where the data comes from and how to lay it out.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: {layout}")
    files = sorted(folder.rglob(pattern))
    if not files:
        raise FileNotFoundError(f"no {pattern} below {folder}: {layout}")
    return files


def load_arrays(path: Path) -> dict[str, Any]:
    """Variables of a MATLAB file (before version 7.3) or an ``.npz`` archive.

    Raises:
        ImportError: If SciPy is missing and the file is a MATLAB file.
    """
    if path.suffix == ".npz":
        with np.load(path) as archive:
            return {name: archive[name] for name in archive.files}
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ImportError("reading .mat files needs SciPy: pip install 'spdnorm[data]'") from error
    return {name: value for name, value in loadmat(str(path)).items() if not name.startswith("__")}


def first_array(path: Path, arrays: dict[str, Any], names: Iterable[str]) -> NDArray[Any]:
    """The first of ``names`` that is there.

    Raises:
        ValueError: If none is; the message lists what the file holds.
    """
    names = tuple(names)
    for name in names:
        if name in arrays:
            return np.asarray(arrays[name])
    raise ValueError(f"{path} must hold one of {', '.join(map(repr, names))}, found {', '.join(map(repr, sorted(arrays))) or 'nothing'}")
