"""Rigid motions against pypose and kornia: ``python benchmarks/bench_lie.py [--quick] [--json F]``; peers not installed are left out.

All results are brought to one convention, matrices and twists with the translation part first, inside the timed call, as a user would.
Gradients are those of the matrix entries: pypose's own are in a tangent-space convention, so its backward pass is not compared by value.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from geocore import se3, sim3
from geocore.testing.benchmark import Benchmark, Case

bench = Benchmark("lie")
SIZES = [{"batch": 1_000, "backward": False}, {"batch": 100_000, "backward": False}, {"batch": 100_000, "backward": True}]


def optional(name: str) -> Any:
    try:
        return import_module(name)
    except (ImportError, OSError, RuntimeError):
        return None


pypose = optional("pypose")
kornia = optional("kornia.geometry.liegroup")


def twists(batch: int, device: str, dim: int = 6) -> Tensor:
    xi = torch.randn(batch, dim, generator=torch.Generator().manual_seed(0))
    angle = torch.rand(batch, 1, generator=torch.Generator().manual_seed(1)) * 3.0
    xi[:, 3:6] *= angle / xi[:, 3:6].norm(dim=-1, keepdim=True)
    return xi.to(device)


def case(functions: dict[str, Callable[..., Tensor]], x: Tensor, *, backward: bool, atol: float) -> Case:
    def forward(fn: Callable[..., Tensor]) -> Callable[[], Tensor]:
        return lambda: fn(x)

    def both(fn: Callable[..., Tensor]) -> Callable[[], Tensor]:
        live = x.clone().requires_grad_()
        g = torch.ones(fn(live).shape, device=x.device)

        def run() -> Tensor:
            out = fn(live)
            torch.autograd.grad(out, live, g)
            return out.detach()

        return run

    candidates = {name: (both if backward else forward)(fn) for name, fn in functions.items()}
    exact = functions["geocore"](x.double())

    def check(results: dict[str, Any]) -> None:
        for name, result in results.items():
            # a peer may lose digits at small angles; ours may not
            gap = ((result.double() - exact).abs().max() / exact.abs().max()).item()
            if not gap <= (atol if name == "geocore" else 1e-2):
                raise AssertionError(f"{name} differs from float64 by {gap:.3g}")

    # the specification sets accuracy for these groups, not speed: no slower than a peer is what we ask
    return Case(ours="geocore", candidates=candidates, targets=dict.fromkeys([n for n in functions if n != "geocore"], 1.0), check=check)


@bench.case(sizes=SIZES)
def se3_exp(batch: int, backward: bool, device: str) -> Case:
    functions: dict[str, Callable[..., Tensor]] = {"geocore": se3.exp}
    if pypose:
        functions["pypose"] = lambda xi: pypose.se3(xi).Exp().matrix()
    if kornia:
        functions["kornia"] = lambda xi: kornia.Se3.exp(xi).matrix()
    return case(functions, twists(batch, device), backward=backward, atol=1e-5)


@bench.case(sizes=SIZES)
def se3_log(batch: int, backward: bool, device: str) -> Case:
    functions: dict[str, Callable[..., Tensor]] = {"geocore": se3.log}
    if pypose:
        functions["pypose"] = lambda T: pypose.mat2SE3(T, check=False).Log().tensor()
    if kornia:
        functions["kornia"] = lambda T: kornia.Se3.from_matrix(T).log()
    return case(functions, se3.exp(twists(batch, device)), backward=backward, atol=1e-5)


@bench.case(sizes=SIZES)
def sim3_exp(batch: int, backward: bool, device: str) -> Case:
    functions: dict[str, Callable[..., Tensor]] = {"geocore": sim3.exp}
    if pypose:
        functions["pypose"] = lambda xi: pypose.sim3(xi).Exp().matrix()
    return case(functions, twists(batch, device, 7) * 0.5, backward=backward, atol=1e-5)


if __name__ == "__main__":
    bench.main()
