import math

import mpmath
import numpy as np
import pytest
import roma
import torch
from hypothesis import given, settings
from scipy.spatial.transform import Rotation

from geocore import so3
from geocore._ops import without_kernels
from geocore.so3._algebra import exp_reference, log_reference
from geocore.testing import ANGLES, assert_finite, max_error_eps
from geocore.testing.strategies import rotation_vectors

DTYPES = [torch.float32, torch.float64]
# angles on both sides of every switch: series of exp (0.25 and 0.5), of log (2 atan 0.1), of the half angle (0.5 and 1), and 0.5x and 2x
SWITCHES = [s * f for s in (0.25, 0.5, 2 * math.atan(0.1), 1.0) for f in (0.5, 1 - 1e-12, 1 - 1e-6, 1.0, 1 + 1e-6, 1 + 1e-12, 2.0)]
NEAR_PI = [math.pi - x for x in (1e-2, 1e-3, 1e-4, 1e-6, 1e-8)]


def up_to_sign(actual: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    gap = (actual.double() - expected.double()).abs().amax(-1)
    flipped = (actual.double() + expected.double()).abs().amax(-1)
    return torch.minimum(gap, flipped)


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp_is_within_six_eps_at_every_angle(axes, exact_exp, dtype):
    for angle in (*ANGLES, *SWITCHES):
        w = (axes * angle).to(dtype)
        assert max_error_eps(so3.exp(w), exact_exp(w).astype(np.float64)) <= 6, angle


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_is_within_six_eps_at_every_angle(axes, exact_exp, dtype):
    eps = torch.finfo(dtype).eps
    for angle in (*ANGLES, *SWITCHES):
        w = (axes * angle).to(dtype)
        R = torch.from_numpy(exact_exp(w).astype(np.float64)).to(dtype)
        # one rounding step of R is a turn of about eps, so that near pi only w or -w can be asked for
        gap = up_to_sign(so3.log(R), w) if angle > math.pi - 1e-5 else (so3.log(R).double() - w.double()).abs().amax(-1)
        assert gap.max().item() <= 6 * eps, angle


def test_exp_agrees_with_mpmath_to_the_last_digits():
    mpmath.mp.dps = 40
    w = torch.tensor([0.3, -1.1, 0.7], dtype=torch.float64)
    x, y, z = (mpmath.mpf(v) for v in w.tolist())
    truth = mpmath.expm(mpmath.matrix([[0, -z, y], [z, 0, -x], [-y, x, 0]]))
    expected = np.array([[float(truth[i, j]) for j in range(3)] for i in range(3)])
    assert max_error_eps(so3.exp(w), expected) <= 2


def test_log_of_exact_half_turns_has_a_deterministic_sign():
    for axis in ([1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]):
        u = torch.tensor(axis, dtype=torch.float64)
        assert torch.equal(so3.log(2 * torch.outer(u, u) - torch.eye(3, dtype=torch.float64)), u * math.pi)
    u = torch.tensor([0.0, -0.6, 0.8], dtype=torch.float64)
    half_turn = 2 * torch.outer(u, u) - torch.eye(3, dtype=torch.float64)
    assert so3.log(half_turn) == pytest.approx((-u * math.pi).tolist(), abs=1e-15)  # first non-zero component positive


@given(rotation_vectors())
@settings(max_examples=100, deadline=None)
def test_log_inverts_exp(w):
    gap = up_to_sign(so3.log(so3.exp(w)), w) if torch.linalg.vector_norm(w) > math.pi - 1e-7 else (so3.log(so3.exp(w)) - w).abs().amax()
    assert gap.item() <= 20 * torch.finfo(w.dtype).eps


def test_hat_and_vee(rng):
    w, u = torch.randn(2, 5, 3, generator=rng, dtype=torch.float64)
    assert torch.allclose((so3.hat(w) @ u.unsqueeze(-1)).squeeze(-1), torch.linalg.cross(w, u), rtol=0, atol=1e-15)
    assert torch.equal(so3.vee(so3.hat(w)), w)
    symmetric = torch.randn(5, 3, 3, generator=rng, dtype=torch.float64)
    assert torch.allclose(so3.vee(so3.hat(w) + symmetric + symmetric.mT), w, rtol=0, atol=1e-15)


def test_references_are_the_functions(rng):
    w = torch.randn(7, 3, generator=rng)
    with without_kernels():
        assert torch.equal(so3.exp(w), exp_reference(w))
        assert torch.equal(so3.log(so3.exp(w)), log_reference(so3.exp(w)))
    assert torch.equal(so3.rotvec_to_matrix(w), so3.exp(w))
    assert torch.equal(so3.matrix_to_rotvec(so3.exp(w)), so3.log(so3.exp(w)))


# --- derivatives -------------------------------------------------------------------------------------------------------


def exact_left_jacobian(w: torch.Tensor) -> torch.Tensor:
    """``sum W^k / (k + 1)!``, entire, in 50 digits."""
    mpmath.mp.dps = 50
    out = []
    for row in w.double().tolist():
        x, y, z = (mpmath.mpf(v) for v in row)
        W = mpmath.matrix([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        term, total = mpmath.eye(3), mpmath.eye(3)
        for k in range(1, 60):
            term = term * W / (k + 1)
            total += term
        out.append([[float(total[i, j]) for j in range(3)] for i in range(3)])
    return torch.tensor(out, dtype=torch.float64)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-13), (torch.float32, 5e-7)])
def test_jacobians_against_the_series(axes, dtype, bound):
    angles = [a for a in (*ANGLES, 0.2, 0.3, 0.49, 0.51) if a <= math.pi - 1e-3]
    w = torch.cat([axes[:3] * a for a in angles]).to(dtype)
    left = exact_left_jacobian(w)
    assert (so3.left_jacobian(w) - left).abs().max() <= bound
    assert (so3.right_jacobian(w) - left.mT).abs().max() <= bound
    assert (so3.left_jacobian_inverse(w) - torch.linalg.inv(left)).abs().max() <= 3 * bound
    assert (so3.right_jacobian_inverse(w) - torch.linalg.inv(left).mT).abs().max() <= 3 * bound


def test_jacobians_are_finite_at_zero_and_pi(axes):
    for fn in (so3.left_jacobian, so3.right_jacobian, so3.left_jacobian_inverse, so3.right_jacobian_inverse):
        for angle in (0.0, math.pi):
            w = (axes * angle).requires_grad_()
            value = fn(w)
            assert_finite(fn.__name__, [value, torch.autograd.grad(value.sum(), w)[0]])
    assert torch.equal(so3.left_jacobian_inverse(torch.zeros(3)), torch.eye(3))


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-13), (torch.float32, 5e-7)])
def test_autograd_of_exp_is_the_left_jacobian(axes, dtype, bound):
    # d exp(w)[d] = hat(J_l d) exp(w)
    for angle in (a for a in (*ANGLES, 0.2499, 0.2501, 0.499, 0.501) if a <= math.pi - 1e-3):
        w = (axes[:20] * angle).to(dtype)
        J = torch.func.vmap(torch.func.jacrev(so3.exp))(w)
        w64 = w.double()
        expected = so3.hat(so3.left_jacobian(w64).mT) @ so3.exp(w64).unsqueeze(-3)
        assert (J.permute(0, 3, 1, 2) - expected).abs().max() <= bound, angle


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-13), (torch.float32, 5e-7)])
def test_autograd_of_log_is_the_inverse_jacobian(axes, dtype, bound):
    # along tangents hat(d) R the derivative of log is J_l^-1 d, also next to pi
    for angle in (a for a in (*ANGLES, 0.199, 0.2, 0.201) if a <= math.pi - 1e-3):
        w = axes[:20] * angle
        R = so3.exp(w)
        J = torch.func.vmap(torch.func.jacrev(so3.log))(R.to(dtype)).double()
        along = so3.hat(torch.eye(3, dtype=torch.float64)) @ R.unsqueeze(-3)
        got = torch.einsum("nkij,ndij->nkd", J, along)
        assert (got - so3.left_jacobian_inverse(w)).abs().max() <= 2 * bound, angle


def test_log_has_a_bounded_gradient_everywhere(axes):
    for angle in ANGLES:
        R = so3.exp(axes * angle).requires_grad_()
        (g,) = torch.autograd.grad(so3.log(R).sum(), R)
        assert_finite("gradient", g)
        assert g.abs().max() < 10, angle
    exact = torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64)).requires_grad_()
    (g,) = torch.autograd.grad(so3.log(exact).sum(), exact)
    assert_finite("gradient at diag(-1, -1, 1)", g)


def test_round_trip_jacobian_is_the_identity(axes):
    # a tangent-space convention would be off by order one (a known fault of group-typed tensor libraries)
    for angle in (0.0, 1e-8, 1e-3, 0.2, 1.0, 3.0, math.pi - 1e-6):
        J = torch.func.vmap(torch.func.jacrev(lambda w: so3.log(so3.exp(w))))(axes[:10] * angle)
        assert (J - torch.eye(3)).abs().max() < 1e-8, angle


def test_hessian_of_exp_at_zero():
    # exp(w) = I + W + W^2/2 + ..., so the Hessian at 0 of entry ij is the symmetrised (hat_a hat_b + hat_b hat_a)/2
    H = torch.func.hessian(so3.exp)(torch.zeros(3, dtype=torch.float64))
    E = so3.hat(torch.eye(3, dtype=torch.float64))
    products = torch.einsum("aij,bjk->ikab", E, E)
    assert (H - 0.5 * (products + products.transpose(-1, -2))).abs().max() <= 1e-12
    third = torch.func.jacfwd(torch.func.hessian(so3.exp))(torch.zeros(3, dtype=torch.float64))
    assert_finite("third derivative", third)


@pytest.mark.parametrize("angle", [0.0, 1e-4, 0.2, 0.3, 1.0, 3.0, math.pi])
def test_derivatives_of_exp_and_log(axes, angle, check_directional):
    w = axes[:2] * angle
    check_directional(so3.exp, w)
    check_directional(so3.left_jacobian, w)
    check_directional(so3.left_jacobian_inverse, w)
    if angle < math.pi:  # numerical differences step across the cut at pi
        check_directional(so3.log, so3.exp(w))


def test_non_rotations_give_finite_values_and_gradients():
    M = (
        torch.stack([torch.zeros(3, 3), -torch.eye(3), torch.ones(3, 3), torch.diag(torch.tensor([1.0, 1.0, -1.0]))])
        .double()
        .requires_grad_()
    )
    for fn in (so3.log, so3.matrix_to_quat):
        value = fn(M)
        assert_finite(fn.__name__, [value, torch.autograd.grad(value.sum(), M)[0]])


# --- parity ------------------------------------------------------------------------------------------------------------


def test_parity_with_scipy_and_roma(rng):
    w = torch.randn(500, 3, generator=rng, dtype=torch.float64)
    R = so3.exp(w)
    assert max_error_eps(R, Rotation.from_rotvec(w.numpy()).as_matrix()) <= 8
    assert max_error_eps(R, roma.rotvec_to_rotmat(w)) <= 8
    assert max_error_eps(so3.log(R), Rotation.from_matrix(R.numpy()).as_rotvec()) <= 16


def test_batch_entries_do_not_mix(axes):
    # a near-pi branch normalised over the batch is a known fault: bitwise independence of order and of company
    w = torch.cat([axes[:8] * a for a in ANGLES])
    R = so3.exp(w)
    order = torch.randperm(len(w), generator=torch.Generator().manual_seed(1))
    assert torch.equal(so3.log(R)[order], so3.log(R[order]))
    split = torch.cat([so3.log(part) for part in R.split(7)])
    assert (split - so3.log(R)).abs().max() <= 2 * torch.finfo(torch.float64).eps
