"""The command line: training to labels, interruptions, published recipes on data in their formats, errors of one line."""

import dataclasses
import json
import shutil
import signal
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from geocore import planar
from obbkit.data import RSAR_CLASSES, DOTADataset, read_dota_txt, ship_scenes, write_dota_txt
from ucr_rsar import cli
from ucr_rsar.recipes import DOTA_CLASSES, RECIPES, Recipe
from ucr_rsar.training import load_detector

runner = CliRunner()


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def scenes(n=5, seed=0):
    images, targets = ship_scenes(n, seed=seed)
    return list(zip(images, targets, strict=True))


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "data"
    for name in ("images", "annfiles"):
        (root / name).mkdir(parents=True)
    for i, (image, target) in enumerate(scenes()):
        pixels = (image[0] / image.max() * 255).round().byte().numpy()
        Image.fromarray(np.repeat(pixels[..., None], 3, -1)).save(root / "images" / f"s{i}.png")
        write_dota_txt(root / "annfiles" / f"s{i}.txt", target["boxes"], ["ship"] * len(target["boxes"]))
    return root


def invoke(*args, code=0):
    result = runner.invoke(cli.app, [str(a) for a in args])
    assert result.exit_code == code, result.output + str(result.exception)
    return result.output


@pytest.mark.slow
def test_command_line_from_training_to_labels(folder, tmp_path):
    run = tmp_path / "run"
    assert "steps, last loss" in invoke("train", folder, "--out", run, "--epochs", 2, "--batch", 3)
    assert len((run / "log.jsonl").read_text().splitlines()) == 4
    assert "going on at step 4 of 4" in invoke("train", folder, "--out", run, "--epochs", 2, "--batch", 3, "--resume")
    model, recipe = load_detector(run / "checkpoint.pt")
    assert recipe == Recipe(**dataclasses.asdict(dataclasses.replace(RECIPES["tiny"], epochs=2, batch=3)))
    assert not model.training
    out = tmp_path / "found"
    invoke("predict", run / "checkpoint.pt", folder / "images", "--out", out, "--score", 0.001, "--draw")
    assert (out / "Task1_ship.txt").is_file()
    assert len(list((out / "pictures").glob("*.png"))) == 5
    text = invoke("evaluate", out, folder / "annfiles", "--classes", "ship", "--json", tmp_path / "map.json")
    assert "mAP" in text
    files = json.loads((tmp_path / "map.json").read_text())
    invoke("evaluate", run / "checkpoint.pt", folder, "--json", tmp_path / "map2.json")
    assert 0 <= files["mAP"] <= 1
    assert json.loads((tmp_path / "map2.json").read_text())["per_class"][0]["objects"] == files["per_class"][0]["objects"]
    text = invoke("pseudo-label", run / "checkpoint.pt", folder, "--out", tmp_path / "labels")
    assert "5 images" in text
    objects = sum(len(read_dota_txt(p).names) for p in (folder / "annfiles").glob("*.txt"))
    assert sum(len(read_dota_txt(p).names) for p in (tmp_path / "labels").glob("*.txt")) == objects
    invoke("visualise", folder, "--out", tmp_path / "drawn", "--classes", "ship", "--limit", 2)
    invoke("visualise", folder, "--out", tmp_path / "drawn", "--classes", "ship", "--results", out, "--scale", 2)
    with Image.open(tmp_path / "drawn" / "s0.png") as picture:
        assert picture.size == (128, 128)


def test_interrupted_training_goes_on(folder, tmp_path, monkeypatch):
    """One Ctrl-C after the second of six steps: the step ends, a checkpoint is written, and --resume leads to the same weights."""
    args = ("train", folder, "--epochs", 2, "--batch", 2)
    invoke(*args, "--out", tmp_path / "whole")
    report = cli._bar

    @contextmanager
    def interrupting(text):
        with report(text) as progress:

            def tell(done, total, losses=None):
                if losses is not None and done == 2:
                    signal.raise_signal(signal.SIGINT)
                progress(done, total, losses) if losses is not None else progress(done, total)

            yield tell

    monkeypatch.setattr(cli, "_bar", interrupting)
    assert "stopped at step 2 of 6" in invoke(*args, "--out", tmp_path / "run", code=130)
    monkeypatch.setattr(cli, "_bar", report)
    assert "going on at step 2 of 6" in invoke(*args, "--out", tmp_path / "run", "--resume")
    a, b = (torch.load(tmp_path / name / "checkpoint.pt")["model"] for name in ("whole", "run"))
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("workers", [0, 1])
def test_left_out_entries_are_counted_once(folder, tmp_path, workers):
    with (folder / "annfiles" / "s1.txt").open("a") as file:
        file.write("1 2 3 ship\n10 10 30 10 30 20 10 20 plane\n")
    args = ("--epochs", 2, "--batch", 5, "--skip-bad", "--workers", workers)
    assert "2 entries left out" in invoke("train", folder, "--out", tmp_path / "run", *args)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "classes", "suffixes"), [("rsar", RSAR_CLASSES, ("jpg", "bmp", "png")), ("dota", DOTA_CLASSES, ("png",))])
def test_full_recipes_on_data_in_the_true_format(tmp_path, name, classes, suffixes):
    """RSAR: annfiles, suffixes mixed. DOTA: labelTxt with two header lines, and tiles of 1024 made by the command."""
    root, labels = tmp_path / "data", "annfiles" if name == "rsar" else "labelTxt"
    for sub in ("images", labels):
        (root / sub).mkdir(parents=True)
    header = "" if name == "rsar" else "imagesource:GoogleEarth\ngsd:0.146343590398\n"
    for i, (image, target) in enumerate(scenes(3)):
        pixels = (image[0] / image.max() * 255).round().byte().numpy()
        Image.fromarray(np.repeat(pixels[..., None], 3, -1)).save(root / "images" / f"{i:07d}.{suffixes[i % len(suffixes)]}")
        names = [classes[(i + k) % len(classes)] for k in range(len(target["boxes"]))]
        file = root / labels / f"{i:07d}.txt"
        write_dota_txt(file, target["boxes"], names)
        file.write_text(header + file.read_text())
    if name == "dota":
        invoke("convert", root / labels, tmp_path / "tiles", "--tiles", 1024, "--images", root / "images")
        root = tmp_path / "tiles"
    small = ("--backbone", "tiny", "--epochs", 1)
    text = invoke("train", "--full", name, "--data", root, "--out", tmp_path / "run", "--val", root, *small)
    assert "3 images, 2 steps" in text
    _, recipe = load_detector(tmp_path / "run" / "checkpoint.pt")
    assert recipe == Recipe(**dataclasses.asdict(dataclasses.replace(RECIPES[name], backbone="tiny", epochs=1)))
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert len(found["per_class"]) == len(classes)
    assert sum(row["objects"] for row in found["per_class"]) == sum(len(t["boxes"]) for _, t in scenes(3))


def test_command_line_of_the_tools(folder, tmp_path):
    ann = folder / "annfiles"
    assert "0 problems" in invoke("validate", ann, "--images", folder / "images", "--classes", "ship", "--margin", 10)
    invoke("convert", ann, tmp_path / "yolo", "--to", "yolo-obb", "--images", folder / "images")
    invoke(
        "convert",
        tmp_path / "yolo",
        tmp_path / "dota",
        "--from",
        "yolo-obb",
        "--to",
        "dota",
        "--classes",
        "ship",
        "--images",
        folder / "images",
    )
    a, b = (read_dota_txt(p / "s0.txt") for p in (ann, tmp_path / "dota"))
    sides = [planar.min_area_rect(x.polygons) for x in (a, b)]
    assert planar.obb_iou(*sides).min() > 0.98
    assert "tiles" in invoke("convert", ann, tmp_path / "tiles", "--tiles", 40, "--overlap", 10, "--images", folder / "images")
    assert len(DOTADataset(tmp_path / "tiles", ["ship"])) == 5 * 4
    invoke("stats", ann, "--json", tmp_path / "stats.json")
    assert json.loads((tmp_path / "stats.json").read_text())["images"] == 5
    with (ann / "s1.txt").open("a") as file:
        file.write("1 2 3 ship\n")
    text = invoke("validate", ann, "--json", tmp_path / "bad.json", code=1)
    assert "1 problems" in text
    (bad,) = json.loads((tmp_path / "bad.json").read_text())
    assert bad["file"].endswith("s1.txt")
    assert bad["line"] == len((ann / "s1.txt").read_text().splitlines())
    assert "1 left out" in invoke("stats", ann, "--skip-bad")


@pytest.mark.bad_input
def test_errors_are_one_line(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "void").mkdir()
    (tmp_path / "text.pt").write_text("weights")
    torch.save({"model": {}}, tmp_path / "other.pt")
    cut, odd = shutil.copytree(folder, tmp_path / "cut"), shutil.copytree(folder, tmp_path / "odd")
    (cut / "images" / "s0.png").write_bytes((folder / "images" / "s0.png").read_bytes()[:900])
    (odd / "annfiles" / "s0.txt").write_text("10 10 30 10 30 20 10 20 ship\r\n10 10 30 10 30 20 10 20 plane\r\n")
    (folder / "annfiles" / "s1.txt").write_text("1 2 3 ship\n")
    for args, text in (
        (["stats", folder / "annfiles"], "s1.txt, line 1"),
        (["train", tmp_path, "--out", tmp_path / "run"], "must hold one of the folders"),
        (["predict", tmp_path / "none.pt", folder, "--out", tmp_path], "checkpoint"),
        (["predict", tmp_path / "text.pt", folder, "--out", tmp_path], "text.pt is no checkpoint"),
        (["predict", tmp_path / "other.pt", folder, "--out", tmp_path], "must be a checkpoint of this package"),
        (["validate", tmp_path / "void"], "must hold .txt files, got none"),
        (["stats", tmp_path / "void"], "must hold .txt files, got none"),
        (["train", cut, "--out", tmp_path / "run"], "s0.png cannot be read"),
        (["train", odd, "--out", tmp_path / "run"], "s0.txt, line 2: class 'plane' is not one of ship"),
    ):
        monkeypatch.setattr("sys.argv", ["ucr-rsar", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == 2
        assert text in capsys.readouterr().err.replace("\n", "")
    assert "recipe must be one of" in invoke("train", folder, "--out", tmp_path, "--recipe", "coco", code=2)
    assert "cannot be used" in invoke("train", folder, "--out", tmp_path, "--device", "cube", code=2)
    for more in (("--full", "coco"), ("--full", "rsar", "--recipe", "tiny")):
        assert "--full takes one of" in invoke("train", folder, "--out", tmp_path, *more, code=2)
    for given in ((), (folder, "--data", folder)):
        assert "give one data folder" in invoke("train", *given, "--out", tmp_path, code=2)
