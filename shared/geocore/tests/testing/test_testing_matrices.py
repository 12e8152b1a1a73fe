"""Matrix checks must pass on what they describe and fail, with a figure, just beside it."""

import pytest
import torch

from geocore.structured import dct, dct_matrix
from geocore.testing import assert_low_rank, assert_orthonormal, assert_same_subspace, linear_map_to_dense, spectra

F64 = torch.float64


def frame(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed)))[0]


def test_orthonormal():
    Q = frame(2, 6, 3)
    assert_orthonormal(Q, 1e-14)
    assert_orthonormal(torch.zeros(0, 4, 2), 1e-14)
    for bad in (1.001 * Q, Q.mT, torch.full_like(Q, torch.nan)):
        with pytest.raises(AssertionError, match="not orthonormal"):
            assert_orthonormal(bad, 1e-4)


def test_same_subspace():
    Q = frame(2, 6, 3)
    assert_same_subspace(Q, Q @ torch.randn(2, 3, 3, dtype=F64, generator=torch.Generator().manual_seed(1)), 1e-12)
    tilt = 1e-3
    turned = torch.stack([torch.cos(torch.tensor(tilt)), torch.sin(torch.tensor(tilt))])[:, None].double()
    with pytest.raises(AssertionError, match=r"principal angle is 0\.001"):  # sin 1e-3, not the angle of a chord
        assert_same_subspace(torch.tensor([[1.0], [0.0]]), turned, 9e-4)
    assert_same_subspace(torch.tensor([[1.0], [0.0]]), turned, 1.1e-3)


def test_low_rank():
    M = frame(7, 2) @ torch.diag(torch.tensor([3.0, 1e-3], dtype=F64)) @ frame(5, 2, seed=1).mT
    assert_low_rank(M, 2, 1e-14)
    assert_low_rank(M, 1, 1e-3)
    assert_low_rank(M, 5, 0.0)
    assert_low_rank(torch.zeros(3, 3), 0, 0.0)
    with pytest.raises(AssertionError, match="singular value 2 is 0.000333"):
        assert_low_rank(M, 1, 1e-4)


def test_spectra():
    for kind in ("exp", "power", "flat", "clustered", "cond"):
        s = spectra(kind, 11)
        assert s.shape == (11,)
        assert s[0] == 1
        assert (s.diff() <= 0).all()
        assert (s > 0).all()
    torch.testing.assert_close(spectra("cond", 3, cond=1e4), torch.tensor([1.0, 1e-2, 1e-4], dtype=F64))
    assert spectra("clustered", 8).tolist() == [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25]
    assert spectra("exp", 4, dtype=torch.float32).dtype == torch.float32


def test_dense_matrix_of_a_linear_function():
    torch.testing.assert_close(linear_map_to_dense(dct, 9), dct_matrix(9, dtype=F64), rtol=0, atol=1e-14)
    assert linear_map_to_dense(lambda x: x[:, :2], 5).shape == (2, 5)
    with pytest.raises(ValueError, match="at zero"):
        linear_map_to_dense(lambda x: x + 1, 3)
    with pytest.raises(ValueError, match="random vector"):
        linear_map_to_dense(lambda x: x.abs(), 3)


@pytest.mark.bad_input
def test_errors():
    with pytest.raises(ValueError, match="kind must be one of"):
        spectra("gauss", 3)
    with pytest.raises(ValueError, match="cond must be at least 1"):
        spectra("cond", 3, cond=0.5)
    with pytest.raises(ValueError, match="Q must have shape"):
        assert_same_subspace(frame(4, 2), frame(4, 3), 1e-3)
