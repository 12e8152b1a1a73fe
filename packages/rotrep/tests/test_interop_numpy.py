"""Layouts of other libraries, conversion by name, the NumPy mirror."""

import math

import numpy as np
import pytest
import torch

import rotrep.numpy as mirror
from rotrep import NDRotation, convert, get_representation, interop, list_representations, sampling
from rotrep._reference import rows_6d_reference


def test_pytorch3d_rows(rng):
    R = sampling.haar(3, 20, rng, dtype=torch.float64)
    rows = R[:, :2].flatten(-2)
    ours = interop.from_pytorch3d_6d(rows)
    torch.testing.assert_close(ours, get_representation("6d").encode(R), atol=1e-14, rtol=0)
    torch.testing.assert_close(interop.to_pytorch3d_6d(ours), rows, atol=1e-14, rtol=0)
    raw = torch.randn(20, 6, generator=rng, dtype=torch.float64)
    decoded = get_representation("6d").decode(interop.from_pytorch3d_6d(raw))
    torch.testing.assert_close(decoded, rows_6d_reference(raw), atol=1e-13, rtol=0)


def test_interleaved_only_reorders(rng):
    v = torch.randn(4, 6, generator=rng)
    assert interop.from_interleaved_6d(torch.tensor([0.0, 3, 1, 4, 2, 5])).tolist() == [0.0, 1, 2, 3, 4, 5]
    assert torch.equal(interop.to_interleaved_6d(interop.from_interleaved_6d(v)), v)
    matrix = torch.eye(3)[:, :2]  # what reshape(-1, 3, 2) code regards as the two columns
    assert torch.equal(get_representation("6d").decode(interop.from_interleaved_6d(matrix.flatten())), torch.eye(3))


def test_quaternion_orders():
    q = torch.tensor([1.0, 2, 3, 4])
    assert interop.wxyz_to_xyzw(q).tolist() == [2.0, 3, 4, 1]
    assert interop.xyzw_to_wxyz(interop.wxyz_to_xyzw(q)).tolist() == q.tolist()


@pytest.mark.parametrize("kind", interop.ROMA)
def test_roma_round_trip(kind, hard_rotations):
    torch.testing.assert_close(interop.from_roma(interop.to_roma(hard_rotations, kind), kind), hard_rotations, atol=1e-14, rtol=0)


def test_roma_itself(rng):
    roma = pytest.importorskip("roma")
    R = sampling.haar(3, 100, rng, dtype=torch.float64)
    close = lambda a, b: torch.testing.assert_close(a, b, atol=1e-12, rtol=0)  # noqa: E731
    q = torch.nn.functional.normalize(torch.randn(100, 4, generator=rng, dtype=torch.float64), dim=-1)
    close(interop.from_roma(q), roma.unitquat_to_rotmat(q))
    close(roma.unitquat_to_rotmat(interop.to_roma(R)), R)
    close(roma.rotvec_to_rotmat(interop.to_roma(R, "rotvec")), R)
    close(roma.special_gramschmidt(interop.to_roma(R, "gramschmidt")), R)
    close(roma.unitquat_to_rotmat(roma.symmatrixvec_to_unitquat(interop.to_roma(R, "symmatrixvec"))), R)
    M = torch.randn(100, 3, 3, generator=rng, dtype=torch.float64)
    close(interop.from_roma(M, "procrustes"), roma.special_procrustes(M))


def test_scipy_round_trip(rng):
    Rotation = pytest.importorskip("scipy.spatial.transform").Rotation
    R = sampling.haar(3, 20, rng, dtype=torch.float64)
    there = interop.to_scipy(R)
    np.testing.assert_allclose(there.as_matrix(), R.numpy(), atol=1e-14)
    torch.testing.assert_close(interop.from_scipy(there), R, atol=1e-14, rtol=0)
    assert interop.from_scipy(Rotation.identity(), dtype=torch.float32).dtype == torch.float32
    assert interop.from_scipy(Rotation.identity()).shape == (3, 3)


@pytest.mark.parametrize("src", ["matrix", *list_representations()])
def test_convert_every_pair(src, hard_rotations):
    R = hard_rotations[::11]
    x = convert(R, "matrix", src)
    for dst in ("matrix", *list_representations()):
        back = convert(convert(x, src, dst), dst, "matrix")
        torch.testing.assert_close(back, R, atol=1e-13, rtol=0)


def test_convert_conventions():
    q = convert(torch.tensor([0.0, 0, math.pi / 2]), "rotvec", "quaternion", order="xyzw")
    torch.testing.assert_close(q, torch.tensor([0.0, 0, math.sqrt(0.5), math.sqrt(0.5)]))
    v = torch.tensor([0.0, -1, 0, 1, 0, 0])
    assert convert(v, "6d", "6d", src_convention="rows").tolist() == [0.0, 1, 0, -1, 0, 0]
    six = get_representation("6d", convention="rows")
    assert convert(v, six, "6d").tolist() == convert(v, "6d", "6d", src_convention="rows").tolist()
    a = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    # extrinsic angles are intrinsic ones in reverse order
    torch.testing.assert_close(convert(a, "euler", "euler_ZYX", src_euler="xyz"), a.flip(0), atol=1e-15, rtol=0)
    torch.testing.assert_close(convert(a, "euler_xyz", "euler", dst_euler="ZYX"), a.flip(0), atol=1e-15, rtol=0)


@pytest.mark.parametrize("name", list_representations())
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numpy_mirror(name, dtype, rng):
    rep = get_representation(name)
    v = torch.randn(2, 3, rep.dim, generator=rng, dtype=torch.float64).numpy().astype(dtype)
    R = mirror.decode(v, name)
    assert isinstance(R, np.ndarray)
    assert R.dtype == dtype
    np.testing.assert_array_equal(R, rep.decode(torch.from_numpy(v)).numpy())
    np.testing.assert_array_equal(mirror.encode(R, rep, validate=True), rep.encode(torch.from_numpy(R)).numpy())
    np.testing.assert_allclose(mirror.convert(R, "matrix", name), mirror.encode(R, name))


def test_numpy_accepts_what_pipelines_have():
    frozen = np.eye(3)
    frozen.flags.writeable = False
    assert mirror.encode(frozen, "6d").tolist() == [1, 0, 0, 0, 1, 0]
    assert mirror.decode([[2.0, 0, 0, 0, 1, 0]], "6d", convention="rows").shape == (1, 3, 3)
    strided = np.random.default_rng(0).standard_normal((6, 4))[:, ::2].T
    assert mirror.decode(strided, "6d").shape == (2, 3, 3)
    assert mirror.decode(np.zeros((1, 6), np.float16), "6d").dtype == np.float16
    assert mirror.decode(np.zeros((0, 6)), "6d").shape == (0, 3, 3)


@pytest.mark.bad_input
def test_errors():
    with pytest.raises(ValueError, match="kind must be one of"):
        interop.from_roma(torch.zeros(4), "quat")
    with pytest.raises(ValueError, match="kind must be one of"):
        interop.to_roma(torch.eye(3), "quat")
    with pytest.raises(ValueError, match="at most one batch dimension"):
        interop.to_scipy(torch.zeros(2, 2, 3, 3))
    with pytest.raises(ValueError, match="v must have shape"):
        interop.from_pytorch3d_6d(torch.zeros(3))
    with pytest.raises(ValueError, match="name must be one of"):
        convert(torch.zeros(3), "rotvec", "quat")
    with pytest.raises(ValueError, match="conventions must apply to src or dst, got 'layout'"):
        convert(torch.zeros(3), "rotvec", "quaternion", layout="concat")
    with pytest.raises(ValueError, match="src must be 'matrix' or one of"):
        convert(torch.zeros(9), "On", "6d")
    with pytest.raises(ValueError, match="dst must be 'matrix' or one of"):
        convert(torch.zeros(3), "rotvec", NDRotation(3))
    with pytest.raises(ValueError, match="that is the shape of 'matrix'"):
        convert(torch.zeros(3), "matrix", "6d")
    with pytest.raises(TypeError, match="v must be a floating-point array"):
        mirror.decode(np.zeros((1, 6), np.int64), "6d")
    with pytest.raises(ValueError, match="must be a rotation"):
        mirror.encode(2 * np.eye(3), "6d", validate=True)
    with pytest.raises(ValueError, match="beside an instance"):
        mirror.decode(np.zeros(6), get_representation("6d"), layout="concat")
