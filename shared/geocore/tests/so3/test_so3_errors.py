import pytest
import torch

from geocore import so3

pytestmark = pytest.mark.bad_input

I3, Q, W = torch.eye(3), torch.tensor([1.0, 0, 0, 0]), torch.zeros(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: so3.exp(Q), r"w must have shape \(\.\.\., 3\), got \(4,\); a quaternion\? use quat_to_matrix"),
        (lambda: so3.log(Q), r"R must have shape \(\.\.\., 3, 3\)"),
        (lambda: so3.hat(Q), "w must have shape"),
        (lambda: so3.vee(W), "W must have shape"),
        (lambda: so3.left_jacobian(Q), "w must have shape"),
        (lambda: so3.right_jacobian_inverse(Q), "w must have shape"),
        (lambda: so3.quat_mul(W, Q), "a must have shape"),
        (lambda: so3.quat_mul(Q.expand(2, 4), Q.expand(3, 4)), r"batch dimensions must broadcast, got a \(2,\), b \(3,\)"),
        (lambda: so3.quat_mul(Q, Q, order="wzyx"), "order must be one of 'wxyz', 'xyzw', got 'wzyx'"),
        (lambda: so3.quat_apply(Q, Q), "v must have shape"),
        (lambda: so3.quat_conj(W), "q must have shape"),
        (lambda: so3.standardize(W), "q must have shape"),
        (lambda: so3.reorder(Q, "wxyz", "zyxw"), "dst must be one of"),
        (lambda: so3.matrix_to_quat(Q), "R must have shape"),
        (lambda: so3.matrix_to_quat(I3, order="w"), "order must be one of"),
        (lambda: so3.rotvec_to_quat(Q), "use quat_normalize"),
        (lambda: so3.from_mrp(Q), "p must have shape"),
        (lambda: so3.to_mrp(Q), "R must have shape"),
        (lambda: so3.euler_to_matrix(W, "XXY"), "euler must be one of"),
        (lambda: so3.matrix_to_euler(I3, "XyZ"), "euler must be one of"),
        (lambda: so3.euler_to_matrix(Q), "angles must have shape"),
        (lambda: so3.from_5d(Q), "v must have shape"),
        (lambda: so3.from_6d(Q), r"v must have shape \(\.\.\., 6\), got \(4,\)"),
        (lambda: so3.from_9d(I3), "special_procrustes"),
        (lambda: so3.from_10d(Q), "v must have shape"),
        (lambda: so3.to_6d(Q), "R must have shape"),
        (lambda: so3.convert(Q, "quaternion", "matrix"), "src must be one of 'matrix', 'quat'"),
        (lambda: so3.convert(Q, "quat", "axis"), "dst must be one of"),
        (lambda: so3.convert(Q, "rotvec", "matrix"), "that is the shape of 'rotvec'"),
        (lambda: so3.geodesic(I3, Q), "R2 must have shape"),
        (lambda: so3.chordal(I3.expand(2, 3, 3), I3.expand(3, 3, 3)), "broadcast"),
        (lambda: so3.slerp(Q, I3, 0.5), "one form"),
        (lambda: so3.slerp(W, W, 0.5), "quaternions"),
        (lambda: so3.slerp(Q.expand(2, 4), Q, torch.zeros(3)), "broadcast"),
        (lambda: so3.squad(Q, Q, I3, Q, 0.5), "one form"),
        (lambda: so3.squad_controls(Q), "knots must have shape"),
        (lambda: so3.RotationSpline(I3.expand(1, 3, 3), [0.0]), "n >= 2"),
        (lambda: so3.RotationSpline(I3.expand(3, 3, 3), [0.0, 1.0]), "one per knot"),
        (lambda: so3.RotationSpline(I3.expand(3, 3, 3), [0.0, 2.0, 1.0], check=True), "increase strictly"),
        (lambda: so3.RotationSpline(I3.expand(2, 3, 3), [0.0, 1.0])(0.5, 3), "derivative must be 0, 1 or 2"),
        (lambda: so3.mean(I3), "R must have shape"),
        (lambda: so3.mean(torch.zeros(0, 3, 3)), "n >= 1"),
        (lambda: so3.mean(I3.expand(2, 3, 3), metric="l2"), "metric must be one of"),
        (lambda: so3.mean(I3.expand(2, 3, 3), torch.ones(3)), "one per rotation"),
        (lambda: so3.mean(I3.expand(2, 3, 3), max_iter=0), "max_iter must be at least 1"),
        (lambda: so3.align(I3, torch.zeros(4, 3)), "same number"),
        (lambda: so3.align(I3, I3, torch.ones(2)), "one per point"),
        (lambda: so3.rotation_between(W, Q), "b must have shape"),
        (lambda: so3.random(2, "normal"), "law must be one of"),
        (lambda: so3.random(2, "wrapped_normal", sigma=-1.0), "sigma"),
        (lambda: so3.forward_kinematics(I3.expand(2, 3, 3), torch.zeros(3, 3), [-1, 0]), "same number"),
        (lambda: so3.forward_kinematics(I3.expand(2, 3, 3), torch.zeros(2, 3), [1, 0]), "cycle"),
        (lambda: so3.forward_kinematics(I3.expand(2, 3, 3), torch.zeros(2, 3), [-1, 2]), "below 2"),
        (lambda: so3.renormalize(Q), "R must have shape"),
    ],
)
def test_value_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda x: so3.exp(x(W)),
        lambda x: so3.log(x(I3)),
        lambda x: so3.quat_to_matrix(x(Q)),
        lambda x: so3.from_6d(x(torch.zeros(6))),
        lambda x: so3.geodesic(x(I3), I3),
        lambda x: so3.slerp(x(Q), Q, 0.5),
        lambda x: so3.mean(x(I3.expand(2, 3, 3))),
        lambda x: so3.align(I3, I3, x(torch.ones(3))),
    ],
)
def test_dtypes_are_named(call):
    with pytest.raises(TypeError, match="floating-point dtype, got torch.int64"):
        call(lambda t: t.long())
    with pytest.raises(TypeError, match="must be a torch.Tensor, got list"):
        call(lambda t: t.tolist())
    with pytest.raises(NotImplementedError, match="complex"):
        call(lambda t: t.to(torch.complex64))


def test_random_needs_a_floating_dtype():
    with pytest.raises(TypeError, match="int64"):
        so3.random(2, dtype=torch.int64)
