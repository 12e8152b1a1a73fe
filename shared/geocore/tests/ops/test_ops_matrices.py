"""Operators of small matrices without compiled code: decompositions, exponential, nearest rotation, and their gradients."""

import pytest
import torch

from geocore import _dispatch, _ops, son
from geocore.orthogonal import _nearest
from geocore.testing import check_op, check_transforms

OPS = torch.ops.geocore


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def symmetric(*shape, seed=0):
    A = randn(*shape, seed=seed)
    return (A + A.mT) / 2


@pytest.fixture(autouse=True)
def _plain():
    with _ops.without_kernels():
        yield


def test_eigh_is_that_of_torch():
    A = symmetric(5, 4, 4)
    values, vectors = _dispatch.eigh(A)
    wanted = torch.linalg.eigh(A)
    assert torch.equal(values, wanted.eigenvalues)
    assert torch.equal(vectors, wanted.eigenvectors)
    assert torch.equal(_dispatch.eigvalsh(A), torch.linalg.eigvalsh(A))


def test_gradient_of_the_eigen_operator_is_that_of_torch():
    A, g, h = symmetric(4, 3, 3).requires_grad_(), randn(4, 3, 3, seed=1), randn(4, 3, seed=2)

    def both(eigh):
        values, vectors = eigh(A)
        (first,) = torch.autograd.grad((vectors.square() * g).sum() + (values.sin() * h).sum(), A, create_graph=True)
        return first, torch.autograd.grad(first.pow(2).sum(), A)[0]

    for a, b in zip(both(OPS.sym_eig), both(torch.linalg.eigh), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10 * float(b.detach().abs().max()))


def test_equal_eigenvalues_have_a_gradient_where_their_vectors_have_none():
    A = torch.eye(3, dtype=torch.float64).requires_grad_()
    values, vectors = OPS.sym_eig(A)
    (g,) = torch.autograd.grad(values.sum(), A, retain_graph=True)
    assert torch.equal(g, torch.eye(3, dtype=torch.float64))
    assert not torch.autograd.grad((vectors * randn(3, 3)).sum(), A)[0].isfinite().all()


@pytest.mark.parametrize("size", [1e-20, 1.0, 1e20])
def test_gradient_of_the_exponential_is_linear_and_that_of_torch(size):
    A, g = randn(4, 3, 3), randn(4, 3, 3, seed=1)
    wanted = torch.func.vjp(torch.matrix_exp, A)[1](g)[0]
    torch.testing.assert_close(OPS.small_expm_backward(A, size * g) / size, wanted, rtol=0, atol=1e-13 * float(wanted.abs().max()))
    assert torch.equal(OPS.small_expm_backward(A, 0 * g), torch.zeros_like(A))


def test_derivatives_of_the_operators():
    A = randn(2, 3, 3).requires_grad_()
    for fn in (OPS.small_expm, lambda M: OPS.procrustes3(M)[0]):
        assert torch.autograd.gradcheck(fn, A)
        assert torch.autograd.gradgradcheck(fn, A)
    check_transforms(_dispatch.matrix_exp, randn(3, 3, 3), compile=False, compiled_transforms=False)


def test_nearest_rotation_operator_is_the_public_function():
    M, g = randn(6, 3, 3), randn(6, 3, 3, seed=1)
    R, s = OPS.procrustes3(M)
    torch.testing.assert_close(R, son.special_procrustes(M), rtol=0, atol=1e-14)
    torch.testing.assert_close(s, _nearest.nearest_orthogonal(M, special=True)[1], rtol=0, atol=1e-14)
    wanted = torch.func.vjp(son.special_procrustes, M)[1](g)[0]
    torch.testing.assert_close(OPS.procrustes3_backward(M, g), wanted, rtol=0, atol=1e-12 * float(wanted.abs().max()))


def test_opcheck():
    check_op(OPS.sym_eig.default, symmetric(3, 4, 4).requires_grad_())
    check_op(OPS.small_expm.default, randn(3, 4, 4).requires_grad_())
    check_op(OPS.small_expm_backward.default, randn(3, 4, 4), randn(3, 4, 4, seed=1))
    check_op(OPS.procrustes3.default, randn(3, 3, 3).requires_grad_())
    check_op(OPS.procrustes3_backward.default, randn(3, 3, 3), randn(3, 3, 3, seed=1))
