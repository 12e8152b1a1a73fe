"""Every public function under batching, low precision and torch's transforms; the compiler sees them in groups, to save time."""

import math

import pytest
import torch

from geocore import so3
from geocore.testing import assert_same, check_batching, check_export, check_half, check_transforms

g = torch.Generator().manual_seed(5)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=g, dtype=torch.float64)


def rotations(*shape: int) -> torch.Tensor:
    return so3.random(shape, generator=g, dtype=torch.float64)


def near(*shape: int) -> torch.Tensor:
    return so3.exp(0.5 * normal(*shape, 3))


TREE = [2, 0, -1, 2]
W, Q, R, R2, V6 = normal(3, 3), normal(3, 4), rotations(3), rotations(3), normal(3, 6)
T = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)

CASES = {
    "hat": (so3.hat, W),
    "vee": (so3.vee, normal(3, 3, 3)),
    "exp": (so3.exp, W),
    "log": (so3.log, R),
    "left_jacobian": (so3.left_jacobian, W),
    "right_jacobian": (so3.right_jacobian, W),
    "left_jacobian_inverse": (so3.left_jacobian_inverse, W),
    "right_jacobian_inverse": (so3.right_jacobian_inverse, W),
    "rotvec_to_matrix": (so3.rotvec_to_matrix, W),
    "matrix_to_rotvec": (so3.matrix_to_rotvec, R),
    "reorder": (lambda q: so3.reorder(q, "wxyz", "xyzw"), Q),
    "quat_mul": (so3.quat_mul, Q, normal(3, 4)),
    "quat_conj": (so3.quat_conj, Q),
    "quat_apply": (so3.quat_apply, Q, W),
    "quat_normalize": (so3.quat_normalize, Q),
    "standardize": (so3.standardize, Q),
    "matrix_to_quat": (so3.matrix_to_quat, R),
    "quat_to_matrix": (so3.quat_to_matrix, Q),
    "rotvec_to_quat": (so3.rotvec_to_quat, W),
    "quat_to_rotvec": (so3.quat_to_rotvec, Q),
    "from_mrp": (so3.from_mrp, W),
    "to_mrp": (so3.to_mrp, R),
    "mrp_to_quat": (so3.mrp_to_quat, W),
    "quat_to_mrp": (so3.quat_to_mrp, Q),
    "mrp_to_rotvec": (so3.mrp_to_rotvec, W),
    "rotvec_to_mrp": (so3.rotvec_to_mrp, W),
    "euler_to_matrix": (so3.euler_to_matrix, W),
    "euler_to_quat": (lambda a: so3.euler_to_quat(a, "zxz"), W),
    "euler_to_rotvec": (so3.euler_to_rotvec, W),
    "matrix_to_euler": (lambda R: so3.matrix_to_euler(R, "ZYX"), R),
    "quat_to_euler": (lambda q: so3.quat_to_euler(q, "yzy"), Q),
    "rotvec_to_euler": (so3.rotvec_to_euler, W),
    "from_5d": (so3.from_5d, normal(3, 5)),
    "from_6d": (so3.from_6d, V6),
    "from_9d": (so3.from_9d, normal(3, 9)),
    "from_10d": (so3.from_10d, normal(3, 10)),
    "to_5d": (so3.to_5d, R),
    "to_6d": (so3.to_6d, R),
    "to_9d": (so3.to_9d, R),
    "to_10d": (so3.to_10d, R),
    "convert": (lambda v: so3.convert(v, "6d", "rotvec"), V6),
    "geodesic": (so3.geodesic, R, R2),
    "chordal": (so3.chordal, R, R2),
    "slerp": (so3.slerp, R, R2, T),
    "slerp of quaternions": (so3.slerp, Q, normal(3, 4), T),
    "squad": (so3.squad, Q, normal(3, 4), normal(3, 4), normal(3, 4), T),
    "squad_controls": (so3.squad_controls, normal(3, 5, 4)),
    "mean": (lambda R, w: so3.mean(R, w, max_iter=3), near(3, 4), normal(3, 4).abs()),
    "mean chordal": (lambda R: so3.mean(R, metric="chordal"), near(3, 4)),
    "mean l1": (lambda R: so3.mean(R, metric="l1", max_iter=2), near(3, 4)),
    "align": (lambda x, y: so3.align(x, y, scale=True), normal(3, 5, 3), normal(3, 5, 3)),
    "rotation_between": (so3.rotation_between, W, normal(3, 3)),
    "forward_kinematics": (lambda R, o: so3.forward_kinematics(R, o, TREE), rotations(3, 4), normal(3, 4, 3)),
    "renormalize": (so3.renormalize, R),
    "RotationSpline": (lambda k: so3.RotationSpline(k, [0.0, 1.0, 2.5], iterations=2)(0.7), near(3, 3)),
    "RotationSpline velocity": (lambda k: so3.RotationSpline(k, [0.0, 1.0, 2.5], iterations=2)(0.7, 1), near(3, 3)),
}
# not functions of tensors that could be batched or differentiated
EXEMPT = {"EULER_CONVENTIONS", "REPRESENTATIONS", "Alignment", "MeanInfo", "random"}


def test_every_public_name_is_covered():
    assert {name.split()[0] for name in CASES} | EXEMPT == set(so3.__all__)
    assert len(set(so3.__all__)) == len(so3.__all__)
    assert all(hasattr(so3, name) for name in so3.__all__)


@pytest.mark.parametrize("name", CASES)
def test_batching(name):
    fn, *args = CASES[name]
    check_batching(fn, *args, atol=1e-13)


@pytest.mark.parametrize("name", CASES)
def test_low_precision(name):
    fn, *args = CASES[name]
    check_half(fn, *args)


@pytest.mark.parametrize("name", CASES)
def test_function_transforms(name):
    fn, *args = CASES[name]
    check_transforms(fn, *args, compile=False, compiled_transforms=False)


def from_vectors(w, v):
    q = so3.rotvec_to_quat(w)
    R = so3.exp(w)
    return (
        R,
        so3.left_jacobian(w),
        so3.left_jacobian_inverse(w),
        so3.quat_apply(q, v),
        so3.rotation_between(w, v),
        so3.euler_to_matrix(w, "zxz"),
        so3.from_mrp(w),
        so3.from_6d(torch.cat([w, v], -1)),
        so3.from_5d(torch.cat([w, v], -1)[..., :5]),
    )


def from_matrices(A, B):
    q, p = so3.matrix_to_quat(A), so3.matrix_to_quat(B)
    return (
        so3.log(A),
        so3.quat_mul(q, p),
        so3.matrix_to_euler(A, "XYZ"),
        so3.to_5d(A),
        so3.to_10d(A),
        so3.to_mrp(B),
        so3.geodesic(A, B),
        so3.chordal(A, B),
        so3.slerp(A, B, 0.3),
        so3.renormalize(A),
    )


def from_sets(A, x):
    return (
        so3.mean(A, max_iter=3),
        so3.from_10d(torch.cat([x.flatten(-2), x[..., 0, :1]], -1)),
        so3.align(x, so3.quat_apply(torch.ones(4, dtype=x.dtype), x), scale=True),
        so3.forward_kinematics(A, x, [-1, 0, 0]),
    )


def spline(A):
    curve = so3.RotationSpline(A, [0.0, 1.0, 2.5], iterations=1)
    return curve(0.7), curve(1.3, 1)


@pytest.mark.parametrize(
    ("fn", "args"),
    [
        (from_vectors, (normal(3, 3), normal(3, 3))),
        (from_matrices, (rotations(3), rotations(3))),
        (from_sets, (near(3, 3), normal(3, 3, 3))),
        (spline, (near(3, 3),)),
    ],
    ids=["vectors", "matrices", "sets", "spline"],
)
def test_compiled_in_one_graph(fn, args):
    torch._dynamo.reset()
    assert_same("compiled", torch.compile(fn, fullgraph=True, backend="aot_eager")(*args), fn(*args))


def test_compiled_transforms():
    # dynamic shapes, and the values of compiled grad and jvp
    check_transforms(lambda w, v: so3.geodesic(so3.exp(w), so3.from_6d(v)), W, V6, vmap=False)


@pytest.mark.slow
def test_inductor():
    torch._dynamo.reset()
    compiled = torch.compile(so3.quat_normalize, fullgraph=True)
    assert_same("inductor", compiled(Q), so3.quat_normalize(Q))


def test_export():
    check_export(so3.from_6d, V6.float())


@pytest.mark.parametrize("angle", [0.0, 1e-3, math.pi])
def test_compiled_gradients_at_special_angles(angle):
    w = angle * torch.eye(3, dtype=torch.float64)
    fn = torch.compile(lambda w: so3.exp(w).square().sum() + so3.log(so3.exp(0.5 * w)).sum(), fullgraph=True, backend="aot_eager")
    a, b = w.clone().requires_grad_(), w.clone().requires_grad_()
    (got,) = torch.autograd.grad(fn(a), a)
    (want,) = torch.autograd.grad(so3.exp(b).square().sum() + so3.log(so3.exp(0.5 * b)).sum(), b)
    assert torch.isfinite(got).all()
    assert torch.allclose(got, want, rtol=0, atol=1e-13)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", CASES)
def test_cuda_agrees_with_cpu(name):
    fn, *args = CASES[name]
    expected = torch.utils._pytree.tree_leaves(fn(*args))
    for got, want in zip(torch.utils._pytree.tree_leaves(fn(*(a.cuda() for a in args))), expected, strict=True):
        assert torch.allclose(got.cpu(), want, rtol=0, atol=1e-12)
