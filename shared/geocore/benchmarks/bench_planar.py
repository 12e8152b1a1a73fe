"""Overlap of oriented boxes and rectangles around points against shapely: ``python benchmarks/bench_planar.py [--quick] [--json F]``.

``STRtree`` finds the pairs with the index of shapely and intersects them all at once; ``sort`` is the usual construction of up to 24
points, sorted by angle, in plain torch.
"""

from typing import Any

import numpy as np
import shapely
import torch
from torch import Tensor

from geocore import planar
from geocore.testing.benchmark import Benchmark, Case

bench = Benchmark("planar")


def scene(n: int, size: float, device: str, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    r = torch.rand(n, 5, generator=generator)
    return (r * torch.tensor([size, size, 40.0, 20.0, 6.0]) + torch.tensor([0, 0, 10.0, 5.0, -3.0])).to(device)


def polygons(boxes: Tensor) -> Any:
    return shapely.polygons(planar.obb_to_corners(boxes.double().cpu()).numpy())


def sorted_area(a: Tensor, b: Tensor) -> Tensor:
    """Corners inside the other box and crossings of edges, sorted by angle about their mean."""
    p, q = planar.obb_to_corners(a), planar.obb_to_corners(b)
    in_b, in_a = planar.obb_contains(b[:, None], p), planar.obb_contains(a[:, None], q)
    d, e = p.roll(-1, 1) - p, q.roll(-1, 1) - q
    w = q[:, None] - p[:, :, None]
    den = d[:, :, None, 0] * e[:, None, :, 1] - d[:, :, None, 1] * e[:, None, :, 0]
    safe = torch.where(den == 0, 1.0, den)
    t = (w[..., 0] * e[:, None, :, 1] - w[..., 1] * e[:, None, :, 0]) / safe
    u = (w[..., 0] * d[:, :, None, 1] - w[..., 1] * d[:, :, None, 0]) / safe
    cross = (den != 0) & (t >= 0) & (t <= 1) & (u >= 0) & (u <= 1)
    points = torch.cat([p, q, (p[:, :, None] + t[..., None] * d[:, :, None]).flatten(1, 2)], 1)
    valid = torch.cat([in_b, in_a, cross.flatten(1)], 1)
    count = valid.sum(1, keepdim=True).clamp(min=1)
    centre = (points * valid[..., None]).sum(1, keepdim=True) / count[..., None]
    rel = torch.where(valid[..., None], points - centre, 0.0)
    angle = torch.where(valid, torch.atan2(rel[..., 1], rel[..., 0]), 10.0).detach()
    order = angle.argsort(1)
    first = rel.gather(1, order[:, :1, None].expand(-1, 1, 2))
    ring = rel.gather(1, order[..., None].expand_as(rel))
    ring = torch.where(valid.gather(1, order)[..., None], ring, first)
    after = ring.roll(-1, 1)
    return 0.5 * (ring[..., 0] * after[..., 1] - ring[..., 1] * after[..., 0]).sum(1).abs()


@bench.case(sizes=[{"boxes": 1000, "image": 2000}, {"boxes": 1000, "image": 500}, {"boxes": 1000, "image": 100}])
def iou_matrix(boxes: int, image: int, device: str) -> Case:
    """Aerial scenes, where 0.05 and 0.8 % of the pairs overlap, and a crowd with 17 %."""
    a, b = scene(boxes, image, device), scene(boxes, image, device, 1)

    def tree() -> Tensor:
        p, q = polygons(a), polygons(b)
        i, j = shapely.STRtree(q).query(p, predicate="intersects")
        shared = shapely.area(shapely.intersection(p[i], q[j]))
        out = np.zeros((boxes, boxes))
        out[i, j] = shared / (shapely.area(p)[i] + shapely.area(q)[j] - shared)
        return torch.from_numpy(out).float()

    return Case(
        ours="geocore",
        candidates={"geocore": lambda: planar.obb_iou_matrix(a, b).cpu(), "shapely STRtree": tree},
        targets={"shapely STRtree": 0.2},
        atol=1e-5,
    )


@bench.case(sizes=[{"pairs": 10_000}, {"pairs": 100_000}])
def iou_aligned(pairs: int, device: str) -> Case:
    """Forward and backward of the overlap, box by box."""
    a, b = scene(pairs, 60, device), scene(pairs, 60, device, 1)

    def with_gradient(area: Any) -> Any:
        def run() -> tuple[Tensor, Tensor]:
            x = a.clone().requires_grad_()
            inter = area(x, b)
            iou = inter / (x[:, 2] * x[:, 3] + b[:, 2] * b[:, 3] - inter)
            return iou.detach(), torch.autograd.grad(iou.sum(), x)[0]

        return run

    def check(results: dict[str, Any]) -> None:
        (iou, grad), (other, slope) = results["geocore"], results["sort"]
        assert (iou - other).abs().median() < 1e-5
        assert (grad - slope).abs().median() < 1e-4

    return Case(
        ours="geocore",
        candidates={"geocore": with_gradient(planar.obb_intersection_area), "sort": with_gradient(sorted_area)},
        targets={"sort": 1.0},
        check=check,
        memory=True,
    )


@bench.case(sizes=[{"sets": 3000, "points": 4}, {"sets": 300, "points": 30}])
def min_area_rect(sets: int, points: int, device: str) -> Case:
    x = 100 * torch.rand(sets, points, 2, device=device, dtype=torch.float64)

    def peer() -> Tensor:
        return torch.from_numpy(shapely.area(shapely.minimum_rotated_rectangle(shapely.multipoints(x.cpu().numpy()))))

    def ours() -> Tensor:
        box = planar.min_area_rect(x)
        return (box[:, 2] * box[:, 3]).cpu()

    return Case(ours="geocore", candidates={"geocore": ours, "shapely": peer}, targets={}, atol=1e-6)


if __name__ == "__main__":
    raise SystemExit(bench.main())
