"""One LoLDU layer: equation, gradients, kinds of layers, options."""

import copy
import logging
import pickle

import peft
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from geocore.testing import check_derivatives
from peft_loldu_corda import InputStats, LolduConfig, LolduLayer, Moment, convert_to_lora, loldu_factors, preprocess_loldu
from peft_loldu_corda._reference import loldu_forward_reference

D = torch.float64
KINDS = ["linear", "wide", "Conv1D", "conv1d", "conv2d", "conv2d dilated", "conv2d padded", "embedding"]


def build(kind, dtype=torch.float32):
    torch.manual_seed(0)
    layer, x = {
        "linear": lambda: (nn.Linear(6, 9), torch.randn(2, 3, 6)),
        "wide": lambda: (nn.Linear(9, 5, bias=False), torch.randn(4, 9)),
        "Conv1D": lambda: (Conv1D(9, 6), torch.randn(2, 3, 6)),
        "conv1d": lambda: (nn.Conv1d(3, 8, 3, stride=2), torch.randn(2, 3, 11)),
        "conv2d": lambda: (nn.Conv2d(3, 8, (3, 2), padding=1, stride=(1, 2)), torch.randn(2, 3, 9, 8)),
        "conv2d dilated": lambda: (nn.Conv2d(3, 8, 3, padding=1, dilation=2), torch.randn(2, 3, 9, 8)),
        "conv2d padded": lambda: (nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect", bias=False), torch.randn(2, 3, 6, 6)),
        "embedding": lambda: (nn.Embedding(11, 6), torch.randint(0, 11, (2, 5))),
    }[kind]()
    return nn.Sequential(layer).to(dtype), x.to(dtype) if x.is_floating_point() else x


def adapt(base, **options):
    model = peft.get_peft_model(base, LolduConfig(**({"r": 3, "lora_alpha": 6, "target_modules": ["0"]} | options)))
    layer = model.base_model.model[0]
    assert isinstance(layer, LolduLayer)
    return model, layer


def move(layer, by=0.3, seed=3):
    with torch.no_grad():
        z = layer.loldu_diag["default"]
        z += by * torch.randn(z.shape, generator=torch.Generator().manual_seed(seed), dtype=z.dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_kinds(kind, dtype, tmp_path):
    base, x = build(kind, dtype)
    untouched, before = copy.deepcopy(base), base(x)
    model, layer = adapt(base)
    assert torch.equal(model(x), before), "bit for bit at the start"
    move(layer)
    after = model(x)
    assert (after - before).abs().max() > 1e-2
    # the change is that of the weight
    changed = copy.deepcopy(untouched)
    changed[0].weight.data += layer.get_delta_weight("default")
    tolerance = {"rtol": 0, "atol": 1e-5 if dtype == torch.float32 else 1e-12}
    torch.testing.assert_close(changed(x), after, **tolerance)
    with model.disable_adapter():
        assert torch.equal(model(x), before)
    model.merge_adapter()
    torch.testing.assert_close(model(x), after, **tolerance)
    model.unmerge_adapter()
    assert torch.equal(base[0].get_base_layer().weight, untouched[0].weight), "bit for bit after unmerge"
    if kind in ("conv2d dilated", "conv2d padded"):
        with pytest.raises(ValueError, match="ignore dilation and padding_mode"):
            convert_to_lora(model)
    else:
        convert_to_lora(model, path=tmp_path)
        lora = peft.PeftModel.from_pretrained(copy.deepcopy(untouched), tmp_path, autocast_adapter_dtype=False)
        torch.testing.assert_close(lora(x), after, rtol=0, atol=1e-5)
    plain = model.merge_and_unload(safe_merge=True)
    torch.testing.assert_close(plain(x), after, **tolerance)
    assert type(plain[0]) is type(untouched[0])


@pytest.mark.parametrize("rslora", [False, True])
def test_equation(rslora):
    base, x = build("linear", D)
    W, b = base[0].weight.detach().clone(), base[0].bias.detach().clone()
    model, layer = adapt(base, use_rslora=rslora)
    s = 6 / 3**0.5 if rslora else 2.0
    assert layer.scaling["default"] == s
    assert torch.equal(layer.loldu_diag["default"], loldu_factors(W, 3).d)
    move(layer)
    expected = loldu_forward_reference(x, W, b, layer.loldu_diag["default"], 3, s)
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("parametrization", ["absolute", "relative"])
def test_gradient_of_the_diagonal(parametrization):
    base, x = build("linear", D)
    W = base[0].weight.detach().clone()
    model, layer = adapt(base, parametrization=parametrization)
    G = torch.randn(2, 3, 9, dtype=D)
    (model(x) * G).sum().backward()
    f = loldu_factors(W, 3)
    # dL/dz_i = s <L_i, G> <U_i, x>, summed over tokens
    closed = 2.0 * ((G @ f.L) * (x @ f.U.T)).sum((0, 1)) * (f.d if parametrization == "relative" else 1)
    torch.testing.assert_close(layer.loldu_diag["default"].grad, closed, rtol=1e-12, atol=1e-12)

    def forward(z, x):
        return torch.func.functional_call(layer, {"loldu_diag.default": z}, (x,))

    check_derivatives(forward, layer.loldu_diag["default"].detach().clone(), x)


@pytest.mark.parametrize("shape", [(6,), (0, 6), (5, 6), (2, 1, 3, 6)])
def test_any_batch_shape(shape):
    model, layer = adapt(build("linear", D)[0])
    move(layer)
    x = torch.randn(*shape, dtype=D)
    assert model(x).shape == (*shape[:-1], 9)
    rows = torch.stack([model(row) for row in x.reshape(-1, 6)]).reshape(*shape[:-1], 9) if x.numel() else model(x)
    torch.testing.assert_close(model(x), rows)


def test_relative_and_absolute_start_alike_and_differ_in_scale():
    models = {p: adapt(build("linear", D)[0], parametrization=p) for p in ("absolute", "relative")}
    x = build("linear", D)[1]
    outputs = []
    for p, (model, layer) in models.items():
        with torch.no_grad():
            d = layer.loldu_d0["default"]
            layer.loldu_diag["default"] += 0.1 * (d if p == "absolute" else 1)
        outputs.append(model(x))
    torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-12)


def test_relative_with_a_null_pivot_stays_finite_and_trains():
    base, x = build("linear", D)
    base[0].weight.data[:, 1] = 0
    before = base(x)
    model, layer = adapt(base, parametrization="relative")
    assert torch.equal(model(x), before)
    model(x).square().sum().backward()
    grad = layer.loldu_diag["default"].grad
    assert torch.isfinite(grad).all()
    assert grad[1] != 0


@pytest.mark.parametrize("kind", ["constant", "normal", "uniform", "std_uniform", "std_normal", "ones", "zeros"])
def test_other_starts_change_the_output_and_say_so(kind, caplog):
    base, x = build("linear", D)
    before = base(x)
    with caplog.at_level(logging.WARNING, logger="peft_loldu_corda"):
        torch.manual_seed(1)
        model, layer = adapt(base, init_diag=kind)
    assert "changes the output" in caplog.text
    assert not torch.allclose(model(x), before)
    z, d = layer.loldu_diag["default"], layer.loldu_d0["default"]
    if kind == "constant":
        torch.testing.assert_close(z.detach(), torch.full_like(d, float(d.mean())))
    if kind == "uniform":
        assert z.abs().max() <= d.mean().abs() / 2
    with model.disable_adapter():
        assert torch.equal(model(x), before)


@pytest.mark.parametrize("order", ["natural", "norm", "qr", "activation"])
def test_column_orders_are_stored(order, tmp_path):
    base, x = build("linear", D)
    untouched = copy.deepcopy(base)
    config = LolduConfig(r=3, lora_alpha=6, target_modules=["0"], column_order=order)
    if order == "activation":
        scale = torch.tensor([1.0, 5, 2, 9, 3, 4], dtype=D)
        preprocess_loldu(base, config, [torch.randn(200, 6, dtype=D) * scale], dtype=D)
    model = peft.get_peft_model(base, config)
    layer = model.base_model.model[0]
    W = untouched[0].weight
    if order == "natural":
        assert "default" not in layer.loldu_columns
        eliminated = [0, 1, 2]
    else:
        eliminated = layer.loldu_columns["default"].tolist()
    if order == "activation":
        assert eliminated == [3, 1, 5]
    if order == "norm":
        assert eliminated == W.norm(dim=0).argsort(descending=True)[:3].tolist()
    f = layer.loldu_L["default"], layer.loldu_d0["default"], layer.loldu_U["default"]
    assert (W - f[0] * f[1] @ f[2])[:, eliminated].abs().max() < 1e-12
    move(layer)
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(untouched, tmp_path)
    torch.testing.assert_close(again(x), model(x), rtol=1e-10, atol=1e-12)


def test_statistics_can_be_given_for_activation_order():
    base, _ = build("linear")
    config = LolduConfig(r=2, target_modules=["0"], column_order="activation")
    preprocess_loldu(base, config, stats=InputStats({"0": Moment(torch.diag(torch.arange(6.0)), torch.ones(6), tokens=1)}))
    assert peft.get_peft_model(base, config).base_model.model[0].loldu_columns["default"].tolist() == [5, 4]


def test_rank_and_alpha_patterns_and_full_rank():
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(6, 9), nn.Linear(9, 4))
    config = LolduConfig(r="full", lora_alpha="r", target_modules=["0", "1"], rank_pattern={"1": 2}, alpha_pattern={"1": 3.0})
    model = peft.get_peft_model(base, config)
    first, second = model.base_model.model
    assert (first.r, first.scaling) == ({"default": 6}, {"default": 1.0})
    assert (second.r, second.scaling) == ({"default": 2}, {"default": 1.5})
    assert model.get_nb_trainable_parameters()[0] == 8


def test_dropout_acts_on_the_input_in_training_only():
    base, x = build("linear")
    model, layer = adapt(base, lora_dropout=0.5)
    move(layer)
    model.train()
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_pickle_deepcopy_state_dict():
    base, x = build("linear")
    model, layer = adapt(base)
    move(layer)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), model(x))
    fresh, _ = adapt(build("linear")[0])
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(fresh(x), model(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_and_half_precision_bases(dtype):
    base, x = build("linear")
    before = base.to(dtype)(x.to(dtype))
    model, layer = adapt(base)
    assert layer.loldu_L["default"].dtype == torch.float32
    y = model(x.to(dtype))
    assert y.dtype == dtype
    assert torch.equal(y, before)
    move(layer)
    assert model(x.to(dtype)).dtype == dtype
    full, layer = adapt(build("linear")[0])
    move(layer)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(full(x).float(), full(x).float())
    torch.testing.assert_close(full(x), full.to(torch.float32)(x))


def test_converting_the_whole_model_to_half_keeps_the_start_exact():
    base, x = build("linear")
    model, _ = adapt(base)
    model = model.to(torch.bfloat16)
    with model.disable_adapter():
        expected = model(x.bfloat16())
    assert torch.equal(model(x.bfloat16()), expected)


@pytest.mark.slow
def test_compiles_without_graph_breaks():
    base, x = build("linear")
    _model, layer = adapt(base)
    move(layer)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))


def test_factors_are_small():
    """No second copy of the weight, no square permutation."""
    _model, layer = adapt(nn.Sequential(nn.Linear(64, 48)))
    extra = sum(t.numel() for t in layer.state_dict().values()) - 48 * 65
    held = sum(b[k].numel() for b in (layer.loldu_L, layer.loldu_U) for k in b)
    assert extra == 3 * 3
    assert held == (64 + 48) * 3


@pytest.mark.bad_input
def test_errors():
    base, _ = build("linear")
    with pytest.raises(ValueError, match=r"r must be at most min\(out, in\) = 6 for 0, got 7"):
        adapt(base, r=7)
    with pytest.raises(ValueError, match="r of 0 must be at least 1"):
        adapt(build("linear")[0], rank_pattern={"0": 0})
    for options, match in (
        ({"r": 0}, "r must be at least 1"),
        ({"init_diag": "svd"}, "init_diag must be one of"),
        ({"column_order": "random"}, "column_order must be one of"),
        ({"parametrization": "log"}, "parametrization must be one of"),
        ({"bias": "some"}, "bias must be one of"),
        ({"lora_dropout": 1.0}, "lora_dropout must lie in"),
        ({"lora_alpha": float("inf")}, "lora_alpha must be a finite number"),
        ({"layers_pattern": "layers"}, "layers_pattern must come with"),
    ):
        with pytest.raises(ValueError, match=match):
            LolduConfig(**options)
    with pytest.raises(TypeError, match="r must be an int or 'full'"):
        LolduConfig(r=2.5)
    for layer, match in (
        (nn.LayerNorm(6), "0 is a LayerNorm"),
        (nn.Conv2d(4, 4, 3, groups=2), "0 has groups=2"),
        (nn.MultiheadAttention(4, 2), "0 is a MultiheadAttention"),
    ):
        with pytest.raises(TypeError, match=match):
            adapt(nn.Sequential(layer))
    with pytest.raises(TypeError, match="out_proj is a NonDynamicallyQuantizableLinear"):
        peft.get_peft_model(nn.Sequential(nn.MultiheadAttention(4, 2)), LolduConfig(r=1, target_modules=["out_proj"]))
    with pytest.raises(ValueError, match="needs preprocess_loldu"):
        adapt(build("linear")[0], column_order="activation")
    with pytest.raises(ValueError, match="exactly one of data and stats"):
        preprocess_loldu(base, LolduConfig(target_modules=["0"]))
    with pytest.raises(ValueError, match="found none"):
        convert_to_lora(build("linear")[0])
    model, layer = adapt(build("linear")[0], bias="all")
    with pytest.raises(ValueError, match="bias='all'"):
        convert_to_lora(model)
    with torch.no_grad():
        layer.loldu_diag["default"][0] = float("inf")
    with pytest.raises(ValueError, match="NaN or infinity"):
        layer.merge(safe_merge=True)
    assert not layer.merged
    with pytest.warns(UserWarning, match="nothing to take out"):
        layer.unmerge()


def test_base_biases_can_be_trained():
    base, x = build("linear")
    model, _layer = adapt(base, bias="loldu_only")
    assert base[0].get_base_layer().bias.requires_grad
    F.mse_loss(model(x), torch.zeros(2, 3, 9)).backward()
    assert base[0].get_base_layer().bias.grad is not None
