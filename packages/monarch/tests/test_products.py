"""Products and projections against their definitions."""

import numpy as np
import pytest
import torch
from torch import Tensor

from geocore.testing import check_derivatives, check_transforms
from monarch import kronecker_factors, monarch_dense, monarch_matmul, project_monarch, transpose_factors
from monarch._reference import monarch_dense_reference, monarch_matmul_reference

SHAPES = [(4, 4, 4, 4, 4), (3, 4, 5, 3, 6), (4, 12, 8, 4, 6), (3, 10, 7, 3, 5), (2, 5, 6, 5, 3), (6, 10, 4, 4, 7)]
shapes = pytest.mark.parametrize(("k", "q", "p", "l", "s"), SHAPES)


def draw(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def factors(k: int, q: int, p: int, l: int, s: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:  # noqa: E741
    return draw(k, q, p, dtype=dtype), draw(l, s, k * q // l, dtype=dtype, seed=1)


@shapes
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_product_equals_its_definition(k, q, p, l, s, dtype):  # noqa: E741
    w1, w2 = factors(k, q, p, l, s, dtype)
    x = draw(2, 3, k * p, dtype=dtype, seed=2)
    dense = monarch_dense(w1, w2)
    torch.testing.assert_close(dense, monarch_dense_reference(w1, w2), rtol=0, atol=1e-12)
    torch.testing.assert_close(monarch_matmul(x, w1, w2), x @ dense.mT, rtol=0, atol=1e-12)
    torch.testing.assert_close(monarch_matmul(x, w1, w2), monarch_matmul_reference(x, w1, w2), rtol=0, atol=1e-12)


@shapes
def test_gradients_equal_those_of_the_dense_form(k, q, p, l, s):  # noqa: E741
    leaves = [x.requires_grad_() for x in (draw(3, k * p), *factors(k, q, p, l, s))]
    g = draw(3, l * s, seed=5)
    fast = torch.autograd.grad(monarch_matmul(*leaves), leaves, g)
    dense = torch.autograd.grad(leaves[0] @ monarch_dense_reference(*leaves[1:]).mT, leaves, g)
    for a, b in zip(fast, dense, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_product_composes_with_torch():
    w1, w2 = factors(2, 3, 2, 3, 2)
    x = draw(3, 4)
    check_derivatives(monarch_matmul, x[:2], w1, w2)
    check_transforms(lambda x: monarch_matmul(x, w1, w2), x, export=True)


@shapes
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_projection_is_idempotent(k, q, p, l, s, dtype):  # noqa: E741
    M = monarch_dense(*factors(k, q, p, l, s, dtype))
    w1, w2, info = project_monarch(M, k, l, q)
    torch.testing.assert_close(monarch_dense(w1, w2), M, rtol=0, atol=1e-12)
    assert info.rel_error <= 1e-13


@shapes
def test_projection_error_is_the_tail_of_the_singular_values(k, q, p, l, s):  # noqa: E741
    M = draw(l * s, k * p, seed=3)
    w1, w2, info = project_monarch(M, k, l, q)
    tail = 0.0
    for ll in range(l):
        for kk in range(k):
            rank = sum((kk * q + qq) % l == ll for qq in range(q))
            tail += float((torch.linalg.svdvals(M[ll::l, kk * p : (kk + 1) * p])[rank:] ** 2).sum())
    assert float(info.error) ** 2 == pytest.approx(tail, rel=1e-10, abs=1e-20)
    assert float((M - monarch_dense(w1, w2)).norm()) == pytest.approx(tail**0.5, rel=1e-10, abs=1e-9)
    assert float(info.rel_error) == pytest.approx(tail**0.5 / float(M.norm()), rel=1e-10, abs=1e-10)


@pytest.mark.slow
def test_no_restart_of_an_optimiser_beats_the_projection():
    M = draw(12, 12, seed=3)
    best = float(project_monarch(M, 3, 3, 4)[2].error)
    for seed in range(20):
        w = [draw(3, 4, 4, seed=10 * seed).requires_grad_(), draw(3, 4, 4, seed=10 * seed + 1).requires_grad_()]
        optimizer = torch.optim.LBFGS(w, max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-10)

        def closure(w=w, optimizer=optimizer):
            optimizer.zero_grad()
            loss = (M - monarch_dense(*w)).square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        assert float((M - monarch_dense(*w)).detach().norm()) >= best * (1 - 1e-6)


def test_projection_improves_with_rank_and_solvers_agree():
    M = draw(24, 32, seed=3)
    errors = [float(project_monarch(M, 4, 4, rank=r)[2].error) for r in (1, 2, 3, 4, 6)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] <= 1e-12
    for solver in ("svd", "gram-eigh"):
        assert float(project_monarch(M, 4, 4, rank=1, solver=solver)[2].error) == pytest.approx(errors[0], rel=1e-6)
    # 20 power iterations: exact where one direction dominates, within 1 % of the optimum where it does not
    assert errors[0] <= float(project_monarch(M, 4, 4, rank=1, solver="power")[2].error) <= 1.01 * errors[0]
    single = monarch_dense(*factors(4, 4, 8, 4, 6)) + 1e-3 * M
    best = float(project_monarch(single, 4, 4, rank=1)[2].error)
    assert float(project_monarch(single, 4, 4, rank=1, solver="power")[2].error) == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("gauge", ["balanced", "left", "right"])
def test_gauge_moves_the_singular_values_only(gauge):
    M = draw(12, 12, seed=3)
    w1, w2, _ = project_monarch(M, 3, 3, rank=2, gauge=gauge)
    want = monarch_dense(*project_monarch(M, 3, 3, rank=2)[:2])
    torch.testing.assert_close(monarch_dense(w1, w2), want, rtol=0, atol=1e-12)
    if gauge == "left":
        rows = w1.reshape(3, 2, 3, 4).transpose(1, 2)  # (kk, ll, term, p)
        torch.testing.assert_close(rows @ rows.mT, torch.eye(2, dtype=torch.float64).expand(3, 3, 2, 2), rtol=0, atol=1e-12)


def test_padding_costs_nothing():
    M = draw(7, 10, seed=3)
    w1, w2, info = project_monarch(M, 3, 3, rank=1)
    assert w1.shape == (3, 3, 4)
    assert w2.shape == (3, 3, 3)
    tail = 0.0
    for ll in range(3):
        for kk in range(3):
            tail += float((torch.linalg.svdvals(M[ll::3, kk * 4 : (kk + 1) * 4])[1:] ** 2).sum())
    assert float(info.error) == pytest.approx(tail**0.5, rel=1e-12)
    cropped = monarch_dense(w1, w2)[:7, :10]
    assert float((M - cropped).norm()) == pytest.approx(tail**0.5, rel=1e-12)


def test_metric_weighs_the_inputs():
    M, X = draw(12, 12, seed=3), draw(500, 12, seed=4) * torch.linspace(0.1, 3, 12, dtype=torch.float64)
    C = torch.block_diag(*[(X.T @ X / 500)[i : i + 4, i : i + 4] for i in (0, 4, 8)])
    root = torch.linalg.cholesky(C)
    plain, weighed = project_monarch(M, 3, 3, rank=1), project_monarch(M, 3, 3, rank=1, metric=C)

    def loss(found):
        return float(((M - monarch_dense(*found[:2])) @ root).norm())

    assert loss(weighed) < 0.99 * loss(plain)
    assert float(weighed[2].error) == pytest.approx(loss(weighed), rel=1e-9)
    same = project_monarch(M, 3, 3, rank=1, metric=torch.eye(12, dtype=torch.float64))
    torch.testing.assert_close(monarch_dense(*same[:2]), monarch_dense(*plain[:2]), rtol=0, atol=1e-12)


def test_kronecker_products_have_blocks_of_rank_one():
    A, B = draw(3, 4), draw(5, 2, seed=1)
    w1, w2 = kronecker_factors(A, B)
    np.testing.assert_allclose(monarch_dense(w1, w2).numpy(), np.kron(A.numpy(), B.numpy()), rtol=0, atol=1e-14)


@shapes
def test_transposed_factors(k, q, p, l, s):  # noqa: E741
    w1, w2 = factors(k, q, p, l, s)
    first, second = transpose_factors(w1, w2)
    turned = monarch_dense(first, second)  # (pp k + kk, ll s + ss)
    rows = torch.arange(k * p).reshape(p, k).T.flatten()
    columns = torch.arange(l * s).reshape(l, s).T.flatten()
    torch.testing.assert_close(turned[rows][:, columns], monarch_dense(w1, w2).mT, rtol=0, atol=1e-12)


@pytest.mark.bad_input
def test_errors():
    with pytest.raises(ValueError, match="exactly one of q and rank"):
        project_monarch(torch.eye(4), 2, 2)
    with pytest.raises(ValueError, match="k must be at most in = 4"):
        project_monarch(torch.eye(4), 5, 2, rank=1)
    with pytest.raises(TypeError, match="floating or complex"):
        project_monarch(torch.eye(4).long(), 2, 2, rank=1)
    with pytest.raises(ValueError, match="shape"):
        project_monarch(torch.zeros(4), 2, 2, rank=1)
    with pytest.raises(ValueError, match=r"metric must have shape \(4, 4\)"):
        project_monarch(torch.eye(4), 2, 2, rank=1, metric=torch.eye(3))
    with pytest.raises(ValueError, match="solver must be one of"):
        project_monarch(torch.eye(4), 2, 2, rank=1, solver="qr")
    with pytest.raises(ValueError, match="k q = l r"):
        monarch_matmul(torch.zeros(4), torch.zeros(2, 3, 2), torch.zeros(2, 2, 2))
