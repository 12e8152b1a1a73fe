import math

import pytest
import torch

from eqmotion import (
    EqMotion,
    ade,
    best_of_modes_loss,
    displacement_loss,
    equivariance_report,
    fde,
    horizon_weights,
    interaction_accuracy,
    min_ade,
    min_fde,
    mode_score_loss,
    mpjpe,
)
from geocore.testing import check_derivatives


def test_displacement_by_hand():
    pred = torch.zeros(1, 2, 2, 2)
    y = torch.tensor([[[[3.0, 4.0], [0.0, 1.0]], [[0.0, 0.0], [6.0, 8.0]]]])
    assert float(displacement_loss(pred, y)) == 4.0
    assert float(displacement_loss(pred, y, reduction="sum")) == 16.0
    assert displacement_loss(pred, y, reduction="none").tolist() == [[[5.0, 1.0], [0.0, 10.0]]]
    assert float(displacement_loss(pred, y, torch.tensor([1.0, 0.0]))) == 1.25
    mask = torch.tensor([[True, False]])
    assert float(displacement_loss(pred, y, mask=mask)) == 3.0
    assert float(displacement_loss(pred, y, mask=torch.tensor([[[True, False], [False, True]]]))) == 7.5
    assert (float(ade(pred, y)), float(fde(pred, y))) == (4.0, 5.5)
    assert (float(ade(pred, y, mask)), float(fde(pred, y, mask))) == (3.0, 1.0)
    assert float(mpjpe(pred, y, scale=10.0)) == 40.0
    assert mpjpe(pred, y, frames=[1, 0]).tolist() == [5.5, 2.5]


def test_padding_may_hold_anything():
    pred, y = torch.zeros(1, 2, 3, 2), torch.ones(1, 2, 3, 2)
    y[0, 1] = torch.nan
    mask = torch.tensor([[True, False]])
    assert float(displacement_loss(pred, y, mask=mask)) == pytest.approx(math.sqrt(2))
    assert float(ade(pred, y, mask)) == pytest.approx(math.sqrt(2))
    modes = pred[:, :, None].expand(1, 2, 4, 3, 2)
    assert float(best_of_modes_loss(modes, y, mask, supervise="all")) == pytest.approx(math.sqrt(2))
    assert float(min_ade(modes, y, mask, joint=True)) == pytest.approx(math.sqrt(2))


def test_loss_at_zero_error_has_gradient_zero():
    y = torch.randn(1, 2, 3, 2, dtype=torch.float64)
    pred = y.clone().requires_grad_()
    assert torch.equal(torch.autograd.grad(displacement_loss(pred, y), pred)[0], torch.zeros_like(y))
    check_derivatives(displacement_loss, torch.randn(1, 2, 3, 2).double(), y)


def test_horizon_weights():
    torch.testing.assert_close(horizon_weights(4), torch.tensor([4.0, 2.0, 4 / 3, 1.0]))


def test_best_of_modes_by_hand():
    """Two agents, two modes, one step in one dimension: errors (1, 3) and (5, 2)."""
    y = torch.zeros(1, 2, 1, 1)
    pred = torch.tensor([[[[[1.0]], [[3.0]]], [[[5.0]], [[2.0]]]]])
    assert float(best_of_modes_loss(pred, y)) == 1.0
    assert float(best_of_modes_loss(pred, y, supervise="all")) == 1.5
    assert float(best_of_modes_loss(pred, y, supervise="all", joint=True)) == 2.5
    assert float(min_ade(pred, y)) == 1.5
    assert float(min_ade(pred, y, joint=True)) == 2.5
    assert best_of_modes_loss(pred, y, reduction="none").shape == (1, 1)
    logits = torch.tensor([[[2.0, 0.0], [0.0, 0.0]]])
    want = (math.log(1 + math.exp(-2.0)) + math.log(2.0)) / 2
    assert float(mode_score_loss(logits, pred, y)) == pytest.approx(want)


def test_final_error_takes_its_own_best_mode():
    y = torch.zeros(1, 1, 2, 1)
    pred = torch.tensor([[[[[0.0], [4.0]], [[5.0], [1.0]]]]])
    assert float(min_ade(pred, y)) == 2.0
    assert float(min_fde(pred, y)) == 1.0


@pytest.mark.parametrize("labels", [2, 3, 4])
def test_accuracy_under_relabelling(labels):
    generator = torch.Generator().manual_seed(0)
    edges = torch.randint(labels, (3, 6, 6), generator=generator)
    names = torch.randperm(labels, generator=generator)
    assert interaction_accuracy(names[edges], edges) == 1.0
    soft = torch.nn.functional.one_hot(names[edges], labels).float() * 0.4 + 0.1
    assert interaction_accuracy(soft, edges) == 1.0
    wrong = names[edges].clone()
    wrong[0, 0, 1] = (wrong[0, 0, 1] + 1) % labels
    assert interaction_accuracy(wrong, edges) == pytest.approx(1 - 1 / (3 * 30))
    wrong.diagonal(dim1=1, dim2=2).fill_(0)
    assert interaction_accuracy(wrong, edges) == pytest.approx(1 - 1 / (3 * 30))
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[0, 1] = False
    assert interaction_accuracy(wrong, edges, mask) == 1.0


def test_one_category_for_all_gets_the_most_frequent_type():
    edges = torch.tensor([[0, 1, 1], [1, 0, 1], [1, 0, 0]])
    assert interaction_accuracy(torch.zeros_like(edges), edges) == pytest.approx(5 / 6)


def test_report_tells_equivariant_models_from_others():
    x = torch.randn(2, 4, 5, 3, dtype=torch.float64)
    model = EqMotion(5, 3, channels=4, hidden_dim=4, n_layers=1).double()
    good = equivariance_report(model, x, node_attr=None).to_dict()
    assert max(good.values()) < 1e-12
    several = EqMotion(5, 3, channels=4, hidden_dim=4, n_layers=1, n_modes=2, edge_attr_dim=1).double()
    assert max(equivariance_report(several, x, edge_attr=torch.randn(2, 4, 4, 1).double()).to_dict().values()) < 1e-12
    W = torch.randn(3, 3, dtype=torch.float64)
    bad = equivariance_report(lambda x: x @ W, x)
    assert min(bad.rotation, bad.reflection, bad.translation) > 1e-2
    assert bad.permutation < 1e-14
    single = equivariance_report(model, x[0])
    assert max(single.to_dict().values()) < 1e-12


@pytest.mark.bad_input
def test_errors():
    a, b = torch.zeros(1, 2, 3, 2), torch.zeros(1, 2, 4, 2)
    with pytest.raises(ValueError, match=r"pred and y must have the same shape \(..., N, F, d\)"):
        displacement_loss(a, b)
    with pytest.raises(ValueError, match="reduction must be one of"):
        displacement_loss(a, a, reduction="max")
    with pytest.raises(ValueError, match=r"weights must have shape \(3,\)"):
        displacement_loss(a, a, torch.ones(2))
    with pytest.raises(ValueError, match=r"mask must have shape \(1, 2\) or \(1, 2, 3\)"):
        displacement_loss(a, a, mask=torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"pred must have shape \(..., N, M, F, d\)"):
        best_of_modes_loss(a, a)
    with pytest.raises(ValueError, match="supervise must be one of"):
        best_of_modes_loss(a[:, :, None], a, supervise="none")
    with pytest.raises(ValueError, match=r"frames must be in \[0, 3\)"):
        mpjpe(a, a, frames=[3])
    with pytest.raises(ValueError, match="at least one pair"):
        interaction_accuracy(torch.zeros(1, 1, 2), torch.zeros(1, 1))
    with pytest.raises(ValueError, match=r"mode_logits must have shape"):
        mode_score_loss(torch.zeros(1, 2, 2), a[:, :, None], a)
    with pytest.raises(TypeError, match="floating-point"):
        ade(a.long(), a.long())
