"""Frechet means: stationarity, closed forms, convergence, weights, and the three kinds of gradient."""

import pytest
import torch
from spd_cases import matrix, random_spd, random_sym

from geocore import spd
from geocore.spd import _reference as ref

M = random_spd(n=3, seed=9)
ITERATIVE = {
    "affine": spd.AffineInvariant(),
    "Bures": spd.BuresWasserstein(),
    "generalized Bures": spd.GeneralizedBuresWasserstein(M),
    "deformed Bures": spd.Deformed(spd.BuresWasserstein(), 0.5),
}
CLOSED = {
    "log-Euclidean": spd.LogEuclidean(),
    "log-Cholesky": spd.LogCholesky(),
    "power-Euclidean": spd.PowerEuclidean(0.5),
    "power-Cholesky": spd.PowerCholesky(0.5),
    "Bures-Cholesky": spd.BWCholesky(),
}
X = random_spd(2, 7, seed=3, scale=1.0)
w = torch.rand(7, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.1
EYE = torch.eye(3, dtype=torch.float64)


def close(a, b, atol=1e-11):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def wide(cond, count=20, n=6):
    """Matrices of one condition and different eigenvectors."""
    exponents = torch.linspace(-0.5, 0.5, n, dtype=torch.float64)
    return torch.stack([matrix(cond**exponents, seed=k) for k in range(count)])


@pytest.mark.parametrize("name", [*ITERATIVE, *CLOSED])
def test_the_mean_tangent_vector_at_the_mean_is_zero(name):
    m = (ITERATIVE | CLOSED)[name]
    mean, info = m.mean(X, w, dim=1, return_info=True)
    assert mean.shape == (2, 3, 3)
    assert info.converged.all()
    weights = (w / w.sum())[:, None, None]
    close((weights * m.log(mean[:, None], X)).sum(1), torch.zeros(2, 3, 3, dtype=torch.float64), 1e-10)
    close(m.mean(X.movedim(1, 0), w), mean)
    close(m.mean(X, 5 * w, dim=-3), mean)
    close(m.mean(X[:, :1], dim=1), X[:, 0], 1e-11)
    close(m.var(X, w, dim=1), ((w / w.sum()) * m.dist2(X, mean[:, None])).sum(-1))
    # Nothing nearby is better.
    V = random_sym(2, n=3, scale=1e-3)
    assert (m.var(X, w, dim=1, mean=mean + V) > m.var(X, w, dim=1)).all()


def test_stein_mean_is_stationary():
    m = spd.Stein()
    mean, info = m.mean(X, w, dim=1, return_info=True)
    x = mean.clone().requires_grad_()
    (g,) = torch.autograd.grad(m.var(X, w, dim=1, mean=x).sum(), x)
    close(g, torch.zeros_like(g), 1e-11)
    assert info.converged.all()


@pytest.mark.parametrize("cond", [1e2, 1e6])
@pytest.mark.parametrize("name", ["affine", "Bures"])
def test_ill_conditioned_means_converge_in_few_steps(name, cond):
    m = ITERATIVE[name]
    points = wide(cond)
    mean, info = m.mean(points, return_info=True)
    assert info.converged.all()
    assert int(info.iterations) <= 12  # the plain iterations take 15 to 60
    if name == "affine":
        close(m.mean(spd.invm(points)), spd.invm(mean), 1e-9 * cond**0.5)
    longer = m.mean(points, tol=1e-15)
    torch.testing.assert_close(longer, mean, rtol=0, atol=1e-10 * float(mean.abs().max()))


def test_the_plain_steps_are_those_of_the_literature():
    for m, plain in ((spd.AffineInvariant(), ref.affine_mean_reference), (spd.BuresWasserstein(), ref.bures_mean_reference)):
        for steps in (1, 3):
            a, b = (X[0].clone().requires_grad_() for _ in range(2))
            u, v = (w.clone().requires_grad_() for _ in range(2))
            got, want = m.mean(a, u, steps=steps), plain(b, v / v.sum(), steps)
            close(got, want, 1e-10)
            for x, y in zip(torch.autograd.grad(got.sin().sum(), (a, u)), torch.autograd.grad(want.sin().sum(), (b, v)), strict=True):
                close(x + x.mT if x.ndim > 1 else x, y + y.mT if y.ndim > 1 else y, 1e-9)
    # One step from the arithmetic mean is exact for commuting matrices, in the Bures-Wasserstein metric.
    diagonal = torch.diag_embed(torch.rand(5, 3, dtype=torch.float64) + 0.1)
    close(spd.BuresWasserstein().mean(diagonal, steps=1), diagonal.sqrt().mean(0).square(), 1e-14)
    close(spd.AffineInvariant().mean(diagonal), torch.diag(diagonal.diagonal(dim1=-2, dim2=-1).log().mean(0).exp()), 1e-11)


@pytest.mark.parametrize("name", [*ITERATIVE, "Stein"])
def test_implicit_gradient_is_that_of_many_unrolled_steps(name):
    m = (ITERATIVE | {"Stein": spd.Stein()})[name]
    a, b = (X[0].clone().requires_grad_() for _ in range(2))
    u, v = (w.clone().requires_grad_() for _ in range(2))
    got = torch.autograd.grad(m.mean(a, u).sin().sum(), (a, u))
    want = torch.autograd.grad(m.mean(b, v, grad="unroll", steps=60).sin().sum(), (b, v))
    for x, y in zip(got, want, strict=True):
        close(x, y, 1e-8)
    assert not m.mean(a, u, grad="none").requires_grad
    unrolled, info = m.mean(a, u, grad="unroll", return_info=True)
    assert info.converged.all()
    close(unrolled, m.mean(a, u), 1e-10)


@pytest.mark.parametrize("place", ["equal", "identity"])
@pytest.mark.parametrize("name", ["affine", "Bures", "Stein"])
def test_numerical_derivatives_of_the_implicit_mean(name, place, check_directional):
    """At generic points: tests/matrix."""
    m = (ITERATIVE | {"Stein": spd.Stein()})[name]
    two = {"equal": matrix([1.0, 3.0]).expand(3, 2, 2), "identity": EYE[:2, :2].expand(3, 2, 2)}[place]
    check_directional(lambda x, u: m.mean(x, u, max_iter=12), two, torch.tensor([0.2, 0.3, 0.7]))


def test_a_batch_of_equal_matrices_has_its_mean_and_a_finite_gradient():
    for m in (*ITERATIVE.values(), *CLOSED.values()):
        for x in (EYE, matrix([1e-12, 2e-12, 2e-12]), matrix([1e-5, 1.0, 1e5])):
            points = x.expand(6, 3, 3).clone().requires_grad_()
            mean = m.mean(points)
            torch.testing.assert_close(mean.detach(), x, rtol=1e-8, atol=1e-9 * float(x.abs().max()))
            (g,) = torch.autograd.grad(mean.sum(), points)
            assert torch.isfinite(g).all()
            torch.testing.assert_close(g.sum(0), torch.ones(3, 3, dtype=torch.float64), rtol=0, atol=1e-4)  # d mean / d common = 1


def test_gradient_at_eeg_scale():
    scale = 1e-12
    for m in (spd.AffineInvariant(), spd.BuresWasserstein(), spd.LogEuclidean()):
        a, b = (scale * X[0]).requires_grad_(), X[0].clone().requires_grad_()
        close(m.mean(a) / scale, m.mean(b), 1e-10)
        (g,) = torch.autograd.grad((m.mean(a) / scale).sin().sum(), a)
        (h,) = torch.autograd.grad(m.mean(b).sin().sum(), b)
        close(g * scale, h, 1e-9)


def test_a_third_derivative_of_the_implicit_mean_is_an_error():
    m = spd.BuresWasserstein()
    x = X[0].clone().requires_grad_()
    (g,) = torch.autograd.grad(m.mean(x).sin().sum(), x, create_graph=True)
    (h,) = torch.autograd.grad(g.sin().sum(), x, create_graph=True)
    assert torch.isfinite(h).all()
    with pytest.raises(NotImplementedError, match="third derivatives"):
        torch.autograd.grad(h.sum(), x)


def test_weights_broadcast_and_zero_weights_drop_out():
    m = spd.BuresWasserstein()
    per_item = torch.rand(2, 7, dtype=torch.float64) + 0.1
    together = m.mean(X, per_item, dim=1)
    close(together, torch.stack([m.mean(X[i], per_item[i]) for i in range(2)]), 1e-11)
    masked = w.clone()
    masked[3:] = 0
    close(m.mean(X, masked, dim=1), m.mean(X[:, :3], w[:3], dim=1), 1e-11)
    assert m.mean(X[:0], w, dim=1).shape == (0, 3, 3)
    assert m.mean(X.float(), dim=1).dtype == torch.float32
    close(m.mean(X, dim=1), m.mean(X, torch.ones(7, dtype=torch.float64), dim=1), 1e-14)


def test_transforms_compile_and_vmap():
    for m in (spd.AffineInvariant(), spd.BuresWasserstein()):
        close(torch.vmap(lambda x, m=m: m.mean(x, w, max_iter=8))(X), m.mean(X, w, dim=1), 1e-9)
        x = X[0].clone().requires_grad_()
        (want,) = torch.autograd.grad(m.mean(x, w).sin().sum(), x)
        close(torch.func.grad(lambda x, m=m: m.mean(x, w, max_iter=8).sin().sum())(X[0]), want, 1e-8)
    torch._dynamo.reset()
    m = spd.BuresWasserstein()
    step = torch.compile(lambda x: m.mean(x, w, steps=1), fullgraph=True, backend="aot_eager")
    x, y = (X[0].clone().requires_grad_() for _ in range(2))
    close(step(x), m.mean(y, w, steps=1), 1e-13)
    close(torch.autograd.grad(step(x).sum(), x)[0], torch.autograd.grad(m.mean(y, w, steps=1).sum(), y)[0], 1e-12)


@pytest.mark.bad_input
def test_errors():
    m = spd.AffineInvariant()
    with pytest.raises(ValueError, match="grad must be one of"):
        m.mean(X, grad="autograd")
    with pytest.raises(ValueError, match="dim must name a batch dimension"):
        m.mean(X, dim=2)
    with pytest.raises(ValueError, match="weights must have shape"):
        m.mean(X, w[:3], dim=1)
    with pytest.raises(ValueError, match="weights must have shape"):
        m.mean(X, torch.rand(3, 7), dim=1)
    with pytest.raises(ValueError, match="non-negative"):
        m.mean(X, -w, dim=1)
    with pytest.raises(ValueError, match="at least one matrix"):
        m.mean(X[:, :0], dim=1)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        m.mean(X, steps=0)
    with pytest.raises(TypeError, match="weights must have a floating-point dtype"):
        m.mean(X, torch.ones(7, dtype=torch.long), dim=1)
    bad = X.clone()
    bad[1, 2] = torch.diag(torch.tensor([1.0, -2.0, 1.0], dtype=torch.float64))
    for metric in (m, spd.BuresWasserstein(), spd.LogEuclidean(), spd.LogCholesky(), spd.Stein()):
        with pytest.raises(spd.NotPositiveDefiniteError, match=r"batch index \(1, 2\) has smallest eigenvalue -2"):
            metric.mean(bad, dim=1)
