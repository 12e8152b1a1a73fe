"""Values and gradients against 60-digit references at every spectrum where formulas break."""

from itertools import product

import mpmath
import pytest
import torch
from spd_cases import SPECTRA, matrix

from geocore import spd

EPS = torch.finfo(torch.float64).eps
FUNCTIONS = {
    "sqrt": (spd.sqrtm, mpmath.sqrt, lambda x: 1 / (2 * mpmath.sqrt(x))),
    "invsqrt": (spd.invsqrtm, lambda x: 1 / mpmath.sqrt(x), lambda x: -1 / (2 * mpmath.sqrt(x) ** 3)),
    "log": (spd.logm, mpmath.log, lambda x: 1 / x),
    "pow 0.3": (lambda X: spd.powm(X, 0.3), lambda x: x ** mpmath.mpf(0.3), lambda x: mpmath.mpf(0.3) * x ** (mpmath.mpf(0.3) - 1)),
    "exp": (spd.expm, mpmath.exp, mpmath.exp),
    "inv": (spd.invm, lambda x: 1 / x, lambda x: -1 / x**2),
    "pow tensor": (
        lambda X: spd.powm(X, torch.tensor(0.3, dtype=torch.float64)),
        lambda x: x ** mpmath.mpf(0.3),
        lambda x: mpmath.mpf(0.3) * x ** (mpmath.mpf(0.3) - 1),
    ),
}
G = torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
G = (G + G.T) / 2


def loewner(values, f, slope):
    n = len(values)
    f_values = [f(v) for v in values]
    L = mpmath.matrix(n)
    for i in range(n):
        for j in range(n):
            gap = values[i] - values[j]
            # The eigenvalues of the rounded matrix lie 1e-16 apart or more, unless it is a multiple of the identity: 60 digits divide that.
            L[i, j] = slope(values[i]) if abs(gap) < mpmath.mpf(10) ** -50 * abs(values[i]) else (f_values[i] - f_values[j]) / gap
    return L


def relative(actual, reference, small_is_one=False):
    want = torch.tensor([[float(reference[i, j]) for j in range(8)] for i in range(8)], dtype=torch.float64)
    return ((actual - want).norm() / max(want.norm(), 1.0 if small_is_one else 0.0)).item()


OVERFLOWING = {("cond 1e6", "exp"), ("cond 1e10", "exp"), ("cond 1e14", "exp")}  # eigenvalues in the thousands


@pytest.mark.parametrize(("spectrum", "name"), [c for c in product(SPECTRA, FUNCTIONS) if c not in OVERFLOWING])
def test_against_sixty_digits(name, spectrum, exact):
    ours, f, slope = FUNCTIONS[name]
    values, U = exact[spectrum]
    X = matrix(SPECTRA[spectrum]).requires_grad_()
    Y = ours(X)
    (grad,) = torch.autograd.grad(Y, X, G)
    cond = float(values[7] / values[0])
    with mpmath.workdps(60):
        expected = U * mpmath.diag([f(v) for v in values]) * U.T
        inner = U.T * mpmath.matrix(G.tolist()) * U
        L = loewner(values, f, slope)
        for i in range(8):
            for j in range(8):
                inner[i, j] *= L[i, j]
        expected_grad = U * inner * U.T
    # Relative to the norm; that of the logarithm of nearly I is tiny, but not its rounding error.
    assert relative(Y.detach(), expected, small_is_one=name == "log") <= 10 * EPS * max(cond, 10.0)
    assert relative(grad, expected_grad) <= (1e-13 if cond <= 101 else 10 * EPS * cond)


def test_the_gradient_of_a_multiple_of_the_identity_is_a_multiple():
    for c in (1.0, 2.0, 1e-12, 1e9):
        X = (c * torch.eye(6, dtype=torch.float64)).expand(4, 6, 6).clone().requires_grad_()
        for f, slope in ((spd.sqrtm, 0.5 * c**-0.5), (spd.logm, 1 / c), (spd.invsqrtm, -0.5 * c**-1.5), (spd.invm, -(c**-2))):
            (grad,) = torch.autograd.grad(f(X).sum(), X)
            torch.testing.assert_close(grad, torch.full_like(grad, slope), rtol=1e-14, atol=1e-14 * abs(slope))


def test_float32_is_computed_in_float64_where_that_is_cheap():
    X = matrix(SPECTRA["cond 1e6"])
    single = X.float()
    want = spd.sqrtm(single.double())
    for f, dtype in ((spd.sqrtm(single), 1e-7), (spd.sqrtm(single, compute_dtype=torch.float64), 1e-7)):
        assert f.dtype == torch.float32
        assert ((f - want).norm() / want.norm()).item() < dtype
    rough = spd.invsqrtm(single, compute_dtype=torch.float32)
    exact = spd.invsqrtm(single.double())
    fine = spd.invsqrtm(single)
    assert (fine - exact).norm() < 1e-2 * (rough - exact).norm()


def test_a_shared_factorisation_gives_the_same_numbers_and_gradients():
    X = torch.stack([matrix(SPECTRA[k]) for k in ("cond 1e2", "repeated", "2I")])
    a, b = X.clone().requires_grad_(), X.clone().requires_grad_()
    eig = spd.eigh(a)
    values, vectors = eig
    torch.testing.assert_close((vectors * values[..., None, :]) @ vectors.mT, X, rtol=0, atol=1e-13)
    assert eig.matrix is not None
    together = (spd.sqrtm(eig), spd.logm(eig), spd.powm(eig, 0.7), spd.lyapunov(eig, G), spd.bw_transport(eig, G, -1))
    apart = (spd.sqrtm(b), spd.logm(b), spd.powm(b, 0.7), spd.lyapunov(b, G), spd.bw_transport(b, G, -1))
    for got, want in zip(together, apart, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-13)
    (ga,) = torch.autograd.grad(sum((y * G).sum() for y in together), a)
    (gb,) = torch.autograd.grad(sum((y * G).sum() for y in apart), b)
    torch.testing.assert_close(ga, gb, rtol=1e-12, atol=1e-12)
    root, inverse = spd.sqrtm_invsqrtm(eig)
    torch.testing.assert_close(root @ inverse, torch.eye(8, dtype=torch.float64).expand(3, 8, 8), rtol=0, atol=1e-13)


def test_a_factorisation_without_its_matrix_still_works():
    X = matrix([1.0, 2.0, 4.0]).requires_grad_()
    plain = spd.SymEig(*torch.linalg.eigh(X))
    torch.testing.assert_close(spd.logm(plain), spd.logm(X), rtol=0, atol=1e-14)
    S = matrix([1.0, 2.0, 4.0], seed=3)
    (got,) = torch.autograd.grad((spd.logm(plain) * S).sum(), X)
    (want,) = torch.autograd.grad((spd.logm(X) * S).sum(), X)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-13)


def test_floors_are_explicit():
    X = matrix([-1e-3, 1.0, 2.0]).requires_grad_()
    Y = spd.logm(X, min_eig=0.1)
    torch.testing.assert_close(
        torch.linalg.eigvalsh(Y.detach()), torch.tensor([0.1, 1.0, 2.0], dtype=torch.float64).log(), rtol=0, atol=1e-12
    )
    assert torch.isfinite(torch.autograd.grad(Y.sum(), X)[0]).all()
    singular = torch.diag(torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64))
    floor = spd.sqrtm(singular, min_eig="eps")[0, 0]
    torch.testing.assert_close(floor, torch.tensor((3 * EPS * 2) ** 0.5, dtype=torch.float64))
    torch.testing.assert_close(spd.sqrtm(X.detach() + 1, min_eig=1e-3), spd.sqrtm(X.detach() + 1))
    assert torch.isnan(spd.logm(X.detach(), check=False)).any()


def test_clamp_is_flat_below_and_at_its_threshold():
    X = torch.diag(torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)).requires_grad_()
    ones = torch.ones(3, 3, dtype=torch.float64)
    (grad,) = torch.autograd.grad((spd.clamp_eig(X, 1.0) * ones).sum(), X)
    expected = torch.tensor(
        [[0.0, 0.0, 0.8], [0.0, 0.0, 1.0], [0.8, 1.0, 1.0]], dtype=torch.float64
    )  # (3 - 1) / (3 - 0.5), 1 from threshold to 3
    torch.testing.assert_close(grad, expected, rtol=0, atol=1e-14)


def test_closed_forms_of_one_by_one_and_diagonal():
    x = torch.tensor([[[4.0]], [[9.0]]], dtype=torch.float64)
    torch.testing.assert_close(spd.sqrtm(x).flatten(), torch.tensor([2.0, 3.0], dtype=torch.float64))
    torch.testing.assert_close(spd.logm(x), x.log())
    torch.testing.assert_close(spd.lyapunov(x, torch.ones_like(x)), 1 / (2 * x))
    torch.testing.assert_close(spd.bw_transport(x, torch.ones_like(x), 1), x.sqrt())
    d = torch.tensor([0.3, 1.0, 7.0], dtype=torch.float64)
    torch.testing.assert_close(spd.powm(torch.diag(d), -1.3).diagonal(), d**-1.3)
