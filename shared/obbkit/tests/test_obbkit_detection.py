"""Suppression, pooling, points, views and evaluation against brute force."""

from math import pi

import numpy as np
import pytest
import torch
from shapely import Polygon

from geocore import planar
from obbkit import RotatedMAP, roi_align_rotated, rotated_nms
from obbkit.metrics import average_precision
from obbkit.points import assign_points, centerness, decode_points, encode_points, grid_points
from obbkit.views import flip_view, resize_view, rotate_view, three_views

T = torch.tensor


def boxes(n, size=60.0, seed=0):
    r = torch.rand(n, 5, generator=torch.Generator().manual_seed(seed))
    return r * T([size, size, 14.0, 8.0, 6.0]) + T([0, 0, 4.0, 3.0, -3.0])


def shapely_iou(a, b):
    p, q = (Polygon(planar.obb_to_corners(x.double()).numpy()) for x in (a, b))
    shared = p.intersection(q).area
    return shared / (p.area + q.area - shared)


def brute_nms(b, s, threshold, labels=None):
    order = sorted(range(len(b)), key=lambda i: (-s[i].item(), i))
    kept = []
    for i in order:
        if all((labels is not None and labels[i] != labels[j]) or shapely_iou(b[i], b[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5])
def test_nms_equals_brute_force(threshold):
    b, labels = boxes(120), torch.arange(120) % 3
    s = torch.rand(120, generator=torch.Generator().manual_seed(1)).round(decimals=1)  # with ties
    assert rotated_nms(b, s, threshold).tolist() == brute_nms(b, s, threshold)
    assert rotated_nms(b, s, threshold, labels).tolist() == brute_nms(b, s, threshold, labels)
    assert rotated_nms(b, s, threshold, max_output=5).tolist() == brute_nms(b, s, threshold)[:5]
    assert rotated_nms(b[:0], s[:0], threshold).tolist() == []


def test_nms_removes_exact_duplicates_in_any_writing():
    b = boxes(50)
    twins = torch.cat([b[:, :2], b[:, 3:4], b[:, 2:3], b[:, 4:] + pi / 2], 1)
    far = torch.cat([b, twins]) * T([10.0, 10, 1, 1, 1])
    assert rotated_nms(far, torch.cat([torch.ones(50), torch.zeros(50)]), 0.9).tolist() == list(range(50))


@pytest.mark.bad_input
def test_nms_refuses():
    b, s = boxes(3), torch.ones(3)
    with pytest.raises(ValueError, match="must have shapes"):
        rotated_nms(b, s[:2], 0.5)
    with pytest.raises(ValueError, match="iou_threshold must lie"):
        rotated_nms(b, s, 1.5)
    with pytest.raises(ValueError, match="must not be NaN"):
        rotated_nms(b, s * torch.nan, 0.5)


def test_roi_align_of_a_linear_map_is_exact():
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(30.0), indexing="ij")
    maps = torch.stack([x + 0.5, y + 0.5, torch.ones_like(x)])[None].repeat(2, 1, 1, 1)
    rois = T([[0.0, 15, 10, 8, 4, 0.6], [1.0, 12, 9, 5, 5, -1.0]]).requires_grad_()
    out = roi_align_rotated(maps, rois, (4, 6))
    for roi, cell in zip(rois.detach(), out, strict=True):
        u = ((torch.arange(6) + 0.5) / 6 - 0.5) * roi[3]
        v = ((torch.arange(4) + 0.5) / 4 - 0.5) * roi[4]
        c, s = roi[5].cos(), roi[5].sin()
        assert torch.allclose(cell[0], roi[1] + c * u - s * v[:, None], atol=1e-4)
        assert torch.allclose(cell[1], roi[2] + s * u + c * v[:, None], atol=1e-4)
        assert torch.allclose(cell[2], torch.ones(4, 6))
    assert torch.autograd.grad(out.sum(), rois)[0].isfinite().all()
    upright = roi_align_rotated(maps, T([[0.0, 15, 10, 8, 4, 0.0]]), 2, sampling_ratio=1)
    turned = roi_align_rotated(maps, T([[0.0, 15, 10, 8, 4, pi]]), 2, sampling_ratio=1)
    assert torch.allclose(turned, upright.flip(-1, -2), atol=1e-5)
    assert roi_align_rotated(maps, torch.zeros(0, 6), 3).shape == (0, 3, 3, 3)
    least = T([[0.0, 15, 10, 1, 1, 0.0]]).requires_grad_()  # sides at the floor of the unaligned convention can still grow
    right = roi_align_rotated(maps, least, 2, sampling_ratio=1, aligned=False)[0, 0, :, 1].sum()
    assert torch.autograd.grad(right, least)[0][0, 3].item() == pytest.approx(0.5, abs=1e-5)
    assert roi_align_rotated(maps, T([[0.0, 200, 200, 8, 4, 0.0]]), 2).abs().max() == 0
    with pytest.raises(ValueError, match="rois must name images 0 to 1"):
        roi_align_rotated(maps, T([[2.0, 15, 10, 8, 4, 0.0]]), 2)


def test_points_there_and_back():
    points, levels = grid_points([(4, 6), (2, 3)], [8, 16])
    assert points.shape == (30, 2)
    assert points[0].tolist() == [4.0, 4.0]
    assert points[1].tolist() == [12.0, 4.0]
    assert points[24].tolist() == [8.0, 8.0]
    assert levels.tolist() == [0] * 24 + [1] * 6
    b = boxes(30)
    d = encode_points(points, b)
    inside = d.amin(-1) > 0
    assert (inside == planar.obb_contains(b, points)).all()
    assert torch.allclose(decode_points(points, d, b[:, 4]), b, atol=1e-4)
    assert torch.allclose(centerness(encode_points(b[:, :2], b)), torch.ones(30), atol=1e-3)
    assert centerness(T([[1.0, 1, 3, 1]])).item() == pytest.approx((1 / 3) ** 0.5)
    side = T([[0.0, 1, 2, 3], [0, 0, 0, 0], [0, 2, 3, 0]]).requires_grad_()
    value = centerness(side)
    assert value.tolist() == [0, 0, 0]
    assert torch.autograd.grad(value.sum(), side)[0].abs().max() == 0  # the slope is infinite on one side, none on the other


def test_assignment():
    points, levels = grid_points([(8, 8), (4, 4)], [8, 16])
    big, small = T([32.0, 32, 60, 50, 0.5]), T([30.0, 30, 14, 10, -0.4])
    b = torch.stack([big, small])
    found = assign_points(points, levels, b, [8, 16], [(0.0, 12.0), (12.0, 1e9)], radius=1.5)
    d = encode_points(points[:, None], b[None])
    for i, (point, level) in enumerate(zip(points, levels, strict=True)):
        candidates = []
        for k in range(2):
            near = (planar.rotate(torch.cat([point - b[k, :2], torch.zeros(3)]), -b[k, 4])[:2].abs() < 1.5 * [8, 16][level]).all()
            size = d[i, k].amax()
            if d[i, k].amin() > 0 and near and ((size <= 12) if level == 0 else (size >= 12)):
                candidates.append(k)
        wanted = max(candidates, default=-1)  # the second is the smaller
        assert found.objects[i].item() == wanted
    assert found.positive.sum() > 2
    assert not assign_points(points, levels, b[:0], [8, 16], [(0.0, 12.0), (12.0, 1e9)]).positive.any()


def drawn(box, height, width):
    return planar.rasterize(planar.obb_to_corners(box), (height, width)).float()[None, None]


@pytest.mark.parametrize("size", [(48, 48), (40, 64)])
def test_rotated_images_and_boxes_stay_together(size):
    box = T([[size[1] / 2 + 3, size[0] / 2 - 2, 20.0, 8.0, 0.3]])
    for angle in (0.4, 1.2, 2.5, pi / 2):
        image, (moved,) = rotate_view(drawn(box[0], *size), [box], angle, padding="zeros")
        mask = image[0, 0] > 0.5
        pixels = mask.nonzero().flip(-1).float() + 0.5
        around = planar.min_area_rect(pixels)
        assert planar.obb_iou(around, moved[0]).item() > 0.9
    flipped, (mirrored,) = flip_view(drawn(box[0], *size), [box])
    assert torch.equal(flipped, drawn(mirrored[0], *size))
    per_image, moved = rotate_view(drawn(box[0], *size).repeat(2, 1, 1, 1), [box, box], T([0.4, 1.2]), padding="zeros")
    assert torch.allclose(per_image[1:], rotate_view(drawn(box[0], *size), [box], 1.2, padding="zeros")[0])
    assert moved[0][0, 4].item() == pytest.approx(0.7)


def test_quarter_turns_and_resizing_are_exact():
    image = torch.rand(1, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    turned, _ = rotate_view(image, [torch.zeros(0, 5)], pi / 2)
    assert torch.allclose(turned, torch.rot90(image, -1, (-2, -1)), atol=1e-5)
    small, (box,) = resize_view(image, [T([[8.0, 8, 4, 2, 0.3]])], 0.5)
    assert small.shape[-2:] == (8, 8)
    assert torch.allclose(box, T([[4.0, 4, 2, 1, 0.3]]))


def test_three_views_know_their_objects():
    images = torch.rand(2, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    b = T([[20.0, 20, 10, 4, 0.3], [2.0, 2, 6, 3, 0.1]])  # the second leaves the turned image
    targets = [{"boxes": b, "labels": T([0, 1])}, {"boxes": b[:1], "labels": T([1])}]
    views, out = three_views(images, targets, pi / 4)
    assert views.shape == (6, 1, 40, 40)
    assert [t["object"].tolist() for t in out] == [[0, 1], [2], [0], [2], [0, 1], [2]]
    assert [(t["view"], t["image"]) for t in out] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    assert planar.angle_diff(out[2]["boxes"][0, 4], b[0, 4] + pi / 4).abs() < 1e-6
    assert planar.angle_diff(out[4]["boxes"][0, 4], -b[0, 4]).abs() < 1e-6


def brute_map(preds, targets, threshold, mode, classes):
    """The rules of VOC and of COCO by loops, overlaps by shapely."""
    values = []
    for c in range(classes):
        rows, objects = [], 0
        taken = {}
        for t in targets:
            objects += int((t["labels"] == c).sum())
        for i, p in enumerate(preds):
            rows += [(s.item(), i, k) for k, (s, label) in enumerate(zip(p["scores"], p["labels"], strict=True)) if label == c]
        if objects == 0:
            continue
        rows.sort(key=lambda r: -r[0])
        hits = []
        for _, i, k in rows:
            own = [g for g, label in enumerate(targets[i]["labels"]) if label == c]
            overlaps = [shapely_iou(preds[i]["boxes"][k], targets[i]["boxes"][g]) for g in own]
            if mode == "coco":  # the best that is free, not the best of all
                overlaps = [-1.0 if (i, g) in taken else v for g, v in zip(own, overlaps, strict=True)]
            if overlaps and max(overlaps) >= threshold and (i, own[int(np.argmax(overlaps))]) not in taken:
                taken[i, own[int(np.argmax(overlaps))]] = True
                hits.append(1)
            else:
                hits.append(0)
        true = np.cumsum(hits) if hits else np.zeros(0)
        recall, precision = true / objects, true / np.arange(1, len(hits) + 1)
        if mode != "area":
            levels = np.linspace(0, 1, 11 if mode == "11points" else 101)
            values.append(np.mean([max(precision[recall >= r - 1e-12], default=0.0) for r in levels]))
        else:
            total, last = 0.0, 0.0
            for r in sorted(set(recall.tolist()) - {0.0}):
                total += (r - last) * precision[recall >= r].max()
                last = r
            values.append(total)
    return float(np.mean(values))


@pytest.mark.parametrize("whole", [1 << 16, 0])
@pytest.mark.parametrize("mode", ["11points", "area", "coco"])
def test_map_equals_brute_force(mode, whole, monkeypatch):
    monkeypatch.setattr("obbkit.metrics.WHOLE", whole)
    g = torch.Generator().manual_seed(0)
    targets = [{"boxes": boxes(8, seed=s) * T([0.5, 0.5, 1, 1, 1]), "labels": torch.randint(3, (8,), generator=g)} for s in range(4)]
    preds = []
    for t in targets:
        near = t["boxes"].repeat(2, 1) + torch.randn(16, 5, generator=g) * T([1.0, 1, 0.5, 0.5, 0.1])
        preds.append({"boxes": near, "scores": torch.rand(16, generator=g), "labels": t["labels"].repeat(2)})
    metric = RotatedMAP(eval_mode=mode, num_classes=4)
    for p, t in zip(preds, targets, strict=True):
        metric.update([p], [t])
    found = metric.compute()
    wanted = [brute_map(preds, targets, threshold, mode, 4) for threshold in metric.iou_thrs]
    assert found["mAP"] == pytest.approx(np.mean(wanted), abs=1e-9)
    assert found["AP50"] == pytest.approx(wanted[0], abs=1e-9)
    assert found["AP75"] == pytest.approx(wanted[5], abs=1e-9)
    assert np.isnan(found["per_class"][3]["AP"])
    halves = [RotatedMAP(eval_mode=mode, num_classes=4) for _ in range(2)]
    halves[0].update(preds[:2], targets[:2])
    halves[1].update(preds[2:], targets[2:])
    halves[0].merge(halves[1])
    assert halves[0].compute()["mAP"] == pytest.approx(found["mAP"], abs=1e-12)


@pytest.mark.parametrize("mode", ["11points", "area", "coco"])
def test_perfect_and_closed_form_scores(mode):
    b = boxes(10) * T([10.0, 10, 1, 1, 1])
    target = {"boxes": b, "labels": torch.zeros(10).long()}
    metric = RotatedMAP(eval_mode=mode)
    metric.update([{**target, "scores": torch.rand(10)}], [target])
    assert metric.compute()["mAP"] == pytest.approx(1.0)
    wrong = torch.cat([b + T([1e4, 0, 0, 0, 0]), b])[9:]
    metric = RotatedMAP((0.5,), mode)
    metric.update([{"boxes": wrong, "scores": torch.linspace(1, 0, 11), "labels": torch.zeros(11).long()}], [target])
    precision = np.arange(1, 11) / np.arange(2, 12)
    if mode == "area":
        assert metric.compute()["mAP"] == pytest.approx(10 / 11)  # the falling hull of k / (k + 1) is its last value
    assert metric.compute()["mAP"] == pytest.approx(precision.max(), abs=1e-9)


def test_second_claims_ignored_objects_and_coco():
    a, c = T([[10.0, 10, 8, 4, 0.0]]), T([[12.0, 10, 8, 4, 0.0]])
    both = {"boxes": torch.cat([a, c]), "labels": T([0, 0])}
    pred = {"boxes": torch.cat([a, a]), "scores": T([0.9, 0.8]), "labels": T([0, 0])}
    voc, coco = RotatedMAP((0.3,), "area"), RotatedMAP((0.3,), "coco")
    for metric in (voc, coco):
        metric.update([pred], [both])
    assert voc.compute()["mAP"] == pytest.approx(0.5)
    assert coco.compute()["mAP"] == pytest.approx(1.0)
    for mode in ("area", "coco"):
        metric = RotatedMAP((0.5,), mode)
        metric.update([{**pred, "boxes": torch.cat([c, a])}], [{**both, "ignore": T([False, True])}])
        assert metric.compute()["mAP"] == pytest.approx(1.0)
        assert metric.compute()["per_class"][0]["objects"] == 1


@pytest.mark.parametrize("mode", ["11points", "coco"])
def test_thresholds_do_not_see_each_other(mode):
    g = torch.Generator().manual_seed(3)
    base = boxes(12, seed=5) * T([0.3, 0.3, 1, 1, 1])
    near = base.repeat(4, 1) + torch.randn(48, 5, generator=g) * T([2.0, 2, 1, 1, 0.2])
    target = {"boxes": base, "labels": torch.zeros(12).long(), "ignore": torch.arange(12) % 4 == 0}
    pred = {"boxes": near, "scores": torch.rand(48, generator=g), "labels": torch.zeros(48).long()}
    thresholds = (0.75, 0.3, 0.5, 0.9)  # in no order
    together, alone = RotatedMAP(thresholds, mode), []
    together.update([pred], [target])
    for threshold in thresholds:
        metric = RotatedMAP((threshold,), mode)
        metric.update([pred], [target])
        alone.append(metric.compute()["mAP"])
    assert list(together.compute()["per_class"][0]["by_threshold"].values()) == pytest.approx(alone, abs=1e-12)
    assert len(set(alone)) > 2


def test_empty_images():
    none = {"boxes": torch.zeros(0, 5), "labels": torch.zeros(0).long(), "scores": torch.zeros(0)}
    one = {"boxes": boxes(1), "labels": T([0]), "scores": torch.ones(1)}
    metric = RotatedMAP(num_classes=2)
    assert np.isnan(metric.compute()["mAP"])
    metric.update([none, none, one], [none, one, none])
    found = metric.compute()
    assert found["mAP"] == 0.0
    assert metric.images == 3
    assert average_precision(np.array([0.5, 0.5, 1.0]), np.array([1.0, 0.5, 2 / 3])) == pytest.approx(0.5 + 0.5 * 2 / 3)


@pytest.mark.bad_input
def test_bad_evaluations_are_refused():
    one = {"boxes": boxes(1), "labels": T([0]), "scores": torch.ones(1)}
    metric = RotatedMAP()
    with pytest.raises(ValueError, match="one entry an image"):
        metric.update([one], [])
    with pytest.raises(ValueError, match=r"preds\[0\] must have the keys"):
        metric.update([{"boxes": boxes(1)}], [one])
    with pytest.raises(ValueError, match="labels below 1"):
        metric.update([{**one, "labels": T([1])}], [one])
    with pytest.raises(ValueError, match="must not have NaN"):
        metric.update([{**one, "boxes": boxes(1) * torch.nan}], [one])
    with pytest.raises(ValueError, match="iou_thrs must be"):
        RotatedMAP((0.0,))
    with pytest.raises(ValueError, match="same thresholds"):
        metric.merge(RotatedMAP((0.5,)))
