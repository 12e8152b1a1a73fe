"""SPD matrices against geoopt, pyriemann and spd_learn: ``python benchmarks/bench_spd.py [--quick] [--device cuda] [--json F]``."""

import warnings

import geoopt
import torch
from pyriemann.geometry.mean import mean_wasserstein
from spd_learn import functional as spd_learn
from torch import Tensor

from geocore import spd
from geocore.testing.benchmark import Benchmark, Case

bench = Benchmark("spd")
warnings.filterwarnings("ignore", message="Bures-Wasserstein mean did not converge")  # spd_learn, where it is given fewer steps on purpose

SIZES = [{"n": n, "batch": b} for n, b in ((8, 256), (4, 256), (22, 256), (64, 64), (128, 16))]


def points(batch: int, n: int, device: str, cond: float = 1e2, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random eigenvectors, eigenvalues log-uniform over the condition."""
    U = torch.linalg.qr(torch.randn(batch, n, n, dtype=torch.float64))[0]
    values = cond ** (torch.rand(batch, n, dtype=torch.float64) - 0.5)
    values[:, 0], values[:, -1] = cond**-0.5, cond**0.5
    X = (U * values[:, None]) @ U.mT
    return ((X + X.mT) / 2).to(device=device, dtype=dtype)


def with_backward(fn, *args: Tensor):
    live = [a.detach().clone().requires_grad_() for a in args]

    def run() -> tuple[Tensor, ...]:
        out = fn(*live)
        return torch.autograd.grad(sum(o.sum() for o in out) if isinstance(out, tuple) else out.sum(), live)

    return run


def symmetric_parts(out: dict[str, tuple[Tensor, ...]]) -> None:
    """Gradients differ by an antisymmetric part, which a function of symmetric matrices does not see."""
    mine = [g + g.mT for g in out["geocore"]]
    for theirs in out.values():
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b + b.mT, rtol=1e-6, atol=1e-6 * float(a.abs().max()))


GEOOPT = geoopt.SymmetricPositiveDefinite()


@bench.case(sizes=SIZES)
def logm_forward(n: int, batch: int, device: str) -> Case:
    X = points(batch, n, device)
    return Case(
        ours="geocore",
        candidates={
            "geocore": lambda: spd.logm(X),
            "spd_learn": lambda: spd_learn.matrix_log.apply(X),
            "geoopt": lambda: geoopt.linalg.sym_logm(X),
            "linalg.eigh alone": lambda: torch.linalg.eigh(X),
        },
        check=lambda out: torch.testing.assert_close(out["geocore"], out["spd_learn"], rtol=1e-8, atol=1e-8),
    )


@bench.case(sizes=SIZES)
def logm_backward(n: int, batch: int, device: str) -> Case:
    X = points(batch, n, device)
    return Case(
        ours="geocore",
        candidates={
            "geocore": with_backward(spd.logm, X),
            "spd_learn": with_backward(spd_learn.matrix_log.apply, X),
            "geoopt": with_backward(geoopt.linalg.sym_logm, X),
        },
        targets={"spd_learn": 1.1},
        check=symmetric_parts,
    )


@bench.case(sizes=SIZES)
def sqrtm_invsqrtm_backward(n: int, batch: int, device: str) -> Case:
    X = points(batch, n, device)
    return Case(
        ours="geocore",
        candidates={
            "geocore": with_backward(spd.sqrtm_invsqrtm, X),
            "two calls": with_backward(lambda X: (spd.sqrtm(X), spd.invsqrtm(X)), X),
            "spd_learn": with_backward(spd_learn.matrix_sqrt_inv.apply, X),
        },
        targets={"two calls": 0.6},
        check=symmetric_parts,
    )


@bench.case(sizes=SIZES)
def affine_distance_forward(n: int, batch: int, device: str) -> Case:
    X, Y = points(batch, n, device), points(batch, n, device)
    metric = spd.AffineInvariant()
    return Case(
        ours="geocore",
        candidates={
            "geocore": lambda: metric.dist(X, Y),
            "geoopt": lambda: GEOOPT.dist(X, Y),
            "spd_learn": lambda: spd_learn.airm_distance(X, Y),
        },
        targets={"geoopt": 0.4},
        atol=1e-8,
    )


@bench.case(sizes=SIZES)
def affine_distance_backward(n: int, batch: int, device: str) -> Case:
    X, Y = points(batch, n, device), points(batch, n, device)
    metric = spd.AffineInvariant()
    return Case(
        ours="geocore",
        candidates={
            "geocore": with_backward(metric.dist, X, Y),
            "geoopt": with_backward(GEOOPT.dist, X, Y),
            "spd_learn": with_backward(spd_learn.airm_distance, X, Y),
        },
        targets={"geoopt": 0.4},
        check=symmetric_parts,
    )


def residual(M: Tensor, X: Tensor) -> float:
    """Length of the mean tangent vector at ``M``, relative to the size of ``M``."""
    m = spd.BuresWasserstein()
    return float(m.norm(M, m.log(M, X).mean(0)) / torch.trace(M).sqrt())


@bench.case(sizes=[{"n": 8, "batch": 64, "cond": 1e2}, {"n": 8, "batch": 64, "cond": 1e6}, {"n": 22, "batch": 64, "cond": 1e2}])
def bures_mean(n: int, batch: int, cond: float, device: str) -> Case:
    """To a residual of 1e-10, or 500 steps."""
    X = points(batch, n, device, cond)
    metric = spd.BuresWasserstein()
    # As many of its steps as it needs, and no more: its own stopping rule is not on the residual.
    steps = next((k for k in range(10, 500, 5) if residual(spd_learn.bures_wasserstein_mean(X, max_iter=k, tol=0.0), X) < 1e-10), 500)

    def same_mean(out: dict[str, Tensor]) -> None:
        assert residual(out["geocore"], X) < 1e-10
        assert residual(out["spd_learn"], X) < 1e-7
        torch.testing.assert_close(out["spd_learn"], out["geocore"], rtol=1e-4, atol=1e-4 * float(out["geocore"].abs().max()))
        torch.testing.assert_close(
            torch.as_tensor(out["pyriemann"]).to(device), out["geocore"], rtol=1e-4, atol=1e-4 * float(out["geocore"].abs().max())
        )

    return Case(
        ours="geocore",
        candidates={
            "geocore": lambda: metric.mean(X, tol=1e-10),
            "spd_learn": lambda: spd_learn.bures_wasserstein_mean(X, max_iter=steps, tol=0.0),
            "pyriemann": lambda: mean_wasserstein(X.cpu().numpy(), tol=1e-10, maxiter=500),
        },
        targets={"spd_learn": 1 / 3},
        check=same_mean,
    )


@bench.case(sizes=[{"n": 8, "batch": 64, "cond": 1e2}, {"n": 22, "batch": 64, "cond": 1e2}])
def affine_mean(n: int, batch: int, cond: float, device: str) -> Case:
    X = points(batch, n, device, cond)
    metric = spd.AffineInvariant()
    return Case(
        ours="geocore",
        candidates={
            "geocore": lambda: metric.mean(X, tol=1e-10),
            "geocore, backward": lambda: with_backward(lambda X: metric.mean(X, tol=1e-10), X)()[0],
            "spd_learn": lambda: spd_learn.mean_riemann(X, tol=1e-10, maxiter=200),
        },
        check=lambda out: torch.testing.assert_close(out["spd_learn"], out["geocore"], rtol=1e-6, atol=1e-6),
    )


@bench.case(sizes=[{"n": 64, "batch": 64}, {"n": 128, "batch": 64}, {"n": 256, "batch": 16}])
def newton_schulz(n: int, batch: int, device: str) -> Case:
    X = points(batch, n, device, 1e2, torch.float32)
    return Case(
        ours="newton_schulz",
        candidates={
            "newton_schulz": lambda: spd.sqrtm(X, method="newton_schulz", compute_dtype=torch.float32),
            "eigh": lambda: spd.sqrtm(X, compute_dtype=torch.float32),
        },
        atol=1e-4,
    )


if __name__ == "__main__":
    raise SystemExit(bench.main())
