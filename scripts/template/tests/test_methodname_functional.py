import pytest
import torch

from geocore.testing import check_batching, check_derivatives, check_half, check_transforms
from methodname import rotate_pairs
from methodname._reference import rotate_pairs_reference


@pytest.fixture
def example() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(5, 6, generator=generator, dtype=torch.float64), torch.randn(5, 3, generator=generator, dtype=torch.float64)


def test_quarter_turn():
    torch.testing.assert_close(rotate_pairs(torch.tensor([1.0, 0.0]), torch.tensor([torch.pi / 2])), torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 3)])
def test_equals_the_literal_transcription(shape):
    x, angle = torch.randn(*shape, 6, dtype=torch.float64), torch.randn(*shape, 3, dtype=torch.float64)
    torch.testing.assert_close(rotate_pairs(x, angle), rotate_pairs_reference(x, angle), atol=1e-14, rtol=0)


def test_derivatives(example):
    check_derivatives(rotate_pairs, *example)


def test_batches_and_precision(example):
    check_batching(rotate_pairs, *example)
    check_half(rotate_pairs, *example)


def test_transforms(example):
    check_transforms(rotate_pairs, *example)


@pytest.mark.bad_input
def test_errors():
    with pytest.raises(ValueError, match="even last dimension"):
        rotate_pairs(torch.zeros(3), torch.zeros(1))
    with pytest.raises(ValueError, match="must have 2 entries"):
        rotate_pairs(torch.zeros(4), torch.zeros(3))
    with pytest.raises(TypeError, match="floating-point"):
        rotate_pairs(torch.zeros(4, dtype=torch.int64), torch.zeros(2))
