"""Motor imagery: the MATLAB files of BNCI 2014-001 (BCI competition IV, 2a) directly, and any MOABB data set through MOABB."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spdnorm.integrations._files import need_folder

__all__ = ["load_bnci2014_001", "load_moabb"]

LAYOUT = (
    "expected <root>/A01T.mat, A01E.mat to A09E.mat of BNCI 2014-001 from http://bnci-horizon-2020.eu/database/data-sets (001-2014); "
    "MOABB downloads the same files"
)


def _band_pass(x: NDArray[Any], band: tuple[float, float], rate: float) -> NDArray[Any]:
    from scipy.signal import butter, sosfiltfilt

    return sosfiltfilt(butter(4, band, btype="bandpass", fs=rate, output="sos"), x, axis=0)


def load_bnci2014_001(
    root: str | Path,
    subject: int,
    session: str = "T",
    *,
    window: tuple[float, float] = (2.5, 5.5),
    band: tuple[float, float] | None = (4.0, 36.0),
    channels: int = 22,
) -> tuple[Tensor, Tensor]:
    """Trials of one subject and session.

    Args:
        root: Folder with ``A01T.mat`` and so on.
        subject: 1 to 9.
        session: ``"T"`` (first day) or ``"E"`` (second day): two domains.
        window: Start and end of a trial in seconds after its beginning; the cue comes at 2 s.
        band: Band-pass of the continuous recording in hertz, fourth-order Butterworth in both directions; ``None`` for none.
        channels: The first channels are EEG, the last three EOG.

    Returns:
        ``(x, y)``: float32 ``(N, channels, samples)`` in the file's unit (microvolt), and labels from 0 ``(N,)``. Trials marked as
        artifacts are kept.

    Raises:
        FileNotFoundError: If the file is missing; the message says where the data comes from.
        ValueError: If the session is unknown, or the file holds no trials.
        ImportError: If SciPy is missing.

    Example:
        >>> x, y = load_bnci2014_001("data/bnci", 1)
        >>> x.shape
        torch.Size([288, 22, 750])
    """
    if session not in ("T", "E"):
        raise ValueError(f"session must be one of 'T', 'E', got {session!r}")
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ImportError("reading .mat files needs SciPy: pip install 'spdnorm[data]'") from error
    path = need_folder(root, f"A{subject:02d}{session}.mat", LAYOUT)[0]
    runs = np.atleast_1d(loadmat(str(path), struct_as_record=False, squeeze_me=True)["data"])
    trials: list[NDArray[Any]] = []
    labels: list[int] = []
    for run in runs:
        starts = np.atleast_1d(run.trial)
        if starts.size == 0:  # recordings of the eyes, without trials
            continue
        rate = float(run.fs)
        signal = np.asarray(run.X, dtype=np.float64)[:, :channels]
        signal = signal if band is None else _band_pass(signal, band, rate)
        first, last = (round(t * rate) for t in window)
        trials += [signal[start - 1 + first : start - 1 + last].T for start in starts.astype(int)]  # the file counts from 1
        labels += [int(label) - 1 for label in np.atleast_1d(run.y)]
    if not trials:
        raise ValueError(f"{path} must hold trials, found {len(runs)} runs without any")
    return torch.from_numpy(np.stack(trials).astype(np.float32)), torch.tensor(labels)


def load_moabb(
    dataset: str, subjects: list[int] | None = None, *, path: str | Path | None = None, **paradigm: Any
) -> tuple[Tensor, Tensor, list[str]]:
    """Trials of a MOABB motor-imagery data set.

    Args:
        dataset: Name of a class in ``moabb.datasets``, such as ``"BNCI2014_001"``.
        subjects: Subjects, or all.
        path: Folder where MOABB keeps its files; its own setting by default.
        paradigm: Options of ``moabb.paradigms.MotorImagery``, such as ``n_classes``, ``fmin``, ``fmax``, ``resample``.

    Returns:
        ``(x, y, domains)``: float32 ``(N, channels, samples)`` in volts, labels from 0 ``(N,)``, and a domain ``"subject/session"`` per
        trial for ``DomainSPDBatchNorm``.

    Raises:
        ImportError: If MOABB is missing.
        ValueError: If there is no such data set.
    """
    try:
        from moabb import datasets, paradigms
        from moabb.utils import set_download_dir
    except ImportError as error:
        raise ImportError("this reader needs MOABB: pip install 'spdnorm[moabb]'") from error
    maker = getattr(datasets, dataset, None)
    if maker is None:
        raise ValueError(f"dataset must be the name of a class in moabb.datasets, got {dataset!r}")
    if path is not None:
        set_download_dir(str(Path(path).expanduser()))
    x, y, meta = paradigms.MotorImagery(**paradigm).get_data(maker(), subjects=subjects)
    classes = {label: k for k, label in enumerate(sorted(set(y)))}
    domains = [f"{subject}/{session}" for subject, session in zip(meta["subject"], meta["session"], strict=True)]
    return torch.from_numpy(np.asarray(x, dtype=np.float32)), torch.tensor([classes[label] for label in y]), domains
