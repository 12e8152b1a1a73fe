"""HDM05 motion capture as covariance matrices: 2086 sequences of 117 actions, 93 x 93 (31 joints, three coordinates)."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spdnorm.integrations._files import load_arrays, need_folder

__all__ = ["load_hdm05"]

LAYOUT = (
    "expected the joint covariances of HDM05, one 93 x 93 matrix a file, either <root>/<anything>_<label>.npy (the copy that SPDNet-BN "
    "distributes) or <root>/<label>/<anything>.mat with the variable Y1 (the copy of SPDNet). The official README of GBWBN links to "
    "them; the recordings are at https://resources.mpi-inf.mpg.de/HDM05"
)


def load_hdm05(root: str | Path, *, ridge: float = 0.0) -> tuple[Tensor, Tensor]:
    """Read all covariances below a folder.

    Args:
        root: Folder with ``*_<label>.npy``, or with one folder of ``.mat`` files per class.
        ridge: Multiple of the identity to add.

    Returns:
        The pair ``(X, y)``: float64 ``(N, n, n)``, and labels ``(N,)`` that count from 0 in the order of the file's labels.

    Raises:
        FileNotFoundError: If the folder is missing or empty; the message says where the data comes from.
        ValueError: If a file's name has no label, or a matrix is not square or of another size than the first.
        ImportError: If SciPy is missing and the files are MATLAB files.

    Example:
        >>> X, y = load_hdm05("data/hdm05")  # (2086, 93, 93)
    """
    folder = Path(root).expanduser()
    arrays = folder.is_dir() and any(folder.rglob("*.npy"))
    files = need_folder(root, "*.npy" if arrays else "*.mat", LAYOUT)
    matrices, names = [], []
    for path in files:
        if arrays:
            label = path.stem.rsplit("_", 1)[-1]
            matrix = np.load(path)
        else:
            label = path.parent.name
            found = load_arrays(path)
            matrix = found["Y1"] if "Y1" in found else next((v for v in found.values() if v.ndim == 2 and v.shape[0] == v.shape[1]), None)
        if not label.isdigit():
            raise ValueError(f"{path} must carry its label as a number, found {label!r}; {LAYOUT}")
        if matrix is None or matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or (matrices and matrix.shape != matrices[0].shape):
            raise ValueError(f"{path} must hold one square matrix of one size throughout, found {None if matrix is None else matrix.shape}")
        matrices.append(np.real(matrix).astype(np.float64))
        names.append(int(label))
    X = torch.from_numpy(np.stack(matrices))
    X = (X + X.mT) / 2 + ridge * torch.eye(X.shape[-1], dtype=X.dtype)
    classes = {label: k for k, label in enumerate(sorted(set(names)))}
    return X, torch.tensor([classes[label] for label in names])
