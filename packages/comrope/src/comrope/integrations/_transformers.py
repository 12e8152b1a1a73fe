"""The ViT of transformers: rotation enters behind the query and key projections, so every attention kernel sees it."""

import importlib
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from comrope.folding import RotaryTable
from comrope.integrations._hooks import GridWatcher, RotateProjected, foldable
from comrope.integrations._vit import SUPPORTED
from comrope.modules import ComRoPE

__all__ = ["AnySizeEmbeddings", "fold", "patch"]

# As an untyped module: type checkers need not have transformers.
_vit = importlib.import_module("transformers.models.vit.modeling_vit")
_Embeddings: Any = _vit.ViTEmbeddings


# Until transformers 5.x the patch embedding compared the size of the input with the configuration unless told not to.
_ANY_SIZE: dict[str, Any] = (
    {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in signature(_vit.ViTPatchEmbeddings.forward).parameters else {}
)


class AnySizeEmbeddings(_Embeddings):
    """``ViTEmbeddings`` for inputs of any size, with the position table interpolated where it is kept."""

    def forward(self, pixel_values: Tensor, bool_masked_pos: Tensor | None = None, interpolate_pos_encoding: bool | None = None) -> Tensor:
        """Tokens of an image, prefix first; ``interpolate_pos_encoding`` is implied."""
        height, width = pixel_values.shape[-2:]
        tokens = self.patch_embeddings(pixel_values, **_ANY_SIZE)
        if bool_masked_pos is not None:
            if self.mask_token is None:
                raise ValueError("bool_masked_pos needs a model with a mask token; build it with use_mask_token=True")
            tokens = torch.where(bool_masked_pos.unsqueeze(-1).bool(), self.mask_token.to(tokens.dtype), tokens)
        tokens = torch.cat((self.cls_token.expand(tokens.shape[0], -1, -1), tokens), dim=1)
        table = self.position_embeddings
        if table is not None:
            same = (height, width) == tuple(self.patch_embeddings.image_size)
            tokens = tokens + (table if same else self.interpolate_pos_encoding(tokens, height, width))
        return self.dropout(tokens)


def patch(model: nn.Module, ape: str, perturbation: float, options: dict[str, Any]) -> list[ComRoPE]:
    """``patch_vit`` for transformers."""
    vit, attentions = _attentions(model)
    if any(hasattr(attention, "rope") for attention in attentions):
        raise ValueError("the model is patched already: its attention layers have a rope")
    embeddings = vit.embeddings
    embed = embeddings.patch_embeddings
    weight = embed.projection.weight
    ropes = [
        ComRoPE(
            _projections(a)[0].out_features // a.num_attention_heads,
            a.num_attention_heads,
            2,
            dtype=torch.promote_types(weight.dtype, torch.float32),
            device=weight.device,
            **options,
        )
        for a in attentions
    ]
    size = embed.patch_size
    watcher = GridWatcher((size, size) if isinstance(size, int) else tuple(size), 1, perturbation)
    embed.register_forward_pre_hook(watcher)
    for attention, rope in zip(attentions, ropes, strict=True):
        attention.rope = rope.train(model.training)
        hook = RotateProjected(attention, watcher)
        for projection in _projections(attention):
            projection.register_forward_hook(hook)
    if ape == "remove":
        embeddings.position_embeddings = None
    elif ape == "zero":
        with torch.no_grad():
            embeddings.position_embeddings.zero_()
        embeddings.position_embeddings.requires_grad_(False)
    embeddings.__class__ = AnySizeEmbeddings
    return ropes


def _attentions(model: nn.Module) -> tuple[Any, list[Any]]:
    found = model if isinstance(model, _vit.ViTModel) else getattr(model, "vit", None)
    if not isinstance(found, _vit.ViTModel):
        raise TypeError(f"model must be one of: {SUPPORTED}; got transformers' {type(model).__name__}")
    vit: Any = found
    if hasattr(vit, "layers"):
        return vit, [layer.attention for layer in vit.layers]
    return vit, [layer.attention.attention for layer in vit.encoder.layer]  # transformers 5.0


def _projections(attention: Any) -> tuple[nn.Linear, nn.Linear]:
    """Query and key projection, under the names of this or the older layout."""
    if hasattr(attention, "q_proj"):
        return attention.q_proj, attention.k_proj
    return attention.query, attention.key


def fold(model: nn.Module) -> list[RotaryTable]:
    """``fold_vit`` for transformers."""
    _, attentions = _attentions(model)
    for i, attention in enumerate(attentions):
        if not foldable(attention):
            raise ValueError(f"attention of layer {i} has no ComRoPE to fold; patch the model first, and fold it once")
    for attention in attentions:
        attention.rope = attention.rope.fold_into_(*_projections(attention))
    return [attention.rope for attention in attentions]
