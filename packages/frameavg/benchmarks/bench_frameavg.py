"""Cost of the wrapper and of the n-body model: ``python benchmarks/bench_frameavg.py [--quick] [--json F]``.

``frame-averaging-pytorch`` is the package of that name; ``bare einsums`` is the arithmetic alone, by hand, without checks or types;
``edge list`` is layer-wise frame averaging in the way graph libraries write it, with gathered pairs and scattered sums.
"""

from itertools import product
from typing import Any

import torch
from frame_averaging_pytorch import FrameAverage
from torch import Tensor, nn
from torch.nn import functional as F

from frameavg import FAGNN, FrameAveraging, PCAFrame
from frameavg.models._pointnet import PointNet
from geocore.testing.benchmark import Benchmark, Case

bench = Benchmark("frameavg")
CLOUDS = [{"clouds": 1000, "points": 32}, {"clouds": 100, "points": 1024}]


def signs(device: str) -> Tensor:
    return torch.tensor(list(product((1.0, -1.0), repeat=3)), device=device)


@bench.case(sizes=CLOUDS)
def identity_backbone(clouds: int, points: int, device: str) -> Case:
    """E(3), eight poses, positions in and vectors out, as the peer returns them: the result is the centred input."""
    x = torch.randn(clouds, points, 3, device=device)
    ours = FrameAveraging(lambda z: z, PCAFrame(3, "E", degenerate="ignore"), "position", "vector")
    peer = FrameAverage(nn.Identity(), dim=3)
    s = signs(device)

    def bare() -> Tensor:
        t = x.mean(1, keepdim=True)
        centred = x - t
        V = torch.linalg.eigh(centred.mT @ centred).eigenvectors
        Q = V[:, None] * s[:, None]
        poses = torch.einsum("bnd,bkde->bkne", centred, Q)
        return torch.einsum("bkne,bkde->bknd", poses, Q).mean(1)

    return Case(
        ours="frameavg",
        candidates={"frameavg": lambda: ours(x), "frame-averaging-pytorch": lambda: peer(x), "bare einsums": bare},
        targets={"frame-averaging-pytorch": 0.5, "bare einsums": 1.5},
        atol=1e-4,
        memory=True,
    )


@bench.case(sizes=[{"clouds": 8, "points": 512}, {"clouds": 32, "points": 64}])
def stochastic(clouds: int, points: int, device: str) -> Case:
    """One random pose in training against one call of PointNet."""
    x = torch.randn(clouds, points, 3, device=device)
    net = PointNet(3, 3).to(device)
    ours = FrameAveraging(net, PCAFrame(3, "SE", degenerate="ignore"), "position", "vector", train_samples=1)

    def check(results: dict[str, Any]) -> None:
        for y in results.values():
            assert y.shape == x.shape
            assert torch.isfinite(y).all()

    return Case(
        ours="frameavg",
        candidates={"frameavg": lambda: ours(x), "one backbone call": lambda: net(x)},
        targets={"one backbone call": 1.15},
        check=check,
    )


def edge_list(model: FAGNN, x: Tensor, v: Tensor, edge_attr: Tensor) -> Tensor:
    """The same model on an edge list: all scenes and poses in one graph, inputs of the edge network gathered and joined."""
    batch, n, _ = x.shape
    s, k, channels = signs(str(x.device)).to(x), 8, model.hidden // 3
    i, j = (~torch.eye(n, dtype=torch.bool, device=x.device)).nonzero(as_tuple=True)
    shift = n * torch.arange(batch * k, device=x.device)[:, None]
    rows, cols = (i + shift).flatten(), (j + shift).flatten()
    edges = torch.cat([edge_attr[:, i, j], (x[:, i] - x[:, j]).square().sum(-1, keepdim=True)], -1).repeat_interleave(k, 0).flatten(0, 1)

    def frame(points: Tensor) -> Tensor:
        centred = points - points.mean(1, keepdim=True)
        return torch.linalg.eigh(centred.mT @ centred).eigenvectors.flip(-1)[:, None] * s[:, None]

    t = x.mean(1, keepdim=True)
    Q = frame(x)
    pose = [torch.einsum("bnd,bkde->bkne", value, Q) for value in (x - t, v)]
    h = model.embed(torch.cat(pose, -1)).flatten(0, 2)
    for depth, layer in enumerate(model.layers):
        step: Any = layer
        m = F.silu(step.edge_out(F.silu(step.edge_in(torch.cat([h[rows], h[cols], edges], -1)))))
        total = torch.zeros_like(h).index_add(0, rows, m)
        h = h + step.node(torch.cat([h, total], -1))
        if depth + 1 < len(model.layers):
            vectors = torch.einsum("bknce,bkde->bkncd", h.reshape(batch, k, n, channels, 3), Q).mean(1)
            Q = frame(vectors.flatten(1, 2).detach())
            h = torch.einsum("bncd,bkde->bknce", vectors, Q).reshape(-1, model.hidden)
    y = model.decode(h).reshape(batch, k, n, 3)
    return torch.einsum("bkne,bkde->bknd", y, Q).mean(1) + t


@bench.case(sizes=[{"scenes": 100, "bodies": 5}, {"scenes": 16, "bodies": 20}])
def nbody_forward(scenes: int, bodies: int, device: str) -> Case:
    model = FAGNN(degenerate="ignore").to(device)
    x, v = torch.randn(2, scenes, bodies, 3, device=device)
    q = torch.randn(scenes, bodies, 1, device=device).sign()
    e = (q * q.mT).unsqueeze(-1)

    def run(fn: Any) -> Any:
        def call() -> Tensor:
            with torch.no_grad():
                return fn(x, v, e)

        return call

    return Case(
        ours="frameavg",
        candidates={"frameavg": run(model), "edge list": run(lambda *a: edge_list(model, *a))},
        targets={"edge list": 0.5},
        atol=1e-3,
        memory=True,
    )


@bench.case(sizes=[{"scenes": 100, "bodies": 5}, {"scenes": 16, "bodies": 20}])
def nbody_training_step(scenes: int, bodies: int, device: str) -> Case:
    model = FAGNN(degenerate="ignore").to(device)
    x, v = torch.randn(2, scenes, bodies, 3, device=device)
    q = torch.randn(scenes, bodies, 1, device=device).sign()
    e = (q * q.mT).unsqueeze(-1)
    params = list(model.parameters())

    def check(results: dict[str, Any]) -> None:
        for a, b in zip(results["frameavg"], results["edge list"], strict=True):
            assert (a - b).abs().max() <= 1e-3 * b.abs().max() + 1e-5

    return Case(
        ours="frameavg",
        candidates={
            "frameavg": lambda: torch.autograd.grad(model(x, v, e).square().mean(), params),
            "edge list": lambda: torch.autograd.grad(edge_list(model, x, v, e).square().mean(), params),
        },
        targets={"edge list": 1.0},
        check=check,
        memory=True,
    )


@bench.case(sizes=[{"chunk": 1}, {"chunk": 2}])
def chunks(chunk: int, device: str) -> Case:
    """Forward and backward of a perceptron on 256 clouds of 256 points, eight poses, in chunks and at once: memory is what counts."""
    x = torch.randn(256, 256, 3, device=device)
    net = nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)).to(device)
    params = list(net.parameters())
    frame = PCAFrame(3, "E", degenerate="ignore")
    models = {
        "frameavg": FrameAveraging(net, frame, "position", "vector", chunk=chunk),
        "at once": FrameAveraging(net, frame, "position", "vector"),
    }

    def check(results: dict[str, Any]) -> None:
        for a, b in zip(results["frameavg"], results["at once"], strict=True):
            assert (a - b).abs().max() <= 1e-3 * b.abs().max() + 1e-6  # the last bias cancels over reflections

    return Case(
        ours="frameavg",
        candidates={name: lambda model=model: torch.autograd.grad(model(x).square().mean(), params) for name, model in models.items()},
        targets={},
        check=check,
        memory=True,
    )


if __name__ == "__main__":
    raise SystemExit(bench.main())
