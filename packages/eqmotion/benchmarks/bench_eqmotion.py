"""EqMotion against the literal transcription: ``python benchmarks/bench_eqmotion.py [--quick] [--json F]``.

``literal`` is ``eqmotion._reference``: ``[h_i; h_j; d_ij]`` built for every network that reads it, differences built where they are used,
cosine matrices made anew in Python loops and inverted in every call. It is not the authors' code, which was not run here; the targets were
set for that. Peak memory is that of the tensors of one call.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from eqmotion import EqMotion
from eqmotion._reference import eqmotion_reference
from geocore.testing.benchmark import Benchmark, Case

bench = Benchmark("eqmotion")
SIZES = [{"scenes": 100, "agents": 5, "dim": 2}, {"scenes": 16, "agents": 20, "dim": 2}, {"scenes": 4, "agents": 50, "dim": 3}]

FLOAT32 = 1e-4  # four layers of sums that are not divided by their number, of noise; in float64 the tests ask for 1e-12


def setup(
    scenes: int, agents: int, dim: int, device: str, **options: Any
) -> tuple[EqMotion, Tensor, dict[str, Callable[[Tensor], Tensor]]]:
    model = EqMotion(20, 20, **options).to(device).eval()
    x = torch.randn(scenes, agents, 20, dim, device=device)
    return model, x, {"eqmotion": lambda x: model(x).pred, "literal": lambda x: eqmotion_reference(model, x)[0]}


def inference(fn: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], Tensor]:
    def run() -> Tensor:
        with torch.no_grad():
            return fn(x)

    return run


def training(fn: Callable[[Tensor], Tensor], x: Tensor, model: EqMotion) -> Callable[[], Any]:
    trained = [p for p in model.parameters() if p.requires_grad]
    return lambda: torch.autograd.grad(fn(x).square().mean(), trained)


@bench.case(sizes=SIZES)
def forward(scenes: int, agents: int, dim: int, device: str) -> Case:
    _, x, fns = setup(scenes, agents, dim, device)
    runs = {name: inference(fn, x) for name, fn in fns.items()}
    return Case(ours="eqmotion", candidates=runs, targets={"literal": 1 / 4.5}, atol=FLOAT32, memory=True)


@bench.case(sizes=SIZES)
def training_step(scenes: int, agents: int, dim: int, device: str) -> Case:
    model, x, fns = setup(scenes, agents, dim, device)
    runs = {name: training(fn, x, model) for name, fn in fns.items()}
    thrifty = EqMotion(20, 20, checkpoint=True).to(device)
    thrifty.load_state_dict(model.state_dict())
    runs["eqmotion, checkpoint=True"] = training(lambda x: thrifty(x).pred, x, thrifty)
    return Case(ours="eqmotion", candidates=runs, targets={"literal": 1 / 2.5}, atol=10 * FLOAT32, memory=True)


@bench.case(sizes=[{"agents": n} for n in (10, 50, 100, 200)])
def one_scene(agents: int, device: str) -> Case:
    """Growth with the number of agents: all pairs, and 16 neighbours."""
    _, x, fns = setup(1, agents, 3, device, aggregation="mean")
    sparse = EqMotion(20, 20, graph="knn", k=16, aggregation="mean").to(device).eval()
    runs = {name: inference(fn, x) for name, fn in fns.items()}
    runs["eqmotion, 16 neighbours"] = inference(lambda x: sparse(x).pred, x)

    def check(results: dict[str, Any]) -> None:
        torch.testing.assert_close(results["eqmotion"], results["literal"], atol=FLOAT32, rtol=FLOAT32)

    return Case(ours="eqmotion", candidates=runs, check=check, memory=True)


@bench.case(sizes=[{"agents": 500}, {"agents": 2000}])
def neighbours(agents: int, device: str) -> Case:
    """Many agents on a graph of 16 neighbours, inference and training."""
    model, x, _ = setup(1, agents, 3, device, graph="knn", k=16, aggregation="mean")
    runs = {"eqmotion": inference(lambda x: model(x).pred, x), "eqmotion, training": training(lambda x: model(x).pred, x, model)}
    return Case(ours="eqmotion", candidates=runs, check=lambda results: None, memory=True)


if __name__ == "__main__":
    raise SystemExit(bench.main())
