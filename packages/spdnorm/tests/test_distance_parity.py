"""Distances and means against independent libraries (truth test 6)."""

import pytest
import torch

from spdnorm import functional as F
from spdnorm._reference import bw_dist2_reference, pull_back_reference

D = torch.float64


@pytest.mark.parametrize("theta", [0.25, 0.5, 1.0, 1.5])
def test_distance_is_the_textbook_one(spd, theta):
    X, Y, M = spd(), spd(), spd() + torch.eye(4)
    want = bw_dist2_reference(pull_back_reference(X, M, theta), pull_back_reference(Y, M, theta)) / theta**2
    torch.testing.assert_close(F.gbw_distance2(X, Y, M, theta=theta), want, rtol=1e-11, atol=1e-12)


def test_no_cancellation_between_close_matrices(spd):
    X = torch.eye(4, dtype=D)
    E = spd() * 1e-7
    # near the identity d^2 = |E|^2 / 4 to first order
    torch.testing.assert_close(F.gbw_distance2(X, X + E), E.square().sum() / 4, rtol=1e-6, atol=0)


def test_limit_of_small_powers_is_log_euclidean(spd):
    X, Y = spd(), spd()

    def log(A):
        values, U = torch.linalg.eigh(A)
        return (U * values.log()) @ U.mT

    limit = (log(X) - log(Y)).square().sum() / 4
    gaps = [abs(float(F.gbw_distance2(X, Y, theta=theta) - limit)) for theta in (1e-1, 1e-2, 1e-3)]
    assert gaps[2] < 1e-2 * float(limit)
    assert gaps[0] > gaps[1] > gaps[2]


def test_against_pot(spd):
    gaussian = pytest.importorskip("ot").gaussian
    X, Y = spd(), spd()
    zero = torch.zeros(4, dtype=D)
    want = gaussian.bures_wasserstein_distance(zero, zero, X, Y)
    torch.testing.assert_close(F.gbw_distance2(X, Y).sqrt(), torch.as_tensor(want).squeeze(), rtol=1e-8, atol=1e-8)
    batch = spd(5)
    mean = gaussian.bures_wasserstein_barycenter(torch.zeros(5, 4, dtype=D), batch, eps=1e-14, num_iter=500)[1]
    torch.testing.assert_close(F.bures_barycentre(batch, steps=100), torch.as_tensor(mean), rtol=1e-7, atol=1e-7)


def test_against_pyriemann(spd):
    mean = pytest.importorskip("pyriemann.utils.mean")
    batch = spd(6)
    want = torch.as_tensor(mean.mean_wasserstein(batch.numpy(), tol=1e-12, maxiter=500))
    torch.testing.assert_close(F.bures_barycentre(batch, steps=100), want, rtol=1e-7, atol=1e-7)


def test_one_step_is_exact_for_matrices_that_commute(spd):
    Q = torch.linalg.qr(torch.randn(4, 4, dtype=D))[0]
    values = 0.5 + torch.rand(7, 4, dtype=D)
    want = (Q * values.sqrt().mean(0).square()) @ Q.mT
    torch.testing.assert_close(F.bures_barycentre((Q * values[:, None]) @ Q.mT, steps=1), want, rtol=1e-12, atol=1e-12)


def test_geodesic_ends_and_speed(spd):
    A, B = spd(), spd()
    for t, want in ((0.0, A), (1.0, B)):
        torch.testing.assert_close(F.bures_geodesic(A, B, t), want, rtol=1e-11, atol=1e-12)
    middle = F.bures_geodesic(A, B, 0.3)
    torch.testing.assert_close(F.gbw_distance2(A, middle), 0.09 * F.gbw_distance2(A, B), rtol=1e-10, atol=1e-12)


@pytest.mark.bad_input
def test_errors(spd):
    with pytest.raises(ValueError, match="use metric='lem'"):
        F.pull_back(spd(), theta=0.0)
    with pytest.raises(ValueError, match="at least|k >= 1"):
        F.bures_barycentre(torch.empty(0, 3, 3))
    with pytest.raises(ValueError, match="steps must be at least 0"):
        F.bures_barycentre(spd(3), steps=-1)
    with pytest.raises(TypeError, match="real"):
        F.gbw_distance2(spd().to(torch.complex128), spd())
    with pytest.raises(ValueError, match=r"Y must have shape \(..., 4, 4\)"):
        F.gbw_distance2(spd(), spd(n=3))
    with pytest.raises(ValueError, match="domain must be one of"):
        F.rebias(spd(), spd(), domain="fold")
