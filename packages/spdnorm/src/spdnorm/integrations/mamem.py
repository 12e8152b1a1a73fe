"""MAMEM-SSVEP-II: 11 subjects, 5 flicker frequencies, trials of 8 channels and 125 samples."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spdnorm.integrations._files import first_array, load_arrays, need_folder

__all__ = ["load_mamem"]

LAYOUT = (
    "expected <root>/U001.mat to U011.mat (or .npz) with the trials x_test (500, 8, 125) and the labels y_test, the preprocessed copy that "
    "MAtt links to; the recordings are at https://physionet.org/content/mssvepdb (or load them with MOABB as MAMEM2)"
)
_TRIALS, _LABELS = ("x_test", "x", "X", "data"), ("y_test", "y", "Y", "labels", "label")


def load_mamem(root: str | Path, subject: int, *, sizes: tuple[int, int] = (300, 100)) -> dict[str, tuple[Tensor, Tensor]]:
    """Trials of one subject, split in order of recording.

    Args:
        root: Folder with ``U001.mat`` and so on.
        subject: 1 to 11.
        sizes: Trials for training and validation; the rest is for testing.

    Returns:
        ``"train"``, ``"valid"`` and ``"test"`` to ``(x, y)``: float32 ``(N, 1, channels, samples)`` and labels from 0 ``(N,)``.

    Raises:
        FileNotFoundError: If the subject's file is missing; the message says where the data comes from.
        ValueError: If it lacks trials or labels, their numbers differ, or too few are there for the split.
        ImportError: If SciPy is missing and the file is a MATLAB file.

    Example:
        >>> parts = load_mamem("data/mamem", 1)
        >>> parts["train"][0].shape
        torch.Size([300, 1, 8, 125])
    """
    files = need_folder(root, f"U{subject:03d}.*", LAYOUT)
    path = next((p for p in files if p.suffix in (".mat", ".npz")), None)
    if path is None:
        raise FileNotFoundError(f"no U{subject:03d}.mat or .npz below {root}: {LAYOUT}")
    arrays = load_arrays(path)
    x, y = first_array(path, arrays, _TRIALS), first_array(path, arrays, _LABELS).reshape(-1)
    if x.ndim == 4 and x.shape[1] == 1:
        x = x[:, 0]
    if x.ndim != 3 or len(x) != len(y):
        raise ValueError(f"{path} must hold trials (N, channels, samples) and N labels, found {x.shape} and {y.shape}")
    if len(x) <= sum(sizes):
        raise ValueError(f"{path} must hold more than {sum(sizes)} trials for the split {sizes}, found {len(x)}")
    trials = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)).unsqueeze(1)
    classes = {label: k for k, label in enumerate(sorted(set(y.tolist())))}
    labels = torch.tensor([classes[label] for label in y.tolist()])
    a, b = sizes[0], sum(sizes)
    return {name: (trials[part], labels[part]) for name, part in (("train", slice(a)), ("valid", slice(a, b)), ("test", slice(b, None)))}
