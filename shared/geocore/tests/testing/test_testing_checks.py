"""The checks must fail on what they are there to catch."""

import os

import pytest
import torch
from hypothesis import given, settings
from torch import nn

from geocore._precision import full_precision
from geocore.testing import (
    ANGLES,
    assert_close_eps,
    check_batching,
    check_derivatives,
    check_half,
    check_module,
    check_transforms,
    max_error_eps,
    nan_filled_empty,
    strategies,
    tolerance,
)


@pytest.fixture
def x():
    return torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class WrongGradient(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.sin()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0].sin()


def test_errors_are_counted_in_eps():
    one = torch.ones(2, dtype=torch.float32)
    assert max_error_eps(one, one) == 0
    assert max_error_eps(one + torch.finfo(torch.float32).eps, [1.0, 1.0]) == pytest.approx(1)
    assert max_error_eps(one * torch.nan, [1.0, 1.0]) == float("inf")
    assert_close_eps(one, [1.0, 1.0], 0)
    with pytest.raises(AssertionError, match=r"error of .* eps"):
        assert_close_eps(one, [1.0, 1.1], 10)
    with pytest.raises(AssertionError, match="shapes differ"):
        max_error_eps(one, [1.0])


def test_angles_cover_zero_the_decades_and_pi():
    assert ANGLES[0] == 0
    assert ANGLES[-1] == pytest.approx(torch.pi, abs=0)
    assert list(ANGLES) == sorted(ANGLES)
    assert tolerance(torch.float64) < tolerance(torch.float32) < tolerance(torch.bfloat16)


def test_derivative_check_passes_and_catches(x):
    check_derivatives(lambda v: torch.sin(v) * v.sum(), x)
    with pytest.raises(AssertionError, match="gradcheck failed"):
        check_derivatives(WrongGradient.apply, x, forward=False, second=False)
    with pytest.raises(AssertionError, match="gradient is not finite"):
        check_derivatives(lambda v: v.norm(dim=-1).sqrt(), torch.zeros(2, 3))


def test_transform_check_passes_and_catches(x):
    check_transforms(lambda v: torch.sin(v) @ v.mT, x[:, None], export=True)

    def fails_under_vmap(v):
        return v * 2 if v.ndim == 2 else v * 3

    with pytest.raises(AssertionError, match="vmap"):
        check_transforms(fails_under_vmap, x)

    def breaks_the_graph(v):
        torch._dynamo.graph_break()
        return v * 2

    if os.environ.get("TORCHDYNAMO_DISABLE") != "1":  # the shape-checked run switches the compiler off
        with pytest.raises(torch._dynamo.exc.Unsupported):
            check_transforms(breaks_the_graph, x)


def test_batch_check_passes_and_catches(x):
    check_batching(lambda v: v.cumsum(-1), x)
    with pytest.raises(AssertionError):
        check_batching(lambda v: v - v.mean(0), x)
    with pytest.raises(AssertionError, match="empty batch"):
        check_batching(lambda v: v if v.shape[0] else v.new_zeros(0, 4), x)
    with pytest.raises(ValueError, match="leading batch dimension"):
        check_batching(lambda v: v, x[:1])


def test_half_check_passes_and_catches(x):
    check_half(full_precision(lambda v: v @ v.mT), x)
    with pytest.raises(AssertionError):
        check_half(lambda v: v.float() * 2, x)
    with pytest.raises(AssertionError, match="autocast"):
        check_half(lambda v: (v.float() @ v.float().mT).to(v.dtype), x)


def test_full_precision_keeps_structure_and_promotes():
    @full_precision
    def both(v, *, w):
        return v + w, (v.double(), "text")

    low = torch.ones(2, dtype=torch.bfloat16)
    out, (wide, text) = both(low, w=torch.ones(2, dtype=torch.bfloat16))
    assert (out.dtype, wide.dtype, text) == (torch.bfloat16, torch.float64, "text")
    assert both(low, w=torch.ones(2))[0].dtype == torch.float32


class Half(nn.Module):
    def __init__(self, *, forgetful: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.unused = nn.Parameter(torch.ones(1)) if forgetful else None

    def reset_parameters(self):
        nn.init.ones_(self.weight)

    def extra_repr(self):
        return "3"

    def forward(self, x):
        return x * self.weight


def test_module_check_passes_and_catches(x):
    check_module(Half, x.float())
    with pytest.raises(AssertionError, match="unused received no gradient"):
        check_module(lambda: Half(forgetful=True), x.float())
    check_module(lambda: Half(forgetful=True), x.float(), unused=("unused",), compile=False)
    with pytest.raises(AssertionError, match="second call"):
        check_module(_Noise, x.float())


class _Noise(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


def test_empty_is_filled_with_nan_only_inside():
    with nan_filled_empty():
        assert torch.isnan(torch.empty(5)).all()
    assert not torch.are_deterministic_algorithms_enabled()


@settings(max_examples=30, deadline=None)
@given(w=strategies.rotation_vectors(), s=strategies.skew_matrices(5), q=strategies.orthogonal_matrices(4))
def test_strategies_give_what_they_say(w, s, q):
    assert w.shape == (3,)
    assert w.norm() <= torch.pi + 1e-12
    assert torch.equal(s, -s.T)
    torch.testing.assert_close(q.T @ q, torch.eye(4, dtype=torch.float64), atol=1e-13, rtol=0)
    assert torch.linalg.det(q) > 0
