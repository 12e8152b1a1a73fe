import math

import pytest
import roma
import torch
from scipy.spatial.transform import Rotation, Slerp
from scipy.spatial.transform import RotationSpline as ScipySpline

from geocore import so3
from geocore.testing import assert_finite, max_error_eps


def test_slerp_agrees_with_scipy_and_roma(rng):
    a, b = so3.random((2, 30), generator=rng, dtype=torch.float64)
    for t in (0.0, 0.25, 0.7, 1.0):
        truth = torch.stack(
            [
                torch.from_numpy(Slerp([0, 1], Rotation.from_matrix(torch.stack([p, q]).numpy()))(t).as_matrix())
                for p, q in zip(a, b, strict=True)
            ]
        )
        assert max_error_eps(so3.slerp(a, b, t), truth) <= 32
        p, q = so3.matrix_to_quat(a, order="xyzw"), so3.matrix_to_quat(b, order="xyzw")
        theirs = roma.unitquat_slerp(p, q, torch.tensor([t], dtype=torch.float64), shortest_arc=True)[0]
        assert max_error_eps(so3.quat_to_matrix(so3.slerp(p, q, t, order="xyzw"), order="xyzw"), roma.unitquat_to_rotmat(theirs)) <= 32


def test_slerp_ends_speed_and_broadcasting(rng):
    a, b = so3.random((2, 8), generator=rng, dtype=torch.float64)
    assert max_error_eps(so3.slerp(a, b, 0.0), a) <= 8
    assert max_error_eps(so3.slerp(a, b, 1.0), b) <= 16
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    path = so3.slerp(a[0], b[0], t)
    assert path.shape == (11, 3, 3)
    assert so3.slerp(a.unsqueeze(1), b.unsqueeze(1), t).shape == (8, 11, 3, 3)
    steps = so3.geodesic(path[1:], path[:-1])
    assert (steps - so3.geodesic(a[0], b[0]) / 10).abs().max() < 1e-14
    assert max_error_eps(so3.slerp(a, a, 0.3), a) <= 8


def test_slerp_long_way_round():
    q = so3.rotvec_to_quat(torch.tensor([[0.0, 0, 0], [0, 0, 1.0]], dtype=torch.float64))
    near = so3.quat_to_rotvec(so3.slerp(q[0], -q[1], 0.5))
    far = so3.quat_to_rotvec(so3.slerp(q[0], -q[1], 0.5, shortest=False))
    assert near.tolist() == pytest.approx([0, 0, 0.5], abs=1e-15)
    assert far.tolist() == pytest.approx([0, 0, 0.5 - math.pi], abs=1e-14)


def test_slerp_gradients_at_equal_and_opposite_rotations():
    for w in ([0.0, 0, 0], [1e-9, 0, 0], [math.pi, 0, 0], [0, math.pi - 1e-9, 0]):
        a = torch.eye(3, dtype=torch.float64).requires_grad_()
        b = so3.exp(torch.tensor(w, dtype=torch.float64)).requires_grad_()
        out = so3.slerp(a, b, 0.4)
        assert_finite("slerp", [out, *torch.autograd.grad(out.sum(), (a, b))])
    p = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64, requires_grad=True)
    for q in (p, -p):
        out = so3.slerp(p, q, 0.4, shortest=False)
        assert_finite("slerp of q and -q", [out, *torch.autograd.grad(out.sum(), p)])


def test_interpolation_derivatives(rng, check_directional):
    a, b, c, d = torch.randn(4, 2, 4, generator=rng, dtype=torch.float64)
    t = torch.tensor([0.3, 0.8], dtype=torch.float64)
    check_directional(so3.slerp, a, b, t)
    check_directional(so3.squad, a, b, c, d, t, second=False)


def test_squad(rng):
    w = torch.randn(5, 3, generator=rng, dtype=torch.float64) * 0.5
    q = so3.rotvec_to_quat(w.cumsum(0))
    s = so3.squad_controls(q)
    assert max_error_eps(s[0], q[0]) <= 4
    for t, end in ((0.0, q[1]), (1.0, q[2])):
        assert max_error_eps(so3.standardize(so3.squad(q[1], q[2], s[1], s[2], t)), so3.standardize(end)) <= 16
    # continuous velocity across a knot, which piecewise slerp does not have
    h = 1e-5
    point = so3.quat_to_matrix(q[2])
    before = so3.log(so3.quat_to_matrix(so3.squad(q[1], q[2], s[1], s[2], 1 - h)).mT @ point) / h
    after = so3.log(point.mT @ so3.quat_to_matrix(so3.squad(q[2], q[3], s[2], s[3], h))) / h
    assert (before - after).abs().max() < 1e-3
    kink = so3.log(point.mT @ so3.quat_to_matrix(so3.slerp(q[2], q[3], h))) / h
    assert (before - kink).abs().max() > 1e-2
    R = so3.quat_to_matrix(q)
    assert max_error_eps(so3.squad_controls(R), so3.quat_to_matrix(s)) <= 16
    assert (
        max_error_eps(
            so3.squad(R[1], R[2], so3.quat_to_matrix(s[1]), so3.quat_to_matrix(s[2]), 0.3),
            so3.quat_to_matrix(so3.squad(q[1], q[2], s[1], s[2], 0.3)),
        )
        <= 32
    )
    # signs of the inputs do not matter
    assert (
        max_error_eps(
            so3.quat_to_matrix(so3.squad(q[1], -q[2], -s[1], s[2], 0.3)), so3.quat_to_matrix(so3.squad(q[1], q[2], s[1], s[2], 0.3))
        )
        <= 8
    )


@pytest.mark.parametrize("n", [2, 3, 8])
def test_spline_agrees_with_scipy(rng, n):
    w = 0.6 * torch.randn(n, 3, generator=rng, dtype=torch.float64)
    knots = so3.exp(w)
    times = torch.linspace(0, 1, n, dtype=torch.float64) ** 2 * 5 + torch.linspace(0, 1, n, dtype=torch.float64)
    ours, theirs = so3.RotationSpline(knots, times), ScipySpline(times.numpy(), Rotation.from_matrix(knots.numpy()))
    t = torch.linspace(0, 6, 97, dtype=torch.float64)
    # their iteration stops at 1e-9 in the velocities
    assert (ours(t) - torch.from_numpy(theirs(t.numpy()).as_matrix())).abs().max() < 1e-8
    assert (ours(t, 1) - torch.from_numpy(theirs(t.numpy(), 1))).abs().max() < 1e-7
    assert (ours(t, 2) - torch.from_numpy(theirs(t.numpy(), 2))).abs().max() < 1e-6


def test_spline_laws(rng):
    times = torch.tensor([0.0, 0.5, 1.2, 2.0, 3.5], dtype=torch.float64)
    knots = so3.exp(0.7 * torch.randn(3, 5, 3, generator=rng, dtype=torch.float64))
    spline = so3.RotationSpline(knots, times, iterations=30)
    assert max_error_eps(spline(times), knots) <= 32
    assert spline(torch.zeros(2, 7, dtype=torch.float64)).shape == (3, 2, 7, 3, 3)
    assert spline(0.3, 1).shape == (3, 3)
    inner, h = times[1:-1], 1e-9
    for derivative, bound in ((1, 1e-7), (2, 1e-6)):
        assert (spline(inner - h, derivative) - spline(inner + h, derivative)).abs().max() < bound
    # the derivatives are those of the curve, in the moving frame
    t = torch.tensor([0.2, 0.9, 3.0], dtype=torch.float64)
    R, dR = torch.func.jvp(spline, (t,), (torch.ones_like(t),))
    assert (dR - R @ so3.hat(spline(t, 1))).abs().max() < 1e-13
    _, acceleration = torch.func.jvp(lambda t: spline(t, 1), (t,), (torch.ones_like(t),))
    assert (acceleration - spline(t, 2)).abs().max() < 1e-12
    for k in range(3):
        assert torch.allclose(so3.RotationSpline(knots[k], times, iterations=30)(t), spline(t)[k], rtol=0, atol=1e-14)


def test_spline_of_quaternions_and_half(rng):
    w = 0.5 * torch.randn(4, 3, generator=rng, dtype=torch.float64)
    t = torch.linspace(0, 3, 9, dtype=torch.float64)
    q = so3.rotvec_to_quat(w, order="xyzw")
    by_quat = so3.RotationSpline(q * torch.tensor([[1.0], [-1], [1], [1]]), [0, 1, 2, 3], order="xyzw")(t)
    assert max_error_eps(so3.quat_to_matrix(by_quat, order="xyzw"), so3.RotationSpline(so3.exp(w), [0, 1, 2, 3])(t)) <= 32
    half = so3.RotationSpline(so3.exp(w).to(torch.bfloat16), [0, 1, 2, 3])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for derivative in (0, 1, 2):
            assert half(t, derivative).dtype == torch.bfloat16
    assert (half(t).double() - so3.RotationSpline(so3.exp(w), [0, 1, 2, 3])(t)).abs().max() < 0.05


def test_spline_of_equal_knots_is_constant_with_finite_gradients():
    knots = torch.eye(3, dtype=torch.float64).expand(4, 3, 3).clone().requires_grad_()
    spline = so3.RotationSpline(knots, [0.0, 1.0, 2.0, 4.0])
    out = [spline(torch.tensor([0.0, 0.5, 1.0, 4.0, 5.0], dtype=torch.float64), k) for k in range(3)]
    assert max_error_eps(out[0], torch.eye(3).expand(5, 3, 3)) == 0
    assert_finite("gradients", torch.autograd.grad(sum(o.sum() for o in out), knots))


def test_spline_derivatives(rng, check_directional):
    w = 0.5 * torch.randn(3, 3, generator=rng, dtype=torch.float64)
    t = torch.tensor([0.3, 1.4], dtype=torch.float64)
    check_directional(lambda w, t: so3.RotationSpline(so3.exp(w), [0.0, 1.0, 2.5], iterations=2)(t), w, t, second=False)
    check_directional(lambda w, t: so3.RotationSpline(so3.exp(w), [0.0, 1.0, 2.5], iterations=2)(t, 2), w, t, second=False)
