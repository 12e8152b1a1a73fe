"""The models of the paper: equivariance, agreement with the literal form, padding, and what they refuse."""

import pytest
import torch
from torch import nn

from frameavg import FAGIN, FAGNN, FAGraphMLP, FAPointNet, FrameTooLargeError, equivariance_report, normal_loss
from frameavg._reference import fagnn_reference
from frameavg.models._pointnet import PointNet
from geocore import so3

F64 = {"dtype": torch.float64}


def scene(batch: int = 3, n: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    q = torch.randn(batch, n, 1, **F64).sign()
    return torch.randn(batch, n, 3, **F64), torch.randn(batch, n, 3, **F64), (q * q.mT).unsqueeze(-1)


def motion(reflect: bool) -> tuple[torch.Tensor, torch.Tensor]:
    R = so3.random((), **F64)
    return (R * torch.tensor([1.0, 1.0, -1.0], **F64) if reflect else R), torch.randn(3, **F64)


@pytest.mark.parametrize(("group", "reflect"), [("E", True), ("E", False), ("SE", False)])
def test_fagnn_is_equivariant(group, reflect):
    model = FAGNN(hidden=12, n_layers=3, group=group).double()
    x, v, e = scene()
    Q, t = motion(reflect)
    y = model(x, v, e)
    assert (model(x @ Q.T + t, v @ Q.T, e) - (y @ Q.T + t)).abs().max() < 1e-11
    p = torch.randperm(5)
    assert (model(x[:, p], v[:, p], e[:, p][:, :, p]) - y[:, p]).abs().max() < 1e-11


def test_fagnn_of_rotations_sees_handedness():
    model = FAGNN(hidden=12, n_layers=3, group="SE").double()
    x, v, e = scene()
    Q, t = motion(True)
    y = model(x, v, e)
    assert (model(x @ Q.T + t, v @ Q.T, e) - (y @ Q.T + t)).abs().max() > 1e-5


@pytest.mark.parametrize("group", ["E", "SE"])
def test_fagnn_agrees_with_the_reference(group):
    model = FAGNN(hidden=6, n_layers=3, group=group).double()
    x, v, e = scene(2, 4)
    leaves = [x.requires_grad_(), v.requires_grad_(), *model.parameters()]
    ours, plain = model(x, v, e), fagnn_reference(model, x, v, e)
    assert torch.allclose(ours, plain, atol=1e-13)
    g = torch.randn_like(ours)
    for a, b in zip(torch.autograd.grad(ours, leaves, g), torch.autograd.grad(plain, leaves, g), strict=True):
        assert torch.allclose(a, b, atol=1e-12)


def test_fagnn_padding_and_node_features():
    model = FAGNN(hidden=6, n_layers=2, node_dim=2).double()
    x, v, e = scene(2, 4)
    f = torch.randn(2, 4, 2, **F64)
    y = model(x, v, e, f)
    mask = (torch.arange(6) < 4).expand(2, 6)

    def pad(t, *widths):
        return nn.functional.pad(t, widths, value=7.0)

    padded = model(pad(x, 0, 0, 0, 2), pad(v, 0, 0, 0, 2), pad(e, 0, 0, 0, 2, 0, 2), pad(f, 0, 0, 0, 2), mask=mask)
    assert torch.allclose(padded[:, :4], y, atol=1e-12)
    assert (padded[:, 4:] == 0).all()
    assert model(x[0], v[0], e[0], f[0]).shape == (4, 3)


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize(("group", "reflect"), [("O", True), ("SO", False)])
def test_normals_turn_with_the_cloud(local, group, reflect):
    model = FAPointNet(local, group=group, neighbours=6, channels=5, widths=(8, 16), head=(16,)).double().eval()
    x = torch.randn(2, 20, 3, **F64)
    Q, t = motion(reflect)
    n = model(x)
    assert (model(x @ Q.T + t) - n @ Q.T).abs().max() < 1e-10
    assert torch.allclose(n.norm(dim=-1), torch.ones(2, 20, **F64))
    p = torch.randperm(20)
    assert (model(x[:, p]) - n[:, p]).abs().max() < 1e-10


def test_batch_statistics_are_those_of_all_poses():
    """In training the whole frame is in the batch, so the statistics, and with them the output, are invariant."""
    model = FAPointNet(widths=(8, 16), head=(16,)).double().train()
    x = torch.randn(4, 20, 3, **F64)
    Q, t = motion(True)
    assert (model(x @ Q.T + t) - model(x) @ Q.T).abs().max() < 1e-10


def test_pointnet_shapes_and_normal_loss():
    assert PointNet(5, 7, (4, 8), (6,))(torch.randn(2, 9, 5)).shape == (2, 9, 7)
    n = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]])
    assert normal_loss(n, -n).item() == 0.0
    assert normal_loss(n, n.flip(1)).item() == 1.0


def graphs(count: int = 6, n: int = 7) -> torch.Tensor:
    A = torch.bernoulli(torch.full((count, n, n), 0.5, **F64)).triu(1)
    return A + A.mT


@pytest.mark.parametrize("make", [FAGraphMLP, FAGIN])
def test_graph_models_do_not_see_the_order(make):
    model = make(7, node_dim=2, hidden=16, out_dim=3).double().eval()
    A, x = graphs(), torch.randn(6, 7, 2, **F64)
    p = torch.randperm(7)
    y = model(A, x)
    assert y.shape == (6, 3)
    assert (model(A[:, p][:, :, p], x[:, p]) - y).abs().max() < 1e-12


def circulant(n: int, *steps: int) -> torch.Tensor:
    A = torch.zeros(n, n, **F64)
    i = torch.arange(n)
    for s in steps:
        A[i, (i + s) % n] = A[(i + s) % n, i] = 1
    return A


def test_gin_without_identities_cannot_tell_regular_graphs_apart():
    """Two triangles and a hexagon are alike to colour refinement; places in canonical orders tell them apart."""
    hexagon = circulant(6, 1)
    triangles = torch.block_diag(circulant(3, 1), circulant(3, 1))
    both = torch.stack([hexagon, triangles])
    plain = FAGIN(6, ids=False, hidden=16, out_dim=3).double().eval()(both)
    named = FAGIN(6, hidden=16, out_dim=3).double().eval()(both)
    assert (plain[0] - plain[1]).abs().max() < 1e-12
    assert (named[0] - named[1]).abs().max() > 1e-6


def test_graphs_with_too_many_orders_are_refused_or_sampled():
    A = circulant(10, 1, 2)[None]
    with pytest.raises(FrameTooLargeError, match="3628800"):
        FAGraphMLP(10).double().eval()(A)
    model = FAGraphMLP(10, n_samples=4, eval_samples=4).double()
    assert model.train()(A).shape == (1, 1)
    assert model.eval()(A).shape == (1, 1)


def test_report_of_models():
    model = FAGraphMLP(7, hidden=8).double()
    found = equivariance_report(model, graphs(3), "S", n=4)
    assert found["worst"] < 1e-12
    clouds = FAPointNet(widths=(8, 16), head=(16,)).double().eval()
    found = equivariance_report(clouds, torch.randn(2, 12, 3, **F64), "E", n=4, in_types="position", out_types="vector")
    assert found["worst"] < 1e-9
    broken = equivariance_report(lambda x: x**2, torch.randn(2, 12, 3, **F64), "O", n=4, in_types="vector", out_types="vector")
    assert broken["rel_error"] > 1e-2
    assert broken["worst"] >= broken["rel_error"]


@pytest.mark.bad_input
def test_bad_models_and_inputs_are_refused():
    x, v, e = scene(2, 4)
    with pytest.raises(ValueError, match="hidden must be a multiple of dim"):
        FAGNN(hidden=10)
    with pytest.raises(ValueError, match="edge_attr must have 1 features"):
        FAGNN(hidden=6).double()(x, v)
    with pytest.raises(ValueError, match="v must have shape"):
        FAGNN(hidden=6).double()(x, v[:, :3], e)
    with pytest.raises(ValueError, match="group must be one of"):
        FAPointNet(group="E")
    with pytest.raises(ValueError, match="at least the 20 points"):
        FAPointNet(True)(torch.randn(1, 5, 3))
    with pytest.raises(ValueError, match="in_types and out_types must be given"):
        equivariance_report(lambda x: x, torch.randn(2, 3))
    with pytest.raises(ValueError, match="group must be a group or one of"):
        equivariance_report(lambda x: x, torch.randn(2, 3), "rotations", in_types="vector", out_types="vector")
