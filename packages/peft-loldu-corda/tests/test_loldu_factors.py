"""The panel factorisation against the full one."""

import pytest
import torch

from peft_loldu_corda import loldu_factors
from peft_loldu_corda._reference import loldu_factors_reference, loldu_forward_reference

D = torch.float64
SHAPES = [(7, 7), (12, 5), (5, 12), (1, 4), (31, 17), (1, 1)]


def rand(*shape, seed=0, dtype=D):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("r", [1, 4, "full"])
def test_equals_truncating_the_full_factorisation(shape, r):
    W = rand(*shape)
    r = min(shape) if r == "full" else min(r, *shape)
    f = loldu_factors(W, r)
    P, L, d, U = loldu_factors_reference(W, r)
    torch.testing.assert_close(f.L, P @ L, rtol=0, atol=1e-12)
    torch.testing.assert_close(f.d, d, rtol=1e-12, atol=0)
    torch.testing.assert_close(f.U, U, rtol=1e-11, atol=1e-12)
    residual = W - f.L * f.d @ f.U
    assert residual[:, :r].abs().max() <= 1e-12 * W.norm()
    assert residual[f.pivots.long()].abs().max() <= 1e-12 * W.norm()
    assert f.L.abs().max() <= 1 + 1e-12


@pytest.mark.parametrize("shape", SHAPES)
def test_stored_pivots_give_the_same_factors(shape):
    W, r = rand(*shape), min(3, *shape)
    f = loldu_factors(W, r)
    g = loldu_factors(W, r, pivots=f.pivots)
    for a, b in zip(f, g, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
    # in single precision too, where a search could choose other rows
    h = loldu_factors(W.float(), r, pivots=f.pivots)
    torch.testing.assert_close(h.d.double(), f.d, rtol=1e-4, atol=1e-5)


def test_pivots_that_a_search_would_not_choose():
    W = rand(6, 8)
    f = loldu_factors(W, 2, pivots=torch.tensor([5, 0]))
    residual = W - f.L * f.d @ f.U
    assert f.pivots.tolist() == [5, 0]
    assert residual[[5, 0]].abs().max() < 1e-12
    assert residual[:, :2].abs().max() < 1e-11


@pytest.mark.parametrize("pivots", [False, True])
def test_chosen_columns(pivots):
    W, columns = rand(6, 9), torch.tensor([7, 2, 4])
    f = loldu_factors(W, 3, columns=columns)
    if pivots:
        g = loldu_factors(W, 3, columns=columns, pivots=f.pivots)
        for a, b in zip(f, g, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
        f = g
    assert (W - f.L * f.d @ f.U)[:, columns].abs().max() < 1e-12
    assert torch.equal(f.U[:, columns].diagonal(), torch.ones(3, dtype=D))
    # the order of the columns that are not eliminated does not matter
    P, L, d, _U = loldu_factors_reference(W[:, [7, 2, 4, 0, 1, 3, 5, 6, 8]], 3)
    torch.testing.assert_close(f.L, P @ L)
    torch.testing.assert_close(f.d, d)


def test_null_pivots_give_no_nan():
    W = rand(6, 5)
    W[:, 1] = 0  # a dead feature
    W[:, 3] = 2 * W[:, 2]  # a tied one
    for pivots in (None, "stored"):
        f = loldu_factors(W, 5)
        f = f if pivots is None else loldu_factors(W, 5, pivots=f.pivots)
        assert all(torch.isfinite(t.double()).all() for t in f)
        assert (f.d == 0).sum() == 2
    zero = loldu_factors(torch.zeros(4, 4), 4)
    assert torch.equal(zero.d, torch.zeros(4))
    assert all(torch.isfinite(t.double()).all() for t in zero)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_factorised_in_float32(dtype):
    W = rand(8, 6).to(dtype)
    f = loldu_factors(W, 4)
    assert f.L.dtype == f.U.dtype == f.d.dtype == torch.float32
    torch.testing.assert_close(f.d, loldu_factors(W.float(), 4).d)


def test_it_is_a_skeleton_and_not_a_low_rank_approximation():
    """What the documentation says: the residual of a random matrix is longer than the matrix, and L is not orthogonal."""
    W = rand(64, 64)
    f = loldu_factors(W, 16)
    assert (W - f.L * f.d @ f.U).norm() > W.norm()
    gram = f.L.T @ f.L
    assert (gram - torch.diag(gram.diagonal())).norm() > 0.1 * gram.norm()


def test_forward_reference_is_the_base_at_the_pivots():
    W, x, b = rand(7, 5), rand(3, 5, seed=1), rand(7, seed=2)
    d = loldu_factors_reference(W, 3)[2]
    torch.testing.assert_close(loldu_forward_reference(x, W, b, d, 3, 0.5), x @ W.T + b)


@pytest.mark.bad_input
def test_errors():
    W = rand(4, 6)
    with pytest.raises(ValueError, match="r must be at most"):
        loldu_factors(W, 5)
    with pytest.raises(ValueError, match="r must be at least 1"):
        loldu_factors(W, 0)
    with pytest.raises(ValueError, match="pivots must be 2 distinct rows"):
        loldu_factors(W, 2, pivots=torch.tensor([1, 1]))
    with pytest.raises(ValueError, match="pivots must be 2 distinct rows"):
        loldu_factors(W, 2, pivots=torch.tensor([1, 9]))
    with pytest.raises(ValueError, match="columns must be distinct"):
        loldu_factors(W, 2, columns=torch.tensor([1, 7]))
    with pytest.raises(ValueError, match="must be a matrix"):
        loldu_factors(W[0], 1)
    with pytest.raises(TypeError, match="floating"):
        loldu_factors(torch.ones(3, 3, dtype=torch.int64), 1)
