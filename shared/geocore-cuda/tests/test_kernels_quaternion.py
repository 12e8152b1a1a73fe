"""Quaternion conversions and product: kernel against reference in values and every derivative."""

import pytest
import torch

from geocore import _ops, so3
from geocore.testing import check_op, check_transforms, max_error_eps, nan_filled_empty

OPS = torch.ops.geocore
DTYPES = (torch.float32, torch.float64)


def normal(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def rotations(*batch, dtype=torch.float64, seed=1):
    return so3.exp(3 * normal(*batch, 3, seed=seed)).to(dtype)


def reference(name):
    return _ops._DEFINED[name]


CASES = {
    "quat_to_matrix": lambda *batch, dtype: (normal(*batch, 4, dtype=dtype),),
    "matrix_to_quat": lambda *batch, dtype: (rotations(*batch, dtype=dtype),),
    "quat_mul": lambda *batch, dtype: (normal(*batch, 4, dtype=dtype), normal(*batch, 4, dtype=dtype, seed=2)),
    "quat_to_matrix_backward": lambda *batch, dtype: (normal(*batch, 4, dtype=dtype), normal(*batch, 3, 3, dtype=dtype, seed=2)),
    "matrix_to_quat_backward": lambda *batch, dtype: (rotations(*batch, dtype=dtype), normal(*batch, 4, dtype=dtype, seed=2)),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch", [(), (0,), (1,), (17,), (5, 7), (1003,)], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_values(name, batch, dtype):
    arguments = CASES[name](*batch, dtype=dtype)
    with nan_filled_empty():
        value = getattr(OPS, name)(*arguments)
    wanted = reference(name)(*(a.double() for a in arguments))
    assert value.shape == wanted.shape
    assert value.dtype == dtype
    if value.numel():
        size = wanted.abs().flatten(len(batch)).amax(-1).clamp(min=1)
        error = (value.double() - wanted).abs().flatten(len(batch)).amax(-1) / size
        assert float(error.max()) <= 40 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_special_quaternions(dtype):
    q = torch.tensor([[0, 0, 0, 0], [1, 0, 0, 0], [-2, 0, 0, 0], [0, 3, 0, 0], [1e-8, 0, 1e-8, 0], [1e-30, 0, 0, 1e-30]], dtype=dtype)
    wanted = reference("quat_to_matrix")(q)
    torch.testing.assert_close(OPS.quat_to_matrix(q), wanted, rtol=0, atol=4 * torch.finfo(dtype).eps)
    G = normal(6, 3, 3, dtype=dtype)
    ours, theirs = OPS.quat_to_matrix_backward(q, G), reference("quat_to_matrix_backward")(q, G)
    scale = theirs.abs().amax(-1, keepdim=True).clamp(min=1)  # of order 1 / |q|
    torch.testing.assert_close(ours / scale, theirs / scale, rtol=0, atol=20 * torch.finfo(dtype).eps)
    tiny = torch.full((1, 4), 1e-18, dtype=dtype)  # the formula's own gradient overflows here in float32
    assert OPS.quat_to_matrix_backward(tiny, G[:1]).isfinite().all()
    half_turns = torch.stack([torch.diag(torch.tensor(d, dtype=dtype)) for d in ([1.0, -1, -1], [-1.0, 1, -1], [-1.0, -1, 1], [1.0, 1, 1])])
    assert torch.equal(OPS.matrix_to_quat(half_turns), reference("matrix_to_quat")(half_turns))
    nan = torch.full((1, 3, 3), float("nan"), dtype=dtype)
    both = OPS.matrix_to_quat(torch.cat([half_turns, nan]))
    assert both[4].isnan().all()
    assert both[:4].isfinite().all()


def exercised(public, arguments):
    live = [a.clone().requires_grad_() for a in arguments]
    value = public(*live)
    first = torch.autograd.grad(value.pow(2).sum() + value.sin().sum(), live, create_graph=True)
    second = torch.autograd.grad(sum(g.pow(2).sum() for g in first), live)
    return [value.detach(), *(g.detach() for g in first), *second]


@pytest.mark.parametrize("order", ["wxyz", "xyzw"])
@pytest.mark.parametrize("name", ["quat_to_matrix", "matrix_to_quat", "quat_mul"])
def test_public_function_is_the_same_with_and_without(name, order):
    def public(*arguments):
        return getattr(so3, name)(*arguments, order=order)

    arguments = CASES[name](40, dtype=torch.float64)
    ours = exercised(public, arguments)
    with _ops.without_kernels():
        wanted = exercised(public, arguments)
    for a, b in zip(ours, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    if order == "wxyz":
        check_transforms(public, *arguments)


def test_broadcast_products_and_half_precision():
    a, b = normal(5, 1, 4), normal(7, 4, seed=3)
    torch.testing.assert_close(so3.quat_mul(a, b), reference("quat_mul")(a, b), rtol=1e-14, atol=1e-14)
    q = normal(9, 4).half()
    with _ops.without_kernels():
        wanted = so3.quat_to_matrix(q)
    assert max_error_eps(so3.quat_to_matrix(q), wanted) <= 1
    assert so3.quat_to_matrix(q).dtype == torch.float16


@pytest.mark.parametrize("name", CASES)
def test_opcheck(name):
    check_op(getattr(OPS, name).default, *(a.clone().requires_grad_() for a in CASES[name](5, dtype=torch.float64)))
