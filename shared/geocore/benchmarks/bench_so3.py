"""Rotations of 3-space against roma, kornia, pypose and torchlie, forward and forward with backward.

    python bench_so3.py [--quick] [--device cuda] [--json FILE] [--only exp]

Peers that are not installed are left out. PyTorch3D has no wheel and is not measured here; where the target is stated
against it, the bound against roma follows from the two libraries' measured times, per 1e5 items in float32 on one CPU thread:

    exp  forward 7.5 / 9.4, with backward 27 / 34: 1.2 and 1.0 times PyTorch3D are 0.96 and 0.79 times roma
    6D   forward 6.0 / 15,  with backward 24 / 33: 1.0 times PyTorch3D is 0.40 and 0.73 times roma
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from geocore import so3
from geocore.testing.benchmark import Benchmark, Case

bench = Benchmark("so3")
SIZES = [{"batch": 1_000, "backward": False}, {"batch": 100_000, "backward": False}, {"batch": 100_000, "backward": True}]


def peers(**functions: str) -> dict[str, Callable[..., Any]]:
    """The named functions (``module:attribute.path``) of the libraries that are installed."""
    found = {}
    for name, where in functions.items():
        module, _, path = where.partition(":")
        try:
            fn = import_module(module)
        except (ImportError, OSError, RuntimeError):
            continue
        for part in path.split("."):
            fn = getattr(fn, part)
        found[name] = fn
    return found


def case(
    functions: dict[str, Callable[..., Tensor]],
    inputs: dict[str, tuple[Tensor, ...]],
    *,
    backward: bool,
    targets: dict[str, tuple[float, float]],
    atol: float | None = 1e-5,
    check: Callable[[dict[str, Any]], None] | None = None,
) -> Case:
    """Candidates that run forward only, or forward and the gradient of the first input.

    ``inputs`` gives the arguments per candidate where its convention differs; others take those of ``"geocore"``.
    """
    candidates = {}
    for name, fn in functions.items():
        args = inputs.get(name, inputs["geocore"])
        if not backward:
            candidates[name] = lambda fn=fn, args=args: fn(*args)
            continue
        live = args[0].detach().clone().requires_grad_()
        cotangent = torch.ones_like(fn(live, *args[1:]))

        def both(fn: Callable[..., Tensor] = fn, live: Tensor = live, rest: tuple[Tensor, ...] = args[1:], g: Tensor = cotangent) -> Tensor:
            out = fn(live, *rest)
            torch.autograd.grad(out, live, g)
            return out

        candidates[name] = both
    wanted = {peer: pair[backward] for peer, pair in targets.items() if peer in candidates}
    return Case(ours="geocore", candidates=candidates, targets=wanted, atol=None if check else atol, check=check)


def rotation_vectors(batch: int, device: str) -> Tensor:
    g = torch.Generator().manual_seed(0)
    w = torch.randn(batch, 3, generator=g)
    return (w / w.norm(dim=-1, keepdim=True) * torch.rand(batch, 1, generator=g) * 3.1).to(device)


def rotations(batch: int, device: str, seed: int = 1) -> Tensor:
    return so3.random(batch, generator=torch.Generator().manual_seed(seed)).to(device)


def same_up_to_sign(order: dict[str, str]) -> Callable[[dict[str, Any]], None]:
    """Check that all quaternions are those of ours, which is wxyz; ``order`` names the candidates that are xyzw."""

    def check(results: dict[str, Any]) -> None:
        ours = so3.quat_to_matrix(results["geocore"])
        for name, q in results.items():
            gap = (so3.quat_to_matrix(q, order=order.get(name, "wxyz")) - ours).abs().max().item()
            if not gap <= 1e-5:
                raise AssertionError(f"{name} differs by {gap:.3g}")

    return check


@bench.case(sizes=SIZES)
def exp(batch: int, backward: bool, device: str) -> Case:
    functions = {"geocore": so3.exp} | peers(
        roma="roma:rotvec_to_rotmat",
        kornia="kornia.geometry.conversions:axis_angle_to_rotation_matrix",
        torchlie="torchlie.functional:SO3.exp",
    )
    pypose = peers(so3="pypose:so3")
    if pypose:
        functions["pypose"] = lambda w: pypose["so3"](w).Exp().matrix()
    inputs = {"geocore": (rotation_vectors(batch, device),)}
    return case(functions, inputs, backward=backward, targets={"roma": (1.2 * 7.5 / 9.4, 27 / 34)} if batch >= 100_000 else {})


@bench.case(sizes=SIZES)
def log(batch: int, backward: bool, device: str) -> Case:
    functions = {"geocore": so3.log} | peers(
        roma="roma:rotmat_to_rotvec",
        kornia="kornia.geometry.conversions:rotation_matrix_to_axis_angle",
        torchlie="torchlie.functional:SO3.log",
    )
    inputs = {"geocore": (so3.exp(rotation_vectors(batch, device)),)}
    return case(functions, inputs, backward=backward, targets={"torchlie": (1.05, 0.75)} if batch >= 100_000 else {}, atol=1e-3)


@bench.case(sizes=SIZES)
def matrix_to_quat(batch: int, backward: bool, device: str) -> Case:
    functions = {"geocore": so3.matrix_to_quat} | peers(
        roma="roma:rotmat_to_unitquat", kornia="kornia.geometry.conversions:rotation_matrix_to_quaternion"
    )
    inputs = {"geocore": (rotations(batch, device),)}
    targets = {"kornia": (1.0, 1.0)} if batch >= 100_000 else {}
    return case(functions, inputs, backward=backward, targets=targets, check=same_up_to_sign({"roma": "xyzw"}))


@bench.case(sizes=SIZES)
def quat_to_matrix(batch: int, backward: bool, device: str) -> Case:
    functions = {"geocore": so3.quat_to_matrix} | peers(
        roma="roma:unitquat_to_rotmat", kornia="kornia.geometry.conversions:quaternion_to_rotation_matrix"
    )
    q = so3.matrix_to_quat(rotations(batch, device))
    inputs = {"geocore": (q,), "roma": (so3.reorder(q, "wxyz", "xyzw"),)}
    return case(functions, inputs, backward=backward, targets={"roma": (1.0, 1.0)} if batch >= 100_000 else {})


@bench.case(sizes=SIZES)
def quat_mul(batch: int, backward: bool, device: str) -> Case:
    functions = {"geocore": lambda a, b: so3.quat_mul(a, b, order="xyzw")} | peers(roma="roma:quat_product")
    a, b = (so3.matrix_to_quat(rotations(batch, device, seed), order="xyzw") for seed in (1, 2))
    return case(functions, {"geocore": (a, b)}, backward=backward, targets={})


@bench.case(sizes=SIZES)
def from_6d(batch: int, backward: bool, device: str) -> Case:
    functions = {"geocore": so3.from_6d} | peers(roma="roma:special_gramschmidt")
    v = torch.randn(batch, 6, generator=torch.Generator().manual_seed(0)).to(device)
    inputs = {"geocore": (v,), "roma": (v.unflatten(-1, (2, 3)).mT.contiguous(),)}
    # roma loses digits next to collinear pairs, so the comparison is loose
    return case(functions, inputs, backward=backward, targets={"roma": (6.0 / 15, 24 / 33)} if batch >= 100_000 else {}, atol=1e-3)


@bench.case(sizes=SIZES)
def geodesic(batch: int, backward: bool, device: str) -> Case:
    # roma's is the arc sine of the chord, which loses half of the digits near pi
    functions = {"geocore": so3.geodesic} | peers(roma="roma:rotmat_geodesic_distance")
    inputs = {"geocore": (rotations(batch, device, 1), rotations(batch, device, 2))}
    return case(functions, inputs, backward=backward, targets={"roma": (1.2, 1.2)} if batch >= 100_000 else {}, atol=2e-3)


@bench.case(sizes=SIZES)
def slerp(batch: int, backward: bool, device: str) -> Case:
    functions: dict[str, Callable[..., Tensor]] = {"geocore": lambda a, b: so3.slerp(a, b, 0.3, order="xyzw")}
    steps = torch.tensor([0.3], device=device)
    for name, fn in peers(roma="roma:unitquat_slerp").items():
        functions[name] = lambda a, b, fn=fn: fn(a, b, steps, shortest_arc=True)[0]
    a, b = (so3.matrix_to_quat(rotations(batch, device, seed), order="xyzw") for seed in (1, 2))
    order = dict.fromkeys(("geocore", "roma"), "xyzw")

    def check(results: dict[str, Any]) -> None:
        ours = so3.quat_to_matrix(results["geocore"], order="xyzw")
        for name, q in results.items():
            gap = so3.geodesic(so3.quat_to_matrix(q, order=order[name]), ours).max().item()
            if not gap <= 1e-2:  # half turns apart, the arc itself is ill-conditioned
                raise AssertionError(f"{name} differs by {gap:.3g}")

    return case(functions, {"geocore": (a, b)}, backward=backward, targets={}, check=check)


@bench.case(sizes=SIZES)
def matrix_to_euler(batch: int, backward: bool, device: str) -> Case:
    functions: dict[str, Callable[..., Tensor]] = {"geocore": lambda R: so3.matrix_to_euler(R, "XYZ")}
    for name, fn in peers(roma="roma:rotmat_to_euler").items():
        functions[name] = lambda R, fn=fn: fn("XYZ", R, as_tuple=False)
    return case(functions, {"geocore": (rotations(batch, device),)}, backward=backward, targets={}, atol=1e-2)


@bench.case(sizes=SIZES)
def from_10d(batch: int, backward: bool, device: str) -> Case:
    functions: dict[str, Callable[..., Tensor]] = {"geocore": lambda v: so3.from_10d(v, order="xyzw")}
    for name, fn in peers(roma="roma:symmatrixvec_to_unitquat").items():
        functions[name] = lambda v, fn=fn: so3.quat_to_matrix(fn(v), order="xyzw")
    v = torch.randn(batch, 10, generator=torch.Generator().manual_seed(0)).to(device)
    return case(functions, {"geocore": (v,)}, backward=backward, targets={}, atol=1e-2)


if __name__ == "__main__":
    bench.main()
