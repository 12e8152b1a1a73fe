"""The UT transform against the recurrence it solves, and factorisations against what they multiply to."""

import pytest
import torch
from torch.nn.functional import normalize

from geocore.householder import apply_product, decay_mask, from_orthogonal, permutation_to_reflectors, to_matrix, ut_transform
from geocore.testing import assert_close_eps, check_half, check_transforms, max_error_eps


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def scan(S, K, V, beta, g):
    for i in range(K.shape[0]):
        S = S * g[i].exp()
        S = S + beta[i] * torch.outer(K[i], V[i] - S.T @ K[i])
    return S


def solved(S, K, V, beta, g):
    W, solve = ut_transform(K, beta, g)
    G = torch.zeros_like(beta) if g is None else g.cumsum(-1)
    return G[-1].exp() * S + ((G[-1] - G).exp()[:, None] * K).mT @ (solve(V) - W @ S)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("M", [1, 2, 7, 33])
def test_equals_the_recurrence(M, gated):
    S, K, V = draw(4, 3), normalize(draw(M, 4, seed=1), dim=-1), draw(M, 3, seed=2)
    beta = 2 * torch.rand(M, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    g = -draw(M, seed=4).abs() if gated else None
    want = scan(S, K, V, beta, torch.zeros(M, dtype=torch.float64) if g is None else g)
    torch.testing.assert_close(solved(S, K, V, beta, g), want, rtol=0, atol=1e-12)


def test_strong_decay_keeps_values_and_gradients_finite():
    K = normalize(draw(20, 4), dim=-1)
    g = torch.full((20,), -200.0, dtype=torch.float64, requires_grad=True)
    W, solve = ut_transform(K, torch.ones(20, dtype=torch.float64), g)
    out = W.sum() + solve(draw(20, 3)).sum()
    (grad,) = torch.autograd.grad(out, g)
    assert torch.isfinite(out)
    assert torch.isfinite(grad).all()
    D = decay_mask(g.detach())
    assert torch.equal(D.diagonal(), torch.ones(20, dtype=torch.float64))
    assert torch.equal(D, D.tril())


def test_entries_of_the_inverse_stay_below_two_for_unit_keys():
    K = normalize(draw(64, 8), dim=-1)
    _, solve = ut_transform(K, torch.full((64,), 2.0, dtype=torch.float64))
    inverse = solve(torch.eye(64, dtype=torch.float64)) / 2
    assert inverse.abs().max() <= 2 + 1e-12


def test_ut_derivatives_transforms_precision(check_directional):
    K, beta, g, V = draw(2, 5, 3), draw(2, 5, seed=1).sigmoid(), -draw(2, 5, seed=2).abs(), draw(2, 5, 2, seed=3)

    def both(K, beta, g, V):
        W, solve = ut_transform(K, beta, g)
        return W, solve(V)

    check_directional(both, K, beta, g, V)
    check_transforms(both, K, beta, g, V, compile=False, compiled_transforms=False)
    check_half(both, K, beta, g, V)
    W, solve = ut_transform(K[:0], beta[:0], g[:0])
    assert W.shape == (0, 5, 3)
    assert solve(V[:0]).shape == (0, 5, 2)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 16])
@pytest.mark.parametrize("sign", [1, -1])
def test_orthogonal_matrix_is_the_product_of_its_reflectors(n, sign):
    Q = torch.linalg.qr(draw(8, n, n)).Q
    Q = torch.where((torch.linalg.det(Q) * sign < 0)[:, None, None], torch.cat([-Q[..., :1], Q[..., 1:]], dim=-1), Q)
    V = from_orthogonal(Q)
    assert max_error_eps(to_matrix(V), Q) < 30 * n
    used = V.norm(dim=-2) > 0
    assert torch.equal(used, used.sort(-1, descending=True).values), "unit columns first"
    assert (used.sum(-1) % 2 == (0 if sign > 0 else 1)).all()


def test_number_of_reflectors_is_the_rank_of_i_minus_q():
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    B = torch.linalg.qr(draw(6, 6)).Q
    for blocks in ([], [turn], [turn, turn], [turn, -torch.eye(1, dtype=torch.float64)]):
        core = torch.block_diag(*blocks, torch.eye(6 - sum(b.shape[0] for b in blocks), dtype=torch.float64))
        Q = B @ core @ B.T
        used = int((from_orthogonal(Q).norm(dim=0) > 0).sum())
        assert used == sum(b.shape[0] for b in blocks)
        assert used == int(torch.linalg.matrix_rank(torch.eye(6, dtype=torch.float64) - Q, atol=1e-10))


@pytest.mark.parametrize("angle", [1e-3, 1e-6, 1e-9, 1e-12])
def test_rotations_close_to_the_identity_factor_accurately(angle):
    S = draw(5, 5)
    Q = torch.linalg.matrix_exp(torch.stack([angle * (S - S.T)] * 2))[0]
    assert max_error_eps(to_matrix(from_orthogonal(Q)), Q) < 100


def test_permutations():
    generator = torch.Generator().manual_seed(0)
    perms = torch.stack([torch.randperm(7, generator=generator) for _ in range(20)] + [torch.arange(7)])
    V = permutation_to_reflectors(perms, dtype=torch.float64)
    x = draw(7)
    assert_close_eps(apply_product(V, x), x[perms], 16)
    assert V.shape == (21, 7, 6)
    assert int((V[-1].norm(dim=-2) > 0).sum()) == 0
    cycle = permutation_to_reflectors(torch.tensor([1, 2, 3, 4, 0]))
    assert int((cycle.norm(dim=0) > 0).sum()) == 4
    swap = permutation_to_reflectors(torch.tensor([0, 3, 2, 1]))
    assert int((swap.norm(dim=0) > 0).sum()) == 1
    assert permutation_to_reflectors(torch.tensor([0])).shape == (1, 0)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: permutation_to_reflectors(torch.tensor([0.0, 1.0])), TypeError, "integer tensor, got torch.float32"),
        (lambda: permutation_to_reflectors(torch.tensor([0, 0, 2])), ValueError, "each of 0 .. 2 once"),
        (lambda: permutation_to_reflectors(torch.tensor(0)), ValueError, "n >= 1"),
        (lambda: from_orthogonal(torch.zeros(2, 3)), ValueError, "must be square"),
        (lambda: ut_transform(torch.zeros(5, 3), torch.zeros(4)), ValueError, "one step size for each of the 5 keys"),
        (lambda: ut_transform(torch.zeros(5, 3), torch.zeros(5), torch.zeros(4)), ValueError, "log_decay must have shape"),
        (lambda: ut_transform(torch.zeros(5, 3), torch.zeros(5)).solve(torch.zeros(4, 2)), ValueError, "one value for each"),
        (lambda: decay_mask(torch.tensor(1.0)), ValueError, "log_decay must have shape"),
    ],
)
def test_errors(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
