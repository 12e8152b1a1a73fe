"""Factorisation, forward, decomposition and calibration: ``python benchmarks/bench_peft_loldu_corda.py [--quick] [--json F]``.

``dense forward`` and ``full LU, with P`` are what the published LoLDU code does, written anew from its description. What an adapter
costs to start, against peft, is in ``bench_start.py``: too long to be repeated.
"""

import copy
from typing import Any

import peft
import torch
from peft import LoraConfig
from torch import Tensor, nn

from geocore.testing.benchmark import Benchmark, Case
from peft_loldu_corda import CordaLoraConfig, LolduConfig, collect_input_stats, loldu_factors, preprocess_corda
from peft_loldu_corda._reference import loldu_factors_reference

bench = Benchmark("peft_loldu_corda")


@bench.case(sizes=[{"n": 4096, "r": 256}, {"n": 4096, "r": 32}, {"n": 1024, "r": 64}])
def factorisation(n: int, r: int, device: str) -> Case:
    W = torch.randn(n, n, device=device)

    def full() -> Tensor:
        P, L, U = torch.linalg.lu(W)
        d = U.diagonal()
        return (P @ L)[:, :r] * d[:r] @ (U / d[:, None])[:r]

    def search_only() -> Tensor:
        packed, _ = torch.linalg.lu_factor(W)
        return packed

    f = loldu_factors(W, r)

    def check(results: dict[str, Any]) -> None:
        mine = results["loldu_factors"]
        product = mine.L * mine.d @ mine.U
        assert (product - results["full LU, with P"]).norm() <= 1e-3 * product.norm()
        assert (W - product)[:, :r].abs().max() <= 1e-2

    return Case(
        ours="loldu_factors",
        candidates={
            "loldu_factors": lambda: loldu_factors(W, r),
            "full LU, with P": full,
            "full LU": search_only,
            "stored pivots": lambda: loldu_factors(W, r, pivots=f.pivots),
        },
        targets={"full LU, with P": 1 / 50 if r <= 64 and n >= 4096 else 1 / 10, "full LU": 1 / 16 if (n, r) == (4096, 256) else 1 / 2},
        check=check,
        memory=True,
    )


def layer(n: int, device: str) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(n, n, bias=False, device=device))


@bench.case(sizes=[{"n": 1024, "r": 64}, {"n": 4096, "r": 64}])
def forward(n: int, r: int, device: str) -> Case:
    x = torch.randn(64, n, device=device)
    base = layer(n, device)
    W = base[0].weight.detach()
    loldu = peft.get_peft_model(copy.deepcopy(base), LolduConfig(r=r, lora_alpha=r, target_modules=["0"])).eval()
    lora = peft.get_peft_model(copy.deepcopy(base), LoraConfig(r=r, lora_alpha=r, target_modules=["0"])).eval()
    corda_base = copy.deepcopy(base)
    config = preprocess_corda(corda_base, CordaLoraConfig(r=r, lora_alpha=r, target_modules=["0"]), whitening="none", method="randomized")
    corda = peft.get_peft_model(corda_base, config).eval()
    candidates = {"LoLDU": lambda: loldu(x), "LoRA": lambda: lora(x), "CorDA": lambda: corda(x), "base alone": lambda: base(x)}
    targets = {"LoRA": 1.15}
    if n <= 1024:
        P, L, d, U = loldu_factors_reference(W, r)
        residual, z = W - P @ L @ torch.diag(d) @ U, d.clone()
        candidates["dense forward"] = lambda: x @ (residual + P @ (L @ torch.diag(z) @ U)).T
        targets["dense forward"] = 1 / 10

    def no_grad(run: Any) -> Any:
        return torch.no_grad()(run)

    return Case(ours="LoLDU", candidates={k: no_grad(v) for k, v in candidates.items()}, targets=targets, atol=1e-4, memory=True)


@bench.case(sizes=[{"n": 1024}])
def decomposition(n: int, device: str) -> Case:
    from peft_loldu_corda import decompose

    W, x = torch.randn(n, n, device=device), torch.randn(4 * n, n, device=device)
    C = x.T @ x / len(x)
    return Case(
        ours="decompose, ipm",
        candidates={
            "decompose, ipm": lambda: decompose(W, C, 32),
            "decompose, ipm, randomised": lambda: decompose(W, C, 32, method="randomized"),
            "decompose, kpm (float64)": lambda: decompose(W, C, 32, mode="kpm"),
            "one SVD": lambda: torch.linalg.svd(W, full_matrices=False),
            "one SVD (float64)": lambda: torch.linalg.svd(W.double(), full_matrices=False),
        },
        targets={"one SVD": 1.1},
        check=lambda results: None,
    )


@bench.case(sizes=[{"width": 256, "tokens": 2048}, {"width": 512, "tokens": 2048}])
def calibration(width: int, tokens: int, device: str) -> Case:
    """One block of a Llama under the collector, against the block alone."""
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=1,
        num_attention_heads=8,
        vocab_size=64,
        bos_token_id=0,
        eos_token_id=1,
    )
    model = LlamaModel(config).to(device).eval()
    batches = [{"input_ids": torch.randint(2, 60, (1, tokens), device=device)} for _ in range(4)]
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

    def plain() -> None:
        with torch.no_grad():
            for batch in batches:
                model(**batch)

    return Case(
        ours="collect_input_stats",
        candidates={"collect_input_stats": lambda: collect_input_stats(model, batches, target_modules=names), "forward": plain},
        targets={"forward": 2.0},
        check=lambda results: None,
    )


if __name__ == "__main__":
    bench.main()
