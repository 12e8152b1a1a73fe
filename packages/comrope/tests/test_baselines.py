"""What is special to each baseline; what they share with ComRoPE is in test_comrope_layer.py."""

import math

import pytest
import torch
from torch.nn import functional as F

from comrope import AxialRoPE, LearnedAPE, LieRE, MixedRoPE, apply_block_rotation, grid_positions
from comrope._reference import rotate_blocks_reference
from geocore.testing import check_derivatives, check_module


def test_learned_ape_is_exact_on_its_grid_and_linear_between() -> None:
    ape = LearnedAPE(4, (2, 3), dtype=torch.float64)
    x = grid_positions((2, 3), dtype=torch.float64)
    torch.testing.assert_close(ape.embed(x), ape.table.flatten(0, 1), rtol=0, atol=1e-14)
    centre = torch.tensor([[0.5, 0.5]], dtype=torch.float64)  # between the rows, on the middle column
    torch.testing.assert_close(ape.embed(centre)[0], ape.table[:, 1].mean(0), rtol=0, atol=1e-14)
    outside = torch.tensor([[-3.0, 0.5], [9.0, 9.0]], dtype=torch.float64)
    torch.testing.assert_close(ape.embed(outside), torch.stack((ape.table[0, 1], ape.table[1, 2])), rtol=0, atol=1e-14)


def test_learned_ape_equals_bilinear_interpolation_of_torch() -> None:
    ape = LearnedAPE(5, (4, 6), dtype=torch.float64)
    for size in ((8, 12), (3, 5), (4, 6), (9, 2)):
        want = F.interpolate(ape.table.movedim(-1, 0)[None], size=size, mode="bilinear", align_corners=False)[0].flatten(1).T
        torch.testing.assert_close(ape.embed(grid_positions(size, dtype=torch.float64)), want, rtol=0, atol=1e-12)


def test_learned_ape_sees_both_coordinates() -> None:
    # The authors' baseline ignores the column; ours varies along each axis.
    table = LearnedAPE(8, (4, 4)).embed(grid_positions((4, 4))).reshape(4, 4, 8)
    assert table.var(0).min() > 0
    assert table.var(1).min() > 0


@pytest.mark.parametrize("shape", [(1,), (5,), (1, 4), (3, 2, 4)])
def test_learned_ape_in_any_number_of_axes(shape: tuple[int, ...]) -> None:
    ape = LearnedAPE(3, shape, dtype=torch.float64)
    x = grid_positions(shape, dtype=torch.float64)
    torch.testing.assert_close(ape.embed(x), ape.table.reshape(-1, 3), rtol=0, atol=1e-14)
    inside = 0.2 + 0.6 * torch.rand(2, 7, len(shape), dtype=torch.float64)
    check_derivatives(lambda p, t: torch.func.functional_call(_Embed(ape), {"ape.table": t}, (p,)), inside, ape.table)
    assert ape.embed(inside[:, :0]).shape == (2, 0, 3)


def test_positions_on_the_grid_have_the_slope_of_their_cell() -> None:
    ape = LearnedAPE(3, (4,), dtype=torch.float64)
    x = grid_positions((4,), dtype=torch.float64).requires_grad_()
    steps = 4 * ape.table.detach().diff(dim=0).sum(-1)
    slope = torch.autograd.grad(ape.embed(x).sum(), x)[0].squeeze(-1)
    torch.testing.assert_close(slope, torch.cat((steps, steps[-1:])))  # the first and the last centre too, where the table ends


class _Embed(torch.nn.Module):
    def __init__(self, ape: LearnedAPE) -> None:
        super().__init__()
        self.ape = ape

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        return self.ape.embed(positions)


def test_learned_ape_is_a_module_that_leaves_queries_alone() -> None:
    ape = LearnedAPE(8, (2, 2))
    q, k, x = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 4, 8), grid_positions((2, 2))
    a, b = ape(q, k, x)
    assert a is q
    assert b is k
    check_module(lambda: _Embed(LearnedAPE(8, (2, 2))), x)
    assert ape.no_weight_decay() == {"table"}


def test_liere_is_the_exponential_of_the_sum() -> None:
    rope = LieRE(8, 2, 2, block_size=4, dtype=torch.float64)
    q, x = torch.randn(3, 2, 5, 8, dtype=torch.float64), torch.rand(5, 2, dtype=torch.float64)
    torch.testing.assert_close(rope.rotate(q, x), rotate_blocks_reference(q, rope.generators(), x), rtol=0, atol=1e-12)
    by_blocks = apply_block_rotation(q, rope.rotation_blocks(x).movedim(-5, -4))
    torch.testing.assert_close(rope.rotate(q, x), by_blocks, rtol=0, atol=1e-13)
    assert rope.no_weight_decay() == {"P"}


def test_mixed_rope_by_hand() -> None:
    rope = MixedRoPE(2, 1, 2, dtype=torch.float64)
    with torch.no_grad():
        rope.freqs.copy_(torch.tensor([math.pi, math.pi / 2]).reshape(2, 1, 1))
    q = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64)
    turned = rope.rotate(q, torch.tensor([[0.25, 0.5]], dtype=torch.float64))  # pi/4 + pi/4
    torch.testing.assert_close(turned, torch.tensor([[[0.0, 1.0]]], dtype=torch.float64), rtol=0, atol=1e-7)
    assert rope.no_weight_decay() == {"freqs"}


def test_axial_rope_spreads_the_spectrum() -> None:
    rope = AxialRoPE(64, 4, 2)
    top = rope.freqs.max(dim=1).values
    torch.testing.assert_close(top, torch.full((2,), 4 * math.pi))
    low = torch.where(rope.freqs > 0, rope.freqs, math.inf).min()
    assert 4 * math.pi / 100 < low < 4 * math.pi / 50
    assert rope.no_weight_decay() == set()
    assert rope.angles(torch.rand(5, 2)).shape == (4, 5, 32)


@pytest.mark.bad_input
def test_errors() -> None:
    with pytest.raises(ValueError, match="embed_dim must be at least 1, got 0"):
        LearnedAPE(0, (2, 2))
    with pytest.raises(ValueError, match=r"shape\[1\] must be at least 1, got 0"):
        LearnedAPE(4, (2, 0))
    with pytest.raises(ValueError, match=r"positions must have shape \(L, 2\)"):
        LearnedAPE(4, (2, 2)).embed(torch.rand(5, 3))
    with pytest.raises(ValueError, match="must be finite"):
        LearnedAPE(4, (2, 2)).embed(torch.full((5, 2), math.nan), validate=True)
