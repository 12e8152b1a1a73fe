import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from geocore.son import commutator_norm, expm_skew_apply, expm_skew_apply_reference, joint_skew_spectral, skew, skew_spectral
from geocore.testing import check_batching, check_half, check_op, check_transforms
from geocore.testing.benchmark import peak_memory
from geocore.testing.strategies import skew_matrices


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def random_skew(*shape: int, n: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    P = randn(*shape, n, n, seed=seed)
    return (P - P.mT).to(dtype)


def block_form(w: Tensor, n: int) -> Tensor:
    D = w.new_zeros(*w.shape[:-1], n, n)
    for k in range(n // 2):
        D[..., 2 * k + 1, 2 * k] = w[..., k]
        D[..., 2 * k, 2 * k + 1] = -w[..., k]
    return D


def with_frequencies(frequencies: list[float], n: int, seed: int = 0) -> Tensor:
    Q = torch.linalg.qr(randn(n, n, seed=seed))[0]
    S = Q @ block_form(torch.tensor(frequencies, dtype=torch.float64), n) @ Q.T
    return (S - S.T) / 2


SPECTRA = [
    [0.0, 0.0, 0.0],
    [1.0, 1.0, 1.0],
    [1.0, 1.0, 0.0],
    [2.0, 0.0, 0.0],
    [1.0, 1.0 - 1e-9, 1e-9],
    [1.0, 1e-8, 1e-8],
    [3.0, 1e-13, 1e-15],
    [1e6, 1.0, 1e-6],
    [5.0, 2.0, 1.0],
]


class TestSkewSpectral:
    @pytest.mark.parametrize("frequencies", SPECTRA)
    @pytest.mark.parametrize("n", [6, 7])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_reconstructs_with_an_orthogonal_basis(self, frequencies: list[float], n: int, dtype: torch.dtype) -> None:
        S = with_frequencies(frequencies, n).to(dtype)
        w, Q = skew_spectral(S)
        eps = torch.finfo(dtype).eps
        assert (Q.mT @ Q - torch.eye(n, dtype=dtype)).abs().max() <= 4 * eps
        assert (Q @ block_form(w, n) @ Q.mT - S).abs().max() <= 20 * eps * max(frequencies)
        assert (w >= 0).all()
        assert (w.diff() <= 0).all()

    @given(S=skew_matrices(5, top=10.0))
    @settings(max_examples=40, deadline=None)
    def test_law_reconstruction(self, S: Tensor) -> None:
        w, Q = skew_spectral(S)
        assert (Q @ block_form(w, 5) @ Q.mT - S).abs().max() <= 1e-13
        assert (Q.mT @ Q - torch.eye(5)).abs().max() <= 1e-14

    def test_coordinate_planes(self) -> None:
        w, Q = skew_spectral(block_form(torch.tensor([2.0, 3.0]), 5))
        assert w.tolist() == [3.0, 2.0]
        assert Q[:, 4].abs().tolist() == [0.0, 0.0, 0.0, 0.0, 1.0]

    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_small(self, n: int) -> None:
        w, Q = skew_spectral(torch.zeros(2, n, n))
        assert w.shape == (2, n // 2)
        assert torch.equal(w, torch.zeros_like(w))
        assert (Q.mT @ Q - torch.eye(n)).abs().max() <= 1e-7

    def test_orientation_of_a_negative_plane(self) -> None:
        w, Q = skew_spectral(torch.tensor([[0.0, 2.0], [-2.0, 0.0]]))
        assert w.tolist() == [2.0]
        assert torch.linalg.det(Q) < 0

    def test_frequencies_are_differentiable_and_the_basis_is_constant(self, check_directional) -> None:
        S = random_skew(2, n=5)
        check_directional(lambda S: skew_spectral(S)[0], S)
        assert not skew_spectral(S.requires_grad_())[1].requires_grad
        zero = torch.zeros(4, 4, requires_grad=True)
        assert torch.isfinite(torch.autograd.grad(skew_spectral(zero)[0].sum(), zero)[0]).all()

    def test_batching_and_precision(self) -> None:
        check_batching(lambda S: skew_spectral(S)[0], random_skew(3, n=4))
        assert skew_spectral(random_skew(n=4).half())[1].dtype == torch.float16

    @pytest.mark.bad_input
    def test_errors(self) -> None:
        with pytest.raises(ValueError, match=r"S must be square.*\(2, 3\)"):
            skew_spectral(torch.zeros(2, 3))
        with pytest.raises(TypeError, match="int64"):
            skew_spectral(torch.zeros(2, 2, dtype=torch.long))
        with pytest.raises(NotImplementedError, match="complex"):
            skew_spectral(torch.zeros(2, 2, dtype=torch.complex64))


SHAPES = [
    ((), (), ()),
    ((), (5,), (5,)),
    ((4,), (), ()),
    ((4,), (4,), (4,)),
    ((3, 1), (5,), (3, 5)),
    ((2, 3, 1), (5,), (2, 2, 3, 5)),
    ((2, 3), (1, 3), (4, 1, 1)),
    ((3, 1), (2, 1, 5), ()),
    ((1, 3), (2, 1), (2, 3)),
    ((0,), (0,), (0,)),
    ((), (0,), (0,)),
    ((3, 1), (5,), (0, 3, 5)),
]


class TestExpmSkewApply:
    @pytest.mark.parametrize(("sb", "tb", "xb"), SHAPES)
    @pytest.mark.parametrize("n", [1, 2, 3, 4, 7])
    def test_value_and_gradients_equal_the_matrix_exponential(
        self, sb: tuple[int, ...], tb: tuple[int, ...], xb: tuple[int, ...], n: int
    ) -> None:
        args = [random_skew(*sb, n=n), randn(*tb, seed=1), randn(*xb, n, seed=2)]
        args = [a.requires_grad_() for a in args]
        got, want = expm_skew_apply(*args), expm_skew_apply_reference(*args)
        assert got.shape == want.shape
        assert torch.allclose(got, want, rtol=0, atol=1e-12)
        g = randn(*want.shape, seed=3)
        for a, b in zip(torch.autograd.grad(got, args, g), torch.autograd.grad(want, args, g), strict=True):
            assert a.shape == b.shape
            assert torch.allclose(a, b, rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("frequencies", SPECTRA[:7])
    @pytest.mark.parametrize("n", [6, 7])
    def test_degenerate_spectra(self, frequencies: list[float], n: int) -> None:
        S = with_frequencies(frequencies, n).requires_grad_()
        t, x, g = randn(9), randn(9, n, seed=1), randn(9, n, seed=2)
        grad = torch.autograd.grad(expm_skew_apply(S, t, x), S, g)[0]
        want = torch.autograd.grad(expm_skew_apply_reference(S, t, x), S, g)[0]
        assert torch.allclose(grad, want, rtol=0, atol=7e-14 * max(1.0, want.abs().max().item()) * 4)
        assert torch.equal(grad, -grad.mT)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_both_sides_of_the_divided_difference_threshold(self, dtype: torch.dtype) -> None:
        eps = torch.finfo(dtype).eps
        edge = 0.3  # t d / 2 = 0.15 at max |t| = 1
        for gap in (edge / 2, edge * (1 - 4 * eps), edge, edge * (1 + 4 * eps), 2 * edge):
            S = torch.stack([with_frequencies([2.0, 2.0 - gap, gap], 6, seed=s) for s in range(8)])[:, None].to(dtype).requires_grad_()
            t, x, g = torch.linspace(-1, 1, 11, dtype=dtype), randn(8, 11, 6).to(dtype), randn(8, 11, 6, seed=1).to(dtype)
            grad = torch.autograd.grad(expm_skew_apply(S, t, x), S, g)[0]
            exact = S.detach().double().requires_grad_()
            want = torch.autograd.grad(expm_skew_apply_reference(exact, t.double(), x.double()), exact, g.double())[0]
            assert (grad - want).abs().max() <= 40 * eps * want.abs().max()

    @pytest.mark.parametrize(
        "S", [torch.zeros(4, 4), torch.zeros(3, 3), torch.zeros(1, 1), torch.zeros(2, 2), with_frequencies([1.0, 1.0], 5)]
    )
    def test_derivatives_at_degenerate_points(self, S: Tensor, check_directional) -> None:
        n = S.shape[-1]
        check_directional(expm_skew_apply, S, randn(2), randn(2, n, seed=1))

    def test_derivatives_with_broadcasting(self, check_directional) -> None:
        check_directional(expm_skew_apply, random_skew(2, 1, n=4), randn(2), randn(1, 1, 4, seed=1))

    @pytest.mark.parametrize("n", [2, 5])
    def test_transforms(self, n: int) -> None:
        args = (a.float() for a in (random_skew(3, n=n), randn(3), randn(3, n)))
        check_transforms(expm_skew_apply, *args, compile=n == 2, compiled_transforms=n == 5)

    def test_batching_and_precision(self) -> None:
        for n in (2, 5):
            check_batching(expm_skew_apply, random_skew(3, n=n), randn(3), randn(3, n), atol=1e-14)
            check_half(expm_skew_apply, random_skew(3, n=n, dtype=torch.float32), randn(3).float(), randn(3, n).float())

    def test_registered_operator(self) -> None:
        S, t, x = (a.requires_grad_() for a in (random_skew(2, n=3), randn(1, 4), randn(2, 2, 4, 3)))
        check_op(torch.ops.geocore.expm_skew_planes, S, t, x)

    @pytest.mark.parametrize("n", [2, 8])
    def test_long_positions_keep_float32_accuracy(self, n: int) -> None:
        S, t, x = random_skew(4, n=n, dtype=torch.float32), torch.linspace(0, 1e4, 40)[:, None], randn(40, 4, n).float()
        want = expm_skew_apply_reference(S.double(), t.double(), x.double())
        assert (expm_skew_apply(S, t, x) - want).abs().max() <= 2e-6
        assert (expm_skew_apply_reference(S, t, x) - want).abs().max() > 1e-4  # negative control: float32 all the way

    def test_laws(self) -> None:
        S, x = random_skew(3, n=6), randn(3, 6)
        one, t, s = torch.ones(3, dtype=torch.float64), randn(3), randn(3, seed=9)
        y = expm_skew_apply(S, t, x)
        assert torch.allclose(y.norm(dim=-1), x.norm(dim=-1), rtol=0, atol=1e-14)
        assert torch.allclose(expm_skew_apply(S, s, y), expm_skew_apply(S, s + t, x), rtol=0, atol=1e-13)
        assert torch.allclose(expm_skew_apply(S, 0 * one, x), x, rtol=0, atol=1e-14)
        P = randn(3, 6, 6)
        assert torch.allclose(expm_skew_apply(S + P + P.mT, t, x), y, rtol=0, atol=1e-13)

    def test_symmetric_part_of_a_parameter_has_zero_gradient(self) -> None:
        P = randn(4, 4).requires_grad_()
        grad = torch.autograd.grad(
            expm_skew_apply(P - P.mT, randn(7), randn(7, 4)).square().sum() + expm_skew_apply(P, randn(7), randn(7, 4)).sum(), P
        )[0]
        assert (grad + grad.mT).abs().max() <= 1e-12

    def test_memory_is_that_of_the_vectors(self) -> None:
        S, t = random_skew(4, 1, n=32, dtype=torch.float32).requires_grad_(), torch.linspace(0, 1, 4096)
        x = randn(4, 4096, 32).float().requires_grad_()
        size = x.numel() * 4
        peak = peak_memory(lambda: torch.autograd.grad(expm_skew_apply(S, t, x).sum(), (S, x)))
        assert peak <= 16 * size  # the matrices exp(t S) alone would be 32 times the vectors

    @pytest.mark.bad_input
    def test_errors(self) -> None:
        with pytest.raises(ValueError, match="S must be square"):
            expm_skew_apply(torch.zeros(2, 3), torch.zeros(()), torch.zeros(3))
        with pytest.raises(ValueError, match=r"x must have shape \(..., 3\).*\(4,\)"):
            expm_skew_apply(torch.zeros(3, 3), torch.zeros(()), torch.zeros(4))
        with pytest.raises(ValueError, match=r"broadcast.*S \(2,\).*t \(3,\)"):
            expm_skew_apply(torch.zeros(2, 3, 3), torch.zeros(3), torch.zeros(3))
        with pytest.raises(TypeError, match="t must have a floating-point dtype"):
            expm_skew_apply(torch.zeros(3, 3), torch.zeros(3, dtype=torch.long), torch.zeros(3))


class TestCommuting:
    def test_commutator_norm_by_hand(self, check_directional) -> None:
        A, B = torch.tensor([[0.0, 1.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [1.0, 0.0]])
        assert commutator_norm(A, B) == pytest.approx(math.sqrt(2))
        check_directional(commutator_norm, randn(2, 3, 3), randn(2, 3, 3, seed=1))
        zero = torch.eye(2, requires_grad=True)
        assert torch.equal(torch.autograd.grad(commutator_norm(zero, torch.ones(2, 2)), zero)[0], torch.zeros(2, 2))

    @pytest.mark.parametrize("n", [4, 7])
    def test_a_commuting_family_has_common_planes(self, n: int) -> None:
        Q0, W = torch.linalg.qr(randn(2, n, n))[0], randn(2, 3, n // 2, seed=1)
        W[..., 0, 0] = 0
        S = Q0[:, None] @ block_form(W, n) @ Q0[:, None].mT
        assert commutator_norm(S[:, 0], S[:, 1]).max() <= 1e-12
        w, Q, residual = joint_skew_spectral(S)
        assert residual.max() <= 1e-13
        assert (Q[:, None] @ block_form(w, n) @ Q[:, None].mT - S).abs().max() <= 1e-13
        assert torch.allclose(w.abs().sort().values, W.abs().sort().values, rtol=0, atol=1e-13)

    @given(frequencies=st.sampled_from(SPECTRA))
    def test_shared_degenerate_frequencies(self, frequencies: list[float]) -> None:
        S = with_frequencies(frequencies, 6)
        assert joint_skew_spectral(torch.stack([S, -2 * S, 0 * S]))[2] <= 1e-13

    def test_an_independent_family_is_told(self) -> None:
        assert joint_skew_spectral(random_skew(3, n=4))[2] > 1e-2

    @pytest.mark.bad_input
    def test_errors(self) -> None:
        with pytest.raises(ValueError, match="same size"):
            commutator_norm(torch.zeros(2, 2), torch.zeros(3, 3))
        with pytest.raises(ValueError, match=r"k >= 1, got \(2, 2\)"):
            joint_skew_spectral(torch.zeros(2, 2))


def test_float64_times_keep_their_digits_beside_float32_vectors():
    """A time of 1e4 rounded to float32 would turn by 1e-3 rad; given in float64 it does not."""
    generator = torch.Generator().manual_seed(0)
    S = skew(torch.randn(6, 6, generator=generator))
    t = 1e4 + torch.rand(5, dtype=torch.float64, generator=generator)
    x = torch.randn(5, 6, generator=generator)
    live = [S.clone().requires_grad_(), t.clone().requires_grad_(), x.clone().requires_grad_()]
    y = expm_skew_apply(*live)
    assert y.dtype == torch.float32
    assert (y.double() - expm_skew_apply(S.double(), t, x.double())).abs().max() < 2e-6
    grads = torch.autograd.grad(y.sum(), live)
    assert [g.dtype for g in grads] == [torch.float32, torch.float64, torch.float32]
    wide = [v.detach().double().requires_grad_() for v in live]
    for got, want in zip(grads, torch.autograd.grad(expm_skew_apply(*wide).sum(), wide), strict=True):
        assert (got.double() - want).abs().max() < 1e-5 * want.abs().max().clamp(min=1)
