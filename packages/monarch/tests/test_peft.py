"""The adapter as a method of the installed peft."""

import copy
import pickle
from importlib.util import find_spec

import pytest
import torch

for _library in ("peft", "transformers"):
    if find_spec(_library) is None:
        pytest.skip(f"needs {_library}", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers", "ignore::UserWarning:peft")
IDS = torch.randint(2, 60, (2, 7), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _libraries(vision_libraries):
    """Imported after torchvision has been made importable."""
    global peft, transformers, MonarchConfig, MonarchLayer
    import peft
    import transformers

    from monarch.integrations.peft import MonarchConfig, MonarchLayer


def llama():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=64, bos_token_id=0, eos_token_id=1
    )
    return transformers.LlamaForCausalLM(config).eval()


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def trained(model, steps=4):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-2)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
    return model.eval()


def test_train_save_load_merge_disable(tmp_path):
    base = llama()
    untouched, before = copy.deepcopy(base), logits(base)
    model = peft.get_peft_model(base, MonarchConfig(target_modules=["q_proj", "down_proj"], blk_r=8))
    assert torch.equal(logits(model.eval()), before), "starts as no change"
    assert sum(isinstance(m, MonarchLayer) for m in model.modules()) == 4
    assert all("monarch_" in name for name, p in model.named_parameters() if p.requires_grad)
    trained(model)
    after = logits(model)
    assert (after - before).abs().max() > 1e-2
    with model.disable_adapter():
        assert torch.equal(logits(model), before)

    model.save_pretrained(tmp_path)
    reloaded = peft.PeftModel.from_pretrained(copy.deepcopy(untouched), tmp_path).eval()
    assert torch.equal(logits(reloaded), after)
    assert reloaded.peft_config["default"].blk_r == 8

    model.merge_adapter()
    torch.testing.assert_close(logits(model), after, rtol=0, atol=1e-5)
    model.unmerge_adapter()
    torch.testing.assert_close(logits(model), after, rtol=0, atol=1e-5)
    plain = model.merge_and_unload(safe_merge=True)
    torch.testing.assert_close(logits(plain), after, rtol=0, atol=1e-5)
    assert not any(isinstance(m, MonarchLayer) for m in plain.modules())


def test_several_adapters():
    base = llama()
    before = logits(base)
    model = peft.get_peft_model(base, MonarchConfig(target_modules=["q_proj"]))
    first = logits(trained(model))
    model.add_adapter("second", MonarchConfig(target_modules=["q_proj"], blk_r=8))
    model.set_adapter("second")
    assert torch.equal(logits(model.eval()), before)
    second = logits(trained(model))
    assert (second - first).abs().max() > 1e-3
    model.set_adapter("default")
    assert torch.equal(logits(model.eval()), first)
    model.delete_adapter("second")
    assert torch.equal(logits(model), first)


def test_transformers_add_adapter():
    model = llama()
    before = logits(model)
    model.add_adapter(MonarchConfig(target_modules=["q_proj"]))
    assert torch.equal(logits(model.eval()), before)
    assert any(isinstance(m, MonarchLayer) for m in model.modules())


def test_half_precision_base():
    model = peft.get_peft_model(llama().to(torch.bfloat16), MonarchConfig(target_modules=["q_proj"]))
    assert trained(model, 2)(IDS).logits.dtype == torch.bfloat16


def test_registration_survives_pickle_and_a_second_import():
    import importlib

    import monarch.integrations.peft as bridge

    member = bridge.MONARCH
    importlib.reload(bridge)
    assert pickle.loads(pickle.dumps(member)) is member is peft.PeftType("MONARCH")
    assert [m.value for m in peft.PeftType].count("MONARCH") == 1


@pytest.mark.bad_input
def test_errors():
    with pytest.raises(ValueError, match="blk_r must be an int"):
        MonarchConfig(blk_r=0)
    with pytest.raises(ValueError, match="monarch_dropout"):
        MonarchConfig(monarch_dropout=1.0)
    with pytest.raises(TypeError, match="is a Embedding"):
        peft.get_peft_model(llama(), MonarchConfig(target_modules=["embed_tokens"]))
    with pytest.raises(ValueError, match="nblocks must be at most"):
        peft.get_peft_model(llama(), MonarchConfig(target_modules=["q_proj"], nblocks=64))
