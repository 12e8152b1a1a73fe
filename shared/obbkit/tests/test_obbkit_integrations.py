"""Adapters, processes, and scenes on real backgrounds."""

import socket
import warnings
from math import pi
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from geocore import planar
from obbkit import RotatedMAP
from obbkit.data import ship_scenes
from obbkit.integrations import ultralytics
from obbkit.losses import probiou

T = torch.tensor


def boxes(n, seed=0):
    r = torch.rand(n, 5, generator=torch.Generator().manual_seed(seed))
    return r * T([60.0, 60, 14, 8, 6.0]) + T([0, 0, 4.0, 3.0, -3.0])


def images(count=6):
    g = torch.Generator().manual_seed(1)
    targets = [{"boxes": boxes(5, s), "labels": torch.randint(2, (5,), generator=g), "ignore": torch.arange(5) == s} for s in range(count)]
    preds = []
    for t in targets:
        near = t["boxes"] + torch.randn(5, 5, generator=g) * T([1.0, 1, 0.5, 0.5, 0.1])
        preds.append({"boxes": near, "scores": torch.rand(5, generator=g), "labels": t["labels"]})
    return preds, targets


def whole():
    metric = RotatedMAP(num_classes=2)
    metric.update(*images())
    return metric.compute()


def worker(rank, port, queue):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    preds, targets = images()
    part = slice(0, 4) if rank == 0 else slice(4, 6)
    metric = RotatedMAP(num_classes=2)
    metric.update(preds[part], targets[part])
    metric.all_gather()
    queue.put((rank, metric.images, metric.compute()))
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_are_one():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    context = mp.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=worker, args=(rank, port, queue)) for rank in range(2)]
    for p in processes:
        p.start()
    try:
        got = [queue.get(timeout=60) for _ in range(2)]
    finally:
        for p in processes:
            p.join(timeout=20)
            if p.is_alive():
                p.terminate()
    wanted = whole()
    for _, count, found in got:
        assert count == 6
        assert found == wanted
    alone = RotatedMAP(num_classes=2)
    alone.update(*images())
    alone.all_gather()  # without processes nothing happens
    assert alone.compute() == wanted


def coco_reference(preds, targets, classes):
    """pycocotools on upright boxes: AP at .50:.05:.95, .50 and .75."""
    coco = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval

    rows, found = [], []
    for i, (p, t) in enumerate(zip(preds, targets, strict=True)):
        for b, c in zip(t["boxes"].tolist(), t["labels"].tolist(), strict=True):
            box = [b[0] - b[2] / 2, b[1] - b[3] / 2, b[2], b[3]]
            rows.append({"id": len(rows) + 1, "image_id": i + 1, "category_id": c + 1, "bbox": box, "area": b[2] * b[3], "iscrowd": 0})
        for b, c, s in zip(p["boxes"].tolist(), p["labels"].tolist(), p["scores"].tolist(), strict=True):
            box = [b[0] - b[2] / 2, b[1] - b[3] / 2, b[2], b[3]]
            found.append({"image_id": i + 1, "category_id": c + 1, "bbox": box, "score": s})
    truth = coco.COCO()
    categories = [{"id": c + 1, "name": str(c)} for c in range(classes)]
    truth.dataset = {"images": [{"id": i + 1} for i in range(len(preds))], "annotations": rows, "categories": categories}
    truth.createIndex()
    with warnings.catch_warnings():  # of numpy, in pycocotools
        warnings.simplefilter("ignore", DeprecationWarning)
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:3]


def test_coco_mode_is_that_of_pycocotools():
    g = torch.Generator().manual_seed(2)
    upright = T([1.0, 1, 1, 1, 0])
    targets = [{"boxes": (boxes(12, s) * upright).double(), "labels": torch.randint(3, (12,), generator=g)} for s in range(8)]
    preds = []
    for t in targets:
        near = t["boxes"].repeat(3, 1) + torch.randn(36, 5, generator=g) * T([1.0, 1, 0.7, 0.7, 0])
        labels = torch.where(torch.rand(36, generator=g) < 0.9, t["labels"].repeat(3), torch.randint(3, (36,), generator=g))
        preds.append({"boxes": near, "scores": torch.rand(36, generator=g), "labels": labels})
    metric = RotatedMAP(eval_mode="coco", num_classes=3)
    metric.update(preds, targets)
    found = metric.compute()
    wanted = coco_reference(preds, targets, 3)
    assert 0.1 < wanted[0] < 0.9
    assert [found["mAP"], found["AP50"], found["AP75"]] == pytest.approx(wanted.tolist(), abs=1e-6)


def test_torchmetrics_adapter():
    pytest.importorskip("torchmetrics")
    preds, targets = images()
    metric = RotatedMAP(num_classes=2).as_torchmetrics()
    for p, t in zip(preds, targets, strict=True):
        metric.update([p], [t])
    found, wanted = metric.compute(), whole()
    for name in ("mAP", "AP50", "AP75"):
        assert found[name].item() == pytest.approx(wanted[name], abs=1e-6)
    metric.reset()
    metric.update(preds[:1], targets[:1])
    one = RotatedMAP(num_classes=2)
    one.update(preds[:1], targets[:1])
    assert metric.compute()["mAP"].item() == pytest.approx(one.compute()["mAP"], abs=1e-6)
    with pytest.raises(ValueError, match="labels below 2"):
        metric.update([{**preds[0], "labels": T([2] * 5)}], targets[:1])


def test_mmengine_registries():
    registry = pytest.importorskip("mmengine.registry")
    from obbkit.coders import ACMCoder, PSCCoder
    from obbkit.integrations import mmengine

    names = mmengine.register()
    assert names == mmengine.register()  # again changes nothing
    child = registry.Registry("task util", parent=registry.TASK_UTILS, scope="obbkit_test")
    assert isinstance(child.build({"type": "ACMCoder"}), ACMCoder)
    coder = child.build({"type": "PSCCoder", "dual_freq": False, "num_step": 4})
    assert isinstance(coder, PSCCoder)
    assert coder.encode_size == 4
    assert "ObbPSCCoder" in mmengine.register("Obb")
    with pytest.raises(ValueError, match="name must be new"):
        mmengine.add(registry.TASK_UTILS, "ACMCoder", PSCCoder)


def test_mmengine_metric():
    registry = pytest.importorskip("mmengine.registry")
    from obbkit.integrations import mmengine

    mmengine.register()
    metric = registry.METRICS.build({"type": "OBBMetric", "num_classes": 2})
    preds, targets = images()
    samples = []
    for p, t in zip(preds, targets, strict=True):
        parts = [{"bboxes": SimpleNamespace(tensor=t["boxes"][k]), "labels": t["labels"][k]} for k in (~t["ignore"], t["ignore"])]
        pred = {"bboxes": p["boxes"], "scores": p["scores"], "labels": p["labels"]}
        samples.append(
            {"pred_instances": pred, "gt_instances": parts[0]} | ({"ignored_instances": parts[1]} if len(parts[1]["labels"]) else {})
        )
    metric.process(None, samples)
    found, wanted = metric.evaluate(6), whole()
    assert found["obb/mAP"] == pytest.approx(wanted["mAP"])
    assert found["obb/AP50"] == pytest.approx(wanted["AP50"])


def test_ultralytics_boxes():
    b = boxes(200)
    r = ultralytics.obb_to_xywhr(b)
    assert (r[:, 4] >= 0).all()
    assert (r[:, 4] < pi / 2).all()
    assert planar.obb_iou(r, b).min() > 1 - 1e-5
    back = ultralytics.xywhr_to_obb(r)
    assert (back[:, 2] >= back[:, 3]).all()
    assert planar.obb_iou(back, b).min() > 1 - 1e-5
    rows = ultralytics.to_results_data(b, torch.rand(200), torch.arange(200) % 3)
    assert rows.shape == (200, 7)
    obb = SimpleNamespace(xywhr=rows[:, :5], conf=rows[:, 5], cls=rows[:, 6])
    found = ultralytics.from_results(SimpleNamespace(obb=obb))
    assert torch.equal(found["labels"], torch.arange(200) % 3)
    assert torch.equal(found["scores"], rows[:, 5])
    assert planar.obb_iou(found["boxes"], b).min() > 1 - 1e-5


@pytest.mark.bad_input
def test_bad_ultralytics_boxes_are_refused():
    b = boxes(200)
    with pytest.raises(ValueError, match="OBB model"):
        ultralytics.from_results(SimpleNamespace(obb=None))
    with pytest.raises(ValueError, match="one a box"):
        ultralytics.to_results_data(b, torch.rand(3), torch.arange(200))


def test_probiou_of_covariances():
    """Covariances from sides and angle, a = (w^2 cos^2 + h^2 sin^2) / 12 and so on, Bhattacharyya's distance and Hellinger's of it.

    These are the formulas of ``ultralytics.utils.metrics.probiou``. It is no test dependency: its licence is AGPL-3.0, and it brings
    torchvision and polars and writes settings when imported. Equal boxes give 1 here; there, a constant under a root leaves 4.5e-4.
    """
    x, y = boxes(300).double(), boxes(300, 1).double()
    y[:, :2] = x[:, :2] + 3 * torch.randn(300, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def entries(b):
        w, h, c, s = b[:, 2] ** 2 / 12, b[:, 3] ** 2 / 12, b[:, 4].cos(), b[:, 4].sin()
        return w * c**2 + h * s**2, w * s**2 + h * c**2, (w - h) * c * s

    (a1, b1, c1), (a2, b2, c2) = entries(x), entries(y)
    a, b, c = a1 + a2, b1 + b2, c1 + c2
    dx, dy = (x - y)[:, 0], (x - y)[:, 1]
    far = (a * dy**2 + b * dx**2 - 2 * c * dx * dy) / (a * b - c**2) / 4
    shape = 0.5 * ((a * b - c**2) / (4 * ((a1 * b1 - c1**2) * (a2 * b2 - c2**2)).sqrt())).log()
    wanted = 1 - (1 - (-far - shape).exp()).clamp(min=0).sqrt()
    torch.testing.assert_close(probiou(x, y), wanted, rtol=0, atol=1e-5)


def test_scenes_on_real_backgrounds():
    y, x = torch.meshgrid(torch.linspace(0, 1, 90), torch.linspace(0, 1, 120), indexing="ij")
    stack = torch.stack([x, y])
    images, targets = ship_scenes(4, seed=3, backgrounds=stack, looks=400)
    again, _ = ship_scenes(4, seed=3, backgrounds=stack, looks=400)
    assert torch.equal(images, again)
    assert not torch.equal(images[0], ship_scenes(4, seed=4, backgrounds=stack, looks=400)[0][0])
    assert all(1 <= len(t["boxes"]) <= 4 for t in targets)
    free = torch.ones(64, 64, dtype=torch.bool)
    for box in targets[0]["boxes"]:
        free &= ~planar.rasterize(planar.obb_to_corners(box), (64, 64))
    flat = images[0, 0].expm1()
    profiles = [torch.where(free, flat, torch.nan).nanmean(k).std() for k in (0, 1)]
    assert min(profiles) < 0.2 * max(profiles)  # a crop of a ramp is level along one axis
    assert flat[~free].mean() > 2 * flat[free].mean()
    with pytest.raises(ValueError, match="backgrounds must be grey images"):
        ship_scenes(1, backgrounds=stack[:, :40])
