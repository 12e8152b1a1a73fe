"""Small matrices: the kernels, geocore without them, and torch.linalg.

python bench_matrices.py [--quick] [--device cuda] [--json FILE] [--only eigh]
"""

from collections.abc import Callable

import torch
from torch import Tensor

from geocore import _dispatch, son
from geocore.testing.benchmark import Benchmark, Case, plain

bench = Benchmark("matrices")
BATCH = 10_000
DTYPES = ("float32", "float64")


def matrices(n: int, batch: int, dtype: str, device: str) -> Tensor:
    A = torch.randn(batch, n, n, generator=torch.Generator().manual_seed(n))
    return (A / n**0.5).to(device, getattr(torch, dtype))


def with_backward(fn: Callable[[Tensor], Tensor], A: Tensor) -> Callable[[], Tensor]:
    live, g = A.clone().requires_grad_(), torch.ones_like(A)
    return lambda: torch.autograd.grad(fn(live), live, g)[0]


def sizes(orders: tuple[int, ...], backward: tuple[bool, ...]) -> list[dict[str, object]]:
    """Batches of 10 000; fewer of the largest, where LAPACK would take a second a call."""
    return [
        {"n": n, "batch": BATCH if n <= 8 else BATCH // 10, "dtype": dtype, **({"backward": b} if len(backward) > 1 else {})}
        for n in orders
        for dtype in DTYPES
        for b in backward
    ]


@bench.case(sizes=sizes((2, 3, 4, 8, 16, 32), (False,)))
def eigh(n: int, batch: int, dtype: str, device: str) -> Case:
    """The operator itself at every size; the choice table decides what the library uses."""
    A = matrices(n, batch, dtype, device)
    A = (A + A.mT) / 2
    tol = 1e-4 if dtype == "float32" else 1e-12

    def check(results: dict[str, tuple[Tensor, Tensor]]) -> None:
        wanted = torch.linalg.eigvalsh(A.double())
        for values, vectors in results.values():
            torch.testing.assert_close(values.double(), wanted, rtol=0, atol=tol)
            torch.testing.assert_close(A @ vectors, vectors * values[..., None, :], rtol=0, atol=tol)

    return Case(
        ours="geocore-cuda",
        candidates={"geocore-cuda": lambda: torch.ops.geocore.sym_eig(A), "linalg.eigh": lambda: torch.linalg.eigh(A)},
        targets={"linalg.eigh": 0.2} if n in (3, 4) else {},
        check=check,
    )


@bench.case(sizes=sizes((3,), (False,)))
def svd(n: int, batch: int, dtype: str, device: str) -> Case:
    M = matrices(n, batch, dtype, device)
    tol = 1e-4 if dtype == "float32" else 1e-12

    def check(results: dict[str, tuple[Tensor, ...]]) -> None:
        for U, s, Vh in results.values():
            torch.testing.assert_close((U * s[..., None, :]) @ Vh, M, rtol=0, atol=tol)

    return Case(
        ours="geocore-cuda",
        candidates={"geocore-cuda": lambda: _dispatch.svd(M), "linalg.svd": lambda: torch.linalg.svd(M)},
        targets={"linalg.svd": 0.2},
        check=check,
    )


@bench.case(sizes=sizes((3,), (False, True)))
def special_procrustes(n: int, batch: int, dtype: str, backward: bool, device: str) -> Case:
    M = matrices(n, batch, dtype, device)
    if backward:
        M = M + 2 * torch.eye(n, dtype=M.dtype, device=M.device)  # where the gradient is well determined
    fn = (lambda f: with_backward(f, M)) if backward else (lambda f: lambda: f(M))
    candidates = {"geocore-cuda": fn(son.special_procrustes), "geocore": fn(plain(son.special_procrustes))}
    if not backward:
        candidates["linalg.svd alone"] = lambda: torch.linalg.svd(M)

    def check(results: dict[str, Tensor]) -> None:
        got, wanted = results["geocore-cuda"], results["geocore"]
        if not backward:  # what is maximal is determined also where the rotation is not
            got, wanted = (got * M).sum((-1, -2)), (wanted * M).sum((-1, -2))
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)

    return Case(ours="geocore-cuda", candidates=candidates, check=check)


@bench.case(sizes=sizes((2, 3, 4, 8, 16), (False, True)))
def matrix_exp(n: int, batch: int, dtype: str, backward: bool, device: str) -> Case:
    A = matrices(n, batch, dtype, device)
    fn = (lambda f: with_backward(f, A)) if backward else (lambda f: lambda: f(A))
    return Case(
        ours="geocore-cuda",
        candidates={
            "geocore-cuda": fn(_dispatch.matrix_exp),
            "geocore": fn(plain(_dispatch.matrix_exp)),
            "matrix_exp": fn(torch.matrix_exp),
        },
        atol=1e-4 if dtype == "float32" else 1e-11,
    )


if __name__ == "__main__":
    raise SystemExit(bench.main())
