"""A small sequence classifier in plain torch: an answer at every position."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deltaproduct.blocks import Block
from deltaproduct.cache import DeltaProductCache
from deltaproduct.modules import DeltaProduct

__all__ = ["Shape", "StateTracker", "parameter_groups"]


@dataclass(frozen=True)
class Shape:
    """Sizes of a ``StateTracker``; the defaults are the paper's for S3."""

    hidden_size: int = 128
    num_layers: int = 1
    num_heads: int = 8
    head_dim: int = 32
    num_householder: int = 2
    allow_neg_eigval: bool = True
    use_short_conv: bool = False
    use_forget_gate: bool = False
    use_output_gate: bool = False
    init_std: float = 0.02


class StateTracker(nn.Module):
    """Embedding, blocks, final norm, linear head.

    Args:
        vocab_size: Number of tokens.
        num_classes: Number of answers.
        shape: Sizes.
    """

    def __init__(self, vocab_size: int, num_classes: int, shape: Shape) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Block(shape.hidden_size, self._mixer(shape, i)) for i in range(shape.num_layers))
        self.norm = nn.RMSNorm(shape.hidden_size, eps=1e-5)
        self.head = nn.Linear(shape.hidden_size, num_classes, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=shape.init_std)

    @staticmethod
    def _mixer(shape: Shape, layer_idx: int) -> DeltaProduct:
        return DeltaProduct(
            shape.hidden_size,
            num_heads=shape.num_heads,
            head_dim=shape.head_dim,
            num_householder=shape.num_householder,
            allow_neg_eigval=shape.allow_neg_eigval,
            use_short_conv=shape.use_short_conv,
            use_forget_gate=shape.use_forget_gate,
            use_output_gate=shape.use_output_gate,
            layer_idx=layer_idx,
        )

    def forward(self, tokens: Tensor, cache: DeltaProductCache | None = None) -> Tensor:
        """Logits ``(B, T, num_classes)`` of tokens ``(B, T)``; a cache is read and updated."""
        x = self.embeddings(tokens)
        for layer in self.layers:
            x, _ = layer(x, past_key_values=cache, use_cache=cache is not None)
        return self.head(self.norm(x))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices; none for norms and what modules keep out (``no_weight_decay``)."""
    exempt = {
        f"{path}.{name}".removeprefix(".")
        for path, module in model.named_modules()
        for name in getattr(module, "no_weight_decay", frozenset())
    }
    groups: dict[bool, list[torch.Tensor]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        groups[parameter.ndim > 1 and name not in exempt].append(parameter)
    return [{"params": groups[True], "weight_decay": weight_decay}, {"params": groups[False], "weight_decay": 0.0}]
