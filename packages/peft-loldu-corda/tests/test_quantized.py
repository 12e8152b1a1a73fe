"""Quantised bases: a small stand-in backend, and torchao where it is installed."""

import copy
from importlib.util import find_spec

import peft
import pytest
import torch
from peft.utils import quantization_utils
from peft.utils.quantization_utils import ForwardOnlyQuantizationBackend, QuantizationBackend
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

import peft_loldu_corda._base as base_module
from peft_loldu_corda import CordaLoraConfig, LolduConfig, convert_to_lora, load_corda_adapter, preprocess_corda, save_corda_adapter

X = torch.randn(5, 16, generator=torch.Generator().manual_seed(5))


class IntLinear(nn.Linear):
    """Weights of 8 bits with a scale per row."""

    def __init__(self, linear):
        super().__init__(*linear.weight.shape[::-1])
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.weight = nn.Parameter((linear.weight.detach() / scale).round().to(torch.int8), requires_grad=False)
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def dequantized(self):
        return self.weight * self.scale

    def forward(self, x):
        return F.linear(x, self.dequantized(), self.bias)


class IntBackend(QuantizationBackend):
    supports_merge = True
    layer_type = "linear"
    backend_name = "int8 stand-in"

    def get_base_weight(self, base_layer):
        return base_layer.dequantized()

    def set_base_weight(self, peft_layer, weight_data):
        layer = peft_layer.get_base_layer()
        layer.scale = weight_data.abs().amax(1, keepdim=True) / 127
        layer.weight = nn.Parameter((weight_data / layer.scale).round().to(torch.int8), requires_grad=False)


@pytest.fixture
def backend(monkeypatch):
    """peft knows the backends of installed libraries only; this adds one to what it looks up."""
    real = quantization_utils.resolve_quantization_backend

    def resolve(layer, **kwargs):
        return IntBackend() if isinstance(layer, IntLinear) else real(layer, **kwargs)

    monkeypatch.setattr(base_module, "resolve_quantization_backend", resolve)


def plain(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 6))


def quantized(seed=0):
    model = plain(seed)
    model[0] = IntLinear(model[0])
    return model


def train(model):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-2)
    for _ in range(5):
        optimizer.zero_grad()
        model(X).square().mean().backward()
        optimizer.step()
    return model


def test_loldu_stores_its_factors_for_quantized_layers(backend, tmp_path):
    base = quantized()
    before, weight = base(X), base[0].weight.clone()
    model = peft.get_peft_model(base, LolduConfig(r=4, lora_alpha=4, target_modules=["0", "2"]))
    assert torch.equal(model(X), before)
    assert model.peft_config["default"].base_quantization == "int8 stand-in"
    after = train(model)(X).detach()
    assert (after - before).abs().max() > 1e-2
    with model.disable_adapter():
        assert torch.equal(model(X), before)
    assert torch.equal(base[0].get_base_layer().weight, weight)
    model.save_pretrained(tmp_path)
    keys = load_file(tmp_path / "adapter_model.safetensors")
    assert "base_model.model.0.loldu_L" in keys
    assert "base_model.model.2.loldu_L" not in keys
    for low in (False, True):
        again = peft.PeftModel.from_pretrained(quantized(), tmp_path, low_cpu_mem_usage=low)
        torch.testing.assert_close(again(X), after)
        assert torch.equal(again.base_model.model[0].loldu_L["default"], model.base_model.model[0].loldu_L["default"])
    # the unquantised model differs by rounding; the stored factors are used, not those of its own weight
    change = after - before
    on_plain = peft.PeftModel.from_pretrained(plain(), tmp_path)
    with on_plain.disable_adapter():
        reference = on_plain(X)
    torch.testing.assert_close((on_plain(X) - reference).detach(), change.detach(), rtol=0, atol=0.1 * float(change.detach().abs().max()))
    with pytest.raises(RuntimeError, match="not made for this base model"):
        peft.PeftModel.from_pretrained(quantized(seed=1), tmp_path)


def test_loldu_without_stored_factors_is_refused_on_other_weights(backend, tmp_path):
    model = train(peft.get_peft_model(quantized(), LolduConfig(r=4, target_modules=["0"], save_projection=False)))
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(peft.PeftModel.from_pretrained(quantized(), tmp_path)(X), model(X))
    with pytest.raises(RuntimeError, match="it was trained on int8 stand-in weights"):
        peft.PeftModel.from_pretrained(plain(), tmp_path)


def test_loldu_merges_into_quantized_weights_and_out(backend):
    base = quantized()
    base(X)
    model = train(peft.get_peft_model(base, LolduConfig(r=4, lora_alpha=4, target_modules=["0"])))
    after = model(X)
    model.merge_adapter()
    torch.testing.assert_close(model(X), after, rtol=0, atol=0.05)
    assert base[0].get_base_layer().weight.dtype == torch.int8
    convert_to_lora(model)


def test_corda_leaves_quantized_weights_alone(backend, tmp_path, caplog):
    base = quantized()
    before, weight = base(X), base[0].weight.clone()
    config = preprocess_corda(base, peft.LoraConfig(r=3, lora_alpha=3, target_modules=["0"]), data=[X])
    assert isinstance(config, CordaLoraConfig)
    assert "the base is quantised" in caplog.text
    model = peft.get_peft_model(base, config)
    assert torch.equal(model(X), before)
    after = train(model)(X).detach()
    with model.disable_adapter():
        assert torch.equal(model(X), before)
    assert torch.equal(base[0].get_base_layer().weight, weight)
    model.save_pretrained(tmp_path / "own")
    assert torch.equal(peft.PeftModel.from_pretrained(quantized(), tmp_path / "own")(X), after)
    with pytest.raises(RuntimeError, match="not made for this base model"):
        peft.PeftModel.from_pretrained(quantized(seed=1), tmp_path / "own")
    save_corda_adapter(model, tmp_path / "lora", "corda")
    torch.testing.assert_close(load_corda_adapter(quantized(), tmp_path / "lora")(X), after)
    model.merge_adapter()
    torch.testing.assert_close(model(X), after, rtol=0, atol=0.05)
    model.unmerge_adapter()
    with model.disable_adapter():
        assert torch.equal(base[0].get_base_layer().weight, weight)


@pytest.mark.bad_input
def test_what_cannot_be_done_is_refused_by_name(backend, monkeypatch):
    with pytest.raises(ValueError, match="mutate_base must not be true for quantised weights"):
        preprocess_corda(quantized(), peft.LoraConfig(r=3, target_modules=["0"]), data=[X], mutate_base=True)
    base = quantized()
    config = CordaLoraConfig(r=3, target_modules=["0"], use_dora=False)
    model = peft.get_peft_model(base, preprocess_corda(base, config, data=[X]))
    monkeypatch.setattr(IntBackend, "supports_merge", False)
    monkeypatch.setattr(IntBackend, "set_base_weight", base_module.DequantizeOnly.set_base_weight)
    with pytest.raises(TypeError, match="cannot merge into a int8 stand-in weight"):
        model.merge_adapter()
    loldu = peft.get_peft_model(quantized(), LolduConfig(r=3, target_modules=["0"]))
    with pytest.raises(TypeError, match="cannot merge into a int8 stand-in weight"):
        loldu.merge_adapter()
    monkeypatch.setattr(base_module, "resolve_quantization_backend", lambda layer, **kwargs: ForwardOnlyQuantizationBackend("gptq"))
    with pytest.raises(TypeError, match="0 is a IntLinear"):
        peft.get_peft_model(quantized(), LolduConfig(r=3, target_modules=["0"]))
    monkeypatch.setattr(base_module, "resolve_quantization_backend", lambda layer, **kwargs: None)
    with pytest.raises(TypeError, match="quantised ones if they can be dequantised.* but 0 is a IntLinear with torch.int8 weights"):
        peft.get_peft_model(quantized(), LolduConfig(r=3, target_modules=["0"]))


@pytest.mark.skipif(find_spec("torchao") is None, reason="needs torchao")
@pytest.mark.filterwarnings("ignore")  # torchao's own
class TestTorchao:
    """int8 weight-only, on a model of transformers and on bare layers."""

    def quantize(self, model):
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        quantize_(model, Int8WeightOnlyConfig(), filter_fn=lambda m, name: isinstance(m, nn.Linear) and "lm_head" not in name)
        return model

    def test_loldu(self, tiny, tmp_path):
        t = tiny("llama")
        base = self.quantize(t.fresh())
        before = t.logits(base)
        model = peft.get_peft_model(base, LolduConfig(r=4, lora_alpha=4, target_modules=t.targets)).eval()
        assert torch.equal(t.logits(model), before)
        after = t.logits(t.train(model))
        with model.disable_adapter():
            assert torch.equal(t.logits(model), before)
        model.save_pretrained(tmp_path)
        again = peft.PeftModel.from_pretrained(self.quantize(t.fresh()), tmp_path)
        assert torch.equal(t.logits(again), after)
        with pytest.raises(TypeError, match="cannot merge into a torchao weight"):
            model.merge_adapter()
        convert_to_lora(model, path=tmp_path / "lora")

    def test_corda(self, tiny, tmp_path):
        t = tiny("llama")
        base = self.quantize(t.fresh())
        before = t.logits(base)
        config = preprocess_corda(base, peft.LoraConfig(r=4, lora_alpha=8, target_modules=t.targets), data=[t.inputs], mode="kpm")
        model = peft.get_peft_model(base, config).eval()
        assert torch.equal(t.logits(model), before)
        after = t.logits(t.train(model, lr=1e-2))
        with model.disable_adapter():
            assert torch.equal(t.logits(model), before)
        model.save_pretrained(tmp_path)
        again = peft.PeftModel.from_pretrained(self.quantize(t.fresh()), tmp_path)
        assert torch.equal(t.logits(again), after)
        assert copy.deepcopy(config).base_quantization == "torchao"
