"""A plain pre-norm vision transformer whose position encoding is an argument."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from comrope.baselines import AxialRoPE, LearnedAPE, LieRE, MixedRoPE
from comrope.modules import ComRoPE

__all__ = ["ENCODINGS", "ViT", "build_encoding", "parameter_groups"]

ENCODINGS = ("none", "ape", "axial", "mixed", "liere", "ap", "ld", "full")


def build_encoding(name: str, head_dim: int, heads: int, *, block_size: int, **options: Any) -> nn.Module | None:
    """The rotary encoding of one attention layer over two axes; ``None`` for the encodings that do not rotate."""
    if name in ("none", "ape"):
        return None
    if name == "axial":
        return AxialRoPE(head_dim, heads, 2, **options)
    if name == "mixed":
        return MixedRoPE(head_dim, heads, 2, **options)
    if name == "liere":
        return LieRE(head_dim, heads, 2, block_size=block_size, **options)
    if name in ("ap", "ld", "full"):
        return ComRoPE(head_dim, heads, 2, block_size=block_size, variant=name, **options)
    raise ValueError(f"name must be one of {', '.join(map(repr, ENCODINGS))}, got {name!r}")


class Attention(nn.Module):
    """Multi-head self-attention; the encoding acts on queries and keys."""

    def __init__(self, dim: int, heads: int, rope: nn.Module | None) -> None:
        super().__init__()
        self.heads, self.rope = heads, rope
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """Attend over tokens ``(..., L, dim)``."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).transpose(-4, -2).unbind(-3)
        if self.rope is not None:
            q, k = self.rope(q, k, positions)
        y = F.scaled_dot_product_attention(*(t.flatten(0, -4) for t in (q, k, v)))  # its fast kernels want one batch dimension
        return self.proj(y.unflatten(0, q.shape[:-3]).transpose(-3, -2).flatten(-2))


class Block(nn.Module):
    """Attention and a GELU MLP, each behind a LayerNorm and a residual."""

    def __init__(self, dim: int, heads: int, hidden: int, rope: nn.Module | None) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = Attention(dim, heads, rope)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """Transform tokens ``(..., L, dim)``."""
        x = x + self.attn(self.norm1(x), positions)
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Vision transformer with a CLS token and a linear head on it.

    Args:
        patch: Side of a patch in pixels.
        channels: Channels of the image.
        dim: Width.
        depth: Number of blocks.
        heads: Number of heads.
        hidden: Width of the MLP.
        classes: Number of classes.
        make_rope: Makes the encoding of one layer.
        ape: Absolute embedding added to the tokens, if any.
    """

    def __init__(
        self,
        *,
        patch: int,
        channels: int,
        dim: int,
        depth: int,
        heads: int,
        hidden: int,
        classes: int,
        make_rope: Callable[[], nn.Module | None],
        ape: LearnedAPE | None = None,
    ) -> None:
        super().__init__()
        self.patch = patch
        self.embed = nn.Conv2d(channels, dim, patch, stride=patch)
        self.cls = nn.Parameter(0.02 * torch.randn(1, 1, dim))
        self.ape = ape
        self.blocks = nn.ModuleList(Block(dim, heads, hidden, make_rope()) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def grid(self, images: Tensor) -> tuple[int, int]:
        """Rows and columns of patches."""
        return images.shape[-2] // self.patch, images.shape[-1] // self.patch

    def forward(self, images: Tensor, positions: Tensor) -> Tensor:
        """Logits ``(B, classes)`` of images ``(B, C, H, W)``, the CLS token first.

        Positions: ``(L, 2)`` for all images, or ``(G, 1, L, 2)`` for ``G`` equal groups of consecutive images.
        """
        x = self.embed(images).flatten(2).mT
        x = torch.cat((self.cls.expand(x.shape[0], -1, -1), x), dim=1)
        x = x.unflatten(0, (positions.shape[0] if positions.ndim == 4 else 1, -1))
        if self.ape is not None:
            x = x + self.ape.embed(positions)
        for block in self.blocks:
            x = block(x, positions)
        return self.head(self.norm(x[..., 0, :])).flatten(0, 1)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices; none for biases, norms, the CLS token and what the encodings keep out (``no_weight_decay``)."""
    exempt = {f"{path}.{name}" for path, module in model.named_modules() for name in getattr(module, "no_weight_decay", set)() if path}
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        groups[parameter.ndim > 1 and name != "cls" and name not in exempt].append(parameter)
    return [{"params": groups[True], "weight_decay": weight_decay}, {"params": groups[False], "weight_decay": 0.0}]
