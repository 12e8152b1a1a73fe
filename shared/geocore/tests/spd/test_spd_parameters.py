"""SPD matrices as parameters: plain optimizers through a map, Riemannian ones on the manifold, and vectors."""

import geoopt
import pytest
import torch
from spd_cases import SPECTRA, matrix, random_spd, random_sym

from geocore import spd
from geocore.integrations import geoopt_spd
from geocore.spd import parametrize
from geocore.testing import check_module

Manifold = geoopt_spd.SPD

MANIFOLDS = {
    "affine": Manifold(),
    "affine exp": Manifold(spd.AffineInvariant(), retraction="exp"),
    "log-Euclidean": Manifold(spd.LogEuclidean(), retraction="exp"),
    "log-Cholesky": Manifold(spd.LogCholesky()),
    "Bures": Manifold(spd.BuresWasserstein()),
    "Bures parallel": Manifold(spd.BuresWasserstein(), transport="parallel"),
    "deformed": Manifold(spd.Deformed(spd.BuresWasserstein(), 0.5), retraction="exp"),
}


def close(a, b, atol=1e-11):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


@pytest.mark.parametrize("name", ["exp", "cholesky", "softplus"])
def test_maps(name, check_directional):
    spd_map = parametrize.SPD(name)
    for values in ([0.5, 1.0, 3.0], [2.0, 2.0, 2.0], [1e-6, 1.0, 50.0]):
        X = matrix(values)
        close(spd_map(spd_map.right_inverse(X)), X, 1e-12 * max(values))
    raw = 3 * torch.randn(5, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert spd.is_spd(spd_map(raw)).all()
    check_directional(spd_map, torch.zeros(3, 3))  # equal eigenvalues
    check_directional(spd_map, raw[0, :3, :3])
    layer = torch.nn.Linear(4, 4, bias=False).double()
    before = layer.weight.detach().clone()
    torch.nn.utils.parametrize.register_parametrization(layer, "weight", spd_map)
    assert spd.is_spd(layer.weight)
    close(layer.parametrizations.weight.original.detach(), before, 0.0)  # not SPD: it becomes the parameter
    layer.weight = matrix([1.0, 2.0, 3.0, 4.0])
    close(layer.weight.detach(), matrix([1.0, 2.0, 3.0, 4.0]), 1e-12)
    with pytest.raises(spd.NotPositiveDefiniteError, match="smallest eigenvalue -1"):
        layer.weight = -torch.eye(4, dtype=torch.float64)
    layer(torch.randn(2, 4, dtype=torch.float64)).sum().backward()
    assert torch.isfinite(layer.parametrizations.weight.original.grad).all()


def test_softplus_is_exact_in_both_tails():
    spd_map = parametrize.SPD("softplus")
    X = torch.diag(torch.tensor([-40.0, -20.0, 0.0, 21.0, 40.0], dtype=torch.float64)).requires_grad_()
    Y = spd_map(X)
    close(Y.diagonal().detach(), torch.log1p(torch.exp(X.detach().diagonal())), 1e-14)
    (g,) = torch.autograd.grad(Y.diagonal().sum(), X)
    close(g.diagonal(), torch.sigmoid(X.detach().diagonal()), 1e-15)


@pytest.mark.parametrize("name", ["exp", "cholesky", "softplus"])
def test_spd_parameter_is_a_module_that_trains(name):
    check_module(lambda: spd.SPDParameter(3, map=name))
    target = matrix([0.2, 1.0, 4.0])
    module = spd.SPDParameter(3, map=name, dtype=torch.float64)
    close(module().detach(), torch.eye(3, dtype=torch.float64), 1e-14)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        loss = spd.BuresWasserstein().dist2(module(), target)
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-4
    module.reset_parameters()
    close(module().detach(), torch.eye(3, dtype=torch.float64), 1e-14)
    close(module.set_(target)().detach(), target, 1e-12)
    batch = spd.SPDParameter(random_spd(2, n=3), map=name)
    assert batch().shape == (2, 3, 3)
    assert "map=" in repr(batch)


@pytest.fixture(params=MANIFOLDS)
def manifold(request):
    return MANIFOLDS[request.param]


def test_the_contract_of_a_manifold(manifold):
    x = manifold.random(4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).as_subclass(torch.Tensor)
    u, v = random_sym(4, seed=1, scale=0.2), random_sym(4, seed=2, scale=0.2)
    manifold.assert_check_point_on_manifold(x)
    manifold.assert_check_vector_on_tangent(x, u)
    for bad, word in ((x - 10 * torch.eye(3), "positive definite"), (x + torch.triu(torch.ones(3, 3), 1), "symmetric")):
        ok, reason = manifold.check_point_on_manifold(bad, explain=True)
        assert not ok
        assert word in reason
    assert not manifold.check_vector_on_tangent(x, torch.triu(torch.ones(4, 3, 3)), explain=True)[0]
    manifold.assert_check_point_on_manifold(manifold.projx(random_sym(4)))
    assert manifold.check_point_on_manifold(manifold.origin(3, 3))
    y = manifold.expmap(x, u)
    close(manifold.logmap(x, y), u, 1e-9)
    close(manifold.dist(x, y), manifold.norm(x, u), 1e-9)
    close(manifold.dist2(x, y), manifold.dist(x, y).square(), 1e-10)
    assert manifold.inner(x, u, v, keepdim=True).shape == (4, 1, 1)
    assert manifold.norm(x, u, keepdim=True).shape == manifold.dist(x, y, keepdim=True).shape == (4, 1, 1)
    close(manifold.inner(x, manifold.egrad2rgrad(x, v), u), (u * v).sum((-2, -1)))
    h = 1e-6
    close((manifold.retr(x, h * u) - manifold.retr(x, -h * u)) / (2 * h), u, 1e-8)
    moved = manifold.transp(x, y, v)
    if manifold.transport == "parallel":
        close(manifold.inner(y, moved), manifold.inner(x, v), 1e-8)
    else:
        close(moved, v)
    close(manifold.geodesic(x, y, 1.0), y, 1e-9)
    close(manifold.mean(torch.stack([x, y])), manifold.geodesic(x, y, 0.5), 1e-9)
    assert "SPD" in repr(manifold)


@pytest.mark.parametrize("optimizer", [geoopt.optim.RiemannianAdam, geoopt.optim.RiemannianSGD])
@pytest.mark.parametrize("name", [k for k in MANIFOLDS if k != "Bures parallel"])
def test_riemannian_training_reaches_the_optimum(name, optimizer):
    target = matrix([0.3, 1.0, 2.0])
    point = geoopt.ManifoldParameter(torch.eye(3, dtype=torch.float64), manifold=MANIFOLDS[name])
    stepper = optimizer([point], lr=0.1 if optimizer is geoopt.optim.RiemannianSGD and name != "deformed" else 0.03)
    for _ in range(250):
        stepper.zero_grad()
        loss = (point - target).square().sum()
        loss.backward()
        stepper.step()
    assert loss.item() < 1e-3
    assert spd.is_spd(point.detach().as_subclass(torch.Tensor), atol=1e-9)


@pytest.mark.bad_input
def test_manifold_errors():
    with pytest.raises(TypeError, match="metric must be a Metric"):
        Manifold("affine")
    with pytest.raises(ValueError, match="retraction must be one of"):
        Manifold(retraction="qr")
    with pytest.raises(ValueError, match="transport must be one of"):
        Manifold(transport="none")
    with pytest.raises(ValueError, match="must be square"):
        Manifold().random(3, 2)


def test_vectors():
    S = random_sym(2, 5, n=4)
    v = spd.vech(S)
    assert v.shape == (2, 5, 10)
    close(v.norm(dim=-1), torch.linalg.matrix_norm(S), 1e-13)
    close(spd.unvech(v), S, 1e-15)
    close(spd.unvech(spd.vech(S, scale=1.0), scale=1.0), S, 1e-15)
    assert spd.vech(S, scale=1.0)[0, 0].tolist() == [S[0, 0, i, j].item() for i in range(4) for j in range(i + 1)]
    X = torch.stack([matrix(SPECTRA[k]) for k in ("cond 1e2", "2I", "mixed")])
    torch.testing.assert_close(spd.cholesky_unvector(spd.cholesky_vector(X)), X, rtol=1e-12, atol=1e-12)
    assert spd.is_spd(spd.cholesky_unvector(torch.randn(3, 10, dtype=torch.float64))).all()


def test_newton_schulz_converges_or_falls_back():
    for name in ("cond 1e2", "cond 1e6", "repeated", "2I", "cond 1e14", "tiny"):
        X = matrix(SPECTRA[name])
        cond = SPECTRA[name][-1] / SPECTRA[name][0]
        root, inverse = spd.sqrtm_invsqrtm(X, method="newton_schulz")
        want_root, want_inverse = spd.sqrtm_invsqrtm(X)
        assert ((root - want_root).norm() / want_root.norm()).item() < 1e-13 * cond
        assert ((inverse - want_inverse).norm() / want_inverse.norm()).item() < 1e-13 * cond
    mixed = torch.stack([matrix(SPECTRA["cond 1e2"]), matrix(SPECTRA["cond 1e14"])]).requires_grad_()
    (g,) = torch.autograd.grad(spd.sqrtm(mixed, method="newton_schulz").sum(), mixed)
    (want,) = torch.autograd.grad(spd.sqrtm(mixed).sum(), mixed)
    torch.testing.assert_close(g, want, rtol=1e-9, atol=1e-9)
