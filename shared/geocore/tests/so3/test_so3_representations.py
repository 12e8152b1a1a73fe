import itertools
import math

import pytest
import roma
import torch

from geocore import so3
from geocore.testing import assert_finite, max_error_eps

DTYPES = [torch.float32, torch.float64]
DECODERS = {5: so3.from_5d, 6: so3.from_6d, 9: so3.from_9d, 10: so3.from_10d}
ENCODERS = {5: so3.to_5d, 6: so3.to_6d, 9: so3.to_9d, 10: so3.to_10d}


def orthogonality(R: torch.Tensor) -> float:
    R = R.double()
    return max((R @ R.mT - torch.eye(3)).abs().max().item(), (torch.linalg.det(R) - 1).abs().max().item())


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 5e-7), (torch.float64, 1e-14)])
@pytest.mark.parametrize("dim", [5, 6])
def test_decodes_are_rotations(rng, dim, dtype, bound):
    v = torch.randn(100_000, dim, generator=rng, dtype=dtype)
    assert orthogonality(DECODERS[dim](v)) <= bound


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize("dim", [9, 10])
def test_spectral_decodes_are_rotations(rng, dim, dtype, bound):
    assert orthogonality(DECODERS[dim](torch.randn(20_000, dim, generator=rng, dtype=dtype))) <= bound


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [5, 6, 9, 10])
def test_encode_then_decode(axes, dim, dtype):
    for angle in (0.0, 1e-6, 1.0, math.pi - 1e-4, math.pi):
        R = so3.exp(axes[:100] * angle).to(dtype)
        v = ENCODERS[dim](R)
        assert v.shape == (100, dim)
        assert max_error_eps(DECODERS[dim](v), R.double()) <= (8 if dim == 6 else 16), angle


def test_6d_is_the_first_two_columns():
    R = torch.arange(9.0).reshape(3, 3)
    assert so3.to_6d(R).tolist() == [0, 3, 6, 1, 4, 7]
    v = torch.tensor([0.0, 2, 0, -3, 1, 0])
    assert torch.equal(so3.from_6d(v), torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]))


def test_6d_rows_are_told_apart(rng):
    # negative control: libraries that read the first two rows get the transpose
    R = so3.random(20, generator=rng, dtype=torch.float64)
    rows = R[:, :2, :].flatten(-2)
    assert max_error_eps(so3.from_6d(rows), R.mT) <= 8
    assert (so3.from_6d(rows) - R).abs().amax((-1, -2)).min() > 1e-2


def test_parity_with_roma(rng):
    v = torch.randn(500, 6, generator=rng, dtype=torch.float64)
    assert (so3.from_6d(v) - roma.special_gramschmidt(v.unflatten(-1, (2, 3)).mT)).abs().max() < 1e-11
    v = torch.randn(500, 10, generator=rng, dtype=torch.float64)
    theirs = roma.unitquat_to_rotmat(roma.symmatrixvec_to_unitquat(v))
    assert (so3.from_10d(v, order="xyzw") - theirs).abs().max() < 1e-11
    assert (so3.from_10d(v) - theirs).abs().max() > 0.1  # the order matters
    v = torch.randn(500, 9, generator=rng, dtype=torch.float64)
    assert (so3.from_9d(v) - roma.special_procrustes(v.unflatten(-1, (3, 3)))).abs().max() < 1e-10


def test_scale_does_not_matter(rng):
    v = torch.randn(50, 6, generator=rng, dtype=torch.float64)
    scale = torch.tensor([3.0, 3, 3, 0.2, 0.2, 0.2], dtype=torch.float64)
    assert max_error_eps(so3.from_6d(v * scale), so3.from_6d(v)) <= 64


@pytest.mark.parametrize("dtype", DTYPES)
def test_6d_stays_orthogonal_next_to_collinear(rng, dtype):
    a, noise = torch.randn(2, 2000, 3, generator=rng, dtype=torch.float64)
    for angle in (1e-3, 1e-4, 1e-5, 2e-6):
        v = torch.cat([a, 2 * a + angle * noise], -1).to(dtype)
        assert orthogonality(so3.from_6d(v)) <= (6e-7 if dtype == torch.float32 else 1e-14), angle


@pytest.mark.parametrize("dtype", DTYPES)
def test_degenerate_6d(dtype):
    v = torch.tensor(
        [
            [0.0, 0, 0, 0, 0, 0],
            [0, 0, 0, 1, 2, 3],
            [1, 2, 3, 0, 0, 0],
            [1, 2, 3, 2, 4, 6],
            [1, 2, 3, -1, -2, -3],
            [1e-30, 0, 0, 0, 1, 0],
            [1, 0, 0, 1, 1, 0],
        ],
        dtype=dtype,
        requires_grad=True,
    )
    R, degenerate = so3.from_6d(v, return_info=True)
    assert degenerate.tolist() == [True, True, True, True, True, dtype == torch.float32, False]
    assert orthogonality(R) <= 8 * torch.finfo(dtype).eps
    (g,) = torch.autograd.grad((R * torch.arange(9.0).reshape(3, 3)).sum(), v, create_graph=True)
    assert_finite("gradients", [g, *torch.autograd.grad(g.sum(), v)])
    assert torch.equal(R[0], torch.eye(3, dtype=dtype))
    assert (g[0] == 0).all()
    assert R[2, :, 0].tolist() == pytest.approx((torch.tensor([1.0, 2, 3]) / math.sqrt(14)).tolist(), rel=1e-6)


def test_collinearity_threshold_from_both_sides():
    eps = torch.finfo(torch.float64).eps
    for sine, expected in ((4 * eps, True), (7.9 * eps, True), (8.1 * eps, False), (16 * eps, False)):
        R, degenerate = so3.from_6d(torch.tensor([1.0, 0, 0, 1.0, sine, 0], dtype=torch.float64), return_info=True)
        assert bool(degenerate) is expected
        assert orthogonality(R) < 1e-15


def test_5d_projection(rng):
    R = so3.random(1000, generator=rng, dtype=torch.float64)
    v = so3.to_5d(R)
    r = torch.linalg.vector_norm(v[:, 2:], dim=-1)
    assert r.min() >= math.sqrt(2) - 1 - 1e-12
    assert r.max() <= math.sqrt(2) + 1 + 1e-12
    # by hand: R = I has x3 = 0, so p = y
    assert so3.to_5d(torch.eye(3)).tolist() == [1, 0, 0, 1, 0]
    # and p = (0, 3, 0) lifts to x3 = (9 - 1) / 6: first column along (1, 0, 4/3) once it is orthogonal to nothing but y = e_y
    expected = torch.tensor([0.6, 0.0, 0.8])
    assert so3.from_5d(torch.tensor([1.0, 0, 0, 3, 0]))[:, 0].tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def test_degenerate_5d():
    v = torch.tensor([[1.0, 2, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]], dtype=torch.float64, requires_grad=True)
    R, degenerate = so3.from_5d(v, return_info=True)
    assert degenerate.tolist() == [True, True, True]
    assert orthogonality(R) < 1e-14
    assert_finite("gradient", torch.autograd.grad(R.sum(), v))


def test_10d_gap_and_degenerate_inputs(rng):
    R = so3.random(5, generator=rng, dtype=torch.float64)
    back, gap = so3.from_10d(so3.to_10d(R), return_confidence=True)
    assert max_error_eps(back, R) <= 8
    assert gap.tolist() == pytest.approx([1.0] * 5, abs=1e-14)
    v = torch.zeros(2, 10, dtype=torch.float64)
    v[1] = so3.to_10d(torch.eye(3, dtype=torch.float64))  # three equal eigenvalues, none of them ours
    v.requires_grad_()
    R, gap = so3.from_10d(v, return_confidence=True)
    assert gap.tolist() == pytest.approx([0.0, 1.0])
    (g,) = torch.autograd.grad((R * torch.arange(9.0).reshape(3, 3)).sum(), v)
    assert_finite("gradient", g)
    assert (g[0] == 0).all()
    assert g[1].abs().max() > 0.1


def test_9d_confidence():
    M = torch.diag(torch.tensor([3.0, 2.0, 0.5]))
    R, confidence = so3.from_9d(M.flatten(), return_confidence=True)
    assert torch.allclose(R, torch.eye(3), atol=1e-6)
    assert confidence.item() == pytest.approx(2.5, rel=1e-5)


def test_representation_derivatives(rng, check_directional):
    for dim, decode in DECODERS.items():
        check_directional(decode, torch.randn(2, dim, generator=rng, dtype=torch.float64))
        R = so3.random(2, generator=rng, dtype=torch.float64)
        check_directional(ENCODERS[dim], R)
    # where other eigenvalues repeat, autograd through eigh is NaN
    check_directional(so3.from_10d, so3.to_10d(so3.random(2, generator=rng, dtype=torch.float64)))


def test_continuity_of_the_encodings(rng):
    # along great circles through angle pi: bounded for 5D, 6D, 9D, 10D; the negative controls must jump
    n = 2000
    t = torch.linspace(0, 2 * math.pi, n + 1, dtype=torch.float64)
    u = so3.random(5, generator=rng, dtype=torch.float64)[..., 0]
    path = so3.exp(t[:, None, None] * u)
    step = t[1] - t[0]
    for dim, limit in ((5, 5.0), (6, 1.5), (9, 1.5), (10, 1.5)):
        v = ENCODERS[dim](path)
        assert torch.linalg.vector_norm(v.diff(dim=0), dim=-1).max() / step <= limit, dim
    for encode in (so3.log, so3.matrix_to_quat, so3.matrix_to_euler):
        assert torch.linalg.vector_norm(encode(path).diff(dim=0), dim=-1).max() >= 1


@pytest.mark.parametrize(("order", "euler"), [("wxyz", "XYZ"), ("xyzw", "zxz")])
def test_convert_between_every_pair(rng, order, euler):
    R = so3.random(50, generator=rng, dtype=torch.float64)
    for src, dst in itertools.product(so3.REPRESENTATIONS, repeat=2):
        x = so3.convert(R, "matrix", src, order=order, euler=euler)
        y = so3.convert(x, src, dst, order=order, euler=euler)
        assert (so3.convert(y, dst, "matrix", order=order, euler=euler) - R).abs().max() < 1e-13, (src, dst)
    q = so3.convert(R, "matrix", "quat", order="xyzw")
    assert torch.equal(q, so3.matrix_to_quat(R, order="xyzw"))
    assert so3.convert(q, "quat", "quat") is q


def test_small_angles_survive_conversion():
    w = torch.tensor([1e-9, -2e-10, 3e-11])
    for name in ("quat", "mrp", "matrix", "euler"):
        assert so3.convert(so3.convert(w, "rotvec", name), name, "rotvec").tolist() == pytest.approx(w.tolist(), rel=1e-6)
