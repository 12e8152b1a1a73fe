"""Products of reflections against torch and torch_householder: ``python benchmarks/bench_householder.py [--quick] [--json F]``.

Both peers want column ``i`` to be zero above entry ``i`` and one there; ours takes any vectors. All candidates get the same free parameter
and bring it to that form, so they compute the same function of the same numbers. ``torch_householder`` is left out where it is not
installed.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from geocore.householder import apply_product, apply_product_reference, to_matrix, ut_transform
from geocore.testing.benchmark import Benchmark, Case

try:
    from torch_householder import torch_householder_orgqr
except ImportError:
    torch_householder_orgqr = None

bench = Benchmark("householder")
SIZES = [
    {"batch": 64, "n": 32, "k": 32},
    {"batch": 1, "n": 32, "k": 32},
    {"batch": 1, "n": 64, "k": 64},
    {"batch": 1, "n": 256, "k": 256},
    {"batch": 1, "n": 256, "k": 32},
    {"batch": 1024, "n": 8, "k": 8},
]


def unit_lower(raw: Tensor) -> Tensor:
    return torch.tril(raw, -1) + torch.eye(*raw.shape[-2:], dtype=raw.dtype, device=raw.device)


def products() -> dict[str, Callable[[Tensor], Tensor]]:
    def ours(raw: Tensor) -> Tensor:
        return to_matrix(unit_lower(raw), cols=raw.shape[-1])

    def torch_linalg(raw: Tensor) -> Tensor:
        V = unit_lower(raw)
        return torch.linalg.householder_product(V, 2 / (V * V).sum(-2))

    found = {"geocore": ours, "torch.linalg.householder_product": torch_linalg}
    if torch_householder_orgqr is not None:
        found["torch_householder"] = lambda raw: torch_householder_orgqr(unit_lower(raw))
    return found


@bench.case(sizes=SIZES)
def to_matrix_forward(batch: int, n: int, k: int, device: str) -> Case:
    raw = torch.randn(batch, n, k, device=device) / n**0.5
    raw = raw[0] if batch == 1 else raw
    return Case(ours="geocore", candidates={name: lambda f=f: f(raw) for name, f in products().items()}, atol=1e-5)


@bench.case(sizes=SIZES)
def to_matrix_backward(batch: int, n: int, k: int, device: str) -> Case:
    raw = torch.randn(batch, n, k, device=device) / n**0.5
    live = (raw[0] if batch == 1 else raw).requires_grad_()
    g = torch.randn(live.shape, device=device)
    candidates = {name: lambda f=f: torch.autograd.grad(f(live), live, g)[0] for name, f in products().items()}
    targets = {"torch.linalg.householder_product": 1 / 5, "torch_householder": 1 / 3} if n >= 32 else {}
    return Case(ours="geocore", candidates=candidates, targets={p: r for p, r in targets.items() if p in candidates}, atol=1e-4)


@bench.case(sizes=[{"n": 256, "k": 32, "vectors": 512}, {"n": 64, "k": 4, "vectors": 4096}])
def apply_product_backward(n: int, k: int, vectors: int, device: str) -> Case:
    V, x = torch.randn(n, k, device=device).requires_grad_(), torch.randn(vectors, n, device=device).requires_grad_()
    g = torch.randn(vectors, n, device=device)
    candidates = {
        "geocore": lambda: torch.autograd.grad(apply_product(V, x), (V, x), g),
        "factor by factor": lambda: torch.autograd.grad(apply_product_reference(V, x), (V, x), g),
        "dense": lambda: torch.autograd.grad(x @ to_matrix(V).mT, (V, x), g),
    }
    return Case(ours="geocore", candidates=candidates, targets={"factor by factor": 1.0}, atol=1e-4)


def recurrence(K: Tensor, beta: Tensor, decay: Tensor, V: Tensor) -> Tensor:
    """The delta rule one update at a time."""
    S = K.new_zeros(*K.shape[:-2], K.shape[-1], V.shape[-1])
    for i in range(K.shape[-2]):
        k, v = K[..., i, :, None], V[..., i, None, :]
        S = S * decay[..., i, None, None].exp()
        S = S + beta[..., i, None, None] * (k @ (v - k.mT @ S))
    return S


def chunk(K: Tensor, beta: Tensor, decay: Tensor, V: Tensor) -> Tensor:
    G = decay.cumsum(-1)
    left = torch.exp(G[..., -1:] - G)
    return (left[..., None] * K).mT @ ut_transform(K, beta, decay).solve(V)


@bench.case(sizes=[{"batch": 16, "m": 64, "d": 64, "backward": False}, {"batch": 16, "m": 64, "d": 64, "backward": True}])
def delta_rule_chunk(batch: int, m: int, d: int, backward: bool, device: str) -> Case:
    K = torch.nn.functional.normalize(torch.randn(batch, m, d, device=device), dim=-1)
    args = K, torch.rand(batch, m, device=device) * 2, -torch.rand(batch, m, device=device) / 10, torch.randn(batch, m, d, device=device)
    if not backward:
        candidates = {"geocore": lambda: chunk(*args), "recurrence": lambda: recurrence(*args)}
    else:
        live = [a.requires_grad_() for a in args]
        g = torch.randn(batch, d, d, device=device)
        candidates = {
            "geocore": lambda: torch.autograd.grad(chunk(*live), live, g),
            "recurrence": lambda: torch.autograd.grad(recurrence(*live), live, g),
        }
    return Case(ours="geocore", candidates=candidates, targets={"recurrence": 1.0}, atol=1e-3)


if __name__ == "__main__":
    bench.main()
