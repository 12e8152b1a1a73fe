"""Readers of published data on tiny files in the true format."""

import sys

import numpy as np
import pytest
import torch

from spdnorm.integrations.hdm05 import load_hdm05
from spdnorm.integrations.mamem import load_mamem
from spdnorm.integrations.moabb import load_bnci2014_001, load_moabb
from spdnorm.integrations.ntu import joint_covariance, load_ntu, read_skeleton

rng = np.random.default_rng(0)


def covariance(n=6):
    A = rng.normal(size=(n, 3 * n))
    return A @ A.T / (3 * n)


def test_hdm05_numpy_files(tmp_path):
    matrices = [covariance() for _ in range(4)]
    for i, (X, label) in enumerate(zip(matrices, (7, 3, 7, 9), strict=True)):
        np.save(tmp_path / f"HDM_{i}_{label}.npy", X.astype(complex) if i == 0 else X)  # some of the published ones are complex
    X, y = load_hdm05(tmp_path, ridge=0.5)
    assert X.dtype == torch.float64
    assert y.tolist() == [1, 0, 1, 2]
    torch.testing.assert_close(X[2], torch.from_numpy(matrices[2]) + 0.5 * torch.eye(6, dtype=torch.float64))


def test_hdm05_matlab_files(tmp_path):
    io = pytest.importorskip("scipy.io")
    for label in (1, 2):
        (tmp_path / str(label)).mkdir()
        io.savemat(tmp_path / str(label) / "seq.mat", {"Y1": covariance(), "note": "x"})
    X, y = load_hdm05(tmp_path)
    assert X.shape == (2, 6, 6)
    assert y.tolist() == [0, 1]


def test_ntu_skeletons(tmp_path, skeleton):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "S001C001P001R001A003.skeleton").write_text(skeleton(30, ("1", "2")))
    (tmp_path / "sub" / "S001C002P003R001A001.skeleton").write_text(skeleton(20))
    (tmp_path / "sub" / "S001C003P003R001A002.skeleton").write_text("5\n" + "0\n" * 5)  # nobody seen
    bodies = read_skeleton(tmp_path / "sub" / "S001C001P001R001A003.skeleton")
    assert {k: tuple(v.shape) for k, v in bodies.items()} == {"1": (30, 25, 3), "2": (30, 25, 3)}
    assert float(bodies["2"][4, 3, 1]) == pytest.approx(2 * np.sin(0.3 * 4 + 3 + 1), abs=1e-6)
    seen = []
    X, y, train = load_ntu(tmp_path, progress=seen.append)
    assert X.shape == (2, 75, 75)
    assert y.tolist() == [2, 0]
    assert train.tolist() == [True, False]
    assert load_ntu(tmp_path, protocol="view")[2].tolist() == [False, True]
    assert seen[-1] == 1.0
    torch.testing.assert_close(X[0], joint_covariance(bodies["2"]))  # the one that moves more
    torch.testing.assert_close(X[0].trace(), torch.tensor(1 + 75e-6, dtype=torch.float64))
    assert float(torch.linalg.eigvalsh(X[0])[0]) > 0.9e-6


@pytest.mark.parametrize("suffix", [".mat", ".npz"])
def test_mamem(tmp_path, suffix):
    io = pytest.importorskip("scipy.io")
    x, y = rng.normal(size=(500, 8, 125)).astype(np.float32), (np.arange(500) % 5 + 1)[:, None]
    if suffix == ".mat":
        io.savemat(tmp_path / "U003.mat", {"x_test": x, "y_test": y})
    else:
        np.savez(tmp_path / "U003.npz", x_test=x, y_test=y)
    parts = load_mamem(tmp_path, 3)
    assert {k: tuple(v[0].shape) for k, v in parts.items()} == {
        "train": (300, 1, 8, 125),
        "valid": (100, 1, 8, 125),
        "test": (100, 1, 8, 125),
    }
    np.testing.assert_array_equal(parts["valid"][0][0, 0].numpy(), x[300])
    assert parts["test"][1][:6].tolist() == [0, 1, 2, 3, 4, 0]


def test_bnci_2014_001(tmp_path):
    io = pytest.importorskip("scipy.io")
    x = rng.normal(size=(5000, 25))
    empty = {
        "X": x[:100],
        "trial": np.zeros((0, 0)),
        "y": np.zeros((0, 0)),
        "fs": 250,
        "classes": "",
        "artifacts": 0,
        "gender": "male",
        "age": 22,
    }
    run = {**empty, "X": x, "trial": np.array([[251], [2001], [3501]]), "y": np.array([[1], [4], [2]])}
    runs = np.empty((1, 3), dtype=object)
    runs[0] = [empty, run, run]
    io.savemat(tmp_path / "A01T.mat", {"data": runs})
    trials, labels = load_bnci2014_001(tmp_path, 1, band=None)
    assert trials.shape == (6, 22, 750)
    assert labels.tolist() == [0, 3, 1] * 2
    np.testing.assert_allclose(trials[1].numpy(), x[2000 + 625 : 2000 + 1375, :22].T, rtol=1e-6)
    filtered, _ = load_bnci2014_001(tmp_path, 1, band=(8.0, 30.0))
    power = np.abs(np.fft.rfft(filtered.numpy(), axis=-1)).mean((0, 1))
    frequency = np.fft.rfftfreq(750, 1 / 250)
    assert power[(frequency > 10) & (frequency < 28)].mean() > 10 * power[frequency > 50].mean()


@pytest.mark.bad_input
def test_missing_files_say_where_they_come_from(tmp_path):
    for call, where in (
        (lambda p: load_hdm05(p), "official README"),
        (lambda p: load_ntu(p), "rose1.ntu.edu.sg"),
        (lambda p: load_mamem(p, 1), "physionet.org"),
        (lambda p: load_bnci2014_001(p, 1), "bnci-horizon-2020.eu"),
    ):
        with pytest.raises(FileNotFoundError, match=f"no folder .*{where}"):
            call(tmp_path / "nowhere")
        with pytest.raises(FileNotFoundError, match=f"below .*{where}"):
            call(tmp_path)


@pytest.mark.bad_input
def test_broken_files(tmp_path):
    np.save(tmp_path / "a_one.npy", covariance())
    with pytest.raises(ValueError, match="carry its label as a number, found 'one'"):
        load_hdm05(tmp_path)
    (tmp_path / "S001C001P001R001A001.skeleton").write_text("2\n1\n7 0\n25\n")
    with pytest.raises(ValueError, match="it ends too early|fewer than three"):
        read_skeleton(tmp_path / "S001C001P001R001A001.skeleton")
    (tmp_path / "S001C001P001R001A001.skeleton").write_text("x\n")
    with pytest.raises(ValueError, match="must be an NTU"):
        read_skeleton(tmp_path / "S001C001P001R001A001.skeleton")
    with pytest.raises(ValueError, match="protocol must be one of"):
        load_ntu(tmp_path, protocol="setup")
    with pytest.raises(ValueError, match="at least 2 frames"):
        joint_covariance(torch.ones(1, 25, 3))
    np.savez(tmp_path / "U001.npz", x_test=np.zeros((10, 8, 125)), y_test=np.zeros(10))
    with pytest.raises(ValueError, match="more than 400 trials"):
        load_mamem(tmp_path, 1)
    np.savez(tmp_path / "U001.npz", other=np.zeros(3))
    with pytest.raises(ValueError, match="must hold one of 'x_test'"):
        load_mamem(tmp_path, 1)
    with pytest.raises(ValueError, match="session must be one of"):
        load_bnci2014_001(tmp_path, 1, "X")


@pytest.mark.bad_input
def test_moabb_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "moabb", None)
    with pytest.raises(ImportError, match=r"pip install 'spdnorm\[moabb\]'"):
        load_moabb("BNCI2014_001")
