"""One generator per manifold, every law over all of them, and training with geoopt's optimizers."""

import copy

import geoopt
import numpy as np
import pytest
import scipy.stats
import torch

from geocore import son
from geocore.orthogonal import Grassmann, SpecialOrthogonal, Stiefel

CASES = {
    **{f"SO(4) {r}": (SpecialOrthogonal(4, retraction=r), (4, 4)) for r in ("qr", "polar", "cayley", "exp")},
    "SO(3)": (SpecialOrthogonal(3), (3, 3)),
    **{f"Stiefel {m} {r}": (Stiefel(m, r), (6, 3)) for m in ("euclidean", "canonical") for r in ("qr", "polar", "cayley", "exp")},
    "Stiefel square": (Stiefel("canonical", "cayley"), (4, 4)),
    "Stiefel vector": (Stiefel(), (5, 1)),
    **{f"Grassmann {r}": (Grassmann(r), (7, 2)) for r in ("qr", "polar", "exp")},
}


# Every case with one of the two, every manifold and every retraction with both.
OPTIMIZERS = (geoopt.optim.RiemannianAdam, geoopt.optim.RiemannianSGD)
TRAINED = [(name, OPTIMIZERS[i % 2]) for i, name in enumerate(CASES)]


def made(name):
    manifold, shape = CASES[name]
    generator = torch.Generator().manual_seed(0)
    x = manifold.random(5, *shape, dtype=torch.float64, generator=generator).as_subclass(torch.Tensor).detach()
    u, v = (manifold.proju(x, torch.randn(5, *shape, dtype=torch.float64, generator=generator)) for _ in range(2))
    return manifold, x, 0.3 * u / manifold.norm(x, u, keepdim=True), v


@pytest.fixture(params=CASES)
def case(request):
    return made(request.param)


def close(a, b, atol=1e-10):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def test_points_and_vectors_are_recognised(case):
    manifold, x, u, _ = case
    manifold.assert_check_point_on_manifold(x)
    manifold.assert_check_vector_on_tangent(x, u)
    assert manifold.check_point_on_manifold(manifold.projx(x + 0.1 * torch.randn_like(x)), atol=1e-10, rtol=0)
    ok, reason = manifold.check_point_on_manifold(x + 0.1, explain=True)
    assert not ok
    assert "orthonormal" in reason
    ok, reason = manifold.check_vector_on_tangent(x, x, explain=True)
    assert not ok
    assert "tangent" in reason


def test_projections_are_projections(case):
    manifold, x, u, _ = case
    close(manifold.projx(x), x)
    close(manifold.proju(x, u), u)
    ambient = torch.randn_like(x)
    once = manifold.proju(x, ambient)
    close(manifold.proju(x, once), once)
    close(((ambient - once) * u).sum((-2, -1)), torch.zeros(5, dtype=torch.float64))  # orthogonal in the embedding


def test_gradient_represents_the_differential(case):
    manifold, x, u, _ = case
    egrad = torch.randn_like(x)
    if isinstance(manifold, Grassmann):
        egrad = manifold.proju(x, egrad)
    rgrad = manifold.egrad2rgrad(x, egrad)
    manifold.assert_check_vector_on_tangent(x, rgrad)
    close(manifold.inner(x, rgrad, u), (egrad * u).sum((-2, -1)))


def test_retraction_is_a_retraction(case):
    manifold, x, u, _ = case
    close(manifold.retr(x, torch.zeros_like(u)), x)
    manifold.assert_check_point_on_manifold(manifold.retr(x, u), atol=1e-10, rtol=0)
    h = 1e-6
    close((manifold.retr(x, h * u) - manifold.retr(x, -h * u)) / (2 * h), u, 1e-8)


def test_exponential_is_a_geodesic_and_log_its_inverse(case):
    manifold, x, u, _ = case
    y = manifold.expmap(x, u)
    manifold.assert_check_point_on_manifold(y, atol=1e-10, rtol=0)
    close(manifold.dist(x, y), manifold.norm(x, u), 1e-8)
    close(manifold.dist(y, x), manifold.dist(x, y), 1e-8)
    back = manifold.logmap(x, y)
    close(back, u, 1e-8)
    close(manifold.dist(x, manifold.expmap(x, 0.5 * u)), 0.5 * manifold.norm(x, u), 1e-8)
    close(manifold.norm(x, manifold.logmap(x, x)), torch.zeros(5, dtype=torch.float64), 1e-7)
    # Constant speed along the whole curve.
    h = 1e-5
    for t in (0.0, 0.7):
        here = manifold.expmap(x, t * u)
        velocity = manifold.proju(here, (manifold.expmap(x, (t + h) * u) - manifold.expmap(x, (t - h) * u)) / (2 * h))
        close(manifold.norm(here, velocity), manifold.norm(x, u), 1e-7)


def test_transport_is_tangent_and_linear(case):
    manifold, x, u, v = case
    y = manifold.retr(x, u)
    moved = manifold.transp(x, y, v)
    manifold.assert_check_vector_on_tangent(y, moved, atol=1e-9, rtol=1e-9)
    close(manifold.transp(x, y, 2 * u - 3 * v), 2 * manifold.transp(x, y, u) - 3 * moved)
    close(manifold.transp(x, x, v), v)
    if isinstance(manifold, SpecialOrthogonal):
        close(manifold.inner(y, moved), manifold.inner(x, v))
    both = manifold.retr_transp(x, u, v)
    close(both[0], y)
    close(both[1], moved)


def test_batches_broadcast(case):
    manifold, x, u, _ = case
    close(manifold.expmap(x[0], u[0]), manifold.expmap(x, u)[0])
    assert manifold.expmap(x[:, None], u[None]).shape == (5, 5, *x.shape[1:])
    assert manifold.inner(x, u, keepdim=True).shape == (5, 1, 1)
    assert copy.deepcopy(manifold).retraction == manifold.retraction
    assert manifold.retraction in repr(manifold)


@pytest.mark.parametrize(("name", "optimizer"), TRAINED)
def test_training_reaches_the_optimum(name, optimizer):
    """Leading invariant subspace (or its rotation): maximise tr(x^T A x N) over the manifold."""
    manifold, x, _, _ = made(name)
    n, k = x.shape[-2:]
    A = torch.diag(torch.arange(n, 0, -1, dtype=torch.float64))
    N = (
        torch.diag(torch.arange(k, 0, -1, dtype=torch.float64))
        if not isinstance(manifold, Grassmann)
        else torch.eye(k, dtype=torch.float64)
    )
    point = geoopt.ManifoldParameter(x[0].clone(), manifold=manifold)
    options = {"lr": 0.1} if optimizer is geoopt.optim.RiemannianAdam else {"lr": 0.01, "momentum": 0.5}
    stepper = optimizer([point], **options)
    best = (A.diagonal()[:k] * N.diagonal()).sum()
    for _ in range(400):
        stepper.zero_grad()
        loss = best - torch.trace(point.mT @ A @ point @ N)
        loss.backward()
        stepper.step()
    assert loss.item() < 0.02 * best.item()
    assert manifold.check_point_on_manifold(point.detach(), atol=1e-8, rtol=0)


def test_agrees_with_geoopt_on_stiefel():
    generator = torch.Generator().manual_seed(0)
    x = torch.linalg.qr(torch.randn(6, 3, dtype=torch.float64, generator=generator)).Q
    g = torch.randn(6, 3, dtype=torch.float64, generator=generator)
    for ours, theirs in ((Stiefel("euclidean"), geoopt.EuclideanStiefel()), (Stiefel("canonical"), geoopt.CanonicalStiefel())):
        close(ours.projx(g), theirs.projx(g))
        close(ours.egrad2rgrad(x, g), theirs.egrad2rgrad(x, g))
        u = ours.proju(x, g)
        close(ours.inner(x, u), theirs.inner(x, u))
    exact = geoopt.EuclideanStiefelExact()
    u = Stiefel().proju(x, g)
    close(Stiefel().expmap(x, u), exact.expmap(x, u), 1e-9)


def test_random_rotations_follow_haar():
    x = SpecialOrthogonal(3).random(3000, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    angle = son.geodesic(x.as_subclass(torch.Tensor), torch.eye(3, dtype=torch.float64)).numpy()
    assert scipy.stats.kstest(angle, lambda a: (a - np.sin(a)) / np.pi).pvalue > 1e-3  # distribution function of the Haar angle


@pytest.mark.bad_input
def test_errors():
    with pytest.raises(ValueError, match="retraction must be one of"):
        Stiefel(retraction="svd")
    with pytest.raises(ValueError, match="metric must be one of"):
        Stiefel("flat")
    with pytest.raises(ValueError, match="n must be at least 1"):
        SpecialOrthogonal(0)
    with pytest.raises(ValueError, match=r"must have shape \(..., 3, 3\)"):
        SpecialOrthogonal(3).random(4, 4)
    with pytest.raises(ValueError, match="at least as many rows"):
        Stiefel().random(2, 3)
    with pytest.raises(ValueError, match="determinant must be"):
        SpecialOrthogonal(2).assert_check_point_on_manifold(torch.diag(torch.tensor([1.0, -1.0])))
    x = torch.eye(4, dtype=torch.float64)[:, :2]
    with pytest.raises(RuntimeError, match="too far apart"):
        Stiefel(max_iter=3).logmap(x, -x)


@pytest.mark.parametrize("manifold", [SpecialOrthogonal(3), Stiefel(), Grassmann()], ids=str)
def test_the_norm_of_the_zero_vector_has_a_zero_gradient(manifold):
    x = torch.eye(3, dtype=torch.float64)[:, : 3 if isinstance(manifold, SpecialOrthogonal) else 2]
    u = torch.zeros_like(x).requires_grad_()
    length = manifold.norm(x, u)
    assert length.item() == 0
    assert torch.autograd.grad(length, u)[0].abs().max() == 0
