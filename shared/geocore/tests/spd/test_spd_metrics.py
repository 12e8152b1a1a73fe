"""One list of metrics, every law over all of them; then what is special to each."""

import mpmath
import pytest
import torch
from spd_cases import SPECTRA, matrix, random_spd, random_sym, rotation

from geocore import spd
from geocore.spd import _reference as ref

M = random_spd(n=3, seed=9)
METRICS = {
    "affine": spd.AffineInvariant(),
    "affine alpha beta": spd.AffineInvariant(2.0, 0.5),
    "log-Euclidean": spd.LogEuclidean(),
    "log-Euclidean alpha beta": spd.LogEuclidean(2.0, -0.2),
    "log-Cholesky": spd.LogCholesky(),
    "Bures": spd.BuresWasserstein(),
    "generalized Bures": spd.GeneralizedBuresWasserstein(M),
    "power-Euclidean": spd.PowerEuclidean(0.5),
    "power-Cholesky": spd.PowerCholesky(0.5),
    "Bures-Cholesky": spd.BWCholesky(),
    "deformed Bures": spd.Deformed(spd.BuresWasserstein(), 0.5),
    "deformed affine": spd.Deformed(spd.AffineInvariant(), -0.7),
    "deformed log-Cholesky": spd.Deformed(spd.LogCholesky(), 0.5),
    "Stein": spd.Stein(),
}
RIEMANNIAN = [k for k in METRICS if k != "Stein"]
P, Q = random_spd(4, seed=1), random_spd(4, seed=2)
V, W = random_sym(4, seed=1, scale=0.2), random_sym(4, seed=2, scale=0.2)
EYE = torch.eye(3, dtype=torch.float64)


def close(a, b, atol=1e-11):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


@pytest.mark.parametrize("name", RIEMANNIAN)
def test_exp_log_distance_and_geodesics_belong_together(name):
    m = METRICS[name]
    close(m.norm(P, m.log(P, Q)), m.dist(P, Q))
    close(m.dist(P, Q), m.dist(Q, P))
    close(m.dist2(P, Q), m.dist(P, Q).square())
    close(m.exp(P, m.log(P, Q)), Q)
    close(m.log(P, m.exp(P, V)), V)
    assert m.in_domain(P, V).all()
    close(m.geodesic(P, Q, 0.0), P)
    close(m.geodesic(P, Q, 1.0), Q)
    t = torch.tensor([0.1, 0.3, 0.5, 0.9], dtype=torch.float64)
    close(m.exp(P, t[:, None, None] * m.log(P, Q)), m.geodesic(P, Q, t))
    close(m.dist(P, m.geodesic(P, Q, 0.3)), 0.3 * m.dist(P, Q))
    close(m.geodesic(P, Q, 0.5), m.mean(torch.stack([P, Q])))
    close(m.vectorize(Q, P).norm(dim=-1), m.dist(P, Q))
    close(m.vectorize(Q).norm(dim=-1), m.dist(EYE, Q))


@pytest.mark.parametrize("name", RIEMANNIAN)
def test_transport_is_an_isometry_that_composes(name):
    m = METRICS[name]
    atol = 1e-8 if "Bures" in name and name != "Bures-Cholesky" else 1e-11  # the equation of transport, 40 steps of fourth order
    moved = m.transport(P, Q, V)
    close(m.inner(Q, moved, m.transport(P, Q, W)), m.inner(P, V, W), atol)
    close(m.transport(P, Q, m.log(P, Q)), -m.log(Q, P), atol)
    close(m.transport(Q, P, moved), V, atol)
    close(m.transport(P, P, V), V, atol)
    middle = m.geodesic(P, Q, 0.4)
    close(m.transport(middle, Q, m.transport(P, middle, V)), moved, atol)
    close(m.transport(P, Q, 2 * V - 3 * W), 2 * moved - 3 * m.transport(P, Q, W), atol)


@pytest.mark.parametrize("name", METRICS)
def test_inner_product_and_gradient(name):
    m = METRICS[name]
    close(m.inner(P, V, W), m.inner(P, W, V))
    close(m.norm(P, V).square(), m.inner(P, V, V))
    assert (m.inner(P, V, V) > 0).all()
    close(m.inner(P, m.egrad2rgrad(P, W), V), (W * V).sum((-2, -1)))
    # The squared distance is the inner product to second order.
    h = 1e-3
    close(m.dist2(P, P + h * V) / h**2, m.inner(P, V, V), 5e-3 * float(m.inner(P, V, V).max()))
    R = m.retract(P, 5 * V)
    assert (torch.linalg.eigvalsh(R) > 0).all()
    close((m.retract(P, 1e-6 * V) - P) / 1e-6, V, 1e-5)


@pytest.mark.parametrize("name", METRICS)
def test_derivatives_where_both_points_are_one(name):
    m = METRICS[name]
    for x in (EYE, matrix([1.0, 2.0, 2.0]), P[0]):
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        d = m.dist(a, b)
        ga, gb = torch.autograd.grad(d, (a, b))
        assert d.item() == 0.0
        close(ga, torch.zeros_like(ga), 0.0)
        close(gb, torch.zeros_like(gb), 0.0)
        ga, gb = torch.autograd.grad(m.dist2(a, b), (a, b))
        close(ga, torch.zeros_like(ga), 1e-12)
        close(gb, torch.zeros_like(gb), 1e-12)
    # The Hessian of half the squared distance is the metric.
    f = lambda x: m.dist2(x, P[0]) / 2  # noqa: E731
    x = P[0].clone().requires_grad_()
    (g,) = torch.autograd.grad(f(x), x, create_graph=True)
    (Hv,) = torch.autograd.grad((g * V[0]).sum(), x)
    close((Hv * W[0]).sum(), m.inner(P[0], V[0], W[0]), 1e-9)
    assert torch.isfinite(torch.autograd.grad(m.norm(x, torch.zeros_like(x)), x, allow_unused=True, materialize_grads=True)[0]).all()


@pytest.mark.parametrize("name", ["affine alpha beta", "Bures", "power-Euclidean", "log-Cholesky"])
def test_numerical_derivatives_at_the_identity(name, check_directional):
    """At generic points: tests/matrix."""
    m = METRICS[name]
    one, v = EYE[:2, :2][None], V[:1, :2, :2]
    options = {"steps": 1} if name == "Bures" else {}

    def every(p, q, v):
        return m.dist2(p, q), m.exp(p, v), m.log(p, q), m.transport(p, q, v, **options), m.inner(p, v, v), m.vectorize(p, q)

    check_directional(every, one, one.clone(), v, joint=True)


def test_affine_metric_against_its_textbook_form_and_its_invariances():
    m = spd.AffineInvariant()
    for fast, plain in (
        (m.log, ref.affine_log_reference),
        (m.transport, ref.affine_transport_reference),
        (m.exp, ref.affine_exp_reference),
    ):
        args = (P, Q, V) if fast == m.transport else (P, V) if fast == m.exp else (P, Q)
        a, b = ([x.clone().requires_grad_() for x in args] for _ in range(2))
        close(fast(*a), plain(*b), 1e-10)
        for x, y in zip(torch.autograd.grad(fast(*a).sin().sum(), a), torch.autograd.grad(plain(*b).sin().sum(), b), strict=True):
            close((x + x.mT) / 2, (y + y.mT) / 2, 1e-9)
    A = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) + 2 * EYE
    close(m.dist(A @ P @ A.mT, A @ Q @ A.mT), m.dist(P, Q), 1e-10)
    close(m.dist(spd.invm(P), spd.invm(Q)), m.dist(P, Q))
    stein = spd.Stein()
    close(stein.dist2(A @ P @ A.mT, A @ Q @ A.mT), stein.dist2(P, Q), 1e-11)
    close(stein.dist2(P, Q), torch.logdet((P + Q) / 2) - torch.logdet(P @ Q) / 2)


def test_bures_metric_against_its_textbook_form_and_its_invariances():
    m = spd.BuresWasserstein()
    for fast, plain in ((m.dist2, ref.bures_dist2_reference), (m.log, ref.bures_log_reference), (m.exp, ref.bures_exp_reference)):
        args = (P, V) if fast == m.exp else (P, Q)
        a, b = ([x.clone().requires_grad_() for x in args] for _ in range(2))
        close(fast(*a), plain(*b), 1e-10)
        for x, y in zip(torch.autograd.grad(fast(*a).sin().sum(), a), torch.autograd.grad(plain(*b).sin().sum(), b), strict=True):
            close((x + x.mT) / 2, (y + y.mT) / 2, 1e-9)
    R = rotation(3)
    close(m.dist2(R @ P @ R.mT, R @ Q @ R.mT), m.dist2(P, Q))
    close(m.dist2(7.3 * P, 7.3 * Q), 7.3 * m.dist2(P, Q))
    # grad_P d^2 = I - T with the optimal map T, T P T = Q, and its Riemannian gradient is -2 log_P Q.
    p = P.clone().requires_grad_()
    (g,) = torch.autograd.grad(m.dist2(p, Q).sum(), p)
    T = EYE - g
    close(T @ P @ T, Q, 1e-10)
    close(m.egrad2rgrad(P, g), -2 * m.log(P, Q), 1e-10)


def test_transport_of_the_bures_metric_in_closed_form_and_as_an_equation():
    m = spd.BuresWasserstein()
    a, b = (matrix(v)[None] for v in ([1.0, 2.0, 5.0], [4.0, 3.0, 0.5]))  # same eigenvectors: they commute
    v = V[:1]
    closed, ode = (m.transport(a, b, v, method=k) for k in ("closed", "ode"))
    close(closed, ode, 1e-8)
    close(m.transport(a, b, v), closed, 0.0)
    close(m.transport(EYE, Q, V), spd.bw_transport(Q, V, 1), 1e-12)
    close(m.transport(P, 4 * EYE, V), 2 * spd.bw_transport(P, V, -1), 1e-12)
    # Fourth order: ten times the steps, ten thousand times the accuracy.
    exact = m.transport(P, Q, V, method="ode", steps=160)
    errors = [float((m.transport(P, Q, V, method="ode", steps=k) - exact).abs().max()) for k in (4, 40)]
    assert errors[0] / errors[1] > 3e3
    assert errors[1] < 1e-8
    # To the identity the closed form has the right derivative in the base point; between two moving points only the equation has.
    p, q = a.clone().requires_grad_(), b.clone().requires_grad_()
    (auto,) = torch.autograd.grad((m.transport(p, EYE, v) * W[:1]).sum(), p)
    (slow,) = torch.autograd.grad((m.transport(p, EYE, v, method="ode", steps=20) * W[:1]).sum(), p)
    close(auto, slow, 1e-6)
    got = torch.autograd.grad((m.transport(p, q, v) * W[:1]).sum(), (p, q))
    want = torch.autograd.grad((m.transport(p, q, v, method="ode") * W[:1]).sum(), (p, q))
    for x, y in zip(got, want, strict=True):
        close(x, y, 1e-12)


def test_the_domain_of_the_bures_exponential():
    m = spd.BuresWasserstein()
    short, long = 0.5 * EYE, torch.diag(torch.tensor([-3.0, 0.1, 0.1], dtype=torch.float64))
    assert m.in_domain(EYE, torch.stack([short, long])).tolist() == [True, False]
    folded = m.exp(EYE, long)
    assert (torch.linalg.eigvalsh(folded) >= 0).all()
    with pytest.raises(spd.NotPositiveDefiniteError, match="domain of the exponential"):
        m.exp(EYE, long, domain="raise")
    clipped = spd.BuresWasserstein(domain="clip", clip=0.1).exp(EYE, long)
    close(clipped.diagonal(), torch.tensor([0.01, 1.05**2, 1.05**2], dtype=torch.float64))
    g = spd.GeneralizedBuresWasserstein(M, domain="clip", clip=0.1)
    assert (torch.linalg.eigvalsh(g.exp(EYE, 5 * long)) > 0).all()
    for flat in (spd.PowerEuclidean(0.5), spd.PowerCholesky(0.5), spd.BWCholesky()):
        assert flat.in_domain(EYE, torch.stack([short, 5 * long])).tolist() == [True, False]
        with pytest.raises(spd.NotPositiveDefiniteError):
            flat.exp(EYE, 5 * long)


def test_generalized_bures_relations():
    m = spd.GeneralizedBuresWasserstein(M)
    half = spd.invsqrtm(M)
    close(m.dist2(P, Q), spd.BuresWasserstein().dist2(half @ P @ half, half @ Q @ half), 1e-10)
    close(m.inner(P, V, W), (V * spd.generalized_lyapunov(P, M.expand_as(P), W)).sum((-2, -1)) / 2)
    close(m.egrad2rgrad(P, V), 2 * (P @ V @ M + M @ V @ P))
    one = spd.GeneralizedBuresWasserstein(EYE)
    close(one.dist2(P, Q), spd.BuresWasserstein().dist2(P, Q))
    close(spd.GeneralizedBuresWasserstein(P[0]).inner(P[0], V[0], W[0]), spd.AffineInvariant().inner(P[0], V[0], W[0]) / 4)
    metric = M.clone().requires_grad_()
    assert torch.autograd.grad(spd.GeneralizedBuresWasserstein(metric).dist2(P, Q).sum(), metric)[0].abs().max() > 0


def test_power_deformations():
    bures, log_euclidean = spd.BuresWasserstein(), spd.LogEuclidean()
    small = spd.Deformed(bures, 1e-3)
    # Specified: 2.1675 against 2.1687 at theta = 1e-3 on one pair; the limit is half of log-Euclidean, the error of first order.
    close(small.dist(P, Q), log_euclidean.dist(P, Q) / 2, 3e-3)
    close(spd.Deformed(bures, 1e-5).dist2(P, Q), log_euclidean.dist2(P, Q) / 4, 1e-4)
    close(spd.Deformed(bures, 1.0).dist(P, Q), bures.dist(P, Q))
    close(spd.Deformed(log_euclidean, 0.3).dist(P, Q), log_euclidean.dist(P, Q))
    close(spd.PowerEuclidean(1e-6).dist(P, Q), log_euclidean.dist(P, Q), 1e-4)
    close(spd.PowerEuclidean(0.5).dist(P, Q), 2 * torch.linalg.matrix_norm(spd.sqrtm(P) - spd.sqrtm(Q)))
    close(spd.PowerCholesky(1e-6).dist(P, Q), spd.LogCholesky().dist(P, Q), 1e-5)
    close(spd.Deformed(spd.PowerEuclidean(1.0), 0.5).dist(P, Q), spd.PowerEuclidean(0.5).dist(P, Q))
    twice = spd.Deformed(spd.Deformed(bures, 0.5), 0.5)
    close(twice.dist(P, Q), spd.Deformed(bures, 0.25).dist(P, Q))
    close(twice.exp(P, twice.log(P, Q)), Q)


def test_closed_forms_on_diagonal_matrices():
    a, b = torch.tensor([0.5, 2.0, 7.0], dtype=torch.float64), torch.tensor([3.0, 1.0, 0.2], dtype=torch.float64)
    A, B = torch.diag(a), torch.diag(b)
    close(spd.BuresWasserstein().dist2(A, B), (a.sqrt() - b.sqrt()).square().sum())
    for m in (spd.AffineInvariant(), spd.LogEuclidean()):
        close(m.dist2(A, B), (a.log() - b.log()).square().sum())
    close(spd.LogCholesky().dist2(A, B), (a.log() - b.log()).square().sum() / 4)
    close(spd.BWCholesky().dist2(A, B), (a**0.25 - b**0.25).square().sum())
    trace = (a.log() - b.log()).sum()
    close(spd.AffineInvariant(2.0, 0.5).dist2(A, B), 2 * (a.log() - b.log()).square().sum() + 0.5 * trace**2)
    x, y = torch.tensor([[2.0]], dtype=torch.float64), torch.tensor([[8.0]], dtype=torch.float64)
    close(spd.AffineInvariant().dist(x, y), torch.tensor(4.0, dtype=torch.float64).log())
    close(spd.BuresWasserstein().geodesic(x, y, 0.5), torch.tensor([[4.5]], dtype=torch.float64))


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e8])
def test_distances_and_gradients_are_right_at_any_scale(scale):
    power = {"affine": 0, "log-Euclidean": 0, "log-Cholesky": None, "Bures": 1}  # d^2(cP, cQ) = c^power d^2(P, Q)
    for name, k in power.items():
        m = METRICS[name]
        a, b = (scale * P[0]).requires_grad_(), P[0].clone().requires_grad_()
        (g,) = torch.autograd.grad(m.dist2(a, scale * Q[0]), a)
        assert torch.isfinite(g).all()
        if k is not None:
            (want,) = torch.autograd.grad(m.dist2(b, Q[0]), b)
            close(m.dist2(a, scale * Q[0]) * scale**-k, m.dist2(b, Q[0]), 1e-11)
            close(g * scale ** (1 - k), want, 1e-10)


def test_ill_conditioned_points_have_finite_right_gradients():
    x = matrix(SPECTRA["cond 1e10"])
    y = matrix(SPECTRA["cond 1e2"], seed=4)
    for name in METRICS:
        if name == "generalized Bures":  # its M has another size
            continue
        m = METRICS[name]
        a = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(m.dist2(a, y), a)
        assert torch.isfinite(g).all(), name
        assert torch.isfinite(m.dist(x, y)), name
    # Commuting ill-conditioned matrices: the closed form.
    half = spd.powm(x, 0.5)
    expected = (torch.tensor(SPECTRA["cond 1e10"], dtype=torch.float64).log() / 2).square().sum()
    torch.testing.assert_close(spd.AffineInvariant().dist2(x, half), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("transformed", [False, True])
def test_two_matrices_of_condition_1e10_seen_from_one_another(transformed):
    """Condition 1e20: the entries of ``P^-1/2 Q P^-1/2`` cannot hold its small eigenvalues, singular values of its root can."""
    x, y = matrix(SPECTRA["cond 1e10"]), matrix(SPECTRA["cond 1e10"], seed=4)
    with mpmath.workdps(60):
        X, Y = mpmath.matrix(x.tolist()), mpmath.matrix(y.tolist())
        L = mpmath.cholesky(X)
        inverse = L**-1
        affine = mpmath.sqrt(sum(mpmath.log(v) ** 2 for v in mpmath.eigsy(inverse * Y * inverse.T, eigvals_only=True)))
        cross = sum(mpmath.sqrt(v) for v in mpmath.eigsy(L.T * Y * L, eigvals_only=True))
        bures = sum(X[i, i] + Y[i, i] for i in range(8)) - 2 * cross
        log_det = mpmath.log(mpmath.det((X + Y) / 2)) - mpmath.log(mpmath.det(X) * mpmath.det(Y)) / 2
    call = torch.vmap if transformed else lambda f: f
    for m, want in ((spd.AffineInvariant(), affine**2), (spd.BuresWasserstein(), bures), (spd.Stein(), log_det)):
        got = call(m.dist2)(x[None], y[None])[0]
        assert abs(float(got) / float(want) - 1) < 1e-6, m
        a = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(m.dist2(a, y), a)
        h = 1e-3
        step = 1e-5 * torch.eye(8, dtype=torch.float64) * h  # well inside the smallest eigenvalue
        slope = (m.dist2(x + step, y) - m.dist2(x - step, y)) / 2
        torch.testing.assert_close((g * step).sum(), slope, rtol=2e-2, atol=1e-12 * float(want))
    a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
    for m in (spd.AffineInvariant(), spd.BuresWasserstein()):
        got = (m.log(a, b), m.geodesic(a, b, 0.3), m.mean(torch.stack([a, b])))
        for out in got:
            assert torch.isfinite(out).all()
            assert all(torch.isfinite(g).all() for g in torch.autograd.grad(out.sum(), (a, b), retain_graph=True))
        close(m.norm(a, got[0]) / m.dist(a, b), torch.ones((), dtype=torch.float64), 1e-4)


def test_batches_broadcast_and_keep_dtype():
    for m in METRICS.values():
        assert m.dist(P[:, None], Q[None, :2]).shape == (4, 2)
        assert m.dist(P[0].float(), Q[0].float()).dtype == torch.float32
        assert m.dist(P[:0], Q[:0]).shape == (0,)
        assert m.random(2, 3, 3).shape == (2, 3, 3)
        assert "Metric" in [c.__name__ for c in type(m).__mro__]
        assert type(m).__name__ in repr(m)
        close(m.dist(spd.eigh(P), Q), m.dist(P, Q))
    draw = spd.AffineInvariant().random((3, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    again = spd.LogEuclidean().random(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    close(draw, again, 0.0)


def test_a_factor_made_for_its_values_keeps_its_gradient():
    """The part of the distance in ``beta`` uses Cholesky factors that the other part may have asked for as constants."""
    m = spd.AffineInvariant(1.0, 2.0)
    for x, y in ((P[0], Q[0]), (matrix([1e-3, 1.0, 1e3]), matrix([1e3, 1e-3, 1.0], seed=1))):
        a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
        got = torch.autograd.grad(m.dist2(a, b), (a, b))
        want = torch.autograd.grad(spd.AffineInvariant().dist2(a, b) + 2 * (torch.logdet(b) - torch.logdet(a)).square(), (a, b))
        transformed = torch.func.grad(m.dist2, argnums=(0, 1))(x, y)
        for g, h, k in zip(got, want, transformed, strict=True):
            torch.testing.assert_close(g, (h + h.mT) / 2, rtol=1e-5, atol=1e-10)
            torch.testing.assert_close(g, k, rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize("name", ["affine alpha beta", "generalized Bures"])
def test_compiled_with_gradient(name):
    """One metric that needs eigenvectors of one matrix, one that needs those of several; their parts are compiled further, with
    gradients, in test_spd_derivatives."""
    m = METRICS[name]

    def call(p, q, v):
        return m.dist(p, q), m.exp(p, v), m.log(p, q)

    torch._dynamo.reset()
    compiled = torch.compile(call, fullgraph=True, backend="eager")
    a, b = (P.clone().requires_grad_() for _ in range(2))
    got, want = compiled(a, Q, V), call(b, Q, V)
    for x, y in zip(got, want, strict=True):
        close(x, y, 1e-11)
    (g,), (h,) = (torch.autograd.grad(sum(o.sum() for o in out), x) for out, x in ((got, a), (want, b)))
    close(g, h, 1e-9)
