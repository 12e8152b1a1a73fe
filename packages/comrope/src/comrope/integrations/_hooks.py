"""How positions reach the attention layers of a host model, and how rotation enters them, without touching their code."""

from typing import Any

import torch
from torch import Tensor, nn

from comrope.modules import ComRoPE
from comrope.positions import grid_positions

__all__ = ["GridWatcher", "RotateHeads", "RotateProjected", "foldable"]


def foldable(attention: nn.Module) -> bool:
    """Whether an attention layer holds a ``ComRoPE`` that is not folded yet."""
    return isinstance(getattr(attention, "rope", None), ComRoPE)


class GridWatcher:
    """Forward pre-hook of the patch embedding: turns the size of the incoming image into positions of its tokens.

    Copies and pickles start without positions; the next forward pass sets them.
    """

    def __init__(self, patch_size: tuple[int, int], prefix_tokens: int, perturbation: float, *, pads: bool = False) -> None:
        self.patch_size, self.prefix_tokens, self.perturbation, self.pads = patch_size, prefix_tokens, perturbation, pads
        self.positions: Tensor | None = None
        self._last: tuple[Any, Tensor] | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        image = args[0]
        up = (lambda size, p: -(-size // p)) if self.pads else (lambda size, p: size // p)
        self.positions = self._at(
            (up(image.shape[-2], self.patch_size[0]), up(image.shape[-1], self.patch_size[1])),
            self.perturbation if module.training else 0.0,
            image.device,
        )

    def _at(self, grid: tuple[int, int], perturbation: float, device: torch.device) -> Tensor:
        if perturbation or torch.compiler.is_compiling():
            return grid_positions(grid, prefix_tokens=self.prefix_tokens, perturbation=perturbation, device=device)
        # The same tensor for the same grid, so that layers recognise it and keep their angles.
        if self._last is None or self._last[0] != (grid, device):
            with torch.inference_mode(mode=False):
                self._last = (grid, device), grid_positions(grid, prefix_tokens=self.prefix_tokens, device=device)
        return self._last[1]

    def __reduce__(self) -> tuple[Any, ...]:
        return _new_watcher, (self.patch_size, self.prefix_tokens, self.perturbation, self.pads)


def _new_watcher(patch_size: tuple[int, int], prefix_tokens: int, perturbation: float, pads: bool) -> GridWatcher:
    return GridWatcher(patch_size, prefix_tokens, perturbation, pads=pads)


class RotateHeads:
    """Forward hook of a layer whose output is queries or keys of shape ``(B, H, L, D)``."""

    def __init__(self, attention: nn.Module, watcher: GridWatcher) -> None:
        self.attention, self.watcher = attention, watcher

    def rotate(self, heads: Tensor) -> Tensor:
        """Rotate by the encoding that the attention layer holds now."""
        positions = self.watcher.positions
        if positions is None:
            raise RuntimeError("the attention layer of a patched model ran without its patch embedding; call the whole model")
        if positions.shape[-2] != heads.shape[-2]:
            raise RuntimeError(
                f"{heads.shape[-2]} tokens reached attention but the image has {positions.shape[-2]} with prefix; "
                "token dropping or merging between patch embedding and attention is not supported"
            )
        rope: Any = self.attention.rope
        return rope.rotate(heads, positions)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return self.rotate(output)


class RotateProjected(RotateHeads):
    """Forward hook of a query or key projection with output ``(B, L, H D)``, heads first."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        rope: Any = self.attention.rope
        heads = output.unflatten(-1, (rope.num_heads, rope.head_dim)).transpose(-3, -2)
        return self.rotate(heads).transpose(-3, -2).flatten(-2)
