"""Training that goes on bit for bit, pseudo-labels, and drawing."""

import dataclasses
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from geocore import planar
from obbkit.data import read_dota_txt, ship_scenes
from ucr_rsar import WeakOrientedDetector, draw
from ucr_rsar.functional import aabb_iou, match_horizontal
from ucr_rsar.pseudo import pseudo_label
from ucr_rsar.recipes import DOTA_CLASSES, RECIPES, build_detector, open_data
from ucr_rsar.training import Trainer, evaluate, learning_rate, predict_image, total_steps

T = torch.tensor
FAST = dataclasses.replace(RECIPES["tiny"], epochs=2, milestones=(1,), batch=2, warm_steps=3, image_size=64, overlap=16)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def scenes(n=5, seed=0):
    images, targets = ship_scenes(n, seed=seed)
    return list(zip(images, targets, strict=True))


def test_recipes_are_those_of_the_paper():
    rsar, dota, hrsc = (RECIPES[name] for name in ("rsar", "dota", "hrsc"))
    assert (rsar.restriction, dota.restriction, hrsc.restriction) == (0.05, 0.03, 0.05)
    assert (rsar.invalid_thr, dota.invalid_thr, hrsc.invalid_thr) == (0.2, 0.2, 0.1)
    assert (rsar.agnostic, dota.agnostic, hrsc.agnostic) == ((3,), (1, 9, 11), ())
    assert rsar.classes[3] == "tank"
    assert [DOTA_CLASSES[k] for k in dota.agnostic] == ["baseball-diamond", "storage-tank", "roundabout"]
    assert dota.shrink == {1: 0.85}
    for recipe in (rsar, dota, hrsc):
        assert (recipe.lr, recipe.betas, recipe.clip, recipe.batch, recipe.flip) == (5e-5, (0.9, 0.999), 35.0, 2, 0.75)
    assert (hrsc.epochs, hrsc.milestones, hrsc.weight_decay) == (72, (48, 66), 0.005)
    assert learning_rate(rsar, 0, 1000) == pytest.approx(5e-5 / 3)
    assert learning_rate(rsar, 250, 1000) == pytest.approx(5e-5 * 2 / 3)
    assert [round(learning_rate(rsar, k * 1000, 1000) / 5e-5, 6) for k in (1, 7, 8, 10, 11)] == [1, 1, 0.1, 0.1, 0.01]
    assert total_steps(FAST, 5) == 6


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


@pytest.mark.parametrize("stop", [2, 3, 5])
def test_stopped_training_goes_on_bit_for_bit(tmp_path, stop):
    data = scenes()
    whole = Trainer(FAST, data, seed=3)
    history = whole.run()
    first = Trainer(FAST, data, seed=3)
    start = first.run(tmp_path, stop_at=stop)
    torch.manual_seed(99)  # a new process has other states
    second = Trainer(FAST, data, seed=3)
    torch.manual_seed(98)
    second.resume(tmp_path / "checkpoint.pt")
    rest = second.run(tmp_path)
    assert torch.equal(weights(whole), weights(second))
    assert start + rest == history
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 6
    assert not list(tmp_path.glob("*.part"))
    assert second.model.head.restriction.steps == 6
    assert second.run() == []
    other = Trainer(FAST, data, seed=4)
    assert not torch.equal(weights(other), weights(Trainer(FAST, data, seed=3)))


def test_workers_change_nothing():
    data = scenes(3)
    short = dataclasses.replace(FAST, epochs=1)
    plain, parallel = Trainer(short, data), Trainer(short, data, workers=1)
    plain.run()
    parallel.run()
    assert torch.equal(weights(plain), weights(parallel))


def test_data_of_every_shape_and_supervision():
    image, target = scenes(1)[0]
    wide = torch.nn.functional.pad(image, (0, 40))
    none = {"boxes": torch.zeros(0, 5), "labels": torch.zeros(0, dtype=torch.int64)}
    upright = {"boxes": planar.obb_to_aabb(target["boxes"]), "labels": target["labels"]}
    ignored = {**target, "ignore": torch.ones(len(target["boxes"]), dtype=torch.bool)}
    data = [(image, target), (wide, none), (image[:, :50], upright), (image, ignored)]
    history = Trainer(dataclasses.replace(FAST, image_size=48), data).run()
    assert all(np.isfinite(h["loss"]) for h in history)
    full = Trainer(dataclasses.replace(FAST, supervision="obb"), scenes(2)).run()
    assert "angle" in full[0]


@pytest.mark.bad_input
def test_bad_trainings_are_refused(tmp_path):
    with pytest.raises(ValueError, match="data must hold images"):
        Trainer(FAST, [])
    data = scenes(2)
    trainer = Trainer(FAST, data)
    trainer.save(tmp_path / "a.pt")
    with pytest.raises(ValueError, match="same recipe and seed, but lr changed"):
        Trainer(dataclasses.replace(FAST, lr=1.0), data).resume(tmp_path / "a.pt")
    with pytest.raises(ValueError, match="but seed changed"):
        Trainer(FAST, data, seed=1).resume(tmp_path / "a.pt")
    with pytest.raises(FileNotFoundError, match="checkpoint"):
        trainer.resume(tmp_path / "none.pt")
    with pytest.raises(FloatingPointError, match="at step 0"):
        Trainer(FAST, [(image * torch.nan, t) for image, t in data]).run()
    with pytest.raises(ValueError, match=r"recipe\.coder must be one of"):
        build_detector(dataclasses.replace(FAST, coder="none"))
    upright = [(image, {**t, "boxes": planar.obb_to_aabb(t["boxes"])}) for image, t in data]
    with pytest.raises(ValueError, match="oriented boxes"):
        evaluate(trainer.model, upright, FAST)
    with pytest.raises(FileNotFoundError, match="must hold one of the folders"):
        open_data(tmp_path, FAST)


class Stages(torch.nn.Module):
    """What timm gives with ``features_only``: maps of strides 2 to 32, those of ``out_indices``."""

    def __init__(self, out_indices=(0, 1, 2, 3, 4)):
        super().__init__()
        sizes = [3, 4, 4, 8, 8, 8]
        self.conv1 = torch.nn.Conv2d(3, 4, 3, 2, 1)
        self.bn1 = torch.nn.BatchNorm2d(4)
        for k in range(1, 5):
            layer = torch.nn.Sequential(torch.nn.Conv2d(sizes[k], sizes[k + 1], 3, 2, 1), torch.nn.BatchNorm2d(sizes[k + 1]))
            setattr(self, f"layer{k}", layer)
        self.out = out_indices
        self.feature_info = SimpleNamespace(
            reduction=lambda: [2 ** (k + 1) for k in self.out], channels=lambda: [sizes[k + 1] for k in self.out]
        )

    def forward(self, x):
        maps = [self.bn1(self.conv1(x))]
        for k in range(1, 5):
            maps.append(getattr(self, f"layer{k}")(maps[-1]))
        return [maps[k] for k in self.out]


def test_published_detector_has_five_levels(monkeypatch):
    def create_model(name, *, pretrained, features_only, out_indices=(0, 1, 2, 3, 4)):
        assert (pretrained, features_only) == (False, True)
        return Stages(out_indices if name == "resnet50" else (0, 1))

    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model))
    model = build_detector(RECIPES["rsar"], steps=100)
    assert model.head.restriction.warmup == 30
    assert model.head.ranges == [(-1, 64), (64, 128), (128, 256), (256, 512), (512, float("inf"))]
    model.train()
    assert model.head.training
    assert not any(m.training for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    frozen = {n.split(".")[0] for n, p in model.backbone.body.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "bn1", "layer1"}
    with torch.no_grad():
        assert [f.shape[-1] for f in model.features(torch.zeros(1, 1, 128, 128))] == [16, 8, 4, 2, 1]
    with pytest.raises(ValueError, match="strides 8, 16 and 32"):
        build_detector(dataclasses.replace(RECIPES["rsar"], backbone="flat"))
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"ucr-rsar\[timm\]"):
        build_detector(RECIPES["rsar"])


class Oracle(WeakOrientedDetector):
    """Knows the boxes, and where a tile lies from the first two pixels of it."""

    def __init__(self, boxes, labels=None):
        torch.nn.Module.__init__(self)
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.boxes = boxes
        self.labels = torch.zeros(len(boxes), dtype=torch.int64) if labels is None else labels
        self.seen = []

    def predict(self, image, sizes, nms_iou, **options):
        self.seen.append(tuple(image.shape[-2:]))
        x, y = (int(v) for v in image[0, 0, 0, 0:2])  # the corner tells where the tile is
        moved = planar.translate(self.boxes, -T([float(x), float(y)]))
        h, w = sizes[0]
        inside = (moved[:, 0] > 0) & (moved[:, 0] < w) & (moved[:, 1] > 0) & (moved[:, 1] < h)
        return [{"boxes": moved[inside], "scores": torch.linspace(1, 0.5, len(moved))[inside], "labels": self.labels[inside]}]


def test_large_images_are_tiled():
    r = torch.rand(12, 5, generator=torch.Generator().manual_seed(0))
    boxes = r * T([190.0, 140, 4, 2, 3.0]) + T([5.0, 5, 6, 4, -1.5])
    model = Oracle(boxes)
    x = torch.arange(200.0).expand(150, 200).clone()
    y = torch.arange(150.0)[:, None].expand(150, 200)
    recipe = dataclasses.replace(FAST, image_size=64, overlap=32, shrink={0: 0.5})
    image = torch.where(torch.arange(200) % 2 == 0, x, y)[None]  # even columns tell x, odd ones y, and tiles start at even ones
    found = predict_image(model, image, recipe)
    assert len(model.seen) > 6
    assert all(h % 32 == 0 and w % 32 == 0 for h, w in model.seen)
    assert len(found["boxes"]) == 12
    gap = torch.cdist(found["boxes"][:, :2], boxes[:, :2]).amin(1)
    assert gap.max() < 1e-3
    assert (found["boxes"][:, 2] < 6).all()  # shrunk to half


def test_matching_horizontal_boxes():
    real = T([[20.0, 20, 16, 6, 0.5], [60, 20, 16, 6, -0.5], [20, 60, 16, 6, 1.0], [70, 70, 9, 3, 0.2]])
    hulls, labels = planar.obb_to_aabb(real), T([0, 0, 1, 0])
    pred = {
        "boxes": torch.cat([real[[1, 0]], real[[0, 2]] + T([1.0, 1, 0, 0, 0.1]), real[2:3]]),
        "scores": T([0.3, 0.4, 0.9, 0.8, 0.2]),
        "labels": T([0, 0, 0, 0, 1]),
    }
    boxes, matched = match_horizontal(pred, hulls, labels)
    assert matched.tolist() == [True, True, True, False]
    torch.testing.assert_close(boxes[:3], real[:3])  # the best hull wins over the best score, and classes count
    torch.testing.assert_close(planar.obb_to_aabb(boxes[3:]), hulls[3:])
    assert boxes[3, 4] == 0
    both = {k: v[:1] for k, v in pred.items()}
    _, matched = match_horizontal(both, hulls[[1, 1]], T([0, 0]))
    assert matched.tolist() == [True, False]  # a prediction serves once
    assert match_horizontal(pred, hulls[:0], labels[:0])[0].shape == (0, 5)
    iou = aabb_iou(hulls, hulls)
    torch.testing.assert_close(iou, planar.obb_iou_matrix(planar.aabb_to_obb(hulls), planar.aabb_to_obb(hulls)), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="min_iou must lie"):
        match_horizontal(pred, hulls, labels, 0.0)
    with pytest.raises(ValueError, match="labels must be one a box"):
        match_horizontal(pred, hulls, labels[:2])


@pytest.mark.parametrize("unmatched", ["upright", "drop"])
def test_pseudo_labels(tmp_path, unmatched):
    real = T([[20.0, 20, 16, 6, 0.5], [44, 40, 16, 6, -0.5]])
    image = torch.zeros(1, 64, 64)
    target = {"boxes": planar.obb_to_aabb(real), "labels": T([0, 0]), "name": "a"}
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "name": "b"}
    model = Oracle(real[:1])
    report = pseudo_label(model, [(image, target), (image, empty)], tmp_path, FAST, unmatched=unmatched)
    assert (report.images, report.boxes, report.matched, report.unmatched) == (2, 2, 1, {"a": 1})
    found = read_dota_txt(tmp_path / "a.txt")
    assert len(found.names) == (2 if unmatched == "upright" else 1)
    assert (found.polygons[0] - planar.obb_to_corners(real[0])).abs().max() < 0.01
    if unmatched == "upright":
        assert found.difficulty.tolist() == [0, 1]
    assert read_dota_txt(tmp_path / "b.txt").names == []
    with pytest.raises(ValueError, match="unmatched must be one of"):
        pseudo_label(model, [], tmp_path, FAST, unmatched="guess")


def test_drawing(tmp_path):
    found = {"boxes": T([[30.0, 20, 20, 8, 0.4], [10, 10, 6, 4, 0.0]]), "labels": T([0, 9]), "scores": T([0.9, 0.1])}
    picture = draw.draw_boxes(torch.rand(1, 40, 60), found, ["ship"] * 10, truth=found, scale=2.0)
    assert picture.size == (120, 80)
    pixels = np.asarray(picture).reshape(-1, 3).tolist()
    assert [0xE0, 0x76, 0x2A] in pixels
    assert [0x2F, 0x6F, 0xDE] not in pixels  # below the threshold
    assert [255, 255, 255] in pixels
    draw.save_image(tmp_path / "new" / "a.png", picture)
    assert (tmp_path / "new" / "a.png").is_file()
    assert draw.draw_boxes(torch.zeros(3, 8, 8), {"boxes": torch.zeros(0, 5), "labels": T([])}).size == (8, 8)
    with pytest.raises(ValueError, match="image must have shape"):
        draw.draw_boxes(torch.zeros(8, 8), found)
