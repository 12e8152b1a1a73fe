"""Suppression, evaluation and coders: ``python benchmarks/bench_obbkit.py [--quick] [--json F]``.

Peers: a greedy loop with shapely polygons and an STRtree, the plain torch form that makes the whole matrix of overlaps, evaluators that
run once for each threshold (ours, and one in the way of detection frameworks), and coders that make one tensor for each cosine.
"""

from math import pi
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geocore.planar import angle_diff, obb_iou_matrix, obb_to_corners
from geocore.testing.benchmark import Benchmark, Case
from obbkit import RotatedMAP, rotated_nms
from obbkit.coders import PSCCoder
from obbkit.metrics import average_precision

bench = Benchmark("obbkit")


def scene(n: int, seed: int = 0, side: float = 1024.0) -> Tensor:
    """Boxes as dense as in an aerial image, three predictions an object."""
    g = torch.Generator().manual_seed(seed)
    base = torch.rand(-(-n // 3), 5, generator=g) * torch.tensor([side, side, 40, 16, pi]) + torch.tensor([0, 0, 12, 6, 0.0])
    near = base.repeat(3, 1) + torch.randn(3 * len(base), 5, generator=g) * torch.tensor([2.0, 2, 1, 1, 0.1])
    return near[:n].abs()


def shapely_nms(boxes: Tensor, scores: Tensor, threshold: float) -> list[int]:
    """Greedy suppression with polygons and a tree of their bounds."""
    import shapely

    polygons = shapely.polygons(obb_to_corners(boxes.double()).numpy())
    tree, areas = shapely.STRtree(polygons), shapely.area(polygons)
    alive, kept = [True] * len(boxes), []
    for i in scores.argsort(descending=True, stable=True).tolist():
        if not alive[i]:
            continue
        kept.append(i)
        for j in tree.query(polygons[i], "intersects").tolist():
            if alive[j] and j != i:
                shared = shapely.intersection(polygons[i], polygons[j]).area
                if shared / (areas[i] + areas[j] - shared) > threshold:
                    alive[j] = False
    return kept


def matrix_nms(boxes: Tensor, scores: Tensor, threshold: float) -> list[int]:
    """The whole matrix of overlaps first."""
    order = scores.argsort(descending=True, stable=True)
    over = obb_iou_matrix(boxes[order], boxes[order]) > threshold
    alive, kept = torch.ones(len(boxes), dtype=torch.bool), []
    for i in range(len(boxes)):
        if alive[i]:
            kept.append(int(order[i]))
            alive &= ~over[i]
    return kept


@bench.case(sizes=[{"boxes": 2000}, {"boxes": 500}, {"boxes": 10_000}])
def nms(boxes: int, device: str) -> Case:
    b, s = scene(boxes), torch.rand(boxes)

    def check(results: dict[str, Any]) -> None:
        assert results["obbkit"].tolist() == results["shapely"] == results["whole matrix"]

    return Case(
        ours="obbkit",
        candidates={
            "obbkit": lambda: rotated_nms(b, s, 0.1),
            "shapely": lambda: shapely_nms(b, s, 0.1),
            "whole matrix": lambda: matrix_nms(b, s, 0.1),
        },
        targets={"shapely": 0.5, "whole matrix": 1.0},
        check=check,
        memory=True,
    )


def loop_map(preds: list[dict[str, Tensor]], targets: list[dict[str, Tensor]], classes: int, threshold: float) -> float:
    """One threshold as detection frameworks count it: overlaps of each class and image, a loop over detections, then their curve."""
    values = []
    for c in range(classes):
        scores, hits, objects = [], [], 0
        for pred, target in zip(preds, targets, strict=True):
            own, gt = pred["labels"] == c, target["boxes"][target["labels"] == c]
            order = pred["scores"][own].argsort(descending=True, stable=True)
            iou = obb_iou_matrix(pred["boxes"][own][order], gt).numpy()
            objects += len(gt)
            scores.append(pred["scores"][own][order].numpy())
            hit, taken = np.zeros(len(iou)), np.zeros(len(gt), dtype=bool)
            best = iou.argmax(1) if len(gt) else np.zeros(0, dtype=int)
            for d, g in enumerate(best):
                if iou[d, g] >= threshold and not taken[g]:
                    hit[d], taken[g] = 1, True
            hits.append(hit)
        true = np.cumsum(np.concatenate(hits)[np.argsort(-np.concatenate(scores), kind="stable")])
        values.append(average_precision(true / objects, true / np.arange(1, len(true) + 1), "11points"))
    return sum(values) / len(values)


@bench.case(sizes=[{"images": 100, "detections": 60}, {"images": 60, "detections": 300}])
def evaluator(images: int, detections: int, device: str) -> Case:
    preds, targets = [], []
    for i in range(images):
        real = scene(detections // 3, i)
        labels = torch.arange(len(real)) % 6
        noise = torch.randn(3 * len(real), 5, generator=torch.Generator().manual_seed(i)) * torch.tensor([2.0, 2, 1, 1, 0.1])
        preds.append({"boxes": real.repeat(3, 1) + noise, "scores": torch.rand(3 * len(real)), "labels": labels.repeat(3)})
        targets.append({"boxes": real, "labels": labels})
    thresholds = RotatedMAP(num_classes=6).iou_thrs

    def once() -> Any:
        metric = RotatedMAP(num_classes=6)
        metric.update(preds, targets)
        return torch.tensor([metric.compute()["mAP"]])

    def each() -> Any:
        values = []
        for threshold in thresholds:
            metric = RotatedMAP((threshold,), num_classes=6)
            metric.update(preds, targets)
            values.append(metric.compute()["mAP"])
        return torch.tensor([sum(values) / len(values)])

    def loops() -> Any:
        return torch.tensor([sum(loop_map(preds, targets, 6, threshold) for threshold in thresholds) / len(thresholds)])

    return Case(
        ours="obbkit",
        candidates={"obbkit": once, "threshold by threshold": each, "ten evaluations by loops": loops},
        targets={"threshold by threshold": 0.2, "ten evaluations by loops": 0.1},
        atol=1e-6,
    )


@bench.case(sizes=[{"m": 3, "angles": 1_000_000}, {"m": 8, "angles": 1_000_000}])
def coder(m: int, angles: int, device: str) -> Case:
    t = (torch.rand(angles) - 0.5) * 3
    ours = PSCCoder(m, dual_freq=False, thr_mod=0.0)

    def literal() -> Any:
        code = torch.stack([torch.cos(2 * t + 2 * pi * k / m) for k in range(m)], -1)
        c = sum(code[:, k] * torch.tensor(2 * pi * k / m).cos() for k in range(m))
        s = -sum(code[:, k] * torch.tensor(2 * pi * k / m).sin() for k in range(m))
        return torch.atan2(torch.as_tensor(s), torch.as_tensor(c)) / 2

    def check(results: dict[str, Any]) -> None:
        assert angle_diff(results["obbkit"], results["literal"]).abs().max() < 1e-5

    return Case(
        ours="obbkit", candidates={"obbkit": lambda: ours.decode(ours.encode(t)), "literal": literal}, targets={"literal": 1.0}, check=check
    )


if __name__ == "__main__":
    raise SystemExit(bench.main())
