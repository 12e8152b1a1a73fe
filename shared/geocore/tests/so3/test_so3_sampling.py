import math

import pytest
import torch
from scipy import stats

from geocore import so3
from geocore.testing import max_error_eps

I3 = torch.eye(3, dtype=torch.float64)


def test_haar_law(rng):
    R = so3.random(100_000, generator=rng, dtype=torch.float64)
    angle = so3.geodesic(R, I3)
    assert stats.kstest(angle.numpy(), lambda a: (a - torch.sin(torch.as_tensor(a)).numpy()) / math.pi).pvalue > 1e-3
    assert angle.mean().item() == pytest.approx(math.pi / 2 + 2 / math.pi, abs=0.01)
    trace = R.diagonal(dim1=-1, dim2=-2).sum(-1)
    assert trace.mean().item() == pytest.approx(0, abs=0.02)
    assert trace.var().item() == pytest.approx(1, abs=0.03)
    for entry in R.flatten(-2).T:  # each entry is uniform on [-1, 1]
        assert stats.kstest(entry[:20_000].numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-4


def test_uniform_angle_law(rng):
    w = so3.log(so3.random(50_000, "uniform_angle", generator=rng, dtype=torch.float64))
    angle = torch.linalg.vector_norm(w, dim=-1)
    assert stats.kstest(angle.numpy(), stats.uniform(0, math.pi).cdf).pvalue > 1e-3
    assert stats.kstest((w[:, 2] / angle).numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-3


def test_wrapped_normal_law(rng):
    w = so3.log(so3.random(50_000, "wrapped_normal", sigma=0.3, generator=rng, dtype=torch.float64))
    assert stats.kstest((w.flatten() / 0.3).numpy(), stats.norm.cdf).pvalue > 1e-3
    assert torch.equal(so3.random(3, "wrapped_normal", sigma=0.0, generator=rng), torch.eye(3).expand(3, 3, 3))


@pytest.mark.parametrize("law", ["haar", "uniform_angle", "wrapped_normal"])
def test_samples_are_rotations_of_the_asked_kind(law):
    for shape, expected in ((), ()), (4, (4,)), ((2, 0), (2, 0)), ([2, 3], (2, 3)):
        R = so3.random(shape, law, generator=torch.Generator().manual_seed(0))
        assert R.shape == (*expected, 3, 3)
        assert max_error_eps(R @ R.mT, I3.expand(*expected, 3, 3)) <= 16 if R.numel() else True
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert so3.random(2, law, dtype=dtype).dtype == dtype
    first, again = (so3.random(5, law, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, again)
