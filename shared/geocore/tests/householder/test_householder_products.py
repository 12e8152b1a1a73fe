"""Products of reflections: equal to the factor-by-factor product, orthogonal whatever the parameter, right derivatives."""

import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geocore.householder import apply_product, apply_product_reference, compact_wy, reflect, to_matrix
from geocore.householder._dense import dense_product_plain
from geocore.testing import assert_close_eps, check_batching, check_half, check_transforms, max_error_eps


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_reflection_by_hand():
    torch.testing.assert_close(reflect(torch.tensor([2.0, 0.0]), torch.tensor([3.0, 4.0])), torch.tensor([-3.0, 4.0]))
    torch.testing.assert_close(to_matrix(torch.tensor([[1.0], [1.0]])), torch.tensor([[0.0, -1.0], [-1.0, 0.0]]))


def test_two_reflections_turn_by_twice_the_angle_between_them():
    angle = torch.tensor(0.3, dtype=torch.float64)
    V = torch.stack([torch.stack([angle.cos(), angle.sin()]), torch.tensor([1.0, 0.0], dtype=torch.float64)], dim=-1)
    turn = torch.stack([torch.stack([(2 * angle).cos(), -(2 * angle).sin()]), torch.stack([(2 * angle).sin(), (2 * angle).cos()])])
    assert_close_eps(to_matrix(V), turn, 4)


def test_symbolic_product():
    columns = [[1, 2, 2], [0, 3, -4], [1, 0, 1]]
    Q = sympy.eye(3)
    for c in columns:
        v = sympy.Matrix(c)
        Q = Q * (sympy.eye(3) - 2 * v * v.T / v.dot(v))
    V = torch.tensor(columns, dtype=torch.float64).T
    assert_close_eps(to_matrix(V), [[float(e) for e in Q.row(i)] for i in range(3)], 4)


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (3, 1), (5, 5), (7, 4), (3, 6), (4, 0)])
def test_equals_the_product_factor_by_factor(n, k, transpose):
    V, x, tau = draw(3, n, k), draw(3, n, seed=1), draw(3, k, seed=2).abs()
    for coefficients in (None, tau):
        fast = apply_product(V, x, coefficients, transpose)
        slow = apply_product_reference(V, x, coefficients, transpose)
        assert_close_eps(fast, slow, 400, scale=slow.abs().max().item() + 1)
        grads = [
            torch.autograd.grad(f(v, y, coefficients, transpose).sin().sum(), (v, y), allow_unused=True, materialize_grads=True)
            for f in (apply_product, apply_product_reference)
            for v, y in [(V.clone().requires_grad_(), x.clone().requires_grad_())]
        ]
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("v_shape", "x_shape"),
    [((5, 3), (2, 7, 5)), ((2, 1, 5, 3), (2, 7, 5)), ((2, 7, 5, 3), (5,)), ((4, 1, 5, 3), (7, 5)), ((3, 1, 1, 5, 2), (3, 2, 4, 5))],
)
def test_batches_broadcast(v_shape, x_shape):
    V, x = draw(*v_shape), draw(*x_shape, seed=1)
    got = apply_product(V, x)
    assert got.shape == (*torch.broadcast_shapes(v_shape[:-2], x_shape[:-1]), 5)
    torch.testing.assert_close(got, apply_product_reference(V, x), rtol=0, atol=1e-12)


def test_compact_wy_is_the_known_inverse():
    V, tau = draw(6, 4), draw(4, seed=1).abs() + 0.1
    T = compact_wy(V, tau)
    torch.testing.assert_close(torch.linalg.inv(T), torch.triu(V.mT @ V, 1) + torch.diag(1 / tau), rtol=1e-10, atol=1e-10)
    assert torch.equal(T, T.triu())


def test_matrix_has_the_first_columns_and_orthogonality_at_size():
    V = draw(256, 256, dtype=torch.float32)
    Q = to_matrix(V)
    assert (Q.mT @ Q - torch.eye(256)).abs().max() < 2e-6
    assert torch.equal(to_matrix(V, cols=0), Q.new_zeros(256, 0))
    torch.testing.assert_close(to_matrix(V, cols=32), Q[:, :32], rtol=0, atol=2e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(0, 6), st.sampled_from([0.0, 1e-300, 1e-160, 1e-30, 1.0, 1e100]), st.integers(0, 10**6))
def test_never_anything_but_orthogonal(n, k, size, seed):
    V = draw(n, k, seed=seed) * size
    if k > 1:
        V[:, -1] = V[:, 0]
    Q = to_matrix(V)
    assert max_error_eps(Q.mT @ Q, torch.eye(n, dtype=torch.float64)) < 100


def test_zero_vector_is_the_identity_with_finite_gradients():
    V = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    x = draw(4).requires_grad_()
    y = apply_product(V, x)
    assert torch.equal(y, x)
    grad_v, grad_x = torch.autograd.grad(y.square().sum(), (V, x))
    assert torch.equal(grad_v, torch.zeros_like(V))
    torch.testing.assert_close(grad_x, 2 * x)
    assert torch.equal(reflect(torch.zeros(3), torch.ones(3)), torch.ones(3))


def test_zero_coefficient_is_the_identity():
    V, x = draw(4, 3), draw(4, seed=1)
    tau = torch.tensor([0.0, 0.5, 0.0], dtype=torch.float64)
    torch.testing.assert_close(apply_product(V, x, tau), apply_product(V[:, 1:2], x, tau[1:2]))


def test_derivatives(check_directional):
    V, x, tau = draw(2, 4, 3), draw(2, 4, seed=1), draw(2, 3, seed=2).abs()
    check_directional(lambda V, x: apply_product(V, x), V, x)
    check_directional(lambda V, x, tau: apply_product(V, x, tau, True), V, x, tau)
    check_directional(to_matrix, V, tau)
    check_directional(compact_wy, V, tau)
    check_directional(reflect, x, x.flip(0))


def test_transforms_batches_and_precision():
    V, x = draw(3, 4, 3), draw(3, 4, seed=1)
    every = lambda V, x: (apply_product(V, x), to_matrix(V) @ x[..., None], reflect(V[..., 0], x))  # noqa: E731
    check_transforms(every, V, x, compile=False)
    check_batching(every, V, x, atol=1e-13)


def test_half_precision():
    V, x = draw(3, 4, 3), draw(3, 4, seed=1)
    check_half(apply_product, V, x)
    check_half(to_matrix, V)
    check_half(reflect, x, x.flip(0))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: apply_product(torch.zeros(3), torch.zeros(3)), ValueError, r"V must have shape \(..., n, n\), got \(3,\)"),
        (lambda: apply_product(torch.zeros(3, 2), torch.zeros(4)), ValueError, "columns of V have length 3"),
        (lambda: apply_product(torch.zeros(3, 2), torch.zeros(3), torch.zeros(3)), ValueError, "tau must have shape"),
        (lambda: apply_product(torch.zeros(2, 3, 2), torch.zeros(5, 3)), ValueError, "must broadcast"),
        (lambda: to_matrix(torch.zeros(3, 2), cols=4), ValueError, "cols must be at most n = 3, got 4"),
        (lambda: to_matrix(torch.zeros(3, 2), cols=1.5), TypeError, "cols must be an int"),
        (lambda: reflect(torch.zeros(3), torch.zeros(2)), ValueError, "v has length 3"),
        (lambda: compact_wy(torch.zeros(3, 2, dtype=torch.int64)), TypeError, "floating-point"),
        (lambda: compact_wy(torch.zeros(3, 2, dtype=torch.complex64)), NotImplementedError, "complex"),
    ],
)
def test_errors(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


@pytest.mark.parametrize("tau_given", [False, True])
@pytest.mark.parametrize(("shape", "cols"), [((5, 3), 5), ((5, 3), 2), ((2, 4, 4), 3), ((3, 2, 6, 1), 6), ((0, 4, 2), 4)])
def test_hand_written_gradient_equals_autograd_of_the_plain_form(shape, cols, tau_given, check_directional):
    generator = torch.Generator().manual_seed(0)
    V = torch.randn(shape, dtype=torch.float64, generator=generator)
    V[..., 0] *= torch.linspace(0, 1, shape[-2], dtype=torch.float64)
    if not tau_given:
        V[..., -1] = 0  # the identity, with gradient zero; the function jumps there, so finite differences need other columns
    tau = torch.rand(*shape[:-2], shape[-1], dtype=torch.float64, generator=generator) if tau_given else None
    leaves = [x.requires_grad_() for x in (V, tau) if x is not None]
    fast, plain = to_matrix(V, tau, cols), dense_product_plain(V, tau, cols)
    assert "DenseProduct" in type(fast.grad_fn).__name__
    torch.testing.assert_close(fast, plain, rtol=0, atol=1e-14)
    g = torch.randn(fast.shape, dtype=torch.float64, generator=generator)
    for a, b in zip(torch.autograd.grad(fast, leaves, g), torch.autograd.grad(plain, leaves, g), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    if tau_given:
        check_directional(lambda *x: to_matrix(*x, cols=cols), *leaves)
    else:
        check_directional(lambda x: to_matrix(x, cols=cols), V.detach() + 1)
