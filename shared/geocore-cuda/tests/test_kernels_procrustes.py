"""Nearest rotation of 3x3 matrices: the kernel against the SVD, at every kind of degeneracy, with both derivatives."""

import mpmath
import numpy as np
import pytest
import torch

from geocore import _ops, son
from geocore.orthogonal._nearest import _rotation3, _rotation3_grad
from geocore.testing import check_op, check_transforms, nan_filled_empty

OPS = torch.ops.geocore
DTYPES = (torch.float32, torch.float64)
EYE = torch.eye(3, dtype=torch.float64)


def randn(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def haar(count, seed):
    return son.haar(3, count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


REFERENCE = 40 * 2.3e-16
"""Error of the LAPACK reference in float64 (20 eps were seen), relative to the certainty; the kernel's is 2 eps, see the test below."""


def certainty(values):
    """Inverse condition of the rotation."""
    return ((values[..., 1] + values[..., 2]) / values[..., 0]).clamp(max=1)


def check_best(M, R, s):
    """A rotation, the best one, and the singular values with the sign of the determinant."""
    eps = torch.finfo(M.dtype).eps
    M, R, s = M.double(), R.double(), s.double()
    assert (R.mT @ R - EYE).abs().max() <= 6 * eps
    assert torch.linalg.det(R).min() > 0.5
    wanted = torch.linalg.svdvals(M)
    scale = wanted[..., :1].clamp(min=1e-300)
    assert ((s.abs() - wanted) / scale).abs().max() <= 6 * eps
    assert (s[..., 0] >= s[..., 1]).all()
    assert (s[..., 1] >= s[..., 2].abs() * (1 - 4 * eps)).all()
    assert (((R * M).sum((-1, -2)) - s.sum(-1)) / scale[..., 0]).abs().max() <= 12 * eps


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(3, 3), (0, 3, 3), (1, 3, 3), (3, 3, 3), (17, 3, 3), (4, 5, 3, 3), (1000, 3, 3)], ids=str)
def test_values(shape, dtype):
    M = randn(*shape, dtype=dtype)
    with nan_filled_empty():
        R, s = OPS.procrustes3(M)
    assert R.shape == shape
    assert s.shape == shape[:-1]
    if M.numel():
        check_best(M, R, s)
        wanted, values = _rotation3(M.double())
        assert ((R - wanted) * certainty(values)[..., None, None]).abs().max() <= 2 * torch.finfo(dtype).eps + REFERENCE
        assert torch.equal(s[..., 2] < 0, torch.linalg.det(M.double()) < 0)


def test_against_forty_digits():
    M = randn(100, 3, 3, seed=5)
    wanted = []
    with mpmath.workdps(40):
        for m in M:
            U, _, V = mpmath.svd_r(mpmath.matrix(m.tolist()))
            sign = mpmath.sign(mpmath.det(U) * mpmath.det(V))
            wanted.append(torch.tensor(np.array((U * mpmath.diag([1, 1, sign]) * V).tolist(), dtype=float)))
    R, s = OPS.procrustes3(M)
    assert ((R - torch.stack(wanted)) * certainty(s)[:, None, None]).abs().max() <= 4 * torch.finfo(torch.float64).eps


SPECTRA = [
    (1.0, 1.0, 1.0),
    (2.0, 1.0, 1.0),
    (1.0, 1.0, -1.0),
    (0.0, 0.0, 0.0),
    (1.0, 0.0, 0.0),
    (1.0, 0.5, 0.0),
    (-1.0, -1.0, -1.0),
    (2.0, 1.0, -1.0),
    (1.0, 1e-5, 1e-10),
    (1.0, 1e-12, -1e-14),
    (1e-35, 1e-36, 1e-37),
    (1e35, 1e34, -1e33),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("diagonal", SPECTRA, ids=str)
def test_degenerate_matrices(diagonal, dtype):
    D = torch.tensor(diagonal, dtype=torch.float64)
    M = torch.cat([torch.diag(D)[None], (haar(40, 0) * D) @ haar(40, 1).mT]).to(dtype)
    R, s = OPS.procrustes3(M)
    check_best(M, R, s)
    assert OPS.procrustes3_backward(M, randn(41, 3, 3, dtype=dtype) * min(1.0, float(D.abs().max()))).isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_zero_gives_the_identity_and_no_gradient(dtype):
    zero = torch.zeros(2, 3, 3, dtype=dtype)
    R, s = OPS.procrustes3(zero)
    assert torch.equal(R, torch.eye(3, dtype=dtype).expand(2, 3, 3))
    assert torch.equal(s, zero[..., 0])
    assert torch.equal(OPS.procrustes3_backward(zero, torch.ones_like(zero)), zero)


def test_small_singular_values_to_full_accuracy():
    """Columns of very different size: one-sided Jacobi finds even the smallest value to its own accuracy."""
    M = haar(50, 0) * torch.tensor([1.0, 1e-12, 1e-25], dtype=torch.float64)
    s = OPS.procrustes3(M)[1]
    assert (s / torch.tensor([1.0, 1e-12, 1e-25], dtype=torch.float64) - 1).abs().max() <= 1e-14


@pytest.mark.parametrize("size", [1e-310, 1e-160, 1e160, 1e300])
def test_extremes_of_float64(size):
    M = randn(20, 3, 3)
    R, s = OPS.procrustes3(M * size)
    wanted, values = _rotation3(M)
    loose = 1e-12 if size == 1e-310 else 0.0
    assert ((R - wanted).abs().amax((-1, -2)) * (values[:, 1] + values[:, 2])).max() <= 1e-14 + loose
    assert (s / size - values).abs().max() <= 2e-14 + loose


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradient_is_that_of_the_reference(dtype):
    M, g = randn(333, 3, 3, dtype=dtype), randn(333, 3, 3, dtype=dtype, seed=1)
    with nan_filled_empty():
        got = OPS.procrustes3_backward(M, g)
    wanted = _rotation3_grad(M.double(), g.double())
    relative = (got - wanted).abs().amax((-1, -2)) / wanted.abs().amax((-1, -2)) * certainty(_rotation3(M.double())[1])
    assert relative.max() <= 20 * torch.finfo(dtype).eps + 10 * REFERENCE


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_item_does_not_depend_on_its_neighbours(dtype):
    M = randn(37, 3, 3, dtype=dtype)
    M[3], M[4] = torch.eye(3), 0
    M[5, 2, 1], M[6, 0, 0] = float("nan"), float("inf")
    (R, s), g = OPS.procrustes3(M), OPS.procrustes3_backward(M, M)
    for i in (0, 3, 4, 7, 36):
        assert torch.equal(R[i], OPS.procrustes3(M[i])[0])
        assert torch.equal(g[i], OPS.procrustes3_backward(M[i], M[i]))
    for out in (R, s, g):
        assert out[5:7].isnan().all()
        assert out[7:].isfinite().all()


def test_strides():
    M = randn(40, 3, 3, 3).movedim(-1, 0)[:, ::2].mT
    assert not M.is_contiguous()
    assert torch.equal(OPS.procrustes3(M)[0], OPS.procrustes3(M.contiguous())[0])
    assert torch.equal(OPS.procrustes3_backward(M, M.mT), OPS.procrustes3_backward(M.contiguous(), M.mT.contiguous()))


def confident(M):
    return torch.cat([x.flatten() for x in son.special_procrustes(M, return_confidence=True)])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "public", [son.special_procrustes, confident, son.nearest_special_orthogonal], ids=["procrustes", "confidence", "nearest"]
)
def test_public_functions_are_the_same_with_and_without(public, dtype):
    M = (0.3 * randn(40, 3, 3) + 2 * EYE).to(dtype)
    assert _ops.kernel_may_run("procrustes3", M, size=3, count=40)

    def derivatives():
        live = M.clone().requires_grad_()
        value = public(live)
        (first,) = torch.autograd.grad(value.pow(3).sum() + value.sin().sum(), live, create_graph=True)
        (second,) = torch.autograd.grad(first.pow(2).sum(), live)
        return value.detach(), first.detach(), second

    ours = derivatives()
    with _ops.without_kernels():
        wanted = derivatives()
    for a, b in zip(ours, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=200 * torch.finfo(dtype).eps * max(1.0, float(b.abs().max())))


def test_gradcheck_and_transforms():
    M = randn(4, 3, 3).requires_grad_()
    assert torch.autograd.gradcheck(son.special_procrustes, M)
    assert torch.autograd.gradgradcheck(son.special_procrustes, M)
    check_transforms(son.special_procrustes, randn(3, 3, 3) + 2 * EYE)


def test_opcheck():
    check_op(OPS.procrustes3.default, randn(5, 3, 3).requires_grad_())
    check_op(OPS.procrustes3_backward.default, randn(5, 3, 3), randn(5, 3, 3, seed=1))


@pytest.mark.bad_input
def test_what_the_kernel_refuses():
    with pytest.raises(RuntimeError, match=r"procrustes3: expected M of shape \(\.\.\., 3, 3\)"):
        OPS.procrustes3(torch.zeros(3, 2))
    with pytest.raises(RuntimeError, match="procrustes3_backward: expected g like M"):
        OPS.procrustes3_backward(torch.zeros(2, 3, 3), torch.zeros(3, 3))
    with pytest.raises(RuntimeError, match="procrustes3: expected float32 or float64"):
        OPS.procrustes3(torch.zeros(3, 3, dtype=torch.float16))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cuda_kernels(dtype):
    M, g = randn(1003, 3, 3, dtype=dtype), randn(1003, 3, 3, dtype=dtype, seed=1)
    R, s = OPS.procrustes3(M.cuda())
    check_best(M, R.cpu(), s.cpu())
    wanted = OPS.procrustes3_backward(M, g)
    error = (OPS.procrustes3_backward(M.cuda(), g.cuda()).cpu() - wanted).abs().max() / wanted.abs().max()
    assert error <= 1e3 * torch.finfo(dtype).eps
