"""The experiments run, resume and complain in the right words."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from comrope import ComRoPE
from comrope.experiments import digits, imagenet
from comrope.experiments._images import FolderImages
from comrope.experiments._vit import ENCODINGS, build_encoding, parameter_groups


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight training and four validation images of two classes in the layout of ImageNet, each class with a colour of its own."""
    image = pytest.importorskip("PIL.Image")
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 4), ("val", 2)):
        for i, name in enumerate(("n01440764", "n01443537")):
            (tmp_path / split / name).mkdir(parents=True)
            for j in range(count):
                noise = torch.randint(0, 120, (40, 56, 3), generator=generator, dtype=torch.uint8)
                noise[..., i] += 120
                image.fromarray(noise.numpy()).save(tmp_path / split / name / f"{name}_{j}.JPEG")
    (tmp_path / "train" / "n01440764" / "notes.txt").write_text("not an image")
    image.new("L", (30, 30), 128).save(tmp_path / "train" / "n01440764" / "grey.JPEG")  # ImageNet has grey images
    return tmp_path


def tiny(folder: Path, **changes: Any) -> imagenet.Recipe:
    settings: dict[str, Any] = {
        "data": str(folder),
        "out": str(folder / "out"),
        "size": 32,
        "patch": 8,
        "dim": 32,
        "depth": 1,
        "heads": 2,
        "block_size": 4,
        "epochs": 2,
        "batch": 4,
        "micro_batch": 2,
        "workers": 0,
        "learning_rate": 1e-3,
        "resolutions": (16, 32, 48),
    }
    return imagenet.Recipe(**settings | changes)


def test_folder_images(folder: Path) -> None:
    data = FolderImages(folder, "train", size=32, augment=True)
    assert data.classes == ["n01440764", "n01443537"]
    assert len(data) == 9
    for pixels, label in data:  # type: ignore[attr-defined]
        assert pixels.shape == (3, 32, 32)
        assert -1 <= pixels.min() <= pixels.max() <= 1
        assert label in (0, 1)
    val = FolderImages(folder, "val", size=32, classes=data.classes)
    (first, label), (again, _) = val[0], val[0]
    assert torch.equal(first, again)
    assert label == 0
    assert first[0].mean() > first[1].mean()


def test_missing_data_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .*train: expected <root>/train/<class>/\*.JPEG.*image-net.org"):
        imagenet.train(tiny(tmp_path))
    (tmp_path / "train" / "n01440764").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="no images in .*image-net.org"):
        imagenet.train(tiny(tmp_path))


def test_imagenet_trains_tests_and_writes_results(folder: Path) -> None:
    lines: list[str] = []
    results = imagenet.train(tiny(folder), device="cpu", log=lines.append)
    assert results["step"] == 4  # 9 images make 2 steps of 4 per epoch
    assert set(results["top1"]) == {"16", "32", "48"}
    assert all(0 <= v <= 100 for v in results["top1"].values())
    assert results["paper"]["512"] == 55.29
    assert json.loads((folder / "out" / "results.json").read_text())["step"] == 4
    assert any("px: top-1" in line for line in lines)


def test_imagenet_resumes_where_it_stopped(folder: Path) -> None:
    imagenet.train(tiny(folder, out=str(folder / "whole")), device="cpu")
    imagenet.train(tiny(folder, out=str(folder / "parts"), max_steps=2), device="cpu")
    lines: list[str] = []
    imagenet.train(tiny(folder, out=str(folder / "parts")), device="cpu", log=lines.append)
    assert any("resumed" in line and "step 2" in line for line in lines)
    whole, parts = (torch.load(folder / n / "checkpoint.pt", weights_only=True) for n in ("whole", "parts"))
    assert whole["step"] == parts["step"] == 4
    for name, value in whole["model"].items():
        torch.testing.assert_close(parts["model"][name], value, rtol=0, atol=0, msg=name)
    with pytest.raises(ValueError, match="belongs to another run .*dim: 32 there, 16 here"):
        imagenet.train(tiny(folder, out=str(folder / "whole"), dim=16, block_size=4), device="cpu")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_takes_a_step(folder: Path, encoding: str) -> None:
    results = imagenet.train(tiny(folder, encoding=encoding, max_steps=1, resolutions=(16,)), device="cpu")
    assert results["step"] == 1
    assert results["paper"] == dict(zip(("224", "384", "512"), imagenet.PAPER.get(encoding, ()), strict=False))


def test_imagenet_command_line(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = {name: getattr(tiny(folder), name) for name in ("size", "patch", "dim", "depth", "heads", "block_size", "resolutions")}
    real = imagenet.Recipe
    monkeypatch.setattr(imagenet, "Recipe", lambda **o: real(**o | small))
    for name in ("perturbation", "epochs", "batch", "micro_batch", "workers", "seed"):
        setattr(imagenet.Recipe, name, getattr(real, name))
    argv = f"--data {folder} --out {folder}/cli --epochs 1 --batch 4 --micro-batch 4 --workers 0 --max-steps 1".split()
    assert imagenet.main(argv) == 0
    assert "paper" in capsys.readouterr().out


@pytest.mark.bad_input
def test_recipe_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="encoding must be one of"):
        tiny(tmp_path, encoding="sine")
    with pytest.raises(ValueError, match=r"multiples of the patch size 8, got \[20\]"):
        tiny(tmp_path, resolutions=(20,))
    with pytest.raises(ValueError, match="batch must be a multiple of micro_batch, got 4 and 3"):
        tiny(tmp_path, micro_batch=3)
    with pytest.raises(ValueError, match="name must be one of"):
        build_encoding("sine", 16, 2, block_size=4)


def test_parameter_groups_spare_frequencies_biases_and_norms() -> None:
    model = digits.build(digits.METHODS["ld"])
    decayed, spared = ({id(p) for p in group["params"]} for group in parameter_groups(model, 0.05))
    names = {id(p): name for name, p in model.named_parameters()}
    assert decayed | spared == set(names)
    assert all(names[i].endswith("weight") and "norm" not in names[i] for i in decayed)
    assert {names[i] for i in spared} >= {"blocks.0.attn.rope.P", "blocks.2.attn.rope.theta", "cls", "head.bias"}


def test_digits_data() -> None:
    x, y, x_test, y_test = digits.load_digits()
    assert x.shape == (1347, 1, 8, 8)
    assert x_test.shape == (450, 1, 8, 8)
    assert (x.min(), x.max()) == (0, 1)
    assert len(y) == 1347
    assert len(y_test) == 450


def test_groups_of_images_may_stand_apart() -> None:
    x = digits.load_digits()[0][:6]
    model = digits.build(digits.METHODS["ld"]).eval()
    positions = torch.rand(2, 1, 17, 2)
    both = model(x, positions)
    torch.testing.assert_close(both[:3], model(x[:3], positions[0, 0]), rtol=0, atol=1e-5)
    torch.testing.assert_close(both[3:], model(x[3:], positions[1, 0]), rtol=0, atol=1e-5)


def test_digits_runs_are_reproducible_and_leave_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    first = digits.run(methods=("ld",), epochs=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert digits.run(methods=("ap", "ld"), epochs=1).accuracy["ld"] == first.accuracy["ld"]
    with pytest.raises(ValueError, match=r"methods must be among .*, got \['sine'\]"):
        digits.run(methods=("sine",))


def test_claims_are_judged_by_their_thresholds() -> None:
    def outcome(**changes: float) -> digits.Outcome:
        row = dict.fromkeys(digits.COLUMNS, 95.0)
        acc = {name: dict(row) for name in digits.QUICK}
        acc["ape"] |= {"8px": 88.0, "12px": 44.0, "shift 2": 41.0}
        acc["liere"]["shift 2"] = 84.0
        for key, value in changes.items():
            name, _, column = key.partition("__")
            acc[name][column.replace("_", " ")] = value
        return digits.Outcome(acc, {name: [rows] for name, rows in acc.items()}, dict.fromkeys(acc, 1.0), {})

    assert all(c.met for c in digits.check_claims(outcome()))
    for broken in (
        {"ap__shift_4": 94.9},
        {"ld__shift_0.5": 95.1},
        {"liere__shift_2": 91.0},
        {"ape__shift_2": 50.0},
        {"ape__8px": 91.0},
        {"ld__12px": 60.0},
    ):
        assert sum(not c.met for c in digits.check_claims(outcome(**broken))) == 1, broken
    assert any("LD +0.0" in sentence for sentence in digits.reading(outcome()))


def test_model_uses_its_own_encoding_per_layer() -> None:
    ropes = [m for m in digits.build(digits.METHODS["ld"]).modules() if isinstance(m, ComRoPE)]
    assert len(ropes) == 3
    assert not torch.equal(ropes[0].P, ropes[1].P)
