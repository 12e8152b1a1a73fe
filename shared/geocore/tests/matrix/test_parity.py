"""The same numbers as independent libraries, and the three mix-ups of convention that such libraries invite.

Every library has its own conventions; each test spells out the change from ours to theirs.
"""

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.spatial.transform import RigidTransform, Rotation
from torch import Tensor

from geocore import se2, se3, sim3, so3, son


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def twists(count: int = 50, dim: int = 6) -> Tensor:
    """Rotation parts away from half turns, where the sign of the logarithm is a choice."""
    xi = normal(count, dim)
    angle = torch.linspace(1e-3, 3.0, count, dtype=torch.float64)[:, None]
    xi[:, 3:6] = xi[:, 3:6] / xi[:, 3:6].norm(dim=-1, keepdim=True) * angle
    return xi


def close(actual: Tensor, expected: Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


@pytest.fixture
def groups():
    return pytest.importorskip("kornia.geometry.liegroup")


@pytest.fixture
def pypose():
    return pytest.importorskip("pypose")


class TestKornia:
    """kornia: quaternions wxyz, SE(3) twists with the translation part first."""

    def test_rigid_motions(self, groups):
        xi = twists()
        T = se3.exp(xi)
        close(T, groups.Se3.exp(xi).matrix())
        close(se3.log(T), groups.Se3.from_matrix(T).log(), 1e-10)
        close(se3.adjoint(T), groups.Se3.from_matrix(T).adjoint(), 1e-11)

    def test_quaternions(self, groups):
        w = twists()[:, 3:]
        close(so3.rotvec_to_quat(w), groups.So3.exp(w).q.data)

    def test_jacobians(self, groups):
        w = twists()[:, 3:]
        close(so3.left_jacobian(w), groups.So3.left_jacobian(w), 1e-10)
        close(so3.right_jacobian(w), groups.So3.right_jacobian(w), 1e-10)

    def test_planar_motions(self, groups):
        xi = normal(20, 3)
        close(se2.exp(xi), groups.Se2.exp(xi).matrix(), 1e-10)


class TestPypose:
    """pypose: quaternions xyzw, twists with the translation part first, group elements as (translation, quaternion)."""

    def test_rigid_motions(self, pypose):
        xi = twists()
        theirs = pypose.se3(xi).Exp()
        T = se3.exp(xi)
        close(T, theirs.matrix(), 1e-10)
        close(se3.log(T), theirs.Log().tensor(), 1e-10)
        q = so3.matrix_to_quat(T[:, :3, :3], order="xyzw")
        raw = theirs.tensor()[:, 3:]
        close(q, raw * raw[:, 3:].sign(), 1e-10)

    def test_similarities(self, pypose):
        xi = twists(dim=7) * 0.5
        close(sim3.exp(xi), pypose.sim3(xi).Exp().matrix(), 1e-9)


class TestScipy:
    def test_rigid_motions(self):
        xi = twists()
        theirs = RigidTransform.from_exp_coords(np.concatenate([xi[:, 3:].numpy(), xi[:, :3].numpy()], axis=-1))  # rotation first there
        close(se3.exp(xi), torch.from_numpy(theirs.as_matrix()))
        points = normal(50, 3, seed=1)
        close(se3.act(se3.exp(xi), points), torch.from_numpy(theirs.apply(points.numpy())))

    def test_similarities_and_planar_motions_are_matrix_exponentials(self):
        for room, dim in ((sim3, 7), (se2, 3), (se3, 6)):
            for xi in 0.5 * normal(5, dim, seed=2):
                close(room.exp(xi), torch.from_numpy(scipy.linalg.expm(room.hat(xi).numpy())))
                close(room.hat(room.log(room.exp(xi))), torch.from_numpy(scipy.linalg.logm(room.exp(xi).numpy())).real, 1e-10)

    def test_rotations_of_five_space(self):
        S = normal(5, 5)
        S = S - S.mT
        S = S * (2 / torch.linalg.matrix_norm(S, 2))  # below pi, inside the principal branch
        close(son.exp(S), torch.from_numpy(scipy.linalg.expm(S.numpy())))
        close(son.log(son.exp(S)), torch.from_numpy(scipy.linalg.logm(son.exp(S).numpy())).real, 1e-10)


class TestRoma:
    def test_procrustes_and_registration(self):
        roma = pytest.importorskip("roma")
        M = normal(30, 3, 3)
        close(son.special_procrustes(M), roma.special_procrustes(M), 1e-10)
        x = normal(4, 10, 3, seed=1)
        y = normal(4, 10, 3, seed=2)
        ours = so3.align(x, y, scale=True)
        R, t, s = roma.rigid_points_registration(x, y, compute_scaling=True)
        close(ours.rotation, R, 1e-10)
        close(ours.translation, t, 1e-10)
        close(ours.scale, s, 1e-10)


class TestMixUpsAreCaught:
    """Each of these passes shapes and dtypes; only a comparison of values can tell."""

    def test_swapped_quaternion_order(self):
        w = twists()[:, 3:]
        q = torch.from_numpy(Rotation.from_rotvec(w.numpy()).as_quat())  # xyzw
        close(so3.quat_to_matrix(q, order="xyzw"), so3.exp(w))
        swapped = so3.geodesic(so3.quat_to_matrix(q, order="wxyz"), so3.exp(w))
        assert swapped.min() > 1e-2
        with pytest.raises(AssertionError):
            close(so3.quat_to_matrix(q), so3.exp(w))

    def test_six_numbers_by_rows(self):
        R = so3.exp(twists()[:, 3:])
        close(so3.from_6d(so3.to_6d(R)), R)
        rows = R[:, :2, :].flatten(-2)
        close(so3.from_6d(rows), R.mT)
        with pytest.raises(AssertionError):
            close(so3.from_6d(rows), R)

    def test_transposed_rigid_motion(self):
        xi = twists()
        T = torch.from_numpy(RigidTransform.from_exp_coords(xi[:, [3, 4, 5, 0, 1, 2]].numpy()).as_matrix())
        close(se3.log(T), xi, 1e-10)
        with pytest.raises(AssertionError):
            close(se3.log(T.mT.contiguous()), xi, 1e-10)
        with pytest.raises(AssertionError):
            close(se3.act(T.mT, xi[:, :3]), se3.act(T, xi[:, :3]))

    def test_rotation_part_first(self):
        xi = twists()
        with pytest.raises(AssertionError):
            close(se3.exp(xi[:, [3, 4, 5, 0, 1, 2]]), se3.exp(xi))
