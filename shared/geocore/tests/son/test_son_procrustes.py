from collections.abc import Callable

import numpy as np
import pytest
import roma
import scipy.linalg
import torch
from torch import Tensor

from geocore import son
from geocore.testing import check_batching, check_half, check_op, check_transforms


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def haar(n: int, count: int, seed: int = 0) -> Tensor:
    return son.haar(n, count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


DEGENERATE = [(1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (1.0, 1.0, -1.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (-1.0, -1.0, -1.0), (2.0, 1.0, -1.0)]


def gradient(fn: Callable[[Tensor], Tensor], M: Tensor, g: Tensor) -> Tensor:
    M = M.detach().requires_grad_()
    return torch.autograd.grad(fn(M), M, g)[0]


def sylvester_gradient(M: Tensor, R: Tensor, g: Tensor) -> Tensor:
    """``R X`` with ``H X + X H = R^T g - g^T R`` and ``H = R^T M``, from differentiating that ``R^T M`` is symmetric."""
    found = []
    for m, r, c in zip(M.double().numpy(), R.numpy(), g.double().numpy(), strict=True):
        H = r.T @ m
        found.append(r @ scipy.linalg.solve_sylvester((H + H.T) / 2, (H + H.T) / 2, r.T @ c - c.T @ r))
    return torch.as_tensor(np.stack(found))


class TestSpecialProcrustes:
    @pytest.mark.parametrize("n", [2, 3, 4, 7])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_value_and_gradient_equal_roma(self, n: int, dtype: torch.dtype) -> None:
        M, g = randn(50, n, n, dtype=dtype), randn(50, n, n, seed=1, dtype=dtype)
        want = roma.special_procrustes(M.double())
        confidence = son.special_procrustes(M.double(), return_confidence=True)[1]
        eps, size = torch.finfo(dtype).eps, torch.linalg.matrix_norm(M, 2).double()
        error = (son.special_procrustes(M) - want).abs().amax((-1, -2)) * confidence / size
        assert error.max() <= 20 * eps
        grad = gradient(son.special_procrustes, M, g)
        wanted = [
            (gradient(roma.special_procrustes, M.double(), g.double()), 1e-8),  # roma regularises its denominators
            (sylvester_gradient(M, want, g), 0.0),
        ]
        for expected, regularised in wanted:
            relative = (grad - expected).abs().amax((-1, -2)) / expected.abs().amax((-1, -2)) * (confidence / size).clamp(max=1)
            assert relative.max() <= 40 * eps + regularised

    @pytest.mark.parametrize("diagonal", DEGENERATE)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_degenerate_items_are_optimal_rotations_with_finite_gradients(self, diagonal: tuple[float, ...], dtype: torch.dtype) -> None:
        D = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        Q, P = haar(3, 20), haar(3, 20, seed=1)
        M = torch.cat([D[None], (Q * D.diagonal()) @ P.mT]).to(dtype)
        R = son.special_procrustes(M)
        eps = torch.finfo(dtype).eps
        assert (R.mT @ R - torch.eye(3, dtype=dtype)).abs().max() <= 6 * eps
        assert (torch.linalg.det(R) > 0).all()
        _, s, _ = torch.linalg.svd(M.double())
        best = s.sum(-1) - 2 * s[:, -1] * (torch.linalg.det(M.double()) < -1e-7)
        assert ((R * M).double().sum((-1, -2)) - best).abs().max() <= 20 * eps
        assert torch.isfinite(gradient(son.special_procrustes, M, randn(21, 3, 3).to(dtype))).all()

    def test_documented_values(self) -> None:
        for dtype in (torch.float32, torch.float64):
            assert torch.equal(son.special_procrustes(torch.zeros(3, 3, dtype=dtype)), torch.eye(3, dtype=dtype))
            assert torch.equal(
                gradient(son.special_procrustes, torch.zeros(3, 3, dtype=dtype), torch.ones(3, 3, dtype=dtype)), torch.zeros(3, 3)
            )
        assert son.special_procrustes(torch.tensor([[-2.0]])).tolist() == [[1.0]]
        assert torch.equal(son.nearest_special_orthogonal(2 * torch.eye(2)), torch.eye(2))

    def test_float32_close_to_the_boundary_of_its_fast_path(self) -> None:
        """3x3 float32 leaves the closed form where the top eigenvalue is nearly multiple; both sides are as good as float64."""
        d = torch.logspace(-7, -1, 400, dtype=torch.float64)
        one = torch.ones_like(d)
        for s in ([one, one / 2, -one / 2 + d], [one, d, 0 * d], [one, one, d - 1], [one, one - d, 2 * d - 1]):
            M = ((haar(3, 400) * torch.stack(s, -1)[:, None]) @ haar(3, 400, seed=1).mT).float()
            want = son.special_procrustes(M.double())
            confidence = son.special_procrustes(M.double(), return_confidence=True)[1]
            error = (son.special_procrustes(M) - want).abs().amax((-1, -2)) - 1e-13 / confidence.clamp(min=1e-13)
            assert error.max() <= 2 * torch.finfo(torch.float32).eps

    def test_scale_is_free(self) -> None:
        M = randn(10, 3, 3).float()
        for scale in (1e-30, 1e30):
            assert (son.special_procrustes(M * scale) - son.special_procrustes(M)).abs().max() <= 1e-5
            grad = gradient(son.special_procrustes, M * scale, torch.ones(10, 3, 3))
            assert torch.isfinite(grad).all()

    def test_confidence(self) -> None:
        M = torch.diag_embed(torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, -1.0], [1.0, 1.0, -1.0]]))
        R, confidence = son.special_procrustes(M, return_confidence=True)
        assert torch.allclose(confidence, torch.tensor([3.0, 1.0, 0.0]), atol=1e-6)
        assert R.shape == (3, 3, 3)
        assert son.special_procrustes(torch.ones(2, 1, 1), return_confidence=True)[1].tolist() == [float("inf")] * 2

    @pytest.mark.parametrize("n", [1, 2, 3, 5])
    def test_derivatives(self, n: int, check_directional) -> None:
        check_directional(son.special_procrustes, randn(2, n, n))

    @pytest.mark.parametrize("diagonal", [(1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (3.0, 2.0, -1.0)])
    def test_derivatives_at_repeated_singular_values(self, diagonal: tuple[float, ...], check_directional) -> None:
        check_directional(son.special_procrustes, torch.diag(torch.tensor(diagonal)))

    def test_second_derivatives_of_the_float32_path(self) -> None:
        M = randn(4, 3, 3).float().requires_grad_()
        first = torch.autograd.grad(son.special_procrustes(M).sum(), M, create_graph=True)[0]
        got = torch.autograd.grad(first.square().sum(), M)[0]
        exact = M.detach().double().requires_grad_()
        first = torch.autograd.grad(son.special_procrustes(exact).sum(), exact, create_graph=True)[0]
        want = torch.autograd.grad(first.square().sum(), exact)[0]
        assert (got - want).abs().max() <= 1e-4 * want.abs().max()

    @pytest.mark.parametrize("n", [3, 4])
    def test_transforms(self, n: int) -> None:
        # the way of other sizes is that of polar, whose compiled transforms are checked there
        here = {"compile": n == 3, "compiled_transforms": n == 3, "export": n == 3}
        check_transforms(son.special_procrustes, randn(3, n, n).float() + 2 * torch.eye(n), **here)

    def test_batching_and_precision(self) -> None:
        for dtype in (torch.float32, torch.float64):
            check_batching(son.special_procrustes, randn(3, 3, 3).to(dtype), atol=1e-6 if dtype == torch.float32 else 1e-14)
        check_half(son.special_procrustes, randn(3, 3, 3).float())

    def test_registered_operators(self) -> None:
        check_op(torch.ops.geocore.nearest_orthogonal, randn(2, 4, 4).requires_grad_(), True)
        check_op(torch.ops.geocore.nearest_rotation3, randn(2, 3, 3).float().requires_grad_())

    @pytest.mark.bad_input
    def test_errors(self) -> None:
        with pytest.raises(ValueError, match=r"M must be square.*\(3, 2\)"):
            son.special_procrustes(torch.zeros(3, 2))
        with pytest.raises(TypeError, match="floating-point"):
            son.special_procrustes(torch.zeros(3, 3, dtype=torch.long))
