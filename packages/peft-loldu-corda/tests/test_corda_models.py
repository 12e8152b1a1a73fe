"""CorDA as a method of the installed peft: on an untouched base, and in peft's own way."""

import copy
import logging
import types

import peft
import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda as peft_preprocess
from torch import nn

from peft_loldu_corda import (
    CalibrationError,
    CordaLoraConfig,
    CordaModel,
    InputStats,
    LolduConfig,
    apply_corda_init,
    collect_input_stats,
    corda_to_lora,
    decompose,
    load_corda_adapter,
    preprocess_corda,
    save_corda_adapter,
)

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers", "ignore:fan_in_fan_out:UserWarning")
MODELS = ["llama", "bert", "roberta", "vit", "gpt2", "t5"]


def corda(t, model=None, *, config=CordaLoraConfig, mode="ipm", r=4, more=None, **options):
    """A model with a CorDA adapter."""
    model = t.model if model is None else model
    made = config(**({"r": r, "lora_alpha": 2 * r, "target_modules": t.targets} | options))
    made = preprocess_corda(model, made, data=[t.inputs], mode=mode, **(more or {}))
    return peft.get_peft_model(model, made).eval()


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance * max(1.0, float(b.abs().max())))


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("mode", ["ipm", "kpm"])
def test_on_an_untouched_base(kind, mode, tiny, tmp_path):
    t = tiny(kind)
    before = t.logits(t.model)
    model = corda(t, mode=mode)
    assert isinstance(model.base_model, CordaModel)
    assert torch.equal(t.logits(model), before), "bit for bit at the start"
    t.train(model, lr=1e-2)
    after = t.logits(model)
    assert (after - before).abs().max() > 1e-3
    with model.disable_adapter():
        assert torch.equal(t.logits(model), before), "peft's CorDA gives the residual model here"
    for name, weight in model.get_base_model().state_dict().items():
        if ".lora_" not in name:
            assert torch.equal(weight, t.untouched.state_dict()[name.replace(".base_layer", "")]), name

    model.save_pretrained(tmp_path / "own")
    for low in (False, True):
        assert torch.equal(t.logits(peft.PeftModel.from_pretrained(t.fresh(), tmp_path / "own", low_cpu_mem_usage=low)), after)
    plain = t.fresh()
    plain.load_adapter(str(tmp_path / "own"))
    assert torch.equal(t.logits(plain), after)
    for format_ in ("corda", "lora-2r", "lora-r"):
        errors = save_corda_adapter(model, tmp_path / format_, format_)
        again = peft.PeftModel.from_pretrained(t.fresh(), tmp_path / format_)
        if format_ == "lora-r":
            assert max(errors.values()) > 0
        else:
            assert max(errors.values()) == 0
            close(t.logits(again), after)
    model.merge_adapter()
    close(t.logits(model), after)
    model.unmerge_adapter()
    with model.disable_adapter():
        assert torch.equal(t.logits(model), before)
    close(t.logits(model.merge_and_unload()), after)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("mode", ["ipm", "kpm"])
def test_peft_starts_from_our_decomposition_as_from_its_own(kind, mode, tiny):
    """Same factors, same residual as peft 0.21.2, Linear and Conv1D, from batches of one as peft needs them."""
    t = tiny(kind)
    tolerance = 1e-4 if mode == "ipm" else 1e-3  # peft finds the smallest terms in float32, we in float64
    rows = torch.randint(3, 60, (40, 1, 9), generator=torch.Generator().manual_seed(1))  # more tokens than features: C can be inverted
    batches = [{"input_ids": row} for row in rows]
    options = {"r": 4, "lora_alpha": 8, "target_modules": t.targets, "init_lora_weights": "corda", "fan_in_fan_out": kind == "gpt2"}
    theirs_config = LoraConfig(**options, corda_config=CordaConfig(corda_method=mode))
    base = t.fresh()
    peft_preprocess(base, theirs_config, run_model=lambda: [base(**b) for b in batches])
    theirs = peft.get_peft_model(base, theirs_config)
    ours_base = t.fresh()
    ours_config = preprocess_corda(
        ours_base,
        LoraConfig(**options, corda_config=CordaConfig(corda_method=mode)),
        lambda: [ours_base(**b) for b in batches],
        normalize="max",
    )
    ours = peft.get_peft_model(ours_base, ours_config)
    for (name, a), (_, b) in zip(theirs.named_modules(), ours.named_modules(), strict=True):
        if isinstance(a, LoraLayer):
            A, B = a.lora_A["default"].weight, a.lora_B["default"].weight
            A1, B1 = b.lora_A["default"].weight, b.lora_B["default"].weight
            sign = (A * A1).sum(1).sign()
            assert (sign[:, None] * A1 - A).norm() <= tolerance * A.norm(), name
            assert (B1 * sign - B).norm() <= tolerance * B.norm(), name
            assert (a.base_layer.weight - b.base_layer.weight).norm() <= 1e-4 * a.base_layer.weight.norm(), name


def test_the_untouched_base_computes_what_the_residual_does(tiny):
    t = tiny("llama")
    ours, theirs = corda(t), corda(t, t.fresh(), config=LoraConfig)
    close(t.logits(theirs), t.logits(ours))
    assert not torch.equal(
        theirs.base_model.model.model.layers[0].self_attn.q_proj.base_layer.weight, t.untouched.model.layers[0].self_attn.q_proj.weight
    )
    for model in (ours, theirs):
        t.train(model, steps=1, lr=1e-2)
    close(t.logits(theirs), t.logits(ours), 1e-3)


@pytest.mark.parametrize("whitened", [False, True])
def test_without_whitening_it_is_pissa(whitened, tiny):
    t = tiny("llama")
    ours = corda(t, more={"whitening": "cov" if whitened else "none"})
    pissa = peft.get_peft_model(t.fresh(), LoraConfig(r=4, lora_alpha=8, target_modules=t.targets, init_lora_weights="pissa"))
    same = []
    for (_, a), (_, b) in zip(
        [(n, m) for n, m in ours.named_modules() if isinstance(m, LoraLayer)],
        [(n, m) for n, m in pissa.named_modules() if isinstance(m, LoraLayer)],
        strict=True,
    ):
        product = a.start_of("default")[1] @ a.start_of("default")[0]
        reference = b.lora_B["default"].weight @ b.lora_A["default"].weight
        same.append(bool((product - reference).norm() < 1e-4 * reference.norm()))
    assert all(same) if not whitened else not any(same)


@pytest.mark.parametrize("config", [CordaLoraConfig, LoraConfig])
@pytest.mark.parametrize(
    "options", [{"use_dora": True}, {"use_rslora": True}, {"rank_pattern": {"q_proj": 3}, "alpha_pattern": {"down_proj": 5}}]
)
def test_dora_rslora_and_patterns(config, options, tiny, tmp_path):
    t = tiny("llama")
    before = t.logits(t.model)
    model = corda(t, config=config, **options)
    close(t.logits(model), before)
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    if "use_rslora" in options:
        assert layer.scaling["default"] == 8 / 4**0.5
    if "use_dora" in options:
        norm = t.untouched.model.layers[0].self_attn.q_proj.weight.norm(dim=1)
        torch.testing.assert_close(layer.lora_magnitude_vector["default"].weight.detach(), norm)
    after = t.logits(t.train(model, lr=1e-2))
    for format_ in ("lora-2r", "corda"):
        save_corda_adapter(model, tmp_path / format_, format_)
        close(t.logits(peft.PeftModel.from_pretrained(t.fresh(), tmp_path / format_)), after)
    converted = corda_to_lora(model)
    r = 3 if "rank_pattern" in options else 4
    assert converted.state_dict["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"].shape == (2 * r, 32)
    if config is CordaLoraConfig:
        model.save_pretrained(tmp_path / "own")
        assert torch.equal(t.logits(peft.PeftModel.from_pretrained(t.fresh(), tmp_path / "own")), after)
        plain = t.fresh()
        plain.load_adapter(str(tmp_path / "own"))
        assert torch.equal(t.logits(plain), after)
        model.merge_adapter()
        close(t.logits(model), after)
        model.unmerge_adapter()
        with model.disable_adapter():
            assert torch.equal(t.logits(model), before)


def test_a_saved_adapter_of_peft_can_be_loaded_again(tiny, tmp_path):
    """peft's own file cannot: it asks for the decomposition again."""
    t = tiny("llama")
    model = corda(t, config=LoraConfig, mode="kpm")
    after = t.logits(t.train(model, lr=1e-2))
    model.save_pretrained(tmp_path / "peft")
    with pytest.raises(ValueError, match="eigens"):
        peft.PeftModel.from_pretrained(t.fresh(), tmp_path / "peft")
    save_corda_adapter(model, tmp_path / "ours", "lora-2r")
    close(t.logits(peft.PeftModel.from_pretrained(t.fresh(), tmp_path / "ours")), after)
    close(t.logits(load_corda_adapter(t.fresh(), tmp_path / "ours")), after)


@pytest.mark.parametrize("format_", ["lora-2r", "lora-r", "corda"])
def test_files_are_refused_on_another_base(format_, tiny, tmp_path):
    t = tiny("llama")
    model = t.train(corda(t, config=LoraConfig), lr=1e-2)
    save_corda_adapter(model, tmp_path, format_)
    residual = model.unload()
    for other in (t.fresh(seed=1), residual):
        with pytest.raises(RuntimeError, match="not made for this base model"):
            load_corda_adapter(other, tmp_path)
    with pytest.raises(RuntimeError, match="it has no layer"):
        load_corda_adapter(nn.Sequential(nn.Linear(2, 2)), tmp_path)
    if format_ == "corda":
        with pytest.raises(RuntimeError, match="not made for this base model"):
            peft.PeftModel.from_pretrained(t.fresh(seed=1), tmp_path)


def test_two_corda_adapters_on_one_base(llama, tmp_path):
    t = llama
    outputs = {}
    for name, mode in (("a", "ipm"), ("b", "kpm")):
        model = t.train(corda(t, t.fresh(), mode=mode), lr=1e-2)
        outputs[name] = t.logits(model)
        save_corda_adapter(model, tmp_path / name, "corda" if name == "a" else "lora-2r")
        save_corda_adapter(model, tmp_path / f"{name}2", "lora-2r")
    for a, b in (("a2", "b"),):
        model = load_corda_adapter(t.fresh(), tmp_path / a, "a")
        load_corda_adapter(model, tmp_path / b, "b")
        for name in ("b", "a", "b"):
            model.set_adapter(name)
            close(t.logits(model), outputs[name])

    # made one after the other on one model
    before = t.logits(t.model)
    model = t.train(corda(t), lr=1e-2)
    first = t.logits(model)
    second = CordaLoraConfig(r=3, lora_alpha=3, target_modules=["q_proj", "v_proj"])
    with model.disable_adapter():
        preprocess_corda(model, second, data=[t.inputs], mode="kpm")
    model.add_adapter("second", second)
    assert torch.equal(t.logits(model), first)
    model.set_adapter("second")
    assert torch.equal(t.logits(model), before), "the second starts from the base"
    t.train(model, lr=1e-2)
    model.set_adapter("default")
    assert torch.equal(t.logits(model), first)


def test_beside_loldu_in_one_process(llama):
    t = llama
    a = corda(t)
    b = peft.get_peft_model(t.fresh(), LolduConfig(r=4, target_modules=t.targets)).eval()
    assert torch.equal(t.logits(a), t.logits(b))


def test_add_adapter_of_transformers(llama, tmp_path):
    t = llama
    before = t.logits(t.model)
    config = preprocess_corda(t.model, CordaLoraConfig(r=4, lora_alpha=4, target_modules=t.targets), data=[t.inputs])
    t.model.add_adapter(config)
    assert torch.equal(t.logits(t.model.eval()), before)
    after = t.logits(t.train(t.model, lr=1e-2))
    t.model.disable_adapters()
    assert torch.equal(t.logits(t.model), before)
    t.model.enable_adapters()
    t.model.save_pretrained(tmp_path)
    plain = t.fresh()
    plain.load_adapter(str(tmp_path))
    assert torch.equal(t.logits(plain), after)
    other = t.fresh(seed=1)
    other.load_adapter(str(tmp_path))
    with pytest.raises(RuntimeError, match="not made for this base model"):
        t.logits(other)


def test_training_goes_on_from_a_file(llama, tmp_path):
    t = llama
    model = t.train(corda(t, modules_to_save=["lm_head"]), lr=1e-2)
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(t.fresh(), tmp_path, is_trainable=True)
    for m in (model, again):
        t.train(m, lr=1e-2)
    close(t.logits(again), t.logits(model))
    assert {n for n, p in again.named_parameters() if p.requires_grad} == {n for n, p in model.named_parameters() if p.requires_grad}
    save_corda_adapter(model, tmp_path / "lora")
    close(t.logits(peft.PeftModel.from_pretrained(t.fresh(), tmp_path / "lora")), t.logits(model))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_bases(dtype, tiny, tmp_path):
    t = tiny("llama")
    base = t.fresh().to(dtype)
    before = t.logits(base)
    model = corda(t, base)
    assert torch.equal(t.logits(model), before), "an untouched base has nothing to round"
    assert all(p.dtype == torch.float32 for n, p in model.named_parameters() if p.requires_grad)
    after = t.logits(t.train(model, lr=1e-2))
    with model.disable_adapter():
        assert torch.equal(t.logits(model), before)
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(t.fresh().to(dtype), tmp_path)
    torch.testing.assert_close(t.logits(again), after, rtol=0, atol=2e-2 * float(after.abs().max()))
    # the residual of peft's way is rounded to the dtype of the base, which the output shows
    theirs = t.logits(corda(t, t.fresh().to(dtype), config=LoraConfig))
    assert not torch.equal(theirs, before)


def test_sources_of_the_second_moments(llama):
    t = llama
    stats = collect_input_stats(t.model, [t.inputs], target_modules=t.targets)
    starts = []
    for source in ({"data": [t.inputs]}, {"stats": stats}, {"run_model": None}, {"hooked_model": None}):
        base = t.fresh()
        if "run_model" in source:
            source = {"run_model": lambda base=base: base(**t.inputs)}
        if "hooked_model" in source:
            source = {"hooked_model": t.fresh(), "data": [t.inputs]}
        config = CordaLoraConfig(r=4, lora_alpha=4, target_modules=t.targets)
        preprocess_corda(base, config, **source)
        layer = peft.get_peft_model(base, config).base_model.model.model.layers[1].mlp.down_proj
        starts.append(layer.start_of("default"))
    for A, B in starts[1:]:
        torch.testing.assert_close(B @ A, starts[0][1] @ starts[0][0])
    assert config.corda_mode == "ipm"
    assert config.corda_whitening == "cov"


def test_files_of_peft_are_read_and_written(llama, tmp_path):
    """covariance_file and cache_file of CordaConfig, in peft's layout: each program reads the other's."""
    t = llama
    files = {"covariance_file": str(tmp_path / "c" / "cov.pt"), "cache_file": str(tmp_path / "d" / "cache.pt")}
    first = corda(
        t, t.fresh(), config=LoraConfig, init_lora_weights="corda", corda_config=CordaConfig(**files, corda_method="kpm"), mode=None
    )
    saved = torch.load(files["covariance_file"])
    assert saved["model.layers.0.self_attn.q_proj"].shape == (32, 32)

    def load(preprocess, **kept):
        base = t.fresh()
        config = LoraConfig(
            r=4, lora_alpha=8, target_modules=t.targets, init_lora_weights="corda", corda_config=CordaConfig(**kept, corda_method="kpm")
        )
        preprocess(base, config)
        return peft.get_peft_model(base, config)

    for preprocess in (preprocess_corda, peft_preprocess):
        for name, file in files.items():
            again = load(preprocess, **{name: file})
            W, W1 = (m.base_model.model.model.layers[0].mlp.down_proj.base_layer.weight for m in (first, again))
            torch.testing.assert_close(W1, W, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="holds rank 4 for .*, but r is 5"):
        preprocess_corda(t.fresh(), LoraConfig(r=5, target_modules=t.targets, corda_config=CordaConfig(**files), init_lora_weights="corda"))
    with pytest.raises(ValueError, match="holds nothing for"):
        preprocess_corda(
            t.fresh(), LoraConfig(r=4, target_modules=["k_proj"], corda_config=CordaConfig(**files), init_lora_weights="corda")
        )


class Experts(nn.Module):
    """One layer that the data uses, one that it does not."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.used, self.idle = nn.Linear(6, 5), nn.Linear(6, 5)

    def forward(self, x):
        return self.used(x)


@pytest.mark.parametrize("config", [CordaLoraConfig, LoraConfig])
def test_layers_without_tokens(config, tmp_path):
    data = [torch.randn(50, 6)]
    with pytest.raises(CalibrationError, match="no token reached 1 of 2 layers: idle"):
        preprocess_corda(Experts(), config(r=2, target_modules=["used", "idle"]), data=data)
    base = Experts()
    before = base.used(data[0]), base.idle(data[0])
    made = preprocess_corda(base, config(r=2, target_modules=["used", "idle"]), data=data, on_missing="lora")
    model = peft.get_peft_model(base, made)
    torch.testing.assert_close(base.used(data[0]), before[0])
    assert torch.equal(base.idle(data[0]), before[1]), "a plain LoRA start changes nothing"
    base.idle(data[0]).square().sum().backward()
    assert [n for n, p in base.idle.named_parameters() if p.grad is not None and p.grad.abs().max() > 0], "and trains"
    save_corda_adapter(model, tmp_path)
    again = peft.PeftModel.from_pretrained(Experts(), tmp_path).base_model.model
    torch.testing.assert_close(again.used(data[0]), before[0])
    torch.testing.assert_close(again.idle(data[0]), before[1])


def test_dead_layers_are_decomposed_all_the_same():
    base = Experts()
    config = CordaLoraConfig(r=2, lora_alpha=2, target_modules=["used"])
    preprocess_corda(base, config, data=[torch.zeros(5, 6)], normalize="max")
    assert torch.isfinite(peft.get_peft_model(base, config).base_model.model.used.start_of("default")[0]).all()


@pytest.mark.parametrize("split", ["U", "V"])
@pytest.mark.parametrize("config", [CordaLoraConfig, LoraConfig])
def test_splits_reach_both_kinds_of_layers(split, config):
    base, x = Experts(), torch.randn(50, 6)
    W = base.used.weight.detach().clone()
    made = preprocess_corda(base, config(r=2, lora_alpha=6, target_modules=["used"]), data=[x], sigma_split=split)
    layer = peft.get_peft_model(base, made).base_model.model.used
    A, B = decompose(W, x.T @ x / 50, 2).factors(3.0, sigma_split=split)
    if config is LoraConfig:
        A1, B1 = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    else:
        A1, B1 = layer.start_of("default")
    torch.testing.assert_close(A1.abs(), A.abs(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(B1.abs(), B.abs(), rtol=1e-3, atol=1e-4)


def test_ranks_by_energy(llama):
    t = llama
    config = CordaLoraConfig(r=4, lora_alpha=8, target_modules=t.targets)
    preprocess_corda(t.model, config, data=[t.inputs], rank_allocation="energy")
    model = peft.get_peft_model(t.model, config)
    layers = [m for m in model.modules() if isinstance(m, LoraLayer)]
    assert sum(m.r["default"] for m in layers) == 4 * len(layers)
    assert len({m.r["default"] for m in layers}) > 1
    assert all(abs(m.scaling["default"] - 2.0) < 1e-12 for m in layers)
    assert torch.equal(t.logits(model), t.logits(t.fresh()))


def test_calibration_sets(llama):
    t = llama
    narrow = [{"input_ids": torch.full((2, 9), 5)}]
    config = CordaLoraConfig(r=2, lora_alpha=2, target_modules=t.targets)
    preprocess_corda(t.model, config, calibration_sets={"wide": [t.inputs], "narrow": narrow})
    layer = peft.get_peft_model(t.model, config).base_model.model.model.layers[0].self_attn.q_proj
    W = t.untouched.model.layers[0].self_attn.q_proj.weight.detach()
    stats = collect_input_stats(t.fresh(), narrow, target_modules=t.targets)
    A, B = decompose(W, stats["model.layers.0.self_attn.q_proj"], 2).factors()
    torch.testing.assert_close(layer.start_of("default")[1] @ layer.start_of("default")[0], B @ A, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings:UserWarning")
def test_tied_weights(tiny):
    t = tiny("gpt2")
    stats = InputStats()
    with pytest.raises(ValueError, match="weight of lm_head is also that of transformer.wte"):
        preprocess_corda(t.model, LoraConfig(r=2, target_modules=["lm_head"]), stats=stats)
    embeddings = t.model.transformer.wte.weight.detach().clone()
    config = preprocess_corda(t.model, LoraConfig(r=2, target_modules=["lm_head"]), data=[t.inputs], mutate_base=False)
    model = t.train(peft.get_peft_model(t.model, config), lr=1e-2)
    after = t.logits(model)
    model.base_model.model.lm_head.merge()
    close(t.logits(model), after)
    assert torch.equal(t.model.transformer.wte.weight, embeddings)


def test_a_lora_config_becomes_ours_on_request(llama):
    t = llama
    given = LoraConfig(r=3, lora_alpha=6, lora_dropout=0.1, target_modules=["q_proj"], task_type="CAUSAL_LM", use_rslora=True)
    config = preprocess_corda(t.model, given, data=[t.inputs], mutate_base=False)
    assert isinstance(config, CordaLoraConfig)
    assert given.init_lora_weights is True
    assert (config.r, config.lora_alpha, config.lora_dropout, config.task_type, config.use_rslora) == (3, 6, 0.1, "CAUSAL_LM", True)


def test_a_peft_that_does_not_read_decompositions(llama, monkeypatch, caplog):
    from peft_loldu_corda.corda import preprocess

    t = llama
    monkeypatch.setattr(preprocess, "PEFT_READS_EIGENS", False)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=t.targets, init_lora_weights="corda", corda_config=CordaConfig())
    with caplog.at_level(logging.WARNING, logger="peft_loldu_corda"):
        preprocess_corda(t.model, config, data=[t.inputs])
    assert "apply_corda_init" in caplog.text
    assert config.init_lora_weights is True
    model = peft.get_peft_model(t.model, config).eval()
    apply_corda_init(model)
    close(t.logits(model), t.logits(t.untouched))
    monkeypatch.undo()
    reference = corda(t, t.fresh(), config=LoraConfig)
    for a, b in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a.abs(), b.abs(), rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="found none"):
        apply_corda_init(t.fresh())


def test_dropout_leaves_the_start_exact_in_training(llama):
    t = llama
    before = t.logits(t.model)
    model = corda(t, lora_dropout=0.5).train()
    assert torch.equal(t.logits(model), before)


def test_only_the_trained_half_has_gradients(llama):
    model = corda(llama)
    assert {n.rsplit(".", 1)[-1] for n, p in model.named_parameters() if p.requires_grad} == {"trained"}
    copy.deepcopy(model)
    assert model.get_nb_trainable_parameters()[0] == 2 * (4 * (32 + 32) + 4 * (64 + 32))


# What goes wrong in peft 0.21.2, shown to go wrong there and not here.


def test_fault_batches_of_more_than_one(llama):
    t = llama
    config = LoraConfig(r=2, target_modules=t.targets, init_lora_weights="corda", corda_config=CordaConfig())
    base = t.fresh()
    with pytest.raises(RuntimeError, match="t\\(\\) expects"):
        peft_preprocess(base, config, run_model=lambda: base(**t.inputs))
    preprocess_corda(t.model, config, lambda: t.model(**t.inputs))
    close(t.logits(peft.get_peft_model(t.model, config).eval()), t.logits(t.fresh()))


def test_fault_a_target_that_is_never_called():
    config = LoraConfig(r=2, target_modules=["used", "idle"], init_lora_weights="corda", corda_config=CordaConfig())
    base = Experts()
    with pytest.raises(ZeroDivisionError):
        peft_preprocess(base, config, run_model=lambda: base(torch.randn(5, 6)))
    with pytest.raises(CalibrationError, match="idle"):
        preprocess_corda(Experts(), config, data=[torch.randn(5, 6)])


def test_fault_inputs_that_are_all_zero():
    config = LoraConfig(r=2, target_modules=["used"], init_lora_weights="corda", corda_config=CordaConfig())
    base = Experts()
    with pytest.raises(ValueError, match="Invalid value found in input"):
        peft_preprocess(base, config, run_model=lambda: base(torch.zeros(5, 6)))
    preprocess_corda(Experts(), config, data=[torch.zeros(5, 6)])


def test_fault_the_scale_of_single_calls_counts():
    """A call whose largest value is tiny outweighs the others under peft's rule; sums of plain products do not care how calls are cut."""
    x = torch.randn(40, 6)
    x[:20] *= 1e-3
    cut = collect_input_stats(Experts(), [x[:20], x[20:]], target_modules=["used"], normalize="none")
    whole = collect_input_stats(Experts(), [x], target_modules=["used"], normalize="none")
    torch.testing.assert_close(cut["used"], whole["used"])
    scaled = [collect_input_stats(Experts(), d, target_modules=["used"], normalize="max")["used"] for d in ([x[:20], x[20:]], [x])]
    assert (scaled[0] / scaled[0].trace() - scaled[1] / scaled[1].trace()).abs().max() > 0.01


@pytest.mark.bad_input
def test_errors(llama):
    t = llama
    for options, match in (
        ({"init_lora_weights": "pissa"}, "init_lora_weights must be True"),
        ({"lora_bias": True}, "lora_bias is not supported"),
    ):
        with pytest.raises(ValueError, match=match):
            CordaLoraConfig(**options)
    config = CordaLoraConfig(r=2, target_modules=t.targets)
    with pytest.raises(ValueError, match="q_proj has no decomposition: call preprocess_corda"):
        peft.get_peft_model(t.fresh(), config)
    for options, match in (
        ({}, "exactly one of run_model, data, stats and calibration_sets must be given, got none"),
        ({"data": [t.inputs], "stats": InputStats()}, "got data, stats"),
        ({"data": [t.inputs], "mode": "both"}, "mode must be one of"),
        ({"data": [t.inputs], "on_missing": "skip"}, "on_missing must be one of"),
        ({"data": [t.inputs], "rank_allocation": "most"}, "rank_allocation must be one of"),
        ({"data": [t.inputs], "mutate_base": True}, "mutate_base must not be true with a CordaLoraConfig"),
        ({"calibration_sets": {}}, "calibration_sets must hold at least one set"),
    ):
        with pytest.raises(ValueError, match=match):
            preprocess_corda(t.fresh(), config, **options)
    with pytest.raises(CalibrationError, match="has no statistics; collect more"):
        preprocess_corda(t.fresh(), config, stats=InputStats())
    for name, kind in (("embed_tokens", "Embedding"), ("norm", "LlamaRMSNorm")):
        with pytest.raises(TypeError, match=f"is a {kind}"):
            preprocess_corda(t.fresh(), CordaLoraConfig(r=2, target_modules=[name]), data=[t.inputs])
    base = t.fresh()
    preprocess_corda(base, config, data=[t.inputs])
    with pytest.raises(ValueError, match="decomposed for rank 2, but r is 3"):
        peft.get_peft_model(base, CordaLoraConfig(r=3, target_modules=t.targets))
    plain = peft.get_peft_model(t.fresh(), LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="does not know what CorDA subtracted from it"):
        corda_to_lora(plain)
    with pytest.raises(ValueError, match="found none"):
        corda_to_lora(types.SimpleNamespace(named_modules=list))
    model = corda(t, t.fresh())
    with pytest.raises(ValueError, match="format must be one of"):
        save_corda_adapter(model, "nowhere", "lora")
    model.merge_adapter()
    with pytest.raises(ValueError, match="must not be merged while it is saved"):
        corda_to_lora(model)
    with pytest.raises(FileNotFoundError, match="no adapter at nowhere"):
        load_corda_adapter(t.fresh(), "nowhere")
