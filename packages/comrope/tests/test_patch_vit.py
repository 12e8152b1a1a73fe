"""Patching the models of timm and transformers."""

import copy
import pickle
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import comrope
from comrope import ComRoPE, RotaryTable, patch_vit
from comrope.integrations import fold_vit


def attentive(model: nn.Module) -> nn.Module:
    """Weights large enough that attention is far from uniform, as after training; fresh ones would hide what rotation does."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("qkv.weight", "q_proj.weight", "k_proj.weight", "query.weight", "key.weight")):
                parameter.mul_(20.0)
    return model.eval()


def timm_vit(**options: Any) -> nn.Module:
    timm = pytest.importorskip("timm")
    settings: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}
    return attentive(timm.models.vision_transformer.VisionTransformer(**settings | options))


def hf_config(**options: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    settings: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 32,
        "patch_size": 8,
        "num_labels": 5,
    }
    return transformers.ViTConfig(**settings | options)


def hf_vit(**options: Any) -> nn.Module:
    from transformers import ViTForImageClassification

    return attentive(ViTForImageClassification(hf_config(**options)))


def out(model: nn.Module, images: Tensor) -> Tensor:
    y = model(images)
    return y if isinstance(y, Tensor) else y.logits


@pytest.fixture(params=["timm", "timm eager", "timm registers", "transformers sdpa", "transformers eager"])
def make(request: pytest.FixtureRequest, vision_libraries: None) -> Callable[[], nn.Module]:
    library, _, kind = request.param.partition(" ")
    if library == "transformers":
        return lambda: hf_vit(attn_implementation=kind)

    def build() -> nn.Module:
        model = timm_vit(**({"reg_tokens": 2, "class_token": True, "qk_norm": True} if kind == "registers" else {}))
        for module in model.modules():
            if kind == "eager" and hasattr(module, "fused_attn"):
                module.fused_attn = False  # type: ignore[assignment]
        return model

    return build


def image(height: int = 32, width: int = 32) -> Tensor:
    return torch.randn(2, 3, height, width)


def test_zero_init_with_kept_table_changes_nothing(make: Callable[[], nn.Module]) -> None:
    model, x = make(), image()
    with torch.no_grad():
        before = out(model, x)
        ropes = patch_vit(model, init="zero", ape="keep")
        assert len(ropes) == 2
        assert all(isinstance(r, ComRoPE) and (r.head_dim, r.num_heads, r.num_axes) == (16, 2, 2) for r in ropes)
        torch.testing.assert_close(out(model, x), before, rtol=0, atol=1e-6)
        model.train()
        torch.testing.assert_close(out(model, x), before, rtol=0, atol=1e-6)


@pytest.mark.parametrize("variant", ["ap", "ld", "full"])
@pytest.mark.parametrize("ape", ["remove", "keep", "zero"])
def test_any_size_and_training(make: Callable[[], nn.Module], variant: str, ape: str) -> None:
    model = make()
    ropes = patch_vit(model, variant=variant, ape=ape)
    outputs = [out(model, image(*size)) for size in ((32, 32), (32, 48), (64, 16), (8, 8))]
    assert all(y.shape == (2, 5) and torch.isfinite(y).all() for y in outputs)
    model.train()
    out(model, image(48, 32)).square().sum().backward()
    for rope in ropes:
        assert rope.P.grad is not None
        assert rope.P.grad.abs().max() > 0


def test_rotation_makes_token_order_matter_and_offsets_do_not(make: Callable[[], nn.Module]) -> None:
    model = make()
    ropes = patch_vit(model, ape="remove")
    x = image()
    swapped = torch.cat((x[..., 16:, :], x[..., :16, :]), dim=-2)
    with torch.no_grad():
        base, other = out(model, x), out(model, swapped)
        assert (base - other).abs().max() > 1e-2
        for rope in ropes:
            original = rope.rotate
            rope.rotate = lambda t, p, original=original: original(t, p + 4.0)  # type: ignore[method-assign]
        assert (out(model, x) - base).abs().max() <= 1e-5
        for rope in ropes:
            del rope.rotate
            for parameter in rope.parameters():
                parameter.zero_()
        # Without rotation and without table the model sees a set of patches.
        torch.testing.assert_close(out(model, x), out(model, swapped), rtol=0, atol=1e-5)


def test_zero_table_equals_removed_table(make: Callable[[], nn.Module]) -> None:
    removed, zeroed = make(), make()
    zeroed.load_state_dict(removed.state_dict())
    names = set(zeroed.state_dict())
    first, second = patch_vit(removed, ape="remove"), patch_vit(zeroed, ape="zero")
    for a, b in zip(first, second, strict=True):
        b.load_state_dict(a.state_dict())
    x = image(32, 48)
    torch.testing.assert_close(out(zeroed, x), out(removed, x), rtol=0, atol=1e-6)
    assert names < set(zeroed.state_dict())
    table = next(name for name in names if name.endswith(("pos_embed", "position_embeddings")))
    assert table not in removed.state_dict()
    assert not dict(zeroed.named_parameters())[table].requires_grad


def test_copies_pickles_checkpoints_and_folding(make: Callable[[], nn.Module]) -> None:
    model = make()
    patch_vit(model)
    with torch.no_grad():
        x = image(32, 48)
        base = out(model, x)
        twin = copy.deepcopy(model)
        torch.testing.assert_close(out(twin, x), base, rtol=0, atol=1e-6)
        for rope in (m for m in twin.modules() if isinstance(m, ComRoPE)):
            rope.P.mul_(2.0)
        assert (out(twin, x) - base).abs().max() > 1e-3
        torch.testing.assert_close(out(model, x), base, rtol=0, atol=1e-6)  # the copy has layers of its own
        torch.testing.assert_close(out(pickle.loads(pickle.dumps(model)), x), base, rtol=0, atol=1e-6)
        other = make()
        patch_vit(other)
        other.load_state_dict(model.state_dict())
        torch.testing.assert_close(out(other, x), base, rtol=0, atol=1e-6)
        if any(isinstance(m, nn.LayerNorm) and m.normalized_shape == (16,) for m in model.modules()):
            with pytest.raises(ValueError, match="normalises queries and keys after projection"):
                fold_vit(model)
            return
        tables = fold_vit(model)
        assert all(isinstance(t, RotaryTable) for t in tables)
        assert not any(isinstance(m, ComRoPE) for m in model.modules())
        torch.testing.assert_close(out(model, x), base, rtol=0, atol=1e-5)
        program: Any = torch.export.export(model, (x,))
        exported = program.module()(x)
        torch.testing.assert_close(exported if isinstance(exported, Tensor) else exported.logits, base, rtol=0, atol=1e-5)
        with pytest.raises(ValueError, match="has no ComRoPE to fold"):
            fold_vit(model)


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_compile(library: str, vision_libraries: None) -> None:
    model = timm_vit() if library == "timm" else hf_vit()
    patch_vit(model)
    x = image(32, 48)
    with torch.no_grad():
        base = out(model, x)
        torch.testing.assert_close(out(torch.compile(model, fullgraph=True, backend="aot_eager"), x), base, rtol=0, atol=1e-5)  # type: ignore[arg-type]
        torch.testing.assert_close(out(model, x), base, rtol=0, atol=1e-6)


def test_perturbation_acts_in_training_only(make: Callable[[], nn.Module]) -> None:
    model, x = make(), image()
    patch_vit(model, perturbation=1.0)
    with torch.no_grad():
        assert torch.equal(out(model, x), out(model, x))
        model.train()
        assert (out(model, x) - out(model, x)).abs().max() > 1e-3


def test_timm_keeps_frequencies_out_of_weight_decay(vision_libraries: None) -> None:
    model = timm_vit()
    patch_vit(model)
    exempt: Any = model.no_weight_decay()  # type: ignore[operator]
    assert {"cls_token", "pos_embed", "blocks.0.attn.rope.P", "blocks.1.attn.rope.theta"} <= exempt
    assert copy.deepcopy(model).no_weight_decay() == exempt  # type: ignore[operator]


def test_half_precision_model(vision_libraries: None) -> None:
    model = timm_vit().bfloat16()
    ropes = patch_vit(model, ape="remove")
    assert ropes[0].P.dtype == torch.float32
    assert out(model, image().bfloat16()).dtype == torch.bfloat16


def test_other_models_of_transformers(vision_libraries: None) -> None:
    from transformers import ViTForMaskedImageModeling, ViTModel

    plain = ViTModel(hf_config()).eval()
    assert len(patch_vit(plain)) == 2
    assert plain(image(32, 48)).last_hidden_state.shape == (2, 25, 32)
    masked = ViTForMaskedImageModeling(hf_config(encoder_stride=8)).eval()
    patch_vit(masked)
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[:, 3] = True
    result = masked(image(), bool_masked_pos=mask)
    assert result.reconstruction.shape == (2, 3, 32, 32)
    assert torch.isfinite(result.loss)


@pytest.mark.bad_input
def test_errors(vision_libraries: None) -> None:
    model = timm_vit()
    with pytest.raises(ValueError, match="num_axes must be 2 for image models, got 3"):
        patch_vit(model, num_axes=3)
    with pytest.raises(ValueError, match="ape must be one of 'remove', 'keep', 'zero', got 'drop'"):
        patch_vit(model, ape="drop")
    with pytest.raises(ValueError, match="variant must be one of"):
        patch_vit(model, variant="lie")
    with pytest.raises(ValueError, match="head_dim must be divisible"):
        patch_vit(model, block_size=5)
    with pytest.raises(ValueError, match="perturbation must be at least 0"):
        patch_vit(model, perturbation=-1.0)
    assert not any(isinstance(m, ComRoPE) for m in model.modules())  # nothing half-patched
    patch_vit(model)
    with pytest.raises(ValueError, match="patched already"):
        patch_vit(model)
    with pytest.raises(ValueError, match="patch_drop_rate must be 0"):
        patch_vit(timm_vit(patch_drop_rate=0.5))
    with pytest.raises(TypeError, match="one of: timm VisionTransformer and transformers ViTModel.*got Linear"):
        patch_vit(nn.Linear(2, 2))
    with pytest.raises(TypeError, match="got str"):
        patch_vit("vit")  # type: ignore[arg-type]
    import timm
    from transformers import BertConfig, BertModel

    with pytest.raises(TypeError, match="got timm's ResNet"):
        patch_vit(timm.create_model("resnet10t"))
    with pytest.raises(TypeError, match="got transformers' BertModel"):
        patch_vit(BertModel(BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=10)))
    hf = hf_vit()
    with pytest.raises(ValueError, match="has no ComRoPE to fold"):
        fold_vit(hf)
    patch_vit(hf)
    with pytest.raises(ValueError, match="patched already"):
        patch_vit(hf)
    other = timm_vit()
    patch_vit(other)
    with pytest.raises(RuntimeError, match="without its patch embedding"):
        other.blocks(torch.zeros(1, 17, 32))  # type: ignore[operator]


@pytest.mark.bad_input
def test_missing_framework(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lookalike(nn.Module):
        pass

    for library in ("timm", "transformers"):
        Lookalike.__module__ = f"{library}.models.vit"
        monkeypatch.setitem(sys.modules, library, None)
        for name in [m for m in sys.modules if m.startswith((f"{library}.", f"comrope.integrations._{library}"))]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.delattr(comrope.integrations, f"_{library}", raising=False)
        with pytest.raises(ImportError, match=rf"pip install 'comrope\[{library}\]'"):
            patch_vit(Lookalike())
    monkeypatch.setattr("comrope.integrations._vit.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"comrope\[timm\]' or 'comrope\[transformers\]"):
        patch_vit(nn.Linear(2, 2))
