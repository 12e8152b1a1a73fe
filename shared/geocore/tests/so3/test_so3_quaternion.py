import math

import numpy as np
import pytest
import roma
import torch
from scipy.spatial.transform import Rotation

from geocore import so3
from geocore.testing import ANGLES, assert_finite, max_error_eps

DTYPES = [torch.float32, torch.float64]


def test_hamilton_table():
    i, j, k = torch.eye(4, dtype=torch.float64)[1:]
    one = torch.eye(4, dtype=torch.float64)[0]
    assert torch.equal(so3.quat_mul(i, j), k)
    assert torch.equal(so3.quat_mul(j, i), -k)
    assert torch.equal(so3.quat_mul(j, k), i)
    assert torch.equal(so3.quat_mul(k, i), j)
    assert torch.equal(so3.quat_mul(i, i), -one)


@pytest.mark.parametrize("order", ["wxyz", "xyzw"])
def test_products_are_compositions(rng, order):
    a, b = torch.randn(2, 50, 4, generator=rng, dtype=torch.float64)
    v = torch.randn(50, 3, generator=rng, dtype=torch.float64)
    A, B = so3.quat_to_matrix(a, order=order), so3.quat_to_matrix(b, order=order)
    assert max_error_eps(so3.quat_to_matrix(so3.quat_mul(a, b, order=order), order=order), A @ B) <= 16
    assert max_error_eps(so3.quat_apply(a, v, order=order), (A @ v.unsqueeze(-1)).squeeze(-1)) <= 32
    assert max_error_eps(so3.quat_to_matrix(so3.quat_conj(a, order=order), order=order), A.mT) <= 8


def test_orders_are_told_apart(rng):
    # negative control: reading xyzw as wxyz must not pass unnoticed
    q = torch.randn(20, 4, generator=rng, dtype=torch.float64)
    right = so3.quat_to_matrix(so3.reorder(q, "wxyz", "xyzw"), order="xyzw")
    assert torch.equal(right, so3.quat_to_matrix(q))
    assert (so3.quat_to_matrix(q, order="xyzw") - right).abs().amax((-1, -2)).min() > 1e-2
    assert torch.equal(so3.reorder(so3.reorder(q, "xyzw", "wxyz"), "wxyz", "xyzw"), q)
    assert so3.reorder(q, "wxyz", "wxyz") is q
    scipy = Rotation.from_quat(q.numpy(), scalar_first=True).as_matrix()
    assert max_error_eps(so3.quat_to_matrix(q), scipy) <= 8
    assert max_error_eps(so3.quat_to_matrix(q, order="xyzw"), roma.unitquat_to_rotmat(roma.quat_normalize(q))) <= 8
    assert max_error_eps(so3.quat_mul(q, q.flip(0), order="xyzw"), roma.quat_product(q, q.flip(0))) <= 16


@pytest.mark.parametrize("dtype", DTYPES)
def test_matrix_round_trip_within_eight_eps(axes, dtype):
    for angle in ANGLES:
        R = so3.exp(axes * angle).to(dtype)
        q = so3.matrix_to_quat(R)
        assert max_error_eps(so3.quat_to_matrix(q), R.double()) <= 8, angle
        assert max_error_eps(torch.linalg.vector_norm(q, dim=-1), torch.ones(len(q), dtype=torch.float64)) <= 4
        assert (q[:, 0] >= 0).all()


def test_matrix_to_quat_agrees_with_scipy(rng):
    R = so3.random(500, generator=rng, dtype=torch.float64)
    assert max_error_eps(so3.matrix_to_quat(R, order="xyzw"), Rotation.from_matrix(R.numpy()).as_quat(canonical=True)) <= 8


def test_each_of_the_four_rows_is_used():
    # half turns about each axis and the identity, with both signs of rounding on every diagonal tie
    for k in range(4):
        q = torch.eye(4, dtype=torch.float64)[k]
        assert torch.equal(so3.matrix_to_quat(so3.quat_to_matrix(q)), q)
    u = torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64) / math.sqrt(3)
    for tilt in (-1e-16, 0.0, 1e-16, -1e-9, 1e-9):
        R = so3.exp((math.pi + tilt) * u)
        assert max_error_eps(so3.quat_to_matrix(so3.matrix_to_quat(R)), R) <= 8


@pytest.mark.parametrize("dtype", DTYPES)
def test_rotvec_round_trip(axes, dtype):
    for angle in ANGLES:
        w = (axes * angle).to(dtype)
        q = so3.rotvec_to_quat(w)
        expected = torch.cat(
            [
                torch.cos(w.double().norm(dim=-1, keepdim=True) / 2),
                torch.sinc(w.double().norm(dim=-1, keepdim=True) / (2 * math.pi)) * w.double() / 2,
            ],
            -1,
        )
        assert max_error_eps(q, expected) <= 4, angle
        back = so3.quat_to_rotvec(q)
        gap = (back - w).abs().amax(-1)
        if angle > math.pi - 1e-5:
            gap = torch.minimum(gap, (back + w).abs().amax(-1))
        assert gap.max() <= 8 * torch.finfo(dtype).eps, angle


def test_quat_to_rotvec_ignores_length_and_sign(rng):
    q = torch.randn(100, 4, generator=rng, dtype=torch.float64)
    w = so3.quat_to_rotvec(q)
    assert max_error_eps(so3.quat_to_rotvec(-3.0 * q), w) <= 8
    assert max_error_eps(w, Rotation.from_quat(q.numpy(), scalar_first=True).as_rotvec()) <= 16
    assert (torch.linalg.vector_norm(w, dim=-1) <= math.pi + 1e-15).all()


def test_standardize():
    q = torch.tensor([[-1.0, 2, 3, 4], [0, -1, 2, 0], [0, 0, 0, -2], [0, 0, 0, 0], [1, -1, -1, -1]])
    expected = torch.tensor([[1.0, -2, -3, -4], [0, 1, -2, 0], [0, 0, 0, 2], [0, 0, 0, 0], [1, -1, -1, -1]])
    assert torch.equal(so3.standardize(q), expected)
    assert torch.equal(so3.standardize(q.roll(-1, -1), order="xyzw"), expected.roll(-1, -1))


def test_zero_quaternions_are_the_identity_with_finite_gradients():
    for order, identity in (("wxyz", [1.0, 0, 0, 0]), ("xyzw", [0, 0, 0, 1.0])):
        assert so3.quat_normalize(torch.zeros(4), order=order).tolist() == identity
    v = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    for size in (0.0, 1e-200, 1e-160):
        q = torch.full((4,), size, dtype=torch.float64, requires_grad=True)
        for fn in (
            so3.quat_normalize,
            so3.quat_to_matrix,
            so3.quat_to_rotvec,
            so3.quat_to_mrp,
            lambda q: so3.quat_apply(q, v),
            so3.quat_to_euler,
        ):
            value = fn(q)
            assert_finite("value and gradient", [value, torch.autograd.grad(value.sum(), q)[0]])
    assert torch.equal(so3.quat_to_matrix(torch.zeros(4)), torch.eye(3))


def test_normalising_half_does_not_overflow():
    q = torch.tensor([300.0, 400.0, 0.0, 0.0], dtype=torch.float16)
    assert so3.quat_normalize(q).tolist() == pytest.approx([0.6, 0.8, 0, 0], abs=1e-3)


@pytest.mark.parametrize("angle", [0.0, 1e-4, 0.2, 1.0, math.pi])
def test_quaternion_derivatives(axes, angle, check_directional):
    w = axes[:2] * angle
    q = so3.rotvec_to_quat(w)
    check_directional(so3.rotvec_to_quat, w)
    check_directional(so3.quat_to_matrix, 1.3 * q)
    if angle < math.pi:
        check_directional(so3.quat_to_rotvec, q)
        check_directional(so3.matrix_to_quat, so3.exp(w))
        check_directional(so3.quat_to_mrp, q)


def test_mrp_agrees_with_scipy(rng):
    R = so3.random(300, generator=rng, dtype=torch.float64)
    truth = Rotation.from_matrix(R.numpy())
    p = so3.to_mrp(R)
    assert max_error_eps(p, truth.as_mrp()) <= 8
    assert max_error_eps(so3.from_mrp(p), R) <= 8
    shadow = -p / (p * p).sum(-1, keepdim=True)
    assert max_error_eps(so3.from_mrp(shadow), R) <= 16
    assert max_error_eps(so3.quat_to_mrp(so3.mrp_to_quat(p)), p) <= 8
    assert max_error_eps(so3.rotvec_to_mrp(so3.mrp_to_rotvec(p)), p) <= 8


def test_drift_of_long_products_is_undone(rng):
    q = so3.quat_normalize(torch.randn(4, generator=rng))
    product = q
    for _ in range(2000):
        product = so3.quat_mul(product, q)
    assert max_error_eps(torch.linalg.vector_norm(so3.quat_normalize(product)), np.ones(())) <= 2
