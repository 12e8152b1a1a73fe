"""A training step of the layer against the literal transcription of the paper (one SVD per matrix function in a loop) and spd_learn.

``python benchmarks/bench_spdnorm.py [--quick] [--device cuda] [--json FILE] [--only CASE]``
"""

from collections.abc import Callable
from typing import Any

import spd_learn.modules as peers
import torch
from torch import Tensor, nn

from geocore.testing import assert_finite
from geocore.testing.benchmark import Benchmark, Case
from spdnorm import SPDMLR, GBWBatchNorm, SPDBatchNorm
from spdnorm._reference import gbw_batch_norm_reference, spd_mlr_reference

bench = Benchmark("spdnorm")
D = torch.float64
SIZES: list[dict[str, Any]] = [{"batch": 30, "n": 12}, {"batch": 128, "n": 12}, {"batch": 30, "n": 30}, {"batch": 64, "n": 64}]
LITERAL = "literal transcription (SVD in a loop)"
PEER = "spd_learn SPDBatchNormMeanVar"


def allowed(n: int) -> float:
    """Part of the literal transcription's time that the specification allows."""
    return 1 / 5 if n <= 16 else 1 / 3 if n <= 30 else 1 / 1.8


def matrices(batch: int, n: int, device: str) -> Tensor:
    A = torch.randn(batch, n, 2 * n, dtype=D, device=device)
    return (A @ A.mT / (2 * n)).requires_grad_()


def step(forward: Callable[[], Tensor], inputs: list[Tensor], weight: Tensor) -> Callable[[], list[Tensor]]:
    """Forward and backward."""

    def run() -> list[Tensor]:
        out = forward()
        return [out.detach(), *torch.autograd.grad((out * weight).sum(), inputs, allow_unused=True)]

    return run


def symmetric(G: Tensor) -> Tensor:
    return (G + G.mT) / 2


def agree(*names: str) -> Callable[[dict[str, Any]], None]:
    """Outputs and gradients of the input are equal among the named candidates."""

    def check(results: dict[str, Any]) -> None:
        first = results[names[0]]
        for name in names[1:]:
            torch.testing.assert_close(results[name][0], first[0], rtol=1e-7, atol=1e-7)
            torch.testing.assert_close(symmetric(results[name][1]), symmetric(first[1]), rtol=1e-6, atol=1e-6)

    return check


def gbw(theta: float, batch: int, n: int, device: str) -> Case:
    X = matrices(batch, n, device)
    weight = torch.randn(batch, n, n, dtype=D, device=device)
    ours = GBWBatchNorm(n, theta=theta).to(device)
    theirs = peers.SPDBatchNormMeanVar(n, dtype=D).to(device)
    M, W = ((torch.eye(n, dtype=D, device=device)).requires_grad_() for _ in range(2))
    s = torch.ones((), dtype=D, device=device, requires_grad=True)
    candidates = {
        "spdnorm": step(lambda: ours(X), [X, *ours.parameters()], weight),
        PEER: step(lambda: theirs(X), [X, *theirs.parameters()], weight),
    }
    names = ["spdnorm"]
    if device == "cpu":
        # at M = W = I its gradients in M and W are not defined, so the loop is asked for those in X and s only
        def literal() -> Tensor:
            return gbw_batch_norm_reference(X, M.detach(), W.detach(), s, theta=theta, decompose="svd")[0]

        candidates[LITERAL] = step(literal, [X, s], weight)
        names.append(LITERAL)
    targets = {PEER: 2.5, **({LITERAL: allowed(n)} if device == "cpu" else {})}
    return Case(ours="spdnorm", candidates=candidates, targets=targets, check=agree(*names))


@bench.case(sizes=SIZES)
def gbw_half(batch: int, n: int, device: str) -> Case:
    return gbw(0.5, batch, n, device)


@bench.case(sizes=SIZES)
def gbw_one(batch: int, n: int, device: str) -> Case:
    return gbw(1.0, batch, n, device)


def finite(results: dict[str, Any]) -> None:
    """For a peer whose dispersion is defined otherwise; test_metrics compares the layers that mean the same."""
    for name, result in results.items():
        assert_finite(name, result)


@bench.case(sizes=SIZES)
def affine_invariant(batch: int, n: int, device: str) -> Case:
    X = matrices(batch, n, device)
    weight = torch.randn(batch, n, n, dtype=D, device=device)
    layers: dict[str, nn.Module] = {"spdnorm": SPDBatchNorm(n, "airm").to(device), PEER: peers.SPDBatchNormMeanVar(n, dtype=D).to(device)}
    return Case(
        ours="spdnorm",
        candidates={name: step(lambda layer=layer: layer(X), [X, *layer.parameters()], weight) for name, layer in layers.items()},
        check=finite,
    )


@bench.case(sizes=[{"batch": 30, "n": 12}])
def classifier(batch: int, n: int, device: str) -> Case:
    X, weight = matrices(batch, n, device), torch.randn(batch, 10, dtype=D, device=device)
    head = SPDMLR(n, 10, "airm").to(device)
    P, A = head.P.detach(), symmetric(head.A.detach())
    return Case(
        ours="spdnorm",
        candidates={
            "spdnorm": step(lambda: head(X), [X], weight),
            "one pair at a time": step(lambda: spd_mlr_reference(X, P, A, metric="airm"), [X], weight),
        },
        check=agree("spdnorm", "one pair at a time"),
    )


if __name__ == "__main__":
    raise SystemExit(bench.main())
