import math

import pytest
import torch

from comrope import grid_positions


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_hand_worked() -> None:
    want = [[0.25, 1 / 6], [0.25, 0.5], [0.25, 5 / 6], [0.75, 1 / 6], [0.75, 0.5], [0.75, 5 / 6]]
    torch.testing.assert_close(grid_positions((2, 3)), torch.tensor(want))
    assert grid_positions((2, 3), normalize=False).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert grid_positions((4,), dtype=torch.float64).tolist() == [[0.125], [0.375], [0.625], [0.875]]


def test_higher_resolution_fills_the_same_square() -> None:
    for size in (1, 7, 14, 32):
        x = grid_positions((size, size))
        assert 0 < x.min() == 0.5 / size
        assert x.max() < 1


def test_prefix_tokens() -> None:
    assert grid_positions((1, 2), prefix_tokens=2)[:2].tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert grid_positions((1, 2), prefix_tokens=1, prefix_position="none")[0].tolist() == [0.0, 0.0]
    assert grid_positions((1, 2), prefix_tokens=1, prefix_position=0.25)[0].tolist() == [0.25, 0.25]
    assert grid_positions((1, 2), prefix_tokens=2, prefix_position=torch.tensor([0.0, 1.0]))[:2].tolist() == [[0, 1], [0, 1]]
    each = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    assert grid_positions((1, 2), prefix_tokens=2, prefix_position=each)[:2].tolist() == each.tolist()


def test_perturbation_stays_in_the_cell_and_spares_the_prefix() -> None:
    grid = (5, 4)
    x = grid_positions(grid, prefix_tokens=1, perturbation=1.0, batch_size=500, generator=gen())
    assert x.shape == (500, 21, 2)
    assert (x[:, 0] == 0.5).all()
    delta = (x - grid_positions(grid, prefix_tokens=1))[:, 1:] * torch.tensor([5.0, 4.0])
    assert delta.abs().max() <= 0.5 + 1e-6
    # clamp(n/2, -1/2, 1/2) for standard normal n: hits the bound with probability P(|n| > 1) = 0.3173, standard deviation 0.3593.
    assert abs((delta.abs() > 0.499).double().mean().item() - 0.3173) < 0.02
    assert abs(delta.double().std().item() - 0.3593) < 0.01
    assert x[0].ne(x[1]).any()


def test_perturbation_scales_and_selects_axes() -> None:
    base = grid_positions((6, 4, 4), normalize=False)
    x = grid_positions((6, 4, 4), normalize=False, perturbation=0.5, perturb_axes=(1, 2), generator=gen())
    assert torch.equal(x[:, 0], base[:, 0])  # frames of a video stay
    assert (x - base)[:, 1:].abs().max() > 0.3
    small = grid_positions((6, 4, 4), normalize=False, perturbation=1e-3, generator=gen())
    assert 0 < (small - base).abs().max() < 5e-3


def test_offset_moves_everything_by_one_vector() -> None:
    base = grid_positions((3, 3), prefix_tokens=1)
    x = grid_positions((3, 3), prefix_tokens=1, offset=2.0, generator=gen())
    shift = x - base
    torch.testing.assert_close(shift, shift[:1].expand_as(shift), rtol=0, atol=1e-6)
    assert shift.abs().max() > 0.1
    batch = grid_positions((3, 3), prefix_tokens=1, offset=2.0, batch_size=2000, generator=gen()) - base
    assert abs(batch[:, 0].std().item() - 2.0) < 0.1
    fixed = grid_positions((3, 3), prefix_tokens=1, offset=torch.tensor([1.0, -2.0]))
    torch.testing.assert_close(fixed, base + torch.tensor([1.0, -2.0]))
    each = torch.arange(4.0).reshape(2, 1, 2)
    torch.testing.assert_close(grid_positions((3, 3), prefix_tokens=1, offset=each, batch_size=2), base + each)


def test_unrotated_prefix_ignores_the_offset() -> None:
    x = grid_positions((3, 3), prefix_tokens=1, prefix_position="none", offset=torch.tensor([5.0, 5.0]))
    assert x[0].tolist() == [0.0, 0.0]
    assert x[1:].min() > 5


def test_generator_makes_it_reproducible() -> None:
    def draw(seed: int) -> torch.Tensor:
        return grid_positions((3, 3), perturbation=1.0, offset=1.0, batch_size=2, generator=gen(seed))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_official_time_scale() -> None:
    x = grid_positions((16, 14, 14), time_scale="official")
    assert math.isclose(x[:, 0].max().item(), 15.5 / 14, rel_tol=1e-6)  # 1.107, beyond the unit cube
    assert torch.equal(x[:, 1:], grid_positions((16, 14, 14))[:, 1:])
    assert grid_positions((16, 14, 14))[:, 0].max() < 1


def test_empty_and_dtype() -> None:
    assert grid_positions((0, 3)).shape == (0, 2)
    assert grid_positions((0, 3), prefix_tokens=1).shape == (1, 2)
    assert grid_positions((2, 2), batch_size=0).shape == (0, 4, 2)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert grid_positions((2, 2), prefix_tokens=1, dtype=dtype, perturbation=1.0, offset=1.0).dtype == dtype


@pytest.mark.bad_input
def test_errors() -> None:
    with pytest.raises(ValueError, match="at least one axis"):
        grid_positions(())
    with pytest.raises(ValueError, match=r"shape\[1\] must be at least 0, got -1"):
        grid_positions((2, -1))
    with pytest.raises(TypeError, match=r"shape\[0\] must be an int, got float"):
        grid_positions((2.0, 2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="prefix_position must be one of 'none', got 'center'"):
        grid_positions((2, 2), prefix_tokens=1, prefix_position="center")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"prefix_position must have shape \(2,\) or \(1, 2\), got \(3,\)"):
        grid_positions((2, 2), prefix_tokens=1, prefix_position=torch.zeros(3))
    with pytest.raises(ValueError, match="perturbation must be at least 0, got -1"):
        grid_positions((2, 2), perturbation=-1.0)
    with pytest.raises(ValueError, match=r"perturb_axes must be among 0..1, got \(2,\)"):
        grid_positions((2, 2), perturbation=1.0, perturb_axes=(2,))
    with pytest.raises(ValueError, match="offset is a standard deviation"):
        grid_positions((2, 2), offset=-1.0)
    with pytest.raises(ValueError, match=r"offset must be a number or have shape \(2,\)"):
        grid_positions((2, 2), offset=torch.zeros(3))
    with pytest.raises(ValueError, match="time_scale 'official' is for"):
        grid_positions((2, 2), time_scale="official")
    with pytest.raises(ValueError, match="time_scale must be one of"):
        grid_positions((2, 2, 2), time_scale="frames")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="dtype must be a floating-point dtype"):
        grid_positions((2, 2), dtype=torch.int64)
    with pytest.raises(ValueError, match="batch_size must be at least 0"):
        grid_positions((2, 2), batch_size=-1)
