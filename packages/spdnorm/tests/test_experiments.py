"""The experiments: their data, a short training each, the full recipes on tiny files in the true format."""

import json

import numpy as np
import pytest
import torch

from spdnorm.experiments import _train, digits, full, nuisance
from spdnorm.experiments._data import digit_regions, nuisance_covariances

rng = np.random.default_rng(0)


@pytest.mark.parametrize(("ridge", "condition"), [(1e-9, 6e8), (1e-5, 6e4), (1e-2, 60.0)])
def test_nuisance_covariances(ridge, condition):
    split = nuisance_covariances(0, ridge=ridge)
    assert split.x_train.shape == split.x_test.shape == (200, 20, 20)
    assert torch.equal(split.y_train.bincount(), torch.full((10,), 20))
    assert split.condition == pytest.approx(condition, rel=0.3)
    assert torch.equal(nuisance_covariances(0, ridge=ridge).x_test, split.x_test)
    trace = split.x_train.diagonal(dim1=-2, dim2=-1).sum(-1)
    torch.testing.assert_close(trace, torch.full((200,), 1 + 20 * ridge, dtype=torch.float64))


def test_digit_regions():
    pytest.importorskip("sklearn")
    split = digit_regions(0)
    assert split.x_train.shape == (900, 12, 12)
    assert split.x_test.shape == (600, 12, 12)
    assert 500 < split.condition < 5000
    assert float(torch.linalg.eigvalsh(split.x_train)[:, 0].min()) > 0
    together = torch.cat([split.x_train, split.x_test]).flatten(1)
    assert len(together.unique(dim=0)) > 1490  # no image in both


def test_trainings_are_repeatable_and_run_from_the_command_line(tmp_path, capsys):
    pytest.importorskip("geoopt")
    split = nuisance_covariances(0, classes=3, per_class=10)
    recipe = _train.Recipe(size=6, epochs=2)
    scores = [_train.accuracy(_train.train(_train.NORMS["GBW theta=0.5"], split, 0, recipe), split.x_test, split.y_test) for _ in range(2)]
    assert scores[0] == scores[1]
    file = tmp_path / "out.json"
    argv = ["--seeds", "0", "--ridges", "1e-9", "--only", "LEM", "GBW as released", "--epochs", "1", "--json", str(file)]
    assert nuisance.main(argv) == 0
    assert len(json.loads(file.read_text())["results"]) == 2
    assert "LEM" in capsys.readouterr().out
    assert digits.main(["--seeds", "0", "--only", "LCM", "--epochs", "1", "--json", str(file)]) == 0
    assert 0 <= json.loads(file.read_text())["accuracy"]["LCM"][0] <= 1


def write_ssvep(folder, _):
    np.savez(folder / "U001.npz", x_test=rng.normal(size=(420, 8, 125)), y_test=np.arange(420) % 5)


def write_hdm05(folder, _):
    for i in range(12):
        A = rng.normal(size=(36, 80))
        np.save(folder / f"x_{i}_{i % 3}.npy", A @ A.T / 80)


def write_ntu(folder, skeleton):
    for i in range(8):
        text = skeleton(100, scale=1.0 + i)
        (folder / f"S001C001P{1 + 2 * (i % 2):03d}R001A{1 + i // 4:03d}.skeleton").write_text(text)


def write_motor_imagery(folder, _):
    io = pytest.importorskip("scipy.io")
    for session in "TE":
        run = {
            "X": rng.normal(size=(5000, 25)),
            "trial": np.array([[1], [1001], [2001], [3001]]),
            "y": np.array([[1], [2], [3], [4]]),
            "fs": 250,
        }
        runs = np.empty((1, 1), dtype=object)
        runs[0, 0] = run
        io.savemat(folder / f"A01{session}.mat", {"data": runs})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "write", "extra"),
    [
        ("ssvep", write_ssvep, ["--subjects", "1", "--batch", "150"]),
        ("hdm05", write_hdm05, ["--norm", "lem"]),
        ("ntu", write_ntu, ["--norm", "none"]),
        ("motor-imagery", write_motor_imagery, ["--subjects", "1"]),
    ],
)
def test_full_recipes(tmp_path, capsys, skeleton, name, write, extra):
    pytest.importorskip("geoopt")
    write(tmp_path, skeleton)
    file = tmp_path / "out.json"
    argv = [name, "--data", str(tmp_path), "--epochs", "1", "--repeats", "1", "--device", "cpu", "--json", str(file), *extra]
    assert full.main(argv) == 0
    (values,) = json.loads(file.read_text())["accuracy"].values()
    assert 0 <= values[0] <= 1
    assert "%" in capsys.readouterr().out


@pytest.mark.bad_input
def test_full_recipe_without_data(tmp_path):
    with pytest.raises(FileNotFoundError, match="physionet"):
        full.main(["ssvep", "--data", str(tmp_path / "none")])
