"""The equivariance report: what it measures, what it refuses, and that it fails when it should."""

import copy

import pytest
import torch
from torch import nn

from geocore.groups import Cyclic, Euclidean, Orthogonal, ProductGroup, SpecialOrthogonal, Symmetric
from geocore.testing import EquivarianceReport, assert_equivariant, assert_not_equivariant, equivariance_error


@pytest.fixture
def x():
    return torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))


class Gated(nn.Module):
    """Exactly equivariant under O(3): vectors times a function of their lengths, in several layers."""

    def __init__(self, depth=3):
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(1, 8), nn.SiLU(), nn.Linear(8, 1)) for _ in range(depth))
        self.drop = nn.Dropout(0.5)

    def forward(self, v):
        for layer in self.layers:
            v = v * layer(v.square().sum(-1, keepdim=True))
        return self.drop(v)


class Broken(Gated):
    def forward(self, v):
        return super().forward(v) + 0.05 * v.abs()


class Molecule(nn.Module):
    """Several inputs, integers among them, and several outputs in a dict."""

    def __init__(self):
        super().__init__()
        self.kind = nn.Embedding(4, 1)

    def forward(self, pos, vel, z):
        charge = self.kind(z)
        center = pos.mean(-2, keepdim=True)
        energy = (charge * (pos - center).square()).sum((-1, -2))
        return {"energy": energy, "pos": pos + charge * vel, "torque": torch.linalg.cross(pos - center, vel), "label": z}


MOLECULE_OUT = {"energy": "invariant", "pos": "position", "torque": "pseudovector", "label": "invariant"}


def test_exact_layers_pass_and_broken_ones_do_not(x):
    torch.manual_seed(0)
    good, bad = Gated(), Broken()
    report = assert_equivariant(good, x, Orthogonal(3), "vector", "vector")
    assert report < 1e-12
    assert report.depth > 10
    assert report.dtype == torch.float64
    assert report.elements == 16
    assert equivariance_error(bad, x, Orthogonal(3), "vector", "vector") > 1e-2
    assert_not_equivariant(bad, x, Orthogonal(3), "vector", "vector")
    with pytest.raises(AssertionError, match="equivariance error"):
        assert_equivariant(bad, x, Orthogonal(3), "vector", "vector")
    with pytest.raises(AssertionError, match="cannot tell"):
        assert_not_equivariant(good, x, Orthogonal(3), "vector", "vector")


def test_modules_are_left_as_they_were(x):
    module = Gated().train()
    module.layers[1].eval()
    modes = [m.training for m in module.modules()]
    state = copy.deepcopy(module.state_dict())
    for dtype in (torch.float64, torch.float32, None):
        equivariance_error(module, x, Orthogonal(3), "vector", "vector", n=2, dtype=dtype)
    assert [m.training for m in module.modules()] == modes
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(module.state_dict().values(), state.values(), strict=True))


def test_precision_follows_dtype(x):
    torch.manual_seed(0)
    module = Gated()
    single = assert_equivariant(module, x, Orthogonal(3), "vector", "vector", dtype=torch.float32)
    assert 1e-9 < single < 1e-4
    assert assert_equivariant(module, x, Orthogonal(3), "vector", "vector", dtype=None).dtype is None
    assert equivariance_error(module.double(), x.double(), Orthogonal(3), "vector", "vector", dtype=None) > 1e-9  # group drawn in float32
    report = equivariance_error(module, x, Orthogonal(3), "vector", "vector")
    assert report < single
    assert report == float(report)
    assert report <= 1
    assert "over" not in str(report) or "worst" in str(report)


def test_several_inputs_outputs_and_integers():
    torch.manual_seed(0)
    args = (torch.randn(2, 6, 3), torch.randn(2, 6, 3), torch.randint(4, (2, 6)))
    types = ("position", "vector", "invariant")
    report = assert_equivariant(Molecule(), args, Euclidean(3), types, MOLECULE_OUT)
    assert len(report.max) == len(report.mean) == 4
    assert report.max[3] == 0
    G = ProductGroup(Euclidean(3), Symmetric(6))
    node = {"energy": "invariant", "pos": "position*node", "torque": "pseudovector*node", "label": "invariant*node(0)"}
    assert_equivariant(Molecule(), args, G, ("position*node", "vector*node", "invariant*node(0)"), node)
    wrong = {**MOLECULE_OUT, "torque": "vector"}  # right under rotations only
    assert_equivariant(Molecule(), args, SpecialOrthogonal(3), types, wrong)
    worst = assert_not_equivariant(Molecule(), args, Euclidean(3), types, wrong)
    assert worst.max[2] == worst.rel_error
    assert torch.linalg.det(worst.worst.Q) < 0


def test_elements_and_actions_of_any_kind(x):
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))).Q

    def act(g, v):
        return v @ g.T

    assert equivariance_error(lambda v: 2 * v, x, [turn], act, act) < 1e-14
    assert equivariance_error(lambda v: v.norm(dim=-1), x, iter([turn]), act) < 1e-14
    assert equivariance_error(lambda v: v.norm(dim=-1), x, [turn], act, None).elements == 1
    with pytest.raises(AssertionError, match="equivariance error"):
        assert_equivariant(lambda v: v.abs(), x, [turn], act, act)
    assert equivariance_error(lambda v: v[..., :2], x[..., :2], Cyclic(4), "vector", "vector").elements == 4


def test_forces_are_differentiated_inside(x):
    def force(v):
        with torch.enable_grad():
            v = v.detach().requires_grad_()
            energy = torch.pdist(v).sum()
            return -torch.autograd.grad(energy, v)[0]

    assert_equivariant(force, x[0], Euclidean(3), "position", "vector", tol=1e-12)


def test_functions_that_leave_autograd_or_write_into_their_input(x):
    assert_equivariant(lambda v: torch.from_numpy(v.numpy() * 2), x, Orthogonal(3), "vector", "vector")
    report = equivariance_error(lambda v: torch.zeros_like(v), x, Orthogonal(3), "vector", "vector")
    assert report == 0


def test_small_and_vanishing_outputs_are_measured_against_the_floor(x):
    noise = lambda v: 1e-17 * v.abs()  # noqa: E731
    assert equivariance_error(noise, x, Orthogonal(3), "vector", "vector") < 1e-10
    assert equivariance_error(noise, x, Orthogonal(3), "vector", "vector", floor=0.0) > 1e-2


def test_nan_is_never_equivariant(x):
    report = equivariance_error(lambda v: torch.where(v > 0, v, float("nan")), torch.ones_like(x), Orthogonal(3), "vector", "vector")
    assert report.rel_error == float("inf")
    with pytest.raises(AssertionError):
        assert_equivariant(lambda v: v.sqrt(), torch.ones_like(x), Orthogonal(3), "vector", "vector", tol=1e9)


def test_stochastic_functions_are_refused(x):
    with pytest.raises(ValueError, match="fn must be deterministic"):
        equivariance_error(lambda v: v + torch.randn_like(v), x, Orthogonal(3), "vector", "vector")

    class Always(nn.Module):
        def forward(self, v):
            return nn.functional.dropout(v, 0.5, training=True)

    with pytest.raises(ValueError, match="two calls"):
        assert_equivariant(Always(), x, Orthogonal(3), "vector", "vector")


@pytest.mark.bad_input
def test_bad_input_is_named(x):
    with pytest.raises(ValueError, match="at least one group element"):
        equivariance_error(lambda v: v, x, [], "vector", "vector")
    with pytest.raises(TypeError, match="group must be"):
        equivariance_error(lambda v: v, x, 3, "vector", "vector")
    with pytest.raises(ValueError, match="n must be at least 1"):
        equivariance_error(lambda v: v, x, Orthogonal(3), "vector", "vector", n=0)
    with pytest.raises(ValueError, match="at least one tensor"):
        equivariance_error(lambda v: 3, x, Orthogonal(3), "vector")
    with pytest.raises(ValueError, match="type must be"):
        equivariance_error(lambda v: v, x, Orthogonal(3), "vektor")
    with pytest.raises(AssertionError, match="shapes differ"):
        equivariance_error(lambda v: v[v[..., 0] > 0], x, Orthogonal(3), "vector", "vector")
    report = equivariance_error(lambda v: v, x, Orthogonal(3), "vector", "vector")
    assert isinstance(report, EquivarianceReport)
    assert report.__eq__("one") is NotImplemented
    with pytest.raises(TypeError):
        report < "one"  # noqa: B015
