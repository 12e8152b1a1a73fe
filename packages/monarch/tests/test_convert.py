"""Whole models: conversion, densification, and the schedule."""

import copy

import pytest
import torch
from torch import nn

from monarch import BlockDiagLinear, MonarchLinear, ReverseSparsification, convert_model, densify_model


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64), nn.GELU(), nn.Linear(64, 3))


def step(model, optimizer, x):
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


X = torch.randn(8, 64, generator=torch.Generator().manual_seed(2))


def test_conversion_reports_every_layer():
    model = mlp()
    before = copy.deepcopy(model)
    report = convert_model(model)
    assert [x.name for x in report.layers] == ["0", "2", "4"]
    assert [x.name for x in report.replaced] == ["0", "2"]
    assert "smaller than 4 blocks" in report.layers[2].skipped
    assert isinstance(model[0], MonarchLinear)
    assert type(model[4]) is nn.Linear
    for entry in report.replaced:
        dense, layer = before[int(entry.name)].weight, model[int(entry.name)]
        assert entry.before == dense.numel()
        assert entry.after == layer.weight1.numel() + layer.weight2.numel() < entry.before
        assert entry.rel_error == pytest.approx(float((dense - layer.to_dense()).detach().norm() / dense.detach().norm()), rel=1e-4)
    assert "2 of 3 layers replaced" in str(report)


def test_selection_and_options():
    model = mlp()
    assert [x.name for x in convert_model(model, include=r"^2$").layers] == ["2"]
    model = mlp()
    assert len(convert_model(model, include=nn.Linear, project=False).replaced) == 2
    assert all(x.rel_error is None for x in convert_model(mlp(), project=False).replaced)
    full = convert_model(mlp(), include="0", rank=16)
    assert "would hold" in full.layers[0].skipped
    assert not convert_model(mlp(), include="0", rank=16, skip_if_larger=False).layers[0].skipped
    with pytest.raises(ValueError, match="selects none"):
        convert_model(mlp(), include="attention")
    with pytest.raises(ValueError, match="got a linear layer"):
        convert_model(nn.Linear(8, 8))


def test_shared_layers_stay_shared_and_tied_weights_stay():
    shared = nn.Linear(32, 32)
    model = nn.ModuleDict({"a": shared, "b": shared, "embed": nn.Embedding(40, 32), "head": nn.Linear(32, 40, bias=False)})
    model["head"].weight = model["embed"].weight
    report = convert_model(model)
    assert model["a"] is model["b"]
    assert isinstance(model["a"], MonarchLinear)
    assert "shared" in next(x for x in report.layers if x.name == "head").skipped
    densify_model(model)
    assert model["a"] is model["b"]
    assert type(model["a"]) is nn.Linear


@pytest.mark.parametrize("policy", ["reset", "keep-other", "project"])
def test_densification_keeps_the_function_and_moves_the_optimizer(policy):
    model = mlp()
    model.append(BlockDiagLinear(3, 3, nblocks=3))
    convert_model(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(3):
        step(model, optimizer, X)
    other = model[4].weight
    kept = copy.deepcopy(optimizer.state[other])
    want = model(X).detach()
    first, state1 = model[0], {k: optimizer.state[p]["exp_avg"].clone() for k, p in model[0].named_parameters()}
    names = densify_model(model, optimizer, policy)
    assert names == ["0", "2", "5"]
    torch.testing.assert_close(model(X), want, rtol=0, atol=1e-5)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}
    if policy == "reset":
        assert not optimizer.state
    else:
        torch.testing.assert_close(optimizer.state[other]["exp_avg"], kept["exp_avg"])
    if policy == "project":
        # product rule by finite differences along the factors' moments
        moved, h = copy.deepcopy(first).double(), 1e-6
        start = moved.to_dense().detach()
        with torch.no_grad():
            moved.weight1 += h * state1["weight1"].double()
            moved.weight2 += h * state1["weight2"].double()
        slope = (moved.to_dense().detach() - start) / h
        found = optimizer.state[model[0].weight]["exp_avg"].double()
        assert (found - slope).abs().max() <= 1e-4 * slope.abs().max()
        assert (optimizer.state[model[0].weight]["exp_avg_sq"] > 0).all()
    elif policy == "keep-other":
        assert model[0].weight not in optimizer.state
    step(model, optimizer, X)
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_schedule_switches_once_and_resumes():
    model = mlp()
    convert_model(model)
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = ReverseSparsification(model, optimizer, 2)
    assert [schedule.step(i) for i in range(4)] == [False, False, True, False]
    assert not any(isinstance(m, MonarchLinear) for m in model.modules())
    step(model, optimizer, X)

    resumed = mlp()
    convert_model(resumed)
    later = torch.optim.AdamW(resumed.parameters())
    again = ReverseSparsification(resumed, later, 2)
    again.load_state_dict(schedule.state_dict())
    resumed.load_state_dict(model.state_dict())
    later.load_state_dict(optimizer.state_dict())
    assert not again.step(3)
    assert torch.equal(resumed(X), model(X))


def test_transformers_model_with_transposed_weights():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=40, n_positions=16, bos_token_id=0, eos_token_id=0)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).eval()
    ids = torch.arange(8)[None]
    report = convert_model(model, include=r"mlp\.c_(fc|proj)$")
    assert len(report.replaced) == 2
    with torch.no_grad():
        sparse = model(ids).logits
        densify_model(model)
        torch.testing.assert_close(model(ids).logits, sparse, rtol=0, atol=1e-5)


def test_timm_model():
    timm = pytest.importorskip("timm")
    settings = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2, "num_classes": 5}
    model = timm.models.vision_transformer.VisionTransformer(**settings).eval()
    report = convert_model(model, include=r"mlp\.fc[12]$")
    assert len(report.replaced) == 2
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 5)


@pytest.mark.bad_input
def test_errors():
    with pytest.raises(ValueError, match="policy must be one of"):
        densify_model(mlp(), policy="forget")
    with pytest.raises(ValueError, match="switch_step"):
        ReverseSparsification(mlp(), None, -1)
    with pytest.raises(TypeError, match="switch_step"):
        ReverseSparsification(mlp(), None, 1.5)
