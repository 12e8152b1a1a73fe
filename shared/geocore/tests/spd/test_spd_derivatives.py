"""First and second derivatives at distinct, repeated and nearly repeated spectra, on both routes, and what happens beyond."""

import pytest
import torch
from spd_cases import matrix, random_spd, random_sym

from geocore import spd
from geocore.spd import _reference as ref
from geocore.spd._differences import EXP, INV, INVSQRT, LOG, SQRT, Clamp, Power
from geocore.testing import assert_same, check_transforms

PLACES = {
    "distinct": [0.5, 1.0, 3.0],
    "identity": [1.0, 1.0, 1.0],
    "repeated": [1.0, 2.0, 2.0],
    "close": [1.0, 1.0 + 1e-9, 2.0],
}
V = random_sym(n=3)
E = random_sym(n=3, seed=1)
UNARY = {
    "sqrtm": (spd.sqrtm, ref.sqrtm_reference),
    "invsqrtm": (spd.invsqrtm, ref.invsqrtm_reference),
    "logm": (spd.logm, ref.logm_reference),
    "expm": (spd.expm, ref.expm_reference),
    "powm 0.3": (lambda X: spd.powm(X, 0.3), lambda X: ref.powm_reference(X, 0.3)),
    "powm -1.7": (lambda X: spd.powm(X, -1.7), lambda X: ref.powm_reference(X, -1.7)),
    "powm 3": (lambda X: spd.powm(X, 3.0), lambda X: (X + X.mT) @ (X + X.mT) @ (X + X.mT) / 8),
    "invm": (spd.invm, lambda X: torch.linalg.inv((X + X.mT) / 2)),
    "invm eigh": (lambda X: spd.invm(X, method="eigh"), lambda X: torch.linalg.inv((X + X.mT) / 2)),
    "lyapunov": (lambda X: spd.lyapunov(X, V), lambda X: ref.lyapunov_reference(X, V)),
    "sylvester": (lambda X: spd.sylvester(X, spd.sym(X @ X), V), lambda X: ref.sylvester_reference(X, spd.sym(X @ X), V)),
    "generalized_lyapunov": (
        lambda X: spd.generalized_lyapunov(X, spd.invm(X) + 1, V),
        lambda X: ref.generalized_lyapunov_reference(X, torch.linalg.inv((X + X.mT) / 2) + 1, V),
    ),
    "transport +1": (lambda X: spd.bw_transport(X, V, 1), lambda X: ref.bw_transport_reference(X, V, 1)),
    "transport -1": (lambda X: spd.bw_transport(X, V, -1), lambda X: ref.bw_transport_reference(X, V, -1)),
    "newton_schulz": (
        lambda X: sum(spd.sqrtm_invsqrtm(X, method="newton_schulz")),
        lambda X: ref.sqrtm_reference(X) + ref.invsqrtm_reference(X),
    ),
}


def directional(f, X, *directions):
    """Value and directional derivatives of ``(weights * f).sum()`` up to the number of directions, by repeated reverse mode."""
    X = X.clone().requires_grad_()
    out = f(X)
    scalar = (torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape) * (out + out.mT)).sum()
    found = [scalar.detach()]
    for i, D in enumerate(directions):
        scalar = (torch.autograd.grad(scalar, X, create_graph=i + 1 < len(directions))[0] * D).sum()
        found.append(scalar.detach())
    return found


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", UNARY)
def test_fast_equals_reference_in_values_gradients_and_second_derivatives(name, place):
    fast, plain = UNARY[name]
    X = matrix(PLACES[place])
    assert_same(name, fast(X), plain(X), 1e-11)
    (left,), (right,) = (torch.autograd.functional.jacobian(f, (X,)) for f in (fast, plain))
    sym = (right + right.mT) / 2
    torch.testing.assert_close((left + left.mT) / 2, sym, rtol=1e-10, atol=1e-10)
    for a, b in zip(directional(fast, X, V, E), directional(plain, X, V, E), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("place", ["distinct", "identity", "repeated", "close"])
def test_numerical_derivatives_in_both_modes(place, check_directional):
    X = matrix(PLACES[place])[None]
    check_directional(lambda X: (*spd.sqrtm_invsqrtm(X), spd.logm(X), spd.powm(X, -0.4)), X)
    check_directional(lambda X, E: spd.frechet("log", X, E), X, V[None])
    check_directional(lambda X, p: spd.powm(X, p), X, torch.tensor([0.4]))
    check_directional(lambda A, C: spd.bw_transport(A, C, -1) + spd.bw_transport(A, C, 1), X, V[None])


@pytest.mark.parametrize("place", PLACES)
def test_third_derivatives_of_matrix_functions(place):
    X = matrix(PLACES[place])
    F = random_sym(n=3, seed=2)
    for fast, plain in (UNARY["sqrtm"], UNARY["logm"], UNARY["expm"], UNARY["powm 0.3"]):
        a, b = directional(fast, X, V, E, F), directional(plain, X, V, E, F)
        torch.testing.assert_close(a[-1], b[-1], rtol=1e-6, atol=1e-6)
    with pytest.raises(NotImplementedError, match="third order"):
        directional(spd.sqrtm, X, V, E, F, V)


def test_a_third_derivative_that_is_not_there_is_an_error_or_not_a_number():
    X = matrix(PLACES["repeated"])
    with pytest.raises(NotImplementedError, match="third derivatives"):
        directional(lambda X: spd.bw_transport(X, V, 1), X, V, E, V)

    def slope(f):
        return lambda X: torch.func.jvp(f, (X,), (E,))[1]

    for f in (spd.logm, lambda X: spd.bw_transport(X, V, -1), lambda X: spd.lyapunov(X, V)):
        second = slope(slope(f))(X)
        assert torch.isfinite(second).all()
        assert not torch.isfinite(slope(slope(slope(f)))(X)).any()


@pytest.mark.parametrize("place", PLACES)
def test_the_two_routes_agree(place):
    X = torch.stack([matrix(PLACES[place], seed=s) for s in range(2)])
    W = torch.stack([V, E])
    both = {"compile": False, "compiled_transforms": False}
    check_transforms(lambda X: (spd.logm(X), spd.powm(X, 0.3), spd.clamp_eig(X, 1.5)), X, **both)
    check_transforms(lambda X, W: (spd.frechet("sqrt", X, W), spd.lyapunov(X, W), spd.bw_transport(X, W, 1)), X, W, **both)
    hessian = torch.func.hessian(lambda x: (spd.logm(x) * V).sum())(X[0])
    x = X[0].clone().requires_grad_()
    eager = torch.autograd.functional.hessian(lambda x: (spd.logm(x) * V).sum(), x)
    torch.testing.assert_close(hessian, eager, rtol=1e-9, atol=1e-9)


def test_compiled_backward_and_compiled_transforms():
    X, W = random_spd(2, seed=4), torch.stack([V, E])

    def many(X, W):
        return spd.logm(spd.eigh(X)), spd.lyapunov(X, W), spd.bw_transport(X, W, 1)

    # Values are compiled in tests/matrix; of the derivatives two stand for all, since each second-order term is traced twice.
    check_transforms(lambda X, W: (spd.logm(X), spd.lyapunov(X, W)), X, W, vmap=False, compile=False)
    a, b = (X.clone().requires_grad_() for _ in range(2))
    torch._dynamo.reset()
    compiled = torch.compile(many, fullgraph=True, backend="aot_eager")
    got = torch.autograd.grad(sum(y.sin().sum() for y in compiled(a, W)), a)
    want = torch.autograd.grad(sum(y.sin().sum() for y in many(b, W)), b)
    assert_same("compiled backward", got, want, 1e-12)


def test_a_gradient_through_what_a_function_holds(check_directional):
    X = matrix(PLACES["repeated"])

    def f(X, a):
        return spd.funcm(X, lambda x: torch.tanh(a * x), dd=None)

    check_directional(f, matrix([0.5, 1.0, 2.0]), torch.tensor(0.7))
    a = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(f(X, a).diagonal().sum(), a)
    expected = sum(v / torch.cosh(a.detach() * v) ** 2 for v in PLACES["repeated"])
    torch.testing.assert_close(grad, expected)


def test_a_function_with_its_own_divided_difference(check_directional):
    X = matrix(PLACES["close"])
    exact = lambda a, b: a + b  # noqa: E731
    check_directional(lambda X: spd.funcm(X, torch.square, exact), X)
    got = torch.autograd.functional.jacobian(lambda X: spd.funcm(X, torch.square, exact), X)
    want = torch.autograd.functional.jacobian(lambda X: ((X + X.mT) / 2) @ ((X + X.mT) / 2), X)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-14)
    # Without one, half of the digits near repeated eigenvalues, all of them elsewhere.
    free = torch.autograd.functional.jacobian(lambda X: spd.funcm(X, torch.square), X)
    torch.testing.assert_close(free, want, rtol=0, atol=1e-7)
    distinct = matrix(PLACES["distinct"])
    plain = torch.autograd.functional.jacobian(lambda X: ref.funcm_reference(X, torch.sin), distinct)
    torch.testing.assert_close(torch.autograd.functional.jacobian(lambda X: spd.funcm(X, torch.sin), distinct), plain, rtol=0, atol=1e-13)


def test_divided_differences_are_symmetric_and_meet_their_recursion():
    points = torch.tensor([1e-9, 0.3, 0.3, 0.3 + 1e-8, 0.33, 1.0, 40.0, 1e5], dtype=torch.float64)
    for f in (SQRT, INVSQRT, INV, LOG, Power(0.3), Power(-2.2), EXP, Clamp(torch.tensor(0.31))):
        x = points[:-2] if f is EXP else points
        a, b, c, d = x[:, None, None, None], x[None, :, None, None], x[None, None, :, None], x[None, None, None, :]
        third = f.third(a, b, c, d)
        for axes in ((1, 0, 2, 3), (0, 1, 3, 2), (3, 2, 1, 0)):
            torch.testing.assert_close(third, third.permute(axes), rtol=1e-12, atol=0)
        second = f.second(x[:, None, None], x[None, :, None], x[None, None, :])
        far = (x[:, None] - x[None, :]).abs() > 0.1
        left = second[:, 1, :] * (x[:, None] - x[None, :])  # f[a, m, b] (a - b) = f[a, m] - f[m, b]
        pair = f.first(x[:, None], x[None, :])
        right = pair[:, 1, None] - pair[None, :, 1]
        torch.testing.assert_close(left[far], right[far], rtol=1e-9, atol=1e-12 * right.abs().max().item())


def test_large_batches_are_chunked():
    X = random_spd(40, n=24, seed=2).requires_grad_()
    S = random_sym(40, n=24)
    (g,) = torch.autograd.grad((spd.logm(X) * S).sum(), X, create_graph=True)
    (h,) = torch.autograd.grad((g * S).sum(), X)
    x = X[7].detach().requires_grad_()
    (g,) = torch.autograd.grad((spd.logm(x) * S[7]).sum(), x, create_graph=True)
    (alone,) = torch.autograd.grad((g * S[7]).sum(), x)
    assert 40 * 24**3 > 1 << 19
    torch.testing.assert_close(h[7], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["oas", "ledoit_wolf", "schaefer_strimmer"])
def test_shrinkage_of_a_silent_channel_has_a_gradient(name):
    X = torch.randn(4, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    X[2] = 0
    X.requires_grad_()
    C = getattr(spd.cov, name)(X, assume_centered=True)
    G = torch.autograd.grad(C.square().sum(), X)[0]
    step = torch.zeros_like(G)
    step[0, 3] = 1e-6
    with torch.no_grad():
        difference = sum(s * getattr(spd.cov, name)(X + s * step, assume_centered=True).square().sum() for s in (1, -1)) / 2e-6
    assert G.isfinite().all()
    torch.testing.assert_close(G[0, 3], difference, rtol=1e-6, atol=1e-8)
