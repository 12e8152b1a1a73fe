import numpy as np
import pytest
import torch
from torch import Tensor


def _exact_exp(w: Tensor) -> np.ndarray:
    """Rodrigues' formula in extended precision; half angles, so that nothing cancels."""
    v = w.detach().double().numpy().astype(np.longdouble)
    t = np.sqrt((v * v).sum(-1))[..., None, None]
    half = np.where(t == 0, np.longdouble(1), t) / 2
    sinc = np.where(t < 1e-6, 1 - t * t / 24, np.sin(half) / half)
    cosine = np.where(t < 1e-6, 1 - t * t / 8, np.cos(half))
    W = np.zeros((*v.shape[:-1], 3, 3), np.longdouble)
    W[..., 2, 1], W[..., 0, 2], W[..., 1, 0] = v[..., 0], v[..., 1], v[..., 2]
    W = W - np.swapaxes(W, -1, -2)
    return np.eye(3, dtype=np.longdouble) + sinc * cosine * W + sinc * sinc / 2 * (W @ W)


@pytest.fixture(scope="session")
def exact_exp():
    return _exact_exp


@pytest.fixture(scope="session")
def axes() -> Tensor:
    """Unit axes: random ones, the coordinate axes, and axes within rounding of a coordinate plane."""
    g = torch.Generator().manual_seed(0)
    v = torch.cat(
        [
            torch.randn(400, 3, generator=g, dtype=torch.float64),
            torch.eye(3, dtype=torch.float64),
            -torch.eye(3, dtype=torch.float64),
            torch.tensor([[1.0, 1e-9, 0.0], [1e-5, -1.0, 1e-12], [1.0, 1.0, 0.0], [-1.0, 1.0, 1e-16]], dtype=torch.float64),
        ]
    )
    return v / torch.linalg.vector_norm(v, dim=-1, keepdim=True)


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)
