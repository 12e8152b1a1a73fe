"""Decoders against the formula that PyTorch3D uses, RoMa, plain SVD and eigendecomposition.

``python benchmarks/bench_rotrep.py [--quick] [--device cuda] [--json FILE] [--only CASE]``
"""

from collections.abc import Callable
from typing import Any

import roma
import torch
from torch import Tensor

from geocore.testing import assert_finite
from geocore.testing.benchmark import Benchmark, Case
from rotrep import get_representation
from rotrep._reference import rows_6d_reference

bench = Benchmark("rotrep")
SIZES: list[dict[str, Any]] = [{"batch": 100_000}, {"batch": 1_000}]
TARGETED = 100_000  # the batch that targets are stated for; below it the call overhead of single operators decides
Decoder = Callable[[Tensor], Tensor]


def both(decoders: dict[str, Decoder], v: Tensor, backward: bool) -> dict[str, Callable[[], Any]]:
    """Forward, or forward with backward, of every decoder."""
    v = v.requires_grad_(backward)
    weight = torch.randn(*v.shape[:-1], 3, 3, device=v.device)

    def bind(decode: Decoder) -> Callable[[], Any]:
        if backward:
            return lambda: torch.autograd.grad(decode(v), v, weight)[0]
        return torch.no_grad()(lambda: decode(v))

    return {name: bind(decode) for name, decode in decoders.items()}


def six(batch: int, device: str, backward: bool) -> Case:
    """6D in each library's own convention, brought to ours."""
    decoders: dict[str, Decoder] = {
        "rotrep 6d": get_representation("6d").decode,
        "PyTorch3D's formula": lambda v: rows_6d_reference(v).mT,
        "roma": lambda v: roma.special_gramschmidt(v.unflatten(-1, (2, 3)).mT),
    }
    v = torch.randn(batch, 6, device=device)
    a, b = v[:, :3], v[:, 3:]
    v[:, 3:] = b - 0.5 * (a * b).sum(-1, keepdim=True) / a.square().sum(-1, keepdim=True) * a  # keeps gradients comparable
    candidates = both(decoders, v, backward)
    return Case(
        ours="rotrep 6d",
        candidates=candidates,
        targets={"PyTorch3D's formula": 1.1} if batch >= TARGETED else {},
        check=_loose("rotrep 6d"),
    )


def _loose(ours: str) -> Callable[[dict[str, Any]], None]:
    """Equal up to the conditioning of single items: the median error is rounding, all but one in a thousand are close."""

    def check(results: dict[str, Any]) -> None:
        for name, result in results.items():
            gap = (result - results[ours]).flatten(1).abs().amax(-1) / results[ours].flatten(1).abs().amax(-1).clamp(min=1.0)
            assert gap.median() < 1e-5, (name, float(gap.median()))
            assert gap.quantile(0.999) < 1e-3, (name, float(gap.quantile(0.999)))

    return check


@bench.case(sizes=SIZES)
def six_forward(batch: int, device: str) -> Case:
    return six(batch, device, backward=False)


@bench.case(sizes=SIZES)
def six_backward(batch: int, device: str) -> Case:
    return six(batch, device, backward=True)


def finite(results: dict[str, Any]) -> None:
    """For candidates that compute different things on purpose."""
    for name, result in results.items():
        assert_finite(name, result)


def five(batch: int, device: str, backward: bool) -> Case:
    """5D against our own 6D of the same batch size."""
    v = torch.randn(batch, 6, device=device)
    rep5, rep6 = get_representation("5d"), get_representation("6d")
    decoders: dict[str, Decoder] = {"rotrep 5d": lambda v: rep5.decode(v[:, :5]), "rotrep 6d": rep6.decode}
    return Case(
        ours="rotrep 5d",
        candidates=both(decoders, v, backward),
        targets={"rotrep 6d": 1.5} if batch >= TARGETED else {},
        check=finite,
    )


@bench.case(sizes=SIZES)
def five_forward(batch: int, device: str) -> Case:
    return five(batch, device, backward=False)


@bench.case(sizes=SIZES)
def five_backward(batch: int, device: str) -> Case:
    return five(batch, device, backward=True)


def svd_decode(v: Tensor) -> Tensor:
    """Levinson's formula through torch's SVD."""
    U, _, Vh = torch.linalg.svd(v.unflatten(-1, (3, 3)))
    sign = torch.linalg.det(U @ Vh)
    return torch.cat([U[..., :2], U[..., 2:] * sign[..., None, None]], dim=-1) @ Vh


@bench.case(sizes=SIZES)
def nine_forward(batch: int, device: str) -> Case:
    decoders: dict[str, Decoder] = {
        "rotrep 9d": get_representation("9d").decode,
        "torch.linalg.svd alone": lambda v: torch.linalg.svd(v.unflatten(-1, (3, 3)))[0],
        "torch.linalg.svd and products": svd_decode,
        "roma": lambda v: roma.special_procrustes(v.unflatten(-1, (3, 3))),
    }

    def check(results: dict[str, Any]) -> None:
        _loose("rotrep 9d")({k: r for k, r in results.items() if k != "torch.linalg.svd alone"})

    candidates = both(decoders, torch.randn(batch, 9, device=device), backward=False)
    return Case(ours="rotrep 9d", candidates=candidates, targets={"torch.linalg.svd alone": 0.4} if batch >= TARGETED else {}, check=check)


@bench.case(sizes=SIZES)
def nine_backward(batch: int, device: str) -> Case:
    decoders: dict[str, Decoder] = {
        "rotrep 9d": get_representation("9d").decode,
        "torch.linalg.svd and products": svd_decode,
        "roma": lambda v: roma.special_procrustes(v.unflatten(-1, (3, 3))),
    }
    candidates = both(decoders, torch.randn(batch, 9, device=device), backward=True)
    return Case(ours="rotrep 9d", candidates=candidates, targets={"roma": 0.85} if batch >= TARGETED else {}, check=_loose("rotrep 9d"))


def ten(batch: int, device: str, backward: bool) -> Case:
    """10D with RoMa's quaternion order."""
    rep = get_representation("10d", order="xyzw")
    decoders: dict[str, Decoder] = {
        "rotrep 10d": rep.decode,
        "roma": lambda v: roma.unitquat_to_rotmat(roma.symmatrixvec_to_unitquat(v)),
    }
    return Case(ours="rotrep 10d", candidates=both(decoders, torch.randn(batch, 10, device=device), backward), check=_loose("rotrep 10d"))


@bench.case(sizes=SIZES)
def ten_forward(batch: int, device: str) -> Case:
    return ten(batch, device, backward=False)


@bench.case(sizes=SIZES)
def ten_backward(batch: int, device: str) -> Case:
    return ten(batch, device, backward=True)


if __name__ == "__main__":
    raise SystemExit(bench.main())
