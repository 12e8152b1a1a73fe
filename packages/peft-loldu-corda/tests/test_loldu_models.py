"""LoLDU as a method of the installed peft, on models of transformers."""

import copy
import json
import pickle

import peft
import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors.torch import load_file

from peft_loldu_corda import LolduConfig, LolduLayer, LolduModel, convert_to_lora, register

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")
MODELS = ["llama", "bert", "roberta", "vit", "gpt2", "t5"]


def adapted(t, **options):
    return peft.get_peft_model(t.model, LolduConfig(**({"r": 4, "lora_alpha": 4, "target_modules": t.targets} | options))).eval()


@pytest.mark.parametrize("kind", MODELS)
def test_train_save_load_merge_disable_convert(kind, tiny, tmp_path):
    t = tiny(kind)
    before = t.logits(t.model)
    model = adapted(t)
    assert isinstance(model.base_model, LolduModel)
    assert torch.equal(t.logits(model), before), "bit for bit at the start"
    layers = [m for m in model.modules() if isinstance(m, LolduLayer)]
    assert model.get_nb_trainable_parameters()[0] == 4 * len(layers) > 0
    t.train(model)
    after = t.logits(model)
    assert (after - before).abs().max() > 1e-3
    with model.disable_adapter():
        assert torch.equal(t.logits(model), before), "bit for bit after training"

    model.save_pretrained(tmp_path / "loldu")
    file = tmp_path / "loldu" / "adapter_model.safetensors"
    assert sum(v.numel() * v.element_size() for v in load_file(file).values()) == 12 * 4 * len(layers)
    assert file.stat().st_size <= 12 * 4 * len(layers) + 65536
    for low in (False, True):
        again = peft.PeftModel.from_pretrained(t.fresh(), tmp_path / "loldu", low_cpu_mem_usage=low)
        torch.testing.assert_close(t.logits(again), after, rtol=0, atol=1e-5)
    plain = t.fresh()
    plain.load_adapter(str(tmp_path / "loldu"))
    torch.testing.assert_close(t.logits(plain), after, rtol=0, atol=1e-5)

    model.merge_adapter()
    torch.testing.assert_close(t.logits(model), after, rtol=0, atol=1e-5)
    model.unmerge_adapter()
    for name, weight in model.get_base_model().state_dict().items():
        if ".loldu_" not in name:
            assert torch.equal(weight, t.untouched.state_dict()[name.replace(".base_layer", "")]), name

    convert_to_lora(model, path=tmp_path / "lora")
    lora = peft.PeftModel.from_pretrained(t.fresh(), tmp_path / "lora")
    torch.testing.assert_close(t.logits(lora), after, rtol=0, atol=1e-5)
    merged = model.merge_and_unload()
    torch.testing.assert_close(t.logits(merged), after, rtol=0, atol=1e-5)
    assert not any(isinstance(m, LolduLayer) for m in merged.modules())


def test_the_file_is_refused_on_another_base(tiny, tmp_path):
    t = tiny("llama")
    t.train(adapted(t)).save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match=r"not made for this base model: the pivots of model\.layers\.0"):
        peft.PeftModel.from_pretrained(t.fresh(seed=1), tmp_path)
    changed = t.fresh()
    with torch.no_grad():
        changed.model.layers[1].mlp.down_proj.weight.mul_(1.01)
    with pytest.raises(RuntimeError, match=r"model\.layers\.1\.mlp\.down_proj"):
        peft.PeftModel.from_pretrained(changed, tmp_path, low_cpu_mem_usage=True)
    # transformers sets the buffers one by one; the first forward notices
    other = t.fresh(seed=1)
    other.load_adapter(str(tmp_path))
    with pytest.raises(RuntimeError, match="not made for this base model"):
        t.logits(other)


def test_an_adapter_with_fewer_layers_is_refused(tiny, tmp_path):
    t = tiny("llama")
    adapted(t).save_pretrained(tmp_path)
    state = load_file(tmp_path / "adapter_model.safetensors")
    model = peft.get_peft_model(t.fresh(), LolduConfig(r=4, target_modules=["q_proj", "down_proj", "k_proj"]))
    with pytest.raises(RuntimeError, match="does not fit this base model: 6 of its tensors are missing"):
        peft.set_peft_model_state_dict(model, state)


def test_saved_factors_need_no_factorisation(tiny, tmp_path, monkeypatch):
    t = tiny("llama")
    model = t.train(adapted(t, save_projection=True))
    after = t.logits(model)
    model.save_pretrained(tmp_path)
    assert any(key.endswith("loldu_L") for key in load_file(tmp_path / "adapter_model.safetensors"))
    for low in (False, True):
        again = peft.PeftModel.from_pretrained(t.fresh(), tmp_path, low_cpu_mem_usage=low)
        assert torch.equal(t.logits(again), after)
    with pytest.raises(RuntimeError, match="not made for this base model"):
        peft.PeftModel.from_pretrained(t.fresh(seed=1), tmp_path)


def test_half_precision_bases(tiny, tmp_path):
    t = tiny("llama")
    model = t.train(adapted(t))
    after = t.logits(model)
    model.save_pretrained(tmp_path)
    half = peft.PeftModel.from_pretrained(t.fresh().bfloat16(), tmp_path)
    assert t.logits(half).dtype == torch.bfloat16
    torch.testing.assert_close(t.logits(half).float(), after, rtol=0, atol=2e-2 * float(after.abs().max()))

    base = t.fresh().bfloat16()
    before = t.logits(base)
    model = peft.get_peft_model(base, LolduConfig(r=4, lora_alpha=4, target_modules=t.targets)).eval()
    assert model.peft_config["default"].base_dtype == "bfloat16"
    assert torch.equal(t.logits(model), before)
    assert all(p.dtype == torch.float32 for n, p in model.named_parameters() if "loldu_" in n)
    after = t.logits(t.train(model))
    with model.disable_adapter():
        assert torch.equal(t.logits(model), before)
    model.save_pretrained(tmp_path / "half")
    for low in (False, True):
        again = peft.PeftModel.from_pretrained(t.fresh().bfloat16(), tmp_path / "half", low_cpu_mem_usage=low)
        assert torch.equal(t.logits(again), after)
    model.merge_adapter()
    torch.testing.assert_close(t.logits(model).float(), after.float(), rtol=0, atol=2e-2 * float(after.abs().max()))
    model.unmerge_adapter()
    with model.disable_adapter():
        assert torch.equal(t.logits(model), before)


def test_several_adapters(llama):
    t = llama
    before = t.logits(t.model)
    model = t.train(adapted(t))
    first = t.logits(model)
    model.add_adapter("second", LolduConfig(r=7, lora_alpha=7, target_modules=["q_proj", "k_proj"], column_order="norm"))
    assert torch.equal(t.logits(model), first), "the second is there, the first is active"
    model.set_adapter("second")
    assert torch.equal(t.logits(model), before), "and starts from the base, not from the first"
    second = t.logits(t.train(model))
    model.set_adapter("default")
    assert torch.equal(t.logits(model), first)
    model.base_model.set_adapter(["default", "second"])
    both = t.logits(model)
    model.merge_adapter()
    torch.testing.assert_close(t.logits(model), both, rtol=0, atol=1e-5)
    model.unmerge_adapter()
    with model.disable_adapter():
        assert torch.equal(t.logits(model), before)
    model.set_adapter("second")
    model.delete_adapter("default")
    assert torch.equal(t.logits(model), second)


def test_saved_adapters_together(llama, tmp_path):
    t = llama
    outputs = {}
    for i, name in enumerate(("a", "b")):
        model = peft.get_peft_model(t.fresh(), LolduConfig(r=3 + i, lora_alpha=4, target_modules=t.targets))
        outputs[name] = t.logits(t.train(model, lr=0.02 * (i + 1)))
        model.save_pretrained(tmp_path / name)
    model = peft.PeftModel.from_pretrained(t.fresh(), tmp_path / "a", adapter_name="a")
    model.load_adapter(tmp_path / "b", "b")
    for name in ("b", "a", "b"):
        model.set_adapter(name)
        torch.testing.assert_close(t.logits(model), outputs[name], rtol=0, atol=1e-5)


def test_beside_a_lora_adapter_of_another_model_copy(llama, tmp_path):
    """LoRA merged first, LoLDU on top: the file names the base it belongs to."""
    t = llama
    lora = peft.get_peft_model(t.fresh(), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    base = t.train(lora).merge_and_unload()
    model = peft.get_peft_model(base, LolduConfig(r=4, target_modules=["q_proj"]))
    model.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="not made for this base model"):
        peft.PeftModel.from_pretrained(t.fresh(), tmp_path)


def test_add_adapter_of_transformers(llama, tmp_path):
    t = llama
    before = t.logits(t.model)
    t.model.add_adapter(LolduConfig(r=4, lora_alpha=4, target_modules=t.targets))
    assert torch.equal(t.logits(t.model.eval()), before)
    for n, p in t.model.named_parameters():
        p.requires_grad_("loldu_diag" in n)
    after = t.logits(t.train(t.model))
    t.model.disable_adapters()
    assert torch.equal(t.logits(t.model), before)
    t.model.enable_adapters()
    t.model.save_pretrained(tmp_path)
    plain = t.fresh()
    plain.load_adapter(str(tmp_path))
    torch.testing.assert_close(t.logits(plain), after, rtol=0, atol=1e-5)


def test_training_resumes_and_modules_to_save(tiny, tmp_path):
    t = tiny("bert")
    model = t.train(adapted(t, modules_to_save=["classifier"], task_type="SEQ_CLS"))
    after = t.logits(model)
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(t.fresh(), tmp_path, is_trainable=True)
    torch.testing.assert_close(t.logits(again.eval()), after, rtol=0, atol=1e-5)
    assert {n for n, p in again.named_parameters() if p.requires_grad} == {n for n, p in model.named_parameters() if p.requires_grad}
    assert (t.logits(t.train(again)) - after).abs().max() > 1e-3
    convert_to_lora(model, path=tmp_path / "lora")
    lora = peft.PeftModel.from_pretrained(t.fresh(), tmp_path / "lora")
    torch.testing.assert_close(t.logits(lora), after, rtol=0, atol=1e-5)


def test_gradient_checkpointing(llama):
    t = llama
    plain = adapted(t)
    checked = copy.deepcopy(plain)
    checked.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    grads = []
    for model in (plain, checked):
        model.train()
        model(**t.inputs).logits.square().sum().backward()
        grads.append([p.grad for p in model.parameters() if p.requires_grad])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings:UserWarning")  # what peft fears does not happen
def test_tied_weights_are_not_changed_by_merging(tiny):
    t = tiny("gpt2")
    assert t.model.lm_head.weight is t.model.transformer.wte.weight
    embeddings = t.model.transformer.wte.weight.detach().clone()
    model = peft.get_peft_model(t.model, LolduConfig(r=4, target_modules=["lm_head"]))
    t.train(model)
    after = t.logits(model)
    model.base_model.model.lm_head.merge()
    torch.testing.assert_close(t.logits(model), after, rtol=0, atol=1e-5)
    assert torch.equal(t.model.transformer.wte.weight, embeddings)
    model.base_model.model.lm_head.unmerge()
    assert t.model.lm_head.get_base_layer().weight is t.model.transformer.wte.weight


def test_conversion_by_peft_itself(llama):
    t = llama
    model = t.train(adapted(t))
    config, state = peft.convert_to_lora(model, rank=4)
    other = peft.get_peft_model(t.fresh(), config)
    peft.set_peft_model_state_dict(other, state)
    torch.testing.assert_close(t.logits(other.eval()), t.logits(model), rtol=0, atol=1e-5)


def test_the_registered_name():
    member = peft.PeftType("LOLDU")
    register()
    register()
    assert [m.value for m in peft.PeftType].count("LOLDU") == 1
    assert pickle.loads(pickle.dumps(member)) is copy.deepcopy(member) is peft.PeftType["LOLDU"] is member
    assert json.dumps(member) == '"LOLDU"'


def test_an_upstream_method_of_that_name_would_be_kept(monkeypatch):
    monkeypatch.setitem(PEFT_TYPE_TO_CONFIG_MAPPING, peft.PeftType("LOLDU"), int)
    register()
    assert PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType("LOLDU")] is int


def test_the_model_card_tells_what_loading_needs(llama, tmp_path, monkeypatch):
    adapted(llama).save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "import peft_loldu_corda" in card
    assert "KeyError: 'LOLDU'" in card
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert saved["restored"]
    assert saved["peft_type"] == "LOLDU"
    assert saved["base_dtype"] == "float32"
    monkeypatch.delitem(PEFT_TYPE_TO_CONFIG_MAPPING, peft.PeftType("LOLDU"))  # as without this package
    with pytest.raises(KeyError, match="LOLDU"):
        peft.PeftConfig.from_pretrained(tmp_path)


@pytest.mark.bad_input
def test_errors(llama):
    with pytest.raises(ValueError, match=r"r must be at most min\(out, in\) = 32 for model\.layers\.0"):
        adapted(llama, r=40)
    model = adapted(llama)
    with pytest.raises(NotImplementedError, match="not a bare parameter"):
        model.base_model._create_and_replace(model.peft_config["default"], "x", llama.model, "q", llama.model, "q", parameter_name="weight")
