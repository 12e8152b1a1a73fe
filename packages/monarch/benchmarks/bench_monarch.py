"""Monarch layers against dense ones: ``python benchmarks/bench_monarch.py [--quick] [--json F]``.

``autograd.Function`` is the product with a hand-written backward in the way of the published code, written anew here from its description.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from geocore.testing.benchmark import Benchmark, Case
from monarch import MonarchLinear, monarch_matmul, project_monarch

bench = Benchmark("monarch")
BATCH = 256


class TwoProducts(torch.autograd.Function):
    """Two batched products with output buffers laid out by hand, saving the input and the middle."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w1: Tensor, w2: Tensor) -> Tensor:  # noqa: D102
        k, q, p = w1.shape
        l, s, r = w2.shape  # noqa: E741
        blocks = x.reshape(-1, k, p).transpose(0, 1)
        u = torch.empty(blocks.shape[1], k, q, dtype=x.dtype, device=x.device).transpose(0, 1)
        torch.bmm(blocks, w1.mT, out=u)
        middle = u.transpose(0, 1).reshape(-1, r, l).transpose(-1, -2).contiguous().transpose(0, 1)
        v = torch.empty(blocks.shape[1], l, s, dtype=x.dtype, device=x.device).transpose(0, 1)
        torch.bmm(middle, w2.mT, out=v)
        ctx.save_for_backward(blocks, w1, w2, middle)
        return v.permute(1, 2, 0).reshape(*x.shape[:-1], s * l)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: D102
        blocks, w1, w2, middle = ctx.saved_tensors
        (k, q, _), (l, s, _) = w1.shape, w2.shape  # noqa: E741
        dv = grads[0].reshape(-1, s, l).permute(2, 0, 1)
        dw2 = torch.bmm(dv.mT, middle)
        du = torch.bmm(dv, w2).transpose(0, 1).transpose(-1, -2).reshape(-1, k, q).transpose(0, 1)
        dw1 = torch.bmm(du.mT, blocks)
        return torch.bmm(du, w1).transpose(0, 1).reshape(grads[0].shape[0], -1), dw1, dw2


SIZES = [{"n": 4096, "blocks": 64}, {"n": 4096, "blocks": 4}, {"n": 1024, "blocks": 32}, {"n": 1024, "blocks": 4}]
TARGETS = {(4096, 64): 1 / 6, (4096, 4): 1 / 1.5}


def setup(n: int, blocks: int, device: str, batch: int = BATCH) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    layer = MonarchLinear(n, n, False, nblocks=blocks, rank=1 if blocks * blocks == n else None, device=device)
    w1, w2 = layer.w1.detach(), layer.w2.detach()
    return torch.randn(batch, n, device=device), w1, w2, layer.to_dense().detach().contiguous()


@bench.case(sizes=SIZES)
def forward(n: int, blocks: int, device: str) -> Case:
    x, w1, w2, dense = setup(n, blocks, device)
    return Case(
        ours="monarch",
        candidates={
            "monarch": lambda: monarch_matmul(x, w1, w2),
            "dense": lambda: F.linear(x, dense),
            "autograd.Function": lambda: TwoProducts.apply(x, w1, w2),
        },
        targets={"dense": TARGETS.get((n, blocks), 1.0), "autograd.Function": 1.05}
        if blocks > 4 or n > 1024
        else {"autograd.Function": 1.05},
        atol=1e-4,
    )


@bench.case(sizes=SIZES)
def forward_backward(n: int, blocks: int, device: str) -> Case:
    x, w1, w2, dense = (t.requires_grad_() for t in setup(n, blocks, device))
    g = torch.randn_like(x)

    def factors(fn: Any) -> Any:
        return lambda: torch.autograd.grad(fn(x, w1, w2), (x, w1, w2), g)

    def check(results: dict[str, Any]) -> None:
        for a, b in zip(results["monarch"], results["autograd.Function"], strict=True):
            assert (a - b).abs().max() <= 1e-4 * b.abs().max()
        assert (results["monarch"][0] - results["dense"][0]).abs().max() <= 1e-4 * results["dense"][0].abs().max()

    return Case(
        ours="monarch",
        candidates={
            "monarch": factors(monarch_matmul),
            "dense": lambda: torch.autograd.grad(F.linear(x, dense), (x, dense), g),
            "autograd.Function": factors(TwoProducts.apply),
        },
        targets={"autograd.Function": 1.05} | ({"dense": 1 / 3} if (n, blocks) == (4096, 64) else {}),
        check=check,
        memory=True,
    )


@bench.case(sizes=[{"n": n, "batch": b} for n in (256, 1024, 4096) for b in (1, 16, 1024)])
def crossover(n: int, batch: int, device: str) -> Case:
    blocks = round(n**0.5)
    x, w1, w2, dense = setup(n, blocks, device, batch)
    return Case(
        ours="monarch",
        candidates={"monarch": lambda: monarch_matmul(x, w1, w2), "dense": lambda: F.linear(x, dense)},
        atol=1e-4,
    )


@bench.case(sizes=[{"n": 1024, "blocks": 32, "rank": 1}, {"n": 1024, "blocks": 4, "rank": 64}, {"n": 4096, "blocks": 4, "rank": 256}])
def projection(n: int, blocks: int, rank: int, device: str) -> Case:
    M = torch.randn(n, n, device=device)
    size = n // blocks
    B = M.reshape(size, blocks, blocks, size).permute(1, 2, 0, 3).contiguous()

    def check(results: dict[str, Any]) -> None:
        tail = results["batched SVD"][1][..., rank:].square().sum().sqrt()
        assert (results["monarch"][2].error - tail).abs() <= 1e-4 * tail

    return Case(
        ours="monarch",
        candidates={
            "monarch": lambda: project_monarch(M, blocks, blocks, rank=rank),
            "batched SVD": lambda: torch.linalg.svd(B, full_matrices=False),
        },
        targets={"batched SVD": 1.2},
        check=check,
    )


if __name__ == "__main__":
    bench.main()
