import math

import pytest
import roma
import torch
from scipy.spatial.transform import Rotation

from geocore import so3
from geocore.testing import assert_finite, max_error_eps


def directions(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_align_recovers_a_similarity(rng):
    x = torch.randn(6, 20, 3, generator=rng, dtype=torch.float64)
    R = so3.random(6, generator=rng, dtype=torch.float64)
    t = torch.randn(6, 3, generator=rng, dtype=torch.float64)
    y = 1.7 * x @ R.mT + t.unsqueeze(-2)
    fit = so3.align(x, y, scale=True)
    assert max_error_eps(fit.rotation, R) <= 32
    assert max_error_eps(fit.translation, t) <= 128
    assert max_error_eps(fit.scale, torch.full((6,), 1.7, dtype=torch.float64)) <= 32
    plain = so3.align(x, x @ R.mT, translation=False)
    assert max_error_eps(plain.rotation, R) <= 32
    assert (plain.translation == 0).all()
    assert (plain.scale == 1).all()


def test_align_agrees_with_roma_and_scipy_on_noise(rng):
    x, y = torch.randn(2, 5, 30, 3, generator=rng, dtype=torch.float64)
    w = torch.rand(5, 30, generator=rng, dtype=torch.float64)
    R, t, s = roma.rigid_points_registration(x, y, weights=w, compute_scaling=True)
    fit = so3.align(x, y, w, scale=True)
    assert (fit.rotation - R).abs().max() < 1e-12
    assert (fit.translation - t).abs().max() < 1e-12
    assert (fit.scale - s).abs().max() < 1e-12
    for k in range(5):
        truth, _ = Rotation.align_vectors(y[k].numpy(), x[k].numpy(), weights=w[k].numpy())
        assert (so3.align(x[k], y[k], w[k], translation=False).rotation - torch.from_numpy(truth.as_matrix())).abs().max() < 1e-12


def test_align_never_reflects(rng):
    x = torch.randn(10, 3, generator=rng, dtype=torch.float64)
    mirrored = x * torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    assert torch.linalg.det(so3.align(x, mirrored).rotation).item() == pytest.approx(1.0, abs=1e-14)


def test_undetermined_alignments_are_rotations_with_finite_gradients(rng):
    point = torch.randn(1, 3, generator=rng, dtype=torch.float64)
    line = torch.linspace(-1, 1, 5, dtype=torch.float64).unsqueeze(-1) * point
    for x, y in ((point, 2 * point), (line, line.flip(-1)), (torch.zeros(4, 3).double(), torch.zeros(4, 3).double())):
        x = x.clone().requires_grad_()
        fit, degenerate = so3.align(x, y, scale=True, return_info=True)
        assert bool(degenerate)
        assert max_error_eps(fit.rotation @ fit.rotation.mT, torch.eye(3)) <= 16
        assert_finite("gradient", torch.autograd.grad(fit.rotation.sum() + fit.translation.sum() + fit.scale.sum(), x))
    _, degenerate = so3.align(*torch.randn(2, 6, 3, generator=rng, dtype=torch.float64), return_info=True)
    assert not degenerate


def test_align_derivatives(rng, check_directional):
    x, y = torch.randn(2, 2, 5, 3, generator=rng, dtype=torch.float64)
    w = torch.rand(2, 5, generator=rng, dtype=torch.float64) + 0.1
    check_directional(lambda x, y, w: so3.align(x, y, w, scale=True), x, y, w)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rotation_between_at_every_angle(axes, dtype):
    a = axes
    rng = torch.Generator().manual_seed(11)  # not the seed of the axes: parallel vectors have no side
    side = torch.linalg.cross(a, torch.randn(len(a), 3, generator=rng, dtype=torch.float64))
    side = side / torch.linalg.vector_norm(side, dim=-1, keepdim=True)
    eps = torch.finfo(dtype).eps
    for angle in (0.0, 1e-9, 1e-4, 1.0, math.pi / 2, 3.0, math.pi - 1e-4, math.pi - 1e-6, math.pi - 1e-9, math.pi):
        b = (math.cos(angle) * a + math.sin(angle) * side).to(dtype)
        R = so3.rotation_between(3 * a.to(dtype), 0.5 * b)
        assert max_error_eps((R @ a.to(dtype).unsqueeze(-1)).squeeze(-1), b.double()) <= 8, angle
        assert max_error_eps(R @ R.mT, torch.eye(3).expand_as(R)) <= 16
        # the smallest such rotation: its angle is the angle between the vectors
        assert (so3.geodesic(R.double(), torch.eye(3, dtype=torch.float64)) - angle).abs().max() <= 16 * eps


def test_rotation_between_in_degenerate_cases():
    e = torch.eye(3, dtype=torch.float64)
    zero = torch.zeros(3, dtype=torch.float64)
    assert torch.equal(so3.rotation_between(zero, e[0]), e)
    assert torch.equal(so3.rotation_between(e[0], zero), e)
    assert torch.equal(so3.rotation_between(e[1], e[1]), e)
    for a, b in (
        (e[0], -e[0]),
        (e[2], -e[2]),
        (zero, e[1]),
        (zero, zero),
        (e[1], e[1]),
        (directions([1, 1, 1])[0], -directions([1, 1, 1])[0]),
    ):
        a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
        R = so3.rotation_between(a, b)
        assert torch.linalg.det(R).item() == pytest.approx(1.0, abs=1e-14)
        assert_finite("gradient", torch.autograd.grad(R.sum(), (a, b)))


def test_rotation_between_derivatives(check_directional):
    check_directional(so3.rotation_between, directions([1, 2, 3], [1, 0, 0.2]), directions([0.5, -1, 1], [-1, 0.1, 0]))
