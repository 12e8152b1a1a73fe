"""Angle between two rotations: kernel against reference in values and every derivative."""

import math

import pytest
import torch

from geocore import _ops, so3
from geocore.so3._metrics import geodesic_backward_reference, geodesic_reference
from geocore.testing import check_op, check_transforms, nan_filled_empty

OPS = torch.ops.geocore
DTYPES = (torch.float32, torch.float64)
ANGLES = (0.0, 1e-30, 1e-12, 1e-6, 1e-3, 0.4, 0.785, 0.786, 1.57, 1.58, 2.3, 2.4, math.pi - 1e-3, math.pi - 1e-6, math.pi)


def normal(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def rotations(*batch, dtype=torch.float64, seed=1):
    return so3.exp(2 * normal(*batch, 3, seed=seed)).to(dtype)


def at_angle(angle, count=64, dtype=torch.float64):
    """Pairs that are ``angle`` apart."""
    axes = torch.nn.functional.normalize(normal(count, 3, seed=3), dim=-1)
    base = rotations(count, seed=4)
    return (so3.exp(axes * angle) @ base).to(dtype), base.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch", [(), (0,), (1,), (3,), (17,), (5, 7), (1000,)], ids=str)
def test_values(batch, dtype):
    A, B, g = rotations(*batch, dtype=dtype), rotations(*batch, dtype=dtype, seed=2), normal(*batch, dtype=dtype)
    with nan_filled_empty():
        angle, slope = OPS.so3_geodesic(A, B), OPS.so3_geodesic_backward(A, B, g)
    assert (angle.dtype, angle.shape, slope.shape) == (dtype, batch, (*batch, 3, 3))
    if angle.numel():
        eps = torch.finfo(dtype).eps
        assert float((angle.double() - geodesic_reference(A.double(), B.double())).abs().max()) <= 6 * eps
        wanted = geodesic_backward_reference(A.double(), B.double(), g.double())
        # near 0 and pi the direction of the slope is the small skew part over its length
        near = torch.sin(angle.double()).abs().clamp(max=1)[..., None, None]
        assert float(((slope.double() - wanted).abs() * near).max()) <= 32 * eps * max(1.0, float(g.abs().max()))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("angle", ANGLES)
def test_every_angle(angle, dtype):
    A, B = at_angle(angle, dtype=dtype)
    exact = so3.exp(torch.nn.functional.normalize(normal(64, 3, seed=3), dim=-1) * angle).to(dtype)
    eps, eye = torch.finfo(dtype).eps, torch.eye(3, dtype=dtype).expand(64, 3, 3)
    assert float((OPS.so3_geodesic(A, B).double() - angle).abs().max()) <= 8 * eps  # both are rounded
    assert float((OPS.so3_geodesic(exact, eye).double() - angle).abs().max()) <= 4 * eps
    assert torch.equal(OPS.so3_geodesic(A, B), OPS.so3_geodesic(B, A))
    for slope in (OPS.so3_geodesic_backward(A, B, A.new_ones(64)), OPS.so3_geodesic_backward(B, A, A.new_ones(64))):
        assert float(slope.abs().max()) <= 1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_exact_at_equality_and_at_half_turns(dtype):
    R = rotations(200, dtype=dtype)
    assert float(OPS.so3_geodesic(R, R).max()) == 0
    eye, turns = torch.eye(3, dtype=dtype).expand(3, 3, 3), torch.eye(3, dtype=dtype) * 2 - 1
    half = torch.diag_embed(turns)
    assert torch.equal(OPS.so3_geodesic(half, eye), torch.full((3,), math.pi, dtype=dtype))
    for A, B in ((eye, eye), (half, eye), (eye, half)):
        assert (OPS.so3_geodesic_backward(A, B, A.new_ones(3)) == 0).all()
    nothing = torch.zeros(1, 3, 3, dtype=dtype)
    assert OPS.so3_geodesic_backward(nothing, nothing, nothing[:, 0, 0]).isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_item_does_not_depend_on_its_neighbours(dtype):
    A, B, g = rotations(37, dtype=dtype), rotations(37, dtype=dtype, seed=2), normal(37, dtype=dtype)
    for i in range(9):
        A[i, i // 3, i % 3] = math.nan
        B[9 + i, i // 3, i % 3] = math.nan
    angle, slope = OPS.so3_geodesic(A, B), OPS.so3_geodesic_backward(A, B, g)
    assert angle[:18].isnan().all()
    assert slope[:18].isnan().flatten(1).any(-1).all()
    for i in range(18, 37):
        assert torch.equal(angle[i], OPS.so3_geodesic(A[i], B[i]))
        assert torch.equal(slope[i], OPS.so3_geodesic_backward(A[i], B[i], g[i]))
    assert angle[18:].isfinite().all()


def test_strided_input():
    A, B = rotations(12, seed=5).mT, rotations(24, seed=6)[::2]
    assert torch.equal(OPS.so3_geodesic(A, B), OPS.so3_geodesic(A.contiguous(), B.contiguous()))
    g = torch.ones(()).double().expand(12)
    assert torch.equal(OPS.so3_geodesic_backward(A, B, g), OPS.so3_geodesic_backward(A.contiguous(), B.contiguous(), g.contiguous()))


@pytest.mark.parametrize(("left", "right"), [((40,), (40,)), ((), (40,)), ((5, 1), (1, 7)), ((40,), ()), ((3, 1, 2), (4, 1))], ids=str)
def test_public_function_is_the_same_with_and_without(left, right, monkeypatch):
    A, B = rotations(*left), rotations(*right, seed=2)
    answers = []
    gate = _ops.kernel_may_run
    monkeypatch.setattr(_ops, "kernel_may_run", lambda *a, **k: answers.append(gate(*a, **k)) or answers[-1])

    def exercised():
        live = [A.clone().requires_grad_(), B.clone().requires_grad_()]
        value = so3.geodesic(*live)
        first = torch.autograd.grad(value.pow(2).sum() + value.sin().sum(), live, create_graph=True)
        second = torch.autograd.grad(sum(g.pow(2).sum() for g in first), live)
        return [value.detach(), *(g.detach() for g in first), *second]

    ours = exercised()
    assert answers == [True] * (ours[0].shape in (left, right))  # all pairs of two sets go to the formula
    with _ops.without_kernels():
        wanted = exercised()
    for a, b in zip(ours, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_one_sided_gradient_and_half_precision():
    A, B = rotations(9), rotations(9, seed=2)
    for i in range(2):
        live = [A, B]
        live[i] = live[i].clone().requires_grad_()
        (ours,) = torch.autograd.grad(so3.geodesic(*live).sum(), live[i])
        (wanted,) = torch.autograd.grad(geodesic_reference(*live).sum(), live[i])
        torch.testing.assert_close(ours, wanted, rtol=1e-11, atol=1e-11)
    assert so3.geodesic(A.half(), B.half()).dtype == torch.float16
    torch.testing.assert_close(so3.geodesic(A.half(), B.half()), geodesic_reference(A.half().float(), B.half().float()).half())


def test_transforms_and_opcheck():
    A, B, g = rotations(5), rotations(5, seed=2), normal(5)
    check_transforms(so3.geodesic, A, B)
    check_op(OPS.so3_geodesic.default, A.clone().requires_grad_(), B.clone().requires_grad_())
    check_op(OPS.so3_geodesic_backward.default, *(t.clone().requires_grad_() for t in (A, B, g)))


@pytest.mark.parametrize("level", ["base", "v3"])
def test_other_instruction_sets(level, python):
    code = (
        "import torch, geocore\n"
        "from geocore import _ops, so3\n"
        "A, B = so3.random((2, 1001), generator=torch.Generator().manual_seed(0), dtype=torch.float64)\n"
        "g = torch.ones(1001, dtype=torch.float64)\n"
        "value, slope = torch.ops.geocore.so3_geodesic(A, B), torch.ops.geocore.so3_geodesic_backward(A, B, g)\n"
        "assert (value - _ops._DEFINED['so3_geodesic'](A, B)).abs().max() < 4e-15\n"
        "assert (slope - _ops._DEFINED['so3_geodesic_backward'](A, B, g)).abs().max() < 1e-12\n"
    )
    python(code, GEOCORE_ISA=level)


@pytest.mark.bad_input
def test_wrong_arguments_are_refused_by_the_kernel_too():
    R = rotations(4)
    with pytest.raises(RuntimeError, match=r"so3_geodesic: expected shape \(\.\.\., 3, 3\)"):
        OPS.so3_geodesic(R, R[..., :2])
    with pytest.raises(RuntimeError, match="so3_geodesic: all arguments must hold the same number of items"):
        OPS.so3_geodesic(R, R[:2])
    with pytest.raises(RuntimeError, match="so3_geodesic: all arguments must have one dtype"):
        OPS.so3_geodesic(R, R.float())
    with pytest.raises(RuntimeError, match="so3_geodesic: expected float32 or float64"):
        OPS.so3_geodesic(R.half(), R.half())
    with pytest.raises(ValueError, match="R1"):
        so3.geodesic(R[..., 0], R)
