"""SE(2), SE(3) and Sim(3): one list of groups, one set of laws, and 50-digit references."""

import math
from types import SimpleNamespace

import mpmath
import pytest
import torch
from scipy.spatial.transform import RigidTransform

from geocore import se2, se3, sim3, so3
from geocore.testing import ANGLES, check_batching, check_half, check_transforms, max_error_eps

GROUPS = {
    "se2": SimpleNamespace(room=se2, size=3, dim=3, space=2),
    "se3": SimpleNamespace(room=se3, size=4, dim=6, space=3),
    "sim3": SimpleNamespace(room=sim3, size=4, dim=7, space=3),
}


@pytest.fixture(params=GROUPS)
def group(request):
    return GROUPS[request.param]


def twists(group, count=6, angle=None, seed=0, dtype=torch.float64):
    xi = torch.randn(count, group.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    if group.dim == 3:
        xi[:, 2] = xi[:, 2].clamp(-3, 3) if angle is None else angle
    else:
        axis = xi[:, 3:6] / xi[:, 3:6].norm(dim=-1, keepdim=True)
        xi[:, 3:6] = axis * (xi[:, 3:6].norm(dim=-1, keepdim=True).clamp(max=3.0) if angle is None else angle)
    return xi.to(dtype)


def reference_exp(group, xi):
    """Matrix exponential with 50 digits."""
    mpmath.mp.dps = 50
    X = group.room.hat(xi.double())
    out = [mpmath.expm(mpmath.matrix(x.tolist()), method="taylor") for x in X]
    return torch.tensor([[[float(m[i, j]) for j in range(group.size)] for i in range(group.size)] for m in out], dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("angle", ANGLES)
def test_exp_and_log_are_accurate_at_every_angle(group, angle, dtype):
    xi = twists(group, 3, angle, dtype=dtype)
    if group.dim == 7:
        xi[:, 6] = torch.tensor([0.0, 1e-6, 0.7], dtype=dtype)
    T = group.room.exp(xi)
    want = reference_exp(group, xi)
    scale = (1 + want[..., :-1, -1].norm(dim=-1)).amax().item() * (want.abs().max().item() if group.dim == 7 else 1.0)
    assert max_error_eps(T, want, scale=scale) <= 10
    if angle > math.pi - 1e-6:  # the axis has two signs there: the motion must come back, not the twist
        again = group.room.exp(group.room.log(T))
        assert max_error_eps(again, T.double(), scale=scale) <= 20
        return
    # the input of log is rounded: its own error is a few eps, amplified by the log's condition, at most pi / 2 here
    assert max_error_eps(group.room.log(want.to(dtype)), xi.double(), scale=scale) <= 10


def test_known_values():
    quarter = torch.tensor([0.0, 0.0, math.pi / 2], dtype=torch.float64)
    T = se2.exp(torch.tensor([1.0, 0.0, math.pi / 2], dtype=torch.float64))
    torch.testing.assert_close(T[:2, 2], torch.tensor([2 / math.pi, 2 / math.pi], dtype=torch.float64))
    T = se3.exp(torch.cat([torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64), quarter]))
    torch.testing.assert_close(T[:3, 3], torch.tensor([2 / math.pi, 2 / math.pi, 2.0], dtype=torch.float64))
    T = sim3.exp(torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, 0.0, math.log(2)], dtype=torch.float64))
    torch.testing.assert_close(T[0, 3], torch.tensor(1 / math.log(2), dtype=torch.float64))
    assert T[0, 0] == pytest.approx(2)


def test_agrees_with_scipy():
    xi = twists(GROUPS["se3"], 20)
    theirs = RigidTransform.from_exp_coords(xi[:, [3, 4, 5, 0, 1, 2]].numpy())
    torch.testing.assert_close(se3.exp(xi), torch.from_numpy(theirs.as_matrix()), rtol=0, atol=1e-13)
    torch.testing.assert_close(se3.log(se3.exp(xi))[:, [3, 4, 5, 0, 1, 2]], torch.from_numpy(theirs.as_exp_coords()), rtol=0, atol=1e-13)


def test_transposed_convention_is_caught():
    """A motion of the row-vector convention is not one of ours: translation in the last row is lost, so parity must fail."""
    xi = twists(GROUPS["se3"], 5)
    T = se3.exp(xi)
    points = torch.randn(5, 3, dtype=torch.float64)
    assert (se3.act(T.mT, points) - se3.act(T, points)).abs().max() > 0.1
    assert (se3.log(T.mT) - xi).abs().max() > 0.1


def test_group_laws(group):
    g = group.room
    A, B, C = (g.exp(twists(group, seed=s)) for s in range(3))
    eye = torch.eye(group.size, dtype=torch.float64).expand_as(A)
    points = torch.randn(6, group.space, dtype=torch.float64)
    close = lambda a, b: torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)  # noqa: E731
    close(g.compose(A, g.inverse(A)), eye)
    close(g.compose(A, g.compose(B, C)), g.compose(g.compose(A, B), C))
    close(g.compose(A, B), A @ B)
    close(g.act(g.compose(A, B), points), g.act(A, g.act(B, points)))
    close(g.act(A[:, None], points), torch.stack([g.act(a, points) for a in A]))
    close(g.exp(torch.zeros(group.dim, dtype=torch.float64)), eye[0])
    close(g.inverse(A), g.exp(-g.log(A)))
    close(g.vee(g.hat(twists(group))), twists(group))


def test_adjoint_and_jacobians(group):
    g = group.room
    xi, d = twists(group), twists(group, seed=5)
    T = g.exp(xi)
    moved = g.vee(T @ g.hat(d) @ g.inverse(T))
    torch.testing.assert_close((g.adjoint(T) @ d[..., None])[..., 0], moved, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(g.adjoint(g.compose(T, T)), g.adjoint(T) @ g.adjoint(T), rtol=1e-11, atol=1e-11)
    for angle in (0.0, 1e-9, 1e-3, 0.5, 1.9999, 2.0001, 3.1):
        xi = twists(group, angle=angle)
        slopes = torch.func.vmap(torch.func.jacfwd(g.exp))(xi)
        back = g.inverse(g.exp(xi))
        numeric = torch.stack([g.vee(slopes[..., i] @ back) for i in range(group.dim)], dim=-1)
        torch.testing.assert_close(g.left_jacobian(xi), numeric, rtol=1e-12, atol=1e-12)
        if hasattr(g, "left_jacobian_inverse"):
            eye = torch.eye(group.dim, dtype=torch.float64).expand(6, -1, -1)
            torch.testing.assert_close(g.left_jacobian_inverse(xi) @ g.left_jacobian(xi), eye, rtol=0, atol=1e-12)


def test_interpolation_meets_the_ends_at_constant_velocity(group):
    g = group.room
    A, B = g.exp(twists(group, seed=1)), g.exp(twists(group, seed=2))
    s = torch.linspace(0, 1, 5, dtype=torch.float64)
    path = g.interpolate(A[0], B[0], s)
    torch.testing.assert_close(path[0], A[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(path[-1], B[0], rtol=1e-12, atol=1e-12)
    steps = g.log(g.compose(g.inverse(path[:-1]), path[1:]))
    torch.testing.assert_close(steps, steps[:1].expand_as(steps), rtol=1e-10, atol=1e-10)


def test_parts_round_trip():
    R, t = so3.random((4,), dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    torch.testing.assert_close(se3.to_rt(se3.from_rt(R, t)), (R, t))
    s = torch.rand(4, dtype=torch.float64) + 0.1
    torch.testing.assert_close(sim3.to_srt(sim3.from_srt(s, R, t)), (s, R, t))
    assert se3.from_rt(R, t[0]).shape == (4, 4, 4)


@pytest.mark.parametrize("angle", [None, 0.0, 1e-8])
def test_derivatives(group, angle, check_directional):
    xi = twists(group, 2, angle)
    if group.dim == 7 and angle == 0.0:
        xi[:, 6] = 0.0
    check_directional(group.room.exp, xi)
    check_directional(lambda x: group.room.log(group.room.exp(x)), xi)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda x: group.room.log(group.room.exp(x))))(xi)
    assert (jacobian - torch.eye(group.dim, dtype=torch.float64)).abs().max() < 1e-12


def test_gradient_of_log_is_finite_at_pi(group):
    T = group.room.exp(twists(group, 3, math.pi)).requires_grad_()
    (grad,) = torch.autograd.grad(group.room.log(T).sum(), T)
    assert torch.isfinite(grad).all()


def test_transforms_batches_precision(group):
    g, xi = group.room, twists(group, 4)
    check_batching(lambda x: (g.exp(x), g.log(g.exp(x)), g.adjoint(g.exp(x)), g.left_jacobian(x)), xi, atol=1e-13)
    # Compiled calls are in the matrix suite; compiled transforms in tests/ops, for the maps of so3: the rest is made of torch's operators.
    check_transforms(lambda x: g.log(g.exp(x)), xi, compile=False, compiled_transforms=False)

    check_half(g.exp, xi)
    check_half(g.left_jacobian, xi)


@pytest.mark.bad_input
def test_errors(group):
    g, n, d = group.room, group.size, group.dim
    with pytest.raises(ValueError, match=rf"xi must have shape \(..., {d}\), got \(2,\)"):
        g.exp(torch.zeros(2))
    with pytest.raises(ValueError, match=rf"T must have shape \(..., {n}, {n}\)"):
        g.log(torch.zeros(n, n + 1))
    with pytest.raises(ValueError, match="points are not homogeneous"):
        g.act(torch.eye(n), torch.zeros(n))
    with pytest.raises(TypeError, match="floating-point"):
        g.exp(torch.zeros(d, dtype=torch.int64))
    with pytest.raises(NotImplementedError, match="complex"):
        g.inverse(torch.eye(n, dtype=torch.complex64))
    with pytest.raises(ValueError, match="must broadcast"):
        g.compose(torch.eye(n).expand(2, n, n), torch.eye(n).expand(3, n, n))
