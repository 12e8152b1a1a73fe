"""The other metrics: literal transcriptions, textbook steps with geocore's metrics, spd_learn, momentum variants."""

import pytest
import torch

from geocore import spd as room
from spdnorm import GBWBatchNorm, MomentumSchedule, SPDBatchNorm
from spdnorm._reference import airm_batch_norm_reference, chart_batch_norm_reference

D = torch.float64


def symmetric(G):
    return (G + G.mT) / 2


def compare(layer, reference, X, W):
    layer.W = W
    with torch.no_grad():
        layer.s.fill_(0.4)
    a, b = X.clone().requires_grad_(), X.clone().requires_grad_()
    w, s = W.clone().requires_grad_(), torch.tensor(0.4, dtype=D, requires_grad=True)
    out, (want, _, v) = layer(a), reference(b, w, s)
    torch.testing.assert_close(out, want, rtol=0, atol=1e-11)
    if layer.variance != "none":
        torch.testing.assert_close(layer.running_var, 0.9 + 0.1 * v, rtol=0, atol=1e-11)
    G = torch.randn(out.shape, dtype=D)
    got, expected = (symmetric(torch.autograd.grad((y * G).sum(), x, retain_graph=True)[0]) for y, x in ((out, a), (want, b)))
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    # the bias as a function of its logarithm
    log = room.logm(W).requires_grad_()
    expected = torch.autograd.grad((reference(X, room.expm(log), 0.4)[0] * G).sum(), log)[0]
    got = torch.autograd.grad((out * G).sum(), layer.bias_matrix.weight, retain_graph=True)[0]
    torch.testing.assert_close(symmetric(got), symmetric(expected), rtol=1e-9, atol=1e-9)
    if layer.learn_scale:
        grads = (
            torch.autograd.grad((out * G).sum(), layer.s, allow_unused=True),
            torch.autograd.grad((want * G).sum(), s, allow_unused=True),
        )
        torch.testing.assert_close(grads[0][0], grads[1][0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "options", [{}, {"theta": 0.5}, {"theta": 1.5, "alpha": 2.0, "beta": 0.3, "steps": 3}, {"cholesky": True, "theta": -1.0}]
)
def test_affine_invariant_is_the_transcription(spd, options):
    layer = SPDBatchNorm(
        4,
        "airm",
        **{k: v for k, v in options.items() if k in ("theta", "alpha", "beta")},
        karcher_steps=options.get("steps", 1),
        bias_map="cholesky" if options.get("cholesky") else "sqrt",
    )
    compare(layer, lambda X, W, s: airm_batch_norm_reference(X, W, s, **options), spd(6), spd() + torch.eye(4))


def test_brooks_has_no_variance(spd):
    layer = SPDBatchNorm(4, "airm", variance="none", scale=False)
    assert {n for n, _ in layer.named_parameters()} == {"bias_matrix.weight"}
    compare_scale = lambda X, W, s: airm_batch_norm_reference(X, W, s, scale=False)  # noqa: E731
    layer.W = W = spd() + torch.eye(4)
    X = spd(6)
    torch.testing.assert_close(layer(X), compare_scale(X, W, 1.0)[0], rtol=0, atol=1e-12)
    assert float(layer.running_var) == 1.0


@pytest.mark.parametrize("theta", [0.5, 1.0])
@pytest.mark.parametrize("name", ["lem", "lcm", "pem"])
def test_charts_are_the_transcription(spd, name, theta):
    weights = {} if name == "lcm" else {"alpha": 2.0, "beta": 0.3}
    # small enough for the image of the power chart, where nothing is clipped
    layer = SPDBatchNorm(4, name, theta=theta, **weights)
    compare(layer, lambda X, W, s: chart_batch_norm_reference(X, W, s, name=name, theta=theta, **weights), spd(6), spd() + 3 * torch.eye(4))


def test_power_chart_stays_positive(spd):
    layer = SPDBatchNorm(4, "pem", theta=0.5)
    with torch.no_grad():
        layer.s.fill_(20.0)
    out = layer(spd(9)).detach()
    assert float(torch.linalg.eigvalsh(out)[:, 0].min()) > 0
    assert layer.diagnostics()["domain_violation_rate"] > 0
    strict = SPDBatchNorm(4, "pem", domain="raise")
    with torch.no_grad():
        strict.s.fill_(20.0)
    with pytest.raises(ValueError, match="image of the power chart"):
        strict(spd(9))


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        (room.AffineInvariant(2.0, 0.1), {"metric": "airm", "alpha": 2.0, "beta": 0.1}),
        (room.LogEuclidean(), {"metric": "lem"}),
        (room.LogCholesky(), {"metric": "lcm"}),
        (room.PowerEuclidean(0.5), {"metric": "pem", "theta": 0.5}),
        (room.BuresWasserstein(), {"metric": "bw"}),
        (room.Deformed(room.AffineInvariant(), 0.5), {"metric": "airm", "theta": 0.5}),
        (room.Deformed(room.LogCholesky(), 0.5), {"metric": "lcm", "theta": 0.5}),
    ],
)
def test_metric_objects_are_the_names(spd, metric, name):
    X = spd(5)
    torch.testing.assert_close(SPDBatchNorm(4, metric)(X), SPDBatchNorm(4, **name)(X), rtol=0, atol=1e-13)


@pytest.mark.parametrize("metric", [room.AffineInvariant(), room.LogEuclidean(), room.LogCholesky(), room.BuresWasserstein()])
def test_special_formulas_are_the_textbook_steps(spd, metric):
    from spdnorm._geometry import MetricGeometry

    layer = SPDBatchNorm(4, metric, karcher_steps=40)
    layer.W = spd() + torch.eye(4)
    X = spd(6)
    out = layer(X)
    layer._make = (MetricGeometry, {"metric": metric})
    layer.reset_running_stats()
    # scaling commutes with what the metric's own exponential does; both means have converged
    torch.testing.assert_close(layer(X), out, rtol=0, atol=1e-8)


def test_a_metric_without_a_name(spd):
    layer = SPDBatchNorm(4, room.PowerCholesky(0.5), eps=0.0)
    with torch.no_grad():
        layer.s.fill_(0.1)
    X = spd(7).requires_grad_()
    out = layer(X)
    out.sum().backward()
    assert X.grad.isfinite().all()
    metric = room.PowerCholesky(0.5)
    torch.testing.assert_close(metric.mean(out), layer.W, rtol=0, atol=1e-10)
    torch.testing.assert_close(metric.dist2(out, layer.W).mean(), torch.tensor(0.01, dtype=D), rtol=0, atol=1e-10)


def test_generalised_metric_object_is_a_fixed_parameter(spd):
    M, X = spd() + torch.eye(4), spd(5)
    layer = GBWBatchNorm(4, learn_metric=False)
    layer.M = M
    torch.testing.assert_close(SPDBatchNorm(4, room.GeneralizedBuresWasserstein(M))(X), layer(X), rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", ["airm", "lem", "lcm"])
@pytest.mark.parametrize("mode", ["unroll", "implicit"])
def test_gradients_through_statistics(spd, kind, mode):
    layer, X = SPDBatchNorm(3, kind, stats_grad=mode, karcher_steps=60), spd(4, n=3)
    direction, G = symmetric(torch.randn(4, 3, 3, dtype=D)), torch.randn(4, 3, 3, dtype=D)
    Y = X.clone().requires_grad_()
    analytic = float((torch.autograd.grad((layer(Y) * G).sum(), Y)[0] * direction).sum())
    with torch.no_grad():
        ahead, behind = (float((layer(X + h * direction) * G).sum()) for h in (1e-5, -1e-5))
    assert analytic == pytest.approx((ahead - behind) / 2e-5, rel=1e-6)


def test_against_spd_learn(spd):
    modules = pytest.importorskip("spd_learn.modules")
    X = spd(7)
    theirs = modules.SPDBatchNormMean(4, dtype=D)
    ours = SPDBatchNorm(4, "airm", variance="none", scale=False)
    torch.testing.assert_close(ours(X), theirs(X), rtol=0, atol=1e-9)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean.reshape(4, 4), rtol=0, atol=1e-9)
    torch.testing.assert_close(ours.eval()(X), theirs.eval()(X), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["airm", "lem", "gbw"])
def test_renormalisation_uses_the_moved_statistics(spd, kind):
    layer = GBWBatchNorm(4, train_momentum=0.3) if kind == "gbw" else SPDBatchNorm(4, kind, train_momentum=0.3)
    X = spd(6)
    out = layer(X)
    geometry = layer.geometry()
    Y = geometry.encode(X)
    m = geometry.mean(Y, lambda A: A.mean(0), 1)
    moved = geometry.between(geometry.load(torch.eye(4, dtype=D)), m, 0.3)
    torch.testing.assert_close(layer.train_mean, geometry.save(moved), rtol=0, atol=1e-12)
    centred = geometry.centre(Y, moved)
    v = 0.7 + 0.3 * geometry.dispersion(centred).mean()
    torch.testing.assert_close(layer.train_var, v.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(out, geometry.finish(centred, 1 / (v + layer.eps).sqrt()), rtol=0, atol=1e-12)
    # and those for evaluation, with their own momentum, the variance about their own mean
    slow = geometry.between(geometry.load(torch.eye(4, dtype=D)), m, 0.1)
    torch.testing.assert_close(layer.running_mean, geometry.save(slow), rtol=0, atol=1e-12)
    about = geometry.dispersion(geometry.centre(Y, slow)).mean()
    torch.testing.assert_close(layer.running_var, 0.9 + 0.1 * about.detach(), rtol=0, atol=1e-12)


def test_full_train_momentum_is_the_plain_layer(spd):
    X = spd(6)
    torch.testing.assert_close(SPDBatchNorm(4, train_momentum=1.0)(X), SPDBatchNorm(4)(X), rtol=0, atol=1e-11)


def test_momentum_schedule():
    model = torch.nn.Sequential(SPDBatchNorm(4, train_momentum=1.0))
    schedule = MomentumSchedule(model, batch_size=16, epochs=5, reference=64, tau0=0.9)
    rho = (16 / 64) ** (1 / 5)
    seen = []
    for epoch in range(1, 8):
        want = 1 - (rho ** (5 * max(5 - epoch, 0) / 4) - rho**5)
        assert model[0].train_momentum == pytest.approx(want, abs=1e-12)
        assert schedule.momentum(epoch) == pytest.approx(want, abs=1e-12)
        seen.append(want)
        schedule.step()
    assert seen[0] == 1.0
    assert seen[4] == seen[6] == pytest.approx(0.25)
    assert model[0].momentum == pytest.approx(0.1)
    other = MomentumSchedule(torch.nn.Sequential(SPDBatchNorm(4, train_momentum=1.0)), 16, 5)
    other.load_state_dict(schedule.state_dict())
    assert other.layers[0].train_momentum == model[0].train_momentum
    large = MomentumSchedule(model, batch_size=640, epochs=5)
    assert all(0 <= large.momentum(e) <= 1 for e in range(1, 8))


@pytest.mark.bad_input
def test_errors():
    for options, message in (
        ({"metric": "stein"}, "metric must be one of"),
        ({"alpha": 0.0}, "alpha must be positive"),
        ({"beta": -0.25}, "beta more than -alpha / n = -0.25"),
        ({"metric": "lcm", "beta": 0.1}, "must be 1 and 0 for metric='lcm'"),
        ({"metric": "pem", "domain": "ignore"}, "domain must be 'clip' or 'raise'"),
        ({"bias_map": "log"}, "bias_map must be one of"),
        ({"variance": "identity"}, "variance must be one of"),
        ({"theta": 0.0}, "metric='lem'"),
        ({"metric": room.PowerCholesky(0.5), "theta": 2.0}, "theta must be 1 with a metric of another kind"),
    ):
        with pytest.raises(ValueError, match=message):
            SPDBatchNorm(4, **options)
    with pytest.raises(TypeError, match="metric must be one of"):
        SPDBatchNorm(4, 3)
    with pytest.raises(ValueError, match="made with train_momentum, found none"):
        MomentumSchedule(SPDBatchNorm(4), 16, 5)
    with pytest.raises(ValueError, match="epochs must be at least 2"):
        MomentumSchedule(SPDBatchNorm(4, train_momentum=1.0), 16, 1)
