"""Laws of the samplers, and what the continuity report must find."""

import math

import numpy as np
import pytest
import torch

from geocore import so3
from rotrep import NDRotation, Orthogonal, continuity_report, get_representation, list_representations, sampling


def test_haar_is_the_uniform_law():
    stats = pytest.importorskip("scipy.stats")
    R = sampling.haar(3, 100_000, torch.Generator().manual_seed(0), dtype=torch.float64)
    angle = so3.geodesic(R, torch.eye(3, dtype=torch.float64)).numpy()
    assert stats.kstest(angle, lambda x: (x - np.sin(x)) / np.pi).pvalue > 1e-3
    assert abs(math.degrees(angle.mean()) - 126.476) < 0.5  # standard error 0.12 degrees
    trace = R.diagonal(dim1=-2, dim2=-1).sum(-1)
    assert abs(trace.mean()) < 0.02  # E = 0 and Var = 1, standard errors 0.003 and 0.006
    assert abs(trace.var() - 1) < 0.03


def test_uniform_angle():
    stats = pytest.importorskip("scipy.stats")
    R = sampling.uniform_angle(100_000, torch.Generator().manual_seed(0), dtype=torch.float64)
    angle = so3.geodesic(R, torch.eye(3, dtype=torch.float64)).numpy()
    assert stats.kstest(angle / np.pi, "uniform").pvalue > 1e-3
    axis = torch.nn.functional.normalize(so3.log(R), dim=-1)
    assert stats.kstest(axis[:, 2].numpy(), "uniform", args=(-1, 2)).pvalue > 1e-3


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_shapes_and_seeds(n):
    a, b = (sampling.haar(n, (2, 3), torch.Generator().manual_seed(4)) for _ in range(2))
    assert a.shape == (2, 3, n, n)
    assert torch.equal(a, b)
    torch.testing.assert_close(torch.linalg.det(a), torch.ones(2, 3))
    assert sampling.haar(n).shape == (n, n)
    assert sampling.haar(n, 2, dtype=torch.float16).dtype == torch.float16
    assert sampling.uniform_angle((2, 0)).shape == (2, 0, 3, 3)


BOUND = {"6d": 1.5, "9d": 1.5, "5d": 5.0, "10d": 1.0}  # 10D: |d(q q^T)/dt| = 1/sqrt(2)


@pytest.mark.parametrize("name", sorted(BOUND))
def test_continuous_encoders_have_bounded_slope(name):
    report = continuity_report(name)
    assert report["lipschitz"] <= BOUND[name]
    finer = continuity_report(name, steps=4000)
    assert finer["max_jump"] < 0.6 * report["max_jump"]


@pytest.mark.parametrize("name", ["euler", "rotvec", "quaternion", "quaternion_half", "mrp", "rodrigues", "axis_angle4", "hopf"])
def test_the_others_jump(name):
    report = continuity_report(name)
    assert report["max_jump"] >= 1
    assert continuity_report(name, steps=4000)["max_jump"] >= 1
    if name in ("quaternion", "rotvec", "mrp"):
        assert report["jump_angle"] == pytest.approx(math.pi, abs=0.01)


def test_report_covers_every_representation_and_n_dimensions():
    assert set(BOUND) == set(list_representations(continuous=True))
    for rep in (NDRotation(2), NDRotation(5), NDRotation(4, convention="rows")):
        report = continuity_report(rep, n=16)
        assert report["lipschitz"] <= 1.5
        assert math.isnan(report["jump_angle"])
    assert continuity_report(get_representation("6d"), n=4) == continuity_report("6d", n=4)
    assert continuity_report("6d", n=4, generator=torch.Generator().manual_seed(1)) != continuity_report("6d", n=4)


def test_sines_of_euler_angles_are_steep_near_gimbal_lock():
    # no jump on a generic loop, but no bound either: more loops come closer to lock
    few, many = (continuity_report("euler_sincos", n)["lipschitz"] for n in (8, 512))
    assert many > 2 * few > 3


@pytest.mark.bad_input
def test_errors():
    with pytest.raises(ValueError, match="n must be at least 1"):
        continuity_report("6d", 0)
    with pytest.raises(ValueError, match="steps must be at least 2"):
        continuity_report("6d", steps=1)
    with pytest.raises(ValueError, match="rep must represent rotations"):
        continuity_report(Orthogonal(3))
    with pytest.raises(ValueError, match="name must be one of"):
        continuity_report("7d")
    with pytest.raises(ValueError, match="n must be at least 1"):
        sampling.haar(0)
    with pytest.raises(TypeError, match="dtype"):
        sampling.uniform_angle(2, dtype=torch.int64)
