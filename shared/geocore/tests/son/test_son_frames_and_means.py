import math

import numpy as np
import pytest
import roma
import scipy.stats
import torch
from torch import Tensor

from geocore import son
from geocore.orthogonal import assert_orthogonal, assert_rotation
from geocore.testing import assert_close_eps, check_batching, check_half, check_transforms


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cluster(*shape: int, n: int, radius: float, seed: int = 0) -> Tensor:
    """Rotations near one Haar-random rotation."""
    P = randn(*shape, n, n, seed=seed)
    S = (P - P.mT) * radius / torch.linalg.matrix_norm(P - P.mT, 2)[..., None, None]
    return son.haar(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) @ son.exp(S)


class TestHaar:
    @pytest.mark.parametrize("n", [2, 3, 5])
    def test_moments_and_law_equal_scipy(self, n: int) -> None:
        N = 20_000
        R = son.haar(n, N, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).numpy()
        reference = scipy.stats.special_ortho_group(dim=n, seed=0).rvs(N)
        assert np.abs(R.mean(0)).max() <= 5 / math.sqrt(N * n)
        assert np.abs((R**2).mean(0) - 1 / n).max() <= 0.02
        for statistic in (lambda Q: Q[:, 0, 0], lambda Q: Q[:, -1, 0], lambda Q: np.trace(Q, axis1=1, axis2=2), lambda Q: (Q @ Q)[:, 0, 1]):
            assert scipy.stats.ks_2samp(statistic(R), statistic(reference)).pvalue > 1e-3

    def test_determinants(self) -> None:
        generator = torch.Generator().manual_seed(0)
        assert_rotation(son.haar(4, (50, 2), generator=generator))
        Q = son.haar(4, 1000, special=False, generator=generator)
        assert_orthogonal(Q)
        assert 0.4 < (torch.linalg.det(Q) > 0).double().mean() < 0.6
        assert son.haar(1).tolist() == [[1.0]]

    def test_reproducible_without_touching_global_state(self) -> None:
        before = torch.get_rng_state()
        a, b = (son.haar(3, generator=torch.Generator().manual_seed(5)) for _ in range(2))
        assert torch.equal(a, b)
        assert torch.equal(before, torch.get_rng_state())

    def test_shape_dtype_and_errors(self) -> None:
        assert son.haar(3, 0).shape == (0, 3, 3)
        assert son.haar(3, dtype=torch.bfloat16).dtype == torch.bfloat16
        with pytest.raises(ValueError, match="n must be at least 1"):
            son.haar(0)
        with pytest.raises(TypeError, match="int64"):
            son.haar(3, dtype=torch.int64)


class TestGeodesicAndMean:
    @pytest.mark.parametrize("n", [2, 3, 4, 5])
    def test_distance_along_a_geodesic(self, n: int, check_directional) -> None:
        R = son.haar(n, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        S = son.skew_from_vec(randn(4, n * (n - 1) // 2))
        for t in (0.0, 1e-8, 1e-3, 0.5):
            want = t * S.square().sum((-1, -2)).div(2).sqrt()
            got = son.geodesic(R, R @ son.exp(t * S))
            assert (got - want).abs().max() <= 1e-14
        if n == 4:
            check_directional(son.geodesic, R[0], R[1])

    def test_gradient_at_equality_is_zero(self) -> None:
        R = son.haar(4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
        assert torch.isfinite(torch.autograd.grad(son.geodesic(R, R.detach()), R)[0]).all()
        eye = torch.eye(4, requires_grad=True)
        assert torch.equal(torch.autograd.grad(son.geodesic(eye, torch.eye(4)), eye)[0], torch.zeros(4, 4))

    @pytest.mark.parametrize("n", [2, 3, 5])
    def test_karcher_mean_is_stationary_and_equivariant(self, n: int) -> None:
        R = cluster(2, 6, n=n, radius=0.7)
        w = torch.rand(6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        M, info = son.mean(R, w, return_info=True)
        assert_rotation(M)
        stationary = (w[:, None, None] * son.log(M[:, None].mT @ R)).sum(1) / w.sum()
        assert stationary.abs().max() <= 1e-11
        assert info.converged.all()
        assert info.unique.all()
        L = son.haar(n, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
        assert (son.mean(L @ R, w) - L @ M).abs().max() <= 1e-10

    def test_midpoint_and_chordal(self) -> None:
        S = son.skew_from_vec(randn(6))
        a, b = son.exp(0.4 * S), son.exp(-0.4 * S)
        for metric in ("geodesic", "chordal"):
            assert (son.mean(torch.stack([a, b]), metric=metric) - torch.eye(4)).abs().max() <= 1e-12
        R = cluster(5, n=3, radius=0.7)
        assert (son.mean(R, metric="chordal") - roma.special_procrustes(R.mean(0))).abs().max() <= 1e-13
        assert (son.mean(R[:1]) - R[0]).abs().max() <= 1e-14

    def test_spread_is_reported(self) -> None:
        R = torch.stack([torch.eye(3), torch.diag(torch.tensor([-1.0, -1.0, 1.0])), torch.diag(torch.tensor([1.0, -1.0, -1.0]))])
        assert not son.mean(R, return_info=True)[1].unique

    def test_composition(self, check_directional) -> None:
        R = cluster(2, 3, n=4, radius=0.5)
        check_directional(lambda R: son.mean(R, max_iter=4), R[0], forward=False, second=False)
        check_directional(lambda R: son.mean(R, metric="chordal"), R)
        check_batching(lambda R: son.mean(R, max_iter=4), R, atol=1e-13)
        check_half(lambda R: son.mean(R, metric="chordal"), R)
        check_transforms(lambda R: son.mean(R, metric="chordal"), R.float(), compile=False, compiled_transforms=False)

    @pytest.mark.bad_input
    def test_errors(self) -> None:
        with pytest.raises(ValueError, match="k >= 1"):
            son.mean(torch.zeros(0, 3, 3))
        with pytest.raises(ValueError, match=r"weights must have shape \(..., 2\)"):
            son.mean(torch.eye(3).expand(2, 3, 3), torch.ones(3))
        with pytest.raises(ValueError, match="'l1'"):
            son.mean(torch.eye(3)[None], metric="l1")
        with pytest.raises(ValueError, match="same size"):
            son.geodesic(torch.eye(3), torch.eye(4))


class TestGeneralizedCross:
    @pytest.mark.parametrize("n", [2, 3, 4, 6, 8, 9])
    def test_equals_numpy_cofactors(self, n: int) -> None:
        M = randn(4, n, n - 1)
        want = np.array([[(-1.0) ** (i + n - 1) * np.linalg.det(np.delete(m, i, axis=0)) for i in range(n)] for m in M.numpy()])
        assert np.abs(son.generalized_cross(M).numpy() - want).max() <= 1e-12 * max(1.0, np.abs(want).max())

    def test_laws(self) -> None:
        M = randn(4, 5, 4)
        c = son.generalized_cross(M)
        assert (M.mT @ c[..., None]).abs().max() <= 1e-13 * c.abs().max()
        assert torch.allclose(torch.linalg.det(torch.cat([M, c[..., None]], -1)), c.square().sum(-1))
        assert son.generalized_cross(torch.tensor([[3.0], [4.0]])).tolist() == [-4.0, 3.0]
        assert son.generalized_cross(torch.zeros(2, 1, 0)).tolist() == [[1.0], [1.0]]
        assert torch.equal(son.generalized_cross(torch.ones(4, 3)), torch.zeros(4))

    def test_composition(self, check_directional) -> None:
        check_directional(son.generalized_cross, randn(2, 4, 3))
        check_directional(son.generalized_cross, torch.ones(4, 3))  # all minors singular
        check_transforms(son.generalized_cross, randn(2, 4, 3).float(), compile=False, compiled_transforms=False)
        check_batching(son.generalized_cross, randn(3, 3, 2))
        check_half(son.generalized_cross, randn(3, 4, 3))

    @pytest.mark.bad_input
    def test_errors(self) -> None:
        with pytest.raises(ValueError, match=r"\(..., n, n - 1\), got \(3, 3\)"):
            son.generalized_cross(torch.zeros(3, 3))


class TestGramSchmidt:
    @pytest.mark.parametrize("n", [1, 2, 3, 4, 7])
    def test_equals_qr_and_roma_and_has_determinant_one(self, n: int) -> None:
        M = randn(20, n, n)
        R = son.gram_schmidt(M)
        assert_rotation(R, atol=1e-14)
        if n > 1:
            Q, upper = torch.linalg.qr(M[..., : n - 1])
            assert (R[..., : n - 1] - Q * upper.diagonal(dim1=-1, dim2=-2).sign()[:, None]).abs().max() <= 1e-12
            assert torch.equal(R, son.gram_schmidt(M[..., : n - 1]))
        if n == 3:
            assert (R - roma.special_gramschmidt(M[..., :2])).abs().max() <= 1e-12
        last = son.generalized_cross(R[..., : n - 1])
        assert (last - R[..., -1]).abs().max() <= 1e-13

    def test_frames_keep_span_and_order(self) -> None:
        M = randn(5, 6, 3)
        Q = son.gram_schmidt(M, special=False)
        upper = Q.mT @ M
        assert_orthogonal(Q, atol=1e-14)
        assert upper.tril(-1).abs().max() <= 1e-13
        assert (upper.diagonal(dim1=-1, dim2=-2) > 0).all()
        assert (Q @ upper - M).abs().max() <= 1e-13

    def test_scale_is_free_and_near_dependence_stays_orthogonal(self) -> None:
        M = randn(5, 3, 2).float()
        for scale in (1e-30, 1e30):
            assert_close_eps(son.gram_schmidt(M * scale), son.gram_schmidt(M).double(), 8.0)
        for gap in (1e-3, 1e-5, 2e-6):
            close = torch.stack([M[..., 0], M[..., 0] + gap * M[..., 1]], -1)
            assert_rotation(son.gram_schmidt(close), atol=1e-6)

    @pytest.mark.parametrize("columns", [torch.zeros(4, 3), torch.ones(4, 3), torch.eye(4)[:, [0, 0, 1]], torch.eye(4)[:, [0, 1, 1]]])
    def test_degenerate(self, columns: Tensor) -> None:
        M = columns.double().requires_grad_()
        R, bad = son.gram_schmidt(M, return_info=True)
        assert_rotation(R, atol=1e-14)
        assert bad
        assert torch.isfinite(torch.autograd.grad(R.mul(randn(4, 4)).sum(), M)[0]).all()
        both = torch.stack([M.detach(), randn(4, 3)])
        dropped = son.gram_schmidt(both, degenerate="nan")
        assert torch.isnan(dropped[0]).all()
        assert torch.equal(dropped[1], son.gram_schmidt(both[1]))
        with pytest.raises(ValueError, match="1 of 2 items"):
            son.gram_schmidt(both, degenerate="raise")

    def test_composition(self, check_directional) -> None:
        check_directional(son.gram_schmidt, randn(2, 4, 3))
        check_directional(lambda M: son.gram_schmidt(M, special=False), randn(2, 4, 3))
        check_transforms(son.gram_schmidt, randn(2, 3, 2).float(), compile=False, compiled_transforms=False)
        check_batching(son.gram_schmidt, randn(3, 4, 3))
        check_half(son.gram_schmidt, randn(3, 3, 2))

    @pytest.mark.bad_input
    def test_errors(self) -> None:
        with pytest.raises(ValueError, match="special=False"):
            son.gram_schmidt(torch.zeros(4, 2))
        with pytest.raises(ValueError, match="k <= n"):
            son.gram_schmidt(torch.zeros(2, 3), special=False)
        with pytest.raises(ValueError, match="'drop'"):
            son.gram_schmidt(torch.zeros(3, 2), degenerate="drop")


class TestGivens:
    def test_one_plane_is_the_exponential(self) -> None:
        for k in range(6):
            a = torch.zeros(6, dtype=torch.float64)
            a[k] = 0.7
            assert_close_eps(son.givens_product(a, n=4), son.exp(son.skew_from_vec(a)), 4.0)

    def test_order_of_the_product(self) -> None:
        a = randn(3)
        single = [son.givens_product(a[i : i + 1], n=3, planes=[p]) for i, p in enumerate([(1, 0), (2, 0), (2, 1)])]
        assert_close_eps(son.givens_product(a, n=3), single[0] @ single[1] @ single[2], 4.0)
        assert son.givens_product(torch.zeros(2, 0), n=1).tolist() == [[[1.0]], [[1.0]]]

    def test_composition(self, check_directional) -> None:
        check_directional(lambda a: son.givens_product(a, n=3), randn(2, 3))
        check_transforms(lambda a: son.givens_product(a, n=3), randn(2, 3).float(), compile=False, compiled_transforms=False)
        check_batching(lambda a: son.givens_product(a, n=3), randn(3, 3))
        assert_rotation(son.givens_product(randn(5, 10), n=5))

    @pytest.mark.bad_input
    def test_errors(self) -> None:
        with pytest.raises(ValueError, match="one angle for each of 3 planes"):
            son.givens_product(torch.zeros(4), n=3)
        with pytest.raises(ValueError, match=r"\(1, 1\)"):
            son.givens_product(torch.zeros(1), n=3, planes=[(1, 1)])
