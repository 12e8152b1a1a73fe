"""Which rows of a layer's input are tokens and which are padding."""

import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["MaskTracker"]

log = logging.getLogger("peft_loldu_corda")


class MaskTracker:
    """Remembers the masks of the forward pass under way and applies them to the inputs of its layers.

    Args:
        model: The model whose calls carry the masks.
        keys: Names of its mask arguments.
    """

    def __init__(self, model: nn.Module, keys: Sequence[str]) -> None:
        self.model, self.keys = model, tuple(keys)
        self.masks: list[Tensor] = []
        self._warned: set[str] = set()
        try:
            self._order = list(inspect.signature(model.forward).parameters)
        except (TypeError, ValueError):
            self._order = []

    def before_forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Forward pre-hook of the model."""
        given = {**dict(zip(self._order, args, strict=False)), **kwargs}
        masks = [given.get(key) for key in self.keys]
        labels = given.get("labels")
        if "decoder_attention_mask" not in given and isinstance(labels, Tensor) and labels.ndim == 2 and self._is_encoder_decoder():
            # the decoder reads the labels shifted by one: a start token, then each label that counts
            masks.append(torch.cat([torch.ones_like(labels[:, :1], dtype=torch.bool), labels[:, :-1] != -100], dim=1))
        self.masks = [m.detach() != 0 for m in masks if isinstance(m, Tensor) and m.ndim == 2]

    def _is_encoder_decoder(self) -> bool:
        return bool(getattr(getattr(self.model, "config", None), "is_encoder_decoder", False))

    def tokens(self, name: str, x: Tensor) -> Tensor:
        """The tokens in the input of a layer, shape ``(tokens, n)``; ``(b, t, n)``, ``(t, n)`` and ``(n,)`` are all rows of tokens."""
        rows = x.detach().reshape(-1, x.shape[-1])
        for mask in self.masks:
            keep = self._fits(mask, x)
            if keep is not None:
                return rows[keep.reshape(-1).to(rows.device)]
        if self.masks and x.ndim > 2 and name not in self._warned and not all(bool(m.all()) for m in self.masks):
            self._warned.add(name)
            shapes = ", ".join(str(tuple(m.shape)) for m in self.masks)
            log.warning("no mask of shape %s fits the input %s of %s: every position of it is counted", shapes, tuple(x.shape), name)
        return rows

    def _fits(self, mask: Tensor, x: Tensor) -> Tensor | None:
        lead = list(x.shape[:-1])
        if lead == list(mask.shape) or (len(lead) == 1 and lead[0] == mask.numel() and mask.shape[1] > 1):
            return mask
        decoding = not self._is_encoder_decoder() and len(lead) == 2 and lead[0] == mask.shape[0] and lead[1] < mask.shape[1]
        return mask[:, -lead[1] :] if decoding and lead[1] == 1 else None
