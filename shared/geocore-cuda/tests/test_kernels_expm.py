"""Exponential of small matrices: the kernel against mpmath and torch, its gradient, and both derivatives of the public function."""

import mpmath
import numpy as np
import pytest
import torch

from geocore import _ops, son
from geocore._dispatch import _exp_back, _plain_exp, matrix_exp
from geocore.testing import check_op, check_transforms, nan_filled_empty

OPS = torch.ops.geocore
DTYPES = (torch.float32, torch.float64)


def randn(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def exact(A):
    with mpmath.workdps(40):
        return torch.stack([torch.tensor(np.array(mpmath.expm(mpmath.matrix(a.double().tolist())).tolist(), dtype=float)) for a in A])


def relative(got, wanted):
    """Largest error of each matrix relative to its largest entry."""
    return ((got.double() - wanted).abs().amax((-1, -2)) / wanted.abs().amax((-1, -2))).max().item()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("norm", [1e-8, 1e-3, 0.03, 0.79, 0.81, 5.0, 50.0])
@pytest.mark.parametrize("kind", ["general", "skew", "nilpotent"])
def test_against_forty_digits(kind, norm, n, dtype):
    A = randn(4, n, n, seed=n)
    A = {"general": A, "skew": A - A.mT, "nilpotent": A.triu(1)}[kind]
    A = (A * (norm / torch.linalg.matrix_norm(A, 1)[:, None, None])).to(dtype)
    # The condition of the exponential is at least the norm; 13 eps at norm 5 were seen without fused multiply-add.
    assert relative(OPS.small_expm(A), exact(A)) <= (2 + 3 * norm) * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 6, 8, 11, 16])
def test_every_size_and_count(n, dtype):
    for count in (0, 1, 3, 17, 200):
        A = randn(count, n, n, dtype=dtype, seed=count) / n**0.5
        with nan_filled_empty():
            got = OPS.small_expm(A)
        assert got.shape == A.shape
        if count:
            assert relative(got, torch.matrix_exp(torch.cat([A, A]).double())[:count]) <= (10 + 3 * n) * torch.finfo(dtype).eps


def test_special_matrices():
    zero = torch.zeros(3, 3, dtype=torch.float64)
    assert torch.equal(OPS.small_expm(zero), torch.eye(3, dtype=torch.float64))
    d = torch.tensor([-800.0, 0.0, 3.0], dtype=torch.float64)
    got = OPS.small_expm(torch.diag(d))
    assert got[0, 0] < 1e-300
    torch.testing.assert_close(got.diagonal()[1:], d[1:].exp(), rtol=2e-13, atol=0)
    shift = torch.diag(torch.full((2,), 1e30, dtype=torch.float64), 1)
    assert torch.equal(OPS.small_expm(shift), torch.eye(3, dtype=torch.float64) + shift + shift @ shift / 2)
    assert OPS.small_expm(torch.tensor([[-1e30]], dtype=torch.float64)).item() == 0.0
    assert OPS.small_expm(torch.tensor([[1e4]], dtype=torch.float64)).isinf().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [2, 3, 4, 7, 8, 16])
def test_gradient_is_that_of_the_reference(n, dtype):
    A, g = randn(37, n, n, dtype=dtype) / n**0.5, randn(37, n, n, dtype=dtype, seed=1)
    with _ops.without_kernels():
        wanted = _exp_back(A.double(), g.double())
    with nan_filled_empty():
        got = OPS.small_expm_backward(A, g)
    assert relative(got, wanted) <= (20 + 5 * n) * torch.finfo(dtype).eps
    far = OPS.small_expm_backward(A, 1e20 * g)  # linear: the size of g never changes the scaling
    assert relative(far / 1e20, wanted) <= (20 + 5 * n) * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [3, 7])
def test_an_item_does_not_depend_on_its_neighbours(n, dtype):
    A = randn(37, n, n, dtype=dtype)
    A[3], A[4] = 0, 30 * torch.eye(n)
    A[5, 1, 0], A[6, 0, 0], A[7, 0, 1] = float("nan"), float("inf"), -float("inf")
    out, g = OPS.small_expm(A), OPS.small_expm_backward(A, torch.ones_like(A))
    for i in (0, 3, 4, 8, 36):
        assert torch.equal(out[i], OPS.small_expm(A[i]))
        assert torch.equal(g[i], OPS.small_expm_backward(A[i], torch.ones_like(A[i])))
    for x in (out, g):
        assert x[5:8].isnan().all()
        assert x[8:].isfinite().all()


def test_strides_and_leading_dimensions():
    A = randn(4, 10, 3, 3).transpose(0, 1)[::2].mT
    assert torch.equal(OPS.small_expm(A), OPS.small_expm(A.contiguous()))
    assert torch.equal(OPS.small_expm_backward(A, A.mT), OPS.small_expm_backward(A.contiguous(), A.mT.contiguous()))


@pytest.mark.parametrize("n", [2, 3, 9])
@pytest.mark.parametrize("count", [1, 5])
def test_public_function_is_the_same_with_and_without(n, count):
    A = randn(count, n, n) / n**0.5
    assert _ops.kernel_may_run("small_expm", A, size=n, count=count)

    def derivatives(fn):
        live = A.clone().requires_grad_()
        value = fn(live)
        (first,) = torch.autograd.grad(value.pow(2).sum() + value.sin().sum(), live, create_graph=True)
        (second,) = torch.autograd.grad(first.pow(2).sum(), live)
        return value.detach(), first.detach(), second

    ours = derivatives(matrix_exp)
    with _ops.without_kernels():
        wanted = derivatives(matrix_exp)
    for a, b in zip(ours, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13 * max(1.0, float(b.abs().max())) * n)


@pytest.mark.parametrize("n", [3, 4])
def test_gradcheck_and_transforms(n):
    A = randn(2, n, n).requires_grad_()
    assert torch.autograd.gradcheck(matrix_exp, A)
    assert torch.autograd.gradgradcheck(matrix_exp, A)
    if n == 3:
        check_transforms(matrix_exp, randn(3, n, n))


def test_rotations_through_it():
    S = randn(20, 6, 6)
    S = S - S.mT
    R = son.exp(S, method="matrix_exp")
    assert (R.mT @ R - torch.eye(6, dtype=torch.float64)).abs().max() <= 1e-13
    with _ops.without_kernels():
        torch.testing.assert_close(R, son.exp(S, method="matrix_exp"), rtol=0, atol=1e-13)


def test_opcheck():
    check_op(OPS.small_expm.default, randn(5, 3, 3).requires_grad_())
    check_op(OPS.small_expm_backward.default, randn(5, 3, 3), randn(5, 3, 3, seed=1))


@pytest.mark.bad_input
def test_what_the_kernel_refuses():
    for bad in (torch.zeros(3), torch.zeros(2, 3), torch.zeros(17, 17)):
        with pytest.raises(RuntimeError, match=r"small_expm: expected A of shape \(\.\.\., n, n\) with n from 1 to 16"):
            OPS.small_expm(bad)
    with pytest.raises(RuntimeError, match="small_expm_backward: expected G like A"):
        OPS.small_expm_backward(torch.zeros(2, 3, 3), torch.zeros(3, 3))
    with pytest.raises(RuntimeError, match="small_expm: expected float32 or float64"):
        OPS.small_expm(torch.zeros(3, 3, dtype=torch.float16))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [2, 3, 4, 7, 16])
def test_cuda_kernels(n, dtype):
    A, g = randn(1003, n, n, dtype=dtype) / n**0.5, randn(1003, n, n, dtype=dtype, seed=1)
    bound = (20 + 5 * n) * torch.finfo(dtype).eps
    assert relative(OPS.small_expm(A.cuda()).cpu(), _plain_exp(A.double())) <= bound
    assert relative(OPS.small_expm_backward(A.cuda(), g.cuda()).cpu(), OPS.small_expm_backward(A.double(), g.double())) <= bound
