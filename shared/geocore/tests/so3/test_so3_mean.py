import math

import pytest
import torch
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from geocore import so3
from geocore.testing import assert_finite, max_error_eps


def cloud(rng, *shape: int, spread: float = 0.6) -> torch.Tensor:
    center = so3.random(shape[:-1], generator=rng, dtype=torch.float64).unsqueeze(-3)
    return center @ so3.exp(spread * torch.randn(*shape, 3, generator=rng, dtype=torch.float64))


def test_chordal_mean_agrees_with_scipy(rng):
    R = cloud(rng, 50)
    w = torch.rand(50, generator=rng, dtype=torch.float64)
    truth = Rotation.from_matrix(R.numpy()).mean(w.numpy()).as_matrix()
    assert max_error_eps(so3.mean(R, w, metric="chordal"), truth) <= 32


@pytest.mark.parametrize("spread", [1e-6, 0.3, 0.8])
def test_geodesic_mean_is_stationary(rng, spread):
    R = cloud(rng, 4, 20, spread=spread)
    w = torch.rand(4, 20, generator=rng, dtype=torch.float64)
    X, info = so3.mean(R, w, return_info=True)
    assert info.converged.all()
    assert info.residual.shape == (4,)
    steps = so3.log(X.unsqueeze(-3).mT @ R)
    assert (w.unsqueeze(-1) * steps).sum(-2).abs().max() < 1e-13
    radius = torch.linalg.vector_norm(steps, dim=-1).amax(-1)
    assert (info.radius - radius).abs().max() < 1e-13


def test_geodesic_mean_minimises(rng):
    R = cloud(rng, 12)
    w = torch.rand(12, generator=rng, dtype=torch.float64)
    X = so3.mean(R, w)

    def cost(v, power):
        return float((w * so3.geodesic(so3.exp(torch.from_numpy(v)) @ X, R) ** power).sum())

    best = minimize(lambda v: cost(v, 2), [1e-2, 0, 0], tol=1e-14)
    assert abs(best.x).max() < 1e-5
    assert cost(torch.zeros(3, dtype=torch.float64).numpy(), 2) <= best.fun + 1e-12


def test_l1_mean_minimises_and_resists_outliers(rng):
    R = cloud(rng, 15, spread=0.05)
    center = so3.mean(R)
    bad = torch.cat([R, center @ so3.exp(torch.tensor([[2.0, 0, 0], [0, 2.2, 0]], dtype=torch.float64))])
    median, info = so3.mean(bad, metric="l1", return_info=True)
    assert bool(info.converged)
    assert so3.geodesic(median, center) < 0.05 < so3.geodesic(so3.mean(bad), center)

    def cost(v):
        return float(so3.geodesic(so3.exp(torch.from_numpy(v)) @ median, bad).sum())

    best = minimize(cost, [1e-3, 0, 0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12})
    assert cost(torch.zeros(3, dtype=torch.float64).numpy()) <= best.fun + 1e-6


def test_hand_worked_means():
    w = torch.tensor([[0.0, 0, 0.2], [0, 0, 0.5], [0, 0, 0.8]], dtype=torch.float64)
    weights = torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64)
    # about one axis the Karcher mean is the weighted mean of the angles, and the median the weighted median
    assert so3.log(so3.mean(so3.exp(w), weights)).tolist() == pytest.approx([0, 0, (0.2 + 0.5 + 1.6) / 4], abs=1e-14)
    assert so3.log(so3.mean(so3.exp(w), metric="l1")).tolist() == pytest.approx([0, 0, 0.5], abs=1e-6)
    one = so3.exp(w[:1])
    for metric in ("geodesic", "chordal", "l1"):
        assert max_error_eps(so3.mean(one, metric=metric), one[0]) <= 8  # n = 1


def test_mean_is_equivariant_and_ignores_weight_scale(rng):
    R, w = cloud(rng, 9), torch.rand(9, generator=rng, dtype=torch.float64)
    A, B = so3.random(2, generator=rng, dtype=torch.float64)
    for metric in ("geodesic", "chordal", "l1"):
        moved = so3.mean(A @ R @ B, 7 * w, metric=metric)
        assert (moved - A @ so3.mean(R, w, metric=metric) @ B).abs().max() < 1e-9, metric


def test_wide_samples_are_reported_and_finite():
    # two opposite half turns: no unique mean
    R = so3.exp(torch.tensor([[math.pi / 2, 0, 0], [-math.pi / 2, 0, 0]], dtype=torch.float64)).requires_grad_()
    for metric in ("geodesic", "chordal", "l1"):
        X, info = so3.mean(R, metric=metric, return_info=True)
        assert info.radius >= math.pi / 2 - 1e-6
        assert_finite(metric, [X, *torch.autograd.grad(X.sum(), R)])
    _, info = so3.mean(
        so3.exp(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)).double()), max_iter=2, tol=0.0, return_info=True
    )
    assert not info.converged


def test_mean_derivatives(rng, check_directional):
    R, w = cloud(rng, 1, 2, spread=0.4), torch.rand(1, 2, generator=rng, dtype=torch.float64) + 0.2
    check_directional(lambda R, w: so3.mean(R, w, max_iter=3), R, w)
    check_directional(lambda R, w: so3.mean(R, w, metric="chordal"), R, w)
    check_directional(lambda R, w: so3.mean(R, w, metric="l1", max_iter=3), R, w, second=False)
    # equal rotations: every sample has an equal share in the mean
    same = R[:, :1].expand(1, 3, 3, 3).clone()
    check_directional(lambda v: so3.log(so3.mean(same @ so3.exp(v), max_iter=3)), torch.zeros(1, 3, 3, dtype=torch.float64), second=False)


def test_weights_broadcast(rng):
    R = cloud(rng, 3, 5)
    w = torch.rand(5, generator=rng, dtype=torch.float64)
    assert max_error_eps(so3.mean(R, w)[1], so3.mean(R[1], w)) <= 16
    assert so3.mean(R[0], torch.rand(7, 5, generator=rng, dtype=torch.float64)).shape == (7, 3, 3)


def test_zero_weights_count_as_equal(rng):
    R, x = cloud(rng, 3), torch.randn(4, 3, generator=rng, dtype=torch.float64)
    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    X = so3.mean(R, w)
    assert max_error_eps(X, so3.mean(R)) <= 8
    assert_finite("gradient", torch.autograd.grad(X.sum(), w))
    fit = so3.align(x, x @ R[0].mT, torch.zeros(4, dtype=torch.float64))
    assert max_error_eps(fit.rotation, R[0]) <= 32
