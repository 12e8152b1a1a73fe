"""Losses and metrics."""

import math

import numpy as np
import pytest
import torch

from geocore import so3
from geocore.testing import ANGLES, check_batching, check_derivatives, check_half, check_transforms
from rotrep import get_representation, losses, metrics, sampling

PAIR = (losses.matrix_mse, losses.chordal, losses.geodesic)


@pytest.fixture
def pair(rng):
    return sampling.haar(3, 6, rng, dtype=torch.float64), sampling.haar(3, 6, rng, dtype=torch.float64)


@pytest.mark.parametrize("angle", ANGLES)
def test_closed_forms(angle):
    R = so3.exp(torch.tensor([0.0, angle, 0.0], dtype=torch.float64))
    eye = torch.eye(3, dtype=torch.float64)
    # |R - I|_F^2 = 8 sin^2(t / 2); through entries rounded at 1 its absolute error is a few ulp
    chord = 8 * math.sin(angle / 2) ** 2
    assert float(losses.chordal(R, eye)) == pytest.approx(chord, rel=1e-14, abs=1e-15)
    assert float(losses.matrix_mse(R, eye)) == pytest.approx(chord / 9, rel=1e-14, abs=1e-15)
    assert float(losses.geodesic(R, eye)) == pytest.approx(angle, rel=1e-15, abs=4e-16)


def test_relations(pair, rng):
    R, S = pair
    torch.testing.assert_close(losses.chordal(R, S), 9 * losses.matrix_mse(R, S))
    theta = losses.geodesic(R, S, reduction="none")
    torch.testing.assert_close(losses.chordal(R, S, reduction="none"), 8 * (theta / 2).sin() ** 2)
    torch.testing.assert_close(losses.matrix_mse(R, S), torch.nn.functional.mse_loss(R, S))
    p = torch.randn(6, 50, 3, generator=rng, dtype=torch.float64)
    moved = (p @ R.mT - p @ S.mT).square().sum(-1).mean(-1)
    torch.testing.assert_close(losses.points(R, S, p, reduction="none"), moved)
    torch.testing.assert_close(losses.points(R, S, p[0]), (p[:1] @ (R - S).mT).square().sum(-1).mean())


def test_quaternion_loss_ignores_the_sign(rng):
    q, p = torch.randn(2, 8, 4, generator=rng, dtype=torch.float64).unbind(0)
    expected = torch.minimum((q - p).square().sum(-1), (q + p).square().sum(-1))
    torch.testing.assert_close(losses.quat(q, p, reduction="none"), expected)
    assert torch.equal(losses.quat(q, -p), losses.quat(q, p))
    assert losses.quat(q, -q) == 0


@pytest.mark.parametrize("loss", PAIR, ids=lambda f: f.__name__)
def test_reductions_gradients_transforms(loss, pair):
    R, S = pair
    each = loss(R, S, reduction="none")
    assert each.shape == (6,)
    torch.testing.assert_close(loss(R, S), each.mean())
    torch.testing.assert_close(loss(R, S, reduction="sum"), each.sum())
    item = lambda a, b: loss(a, b, reduction="none")  # noqa: E731
    check_derivatives(item, R[:2], S[:2], atol=1e-6)
    check_batching(item, R, S)
    check_half(item, R, S)
    check_transforms(item, R, S, compiled_transforms=False)
    torch.testing.assert_close(loss(R, S[:1]), loss(R, S[:1].expand_as(R)))


@pytest.mark.parametrize("loss", PAIR, ids=lambda f: f.__name__)
@pytest.mark.parametrize("angle", [0.0, math.pi])
def test_gradients_are_finite_at_both_ends(loss, angle):
    R = so3.exp(torch.tensor([0.0, angle, 0.0])).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(R, torch.eye(3)), R)
    assert torch.isfinite(gradient).all()
    if angle == 0.0:
        assert torch.equal(gradient, torch.zeros(3, 3))


def test_regularizer_is_the_distance_to_the_decoded_rotation(rng):
    nine, six = get_representation("9d"), get_representation("6d")
    v = torch.randn(7, 9, generator=rng, dtype=torch.float64)
    expected = (v.unflatten(-1, (3, 3)) - nine.decode(v)).square().sum((-2, -1))
    torch.testing.assert_close(losses.regularizer(v, nine, reduction="none"), expected)
    assert losses.regularizer(six.random(5, rng), six) < 1e-12
    check_derivatives(lambda x: losses.regularizer(x, six, reduction="none"), torch.randn(2, 6, generator=rng), atol=1e-6)


def test_summary_against_numpy(rng):
    R, S = sampling.haar(3, (20, 10), rng), sampling.haar(3, (20, 10), rng)
    summary = metrics.rotation_error_deg(R, S, percentiles=(0.0, 12.5, 99.0, 100.0), thresholds=(30.0, 90.0))
    errors = np.degrees(so3.geodesic(R.double(), S.double()).numpy().ravel())
    assert summary.count == 200
    for name, value in (("mean", errors.mean()), ("median", np.median(errors)), ("std", errors.std()), ("max", errors.max())):
        assert getattr(summary, name) == pytest.approx(value, rel=1e-12)
    assert list(summary.percentiles) == [0, 12.5, 99, 100]
    for p, value in summary.percentiles.items():
        assert value == pytest.approx(np.percentile(errors, p), rel=1e-12)
    assert summary.accuracy == {t: pytest.approx((errors <= t).mean()) for t in (30, 90)}
    assert str(summary).startswith("200 rotations, degrees: mean 1")
    default = metrics.rotation_error_deg(R, R)
    assert default.max < 1e-4
    assert default.accuracy == {5: 1.0, 10: 1.0, 20: 1.0}


def test_error_by_angle():
    truth = so3.exp(torch.tensor([[0.0, 0, 0.1], [0.0, 0, 1.0], [0.0, 0, 1.2], [0.0, 0, math.pi]]))
    guess = truth @ so3.exp(torch.tensor([[0.0, 0, 0.0], [0.1, 0, 0], [0.3, 0, 0], [0.5, 0, 0]]))
    out = metrics.error_by_angle(guess, truth, bins=4)
    assert out.edges.tolist() == [0.0, 45.0, 90.0, 135.0, 180.0]
    assert out.counts.tolist() == [1, 2, 0, 1]
    torch.testing.assert_close(out.mean[[0, 1, 3]], torch.tensor([0.0, 0.2, 0.5], dtype=torch.float64).rad2deg(), atol=1e-4, rtol=0)
    torch.testing.assert_close(out.max[[0, 1, 3]], torch.tensor([0.0, 0.3, 0.5], dtype=torch.float64).rad2deg(), atol=1e-4, rtol=0)
    assert torch.isnan(out.mean[2])
    assert torch.isnan(out.max[2])
    assert metrics.error_by_angle(guess[:0], truth[:0]).counts.sum() == 0


@pytest.mark.bad_input
def test_errors(pair):
    R, S = pair
    for loss in PAIR:
        with pytest.raises(ValueError, match="reduction must be one of"):
            loss(R, S, reduction="max")
        with pytest.raises(ValueError, match="broadcast"):
            loss(R[:4], S[:3])
        with pytest.raises(TypeError, match="floating-point"):
            loss(torch.eye(3, dtype=torch.int64), S)
    with pytest.raises(ValueError, match="R_gt must have shape"):
        losses.chordal(R, torch.zeros(6, 2, 2))
    with pytest.raises(ValueError, match="p must have shape"):
        losses.points(R, S, torch.zeros(6, 10, 2))
    with pytest.raises(ValueError, match="q_gt must have shape"):
        losses.quat(torch.zeros(4), torch.zeros(3))
    with pytest.raises(ValueError, match="at least one rotation"):
        metrics.rotation_error_deg(R[:0], S[:0])
    with pytest.raises(ValueError, match=r"percentiles must lie in 0\.\.100"):
        metrics.rotation_error_deg(R, S, percentiles=(101,))
    with pytest.raises(ValueError, match="bins must be at least 1"):
        metrics.error_by_angle(R, S, bins=0)
