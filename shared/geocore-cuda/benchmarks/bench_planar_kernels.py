"""Overlap of oriented boxes: the kernels, the formulas they replace, and shapely.

    python bench_planar_kernels.py [--quick] [--device cuda] [--json FILE] [--only pairs]

``shapely`` intersects the given pairs one by one; ``shapely STRtree`` finds the pairs that meet with its index first. Its time
includes making the polygons, which is how boxes of a detector arrive there.
"""

from typing import Any

import numpy as np
import shapely
import torch
from torch import Tensor

from geocore import planar
from geocore.planar._suppress import suppress
from geocore.testing.benchmark import Benchmark, Case, plain

bench = Benchmark("planar_kernels")


def scene(n: int, size: float, dtype: str, device: str, seed: int = 0) -> Tensor:
    r = torch.rand(n, 5, generator=torch.Generator().manual_seed(seed))
    boxes = r * torch.tensor([size, size, 40.0, 20.0, 6.0]) + torch.tensor([0, 0, 10.0, 5.0, -3.0])
    return boxes.to(device, getattr(torch, dtype))


def polygons(boxes: Tensor) -> Any:
    return shapely.polygons(planar.obb_to_corners(boxes.double().cpu()).numpy())


def ratios(p: Any, q: Any) -> Any:
    shared = shapely.area(shapely.intersection(p, q))
    return shared / (shapely.area(p) + shapely.area(q) - shared)


PAIRS = [
    {"pairs": pairs, "dtype": dtype, "backward": backward}
    for pairs, dtype, backward in (
        (1_000, "float32", False),
        (1, "float32", False),
        (1, "float32", True),
        (32, "float32", True),
        (1_000, "float32", True),
        (1_000, "float64", True),
        (100_000, "float32", False),
        (100_000, "float64", False),
        (100_000, "float32", True),
        (100_000, "float64", True),
    )
]


@bench.case(sizes=PAIRS)
def pairs(pairs: int, dtype: str, backward: bool, device: str) -> Case:
    """Boxes one by one, most of which overlap; with ``backward`` the gradient in both too."""
    a, b = scene(pairs, 60, dtype, device), scene(pairs, 60, dtype, device, 1)
    if not backward:
        candidates = {"geocore-cuda": lambda: planar.obb_iou(a, b), "geocore": plain(lambda: planar.obb_iou(a, b))}
        if pairs <= 1_000:
            candidates["shapely"] = lambda: torch.from_numpy(ratios(polygons(a), polygons(b))).to(a)
        return Case(ours="geocore-cuda", candidates=candidates, atol=1e-5)
    x, y = a.requires_grad_(), b.requires_grad_()

    def both() -> tuple[Tensor, ...]:
        iou = planar.obb_iou(x, y)
        return iou.detach(), *torch.autograd.grad(iou.sum(), (x, y))

    return Case(ours="geocore-cuda", candidates={"geocore-cuda": both, "geocore": plain(both)}, atol=1e-4)


SETS = [
    {"n": n, "m": m, "image": image, "dtype": dtype, "sparse": sparse}
    for n, m, image, dtype, sparse in (
        (1000, 1000, 1000, "float32", False),
        (1, 1, 10, "float32", False),
        (50, 500, 1000, "float32", False),
        (1000, 1000, 1000, "float64", False),
        (1000, 1000, 100, "float32", False),
        (1, 1, 10, "float32", True),
        (1000, 1000, 1000, "float32", True),
        (5000, 5000, 5000, "float32", True),
        (5000, 5000, 5000, "float64", True),
    )
]


@bench.case(sizes=SETS)
def matrix(n: int, m: int, image: int, dtype: str, sparse: bool, device: str) -> Case:
    """All pairs of two sets; 1000 in 1000 pixels is an aerial scene, 1000 in 100 a crowd where one pair in six overlaps."""
    a, b = scene(n, image, dtype, device), scene(m, image, dtype, device, 1)

    def tree() -> Any:
        p, q = polygons(a), polygons(b)
        i, j = shapely.STRtree(q).query(p, predicate="intersects")
        value = ratios(p[i], q[j])
        if sparse:
            return value
        out = np.zeros((n, m))
        out[i, j] = value
        return out

    def ours() -> Any:
        return planar.obb_iou_matrix(a, b, sparse=True)[2] if sparse else planar.obb_iou_matrix(a, b)

    def check(results: dict[str, Any]) -> None:
        found = results["geocore-cuda"].double().cpu()
        for other in results.values():
            other = torch.as_tensor(other).double().cpu()
            assert abs(float(found.sum() - other.sum())) <= 1e-4 * max(1.0, float(other.sum()))
            assert sparse or (found - other).abs().max() < 1e-5

    candidates = {"geocore-cuda": ours, "geocore": plain(ours), "shapely STRtree": tree}
    return Case(ours="geocore-cuda", candidates=candidates, check=check)


@bench.case(
    sizes=[
        {"boxes": 2000, "image": 1000},
        {"boxes": 1, "image": 10},
        {"boxes": 100, "image": 200},
        {"boxes": 2000, "image": 150},
        {"boxes": 20_000, "image": 3000},
    ]
)
def suppression(boxes: int, image: int, device: str) -> Case:
    """Greedy suppression at 0.3 of boxes that come sorted; in 150 pixels three of four go."""
    x = scene(boxes, image, "float32", device)

    def tree() -> Tensor:
        p = polygons(x)
        i, j = shapely.STRtree(p).query(p, predicate="intersects")
        i, j = i[i < j], j[i < j]
        over = ratios(p[i], p[j]) > 0.3
        i, j = i[over], j[over]
        order = np.argsort(i, kind="stable")
        i, j = i[order], j[order]
        starts = np.searchsorted(i, np.arange(boxes + 1))
        alive = np.ones(boxes, dtype=bool)
        for k in range(boxes):
            if alive[k]:
                alive[j[starts[k] : starts[k + 1]]] = False
        return torch.from_numpy(alive.nonzero()[0])

    def check(results: dict[str, Tensor]) -> None:
        assert len({tuple(found.tolist()) for found in results.values()}) == 1

    ours = lambda: suppress(x, None, 0.3, None)  # noqa: E731
    return Case(ours="geocore-cuda", candidates={"geocore-cuda": ours, "geocore": plain(ours), "shapely STRtree": tree}, check=check)


if __name__ == "__main__":
    bench.main()
