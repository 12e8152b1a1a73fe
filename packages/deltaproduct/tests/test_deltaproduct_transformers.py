"""transformers' conventions: generation with batches and beams, caches, saving, adapters; and weights of other code bases."""

import json
import sys
import warnings

import pytest
import torch

pytest.importorskip("transformers")
from transformers import AutoConfig, AutoModelForCausalLM

import deltaproduct
from deltaproduct import (
    DeltaProduct,
    DeltaProductCache,
    DeltaProductConfig,
    DeltaProductForCausalLM,
    DeltaProductModel,
    load_fla_state_dict,
    load_vendored_state_dict,
)

SMALL = {
    "vocab_size": 40,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_heads": 2,
    "head_dim": 12,
    "initializer_range": 0.3,
    "intermediate_size": 32,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
VARIANTS = {
    "plain": {},
    "gated": {"use_forget_gate": True, "use_output_gate": True, "num_v_heads": 4, "num_householder": 3},
    "hybrid": {"attention_layers": [1], "tie_word_embeddings": False},
}


def build(name: str = "plain", **options) -> DeltaProductForCausalLM:
    torch.manual_seed(0)
    return DeltaProductForCausalLM(DeltaProductConfig(**SMALL | VARIANTS[name] | options)).eval()


@pytest.fixture(params=list(VARIANTS))
def model(request) -> DeltaProductForCausalLM:
    return build(request.param)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    ids, mask = torch.randint(1, 40, (2, 9)), torch.ones(2, 9, dtype=torch.int64)
    ids[0, :4], mask[0, :4] = 0, 0
    return ids, mask


def test_left_padding_changes_nothing(model, batch):
    ids, mask = batch
    with torch.no_grad():
        together, alone = model(ids, attention_mask=mask).logits[:1, 4:], model(ids[:1, 4:]).logits
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("beams", [1, 3])
def test_generation_with_a_cache_equals_that_without(model, batch, beams):
    ids, mask = batch
    options = {"attention_mask": mask, "max_new_tokens": 10, "num_beams": beams, "do_sample": False}
    assert torch.equal(model.generate(ids, **options), model.generate(ids, use_cache=False, **options))


def test_generation_of_a_batch_is_that_of_its_items(model, batch):
    ids, mask = batch
    together = model.generate(ids, attention_mask=mask, max_new_tokens=10, do_sample=False)
    alone = model.generate(ids[:1, 4:], max_new_tokens=10, do_sample=False)
    assert torch.equal(together[:1, 4:], alone)


def test_generation_goes_on_from_a_cache(model):
    ids = torch.randint(1, 40, (1, 6))
    whole = model.generate(ids, max_new_tokens=8, do_sample=False)
    first = model.generate(ids, max_new_tokens=4, do_sample=False, return_dict_in_generate=True)
    assert isinstance(first.past_key_values, DeltaProductCache)
    more = model.generate(first.sequences, past_key_values=first.past_key_values, max_new_tokens=4, do_sample=False)
    assert torch.equal(more, whole)


def test_sampling_and_returned_sequences(model):
    out = model.generate(torch.randint(1, 40, (2, 3)), max_new_tokens=4, do_sample=True, num_return_sequences=3)
    assert out.shape == (6, 7)


def test_token_by_token_equals_parallel(model):
    ids = torch.randint(1, 40, (2, 8))
    with torch.no_grad():
        whole, cache, rows = model(ids).logits, None, []
        for t in range(8):
            out = model(ids[:, t : t + 1], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            rows.append(out.logits)
    torch.testing.assert_close(torch.cat(rows, 1), whole, atol=1e-4, rtol=1e-5)


def test_saves_and_loads(model, batch, tmp_path):
    ids, mask = batch
    model.save_pretrained(tmp_path)
    again = DeltaProductForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(again(ids, attention_mask=mask).logits, model(ids, attention_mask=mask).logits)
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path)) is DeltaProductForCausalLM
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.to_dict() == again.config.to_dict()
    assert json.loads((tmp_path / "config.json").read_text())["config_version"] == 1


def test_loss_is_that_of_the_next_token(model):
    ids = torch.randint(1, 40, (2, 7))
    labels = ids.clone()
    labels[0, 3] = -100
    out = model(ids, labels=labels)
    expected = torch.nn.functional.cross_entropy(out.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(out.loss, expected)
    out.loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_gradient_checkpointing_gives_the_same_gradients():
    ids, grads = torch.randint(1, 40, (2, 12)), []
    for checkpointing in (False, True):
        model = build("gated").train()
        if checkpointing:
            model.activation_checkpointing_enable()
        model(ids, labels=ids).loss.backward()
        grads.append([p.grad for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_other_outputs_and_inputs(model):
    ids = torch.randint(1, 40, (1, 7))
    out = model(ids, output_hidden_states=True, logits_to_keep=2)
    assert len(out.hidden_states) == 3
    assert out.logits.shape == (1, 2, 40)
    assert torch.equal(model(ids, logits_to_keep=torch.tensor([5, 6])).logits, out.logits)
    assert isinstance(model(ids, return_dict=False), tuple)
    assert model.train()(ids).past_key_values is None
    embedded = model.eval()(inputs_embeds=model.get_input_embeddings()(ids)).logits
    torch.testing.assert_close(embedded[:, -2:], out.logits)
    packed = torch.cat([ids, ids], 1)
    both = model(packed, cu_seqlens=torch.tensor([0, 7, 14]), use_cache=False).logits
    torch.testing.assert_close(both[:, 12:14], out.logits, atol=1e-4, rtol=1e-5)
    model.resize_token_embeddings(44)
    assert model(ids).logits.shape[-1] == 44


def test_initialisation():
    torch.manual_seed(0)
    model = DeltaProductModel(DeltaProductConfig(**SMALL | {"initializer_range": 0.05, "use_forget_gate": True, "hidden_size": 128}))
    for name, p in model.named_parameters():
        if name.endswith("proj.weight") and p.numel() > 2000:
            assert float(p.detach().std()) == pytest.approx(0.05, rel=0.1), name
    assert float(model.layers[0].attn.A_log.detach().max()) > 0
    assert torch.equal(model.norm.weight, torch.ones(128))


@pytest.mark.slow
def test_adapters_on_the_projections():
    peft = pytest.importorskip("peft")
    model = build()
    ids = torch.randint(1, 40, (2, 6))
    with torch.no_grad():
        before = model(ids).logits
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "k_proj", "v_proj", "b_proj", "o_proj"], task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's own deprecations
        adapted = peft.get_peft_model(model, config)
    torch.testing.assert_close(adapted(ids).logits, before)
    adapted(ids, labels=ids).loss.backward()
    trained = [name for name, p in adapted.named_parameters() if p.grad is not None]
    assert len(trained) == 2 * 5 * 2
    assert all("lora" in name for name in trained)
    assert adapted.generate(input_ids=ids, max_new_tokens=2).shape == (2, 8)


# --- weights of other code bases ---


def other_names(sd: dict[str, torch.Tensor], n: int) -> dict[str, torch.Tensor]:
    """The vendored naming scheme: one projection and convolution per micro-step."""
    out = {}
    for name, weight in sd.items():
        for part in ("k_proj", "v_proj", "b_proj", "k_conv1d", "v_conv1d"):
            if f"{part}.weight" in name:
                out |= {name.replace(part, f"{part}s.{i}"): block.clone() for i, block in enumerate(weight.chunk(n))}
                break
        else:
            out[name] = weight.clone()
    return out


@pytest.mark.parametrize("name", ["plain", "gated"])
def test_imports_both_naming_schemes(name):
    source = build(name)
    ids = torch.randint(1, 40, (1, 9))
    n = source.config.num_householder
    sd = {key: value.clone() for key, value in source.state_dict().items()}
    vendored = other_names(sd, n)
    assert "model.layers.0.attn.k_projs.1.weight" in vendored
    gate, up = vendored.pop("model.layers.1.mlp.gate_proj.weight"), vendored.pop("model.layers.1.mlp.up_proj.weight")
    vendored["model.layers.1.mlp.gate_proj.weight"] = torch.cat([gate, up])  # as in its time
    tied = {key: value for key, value in sd.items() if key != "lm_head.weight"}
    for load, weights in ((load_fla_state_dict, sd), (load_fla_state_dict, tied), (load_vendored_state_dict, vendored)):
        target = build(name)
        with torch.no_grad():
            for p in target.parameters():
                p.normal_()
        assert load(target, weights) is target
        torch.testing.assert_close(target(ids).logits, source(ids).logits)
    body = load_fla_state_dict(DeltaProductModel(source.config), sd).eval()
    torch.testing.assert_close(body(ids).last_hidden_state, source.model(ids).last_hidden_state)


def test_separate_projections_are_row_blocks_of_the_fused_one():
    n, H, K = 3, 2, 4
    layer = DeltaProduct(6, num_heads=H, head_dim=K, num_householder=n, use_short_conv=False).double()
    parts = [torch.randn(H * K, 6, dtype=torch.float64) for _ in range(n)]
    sd = layer.state_dict()
    vendored = {name: w for name, w in sd.items() if "k_proj" not in name} | {f"k_projs.{i}.weight": w for i, w in enumerate(parts)}
    load_vendored_state_dict(layer, other_names(vendored, n))
    x = torch.randn(1, 5, 6, dtype=torch.float64)
    interleaved = torch.stack([x @ w.T for w in parts], 2).reshape(1, 5 * n, H, K)  # token first, micro-step second
    torch.testing.assert_close(layer.k_proj(x).reshape(1, 5 * n, H, K), interleaved)


@pytest.mark.bad_input
def test_import_errors():
    layer = DeltaProduct(6, num_heads=2, head_dim=3)
    sd = dict(layer.state_dict())
    with pytest.raises(ValueError, match=r"missing \['q_proj.weight'\]"):
        load_fla_state_dict(layer, {name: w for name, w in sd.items() if name != "q_proj.weight"})
    with pytest.raises(ValueError, match=r"unknown \['g_proj.weight'\]"):
        load_fla_state_dict(layer, sd | {"g_proj.weight": torch.zeros(6, 6)})
    with pytest.raises(ValueError, match=r"of another shape \['o_proj.weight: \(2, 2\) for \(6, 6\)'\]"):
        load_fla_state_dict(layer, sd | {"o_proj.weight": torch.zeros(2, 2)})
    vendored = other_names(sd, 2)
    del vendored["k_projs.0.weight"]
    with pytest.raises(ValueError, match="micro-steps 0 to 1"):
        load_vendored_state_dict(layer, vendored)


# --- configuration ---


def test_names_of_other_code_bases_are_translated_with_a_warning():
    with pytest.warns(UserWarning, match="use_gate is called use_output_gate"):
        config = DeltaProductConfig(**SMALL, use_gate=False, fuse_norm=True)
    assert config.use_output_gate is False
    with pytest.warns(UserWarning, match="attn_mode is called mode"):
        assert DeltaProductConfig(**SMALL, attn_mode="chunk").mode == "auto"
    with pytest.warns(UserWarning, match="attention_layers"):
        assert DeltaProductConfig(**SMALL, attn={"layers": [1], "num_heads": 2}).attention_layers == [1]


@pytest.mark.bad_input
def test_configuration_errors():
    with pytest.raises(ValueError, match=r"unknown keys \['use_gates'\]"):
        DeltaProductConfig(**SMALL, use_gates=False)
    with pytest.raises(ValueError, match="config_version must be at most 1"):
        DeltaProductConfig(**SMALL, config_version=2)
    with pytest.raises(ValueError, match="attention_layers must be indices"):
        DeltaProductConfig(**SMALL, attention_layers=[2])
    model = build()
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        model()
    with pytest.raises(TypeError, match="must be a DeltaProductCache"):
        model(torch.ones(1, 2, dtype=torch.int64), past_key_values=object())


@pytest.mark.bad_input
def test_missing_transformers_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match="deltaproduct\\[transformers\\]"):
        deltaproduct.__getattr__("DeltaProductConfig")
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        deltaproduct.__getattr__("Nothing")
