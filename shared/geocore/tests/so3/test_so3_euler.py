import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from geocore import so3
from geocore.testing import assert_finite, max_error_eps

TAIT_BRYAN = [e for e in so3.EULER_CONVENTIONS if len(set(e)) == 3]


def at_lock(euler: str, n: int = 60) -> torch.Tensor:
    g = torch.Generator().manual_seed(3)
    angles = (torch.rand(n, 3, generator=g, dtype=torch.float64) * 2 - 1) * 3
    ends = (-math.pi / 2, math.pi / 2) if euler in TAIT_BRYAN else (0.0, math.pi)
    angles[:, 1] = torch.tensor(ends, dtype=torch.float64).repeat(n // 2)
    return angles


def test_there_are_twenty_four_conventions():
    assert len(set(so3.EULER_CONVENTIONS)) == 24


@pytest.mark.parametrize("euler", so3.EULER_CONVENTIONS)
def test_every_convention_agrees_with_scipy(rng, euler):
    R = so3.random(200, generator=rng, dtype=torch.float64)
    truth = Rotation.from_matrix(R.numpy())
    angles = so3.matrix_to_euler(R, euler)
    assert (angles - torch.from_numpy(truth.as_euler(euler))).abs().max() < 1e-12
    assert max_error_eps(so3.euler_to_matrix(angles, euler), R) <= 8
    q = so3.euler_to_quat(angles, euler)
    assert max_error_eps(so3.standardize(q), so3.matrix_to_quat(R)) <= 8
    assert (so3.quat_to_euler(-2.0 * q, euler) - angles).abs().max() < 1e-12
    assert (so3.rotvec_to_euler(so3.log(R), euler) - angles).abs().max() < 1e-12
    assert max_error_eps(so3.euler_to_rotvec(angles, euler), so3.log(R)) <= 32


@pytest.mark.parametrize("euler", so3.EULER_CONVENTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gimbal_lock(euler, dtype):
    R = so3.euler_to_matrix(at_lock(euler).to(dtype), euler)
    angles, locked = so3.matrix_to_euler(R, euler, return_info=True)
    assert locked.all()
    assert (angles[:, 2] == 0).all()
    assert max_error_eps(so3.euler_to_matrix(angles, euler), R.double()) <= 8


@pytest.mark.parametrize("euler", ["XYZ", "zyx", "ZXZ", "yxy"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip_next_to_gimbal_lock(euler, dtype):
    for distance in (1e-12, 1e-9, 1e-7, 1e-5, 1e-3):
        angles = at_lock(euler)
        angles[:, 1] += torch.where(angles[:, 1] > (1.0 if euler not in TAIT_BRYAN else 0.0), -distance, distance)
        R = so3.euler_to_matrix(angles, euler).to(dtype)
        assert max_error_eps(so3.euler_to_matrix(so3.matrix_to_euler(R, euler), euler), R.double()) <= 8, distance


def test_the_mask_is_off_away_from_lock(rng):
    _, locked = so3.matrix_to_euler(so3.random(500, generator=rng), "ZYX", return_info=True)
    assert not locked.any()
    _, locked = so3.quat_to_euler(torch.tensor([1.0, 0, 0, 0]), "ZYX", return_info=True)
    assert not locked
    _, locked = so3.quat_to_euler(torch.tensor([1.0, 0, 0, 0]), "ZYZ", return_info=True)
    assert locked


def test_case_is_intrinsic_against_extrinsic():
    a = torch.tensor([0.3, -0.5, 1.1], dtype=torch.float64)
    X, Y, Z = (so3.exp(row) for row in torch.diag(a))
    assert max_error_eps(so3.euler_to_matrix(a, "XYZ"), X @ Y @ Z) <= 4
    assert max_error_eps(so3.euler_to_matrix(a, "xyz"), Z @ Y @ X) <= 4
    assert (so3.euler_to_matrix(a, "XYZ") - so3.euler_to_matrix(a, "xyz")).abs().max() > 0.1
    assert max_error_eps(so3.euler_to_matrix(a.flip(0), "ZYX"), so3.euler_to_matrix(a, "xyz")) <= 4


@pytest.mark.parametrize("euler", ["XYZ", "zxz", "YZX", "xyx"])
def test_euler_derivatives(rng, euler, check_directional):
    check_directional(lambda a: so3.euler_to_matrix(a, euler), torch.randn(2, 3, generator=rng, dtype=torch.float64))
    check_directional(lambda R: so3.matrix_to_euler(R, euler), so3.random(2, generator=rng, dtype=torch.float64))


@pytest.mark.parametrize("euler", so3.EULER_CONVENTIONS)
def test_gradients_are_finite_at_lock_and_half_turns(euler):
    half_turns = so3.exp(math.pi * torch.eye(3, dtype=torch.float64))
    R = torch.cat([so3.euler_to_matrix(at_lock(euler, 8), euler), half_turns, torch.eye(3).double()[None]]).requires_grad_()
    angles = so3.matrix_to_euler(R, euler)
    (g,) = torch.autograd.grad(angles.square().sum(), R, create_graph=True)
    assert_finite("angles and gradients", [angles, g, *torch.autograd.grad(g.sum(), R)])
