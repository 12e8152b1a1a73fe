"""Formats, validation, statistics and result files."""

import json
from math import pi

import numpy as np
import pytest
import torch
from PIL import Image

from geocore import planar
from obbkit import RotatedMAP
from obbkit.data import AnnotationError, read_dota_txt, write_dota_results, write_dota_txt
from ucr_rsar import tools

T = torch.tensor
CLASSES = ("ship", "car")


def boxes(n, seed=0):
    r = torch.rand(n, 5, generator=torch.Generator().manual_seed(seed))
    return r * T([60.0, 40, 20, 5, 3.0]) + T([20.0, 20, 12, 5, -1.5])


@pytest.fixture
def root(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "ann").mkdir()
    for i, n in enumerate((4, 3, 0)):
        Image.fromarray(np.zeros((80, 100 + i), dtype=np.uint8)).save(tmp_path / "images" / f"a{i}.png")
        write_dota_txt(tmp_path / "ann" / f"a{i}.txt", boxes(n, i), [CLASSES[k % 2] for k in range(n)])
    return tmp_path


@pytest.mark.parametrize("kind", tools.FORMATS)
def test_every_format_there_and_back(root, kind):
    target = root / ("a.json" if kind == "coco" else "out")
    counts = tools.convert(root / "ann", "dota", target, kind, classes=CLASSES, images=root / "images")
    assert counts == {"images": 3, "objects": 7, "skipped": 0}
    back = tools.read_labels(target, kind, classes=CLASSES, images=root / "images")
    assert set(back) == {"a0", "a1", "a2"}
    for i, n in enumerate((4, 3, 0)):
        found = back[f"a{i}"]
        assert found.names == [CLASSES[k % 2] for k in range(n)]
        hull = planar.obb_to_aabb(boxes(n, i))
        if kind in ("yolo", "xyxy"):
            assert found.horizontal or n == 0
            assert (found.upright() - hull).abs().max() < 0.02 if n else found.upright().shape == (0, 4)
        elif n:
            assert not found.horizontal
            assert planar.obb_iou(found.boxes(), boxes(n, i)).min() > 0.98
    if kind == "coco":
        document = json.loads(target.read_text())
        for entry in document["annotations"]:
            del entry["rbox"], entry["segmentation"]
        target.write_text(json.dumps(document))
        upright = tools.read_labels(target, "coco")["a0"]
        assert upright.horizontal
        assert (upright.upright() - planar.obb_to_aabb(boxes(4))).abs().max() < 0.02


def test_dior_becomes_dota(tmp_path):
    (tmp_path / "xml").mkdir()
    box = "".join(f"<{k}>{v}</{k}>" for k, v in (("xmin", 3), ("ymin", 4), ("xmax", 9), ("ymax", 8)))
    (tmp_path / "xml" / "1.xml").write_text(f"<annotation><object><name>dam</name><bndbox>{box}</bndbox></object></annotation>")
    assert tools.convert(tmp_path / "xml", "dior", tmp_path / "dota", "dota") == {"images": 1, "objects": 1, "skipped": 0}
    assert (tmp_path / "dota" / "1.txt").read_text().split() == ["3.00", "4.00", "9.00", "4.00", "9.00", "8.00", "3.00", "8.00", "dam", "0"]
    with pytest.raises(ValueError, match="kind must be one of"):
        tools.convert(tmp_path / "xml", "dior", tmp_path / "out", "dior")
    with pytest.raises(FileNotFoundError, match=r"must hold \.xml files"):
        tools.read_labels(tmp_path / "dota", "dior")


def test_own_horizontal_boxes_become_training_data(root):
    """zhasion/RSAR#9: labels that were never oriented."""
    (root / "mine").mkdir()
    (root / "mine" / "a0.txt").write_text("10 12 40 30 ship\n5,5,9,8,car\n\n")
    counts = tools.convert(root / "mine", "xyxy", root / "out", "dota")
    assert counts["objects"] == 2
    found = read_dota_txt(root / "out" / "a0.txt")
    assert found.names == ["ship", "car"]
    assert found.polygons[0].tolist() == [[10, 12], [40, 12], [40, 30], [10, 30]]


BAD = {
    "xyxy": ("1 2 3 ship\n", "1 2 0 9 ship\n", "1 2 x 9 ship\n", "1 2 nan 9 ship\n", "1 2 8 9 boat\n"),
    "yolo": ("0 .5 .5 .1\n", "2 .5 .5 .1 .1\n", "x .5 .5 .1 .1\n", "0 .5 .5 -.1 .1\n"),
    "yolo-obb": ("0 .1 .1 .2 .1 .2 .2 .1\n", "0 .1 .1 .2 .1 .2 .2 .1 inf\n", "-1 .1 .1 .2 .1 .2 .2 .1 .2\n"),
}
GOOD = {"xyxy": "1 2 8 9 ship\n", "yolo": "0 .5 .5 .1 .1\n", "yolo-obb": "0 .1 .1 .2 .1 .2 .2 .1 .2\n"}


@pytest.mark.bad_input
@pytest.mark.parametrize(("kind", "line"), [(kind, line) for kind, lines in BAD.items() for line in lines])
def test_bad_lines_are_named_or_counted(root, kind, line):
    (root / "bad").mkdir()
    (root / "bad" / "a0.txt").write_text(GOOD[kind] + line + GOOD[kind])
    with pytest.raises(AnnotationError, match=r"a0\.txt, line 2: "):
        tools.read_labels(root / "bad", kind, classes=CLASSES, images=root / "images")
    found = tools.read_labels(root / "bad", kind, classes=CLASSES, images=root / "images", errors="skip")["a0"]
    assert found.skipped == 1
    assert found.names == ["ship", "ship"]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "change",
    [
        {"category_id": 7},
        {"image_id": 9},
        {"rbox": [1, 2, 3]},
        {"rbox": [1, 2, 3, float("nan"), 0]},
        {"bbox": [1, 2, 3], "rbox": None},
        {"bbox": [1, 2, -3, 4], "rbox": None},
    ],
)
def test_bad_coco_entries(root, change):
    tools.convert(root / "ann", "dota", root / "a.json", "coco", classes=CLASSES, images=root / "images")
    document = json.loads((root / "a.json").read_text())
    entry = document["annotations"][1]
    entry.update(change)
    if change.get("rbox", 0) is None:
        del entry["rbox"], entry["segmentation"]
    (root / "a.json").write_text(json.dumps(document))
    with pytest.raises(AnnotationError, match=r"a\.json, annotation 1: "):
        tools.read_labels(root / "a.json", "coco")
    found = tools.read_labels(root / "a.json", "coco", errors="skip")
    assert sum(e.skipped for e in found.values()) == 1
    assert sum(len(e.names) for e in found.values()) == 6


@pytest.mark.bad_input
def test_missing_things_are_named(root):
    with pytest.raises(ValueError, match="kind must be one of 'dota'"):
        tools.read_labels(root / "ann", "voc")
    with pytest.raises(FileNotFoundError, match="annotation folder"):
        tools.read_labels(root / "none", "dota")
    with pytest.raises(FileNotFoundError, match=r"none\.json is missing"):
        tools.read_labels(root / "none.json", "coco")
    with pytest.raises(ValueError, match="classes and images must be given"):
        tools.read_labels(root / "ann", "yolo")
    with pytest.raises(FileNotFoundError, match="image of"):
        tools.read_labels(root / "ann", "yolo", classes=CLASSES, images={"a1": (1, 1)})
    with pytest.raises(ValueError, match="size of image 'a0' must be known"):
        tools.convert(root / "ann", "dota", root / "out", "coco")
    with pytest.raises(ValueError, match="classes must list car"):
        tools.convert(root / "ann", "dota", root / "out", "xyxy", classes=("ship",))
    (root / "bad.json").write_text("{")
    with pytest.raises(AnnotationError, match=r"bad\.json: expected JSON"):
        tools.read_labels(root / "bad.json", "coco")
    with pytest.raises(FileNotFoundError, match="annotation folder"):
        tools.validate(root / "none")
    with pytest.raises(FileNotFoundError, match="image folder"):
        tools.image_sizes(root / "none")


def test_validation_finds_every_problem(root):
    assert tools.validate(root / "ann", images=root / "images", classes=CLASSES, margin=5.0) == []
    path = root / "ann" / "a1.txt"
    lines = path.read_text().splitlines()
    extra = [
        "1 2 3 4 ship",
        "0 0 4 2 4 0 0 2 ship 0",
        lines[0],
        "0 0 4 0 4 2 0 2 boat 0",
        "0 0 4 0 4 2 0 nan ship 0",
        "300 300 340 300 340 320 300 320 ship 0",
    ]
    path.write_text("imagesource:GoogleEarth\n" + "\n".join(lines + extra) + "\n")
    (root / "ann" / "b.txt").write_text("")
    (root / "images" / "a2.png").rename(root / "images" / "c.png")
    found = tools.validate(root / "ann", images=root / "images", classes=CLASSES, margin=5.0)
    own = [p for p in found if p.file == str(path)]
    assert [p.line for p in own] == [5, 6, 7, 8, 9, 10]
    for problem, text in zip(own, ("columns", "convex", "same object as in line 2", "'boat'", "finite", "outside"), strict=True):
        assert text in problem.message
    assert {p.message.split(" in ")[0] for p in found if p.line == 0} == {
        "there is no image 'b'",
        "there is no image 'a2'",
        "image 'c' has no annotation file",
    }
    assert not any("outside" in p.message for p in tools.validate(root / "ann", images=root / "images"))


def test_statistics(root):
    b = torch.cat([T([[50.0, 40, 20, 10, k * pi / 12 - pi / 2 + 0.1]]) for k in range(12)] + [T([[50.0, 40, 10, 10, 0.0]])])
    write_dota_txt(root / "ann" / "a2.txt", b, ["tank"] * 13)
    found = tools.statistics(tools.read_labels(root / "ann", "dota"))
    assert (found["images"], found["empty"], found["objects"], found["objects_per_image"]) == (3, 0, 20, 13)
    tank = found["per_class"]["tank"]
    assert (tank["objects"], tank["images"]) == (13, 1)
    assert tank["long side"][1] == pytest.approx(20, abs=0.05)
    assert tank["aspect"][1] == pytest.approx(0.5, abs=0.01)
    assert sum(found["angles"]) == pytest.approx(1)
    assert found["square"] == pytest.approx(1 / 20)
    only = {"a": tools.Labels(planar.obb_to_corners(b[:12]).double(), ["tank"] * 12, [0] * 12)}
    assert tools.statistics(only)["angles"] == pytest.approx([1 / 12] * 12)
    assert tools.statistics({})["objects"] == 0


def test_result_files(root):
    results, metric = {}, RotatedMAP(num_classes=2)
    for i, n in enumerate((4, 3, 0)):
        real = {"boxes": boxes(n, i), "labels": torch.arange(n) % 2}
        noise = torch.randn(n, 5, generator=torch.Generator().manual_seed(i)) * T([1.0, 1, 0.5, 0.5, 0.05])
        results[f"a{i}"] = {"boxes": real["boxes"] + noise, "scores": torch.linspace(0.9, 0.2, n), "labels": real["labels"]}
        metric.update([results[f"a{i}"]], [real])
    write_dota_results(root / "res", results, CLASSES)
    found, wanted = tools.evaluate_results(root / "res", root / "ann", CLASSES), metric.compute()
    assert found["mAP"] == pytest.approx(wanted["mAP"], abs=1e-6)
    assert found["images"] == 3
    assert found["skipped"] == 0
    path = root / "res" / "Task1_car.txt"
    path.write_text(path.read_text() + "a0 0.5 1 2 3\n")
    with pytest.raises(AnnotationError, match=r"Task1_car\.txt, line \d+: expected an image"):
        tools.evaluate_results(root / "res", root / "ann", CLASSES)
    assert tools.evaluate_results(root / "res", root / "ann", CLASSES, errors="skip")["skipped"] == 1
    path.write_text("zz 0.5 0 0 4 0 4 2 0 2\n")
    with pytest.raises(ValueError, match="the first on 'zz'"):
        tools.evaluate_results(root / "res", root / "ann", CLASSES)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="Task1_car.txt is missing"):
        tools.evaluate_results(root / "res", root / "ann", CLASSES)


def test_difficult_objects_do_not_count(root):
    write_dota_txt(root / "ann" / "a0.txt", boxes(2), ["ship", "ship"], [0, 1])
    for i in (1, 2):
        write_dota_txt(root / "ann" / f"a{i}.txt", boxes(0), [])
    one = {"boxes": boxes(2)[:1], "scores": torch.ones(1), "labels": T([0])}
    write_dota_results(root / "res", {"a0": one}, ("ship",))
    assert tools.evaluate_results(root / "res", root / "ann", ("ship",), eval_mode="area")["AP50"] == pytest.approx(0.5)
    easy = tools.evaluate_results(root / "res", root / "ann", ("ship",), eval_mode="area", difficulty_max=0)
    assert easy["AP50"] == pytest.approx(1.0)


def test_tiles(root):
    counts = tools.tile_folder(root / "images", root / "ann", root / "tiles", size=50, overlap=10, min_share=0.0)
    assert counts["images"] == 3
    names = {p.stem for p in (root / "tiles" / "images").glob("*.png")}
    assert names == {p.stem for p in (root / "tiles" / "annfiles").glob("*.txt")}
    assert len(names) == counts["tiles"]
    assert "a0__50___30" in names
    with Image.open(root / "tiles" / "images" / "a0__50___30.png") as image:
        assert image.size == (50, 50)
    found = read_dota_txt(root / "tiles" / "annfiles" / "a0__0___0.txt").polygons
    whole = planar.obb_to_corners(boxes(4)).double()
    assert all((whole - quad).abs().amax((-1, -2)).min() < 0.01 for quad in found)
    assert tools.tile_folder(root / "images", None, root / "plain", size=200, overlap=50)["tiles"] == 3
