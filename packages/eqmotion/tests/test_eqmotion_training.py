import json
import os
import runpy
import socket
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from eqmotion.cli import app
from eqmotion.data import TrajectoryDataset
from eqmotion.training import RECIPES, Recipe, evaluate, fit, load_checkpoint, load_model, recipe
from geocore.son import haar

TINY = Recipe("tiny", "springs", 4, 3, model={"channels": 4, "hidden_dim": 4, "n_layers": 1}, epochs=3, batch_size=4, scenes=(10, 4, 4),
              data_options={"steps": 1701})  # fmt: skip
MODES = replace(TINY, name="modes", model={**TINY.model, "n_modes": 2, "mode_scores": True})


def data(settings=TINY, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(settings.scenes[0], 3, 7, 2, generator=generator).cumsum(2)
    mask = torch.ones(len(x), 3, dtype=torch.bool)
    mask[::3, 2] = False
    return TrajectoryDataset(x[:, :, :4], x[:, :, 4:], mask)


def test_the_recipes_are_the_official_ones():
    table = {
        "charged": (20, 20, 64, 4, 2, 0, 1.0, 5e-4, 200),
        "springs": (20, 20, 64, 4, 2, 0, 0.5, 5e-4, 200),
        "md17": (10, 10, 32, 4, 2, 0, 1.0, 5e-4, 300),
        "human36m-short": (10, 10, 72, 4, 4, 2, 1.0, 5e-4, 80),
        "human36m-long": (25, 25, 96, 4, 4, 2, 1.0, 5e-4, 80),
        "eth": (8, 12, 64, 4, 4, 2, 1.0, 1e-3, 60),
        "hotel": (8, 12, 64, 4, 4, 2, 1.0, 5e-4, 60),
        "univ": (8, 12, 64, 4, 4, 2, 1.0, 1e-3, 60),
        "zara1": (8, 12, 128, 4, 4, 2, 1.0, 1e-3, 60),
        "zara2": (8, 12, 64, 4, 4, 2, 1.0, 1e-3, 60),
    }
    assert set(table) == set(RECIPES)
    for name, row in table.items():
        r = RECIPES[name]
        c = r.build().config
        found = (r.in_steps, r.out_steps, c["channels"], c["n_layers"], c["n_categories"], c["n_null_categories"], c["tau"])
        assert (*found, r.learning_rate, r.epochs) == row
        assert (c["hidden_dim"], r.batch_size, r.weight_decay) == (64, 100, 1e-12)
        assert c["n_modes"] == (20 if r.data == "ethucy" else 1)
        assert c["agent_tokens"] == (22 if r.data == "human36m" else None)
        assert Recipe.from_dict(json.loads(json.dumps(r.to_dict()))) == r
    assert RECIPES["human36m-long"].horizon
    assert (RECIPES["human36m-long"].decay, RECIPES["human36m-long"].decay_every) == (0.8, 2)
    assert RECIPES["charged"].scenes == (5000, 2000, 2000)


@pytest.mark.parametrize("settings", [TINY, MODES, replace(TINY, decay_every=1, horizon=True)], ids=["plain", "modes", "decay"])
@pytest.mark.parametrize("stop", [2, 3, 5])
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, settings, stop):
    train, val = data(), data(seed=1)
    whole, history = fit(settings, train, val, out=tmp_path / "a")
    torch.rand(3)  # whatever happened to the random state in between
    part, _ = fit(settings, train, val, out=tmp_path / "b", max_steps=stop)
    torch.manual_seed(123)
    resumed, again = fit(settings, train, val, out=tmp_path / "b")
    assert any(not torch.equal(p, q) for p, q in zip(part.parameters(), whole.parameters(), strict=True))
    for (name, p), q in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(p, q), name
    assert history == again
    one, two = (load_checkpoint(tmp_path / run / "last.pt") for run in "ab")
    for state, other in zip(one.optimizer["state"].values(), two.optimizer["state"].values(), strict=True):
        assert all(torch.equal(state[k], other[k]) for k in state)
    assert torch.equal(one.random[0], two.random[0])
    assert one.best == two.best


def test_training_helps_and_keeps_the_best_epoch(tmp_path):
    settings = replace(TINY, epochs=15, learning_rate=1e-2)
    train = data()
    model, history = fit(settings, train, train, out=tmp_path, save_every=1)
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]
    best, kept = load_model(tmp_path / "best.pt")
    assert kept == settings
    want = min(row["val_ade"] for row in history)
    assert evaluate(best, train, settings)["ade"] == pytest.approx(want, abs=1e-12)
    assert best.largest_scene == 3
    assert evaluate(model, train, settings)["ade"] == pytest.approx(history[-1]["val_ade"], abs=1e-12)


def test_evaluation_by_hand(tmp_path):
    scenes = data()
    model = TINY.build()
    numbers = evaluate(model, scenes, TINY, batch_size=3)
    with torch.no_grad():
        pred = model(scenes.x, mask=scenes.mask).pred
    distance = (pred - scenes.y).norm(dim=-1)[scenes.mask]
    assert numbers["ade"] == pytest.approx(float(distance.mean()), rel=1e-6)
    assert numbers["fde"] == pytest.approx(float(distance[:, -1].mean()), rel=1e-6)
    Q = haar(2, dtype=torch.float64)
    assert evaluate(model, scenes, TINY, rotation=Q)["ade"] == pytest.approx(numbers["ade"], rel=1e-5)
    scenes.scale = 2.0
    assert evaluate(model, scenes, TINY)["ade"] == pytest.approx(2 * numbers["ade"], rel=1e-6)
    skeleton = replace(TINY, data="human36m")
    assert evaluate(model, data(), skeleton)["mpjpe_80"] == pytest.approx(100 * float(distance[:, 1].mean()), rel=1e-6)
    modes = MODES.build()
    with torch.no_grad():
        pred = modes(scenes.x, mask=scenes.mask).pred[:, 0]
    distance = (pred - scenes.y[:, :1]).norm(dim=-1)
    numbers = evaluate(modes, data(), MODES)
    assert numbers["ade"] == pytest.approx(float(distance.mean(-1).amin(-1).mean()), rel=1e-6)
    assert numbers["fde"] == pytest.approx(float(distance[..., -1].amin(-1).mean()), rel=1e-6)


PARALLEL = """
import sys
import torch
from dataclasses import replace
from eqmotion.data import TrajectoryDataset
from eqmotion.training import Recipe, fit

settings = Recipe("tiny", "springs", 4, 3, model={"channels": 4, "hidden_dim": 4, "n_layers": 2}, epochs=2, batch_size=4, scenes=(9, 4, 4))

def data():
    x = torch.randn(9, 3, 7, 2, generator=torch.Generator().manual_seed(0)).cumsum(2)
    mask = torch.ones(9, 3, dtype=torch.bool)
    mask[::3, 2] = False
    return TrajectoryDataset(x[:, :, :4], x[:, :, 4:], mask)

def run(out):
    torch.distributed.init_process_group("gloo")
    fit(settings, data(), data(), out=out, max_steps=2)
    fit(settings, data(), data(), out=out)
    torch.distributed.destroy_process_group()

if __name__ == "__main__":
    run(sys.argv[1])
"""


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path, monkeypatch):
    """Nine scenes in batches of four: the last batch has one scene, and one process none of its own."""
    script = tmp_path / "run.py"
    script.write_text(PARALLEL, encoding="utf-8")
    scope = runpy.run_path(str(script))
    fit(scope["settings"], scope["data"](), scope["data"](), out=tmp_path / "one")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", str(script), str(tmp_path / "two")]
    with subprocess.Popen(command, env=os.environ | shared | {"RANK": "1", "LOCAL_RANK": "1"}, stderr=subprocess.PIPE, text=True) as second:
        for name, value in (shared | {"RANK": "0", "LOCAL_RANK": "0"}).items():
            monkeypatch.setenv(name, value)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch.distributed, about its own parts
                scope["run"](tmp_path / "two")
        except BaseException:
            second.kill()
            raise
        assert second.wait(timeout=60) == 0, second.stderr.read()[-3000:]
    one, two = (load_checkpoint(tmp_path / run / "last.pt").model for run in ("one", "two"))
    for name, p in one.items():  # sums in another order, then Adam's division by small moments
        torch.testing.assert_close(two[name], p, atol=2e-5, rtol=1e-4)


@pytest.mark.bad_input
def test_errors(tmp_path):
    with pytest.raises(ValueError, match="train and val must hold scenes"):
        fit(TINY, TrajectoryDataset(torch.zeros(0, 3, 4, 2), torch.zeros(0, 3, 3, 2)), data(), out=tmp_path)
    fit(replace(TINY, epochs=1), data(), data(), out=tmp_path)
    with pytest.raises(ValueError, match=r"belongs to another run \(batch_size: 4 there, 5 here\)"):
        fit(replace(TINY, batch_size=5), data(), data(), out=tmp_path)
    torch.save({"a": 1}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="file must be a checkpoint written by eqmotion train"):
        load_checkpoint(tmp_path / "other.pt")
    with pytest.raises(ValueError, match="name must be one of"):
        recipe("cars")
    with pytest.raises(ValueError, match="changes must be settings of a recipe"):
        recipe("eth", colour=1)
    with pytest.raises(ValueError, match="root must be the folder of the ethucy data"):
        recipe("eth").dataset("train")
    with pytest.raises(ValueError, match="data_options must give at least 7 frames"):
        replace(TINY, data_options={"steps": 1000}).dataset("train")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    options = ["--epochs", "1", "--batch-size", "8", "--scenes", "16", "8", "8", "--width", "8", "--layers", "1", "--learning-rate", "1e-3"]
    result = CliRunner().invoke(app, ["train", "springs", "--out", str(folder), *options])
    assert result.exit_code == 0, result.output
    assert "best epoch 1" in result.output
    return folder, options


def test_command_line(trained, tmp_path):
    folder, options = trained
    run = CliRunner().invoke
    more = run(app, ["train", "springs", "--out", str(folder), *options[2:], "--epochs", "2"])
    assert more.exit_code == 0, more.output
    assert load_checkpoint(folder / "last.pt").epoch == 2
    result = run(app, ["evaluate", str(folder / "best.pt"), "--json", str(tmp_path / "e.json")])
    assert result.exit_code == 0, result.output
    numbers = json.loads((tmp_path / "e.json").read_text())["results"]
    assert numbers["test"]["ade"] == pytest.approx(numbers["test, rotated"]["ade"], rel=1e-5)
    assert 0 <= numbers["test"]["edge_accuracy"] <= 1
    x = np.random.default_rng(0).normal(size=(2, 5, 20, 3))
    np.save(tmp_path / "x.npy", x)
    result = run(app, ["predict", str(folder / "best.pt"), str(tmp_path / "x.npy"), "--out", str(tmp_path / "y.npz")])
    assert result.exit_code == 0, result.output
    model, _ = load_model(folder / "best.pt")
    with np.load(tmp_path / "y.npz") as out, torch.no_grad():
        want = model(torch.from_numpy(x))
        np.testing.assert_array_equal(out["pred"], want.pred.numpy())
        np.testing.assert_array_equal(out["categories"], want.categories.numpy())
    torch.save(torch.from_numpy(x[0]), tmp_path / "x.pt")
    assert run(app, ["predict", str(folder / "best.pt"), str(tmp_path / "x.pt"), "--out", str(tmp_path / "y.pt")]).exit_code == 0
    assert torch.load(tmp_path / "y.pt")["pred"].shape == (5, 20, 3)


def test_command_line_draws(trained, tmp_path):
    pytest.importorskip("matplotlib")
    folder, _ = trained
    for name in ("scene.png", "scene.gif"):
        result = CliRunner().invoke(app, ["plot", str(folder / "best.pt"), "--out", str(tmp_path / name), "--scenes", "2", "--scene", "1"])
        assert result.exit_code == 0, result.output
        assert (tmp_path / name).stat().st_size > 5000


@pytest.mark.bad_input
def test_command_line_errors(trained, tmp_path):
    folder, _ = trained
    run = CliRunner().invoke
    for arguments, message in (
        (["train", "cars", "--out", str(tmp_path)], "name must be one of"),
        (["train", "eth", "--out", str(tmp_path)], "root must be the folder"),
        (["train", "md17", "--out", str(tmp_path), "--data", str(tmp_path)], "sgdml.org"),
        (["evaluate", str(tmp_path / "none.pt")], "none.pt"),
        (["predict", str(folder / "best.pt"), str(tmp_path / "none.npy"), "--out", "y.npz"], "none.npy"),
        (["plot", str(folder / "best.pt"), "--out", "y.png", "--scene", "99", "--scenes", "2"], "scene must be in"),
    ):
        result = run(app, arguments)
        assert result.exit_code == 2, result.output
        assert message in result.output.replace("\n", "")
