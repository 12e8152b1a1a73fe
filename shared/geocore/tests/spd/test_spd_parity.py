"""The same numbers as independent libraries, with the change of convention spelt out."""

import geoopt
import numpy as np
import pytest
import scipy.linalg
import torch
from spd_cases import random_spd, random_sym

from geocore import spd
from geocore.spd import cov

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the peers' own

P, Q = random_spd(5, n=4, seed=1), random_spd(5, n=4, seed=2)
V = random_sym(5, n=4, scale=0.3)
w = torch.rand(5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
SIGNALS = torch.randn(6, 4, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


METRICS = {
    "riemann": spd.AffineInvariant(),
    "logeuclid": spd.LogEuclidean(),
    "logchol": spd.LogCholesky(),
    "wasserstein": spd.BuresWasserstein(),
}


def close(ours, theirs, atol=1e-10):
    torch.testing.assert_close(ours, torch.as_tensor(np.asarray(theirs)), rtol=0, atol=atol)


def test_scipy_matrix_functions():
    x = P[0].numpy()
    close(spd.sqrtm(P[0]), scipy.linalg.sqrtm(x))
    close(spd.logm(P[0]), scipy.linalg.logm(x))
    close(spd.expm(P[0]), scipy.linalg.expm(x))
    close(spd.powm(P[0], -1.3), scipy.linalg.fractional_matrix_power(x, -1.3))
    close(spd.sylvester(P[0], Q[0], V[0]), scipy.linalg.solve_sylvester(x, Q[0].numpy(), V[0].numpy()))
    close(spd.lyapunov(P[0], V[0]), scipy.linalg.solve_continuous_lyapunov(x, V[0].numpy()))
    close(spd.frechet("exp", P[0], V[0]), scipy.linalg.expm_frechet(x, V[0].numpy(), compute_expm=False))


class TestPyriemann:
    """pyriemann 0.12: numpy; ``weights`` normalised as ours."""

    @pytest.fixture
    def geometry(self):
        return pytest.importorskip("pyriemann.geometry")

    @pytest.mark.parametrize("name", METRICS)
    def test_distances_means_and_maps(self, name, geometry):
        from pyriemann.geometry import distance, mean, tangentspace

        m = METRICS[name]
        theirs = getattr(distance, f"distance_{name}")
        close(m.dist(P, Q), theirs(P.numpy(), Q.numpy()))
        tol = {"tol": 1e-12, "maxiter": 500} if name in ("riemann", "wasserstein") else {}
        averages = getattr(mean, f"mean_{name}")
        close(m.mean(P, w), averages(P.numpy(), sample_weight=w.numpy(), **tol), 1e-9)
        log, exp = (getattr(tangentspace, f"{kind}_map_{name}") for kind in ("log", "exp"))
        # Without these their affine-invariant maps leave out the outer square roots.
        outer = ({"C12": True}, {"Cm12": True}) if name == "riemann" else ({}, {})
        close(m.log(P[0], Q), log(Q.numpy(), P[0].numpy(), **outer[0]), 1e-9)
        close(m.exp(P[0], V), exp(V.numpy(), P[0].numpy(), **outer[1]), 1e-9)

    def test_the_other_distances(self, geometry):
        from pyriemann.geometry import distance, mean

        close(spd.PowerEuclidean(0.3).dist(P, Q), distance.distance_poweuclid(P.numpy(), Q.numpy(), 0.3))
        close(spd.PowerEuclidean(0.3).mean(P, w), mean.mean_poweuclid(P.numpy(), 0.3, sample_weight=w.numpy()))
        # pyriemann's log-det distance is the root of Stein's divergence.
        close(spd.Stein().dist(P, Q), distance.distance_logdet(P.numpy(), Q.numpy()))
        close(spd.Stein().mean(P, w), mean.mean_logdet(P.numpy(), sample_weight=w.numpy(), tol=1e-12, maxiter=500), 1e-9)

    def test_tangent_space_geodesics_and_transport(self, geometry):
        from pyriemann.geometry import geodesic, tangentspace

        ref = P[0].numpy()
        affine = spd.AffineInvariant()
        theirs = tangentspace.tangent_space(Q.numpy(), ref, metric="riemann")
        # Theirs: upper triangle by rows; ours: lower by rows. The same numbers in another order.
        rows, columns = np.triu_indices(4)
        order = [np.flatnonzero((rows == j) & (columns == i))[0] for i in range(4) for j in range(i + 1)]
        close(affine.vectorize(Q, P[0]), theirs[:, order], 1e-9)
        close(affine.geodesic(P, Q, 0.3), geodesic.geodesic_riemann(P.numpy(), Q.numpy(), 0.3))
        close(spd.LogEuclidean().geodesic(P, Q, 0.3), geodesic.geodesic_logeuclid(P.numpy(), Q.numpy(), 0.3))
        moved = tangentspace.transport(V.numpy(), P[0].numpy(), Q[0].numpy(), metric="riemann")
        close(affine.transport(P[0], Q[0], V), moved, 1e-9)

    @pytest.mark.parametrize("estimator", ["scm", "cov", "corr", "oas", "lwf", "sch"])
    def test_covariances(self, estimator, geometry):
        from pyriemann.geometry.covariance import covariances

        close(cov.cov(SIGNALS, estimator), covariances(SIGNALS.numpy(), estimator=estimator), 1e-12)


def test_sklearn_shrinkage():
    sklearn = pytest.importorskip("sklearn.covariance")
    for ours, theirs in ((cov.oas, sklearn.oas), (cov.ledoit_wolf, sklearn.ledoit_wolf)):
        for centred in (False, True):
            for x in (SIGNALS, SIGNALS[..., :3], torch.ones(1, 4, 5, dtype=torch.float64)):
                S, amount = ours(x, assume_centered=centred, return_shrinkage=True)
                for i in range(len(x)):
                    want, a = theirs(x[i].numpy().T, assume_centered=centred)
                    close(S[i], want, 1e-12)
                    close(amount[i], np.float64(a), 1e-10)
    close(cov.cov(SIGNALS, "scm")[0], sklearn.empirical_covariance(SIGNALS[0].numpy().T), 1e-12)


def test_pot_gaussian_wasserstein():
    gaussian = pytest.importorskip("ot.gaussian")
    m = spd.BuresWasserstein()
    zero = torch.zeros(5, 4, dtype=torch.float64)
    close(m.dist(P[0], Q[0]), np.float64(gaussian.bures_wasserstein_distance(zero[0].numpy(), zero[0].numpy(), P[0].numpy(), Q[0].numpy())))
    _, barycenter = gaussian.bures_wasserstein_barycenter(zero.numpy(), P.numpy(), weights=(w / w.sum()).numpy(), num_iter=500, eps=1e-14)[
        :2
    ]
    close(m.mean(P, w), barycenter, 1e-8)


def test_geoopt_affine_invariant():
    theirs = geoopt.SymmetricPositiveDefinite()
    m = spd.AffineInvariant()
    close(m.dist(P, Q), theirs.dist(P, Q))
    close(m.log(P, Q), theirs.logmap(P, Q), 1e-9)
    close(m.exp(P, V), theirs.expmap(P, V), 1e-9)
    close(m.transport(P, Q, V), theirs.transp(P, Q, V), 1e-9)
    close(m.egrad2rgrad(P, V), theirs.egrad2rgrad(P, V))
    close(m.inner(P, V, V), theirs.inner(P, V, V))
    close(m.retract(P, V), theirs.retr(P, V))


def test_spd_learn():
    functional = pytest.importorskip("spd_learn.functional")
    x, y = (P.clone().requires_grad_() for _ in range(2))
    close(spd.logm(x).detach(), functional.matrix_log.apply(y).detach())
    a, b = torch.autograd.grad(spd.logm(x).sin().sum(), x), torch.autograd.grad(functional.matrix_log.apply(y).sin().sum(), y)
    close(a[0], b[0], 1e-9)


def test_geomstats(monkeypatch):
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)  # geomstats 2.8 imports it, numpy 2.4 no longer has it
    matrices = pytest.importorskip("geomstats.geometry.spd_matrices")
    space = matrices.SPDMatrices(4, equip=False)
    space.equip_with_metric(matrices.SPDBuresWassersteinMetric)
    close(spd.BuresWasserstein().inner(P[0], V[0], V[1]), space.metric.inner_product(V[0].numpy(), V[1].numpy(), P[0].numpy()))


def test_lagged_covariances_fill_the_covariance_of_delayed_signals():
    x = SIGNALS[0] - SIGNALS[0].mean(-1, keepdim=True)
    R = cov.lagged_cov(x, [0, 1, 2], assume_centered=True)
    padded = torch.nn.functional.pad(x, (2, 2))
    delayed = torch.cat([padded[:, k : k + 32] for k in range(3)])
    whole = delayed @ delayed.mT / 30
    close(whole[:4, 4:8], R[1].numpy(), 1e-12)
    close(whole[:4, 8:], R[2].numpy(), 1e-12)
    close(whole[4:8, 4:8], R[0].numpy(), 1e-12)
    assert torch.linalg.eigvalsh(whole)[0] > 0
    close(cov.lagged_cov(SIGNALS, 0), cov.cov(SIGNALS).numpy(), 1e-13)
    close(cov.lagged_cov(x, 3, assume_centered=True, unbiased=True), (x[:, :-3] @ x[:, 3:].mT / 27).numpy(), 1e-13)
