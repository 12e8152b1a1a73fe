import math

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from torch import Tensor

from geocore import so3, son
from geocore.testing import ANGLES, assert_close_eps, check_batching, check_half, check_transforms
from geocore.testing.strategies import skew_matrices


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def random_skew(*shape: int, n: int, radius: float, seed: int = 0) -> Tensor:
    """Skew matrices whose largest frequency is ``radius``."""
    P = randn(*shape, n, n, seed=seed)
    S = P - P.mT
    return S if n == 1 else S * (radius / torch.linalg.matrix_norm(S, 2))[..., None, None]


def with_angles(angles: list[float], n: int, seed: int) -> tuple[Tensor, Tensor]:
    """A skew matrix and its exact rotation with given plane angles."""
    Q = son.haar(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) if seed else torch.eye(n, dtype=torch.float64)
    D, R = torch.zeros(n, n, dtype=torch.float64), torch.eye(n, dtype=torch.float64)
    for k, a in enumerate(angles):
        i, j = 2 * k, 2 * k + 1
        D[j, i], D[i, j] = a, -a
        R[i, i] = R[j, j] = math.cos(a)
        R[j, i], R[i, j] = math.sin(a), -math.sin(a)
    return Q @ D @ Q.T, Q @ R @ Q.T


def exact_exp(S: Tensor) -> Tensor:
    with mpmath.workdps(40):
        rows = mpmath.expm(mpmath.matrix(S.tolist()), method="taylor").tolist()
        return torch.tensor([[float(v) for v in row] for row in rows], dtype=torch.float64)


class TestAlgebra:
    def test_vec_order_and_inverse(self) -> None:
        S = son.skew_from_vec(torch.arange(1.0, 7.0))
        assert S.tolist() == [[0, -1, -2, -4], [1, 0, -3, -5], [2, 3, 0, -6], [4, 5, 6, 0]]
        assert son.vec(S).tolist() == [1, 2, 3, 4, 5, 6]
        assert son.vec(torch.zeros(2, 1, 1)).shape == (2, 0)
        assert son.skew_from_vec(torch.zeros(2, 0)).tolist() == [[[0.0]], [[0.0]]]

    def test_vec_relates_to_so3(self) -> None:
        w = randn(5, 3)
        assert torch.equal(son.vec(so3.hat(w)), torch.stack([w[:, 2], -w[:, 1], w[:, 0]], -1))

    def test_skew_is_p_minus_its_transpose(self) -> None:
        assert son.skew(torch.tensor([[1.0, 2.0], [5.0, 3.0]])).tolist() == [[0.0, -3.0], [3.0, 0.0]]

    def test_composition(self, check_directional) -> None:
        check_directional(son.skew, randn(2, 3, 3))
        check_directional(lambda v: son.vec(son.skew_from_vec(v)), randn(2, 6))
        check_transforms(lambda v: son.vec(son.skew(son.skew_from_vec(v))), randn(3, 6), compile=False, compiled_transforms=False)
        check_batching(son.skew_from_vec, randn(3, 3))
        check_half(son.skew, randn(2, 3, 3))

    @pytest.mark.bad_input
    def test_errors(self) -> None:
        with pytest.raises(ValueError, match=r"n \(n - 1\) / 2 coordinates.*\(4,\)"):
            son.skew_from_vec(torch.zeros(4))
        with pytest.raises(ValueError, match="P must be square"):
            son.skew(torch.zeros(2, 3))
        with pytest.raises(ValueError, match="S must be square"):
            son.vec(torch.zeros(3))


class TestExp:
    @pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 17])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_error_and_orthogonality(self, n: int, dtype: torch.dtype) -> None:
        S = random_skew(20, n=n, radius=3.0).to(dtype)
        R = son.exp(S)
        assert_close_eps(R, np.stack([scipy.linalg.expm(s) for s in S.double().numpy()]), 20.0)
        assert_close_eps(R.mT @ R, torch.eye(n).expand(20, n, n), 10 * math.sqrt(n))
        assert (torch.linalg.det(R) > 0).all()

    @pytest.mark.parametrize("n", [2, 3, 4, 5])
    @pytest.mark.parametrize("angle", ANGLES)
    def test_against_40_digits_at_every_angle(self, n: int, angle: float) -> None:
        S = random_skew(n=n, radius=angle, seed=3)
        for dtype in (torch.float32, torch.float64):
            got = son.exp(S.to(dtype))
            assert_close_eps(got, exact_exp(S.to(dtype).double()), 6.0 if n <= 3 else 20.0)

    def test_both_sides_of_the_series_threshold(self) -> None:
        for n in (3, 4):
            for t2 in (0.125, 0.25 * (1 - 4e-16), 0.25, 0.25 * (1 + 4e-16), 0.5):
                S = random_skew(n=n, radius=math.sqrt(t2), seed=5)
                assert_close_eps(son.exp(S), exact_exp(S), 6.0)

    def test_methods_agree(self) -> None:
        S = random_skew(5, n=4, radius=3.0)
        for method in ("spectral", "matrix_exp"):
            assert_close_eps(son.exp(S, method=method), son.exp(S, method="closed"), 40.0)
        big = random_skew(1, n=66, radius=3.0)
        assert_close_eps(son.exp(big), son.exp(big, method="spectral"), 20.0)
        for R in (son.exp(big), son.exp(big.float())):
            assert_close_eps(R.mT @ R, torch.eye(66)[None], 10 * math.sqrt(66))

    def test_one_small_matrix(self) -> None:
        """torch.matrix_exp of a single float64 matrix of norm 0.01 to 0.05 is wrong by 1e4 eps; ours never sees a single one."""
        S = random_skew(n=6, radius=0.03)
        for one in (S, S[None]):
            assert_close_eps(son.exp(one, method="matrix_exp").reshape(6, 6), exact_exp(S), 20.0)

    @pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
    def test_derivatives(self, n: int, check_directional) -> None:
        check_directional(son.exp, random_skew(2, n=n, radius=2.0) + randn(2, n, n) * 0.1)
        check_directional(son.exp, torch.zeros(n, n))

    def test_second_derivative_at_zero(self) -> None:
        """d2 exp at 0 along A, A is A^2."""
        for n in (3, 4, 5):
            A = random_skew(n=n, radius=1.0)
            first = torch.func.jvp
            got = first(lambda S: first(son.exp, (S,), (A,))[1], (torch.zeros_like(A),), (A,))[1]  # noqa: B023
            assert (got - A @ A).abs().max() <= 1e-12

    @pytest.mark.parametrize("n", [4, 5])
    def test_transforms(self, n: int) -> None:
        check_transforms(son.exp, random_skew(2, n=n, radius=2.0).float(), compile=False, compiled_transforms=n == 5)

    def test_batching_and_precision(self) -> None:
        for n in (2, 3, 4, 6):
            check_batching(son.exp, random_skew(3, n=n, radius=2.0), atol=1e-14)
            check_half(son.exp, random_skew(3, n=n, radius=2.0))

    @given(S=skew_matrices(4))
    @settings(max_examples=30, deadline=None)
    def test_law_inverse(self, S: Tensor) -> None:
        assert_close_eps(son.exp(S) @ son.exp(-S), torch.eye(4), 30.0)

    @pytest.mark.bad_input
    def test_errors(self) -> None:
        with pytest.raises(ValueError, match="'pade'"):
            son.exp(torch.zeros(3, 3), method="pade")
        with pytest.raises(ValueError, match="n <= 4"):
            son.exp(torch.zeros(5, 5), method="closed")
        with pytest.raises(TypeError, match="int64"):
            son.exp(torch.zeros(3, 3, dtype=torch.long))


PLANES = [
    [math.pi, math.pi, 0.0],
    [math.pi, 0.0, 0.0],
    [math.pi] * 3,
    [0.0] * 3,
    [math.pi / 2] * 3,
    [math.pi / 2, math.pi / 2 + 1e-9, 1.0],
    [math.pi - 1e-9, 1e-9, 0.0],
    [math.pi, 1e-8, 2e-8],
    [1.0, math.pi - 1.0, 1.0],
    [1e-7, 2e-7, 3e-7],
    [math.pi, math.pi - 1e-12, math.pi - 1e-6],
    [0.1, 0.1 + 1e-10, math.pi - 0.1],
]


class TestLog:
    @pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 9, 20])
    def test_inverts_exp(self, n: int) -> None:
        S = random_skew(50, n=n, radius=math.pi - 1e-3)
        assert (son.log(son.exp(S)) - S).abs().max() <= 1e-10

    def test_equals_scipy_logm(self) -> None:
        R = son.haar(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        want = np.stack([scipy.linalg.logm(r).real for r in R.numpy()])
        assert np.abs(son.log(R).numpy() - want).max() <= 1e-10

    @pytest.mark.parametrize("angles", PLANES)
    @pytest.mark.parametrize("n", [6, 7])
    def test_degenerate_angles(self, angles: list[float], n: int) -> None:
        for seed in range(4):
            S, R = with_angles(angles, n, seed)
            got = son.log(R)
            assert torch.equal(got, -got.mT)
            assert (son.exp(got) - R).abs().max() <= 1e-14
            assert (torch.linalg.matrix_norm(got, 2) - max(angles)).abs() <= 1e-8
            if max(angles) < math.pi - 1e-3:
                assert (got - S).abs().max() <= 1e-14

    def test_float32_is_limited_by_its_input(self) -> None:
        S = random_skew(50, n=6, radius=2.5).float()
        assert (son.log(son.exp(S)) - S).abs().max() <= 4e-6

    @pytest.mark.parametrize("n", [3, 4])
    def test_derivatives(self, n: int, check_directional) -> None:
        check_directional(lambda S: son.log(son.exp(S)), random_skew(n=n, radius=2.0))
        if n > 3:
            check_directional(son.log, son.haar(n, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))
            check_directional(son.log, torch.eye(n), forward=False)
            check_directional(son.log, with_angles([1.0, 1.0], n, 1)[1])

    def test_finite_gradient_at_half_turns(self) -> None:
        R = with_angles([math.pi, math.pi], 5, 1)[1].requires_grad_()
        assert torch.isfinite(torch.autograd.grad(son.log(R).mul(randn(5, 5)).sum(), R)[0]).all()

    def test_transforms(self) -> None:
        R = son.haar(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        check_transforms(son.log, R, compile=False, compiled_transforms=False)

    def test_batching_and_precision(self) -> None:
        for n in (2, 4, 5):
            check_batching(son.log, son.exp(random_skew(3, n=n, radius=2.0)), atol=1e-13)
        assert son.log(torch.eye(4, dtype=torch.bfloat16)).dtype == torch.bfloat16

    @pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
    def test_reflections(self, n: int) -> None:
        R = torch.eye(n)
        R[0, 0] = -1.0
        with pytest.raises(ValueError, match="negative determinant"):
            son.log(R)
        both = torch.stack([R, torch.eye(n)])
        unchecked = son.log(both, check=False)
        assert torch.isnan(unchecked[0]).any()
        assert torch.equal(unchecked[1], torch.zeros(n, n))


class TestCayley:
    def test_by_hand_and_inverse(self) -> None:
        assert_close_eps(son.cayley(torch.tensor([[0.0, -2.0], [2.0, 0.0]])), [[0, -1], [1, 0]], 2.0)
        A = random_skew(5, n=5, radius=4.0)
        R = son.cayley(A)
        assert_close_eps(R.mT @ R, torch.eye(5).expand(5, 5, 5), 20.0)
        assert (son.cayley_inv(R) - A).abs().max() <= 1e-13

    def test_agrees_with_exp_to_second_order(self) -> None:
        A = random_skew(n=5, radius=1e-3)
        assert (son.cayley(A) - son.exp(A)).abs().max() <= 1e-9
        a = torch.tensor(0.7, dtype=torch.float64)
        S = a * torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
        assert_close_eps(son.cayley(S), son.exp(2 * torch.atan(a / 2) / a * S), 4.0)

    def test_composition(self, check_directional) -> None:
        A = random_skew(2, n=4, radius=2.0)
        check_directional(son.cayley, A)
        check_directional(son.cayley_inv, son.cayley(A))
        check_transforms(lambda A: son.cayley_inv(son.cayley(A)), A.float(), compile=False)
        check_batching(son.cayley, A)
        check_half(son.cayley, A)

    @pytest.mark.bad_input
    def test_errors(self) -> None:
        with pytest.raises(ValueError, match="no eigenvalue -1"):
            son.cayley_inv(torch.diag(torch.tensor([-1.0, -1.0, 1.0])))
        with pytest.raises(ValueError, match="A must be square"):
            son.cayley(torch.zeros(2, 3))
