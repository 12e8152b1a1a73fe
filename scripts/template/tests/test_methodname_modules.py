import pytest
import torch

from geocore.testing import check_module
from methodname import PairRotation


def test_module_contract():
    check_module(lambda: PairRotation(6), torch.randn(4, 6))


@pytest.mark.bad_input
def test_errors():
    with pytest.raises(ValueError, match="features must be even, got 5"):
        PairRotation(5)
