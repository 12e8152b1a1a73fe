"""Rotation of queries and keys in a ViT-B/16 layer: the paper's algorithm, the same by blocks, ours, and after folding.

``python benchmarks/bench_comrope.py [--quick] [--device cuda] [--json FILE] [--only CASE]``
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from comrope import ComRoPE, grid_positions
from comrope._reference import dense_rotations_reference, rotate_blocks_reference
from geocore.blocks import rope_apply
from geocore.testing.benchmark import Benchmark, Case

bench = Benchmark("comrope")
H, D = 12, 64
Rotate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
SIZES: list[dict[str, Any]] = [
    {"batch": 1, "side": 14, "variant": "ld"},
    {"batch": 1, "side": 14, "variant": "ap"},
    {"batch": 1, "side": 14, "variant": "full"},
    {"batch": 4, "side": 14, "variant": "ld"},
    {"batch": 1, "side": 24, "variant": "ld"},
]


def layer(batch: int, side: int, variant: str, device: str) -> tuple[ComRoPE, Tensor, Tensor, Tensor]:
    """A layer of ViT-B/16 and its input; 14 patches per side are 224 px."""
    positions = grid_positions((side, side), prefix_tokens=1, device=device)
    q, k = (torch.randn(batch, H, len(positions), D, device=device, requires_grad=True) for _ in range(2))
    return ComRoPE(D, H, 2, variant=variant, device=device), q, k, positions


def rotations(rope: ComRoPE, positions: Tensor, batch: int) -> dict[str, Rotate]:
    """The algorithms under comparison, each for queries and keys together."""

    def paper(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        R = dense_rotations_reference(rope.generators(), positions.expand(batch, *positions.shape))
        return torch.einsum("blhij,bhlj->bhli", R, q), torch.einsum("blhij,bhlj->bhli", R, k)

    def blocks(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        a, b = rotate_blocks_reference(torch.cat((q, k)), rope.generators(), positions).chunk(2)
        return a, b

    return {"paper: dense matrices": paper, "matrix_exp by blocks": blocks, "comrope": lambda q, k: rope(q, k, positions)}


@bench.case(sizes=SIZES)
def training(batch: int, side: int, variant: str, device: str) -> Case:
    """Forward and backward of the rotation, gradients to queries, keys and all parameters."""
    rope, q, k, positions = layer(batch, side, variant, device)
    weights = torch.randn_like(q), torch.randn_like(k)
    leaves = (q, k, *rope.parameters())

    def step(rotate: Rotate) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(rotate(q, k), leaves, weights)

    candidates = {name: step(rotate) for name, rotate in rotations(rope, positions, batch).items()}
    targets = {"paper: dense matrices": 1 / 8, "matrix_exp by blocks": 1 / 6}
    return Case(ours="comrope", candidates=candidates, targets=targets, memory=True)


@bench.case(sizes=SIZES[:1])
def forward(batch: int, side: int, variant: str, device: str) -> Case:
    """Forward of the rotation as in training, recording gradients."""
    rope, q, k, positions = layer(batch, side, variant, device)

    def run(rotate: Rotate) -> Callable[[], Any]:
        return lambda: rotate(q, k)

    return Case(ours="comrope", candidates={name: run(r) for name, r in rotations(rope, positions, batch).items()}, memory=True)


@bench.case(sizes=SIZES[:1])
def attention(batch: int, side: int, variant: str, device: str) -> Case:
    """Forward and backward of a whole attention layer: what the rotation adds to it."""
    rope, q, _, positions = layer(batch, side, variant, device)
    x = torch.randn(batch, q.shape[-2], H * D, device=device)
    qkv, proj = nn.Linear(H * D, 3 * H * D, device=device), nn.Linear(H * D, H * D, device=device)
    weight = torch.randn_like(x)

    def step(rotate: Rotate | None) -> Callable[[], Any]:
        leaves = (*qkv.parameters(), *proj.parameters(), *(rope.parameters() if rotate else ()))

        def run() -> tuple[Tensor, ...]:
            q, k, v = qkv(x).unflatten(-1, (3, H, D)).permute(2, 0, 3, 1, 4)
            if rotate is not None:
                q, k = rotate(q, k)
            y = proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
            return torch.autograd.grad(y, leaves, weight)

        return run

    candidates = {name: step(rotate) for name, rotate in rotations(rope, positions, batch).items()} | {"no rotation": step(None)}

    def check(results: dict[str, Any]) -> None:
        for name in ("paper: dense matrices", "matrix_exp by blocks"):
            for a, b in zip(results[name], results["comrope"], strict=True):
                assert (a - b).abs().max() <= 1e-3 * max(1.0, float(b.abs().max())), name

    return Case(ours="comrope", candidates=candidates, check=check)


@bench.case(sizes=SIZES[:1])
def inference(batch: int, side: int, variant: str, device: str) -> Case:
    """Forward without gradients: the layer in eval mode, which remembers its basis and angles."""
    rope, q, k, positions = layer(batch, side, variant, device)
    rope.eval()

    def run(rotate: Rotate) -> Callable[[], Any]:
        return torch.no_grad()(lambda: rotate(q, k))

    return Case(ours="comrope", candidates={name: run(r) for name, r in rotations(rope, positions, batch).items()}, memory=True)


@bench.case(sizes=[*SIZES[:1], {"batch": 8, "side": 14, "variant": "ld"}])
def folded(batch: int, side: int, variant: str, device: str) -> Case:
    """After folding, with a table per head, against plain RoPE with one table for all heads.

    In a case of its own: right behind a candidate that sweeps hundreds of megabytes, whichever came first would find cold caches.
    """
    rope, q, k, positions = layer(batch, side, variant, device)
    q, k = q.detach(), k.detach()
    q_proj, k_proj = (nn.Linear(D, H * D, bias=False, device=device) for _ in range(2))
    x = torch.randn(batch, q.shape[-2], D, device=device)
    heads = lambda linear: linear(x).unflatten(-1, (H, D)).transpose(1, 2)  # noqa: E731
    with torch.no_grad():
        a, b = rope(heads(q_proj), heads(k_proj), positions)
        before = a @ b.mT
        table = rope.fold_into_(q_proj, k_proj).eval()
        a, b = table.apply(heads(q_proj), heads(k_proj), positions)
        folding_error = float((a @ b.mT - before).abs().max() / before.abs().max())
    cos, sin = (t[0].contiguous() for t in table(positions))

    def check(results: dict[str, Any]) -> None:
        assert folding_error <= 1e-5, f"folding changes logits by {folding_error:.2g}"
        assert torch.equal(results["folded"][0][:, 0], results["plain RoPE"][0][:, 0])  # the head whose table plain RoPE has here

    candidates = {
        "folded": torch.no_grad()(lambda: table.apply(q, k, positions)),
        "plain RoPE": torch.no_grad()(lambda: (rope_apply(q, cos, sin), rope_apply(k, cos, sin))),
    }
    return Case(ours="folded", candidates=candidates, targets={"plain RoPE": 1.2}, check=check, memory=True)


if __name__ == "__main__":
    raise SystemExit(bench.main())
