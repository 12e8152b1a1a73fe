import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from geocore import so3
from geocore.testing import ANGLES, assert_finite, max_error_eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_geodesic_is_within_four_eps_at_every_angle(axes, exact_exp, dtype):
    # R2 = I exactly, so that the angle of the rounded R1 is the only error besides our own
    for angle in (*ANGLES, math.pi / 2 - 1e-3, 2.5):
        R = torch.from_numpy(exact_exp(axes * angle).astype("float64")).to(dtype)
        gap = (so3.geodesic(R, torch.eye(3, dtype=dtype)).double() - angle).abs().max().item()
        assert gap <= 4 * torch.finfo(dtype).eps, angle


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_geodesic_between_two_rotations(axes, rng, dtype):
    base = so3.random(len(axes), generator=rng, dtype=torch.float64)
    for angle in ANGLES:
        R = so3.exp(axes * angle) @ base
        gap = (so3.geodesic(R.to(dtype), base.to(dtype)).double() - angle).abs().max().item()
        assert gap <= 8 * torch.finfo(dtype).eps, angle  # both inputs are rounded


def test_geodesic_of_equal_rotations_is_zero(rng):
    R = so3.random(1000, generator=rng)
    assert (so3.geodesic(R, R) <= 4 * torch.finfo(torch.float32).eps).all()


@pytest.mark.parametrize("angle", [0.0, 1e-8, 1e-4, 1.0, math.pi - 1e-4, math.pi - 1e-8, math.pi])
def test_gradients_of_the_distances_are_finite_and_small(axes, angle):
    R1 = so3.exp(axes * angle).requires_grad_()
    R2 = torch.eye(3, dtype=torch.float64).requires_grad_()
    for fn in (so3.geodesic, so3.chordal):
        for g in torch.autograd.grad(fn(R1, R2.expand_as(R1)).sum(), (R1, R2)):
            assert_finite(fn.__name__, g)
        (g,) = torch.autograd.grad(fn(R1, R2.expand_as(R1)).sum(), R1)
        assert g.abs().max() <= 3  # arc cosine and arc sine forms reach 1e2 to infinity here
    same = R1.detach().clone().requires_grad_()
    (g,) = torch.autograd.grad(so3.geodesic(same, same.detach()).sum(), same)
    assert_finite("gradient at equality", g)


def test_gradient_is_zero_at_equality_and_at_pi():
    I = torch.eye(3, dtype=torch.float64)  # noqa: E741
    for other in (I, torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))):
        R = other.clone().requires_grad_()
        (g,) = torch.autograd.grad(so3.geodesic(R, I), R)
        assert (so3.hat(torch.eye(3, dtype=torch.float64)) @ other * g).sum((-1, -2)).abs().max() == 0  # along the group


def test_distances_agree_with_each_other_and_scipy(rng):
    A, B = so3.random((2, 200), generator=rng, dtype=torch.float64)
    angle = so3.geodesic(A, B)
    truth = (Rotation.from_matrix(A.numpy()) * Rotation.from_matrix(B.numpy()).inv()).magnitude()
    assert max_error_eps(angle, truth) <= 32
    assert max_error_eps(so3.chordal(A, B), 2 * math.sqrt(2) * torch.sin(angle / 2)) <= 32
    assert torch.equal(so3.geodesic(A, B), so3.geodesic(B, A))
    assert max_error_eps(so3.geodesic(A, torch.eye(3, dtype=torch.float64)), torch.linalg.vector_norm(so3.log(A), dim=-1)) <= 32


def test_distance_derivatives(rng, check_directional):
    A, B = so3.random((2, 3), generator=rng, dtype=torch.float64)
    check_directional(so3.geodesic, A, B)
    check_directional(so3.chordal, A, B)
