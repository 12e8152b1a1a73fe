"""Rotations of n-space against torch and roma: ``python benchmarks/bench_son.py [--quick] [--json F]``."""

import roma
import torch
from torch import Tensor

from geocore import son
from geocore.testing.benchmark import Benchmark, Case

bench = Benchmark("son")


def skew(*shape: int, device: str, radius: float | None = None) -> Tensor:
    P = torch.randn(shape, device=device)
    S = P - P.mT
    return S if radius is None else S * (radius / torch.linalg.matrix_norm(S, 2)[..., None, None])


def with_backward(fn, *args: Tensor):
    live = [a.detach().requires_grad_() for a in args]
    out = fn(*live)
    g = torch.randn(out.shape, device=out.device)  # not randn_like: the order of memory may differ between candidates

    def run() -> tuple[Tensor, ...]:
        return torch.autograd.grad(fn(*live), live, g)

    return run


def complex_spectral(S: Tensor, t: Tensor, x: Tensor) -> Tensor:
    """The textbook form through complex eigenvectors; its gradient breaks at repeated frequencies."""
    lam, U = torch.linalg.eigh(torch.complex(torch.zeros_like(S), S))
    phase = torch.polar(torch.ones_like(lam), -t[..., None] * lam)
    z = (x.to(U.dtype)[..., None, :] @ U.conj())[..., 0, :]
    return (U @ (phase * z)[..., None])[..., 0].real


ROPE = {"heads": 12, "blocks": 8, "size": 8, "tokens": 197}


@bench.case(sizes=[ROPE, {"heads": 3, "blocks": 16, "size": 4, "tokens": 197}])
def expm_skew_apply_forward(heads: int, blocks: int, size: int, tokens: int, device: str) -> Case:
    S, t = skew(heads, blocks, 1, size, size, device=device), torch.linspace(0, 1, tokens, device=device)
    x = torch.randn(1, heads, blocks, tokens, size, device=device)
    return Case(
        ours="geocore",
        candidates={
            "geocore": lambda: son.expm_skew_apply(S, t, x),
            "matrix_exp": lambda: son.expm_skew_apply_reference(S, t, x),
            "complex eigh": lambda: complex_spectral(S, t, x),
        },
        targets={"matrix_exp": 1 / 6},
        atol=1e-4,
    )


@bench.case(sizes=[ROPE, {"heads": 3, "blocks": 16, "size": 4, "tokens": 197}])
def expm_skew_apply_backward(heads: int, blocks: int, size: int, tokens: int, device: str) -> Case:
    S, t = skew(heads, blocks, 1, size, size, device=device), torch.linspace(0, 1, tokens, device=device)
    x = torch.randn(1, heads, blocks, tokens, size, device=device)
    torch.manual_seed(1)
    ours = with_backward(son.expm_skew_apply, S, t, x)
    torch.manual_seed(1)
    return Case(
        ours="geocore",
        candidates={"geocore": ours, "matrix_exp": with_backward(son.expm_skew_apply_reference, S, t, x)},
        targets={"matrix_exp": 1 / 20 if size == 8 else 1 / 6},
        atol=1e-3,
        memory=True,
    )


@bench.case(sizes=[{"n": 3, "batch": 100_000}, {"n": 8, "batch": 5_000}])
def special_procrustes_forward(n: int, batch: int, device: str) -> Case:
    M = torch.randn(batch, n, n, device=device)
    return Case(
        ours="geocore",
        candidates={
            "geocore": lambda: son.special_procrustes(M),
            "roma": lambda: roma.special_procrustes(M),
            "linalg.svd alone": lambda: torch.linalg.svd(M),
        },
        targets={"linalg.svd alone": 1.1} if n == 3 else {},
        check=lambda out: torch.testing.assert_close(
            (out["geocore"] * M).sum((-1, -2)), (out["roma"] * M).sum((-1, -2)), rtol=1e-5, atol=1e-5
        ),
    )


@bench.case(sizes=[{"n": 3, "batch": 100_000}, {"n": 8, "batch": 5_000}])
def special_procrustes_backward(n: int, batch: int, device: str) -> Case:
    M = torch.randn(batch, n, n, device=device) + 3 * torch.eye(n, device=device)
    torch.manual_seed(1)
    ours = with_backward(son.special_procrustes, M)
    torch.manual_seed(1)
    theirs = with_backward(roma.special_procrustes, M)

    def close_where_determined(out: dict[str, tuple[Tensor, ...]]) -> None:
        sure = son.special_procrustes(M, return_confidence=True)[1] > 0.5
        torch.testing.assert_close(out["geocore"][0][sure], out["roma"][0][sure], rtol=1e-3, atol=1e-3)

    return Case(ours="geocore", candidates={"geocore": ours, "roma": theirs}, targets={"roma": 0.85}, check=close_where_determined)


@bench.case(sizes=[{"n": n, "batch": b} for n, b in ((3, 100_000), (4, 20_000), (8, 2_000), (32, 64), (128, 2))])
def exp_backward(n: int, batch: int, device: str) -> Case:
    S = skew(batch, n, n, device=device, radius=3.0)
    torch.manual_seed(1)
    ours = with_backward(son.exp, S)
    torch.manual_seed(1)
    return Case(
        ours="geocore",
        candidates={"geocore": ours, "matrix_exp": with_backward(lambda S: torch.matrix_exp((S - S.mT) / 2), S)},
        atol=1e-4,
    )


@bench.case(sizes=[{"n": n, "batch": b} for n, b in ((3, 100_000), (8, 2_000), (32, 64))])
def log_forward(n: int, batch: int, device: str) -> Case:
    S = skew(batch, n, n, device=device, radius=3.0)
    R = son.exp(S)
    return Case(
        ours="geocore",
        candidates={"geocore": lambda: son.log(R, check=False)},
        check=lambda out: torch.testing.assert_close(out["geocore"], S, rtol=1e-3, atol=1e-3),
    )


@bench.case(sizes=[{"n": 256, "batch": 1}, {"n": 32, "batch": 64}, {"n": 8, "batch": 1024}])
def cayley_backward(n: int, batch: int, device: str) -> Case:
    A = skew(batch, n, n, device=device, radius=2.0)
    eye = torch.eye(n, device=device)

    def plain(A: Tensor) -> Tensor:  # the formula inside torch.nn.utils.parametrizations.orthogonal(map="cayley"), from a free parameter
        A = (A - A.mT) / 2
        return torch.linalg.solve(torch.add(eye, A, alpha=-0.5), torch.add(eye, A, alpha=0.5))

    torch.manual_seed(1)
    ours = with_backward(son.cayley, A)
    torch.manual_seed(1)
    return Case(ours="geocore", candidates={"geocore": ours, "torch": with_backward(plain, A)}, targets={"torch": 1.1}, atol=1e-4)


@bench.case(sizes=[{"m": 512, "n": 128}, {"m": 256, "n": 256}])
def orthogonal_factor(m: int, n: int, device: str) -> Case:
    M = torch.randn(m, n, device=device)
    return Case(
        ours="newton_schulz dion",
        candidates={
            "newton_schulz dion": lambda: son.newton_schulz(M, coefficients="dion"),
            "newton_schulz polar_express": lambda: son.newton_schulz(M, coefficients="polar_express"),
            "polar svd": lambda: son.polar(M),
            "polar newton": lambda: son.polar(M, method="newton"),
            "linalg.svd": lambda: torch.linalg.svd(M, full_matrices=False),
        },
        check=lambda out: torch.testing.assert_close(out["polar svd"], out["polar newton"], rtol=1e-2, atol=1e-2),
    )


if __name__ == "__main__":
    raise SystemExit(bench.main())
