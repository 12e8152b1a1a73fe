"""Unit triangular systems: kernel against torch.linalg in values and derivatives, and the products and UT transforms built on them."""

import itertools

import pytest
import torch

from geocore import _ops, householder
from geocore.householder._wy import unit_solve, unit_solve_reference
from geocore.testing import check_op, check_transforms, nan_filled_empty

OP = torch.ops.geocore.unit_solve
FLAGS = list(itertools.product([False, True], repeat=2))


def normal(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def systems(*batch, m, d, dtype=torch.float64):
    return normal(*batch, m, m, dtype=dtype) * (0.7 / max(m, 1) ** 0.5), normal(*batch, m, d, dtype=dtype, seed=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("upper", "transpose"), FLAGS)
@pytest.mark.parametrize(
    ("batch", "m", "d"), [((), 5, 3), ((0,), 4, 4), ((3,), 1, 7), ((17,), 8, 1), ((2, 3), 16, 67), ((2,), 33, 130), ((2,), 4, 0)]
)
def test_values(batch, m, d, upper, transpose, dtype):
    A, B = systems(*batch, m=m, d=d, dtype=dtype)
    with nan_filled_empty():
        X = OP(A, B, upper, transpose)
    wanted = unit_solve_reference(A.double(), B.double(), upper, transpose)
    assert X.shape == wanted.shape
    assert X.dtype == dtype
    torch.testing.assert_close(X.double(), wanted, rtol=0, atol=60 * torch.finfo(dtype).eps)


def test_only_the_strict_triangle_is_read_and_items_are_alone():
    A, B = systems(5, m=6, d=9)
    other = torch.where(torch.ones(6, 6, dtype=torch.bool).tril(-1), A, float("nan"))
    assert torch.equal(OP(A, B, False, False), OP(other, B, False, False))
    B[2, 0, 0] = float("nan")
    X = OP(A, B, False, False)
    assert X[2, :, 0].isnan().all()
    assert X[2, :, 1:].isfinite().all()
    assert X[[0, 1, 3, 4]].isfinite().all()
    assert torch.equal(X[3], OP(A[3], B[3], False, False))


@pytest.mark.parametrize(("upper", "transpose"), FLAGS)
def test_strided_broadcast_and_derivatives(upper, transpose):
    A, B = normal(8, 8, 5).permute(2, 1, 0) * 0.3, normal(40, 3, 1, 8, seed=2).permute(1, 2, 3, 0)

    def derivatives():
        live = A.clone().requires_grad_(), B.clone().requires_grad_()
        X = unit_solve(*live, upper=upper, transpose=transpose)
        first = torch.autograd.grad(X.pow(2).sum() + X.sin().sum(), live, create_graph=True)
        second = torch.autograd.grad(sum(g.pow(2).sum() for g in first), live)
        return [X.detach(), *(g.detach() for g in first), *second]

    ours = derivatives()
    with _ops.without_kernels():
        wanted = derivatives()
    for a, b in zip(ours, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-9)


def test_the_gate_takes_it(monkeypatch):
    answers = []
    gate = _ops.kernel_may_run
    monkeypatch.setattr(_ops, "kernel_may_run", lambda *a, **k: answers.append(gate(*a, **k)) or answers[-1])
    K, V = torch.nn.functional.normalize(normal(64, 16, 32), dim=-1), normal(64, 16, 24, seed=3)
    beta, g = normal(64, 16, seed=4).sigmoid(), -normal(64, 16, seed=5).abs()
    W, solve = householder.ut_transform(K, beta, g)
    U = solve(V)
    assert answers == [True, True]
    with _ops.without_kernels():
        plain = householder.ut_transform(K, beta, g)
        torch.testing.assert_close(W, plain.W, rtol=0, atol=1e-12)
        torch.testing.assert_close(U, plain.solve(V), rtol=0, atol=1e-12)
    x = normal(64, 1000, 32, seed=6)
    q = householder.apply_product(K.mT[:, None], x)
    with _ops.without_kernels():
        torch.testing.assert_close(q, householder.apply_product(K.mT[:, None], x), rtol=0, atol=1e-12)


def test_transforms_and_opcheck():
    A, B = systems(6, m=8, d=200)
    check_transforms(lambda a, b: unit_solve(a, b, upper=True), A, B)
    for upper, transpose in FLAGS:
        a, b = systems(3, m=4, d=5)
        check_op(OP.default, a.requires_grad_(), b.requires_grad_(), upper, transpose)


@pytest.mark.bad_input
def test_wrong_shapes_are_refused_by_the_kernel_too():
    A, B = systems(3, m=4, d=5)
    with pytest.raises(RuntimeError, match=r"expected B of shape \(\.\.\., m, d\)"):
        OP(A, B[:, :3], False, False)
    with pytest.raises(RuntimeError, match="one batch shape"):
        OP(A, B[:2], False, False)
