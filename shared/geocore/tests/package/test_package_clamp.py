"""The clamp whose slope at its bounds no version of torch decides."""

import pytest
import torch

from geocore._clamp import clamp
from geocore.testing import check_derivatives

X = torch.tensor([-torch.inf, -2.0, -1.0, -0.5, 0.0, 1.0, 1.5, torch.inf, torch.nan])


@pytest.mark.parametrize("bounds", [{"min": -1.0}, {"max": 1.0}, {"min": -1.0, "max": 1.0}, {}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_are_those_of_torch_and_the_slope_at_a_bound_is_one(bounds, dtype):
    x = X.to(dtype).requires_grad_()
    y = clamp(x, **bounds)
    want = torch.clamp(x.detach(), **bounds) if bounds else x.detach()
    torch.testing.assert_close(y, want, rtol=0, atol=0, equal_nan=True)
    assert y.dtype == dtype
    low, high = bounds.get("min", -torch.inf), bounds.get("max", torch.inf)
    inside = ((x >= low) & (x <= high) | x.isnan()).to(dtype)
    assert inside.sum() < 9 or not bounds
    torch.testing.assert_close(torch.autograd.grad(y.nansum(), x)[0][:-1], inside[:-1], rtol=0, atol=0)
    torch.testing.assert_close(
        torch.func.jvp(lambda t: clamp(t, **bounds), (x.detach(),), (torch.ones_like(x),))[1], inside, rtol=0, atol=0
    )


def test_derivatives_of_second_order():
    check_derivatives(lambda x: clamp(x, -1.0, 1.0).square(), torch.tensor([-1.5, -0.9, 0.3, 1.2], dtype=torch.float64))
