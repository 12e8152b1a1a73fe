"""timm's ``VisionTransformer``: rotation enters behind the optional norms of queries and keys."""

import importlib
from typing import Any

import torch
from torch import nn

from comrope.folding import RotaryTable
from comrope.integrations._hooks import GridWatcher, RotateHeads, foldable
from comrope.integrations._vit import SUPPORTED
from comrope.modules import ComRoPE

__all__ = ["fold", "patch"]

# As untyped modules: type checkers need not have timm, which exports these names without saying so.
_layers = importlib.import_module("timm.layers")
_models = importlib.import_module("timm.models.vision_transformer")


class NoWeightDecay:
    """The names that a model keeps out of weight decay, its own and those of the new layers, in the form timm calls."""

    def __init__(self, names: set[str]) -> None:
        self.names = names

    def __call__(self) -> set[str]:
        return set(self.names)


def patch(model: Any, ape: str, perturbation: float, options: dict[str, Any]) -> list[ComRoPE]:
    """``patch_vit`` for timm."""
    attentions = _attentions(model)
    embed = model.patch_embed
    if not isinstance(embed, _layers.PatchEmbed):
        raise TypeError(f"patch_embed must be timm's PatchEmbed, got {type(embed).__name__}, whose grid is not known")
    if getattr(model.patch_drop, "prob", 0.0):
        raise ValueError("patch_drop_rate must be 0: dropped patches would leave positions behind")
    if any(hasattr(attention, "rope") for attention in attentions):
        raise ValueError("the model is patched already: its attention layers have a rope")
    weight = embed.proj.weight
    ropes = [
        ComRoPE(a.head_dim, a.num_heads, 2, dtype=torch.promote_types(weight.dtype, torch.float32), device=weight.device, **options)
        for a in attentions
    ]
    rows, columns = embed.patch_size
    watcher = GridWatcher((rows, columns), model.num_prefix_tokens, perturbation, pads=embed.dynamic_img_pad)
    embed.register_forward_pre_hook(watcher)
    for attention, rope in zip(attentions, ropes, strict=True):
        attention.rope = rope.train(model.training)
        hook = RotateHeads(attention, watcher)
        attention.q_norm.register_forward_hook(hook)
        attention.k_norm.register_forward_hook(hook)
    _set_table(model, embed, ape)
    own = set(model.no_weight_decay())
    model.no_weight_decay = NoWeightDecay(
        own | {name for name, _ in model.named_parameters() if name.rpartition(".")[0].endswith("attn.rope")}
    )
    return ropes


def _attentions(model: Any) -> list[Any]:
    if not isinstance(model, _models.VisionTransformer):
        raise TypeError(f"model must be one of: {SUPPORTED}; got timm's {type(model).__name__}")
    if type(model)._pos_embed is not _models.VisionTransformer._pos_embed:
        raise TypeError(f"model must be a plain VisionTransformer, got {type(model).__name__}, which builds its tokens in another way")
    found = []
    for i, block in enumerate(model.blocks):
        attention = getattr(block, "attn", None)
        if type(attention) is not _models.Attention:
            name = type(block).__name__ if attention is None else type(attention).__name__
            raise ValueError(f"block {i} must hold timm's Attention, got {name}; an attention with its own position code cannot be patched")
        found.append(attention)
    return found


def _set_table(model: Any, embed: Any, ape: str) -> None:
    embed.strict_img_size = False
    if model.pos_embed is None:
        return
    if ape == "remove":
        model.pos_embed = None
        if not _keeps_prefix_without_table(model):
            # A zero that is no part of the state dict, on the path that adds without resampling.
            del model.pos_embed
            model.register_buffer("pos_embed", model.patch_embed.proj.weight.new_zeros(1, 1, 1), persistent=False)
            model.dynamic_img_size, embed.flatten, embed.output_fmt = False, True, _layers.Format.NCHW
        return
    if ape == "zero":
        with torch.no_grad():
            model.pos_embed.zero_()
        model.pos_embed.requires_grad_(False)
    if not model.dynamic_img_size:
        # timm resamples the table to the size of the input only if the patch embedding keeps the grid.
        model.dynamic_img_size = True
        embed.flatten, embed.output_fmt = False, _layers.Format.NHWC


@torch.no_grad()
def _keeps_prefix_without_table(model: Any) -> bool:
    """Whether a model without table still adds its prefix tokens; for years timm forgot them."""
    if model.num_prefix_tokens == 0:
        return True
    grid = (1, 1) if model.dynamic_img_size else (1,)
    return model._pos_embed(model.patch_embed.proj.weight.new_zeros(1, *grid, model.embed_dim)).shape[1] == 1 + model.num_prefix_tokens


def fold(model: Any) -> list[RotaryTable]:
    """``fold_vit`` for timm."""
    attentions = _attentions(model)
    for i, attention in enumerate(attentions):
        if not foldable(attention):
            raise ValueError(f"attention of block {i} has no ComRoPE to fold; patch the model first, and fold it once")
        if any(type(norm) is not nn.Identity for norm in (attention.q_norm, attention.k_norm)):
            raise ValueError(f"attention of block {i} normalises queries and keys after projection; the basis cannot pass through the norm")
    for attention in attentions:
        attention.rope = attention.rope.fold_into_fused_(attention.qkv)
    return [attention.rope for attention in attentions]
