"""The compiled kernel of geocore-cuda against the same call by torch's own operators.

``python benchmarks/bench_kernel.py [--quick] [--device cuda] [--json FILE] [--only CASE]``; needs geocore-cuda.
"""

import sys
from typing import Any

import torch
from torch.nn import functional as F

from deltaproduct import delta_product
from geocore import _ops
from geocore.testing.benchmark import Benchmark, Case, plain

bench = Benchmark("kernel")
SHAPES = [
    {"batch": 1, "tokens": 1024, "heads": 4, "dim": 64},
    {"batch": 1, "tokens": 1024, "heads": 1, "dim": 64},
    {"batch": 8, "tokens": 256, "heads": 4, "dim": 16},
    {"batch": 2, "tokens": 512, "heads": 4, "dim": 128},
    {"batch": 1, "tokens": 512, "heads": 2, "dim": 256},
    {"batch": 1, "tokens": 8, "heads": 4, "dim": 64},
    {"batch": 1, "tokens": 1, "heads": 4, "dim": 64},
]
KINDS = [(2, False, "float32"), (1, False, "float32"), (4, False, "float32"), (2, True, "float32"), (2, False, "float64")]
SIZES = [
    {**shape, "n_h": n, "gated": gated, "dtype": dtype, "backward": backward}
    for i, shape in enumerate(SHAPES)
    for n, gated, dtype in KINDS
    for backward in (False, True)
    if i == 0 or (n, gated, dtype) == KINDS[0]
]


@bench.case(sizes=SIZES)
def scan(batch: int, tokens: int, heads: int, dim: int, n_h: int, gated: bool, dtype: str, backward: bool, device: str) -> Case:
    generator = torch.Generator().manual_seed(0)
    normal = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    k, beta = F.normalize(normal(batch, tokens * n_h, heads, dim), dim=-1), 2 * normal(batch, tokens * n_h, heads).sigmoid()
    given = [normal(batch, tokens, heads, dim), k, normal(batch, tokens * n_h, heads, dim), beta]
    given += [-normal(batch, tokens, heads).abs()] if gated else []
    live = [x.to(device, getattr(torch, dtype)).requires_grad_(backward) for x in given]
    weight = torch.ones_like(live[0])

    def call() -> Any:
        o, _ = delta_product(*live, num_householder=n_h)
        return torch.autograd.grad(o, live, weight) if backward else o

    return Case(ours="kernel", candidates={"kernel": call, "torch": plain(call)}, atol=1e-4)


if __name__ == "__main__":
    if not _ops.kernel_status().found:
        sys.exit(f"nothing was measured: {_ops.kernel_status().reason}")
    raise SystemExit(bench.main())
