"""The same numbers as RoMa, SciPy, PyTorch3D's formula, and the paper's formulas written out."""

import math

import numpy as np
import pytest
import torch

from geocore.so3 import EULER_CONVENTIONS
from rotrep import NDRotation, get_representation, sampling
from rotrep._reference import (
    decode_5d_reference,
    decode_6d_reference,
    decode_9d_reference,
    decode_10d_reference,
    decode_nd_reference,
    encode_5d_reference,
    rows_6d_reference,
)

REFERENCE = {"6d": decode_6d_reference, "5d": decode_5d_reference, "9d": decode_9d_reference, "10d": decode_10d_reference}


@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 3), (0,)])
@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_equals_the_paper_in_values_and_gradients(name, shape, rng):
    rep = get_representation(name)
    v = torch.randn(*shape, rep.dim, generator=rng, dtype=torch.float64, requires_grad=True)
    if shape == (0,):
        assert rep.decode(v).shape == (0, 3, 3)
        return
    ours, theirs = rep.decode(v), REFERENCE[name](v)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    weight = torch.randn(ours.shape, generator=rng, dtype=torch.float64)
    a, b = (torch.autograd.grad((R * weight).sum(), v)[0] for R in (ours, theirs))
    assert ((a - b).abs() <= 1e-10 * b.abs().max()).all()


def test_5d_encoder_equals_the_paper(hard_rotations):
    torch.testing.assert_close(get_representation("5d").encode(hard_rotations), encode_5d_reference(hard_rotations), atol=1e-14, rtol=0)


def test_6d_rows_is_the_pytorch3d_formula_transposed(rng):
    v = torch.randn(1000, 6, generator=rng, dtype=torch.float64)
    rows = rows_6d_reference(v)
    # that formula divides by the sine of the angle between the vectors, 0.01 at worst here, and loses as many digits
    torch.testing.assert_close(get_representation("6d", convention="rows").decode(v), rows, atol=1e-13, rtol=0)
    torch.testing.assert_close(get_representation("6d").decode(v), rows.mT, atol=1e-13, rtol=0)


def test_roma(rng):
    roma = pytest.importorskip("roma")
    v = torch.randn(2000, 6, generator=rng, dtype=torch.float64)
    theirs = roma.special_gramschmidt(v.unflatten(-1, (2, 3)).mT)
    torch.testing.assert_close(get_representation("6d").decode(v), theirs, atol=1e-12, rtol=0)
    interleaved = get_representation("6d", layout="interleaved").decode(v)
    torch.testing.assert_close(interleaved, roma.special_gramschmidt(v.unflatten(-1, (3, 2))), atol=1e-12, rtol=0)
    M = torch.randn(2000, 3, 3, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(get_representation("9d").decode(M.flatten(-2)), roma.special_procrustes(M), atol=1e-11, rtol=0)
    s = torch.randn(2000, 10, generator=rng, dtype=torch.float64)
    theirs = roma.unitquat_to_rotmat(roma.symmatrixvec_to_unitquat(s))
    torch.testing.assert_close(get_representation("10d", order="xyzw").decode(s), theirs, atol=1e-11, rtol=0)


def test_scipy(rng):
    Rotation = pytest.importorskip("scipy.spatial.transform").Rotation
    v = torch.randn(200, 3, generator=rng, dtype=torch.float64)
    R = sampling.haar(3, 200, rng, dtype=torch.float64)
    for euler in EULER_CONVENTIONS:
        rep = get_representation("euler", euler=euler)
        np.testing.assert_allclose(rep.decode(v), Rotation.from_euler(euler, v.numpy()).as_matrix(), atol=1e-13, rtol=0)
        np.testing.assert_allclose(rep.encode(R), Rotation.from_matrix(R.numpy()).as_euler(euler), atol=1e-8, rtol=0)
    for name, make in {"rotvec": "rotvec", "mrp": "mrp"}.items():
        rep = get_representation(name)
        np.testing.assert_allclose(rep.decode(v), getattr(Rotation, f"from_{make}")(v.numpy()).as_matrix(), atol=1e-13, rtol=0)
        np.testing.assert_allclose(rep.encode(R), getattr(Rotation.from_matrix(R.numpy()), f"as_{make}")(), atol=1e-12, rtol=0)
    q = torch.randn(200, 4, generator=rng, dtype=torch.float64)
    np.testing.assert_allclose(
        get_representation("quaternion", order="xyzw").decode(q), Rotation.from_quat(q.numpy()).as_matrix(), atol=1e-13, rtol=0
    )
    np.testing.assert_allclose(
        get_representation("quaternion", order="xyzw").encode(R),
        Rotation.from_matrix(R.numpy()).as_quat(canonical=True),
        atol=1e-13,
        rtol=0,
    )


@pytest.mark.parametrize("n", [2, 3, 4, 5, 7])
def test_nd_equals_the_paper(n, rng):
    rep = NDRotation(n)
    v = torch.randn(6, rep.dim, generator=rng, dtype=torch.float64, requires_grad=True)
    ours, theirs = rep.decode(v), decode_nd_reference(v, n)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    weight = torch.randn(ours.shape, generator=rng, dtype=torch.float64)
    a, b = (torch.autograd.grad((R * weight).sum(), v)[0] for R in (ours, theirs))
    assert ((a - b).abs() <= 1e-9 * b.abs().max()).all()
    R = ours.detach().numpy()
    cofactors = np.array([[(-1) ** (i + n - 1) * np.linalg.det(np.delete(M[:, :-1], i, axis=0)) for i in range(n)] for M in R])
    np.testing.assert_allclose(R[..., -1], cofactors, atol=1e-13, rtol=0)


def test_nd_contains_6d_and_the_unit_circle(rng):
    v = torch.randn(100, 6, generator=rng, dtype=torch.float64)
    for convention in ("columns", "rows"):
        for layout in ("concat", "interleaved"):
            six = get_representation("6d", convention=convention, layout=layout)
            nd = NDRotation(3, convention=convention, layout=layout)
            torch.testing.assert_close(nd.decode(v), six.decode(v), atol=1e-13, rtol=0)
            assert torch.equal(nd.encode(six.decode(v)), six.encode(six.decode(v)))
    a = torch.tensor([3.0, 4.0], dtype=torch.float64)
    torch.testing.assert_close(NDRotation(2).decode(a), torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64))
    assert NDRotation(2).encode(torch.tensor([[0.6, -0.8], [0.8, 0.6]])).tolist() == pytest.approx([math.cos(math.atan2(4, 3)), 0.8])
