"""The compiler sees the functions in groups, to save time; one by one, with everything else, they are in tests/matrix."""

import math

import pytest
import torch

from geocore import so3
from geocore.testing import assert_same

g = torch.Generator().manual_seed(5)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=g, dtype=torch.float64)


def rotations(*shape: int) -> torch.Tensor:
    return so3.random(shape, generator=g, dtype=torch.float64)


def near(*shape: int) -> torch.Tensor:
    return so3.exp(0.5 * normal(*shape, 3))


Q = normal(3, 4)


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
    # The compiler's trace, with every size a symbol; the stage below sees what they are made of in the export of tests/matrix.
    torch._dynamo.reset()
    assert_same("compiled", torch.compile(fn, fullgraph=True, dynamic=True, backend="eager")(*args), fn(*args))


@pytest.mark.slow
def test_inductor():
    torch._dynamo.reset()
    compiled = torch.compile(so3.quat_normalize, fullgraph=True)
    assert_same("inductor", compiled(Q), so3.quat_normalize(Q))


def test_compiled_gradients_at_special_angles():
    w = torch.cat([angle * torch.eye(3, dtype=torch.float64) for angle in (0.0, 1e-3, math.pi)])
    fn = torch.compile(lambda w: so3.exp(w).square().sum() + so3.log(so3.exp(0.5 * w)).sum(), fullgraph=True, backend="aot_eager")
    a, b = w.clone().requires_grad_(), w.clone().requires_grad_()
    (got,) = torch.autograd.grad(fn(a), a)
    (want,) = torch.autograd.grad(so3.exp(b).square().sum() + so3.log(so3.exp(0.5 * b)).sum(), b)
    assert torch.isfinite(got).all()
    assert torch.allclose(got, want, rtol=0, atol=1e-13)
