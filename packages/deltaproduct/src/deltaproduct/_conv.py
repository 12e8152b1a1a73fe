"""Depthwise causal convolution over a few tokens, with a state, over a batch or over sequences that follow one another."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["RaggedWindow", "ShortConv", "ragged_window"]


class RaggedWindow(NamedTuple):
    """Where tokens and states stand when every sequence is preceded by its state of ``width - 1`` tokens."""

    source: Tensor  # (T + N (width - 1),): rows of tokens followed by states
    tokens: Tensor  # (T,): window that ends with a token
    last: Tensor  # (N, width - 1): the state after each sequence


def ragged_window(offsets: list[int], width: int, device: torch.device) -> RaggedWindow:
    """Indices for sequences from ``offsets[i]`` to ``offsets[i + 1]``."""
    N, T, before = len(offsets) - 1, offsets[-1], width - 1
    start = torch.tensor(offsets)
    sequence = torch.arange(N).repeat_interleave(start.diff())
    tokens = torch.arange(T) + sequence * before
    source = torch.empty(T + N * before, dtype=torch.int64)
    source[tokens + before] = torch.arange(T)
    states = start[:-1, None] + torch.arange(N)[:, None] * before + torch.arange(before)
    source[states] = T + torch.arange(N * before).reshape(N, before)
    last = start[1:, None] + torch.arange(N)[:, None] * before + torch.arange(before)
    return RaggedWindow(source.to(device), tokens.to(device), last.to(device))


class ShortConv(nn.Conv1d):
    """``y_t = SiLU(sum_w weight_w * x_{t - width + 1 + w})`` per channel; tokens before the first are zero, or the state.

    Args:
        channels: Number of channels.
        width: Tokens that each output sees, itself included.
        dtype, device: Of the weight, shape ``(channels, 1, width)``.
    """

    def __init__(self, channels: int, width: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> None:
        super().__init__(channels, channels, width, groups=channels, bias=False, dtype=dtype, device=device)

    def reset_parameters(self) -> None:
        """Uniform within ``1 / sqrt(width)``, as ``nn.Conv1d``."""
        bound = 1 / math.sqrt(self.kernel_size[0])
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Tensor, state: Tensor | None = None, window: RaggedWindow | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Convolve tokens ``(B, T, channels)``; returns them and the new state ``(N, width - 1, channels)``.

        ``lengths (B,)`` are the positions behind the last real token of each item, where the new state is taken.
        """
        before, D = self.kernel_size[0] - 1, x.shape[-1]
        N = x.shape[0] if window is None else window.last.shape[0]
        state = x.new_zeros(N, before, D) if state is None else state.to(x.dtype)
        if window is None:
            padded = torch.cat([state, x], dim=1)
            if lengths is None:
                last = padded[:, padded.shape[1] - before :]
            else:
                at = lengths[:, None] + torch.arange(before, device=x.device)
                last = padded.gather(1, at[..., None].expand(-1, -1, D))
        else:
            padded = torch.cat([x[0], state.reshape(N * before, D)]).index_select(0, window.source)[None]
            last = padded[0][window.last]
        if padded.shape[1] <= before or padded.shape[0] == 0:
            return x, last
        y = F.silu(F.conv1d(padded.mT, self.weight, groups=D).mT)
        return (y if window is None else y.index_select(1, window.tokens)), last
