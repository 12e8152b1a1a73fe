"""Exponential and logarithm of SO(3): kernel against reference in values and every derivative."""

import math

import pytest
import torch

from geocore import _ops, so3
from geocore.so3._algebra import exp_reference, log_reference
from geocore.testing import check_op, check_transforms, max_error_eps, nan_filled_empty

OPS = torch.ops.geocore
DTYPES = (torch.float32, torch.float64)


def vectors(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(3,), (0, 3), (1, 3), (17, 3), (5, 7, 3), (1003, 3)], ids=str)
def test_values(shape, dtype):
    w = vectors(*shape, dtype=dtype)
    with nan_filled_empty():
        R = OPS.so3_exp(w)
        back = OPS.so3_log(R)
    assert R.shape == (*shape, 3)
    assert back.shape == shape
    if w.numel():
        assert max_error_eps(R, exp_reference(w.double())) <= 10  # rounding of the angle itself included
        assert max_error_eps(back, log_reference(R.double())) <= 8


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("angle", [0.0, 1e-30, 1e-12, 1e-4, 0.24, 0.26, 0.49, 0.51, 1.5, math.pi - 1e-3, math.pi, 6.0, 500.0, 2e4, 3e6])
def test_angles_of_every_size(dtype, angle):
    axes = torch.nn.functional.normalize(vectors(64, 3), dim=-1).to(dtype)
    w = axes * angle
    R = OPS.so3_exp(w)
    size = max(1.0, angle)  # an angle of that size is only known to eps times itself
    assert max_error_eps(R, exp_reference(w.double())) <= 10 * size
    if angle <= math.pi - 1e-3:
        relative = (OPS.so3_log(R).double() - log_reference(R.double())).abs().max() / max(angle, 1e-30)
        assert float(relative) <= 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_half_turns_have_the_axis_of_the_reference(dtype):
    axes = torch.nn.functional.normalize(
        torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 2, 0], [0, -1, 3], [1, 1, 1]], dtype=dtype), dim=-1
    )
    R = 2 * axes[:, :, None] * axes[:, None, :] - torch.eye(3, dtype=dtype)
    torch.testing.assert_close(OPS.so3_log(R), log_reference(R), rtol=0, atol=4 * torch.finfo(dtype).eps * math.pi)
    G = vectors(6, 3, dtype=dtype, seed=3)
    torch.testing.assert_close(
        OPS.so3_log_backward(R, G), torch.func.vjp(log_reference, R)[1](G)[0], rtol=0, atol=64 * torch.finfo(dtype).eps
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", [0.0, 1e-9, 1e-3, 0.3, 1.0, 3.0])
def test_backward_is_that_of_the_reference(dtype, scale):
    w, G = scale * vectors(333, 3, dtype=dtype), vectors(333, 3, 3, dtype=dtype, seed=1)
    g = vectors(333, 3, dtype=dtype, seed=2)
    R = exp_reference(w.double()).to(dtype)
    with nan_filled_empty():
        ours_w, ours_R = OPS.so3_exp_backward(w, G), OPS.so3_log_backward(R, g)
    wanted_w = torch.func.vjp(exp_reference, w.double())[1](G.double())[0]
    wanted_R = torch.func.vjp(log_reference, R.double())[1](g.double())[0]
    eps = torch.finfo(dtype).eps
    assert float((ours_w.double() - wanted_w).abs().max()) <= 40 * eps * max(1.0, scale) * float(G.abs().max())
    near_pi = wanted_R.abs().amax((-1, -2), keepdim=True).clamp(min=1)
    assert float(((ours_R.double() - wanted_R) / near_pi).abs().max()) <= 60 * eps


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_item_does_not_depend_on_its_neighbours(dtype):
    w = vectors(37, 3, dtype=dtype)
    w[5, 1] = float("nan")
    w[6, 0] = float("inf")
    w[7, 0] = 1e5  # goes through libm
    R = OPS.so3_exp(w)
    for i in (0, 4, 7, 8, 36):
        assert torch.equal(R[i], OPS.so3_exp(w[i]))
        assert torch.equal(OPS.so3_log(R)[i], OPS.so3_log(R[i]))
    assert R[5].isnan().all()
    assert R[6].isnan().all()
    assert OPS.so3_log(R)[5].isnan().all()
    assert R[7:].isfinite().all()


def test_strided_input():
    w = vectors(3, 40).T
    R = OPS.so3_exp(w)
    assert torch.equal(R, OPS.so3_exp(w.contiguous()))
    assert torch.equal(OPS.so3_log(R.mT), OPS.so3_log(R.mT.contiguous()))


@pytest.mark.parametrize("public", [so3.exp, so3.log], ids=["exp", "log"])
def test_public_function_is_the_same_with_and_without(public, monkeypatch):
    w = vectors(50, 3)
    x = w if public is so3.exp else exp_reference(w)
    seen = []
    gate = _ops.kernel_may_run
    monkeypatch.setattr(_ops, "kernel_may_run", lambda *a, **k: seen.append(gate(*a, **k)) or seen[-1])

    def derivatives():
        live = x.clone().requires_grad_()
        value = public(live)
        (first,) = torch.autograd.grad(value.pow(2).sum() + value.sin().sum(), live, create_graph=True)
        (second,) = torch.autograd.grad(first.pow(2).sum(), live)
        return value.detach(), first.detach(), second

    ours = derivatives()
    assert seen == [True]
    with _ops.without_kernels():
        wanted = derivatives()
    assert seen == [True, False]
    for a, b, tolerance in zip(ours, wanted, (1e-14, 1e-13, 1e-11), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    check_transforms(public, x)


@pytest.mark.parametrize("name", ["so3_exp", "so3_log", "so3_exp_backward", "so3_log_backward"])
def test_opcheck(name):
    w = vectors(5, 3)
    R = exp_reference(w)
    arguments = {
        "so3_exp": (w,),
        "so3_log": (R,),
        "so3_exp_backward": (w, vectors(5, 3, 3, seed=4)),
        "so3_log_backward": (R, vectors(5, 3, seed=5)),
    }[name]
    check_op(getattr(OPS, name).default, *(a.clone().requires_grad_() for a in arguments))


@pytest.mark.bad_input
def test_wrong_shapes_are_refused_by_the_kernel_too():
    with pytest.raises(RuntimeError, match=r"so3_exp: expected shape \(\.\.\., 3\)"):
        OPS.so3_exp(torch.zeros(4))
    with pytest.raises(RuntimeError, match="so3_exp: expected float32 or float64"):
        OPS.so3_exp(torch.zeros(3, dtype=torch.float16))
    with pytest.raises(ValueError, match="w"):
        so3.exp(torch.zeros(4))
