"""Exponential and logarithm of SO(3): the kernel, the formula it replaces, and roma where it is installed.

python bench_rotations.py [--quick] [--device cuda] [--json FILE] [--only exp]
"""

from collections.abc import Callable

import torch
from torch import Tensor

from geocore import _ops, so3
from geocore.testing.benchmark import Benchmark, Case

bench = Benchmark("rotations")
SIZES = [
    {"batch": batch, "dtype": dtype, "backward": backward}
    for batch, dtype, backward in (
        (100, "float32", False),
        (10_000, "float32", False),
        (10_000, "float32", True),
        (10_000, "float64", False),
        (10_000, "float64", True),
        (100_000, "float32", True),
    )
]


def plain(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The same function with every kernel switched off."""

    def run(x: Tensor) -> Tensor:
        with _ops.without_kernels():
            return fn(x)

    return run


def case(fn: Callable[[Tensor], Tensor], roma_name: str, x: Tensor, backward: bool) -> Case:
    functions = {"geocore-cuda": fn, "geocore": plain(fn)}
    try:
        import roma
    except ImportError:
        pass
    else:
        functions["roma"] = getattr(roma, roma_name)
    if not backward:
        return Case(ours="geocore-cuda", candidates={n: lambda f=f: f(x) for n, f in functions.items()}, atol=1e-3)
    live = x.clone().requires_grad_()
    cotangent = torch.ones_like(fn(x))

    def both(f: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
        def run() -> Tensor:
            out = f(live)
            torch.autograd.grad(out, live, cotangent)
            return out

        return run

    return Case(ours="geocore-cuda", candidates={n: both(f) for n, f in functions.items()}, atol=1e-3)


def rotation_vectors(batch: int, dtype: str, device: str) -> Tensor:
    g = torch.Generator().manual_seed(0)
    w = torch.nn.functional.normalize(torch.randn(batch, 3, generator=g), dim=-1) * torch.rand(batch, 1, generator=g) * 3.1
    return w.to(device, getattr(torch, dtype))


@bench.case(sizes=SIZES)
def exp(batch: int, dtype: str, backward: bool, device: str) -> Case:
    return case(so3.exp, "rotvec_to_rotmat", rotation_vectors(batch, dtype, device), backward)


@bench.case(sizes=SIZES)
def log(batch: int, dtype: str, backward: bool, device: str) -> Case:
    return case(so3.log, "rotmat_to_rotvec", so3.exp(rotation_vectors(batch, dtype, device)), backward)


if __name__ == "__main__":
    bench.main()
