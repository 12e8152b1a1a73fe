"""What layers call: rotary embedding and unit triangular solves of Householder products, with kernels, without, and torch alone.

python bench_layers.py [--quick] [--device cuda] [--json FILE] [--only rope]
"""

from collections.abc import Callable

import torch
from torch import Tensor

from geocore.blocks import rope_apply
from geocore.householder._wy import unit_solve
from geocore.testing.benchmark import Benchmark, Case, plain

bench = Benchmark("layers")


@bench.case(
    sizes=[
        {"batch": b, "heads": 8, "length": n, "d": 64, "layout": layout, "backward": backward}
        for b, n in ((1, 128), (4, 512))
        for layout in ("interleaved", "half")
        for backward in (False, True)
    ]
)
def rope(batch: int, heads: int, length: int, d: int, layout: str, backward: bool, device: str) -> Case:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(batch, heads, length, d, generator=g).to(device).requires_grad_(backward)
    angle = torch.randn(length, d // 2, generator=g).to(device)
    cos, sin, cotangent = angle.cos(), angle.sin(), torch.ones_like(x)

    def call() -> Tensor:
        y = rope_apply(x, cos, sin, layout=layout)
        return torch.autograd.grad(y, x, cotangent)[0] if backward else y

    return Case(ours="geocore-cuda", candidates={"geocore-cuda": call, "geocore": plain(call)}, atol=1e-5)


@bench.case(
    sizes=[
        {"batch": b, "m": m, "d": d, "dtype": dtype}
        for b, m, d in ((512, 4, 64), (512, 16, 64), (512, 64, 64), (64, 128, 128))
        for dtype in ("float32", "float64")
    ]
)
def triangular(batch: int, m: int, d: int, dtype: str, device: str) -> Case:
    g = torch.Generator().manual_seed(0)
    K = torch.nn.functional.normalize(torch.randn(batch, m, d, generator=g), dim=-1).to(device, getattr(torch, dtype))
    A, B = torch.tril(K @ K.mT, -1), torch.randn(batch, m, d, generator=g).to(K)
    return Case(
        ours="geocore-cuda",
        candidates={
            "geocore-cuda": lambda: unit_solve(A, B, upper=False),
            "linalg.solve_triangular": lambda: torch.linalg.solve_triangular(A, B, upper=False, unitriangular=True),
        },
        atol=1e-4,
    )


if __name__ == "__main__":
    raise SystemExit(bench.main())
