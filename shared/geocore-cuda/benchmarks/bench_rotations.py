"""Rotations and quaternions: the kernels, the formulas they replace, and roma where it is installed.

python bench_rotations.py [--quick] [--device cuda] [--json FILE] [--only exp]
"""

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from geocore import so3
from geocore.testing.benchmark import Benchmark, Case, plain

bench = Benchmark("rotations")


def sizes(*wanted: tuple[int, str, bool]) -> list[dict[str, object]]:
    return [{"batch": batch, "dtype": dtype, "backward": backward} for batch, dtype, backward in wanted]


SIZES = sizes(
    (100, "float32", False),
    (10_000, "float32", False),
    (10_000, "float32", True),
    (10_000, "float64", False),
    (10_000, "float64", True),
    (100_000, "float32", True),
)
EVERY = sizes(*product((1, 1_000, 100_000), ("float32", "float64"), (False, True)))


def case(
    fn: Callable[..., Tensor],
    inputs: tuple[Tensor, ...],
    backward: bool,
    roma_name: str,
    *,
    roma_inputs: tuple[Tensor, ...] | None = None,
    target: float | None = None,
    check: Callable[[dict[str, Tensor]], None] | None = None,
) -> Case:
    """With ``backward`` also the gradient of the first input, as a loss against given rotations takes it."""

    def candidate(f: Callable[..., Tensor], given: tuple[Tensor, ...]) -> Callable[[], Tensor]:
        live = (given[0].clone().requires_grad_(backward), *given[1:])
        cotangent = torch.ones_like(f(*given))

        def run() -> Tensor:
            out = f(*live)
            if backward:
                torch.autograd.grad(out, live[0], cotangent)
            return out

        return run

    candidates = {"geocore-cuda": candidate(fn, inputs), "geocore": candidate(plain(fn), inputs)}
    try:
        import roma
    except ImportError:
        target = None
    else:
        candidates["roma"] = candidate(getattr(roma, roma_name), roma_inputs or inputs)
    targets = {} if target is None else {"roma": target}
    return Case(ours="geocore-cuda", candidates=candidates, targets=targets, atol=2e-3, check=check)


def same_quaternions(results: dict[str, Tensor]) -> None:
    """To sign and to roma's order, in which the scalar is last."""
    wanted = results["geocore"]
    for name, q in results.items():
        ordered = so3.reorder(q, "xyzw", "wxyz") if name == "roma" else q
        sign = (ordered * wanted).sum(-1, keepdim=True).sign()
        torch.testing.assert_close(sign * ordered, wanted, rtol=0, atol=1e-3)


def normal(*shape: int, dtype: str, device: str, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device, getattr(torch, dtype))


def rotation_vectors(batch: int, dtype: str, device: str, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    w = torch.nn.functional.normalize(torch.randn(batch, 3, generator=g), dim=-1) * torch.rand(batch, 1, generator=g) * 3.1
    return w.to(device, getattr(torch, dtype))


@bench.case(sizes=SIZES)
def exp(batch: int, dtype: str, backward: bool, device: str) -> Case:
    return case(so3.exp, (rotation_vectors(batch, dtype, device),), backward, "rotvec_to_rotmat")


@bench.case(sizes=SIZES)
def log(batch: int, dtype: str, backward: bool, device: str) -> Case:
    return case(so3.log, (so3.exp(rotation_vectors(batch, dtype, device)),), backward, "rotmat_to_rotvec")


@bench.case(sizes=EVERY)
def geodesic(batch: int, dtype: str, backward: bool, device: str) -> Case:
    """That of roma is the arc sine of the chord, which loses half of the digits near pi."""
    pair = (so3.exp(rotation_vectors(batch, dtype, device)), so3.exp(rotation_vectors(batch, dtype, device, 1)))
    return case(so3.geodesic, pair, backward, "rotmat_geodesic_distance", target=1.2 if batch >= 100_000 else None)


@bench.case(sizes=EVERY)
def quat_to_matrix(batch: int, dtype: str, backward: bool, device: str) -> Case:
    q = torch.nn.functional.normalize(normal(batch, 4, dtype=dtype, device=device), dim=-1)
    return case(so3.quat_to_matrix, (q,), backward, "unitquat_to_rotmat", roma_inputs=(so3.reorder(q, "wxyz", "xyzw"),))


@bench.case(sizes=EVERY)
def matrix_to_quat(batch: int, dtype: str, backward: bool, device: str) -> Case:
    R = so3.exp(rotation_vectors(batch, dtype, device))
    return case(so3.matrix_to_quat, (R,), backward, "rotmat_to_unitquat", check=same_quaternions)


@bench.case(sizes=EVERY)
def quat_mul(batch: int, dtype: str, backward: bool, device: str) -> Case:
    a, b = (normal(batch, 4, dtype=dtype, device=device, seed=seed) for seed in (0, 1))
    given = so3.reorder(a, "wxyz", "xyzw"), so3.reorder(b, "wxyz", "xyzw")
    return case(so3.quat_mul, (a, b), backward, "quat_product", roma_inputs=given, check=same_quaternions)


if __name__ == "__main__":
    bench.main()
