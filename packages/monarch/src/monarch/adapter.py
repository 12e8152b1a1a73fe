"""Monarch adapters for fine-tuning (MoRe; Tan et al., 2024, arXiv 2408.17383): a Monarch product beside a frozen linear layer."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from geocore._checks import check_positive_int
from monarch.functional import monarch_dense, monarch_matmul

__all__ = ["MonarchAdapter", "adapter_factors"]


def adapter_factors(
    in_features: int,
    out_features: int,
    blk_r: int,
    nblocks: int,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """``w1 (N, blk_r, p)`` Kaiming-uniform and ``w2 (N, s, blk_r)`` zero: the adapter starts as no change.

    Raises:
        ValueError: If there are more blocks than features.
        TypeError: If a size is not an int.
    """
    for name, size in (("in_features", in_features), ("out_features", out_features), ("blk_r", blk_r), ("nblocks", nblocks)):
        check_positive_int(name, size)
    if nblocks > min(in_features, out_features):
        raise ValueError(f"nblocks must be at most the features, got {nblocks} for {in_features} inputs and {out_features} outputs")
    w1 = torch.empty(nblocks, blk_r, -(-in_features // nblocks), dtype=dtype, device=device)
    bound = 1 / math.sqrt(w1.shape[-1])  # Kaiming with a = sqrt(5), the default of nn.Linear
    nn.init.uniform_(w1, -bound, bound)
    return w1, torch.zeros(nblocks, -(-out_features // nblocks), blk_r, dtype=dtype, device=device)


def adapter_delta(x: Tensor, w1: Tensor, w2: Tensor, out_features: int) -> Tensor:
    """The adapter's output for vectors ``(..., in)``."""
    pad = w1.shape[0] * w1.shape[-1] - x.shape[-1]
    return monarch_matmul(F.pad(x, (0, pad)) if pad else x, w1, w2)[..., :out_features]


def adapter_dense(w1: Tensor, w2: Tensor, in_features: int, out_features: int) -> Tensor:
    """The adapter's change of the weight, shape ``(out, in)``."""
    return monarch_dense(w1, w2)[:out_features, :in_features]


class MonarchAdapter(nn.Module):
    """A frozen ``nn.Linear`` plus a trainable Monarch product, ``y = W x + b + M dropout(x)``.

    ``N (blk_r)(p + s)`` parameters for ``N`` blocks, blocks of rank about ``blk_r / N``; no scaling factor.

    Args:
        base: Layer to adapt; its parameters are frozen.
        blk_r: Rows of a block, 4, 8, 16 or 32 in the paper.
        nblocks: Number of blocks.
        dropout: Probability of dropping an input of the adapter in training.

    Raises:
        TypeError: If ``base`` is not an ``nn.Linear`` or a size not an int.
        ValueError: If a size or the probability is out of range.

    Example:
        >>> adapter = MonarchAdapter(nn.Linear(64, 64))
        >>> sum(p.numel() for p in adapter.parameters() if p.requires_grad)
        512
    """

    def __init__(self, base: nn.Linear, *, blk_r: int = 4, nblocks: int = 4, dropout: float = 0.1) -> None:
        super().__init__()
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base must be an nn.Linear, got {type(base).__name__}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
        self.base = base.requires_grad_(False)
        weight = base.weight
        w1, w2 = adapter_factors(base.in_features, base.out_features, blk_r, nblocks, dtype=weight.dtype, device=weight.device)
        self.weight1, self.weight2 = nn.Parameter(w1), nn.Parameter(w2)
        self.dropout, self.merged = nn.Dropout(dropout), False

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start the adapter anew, as no change.

        Raises:
            RuntimeError: If it is merged.
        """
        if self.merged:
            raise RuntimeError("the adapter must not be merged when it is reset; call unmerge() first")
        w1, w2 = self.weight1, self.weight2
        fresh = adapter_factors(self.base.in_features, self.base.out_features, w1.shape[1], w1.shape[0], dtype=w1.dtype, device=w1.device)
        w1.copy_(fresh[0])
        w2.copy_(fresh[1])

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """Apply to vectors ``(..., in_features)``."""
        y = self.base(x)
        if self.merged:
            return y
        return y + adapter_delta(self.dropout(x), self.weight1, self.weight2, self.base.out_features).to(y.dtype)

    def delta(self) -> Float[Tensor, "out in"]:
        """Change of the weight."""
        return adapter_dense(self.weight1, self.weight2, self.base.in_features, self.base.out_features)

    @torch.no_grad()
    def merge(self) -> None:
        """Add the adapter to the base weight, whatever the training mode; ``unmerge`` takes it out again."""
        if not self.merged:
            self.base.weight += self.delta().to(self.base.weight.dtype)
            self.merged = True

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take the adapter out of the base weight, up to rounding."""
        if self.merged:
            self.base.weight -= self.delta().to(self.base.weight.dtype)
            self.merged = False

    @torch.no_grad()
    def to_linear(self) -> nn.Linear:
        """A plain ``nn.Linear`` with the adapter in its weight; this module stays as it is."""
        base = self.base
        linear = nn.Linear(base.in_features, base.out_features, base.bias is not None, device=base.weight.device, dtype=base.weight.dtype)
        linear.weight.copy_(base.weight if self.merged else base.weight + self.delta().to(base.weight.dtype))
        if base.bias is not None:
            linear.bias.copy_(base.bias)
        return linear.train(self.training)

    def extra_repr(self) -> str:
        """Configuration for ``repr``."""
        return f"blk_r={self.weight1.shape[1]}, nblocks={self.weight1.shape[0]}, merged={self.merged}"
