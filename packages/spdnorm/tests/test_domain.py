"""Statistics of domains."""

import copy

import pytest
import torch

from spdnorm import DomainSPDBatchNorm, SPDBatchNorm

D = torch.float64


@pytest.mark.parametrize("metric", ["airm", "lem", "gbw"])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_every_domain_is_a_layer_of_its_own(spd, metric, as_tensor):
    X = torch.cat([spd(6), 5 * spd(6)])[torch.tensor([0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11])]
    names = [3, 8] * 6
    layer = DomainSPDBatchNorm(4, metric, domains=[3, 8])
    out = layer(X, torch.tensor(names) if as_tensor else names)
    for k, name in enumerate((3, 8)):
        alone = SPDBatchNorm(4, "bw" if metric == "gbw" else metric)
        torch.testing.assert_close(out[k::2], alone(X[k::2]), rtol=0, atol=1e-12)
        torch.testing.assert_close(layer.statistics_of(name).running_mean, alone.running_mean, rtol=0, atol=1e-12)
    layer.eval()
    torch.testing.assert_close(layer(X[::2], 3), layer(X, names)[::2], rtol=0, atol=1e-13)
    assert layer.domains == ["3", "8"]
    out.sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    assert sum(p.numel() for p in layer.parameters()) == (33 if metric == "gbw" else 17)  # shared


def test_refit_adapts_to_the_target(spd):
    layer = DomainSPDBatchNorm(4, domains=["source"])
    layer(spd(8), "source")
    target = 7 * spd(9)
    plain = SPDBatchNorm(4, momentum=1.0)
    plain(target)
    layer.refit(target, "target")
    layer.eval()
    torch.testing.assert_close(layer(target, "target"), plain.eval()(target), rtol=0, atol=1e-12)
    on_the_fly = DomainSPDBatchNorm(4, domains=["target"], test_stats_mode="refit").eval()
    torch.testing.assert_close(on_the_fly(target, "target"), plain(target), rtol=0, atol=1e-12)


def test_momentum_of_domains(spd):
    layer = DomainSPDBatchNorm(4, domains=["a"], train_momentum=0.5, momentum=0.2)
    same = SPDBatchNorm(4, train_momentum=0.5, momentum=0.2)
    X = spd(6)
    torch.testing.assert_close(layer(X, "a"), same(X), rtol=0, atol=1e-13)


def test_unseen_domains(spd):
    X = spd(4)
    strict = DomainSPDBatchNorm(4, domains=["a", "b.c"])
    state = copy.deepcopy(strict.state_dict())
    with pytest.raises(KeyError, match=r"no statistics for domain 'd'; known domains: 'a', 'b\.c'"):
        strict(X, ["a", "a", "d", "d"])
    assert all(torch.equal(a, b) for a, b in zip(state.values(), strict.state_dict().values(), strict=True))
    strict(X, "b.c")
    open_ = DomainSPDBatchNorm(4, unseen="add")
    out = open_(X, [7, 7, "x", "x"])
    assert open_.domains == ["7", "x"]
    fresh = DomainSPDBatchNorm(4, unseen="add")
    fresh.load_state_dict(open_.state_dict())
    torch.testing.assert_close(fresh.eval()(X, "x"), open_.eval()(X, "x"), rtol=0, atol=0)
    assert out.shape == X.shape


def test_channels_in_the_middle(spd):
    X = spd(4, 3)
    layer = DomainSPDBatchNorm(4, domains=["a", "b"])
    assert layer(X, ["a", "b", "a", "b"]).shape == (4, 3, 4, 4)
    assert layer.eval()(spd(0), []).shape == (0, 4, 4)


@pytest.mark.bad_input
def test_errors(spd):
    with pytest.raises(ValueError, match="'a' twice"):
        DomainSPDBatchNorm(4, domains=["a", "a"])
    with pytest.raises(ValueError, match="one for each of the 4 items"):
        DomainSPDBatchNorm(4, domains=["a"])(spd(4), ["a", "a"])
    with pytest.raises(ValueError, match="unseen must be one of"):
        DomainSPDBatchNorm(4, unseen="ignore")
    with pytest.raises(ValueError, match="metric must be one of"):
        DomainSPDBatchNorm(4, "euclid")
