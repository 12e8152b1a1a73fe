"""Frames against covariance and ``eigh`` alone, and against peers: ``python benchmarks/bench_frames.py [--quick] [--json F]``."""

import warnings

import torch
from frame_averaging_pytorch import FrameAverage
from torch import Tensor

from geocore.frames import MinimalFrame, PCAFrame, PermutationFrame, WeightedFrame
from geocore.frames._reference import pca_frame_reference, permutation_frame_reference
from geocore.testing.benchmark import Benchmark, Case

bench = Benchmark("frames")


def covariance_and_eigh(x: Tensor) -> tuple[Tensor, Tensor]:
    """The part of a PCA frame that nothing can do without."""
    y = x - x.mean(-2, keepdim=True)
    return tuple(torch.linalg.eigh(y.mT @ y))


@bench.case(sizes=[{"group": g, "clouds": 100_000, "points": 32, "dim": 3} for g in ("SE", "E", "SO", "O")])
def pca_frame(group: str, clouds: int, points: int, dim: int, device: str) -> Case:
    x = torch.randn(clouds, points, dim, device=device)
    frame = PCAFrame(dim, group, degenerate="ignore")

    def check(out: dict) -> None:
        ours, V = out["geocore"].elements.Q, out["covariance + eigh"][1].flip(-1)
        clear = ~out["geocore"].info.degenerate
        torch.testing.assert_close(ours[clear][:, 0].abs(), V[clear].abs(), rtol=0, atol=1e-2)

    return Case(
        ours="geocore",
        candidates={"geocore": lambda: frame(x), "covariance + eigh": lambda: covariance_and_eigh(x)},
        targets={"covariance + eigh": 1.3},
        check=check,
    )


@bench.case(sizes=[{"clouds": 1_000, "points": 32}, {"clouds": 100, "points": 1_024}])
def averaging_identity(clouds: int, points: int, device: str) -> Case:
    """A whole O(3) frame average of the identity, a vector from the mean: what a wrapper adds to the backbone."""
    x = torch.randn(clouds, points, 3, device=device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its way of indexing is deprecated
        theirs = FrameAverage(torch.nn.Identity(), dim=3).to(device)
    frame = PCAFrame(3, "E", order="ascending")

    def ours() -> Tensor:
        f = frame(x)
        return f.average(f.canonicalize(x), "vector")

    return Case(
        ours="geocore",
        candidates={"geocore": ours, "frame-averaging-pytorch": lambda: theirs(x)},
        targets={"frame-averaging-pytorch": 1.0},
        atol=1e-4,
    )


@bench.case(sizes=[{"clouds": 200}])
def pca_against_loop(clouds: int, device: str) -> Case:
    x = torch.randn(clouds, 32, 3, device=device)
    frame = PCAFrame(3, "SE", degenerate="ignore")
    return Case(
        ours="geocore",
        candidates={"geocore": lambda: frame(x), "reference": lambda: [pca_frame_reference(c, group="SE") for c in x]},
        check=lambda out: torch.testing.assert_close(
            out["geocore"].elements.t[:, 0], torch.stack([g.t[0] for g in out["reference"]]), rtol=0, atol=1e-5
        ),
    )


@bench.case(sizes=[{"clouds": 1_000, "points": 16}])
def other_frames(clouds: int, points: int, device: str) -> Case:
    """Their cost beside that of principal axes."""
    x = torch.randn(clouds, points, 3, device=device)
    pca, minimal = PCAFrame(3, "SE", degenerate="ignore"), MinimalFrame("SE", 3)
    weighted, top, one = WeightedFrame(3, "SE"), WeightedFrame(3, "SE", top_k=16), WeightedFrame(3, "SE", n_samples=1)
    return Case(
        ours="PCA",
        candidates={
            "PCA": lambda: pca(x),
            "minimal": lambda: minimal(x),
            "weighted": lambda: weighted(x),
            "weighted, top 16": lambda: top(x),
            "weighted, 1 sample": lambda: one(x),
        },
        check=lambda out: torch.testing.assert_close(out["weighted"].weights.sum(-1), x.new_ones(clouds)),
    )


def graphs(count: int, nodes: int, device: str) -> Tensor:
    upper = torch.triu(torch.rand(count, nodes, nodes, device=device) < 0.5, 1).float()
    return upper + upper.mT


@bench.case(sizes=[{"graphs": 500, "nodes": 7}])
def permutation_against_loop(nodes: int, device: str, **size: int) -> Case:
    A = graphs(size["graphs"], nodes, device)
    frame = PermutationFrame()

    def check(out: dict) -> None:
        for index, f in out["geocore"]:
            for i, elements in zip(index.tolist(), f.elements, strict=True):
                assert {tuple(p) for p in elements.tolist()} == {tuple(p) for p in out["reference"][i].tolist()}

    return Case(
        ours="geocore",
        candidates={"geocore": lambda: frame.buckets(A), "reference": lambda: [permutation_frame_reference(a) for a in A]},
        check=check,
    )


@bench.case(sizes=[{"graphs": 10_000, "nodes": 7}])
def permutation_frames(nodes: int, device: str, **size: int) -> Case:
    """Seconds for 10 000 graphs: sorted by size of frame, and padded to the largest."""
    A = graphs(size["graphs"], nodes, device)
    frame = PermutationFrame()
    return Case(
        ours="buckets",
        candidates={"buckets": lambda: frame.buckets(A), "padded": lambda: frame(A)},
        check=lambda out: torch.testing.assert_close(sum(f.size * len(i) for i, f in out["buckets"]), int(out["padded"].sizes.sum())),
    )


if __name__ == "__main__":
    bench.main()
