"""What layers call: rotary embedding, block rotations, unit triangular solves; with kernels, without, and torch alone.

python bench_layers.py [--quick] [--device cuda] [--json FILE] [--only rope]
"""

from itertools import product

import torch
from torch import Tensor

from geocore.blocks import apply_block_rotation, rope_apply
from geocore.householder._wy import unit_solve
from geocore.testing.benchmark import Benchmark, Case, plain

bench = Benchmark("layers")


ROPE = product(((1, 128), (4, 512)), ("float32", "bfloat16"), ("interleaved", "half"), (False, True))


@bench.case(
    sizes=[
        {"batch": b, "heads": 8, "length": n, "d": 64, "dtype": dtype, "layout": layout, "backward": backward}
        for (b, n), dtype, layout, backward in ROPE
    ]
)
def rope(batch: int, heads: int, length: int, d: int, dtype: str, layout: str, backward: bool, device: str) -> Case:
    """bfloat16 also by the float32 kernel between two conversions."""
    g, kind = torch.Generator().manual_seed(0), getattr(torch, dtype)
    x = torch.randn(batch, heads, length, d, generator=g).to(device, kind).requires_grad_(backward)
    angle = torch.randn(length, d // 2, generator=g).to(device)
    cos, sin, cotangent = angle.cos().to(kind), angle.sin().to(kind), torch.ones_like(x)

    def call() -> Tensor:
        y = rope_apply(x, cos, sin, layout=layout)
        return torch.autograd.grad(y, x, cotangent)[0] if backward else y

    def converted() -> Tensor:
        y = rope_apply(x.float(), cos.float(), sin.float(), layout=layout).to(kind)
        return torch.autograd.grad(y, x, cotangent)[0] if backward else y

    candidates = {"geocore-cuda": call, "geocore": plain(call)} | ({"float32 kernel": converted} if dtype != "float32" else {})
    return Case(ours="geocore-cuda", candidates=candidates, atol=1e-5 if dtype == "float32" else 1e-2)


BLOCKS = [
    *product((1, 10_000), (96,), (2, 3, 4, 8), (True, False), ("float32",), (False, True)),
    *product((10_000,), (768,), (3, 8), (True,), ("float32",), (False, True)),
    *product((100_000,), (96,), (3,), (True, False), ("float32",), (False, True)),
    *product((10_000,), (96,), (3, 8), (True, False), ("float64",), (False, True)),
]


@bench.case(sizes=[dict(zip(("rows", "d", "k", "shared", "dtype", "backward"), size, strict=True)) for size in BLOCKS])
def blocks(rows: int, d: int, k: int, shared: bool, dtype: str, backward: bool, device: str) -> Case:
    """Rows (batch, heads and tokens together) under blocks of their own or one set for all; the gradient is that in both."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(rows, d, generator=g).to(device, getattr(torch, dtype)).requires_grad_(backward)
    R = torch.randn(*(() if shared else (rows,)), d // k, k, k, generator=g).to(x).requires_grad_(backward)
    cotangent = torch.ones_like(x)

    def call() -> tuple[Tensor, ...]:
        y = apply_block_rotation(x, R)
        return torch.autograd.grad(y, (x, R), cotangent) if backward else (y,)

    return Case(ours="geocore-cuda", candidates={"geocore-cuda": call, "geocore": plain(call)}, atol=1e-4)


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
