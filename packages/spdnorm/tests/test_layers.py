"""BiMap, ReEig, LogEig, ExpEig, Vech, CovPool, the classifiers and the networks."""

import pytest
import torch

from geocore.testing import check_batching, check_derivatives, check_half, check_module
from spdnorm import (
    SPDMLR,
    BiMap,
    CovPool,
    DomainSPDBatchNorm,
    ExpEig,
    LogEig,
    NotPositiveDefiniteError,
    ReEig,
    RResNet,
    SPDNet,
    SpectralResidual,
    TSMNet,
    Vech,
)
from spdnorm._reference import spd_mlr_reference

D = torch.float64
METRICS = ["lem", "airm", "lcm", "pem", "bw"]


@pytest.mark.parametrize("param", ["exp", "geoopt"])
@pytest.mark.parametrize("channels", [(1, 1), (2, 3)])
def test_bimap(spd, param, channels):
    layer = BiMap(5, 3, *channels, param=param)
    W = layer.W
    torch.testing.assert_close(W.mT @ W, torch.eye(3, dtype=D).expand(*W.shape[:-2], 3, 3), rtol=0, atol=1e-12)
    if channels == (1, 1):
        X = spd(4, n=5)
        torch.testing.assert_close(layer(X), W.mT @ X @ W)
        assert layer(spd(n=5)).shape == (3, 3)
    else:
        X = spd(4, 2, n=5)
        want = torch.stack([sum(W[o, i].mT @ X[:, i] @ W[o, i] for i in range(2)) for o in range(3)], dim=1)
        torch.testing.assert_close(layer(X), want)
    new = torch.linalg.qr(torch.randn(*W.shape, dtype=D))[0]
    layer.W = new
    torch.testing.assert_close(layer.W, new, rtol=0, atol=1e-12)


def test_bimap_is_uniform_at_first():
    g = torch.Generator().manual_seed(0)
    W = torch.stack([BiMap(3, 1, generator=g).W[:, 0] for _ in range(500)]).detach()
    assert float(W.mean(0).abs().max()) < 0.12
    torch.testing.assert_close(W.mT @ W / 500, torch.eye(3, dtype=D) / 3, rtol=0, atol=0.08)
    assert torch.equal(BiMap(4, 2, generator=torch.Generator().manual_seed(1)).W, BiMap(4, 2, generator=torch.Generator().manual_seed(1)).W)


def test_bimap_trains_with_a_plain_optimizer(spd):
    layer, X = BiMap(5, 2), spd(n=5)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.05, momentum=0.9)
    for _ in range(300):
        optimizer.zero_grad()
        (-layer(X).trace()).backward()
        optimizer.step()
    top = torch.linalg.eigvalsh(X)[-2:].sum()
    torch.testing.assert_close(layer(X).trace(), top, rtol=1e-6, atol=0)  # principal subspace


def test_reeig_logeig_expeig(spd):
    values = torch.tensor([1e-9, 0.2, 0.2, 3.0], dtype=D)
    Q = torch.linalg.qr(torch.randn(4, 4, dtype=D))[0]
    X = (Q * values) @ Q.mT
    torch.testing.assert_close(ReEig(1e-3)(X), (Q * values.clamp(min=1e-3)) @ Q.mT, rtol=0, atol=1e-15)
    torch.testing.assert_close(LogEig(1e-3)(X), (Q * values.clamp(min=1e-3).log()) @ Q.mT, rtol=0, atol=1e-13)
    torch.testing.assert_close(LogEig(1e-3)(X), LogEig()(ReEig(1e-3)(X)), rtol=0, atol=1e-11)
    Y = spd(3)
    torch.testing.assert_close(ExpEig()(LogEig()(Y)), Y, rtol=0, atol=1e-13)
    sym = lambda A: (A + A.mT) / 2  # noqa: E731
    for layer in (ReEig(1e-3), LogEig(1e-3), ExpEig()):
        check_derivatives(lambda x, layer=layer: layer(sym(x)), torch.stack([X, torch.eye(4, dtype=D)]), second=False, forward=False)
        check_batching(layer, Y)
        check_half(layer, Y)


def test_nan_passes_through(spd):
    X = spd(3)
    X[1, 0, 0] = float("nan")
    for layer in (ReEig(), LogEig(), LogEig(1e-4), ExpEig(), SPDMLR(4, 2), SpectralResidual()):
        out = layer(X)
        assert out[1].isnan().all()
        assert out[[0, 2]].isfinite().all()
    assert SPDNet([4, 3], "gbw", 2)(X).isnan().all()


def test_vech_keeps_lengths(spd):
    X = spd(3)
    v = Vech()(X)
    assert v.shape == (3, 10)
    torch.testing.assert_close(v.square().sum(-1), X.square().sum((-2, -1)))


def test_covpool():
    x = torch.randn(3, 5, 40, dtype=D)
    torch.testing.assert_close(CovPool()(x), torch.stack([torch.cov(s) for s in x]))
    torch.testing.assert_close(CovPool(centre=False)(x), x @ x.mT / 40)
    traced = CovPool(normalise="trace", shrinkage=0.2, ridge=1e-3)(x)
    torch.testing.assert_close(traced.diagonal(dim1=-2, dim2=-1).sum(-1), torch.full((3,), 1 + 5e-3, dtype=D))
    assert float(torch.linalg.eigvalsh(traced)[:, 0].min()) > 0.2 / 5
    few = CovPool(ridge=1e-6)(torch.randn(2, 8, 3, dtype=D))
    assert float(torch.linalg.eigvalsh(few)[:, 0].min()) > 0
    assert CovPool(dtype=D)(x.float()).dtype == D
    check_half(CovPool(ridge=1e-3), x)


@pytest.mark.parametrize("theta", [0.5, 1.0])
@pytest.mark.parametrize("metric", METRICS)
def test_mlr_is_the_transcription(spd, metric, theta):
    weights = {"alpha": 2.0, "beta": 0.3} if metric in ("lem", "airm", "pem") else {}
    head = SPDMLR(4, 3, metric, theta, **weights)
    P, S = spd(3) + torch.eye(4), spd(5)
    head.P = P
    A = (head.A + head.A.mT) / 2
    want = spd_mlr_reference(S, P, A.detach(), metric=metric, theta=theta, **weights)
    torch.testing.assert_close(head(S), want, rtol=0, atol=1e-11)
    assert head(S[0]).shape == (3,)
    a, b = S.clone().requires_grad_(), S.clone().requires_grad_()
    G = torch.randn(5, 3, dtype=D)
    got = torch.autograd.grad((head(a) * G).sum(), a)[0]
    expected = torch.autograd.grad((spd_mlr_reference(b, P, A.detach(), metric=metric, theta=theta, **weights) * G).sum(), b)[0]
    torch.testing.assert_close(got + got.mT, expected + expected.mT, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("metric", METRICS)
def test_mlr_at_its_start(spd, metric):
    head = SPDMLR(4, 3, metric)
    assert torch.equal(head.P, torch.eye(4, dtype=D).expand(3, 4, 4))
    assert float(head.A.detach().abs().max()) <= (6 / 16) ** 0.5
    torch.testing.assert_close(head(torch.eye(4, dtype=D)), torch.zeros(3, dtype=D), rtol=0, atol=1e-12)
    X = torch.stack([torch.eye(4, dtype=D), *spd(2)]).requires_grad_()
    head(X).square().sum().backward()
    assert all(t.isfinite().all() for t in (X.grad, *(p.grad for p in head.parameters())))
    check_module(lambda: SPDMLR(4, 3, metric), spd(3), compile=metric == "lem")


NETWORKS = {
    "spdnet": lambda: SPDNet([5, 4, 3], "gbw", 2, bn_options={"theta": 0.5}),
    "spdnet with mlr": lambda: SPDNet([5, 3], "lem", 2, head="mlr", head_options={"metric": "lcm"}),
    "spdnet without bn": lambda: SPDNet([5, 3], None, 2),
    "rresnet": lambda: RResNet([5, 4], "airm", 2),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(spd, name):
    X = spd(6, n=5)
    check_module(NETWORKS[name], X, compile=False)
    net = NETWORKS[name]()
    assert net(X.float()).dtype == torch.float32
    assert net(X).shape == (6, 2)


@pytest.mark.parametrize("param", ["exp", "geoopt"])
@pytest.mark.parametrize("name", ["spdnet", "rresnet"])
def test_networks_learn(spd, name, param):
    geoopt = pytest.importorskip("geoopt")
    y = torch.arange(24) % 2
    X = spd(24, n=5) + y[:, None, None] * torch.diag(torch.tensor([1.0, 0, 0, 0, 0], dtype=D))
    net = (SPDNet if name == "spdnet" else RResNet)([5, 3], "gbw", 2, param=param)
    optimizer = geoopt.optim.RiemannianAdam(net.parameters(), lr=2e-2) if param == "geoopt" else torch.optim.Adam(net.parameters(), lr=2e-2)
    loss = torch.nn.CrossEntropyLoss()
    first = float(loss(net(X), y).detach())
    for _ in range(40):
        optimizer.zero_grad()
        value = loss(net(X), y)
        value.backward()
        optimizer.step()
    assert float(value.detach()) < 0.6 * first
    W = net.blocks[0][0].W
    torch.testing.assert_close(W.mT @ W, torch.eye(3, dtype=D), rtol=0, atol=1e-10)
    assert float(torch.linalg.eigvalsh(net.blocks[0][1].M.detach())[0]) > 0


def test_tsmnet():
    x = torch.randn(6, 8, 100)
    net = TSMNet(8, 3, kernel=9, spatial=10, subspace=5, domains=["a", "b"])
    out = net(x, ["a", "b"] * 3)
    assert out.shape == (6, 3)
    assert out.dtype == torch.float32
    out.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert isinstance(net.norm, DomainSPDBatchNorm)
    torch.testing.assert_close(net.eval()(x[:, None], "a"), net(x, "a"))
    assert TSMNet(8, 3, kernel=9, spatial=10, subspace=5, bn="gbw")(x).shape == (6, 3)


def test_spectral_residual(spd):
    layer = SpectralResidual()
    X = spd(4)
    values, Q = torch.linalg.eigh(X)
    f = layer.convolutions(values[:, None])[:, 0]
    u = f / values
    u = u / u.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(layer(X), (Q * (values * u.exp())[:, None]) @ Q.mT, rtol=0, atol=1e-12)
    # a step of unit affine-invariant length
    from geocore import spd as room

    torch.testing.assert_close(room.AffineInvariant().dist(X, layer(X)), torch.ones(4, dtype=D), rtol=0, atol=1e-10)
    sym = lambda A: (A + A.mT) / 2  # noqa: E731
    check_derivatives(lambda x: layer(sym(x)), X, second=False, forward=False)
    equal = torch.eye(4, dtype=D).expand(2, 4, 4).clone().requires_grad_()
    layer(equal).sum().backward()
    assert equal.grad.isfinite().all()


@pytest.mark.bad_input
def test_errors(spd):
    with pytest.raises(ValueError, match="n_out must be at most n_in = 3"):
        BiMap(3, 4)
    with pytest.raises(ValueError, match=r"X must have shape \(..., 2, 5, 5\)"):
        BiMap(5, 3, 2, 2)(spd(4, 3, n=5))
    with pytest.raises(ValueError, match="threshold must be positive"):
        ReEig(0.0)
    with pytest.raises(NotPositiveDefiniteError):
        LogEig()(-torch.eye(3))
    with pytest.raises(TypeError, match="real"):
        Vech()(torch.eye(3, dtype=torch.complex64))
    with pytest.raises(ValueError, match="at least 2 samples"):
        CovPool()(torch.ones(3, 1))
    with pytest.raises(ValueError, match=r"shrinkage must lie in \[0, 1\]"):
        CovPool(shrinkage=2.0)
    with pytest.raises(ValueError, match="metric must be one of"):
        SPDMLR(4, 3, "stein")
    with pytest.raises(NotPositiveDefiniteError, match=r"S must be symmetric positive definite; the matrix at batch index \(1,\)"):
        SPDMLR(3, 2)(torch.stack([torch.eye(3), -torch.eye(3)]))
    with pytest.raises(ValueError, match="dims must hold"):
        SPDNet([5])
    with pytest.raises(ValueError, match="bn must be one of"):
        SPDNet([5, 3], "batch")
    with pytest.raises(ValueError, match="head must be one of"):
        SPDNet([5, 3], head="svm")
    with pytest.raises(ValueError, match="kernel must be odd"):
        SpectralResidual(kernel=4)
    with pytest.raises(ValueError, match="takes no domain identifiers"):
        TSMNet(8, 3)(torch.randn(2, 8, 100), "a")
    with pytest.raises(ValueError, match=r"x must have shape \(N, 8, samples\)"):
        TSMNet(8, 3)(torch.randn(2, 7, 100))
    with pytest.raises(TypeError, match="floating-point"):
        TSMNet(8, 3)(torch.ones(2, 8, 100, dtype=torch.int64))
