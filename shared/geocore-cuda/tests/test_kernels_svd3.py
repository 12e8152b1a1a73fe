"""Singular value decomposition of 3x3 matrices: kernel against LAPACK."""

import pytest
import torch

from geocore import _dispatch, _ops, orthogonal
from geocore.testing import check_op, check_transforms, nan_filled_empty

OP = torch.ops.geocore.svd3
DTYPES = [torch.float32, torch.float64]


def normal(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def checked(M, tolerance=30):
    with nan_filled_empty():
        U, s, Vh = OP(M)
    eps = torch.finfo(M.dtype).eps
    size = M.abs().amax((-1, -2), keepdim=True).clamp(min=torch.finfo(M.dtype).tiny)
    eye = torch.eye(3, dtype=M.dtype)
    assert float(((U.mT @ U) - eye).abs().amax()) <= tolerance * eps
    assert float(((Vh @ Vh.mT) - eye).abs().amax()) <= tolerance * eps
    assert float((((U * s[..., None, :]) @ Vh - M) / size).abs().amax()) <= tolerance * eps
    wanted = torch.linalg.svdvals(M.double())
    assert float(((s.double() - wanted) / size[..., 0]).abs().amax()) <= tolerance * eps
    assert bool((s >= 0).all())
    assert bool((s.diff(dim=-1) <= tolerance * eps * size[..., 0]).all())
    return U, s, Vh


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch", [(), (1,), (17,), (5, 7), (1003,)], ids=str)
def test_general_matrices(batch, dtype):
    M = normal(*batch, 3, 3, dtype=dtype)
    U, s, Vh = checked(M)
    assert U.shape == Vh.shape == M.shape
    assert s.shape == M.shape[:-1]
    checked(M.mT)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_degenerate_matrices(dtype):
    e = torch.eye(3, dtype=dtype)
    x, y = normal(3, dtype=dtype), normal(3, dtype=dtype, seed=1)
    special = [
        0 * e,
        e,
        -e,
        5 * e,
        torch.diag(torch.tensor([1.0, 1, -1], dtype=dtype)),
        torch.outer(x, y),
        e.flip(0),
        1e-30 * e,
        1e30 * normal(3, 3, dtype=dtype),
    ]
    checked(torch.stack(special))
    graded = normal(50, 3, 3, dtype=dtype) * torch.tensor([1.0, 1e-4, 1e-8], dtype=dtype)
    checked(graded)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_empty_and_not_finite(dtype):
    assert [t.shape for t in OP(torch.empty(0, 3, 3, dtype=dtype))] == [(0, 3, 3), (0, 3), (0, 3, 3)]
    M = normal(9, 3, 3, dtype=dtype)
    M[4, 1, 2], M[6, 0, 0] = float("nan"), float("inf")
    values = OP(M)
    for i in range(9):
        for whole, alone in zip(values, OP(M[i]), strict=True):
            assert torch.equal(whole[i], alone) if i not in (4, 6) else whole[i].isnan().all()


def test_derivatives_are_those_of_lapack():
    M = normal(40, 3, 3)

    def scalar(U, s, Vh):  # does not depend on the signs of the vectors
        return (s.sin() * torch.arange(1.0, 4, dtype=s.dtype)).sum() + (U.pow(2) * Vh.mT.pow(2).cumsum(-1)).sum() + (U @ Vh).pow(3).sum()

    def derivatives(fn):
        live = M.clone().requires_grad_()
        (first,) = torch.autograd.grad(scalar(*fn(live)), live, create_graph=True)
        (second,) = torch.autograd.grad(first.tanh().sum(), live)
        return first.detach(), second

    ours, wanted = derivatives(OP), derivatives(torch.linalg.svd)
    torch.testing.assert_close(ours[0], wanted[0], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(ours[1], wanted[1], rtol=1e-5, atol=1e-5)
    check_op(OP.default, M[:5].clone().requires_grad_())


def test_rooms_that_use_it():
    M = normal(64, 3, 3, seed=4)

    def polar(A):
        return orthogonal.polar(A)

    ours = polar(M)
    assert _ops.kernel_may_run("svd3", M, size=3, count=64)
    with _ops.without_kernels():
        torch.testing.assert_close(ours, polar(M), rtol=0, atol=1e-12)
        plain = _dispatch.svd(M)[1]
    torch.testing.assert_close(_dispatch.svd(M)[1], plain, rtol=0, atol=1e-13)
    check_transforms(lambda A: _dispatch.svd(A)[1], M)


@pytest.mark.bad_input
def test_wrong_shapes_are_refused_by_the_kernel_too():
    with pytest.raises(RuntimeError, match=r"svd3: expected M of shape \(\.\.\., 3, 3\)"):
        OP(torch.zeros(2, 2))
