"""Transforms, LDU, truncated SVD and Monarch against torch and SciPy: ``python benchmarks/bench_structured.py [--quick] [--json F]``."""

from collections.abc import Callable
from typing import Any

import scipy.fft
import torch
from torch import Tensor

from geocore.blocks import monarch_dense, monarch_matmul
from geocore.structured import dct, dct_matrix, full_ldu, project_monarch, svd_trunc, truncated_ldu
from geocore.testing.benchmark import Benchmark, Case

bench = Benchmark("structured")


def torch_dct(x: Tensor) -> Tensor:
    """DCT-II by one real FFT of twice the length: what one writes without a library."""
    n = x.shape[-1]
    spectrum = torch.fft.rfft(x, n=2 * n)[..., :n]
    turn = torch.exp(-0.5j * torch.pi / n * torch.arange(n, device=x.device))
    y = 2 * (spectrum * turn).real / (2 * n) ** 0.5
    return torch.cat([y[..., :1] * 0.5**0.5, y[..., 1:]], dim=-1)


def torch_dct_makhoul(x: Tensor) -> Tensor:
    """DCT-II by one complex FFT of the same length."""
    n = x.shape[-1]
    v = torch.cat([x[..., ::2], x[..., 1::2].flip(-1)], dim=-1)
    turn = torch.exp(-0.5j * torch.pi / n * torch.arange(n, device=x.device))
    scale = torch.full((n,), (2 / n) ** 0.5, device=x.device)
    scale[0] = n**-0.5
    return (torch.fft.fft(v) * (turn * scale)).real


@bench.case(sizes=[{"rows": 1024, "n": n} for n in (256, 512, 1024, 2048, 4096)])
def dct_forward(rows: int, n: int, device: str) -> Case:
    x = torch.randn(rows, n, device=device)
    D = dct_matrix(n, device=device)
    candidates: dict[str, Callable[[], Tensor]] = {
        "geocore": lambda: dct(x),
        "matmul": lambda: x @ D.mT,
        "torch, padded rfft": lambda: torch_dct(x),
        "torch, Makhoul": lambda: torch_dct_makhoul(x),
    }
    targets = dict.fromkeys([name for name in candidates if name != "geocore"], 1.3)
    if device == "cpu":
        array = x.numpy()
        candidates["scipy"] = lambda: torch.from_numpy(scipy.fft.dct(array, norm="ortho"))
    return Case(ours="geocore", candidates=candidates, targets=targets, atol=1e-4)


@bench.case(sizes=[{"n": 1024, "r": 32}, {"n": 1024, "r": 256}, {"n": 4096, "r": 32}, {"n": 4096, "r": 256}])
def ldu(n: int, r: int, device: str) -> Case:
    W = torch.randn(n, n, device=device)

    def check(results: dict[str, Any]) -> None:
        panel, (P, L, _) = results["geocore"], results["torch.linalg.lu"]
        same = torch.equal(panel.perm[:r], P.argmax(0)[:r])  # both pivot on the largest entry, so the factors agree too
        if not (same and (panel.L[:r] - L[:r, :r]).abs().max() < 1e-2):
            raise AssertionError("the panel differs from the full factorisation")

    return Case(
        ours="geocore",
        candidates={"geocore": lambda: truncated_ldu(W, r), "torch.linalg.lu": lambda: torch.linalg.lu(W)},
        targets={"torch.linalg.lu": {(4096, 256): 1 / 16, (4096, 32): 1 / 16}.get((n, r), 1 / 7 if r == 32 else 1.0)},
        check=check,
    )


@bench.case(sizes=[{"n": 1024, "r": 32}])
def truncated_svd(n: int, r: int, device: str) -> Case:
    left, right = torch.linalg.qr(torch.randn(2, n, n, device=device))[0]
    A = (left * torch.exp(-torch.arange(n, device=device) / 40.0)) @ right.mT
    tail = torch.exp(-torch.arange(r, n) / 40.0).square().sum().sqrt().item()

    def method(name: str) -> Callable[[], Any]:
        return lambda: svd_trunc(A, r, method=name, generator=torch.Generator(device).manual_seed(0))  # type: ignore[arg-type]

    def full() -> tuple[Tensor, ...]:
        U, S, Vh = torch.linalg.svd(A, full_matrices=False)
        return U[:, :r], S[:r], Vh[:r]

    def check(results: dict[str, Any]) -> None:
        for name, (U, S, Vh) in results.items():
            error = torch.linalg.matrix_norm(A - (U * S) @ Vh).item() / tail
            if not error < (1.05 if name == "torch.svd_lowrank" else 1.01):
                raise AssertionError(f"{name}: error is {error:.3f} times the optimum")

    def lowrank() -> tuple[Tensor, ...]:
        U, S, V = torch.svd_lowrank(A, q=r + 16, niter=4)
        return U[:, :r], S[:r], V[:, :r].mT

    candidates = {
        "randomized": method("randomized"),
        "gram": method("gram"),
        "exact": method("exact"),
        "torch.svd_lowrank": lowrank,
        "torch.linalg.svd": full,
    }
    return Case(ours="randomized", candidates=candidates, targets={"torch.svd_lowrank": 1.1, "torch.linalg.svd": 1.0}, check=check)


@bench.case(sizes=[{"n": 1024, "blocks": 32, "rank": 1}, {"n": 1024, "blocks": 16, "rank": 16}, {"n": 1024, "blocks": 32, "rank": 16}])
def monarch_projection(n: int, blocks: int, rank: int, device: str) -> Case:
    M = torch.randn(n, n, device=device)
    B = M.reshape(n // blocks, blocks, blocks, n // blocks).permute(1, 2, 0, 3)

    def check(results: dict[str, Any]) -> None:
        got, (_, S, _) = results["geocore"], results["batched SVD"]
        if not abs(got.error - S[..., rank:].square().sum().sqrt()) < 1e-3 * got.error:
            raise AssertionError("the projection is not the optimum")

    candidates = {
        "geocore": lambda: project_monarch(M, blocks, blocks, rank=rank),
        "batched SVD": lambda: torch.linalg.svd(B, full_matrices=False),
    }
    return Case(ours="geocore", candidates=candidates, targets={"batched SVD": 1.2}, check=check)


@bench.case(
    sizes=[{"n": 4096, "blocks": 64, "batch": 256}, {"n": 1024, "blocks": 32, "batch": 256}, {"n": 4096, "blocks": 4, "batch": 256}]
)
def monarch_product(n: int, blocks: int, batch: int, device: str) -> Case:
    x = torch.randn(batch, n, device=device)
    w1, w2 = (torch.randn(blocks, n // blocks, n // blocks, device=device) / (n // blocks) ** 0.5 for _ in range(2))
    W = monarch_dense(w1, w2)
    return Case(
        ours="geocore",
        candidates={"geocore": lambda: monarch_matmul(x, w1, w2), "dense": lambda: x @ W.mT},
        targets={"dense": 1 / 6} if (n, blocks) == (4096, 64) else {"dense": 1.0},
        atol=1e-4,
    )


@bench.case(sizes=[{"n": 512}])
def full_factorisation(n: int, device: str) -> Case:
    A = torch.randn(n, n, device=device)

    def check(results: dict[str, Any]) -> None:
        gap = (results["geocore"].dense() - A).abs().max()
        if not gap < 1e-2:
            raise AssertionError(f"the factors do not give the matrix back: {gap:.3g}")

    candidates = {"geocore": lambda: full_ldu(A), "torch.linalg.lu": lambda: torch.linalg.lu(A)}
    return Case(ours="geocore", candidates=candidates, targets={"torch.linalg.lu": 1.5}, check=check)


if __name__ == "__main__":
    bench.main()
