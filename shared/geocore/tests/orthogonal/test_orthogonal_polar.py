import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from geocore.orthogonal import assert_orthogonal, newton_schulz, polar
from geocore.orthogonal._newton_schulz import _SCHEDULES
from geocore.testing import check_batching, check_half, check_transforms

METHODS = ["svd", "newton", "qdwh", "newton_schulz"]


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def with_condition(n: int, cond: float, dtype: torch.dtype = torch.float64) -> Tensor:
    U, V = torch.linalg.qr(randn(n, n))[0], torch.linalg.qr(randn(n, n, seed=1))[0]
    return ((U * torch.logspace(0, -np.log10(cond), n, dtype=torch.float64)) @ V.mT).to(dtype)


class TestPolar:
    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("shape", [(1, 1), (4, 4), (7, 3), (3, 7), (5, 1)])
    def test_equals_scipy(self, method: str, shape: tuple[int, int]) -> None:
        M = randn(5, *shape)
        want = np.stack([scipy.linalg.polar(m)[0] for m in M.numpy()])
        assert np.abs(polar(M, method=method).numpy() - want).max() <= 1e-12

    @pytest.mark.parametrize("method", METHODS)
    def test_ill_conditioned(self, method: str) -> None:
        M = with_condition(20, 1e6)
        Q = polar(37 * M, method=method)
        assert_orthogonal(Q, atol=1e-13)
        assert np.abs(Q.numpy() - scipy.linalg.polar(M.numpy())[0]).max() <= 1e-9

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_qdwh_is_orthogonal_up_to_the_largest_condition(self, dtype: torch.dtype) -> None:
        for cond in (1.0, 1e3, 0.01 / torch.finfo(dtype).eps):
            assert_orthogonal(polar(with_condition(30, cond, dtype), method="qdwh"), atol=12 * torch.finfo(dtype).eps)
        assert torch.equal(polar(torch.zeros(2, 4, 3, dtype=dtype), method="qdwh"), torch.zeros(2, 4, 3, dtype=dtype))

    def test_singular_matrix(self) -> None:
        M = torch.diag(torch.tensor([1.0, 0.0, 0.0])).requires_grad_()
        Q = polar(M)
        assert_orthogonal(Q)
        assert torch.isfinite(torch.autograd.grad(Q.sum(), M)[0]).all()

    @pytest.mark.parametrize("method", METHODS)
    def test_derivatives(self, method: str, check_directional) -> None:
        M = randn(2, 3, 3) + 2 * torch.eye(3)
        check_directional(lambda M: polar(M, method=method), M, second=method == "svd")

    def test_derivatives_of_frames_and_at_repeated_singular_values(self, check_directional) -> None:
        check_directional(polar, randn(4, 2))
        check_directional(polar, 2 * torch.eye(3))

    def test_composition(self) -> None:
        M = randn(3, 3, 3) + 2 * torch.eye(3)
        check_transforms(polar, M.float(), compile=False)
        for method in METHODS:
            check_batching(lambda M: polar(M, method=method), M, atol=1e-14)  # noqa: B023
        check_half(polar, M)

    @pytest.mark.bad_input
    def test_errors(self) -> None:
        with pytest.raises(ValueError, match="'qr'"):
            polar(torch.eye(3), method="qr")
        with pytest.raises(ValueError, match="shape"):
            polar(torch.zeros(3))


class TestNewtonSchulz:
    @pytest.mark.parametrize(
        ("coefficients", "steps", "gaussian", "ill"),
        [
            ("cubic", 12, (1.000, 1.000), (0.03, 1.00)),
            ("muon", 5, (0.682, 1.134), (0.11, 1.20)),
            ("dion", 5, (0.978, 1.032), (0.11, 1.15)),
            ("polar_express", 5, (0.859, 1.141), (0.21, 1.14)),
        ],
    )
    @pytest.mark.parametrize("dtype", [None, torch.bfloat16])
    def test_singular_values_stay_in_the_stated_ranges(
        self, coefficients: str, steps: int, gaussian: tuple[float, float], ill: tuple[float, float], dtype: torch.dtype | None
    ) -> None:
        slack = 0.006 if dtype is None else 0.02
        for M, (low, high) in ((randn(512, 128).float(), gaussian), (with_condition(256, 1e3).float(), ill)):
            s = torch.linalg.svdvals(newton_schulz(M, steps=steps, coefficients=coefficients, dtype=dtype))
            assert s.min() >= low - slack
            assert s.max() <= high + slack

    def test_schedules_equioscillate(self) -> None:
        """Derivation: each minimax step attains its largest error with alternating signs at 4 points of its interval."""
        low, high, safety = 2.5e-3, 1.0, 1.03
        for k, (a, b, c) in enumerate(_SCHEDULES["dion"]):
            x = torch.logspace(np.log10(low), np.log10(high), 200_001, dtype=torch.float64)
            shrink = safety if k < 4 else 1.0
            u = x * shrink
            error = 1 - (a * u + b * u**3 + c * u**5)
            flips = error[1:-1][((error[1:-1] - error[:-2]) * (error[2:] - error[1:-1])) <= 0]
            extrema = torch.cat([error[:1], flips, error[-1:]])
            assert len(extrema) == 4
            assert (extrema.abs() - extrema.abs().max()).abs().max() <= 2e-4
            assert ((extrema[1:] * extrema[:-1]) < 0).all()
            low, high = 1 - float(error.abs().max()), 1 + float(error.abs().max())

    def test_rank_one_does_not_overshoot_in_bfloat16(self) -> None:
        M = randn(64, 1).float() @ randn(1, 64, seed=1).float()
        for name in _SCHEDULES:
            assert torch.linalg.matrix_norm(newton_schulz(1e20 * M, coefficients=name, dtype=torch.bfloat16), 2) <= 1.25

    def test_zero_scale_and_singular_vectors(self) -> None:
        assert torch.equal(newton_schulz(torch.zeros(2, 3, 5)), torch.zeros(2, 3, 5))
        M = randn(5, 3).float()
        for scale in (1e-3, 1e30):
            assert (newton_schulz(M * scale) - newton_schulz(M)).abs().max() <= 1e-3 if scale < 1 else 1e-5
        X = newton_schulz(M, coefficients="muon")
        symmetric = X.mT @ M
        assert (symmetric - symmetric.mT).abs().max() <= 1e-5

    def test_converges_to_the_polar_factor_and_smaller_gram(self) -> None:
        for shape in ((6, 4), (4, 6), (4, 4)):
            M = randn(3, *shape)
            assert (newton_schulz(M, steps=40, eps=0.0) - polar(M)).abs().max() <= 1e-12
            assert torch.allclose(newton_schulz(M.mT), newton_schulz(M).mT, rtol=0, atol=1e-14)

    def test_schedule_rules(self) -> None:
        M = randn(4, 4)
        cubic = [(1.5, -0.5, 0.0)]
        assert torch.equal(newton_schulz(M, coefficients=cubic), newton_schulz(M, coefficients="cubic"))
        longer = newton_schulz(M, steps=12, coefficients="dion")
        assert (longer.mT @ longer - torch.eye(4)).abs().max() <= 1e-12
        assert newton_schulz(M.float(), dtype=torch.bfloat16).dtype == torch.float32

    def test_gradient_only_on_request(self, check_directional) -> None:
        M = randn(3, 3).requires_grad_()
        assert not newton_schulz(M).requires_grad
        check_directional(lambda M: newton_schulz(M, coefficients="dion", differentiable=True), randn(2, 3, 2))

    def test_composition(self) -> None:
        check_transforms(lambda M: newton_schulz(M, steps=2, differentiable=True), randn(2, 3, 2), compile=False, compiled_transforms=False)
        check_batching(newton_schulz, randn(3, 4, 2), atol=1e-14)
        check_half(newton_schulz, randn(3, 4, 2))

    @pytest.mark.bad_input
    def test_errors(self) -> None:
        with pytest.raises(ValueError, match="'quartic'"):
            newton_schulz(torch.eye(2), coefficients="quartic")
        with pytest.raises(ValueError, match="triples"):
            newton_schulz(torch.eye(2), coefficients=[(1.5, -0.5)])
        with pytest.raises(ValueError, match="at least one triple"):
            newton_schulz(torch.eye(2), coefficients=[])
        with pytest.raises(ValueError, match="steps must be at least 1"):
            newton_schulz(torch.eye(2), steps=0)
