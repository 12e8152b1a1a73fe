"""Chunks against the loop over tokens, the literal recurrence, our own DeltaNet, and flash-linear-attention on CUDA.

``python benchmarks/bench_deltaproduct.py [--quick] [--device cuda] [--json FILE] [--only CASE]``
"""

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from deltaproduct import delta_product
from deltaproduct._chunk import chunk_pass
from deltaproduct._plan import dense_plan
from deltaproduct._reference import delta_product_reference
from geocore.testing import assert_finite
from geocore.testing.benchmark import Benchmark, Case

bench = Benchmark("deltaproduct")
H, D = 4, 64  # heads, features per head: the sizes that the targets are stated for
ON_GPU = importlib.util.find_spec("fla") is not None and torch.cuda.is_available()
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def draw(tokens: int, n: int, device: str, batch: int = 1) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(batch, tokens * m, H, D, generator=generator) for m in (1, n, n))
    beta = 2 * torch.rand(batch, tokens * n, H, generator=generator)
    return q.to(device), F.normalize(k, dim=-1).to(device), v.to(device), beta.to(device)


def finite(results: dict[str, Any]) -> None:
    """For candidates that compute different things on purpose; other cases compare values with the loop."""
    for name, result in results.items():
        assert_finite(name, result)


def only_forward(inputs: Inputs, n: int, mode: str = "auto", **options: Any) -> Callable[[], Any]:
    return torch.no_grad()(lambda: delta_product(*inputs, num_householder=n, mode=mode, **options)[0])


def with_backward(inputs: Inputs, n: int, mode: str = "auto") -> Callable[[], Any]:
    leaves = [x.requires_grad_() for x in inputs]
    weight = torch.randn(inputs[2].shape[0], inputs[0].shape[1], H, D, generator=torch.Generator().manual_seed(1)).to(inputs[0].device)
    return lambda: torch.autograd.grad((delta_product(*leaves, num_householder=n, mode=mode)[0] * weight).sum(), leaves)


@bench.case(sizes=[{"n_h": 2}, {"n_h": 1}, {"n_h": 4}])
def forward(n_h: int, device: str) -> Case:
    inputs = draw(1024, n_h, device)
    return Case(
        ours="chunk",
        candidates={
            "chunk": only_forward(inputs, n_h, "chunk"),
            "loop over tokens": only_forward(inputs, n_h, "recurrent"),
            "literal recurrence": torch.no_grad()(lambda: delta_product_reference(*inputs, num_householder=n_h)[0]),
        },
        targets={"loop over tokens": 1 / 3.5},
        atol=1e-4,
    )


@bench.case(sizes=[{"n_h": 2}, {"n_h": 1}, {"n_h": 4}])
def forward_backward(n_h: int, device: str) -> Case:
    inputs = draw(1024, n_h, device)
    return Case(
        ours="chunk",
        candidates={"chunk": with_backward(inputs, n_h, "chunk"), "loop over tokens": with_backward(inputs, n_h, "recurrent")},
        targets={"loop over tokens": 1 / 3},
        atol=1e-3,
        memory=True,
    )


@bench.case(sizes=[{"n_h": 2}, {"n_h": 1}, {"n_h": 4}])
def backward_over_forward(n_h: int, device: str) -> Case:
    inputs = draw(1024, n_h, device)
    return Case(
        ours="forward and backward",
        candidates={"forward and backward": with_backward(inputs, n_h, "chunk"), "forward": only_forward(inputs, n_h, "chunk")},
        targets={"forward": 4.0},
        check=finite,
    )


@bench.case(sizes=[{"n_h": 2}, {"n_h": 4}])
def cost_per_micro_step(n_h: int, device: str) -> Case:
    """``n_h`` factors on T tokens against DeltaNet on ``n_h T`` tokens: as many micro-steps, fewer queries."""
    return Case(
        ours="DeltaProduct, T = 1024",
        candidates={
            "DeltaProduct, T = 1024": only_forward(draw(1024, n_h, device), n_h, "chunk"),
            "DeltaNet, T = 1024 n_h": only_forward(draw(1024 * n_h, 1, device), 1, "chunk"),
        },
        targets={"DeltaNet, T = 1024 n_h": 1.15},
        check=finite,
    )


@bench.case(sizes=[{"n_h": 2}, {"n_h": 1}, {"n_h": 4}])
def decode(n_h: int, device: str) -> Case:
    """One token after 16 and after 16 384: the state is the same size."""
    q, k, v, beta = draw(1, n_h, device)

    def after(tokens: int) -> Callable[[], Any]:
        with torch.no_grad():
            _, S = delta_product(*draw(tokens, n_h, device), num_householder=n_h, output_final_state=True)
        return only_forward((q, k, v, beta), n_h, initial_state=S, output_final_state=True)

    return Case(
        ours="after 16384 tokens",
        candidates={"after 16384 tokens": after(16384), "after 16 tokens": after(16)},
        targets={"after 16 tokens": 1.1},
        check=finite,
    )


@bench.case(sizes=[{"n_h": 2}])
def gradient(n_h: int, device: str) -> Case:
    """Forward and backward of the same chunks: the hand-written gradient against autograd's."""
    leaves = [x.requires_grad_() for x in draw(1024, n_h, device)]
    weight = torch.randn(1, 1024, H, D, device=device)
    S, plan = torch.zeros(1, H, D, D, device=device), dense_plan(1, 1024, 32 // n_h)

    def plain() -> Any:
        o, _ = chunk_pass(leaves[0] * D**-0.5, leaves[1], leaves[2], leaves[3], None, S, plan, n_h)
        return torch.autograd.grad((o * weight).sum(), leaves)

    def recomputing() -> Any:
        o, _ = delta_product(leaves[0], leaves[1], leaves[2], leaves[3], num_householder=n_h, mode="chunk")
        return torch.autograd.grad((o * weight).sum(), leaves)

    return Case(ours="recomputing", candidates={"recomputing": recomputing, "autograd": plain}, atol=1e-3, memory=True)


def device_kernels(n_h: int, batch: int, device: str) -> Case:
    """bfloat16, T = 4096, forward and backward, on CUDA."""
    inputs = tuple(x.bfloat16() for x in draw(4096, n_h, device, batch))
    modes = {"chunk with Triton": "triton", "chunk": "chunk"} | ({"flash-linear-attention": "fla"} if ON_GPU else {})
    compiled = torch.compile(lambda *xs: delta_product(*xs, num_householder=n_h, mode="chunk")[0])
    candidates = {name: with_backward(inputs, n_h, mode) for name, mode in modes.items()}  # pyright: ignore[reportArgumentType]
    leaves = [x.requires_grad_() for x in inputs]
    weight = torch.randn(batch, 4096, H, D, device=device)
    candidates["chunk, compiled"] = lambda: torch.autograd.grad((compiled(*leaves) * weight).sum(), leaves)
    targets = {"flash-linear-attention": 3.0} if ON_GPU else {}
    return Case(ours="chunk, compiled", candidates=candidates, targets=targets, atol=5e-2, memory=True)


if torch.cuda.is_available():
    bench.case(sizes=[{"n_h": 2, "batch": 8}, {"n_h": 1, "batch": 8}])(device_kernels)


if __name__ == "__main__":
    raise SystemExit(bench.main())
