"""Permutations, transforms, LDU, SVD and Monarch projection against SciPy, dense products and optimality."""

import math

import pytest
import scipy.fft
import scipy.linalg
import torch

from geocore.blocks import blockdiag_dense, blockdiag_matmul, monarch_dense, monarch_matmul
from geocore.structured import (
    Permutation,
    block_power_iteration,
    column_order,
    dct,
    dct_matrix,
    dft_matrix,
    dst,
    dst_matrix,
    full_ldu,
    hadamard,
    hadamard_matrix,
    hartley,
    idct,
    idst,
    match,
    project_monarch,
    svd_trunc,
    svd_weighted,
    truncated_ldu,
)
from geocore.testing import check_batching, check_half, check_transforms


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def close(a, b, atol=1e-12):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


# Permutations


def test_permutation_algebra():
    P, Q, R = (Permutation.random(9, torch.Generator().manual_seed(s)) for s in range(3))
    x = draw(4, 9)
    close((P @ Q)(x), P(Q(x)))
    assert (P @ Q) @ R == P @ (Q @ R)
    assert P @ P.inverse() == Permutation.identity(9)
    close(P(x), x @ P.to_matrix(torch.float64).T)
    close((P @ Q).to_matrix(), P.to_matrix() @ Q.to_matrix())
    close(P(x.T, dim=0), P(x).T)
    assert P.sign() == round(torch.linalg.det(P.to_matrix(torch.float64)).item())
    assert Permutation(P.index.int()) == P


def test_named_permutations():
    assert Permutation.stride(6, 2).index.tolist() == [0, 3, 1, 4, 2, 5]
    assert Permutation.bit_reversal(8).index.tolist() == [0, 4, 2, 6, 1, 5, 3, 7]
    assert Permutation.makhoul(7).index.tolist() == [0, 2, 4, 6, 5, 3, 1]
    assert Permutation.digit_reversal([2, 3]) == Permutation.stride(6, 3)
    assert Permutation.bit_reversal(1).index.tolist() == [0]


@pytest.mark.parametrize("shape", [(6, 6), (7, 4), (4, 7)])
def test_pivots_agree_with_scipy(shape):
    W = draw(*shape)
    factors, pivots = torch.linalg.lu_factor(W)
    order = Permutation.from_pivots(pivots, shape[0])
    p = scipy.linalg.lu(W.numpy(), p_indices=True)[0]
    assert order.inverse().index.tolist() == list(p)
    k = min(shape)
    L = torch.tril(factors[:, :k], -1) + torch.eye(shape[0], k, dtype=torch.float64)
    close(order(W, dim=0), L @ torch.triu(factors[:k]))


def test_match_moves_state_like_selection_matrices():
    prev, new = torch.tensor([4, 7, 9, 0]), torch.tensor([9, 1, 4, 5])
    src, dst = match(prev, new)
    eye = torch.eye(10)
    state = draw(4, dtype=torch.float32)
    moved = torch.zeros(4)
    moved[dst] = state[src]
    close(moved, eye[new] @ eye[prev].T @ state, 1e-6)
    assert match(prev, torch.tensor([], dtype=torch.int64))[0].numel() == 0


# Transforms


@pytest.mark.parametrize("norm", ["ortho", None])
@pytest.mark.parametrize("kind", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [1, 2, 3, 8, 15, 33])
def test_cosine_and_sine_transforms_are_scipys(n, kind, norm):
    x = draw(3, n)
    for ours, inverse, theirs, matrix in ((dct, idct, scipy.fft.dct, dct_matrix), (dst, idst, scipy.fft.dst, dst_matrix)):
        if ours is dct and kind == 1 and n == 1:
            with pytest.raises(ValueError, match="at least 2 entries"):
                ours(x, type=kind)
            continue
        want = torch.from_numpy(theirs(x.numpy(), type=kind, norm=norm))
        for method in ("matmul", "fft", "auto"):
            close(ours(x, type=kind, norm=norm, method=method), want, 1e-13 * n)
            close(inverse(want, type=kind, norm=norm, method=method), x, 1e-13 * n)
        close(x @ matrix(n, kind, norm, dtype=torch.float64).T, want, 1e-13 * n)


@pytest.mark.parametrize("n", [1000, 4096])
def test_long_transforms_are_accurate(n):
    x = draw(2, n)
    want = torch.from_numpy(scipy.fft.dct(x.numpy(), norm="ortho"))
    close(dct(x), want, 1e-13)
    assert (dct(x.float()).double() - want).abs().max() < 3e-6
    assert (dct(x.float(), method="matmul").double() - want).abs().max() < 1e-5


def test_orthogonality_and_transposition():
    eye = torch.eye(12, dtype=torch.float64)
    for kind in (1, 2, 3, 4):
        for matrix in (dct_matrix, dst_matrix):
            D = matrix(12, kind, dtype=torch.float64)
            close(D @ D.T, eye)
    close(dct_matrix(12, 3, dtype=torch.float64), dct_matrix(12, 2, dtype=torch.float64).T)


def test_cosines_compress_smooth_signals():
    n, r = 128, 16
    C = 0.95 ** (torch.arange(n)[:, None] - torch.arange(n)[None, :]).abs().double()
    D = dct_matrix(n, dtype=torch.float64)
    kept = (D @ C @ D.T).diagonal()[:r].sum()
    assert kept >= 0.99 * torch.linalg.eigvalsh(C)[-r:].sum()


def test_hadamard_hartley_dft():
    x = draw(3, 16)
    H = hadamard_matrix(16, dtype=torch.float64)
    assert torch.equal(H, torch.from_numpy(scipy.linalg.hadamard(16)).double())
    close(hadamard(x), x @ H)
    close(hadamard(hadamard(x, norm="ortho"), norm="ortho"), x)
    close(hartley(hartley(x)), x)
    F = dft_matrix(12, dtype=torch.complex128)
    close(F @ x[0, :12].to(F.dtype), torch.fft.fft(x[0, :12], norm="ortho"))
    close(dft_matrix(5, None, dtype=torch.complex128)[1], torch.exp(-2j * math.pi * torch.arange(5.0, dtype=torch.float64) / 5))
    close(hadamard(x.T, dim=0), hadamard(x).T)


def test_transforms_compose_with_torch(check_directional):
    fn = lambda x: tuple(dct(x, method=method) for method in ("matmul", "fft"))  # noqa: E731
    check_directional(fn, draw(2, 6))
    check_batching(fn, draw(4, 6), atol=1e-14)
    check_half(fn, draw(4, 6))
    check_directional(hadamard, draw(2, 4))
    check_directional(hartley, draw(2, 5))


# Block-diagonal and Monarch products

SHAPES = [(4, 4, 4, 4), (3, 4, 2, 5), (2, 6, 4, 3), (1, 5, 5, 2), (3, 2, 6, 1), (4, 6, 3, 2)]  # k, q, l, s


@pytest.mark.parametrize(("k", "q", "l", "s"), SHAPES)
def test_products_equal_dense(k, q, l, s):  # noqa: E741
    p, r = 3, k * q // l
    w1, w2, x = draw(k, q, p), draw(l, s, r, seed=1), draw(2, 5, k * p, seed=2)
    close(blockdiag_dense(w1), torch.block_diag(*w1))
    close(blockdiag_matmul(x, w1), x @ blockdiag_dense(w1).T)
    M = monarch_dense(w1, w2)
    P1 = torch.eye(k * q, dtype=torch.float64).reshape(r, l, k * q).transpose(0, 1).reshape(k * q, k * q)
    P2 = torch.eye(l * s, dtype=torch.float64).reshape(l, s, l * s).transpose(0, 1).reshape(l * s, l * s)
    close(M, P2 @ torch.block_diag(*w2) @ P1 @ torch.block_diag(*w1))
    close(monarch_matmul(x, w1, w2), x @ M.T)
    close(monarch_matmul(x.to(torch.complex128) * 1j, w1, w2), (x @ M.T) * 1j)
    assert monarch_matmul(x[:0], w1, w2).shape == (0, 5, l * s)
    for kk in range(k):
        for ll in range(l):
            slots = sum((kk * q + qq) % l == ll for qq in range(q))
            assert torch.linalg.matrix_rank(M[ll::l, kk * p : (kk + 1) * p], atol=1e-9) <= slots


def test_products_compose_with_torch(check_directional):
    w1, w2, x = draw(2, 3, 2), draw(3, 2, 2, seed=1), draw(4, 4, seed=2)
    check_directional(monarch_matmul, x, w1, w2)
    check_directional(blockdiag_matmul, x, w1)
    fn = lambda x: (monarch_matmul(x, w1, w2), *(dct(x, method=method) for method in ("matmul", "fft")))  # noqa: E731
    check_transforms(fn, x, compile=False)  # in one graph with the transforms of above; forward compilation: tests/matrix
    check_batching(lambda x: monarch_matmul(x, w1, w2), x, atol=1e-14)
    close(blockdiag_matmul(x[:, :2], w1[:1]), torch.nn.functional.linear(x[:, :2], w1[0]))
    assert monarch_matmul(x.bfloat16(), w1.bfloat16(), w2.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("gauge", ["balanced", "left", "right"])
@pytest.mark.parametrize(("k", "q", "l", "s"), SHAPES)
def test_projection_is_optimal_and_idempotent(k, q, l, s, gauge):  # noqa: E741
    p = 3
    M = draw(l * s, k * p)
    found = project_monarch(M, k, l, q, gauge=gauge, method="svd")
    near = monarch_dense(found.w1, found.w2)
    tail = 0.0
    for kk in range(k):
        for ll in range(l):
            slots = sum((kk * q + qq) % l == ll for qq in range(q))
            tail += torch.linalg.svdvals(M[ll::l, kk * p : (kk + 1) * p])[slots:].square().sum().item()
    assert (M - near).square().sum().item() == pytest.approx(tail, abs=1e-12)
    assert found.error.item() == pytest.approx(math.sqrt(tail), abs=1e-10)
    again = project_monarch(near, k, l, q, gauge=gauge)
    close(monarch_dense(again.w1, again.w2), near, 1e-12)
    assert again.rel_error < 1e-12


def test_projection_solvers_agree():
    M = draw(64, 48)
    exact = project_monarch(M, 4, 4, rank=2, method="svd")
    gram = project_monarch(M, 4, 4, rank=2, method="gram")
    assert gram.error.item() == pytest.approx(exact.error.item(), rel=1e-10)
    one = project_monarch(M, 4, 4, rank=1, method="svd")
    assert project_monarch(M, 4, 4, rank=1, method="power").error.item() == pytest.approx(one.error.item(), rel=1e-3)
    F = dft_matrix(36, dtype=torch.complex128)[:, Permutation.stride(36, 6).index]
    assert project_monarch(F, 6, 6, rank=1).rel_error < 1e-12
    assert project_monarch(hadamard_matrix(16, dtype=torch.float64), 4, 4, rank=1).rel_error < 1e-12
    D = dct_matrix(36, dtype=torch.float64)[:, (Permutation.stride(36, 6) @ Permutation.makhoul(36)).index]
    assert project_monarch(D, 6, 6, rank=2).rel_error < 1e-12
    assert project_monarch(D, 6, 6, rank=1).rel_error > 0.05
    assert project_monarch(torch.zeros(4, 4), 2, 2, rank=1).rel_error == 0


# LDU


@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (25, 25)])
@pytest.mark.parametrize("r", [1, 7, 20])
def test_panel_equals_truncated_full_factorisation(shape, r):
    W = draw(*shape)
    ldu = truncated_ldu(W, r)
    P, L, U = torch.linalg.lu(W)
    close(ldu.dense(), (P @ L)[:, :r] @ U[:r], 1e-12)
    assert ldu.residual(W)[:, :r].abs().max() < 1e-12
    assert ldu.residual(W)[ldu.perm[:r]].abs().max() < 1e-12
    close(ldu.U.diagonal(), torch.ones(r, dtype=torch.float64))
    assert ldu.L.abs().max() <= 1 + 1e-12
    x = draw(3, shape[1])
    close(ldu.matvec(x), x @ ldu.dense().T)
    again = truncated_ldu(W, r, pivots=ldu.perm[:r])
    close(again.dense(), ldu.dense(), 1e-11)
    close(again.d, ldu.d, 1e-11)


def test_column_orders():
    W = draw(12, 9) * torch.arange(1, 10).double()
    for order in ("natural", "norm", "qr"):
        columns = column_order(W, order)
        ldu = truncated_ldu(W, 4, column_perm=columns)
        assert ldu.residual(W)[:, columns[:4]].abs().max() < 1e-11
    assert column_order(W, "norm").tolist() == W.square().sum(0).argsort(descending=True).tolist()


def test_null_pivots_are_masked_not_divided():
    W = draw(6, 5)
    W[:, 1] = 2 * W[:, 0]
    ldu = truncated_ldu(W, 3)
    assert ldu.null_mask.tolist() == [False, True, False]
    assert ldu.d[1] == 0
    for part in (ldu.L, ldu.d, ldu.U, ldu.dense()):
        assert torch.isfinite(part).all()
    zero = truncated_ldu(torch.zeros(4, 3), 3)
    assert zero.null_mask.all()
    assert torch.equal(zero.dense(), torch.zeros(4, 3))
    assert torch.isfinite(truncated_ldu(torch.zeros(4, 3), 2, pivots=torch.tensor([1, 3])).U).all()


def test_full_ldu_reconstructs():
    A = draw(7, 7)
    close(full_ldu(A).dense(), A, 1e-12)
    assert full_ldu(A).logabsdet().item() == pytest.approx(torch.linalg.slogdet(A).logabsdet.item())
    assert full_ldu(torch.ones(3, 3)).logabsdet() == -torch.inf


@pytest.mark.bad_input
def test_logabsdet_needs_every_pivot():
    with pytest.raises(ValueError, match="2 pivots of 4 x 4"):
        truncated_ldu(torch.eye(4), 2).logabsdet()


# SVD


@pytest.mark.parametrize("method", ["exact", "gram", "randomized"])
def test_truncated_svd(method):
    U = torch.linalg.qr(draw(60, 40)).Q
    V = torch.linalg.qr(draw(40, 40, seed=1)).Q
    S = torch.exp(-torch.arange(40.0, dtype=torch.float64) / 3)
    A = U @ torch.diag(S) @ V.T
    generator = torch.Generator().manual_seed(0)
    for B in (A, A.T):
        got = svd_trunc(B, 6, method=method, generator=generator)
        close(got.S, S[:6], 1e-8)
        tail = S[6:].square().sum().sqrt()
        assert (B - got.U @ torch.diag(got.S) @ got.Vh).norm() <= 1.001 * tail
        close(got.U.T @ got.U, torch.eye(6, dtype=torch.float64), 1e-10)
        largest = got.U.gather(0, got.U.abs().argmax(0, keepdim=True))
        assert (largest > 0).all()


def test_smallest_triplets_and_batches():
    A = draw(3, 10, 8)
    got = svd_trunc(A, 2, which="smallest")
    close(got.S, torch.linalg.svdvals(A)[:, -2:], 1e-12)
    assert svd_trunc(A, 3, method="randomized", generator=torch.Generator().manual_seed(1)).U.shape == (3, 10, 3)
    state = torch.get_rng_state()
    svd_trunc(A, 3, method="randomized", generator=torch.Generator().manual_seed(1))
    assert torch.equal(state, torch.get_rng_state()), "a given generator leaves the global one alone"


def test_block_power_iteration_finds_the_leading_space():
    A = draw(30, 20) * torch.cat([torch.full((3,), 20.0), torch.ones(17)]).double()
    Q = block_power_iteration(A, draw(20, 3, seed=2), 10)
    V = torch.linalg.svd(A).Vh[:3].T
    close(torch.linalg.svdvals(Q.T @ V), torch.ones(3, dtype=torch.float64), 1e-10)


@pytest.mark.parametrize("whitening", ["cov", "sqrt", "diag"])
def test_weighted_svd_is_exact_with_every_term_and_optimal_when_cut(whitening):
    W, X = draw(8, 10), draw(200, 10, seed=1) * torch.logspace(0, -2, 10).double()
    C = X.T @ X / 200
    full = svd_weighted(W, C, whitening=whitening)
    close(full.U @ torch.diag(full.S) @ full.Vh, W, 1e-9)
    cut = svd_weighted(W, C, 3, whitening=whitening)
    error = ((W - cut.U @ torch.diag(cut.S) @ cut.Vh) @ X.T).norm()
    plain = svd_trunc(W, 3)
    assert error < ((W - plain.U @ torch.diag(plain.S) @ plain.Vh) @ X.T).norm()
    if whitening == "sqrt":
        root = torch.linalg.svdvals(W @ torch.linalg.cholesky(C))
        assert error.item() / math.sqrt(200) == pytest.approx(root[3:].square().sum().sqrt().item(), rel=1e-3)


def test_singular_second_moment_needs_damping():
    W, C = draw(4, 3), torch.diag(torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64))
    with pytest.raises(ValueError, match="raise damping"):
        svd_weighted(W, C, damping=0.0)
    with pytest.raises(ValueError, match="raise damping"):
        svd_weighted(W, -torch.eye(3, dtype=torch.float64))
    close((lambda f: f.U @ torch.diag(f.S) @ f.Vh)(svd_weighted(W, C)), W, 1e-8)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: Permutation(torch.tensor([0, 0])), ValueError, "each of 0 .. 1 once"),
        (lambda: Permutation(torch.tensor([0.0])), TypeError, "int64 or int32"),
        (lambda: Permutation.identity(3)(torch.zeros(4)), ValueError, "3 entries along dim -1"),
        (lambda: Permutation.stride(6, 4), ValueError, "k must divide n = 6, got 4"),
        (lambda: Permutation.bit_reversal(6), ValueError, "power of two"),
        (lambda: Permutation.from_pivots(torch.tensor([9]), 3), ValueError, "row numbers in 1 .. 3"),
        (lambda: match(torch.tensor([1, 1]), torch.tensor([1])), ValueError, "prev must hold distinct"),
        (lambda: dct(torch.zeros(3, dtype=torch.int64)), TypeError, "floating-point"),
        (lambda: dct(torch.zeros(3, dtype=torch.complex64)), NotImplementedError, "complex"),
        (lambda: dct(torch.zeros(3), type=5), ValueError, "type must be 1, 2, 3 or 4"),
        (lambda: dct(torch.zeros(3), norm="backward"), ValueError, "norm must be"),
        (lambda: dct(torch.tensor(1.0)), ValueError, "at least one dimension"),
        (lambda: hadamard(torch.zeros(6)), ValueError, "power of two as length, got 6"),
        (lambda: truncated_ldu(torch.zeros(3, 4), 5), ValueError, r"at most min\(m, n\) = 3, got 5"),
        (lambda: truncated_ldu(torch.zeros(3), 1), ValueError, "must be a matrix"),
        (lambda: truncated_ldu(torch.zeros(3, 3), 2, pivots=torch.tensor([0, 0])), ValueError, "2 distinct rows"),
        (lambda: svd_trunc(torch.zeros(3, 3), 2, which="smallest", method="gram"), ValueError, "needs method='exact'"),
        (lambda: svd_trunc(torch.zeros(3, 3), 4), ValueError, "at most"),
        (lambda: svd_weighted(torch.zeros(3, 4), torch.zeros(3, 3)), ValueError, "C must have shape"),
        (lambda: project_monarch(torch.zeros(4, 4), 3, 2, 2), ValueError, "k must divide in"),
        (lambda: project_monarch(torch.zeros(4, 4), 2, 2), ValueError, "exactly one of q and rank"),
        (lambda: project_monarch(torch.zeros(4, 4), 2, 2, rank=2, method="power"), ValueError, "one triplet per block"),
        (lambda: monarch_matmul(torch.zeros(4), torch.zeros(2, 3, 2), torch.zeros(4, 1, 1)), ValueError, "k q = l r"),
        (lambda: blockdiag_matmul(torch.zeros(5), torch.zeros(2, 3, 2)), ValueError, "2 blocks of 2 inputs"),
    ],
)
def test_errors(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
