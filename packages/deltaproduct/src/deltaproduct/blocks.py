"""Pre-norm blocks around the mixer, and the softmax attention of hybrid stacks; plain torch."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from deltaproduct.cache import DeltaProductCache, LayerState

__all__ = ["Block", "SoftmaxAttention", "SwiGLU", "swiglu_width"]


def swiglu_width(hidden_size: int, ratio: float = 4, multiple: int = 256) -> int:
    """``2/3 ratio hidden_size`` rounded up to a multiple of 256: three matrices then cost what two of the full width do."""
    return multiple * -(-int(hidden_size * ratio * 2 / 3) // multiple)


class SwiGLU(nn.Module):
    """``W_down (SiLU(W_gate x) * W_up x)``, without biases.

    Args:
        hidden_size: Features of input and output.
        intermediate_size: Features between.
    """

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """Transform tokens ``(..., hidden_size)``."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class SoftmaxAttention(nn.Module):
    """Causal softmax attention without positional encoding, with the interface of ``DeltaProduct``; its cache grows.

    Args:
        hidden_size: Features of input and output.
        num_heads: Number of heads; divides ``hidden_size``.
        layer_idx: Index of the layer in a cache.

    Raises:
        ValueError: If ``num_heads`` does not divide ``hidden_size``.
    """

    def __init__(self, hidden_size: int, *, num_heads: int, layer_idx: int | None = None) -> None:
        super().__init__()
        if hidden_size % num_heads:
            raise ValueError(f"num_heads must divide hidden_size = {hidden_size}, got {num_heads}")
        self.num_heads, self.layer_idx = num_heads, layer_idx
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.k_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        attention_mask: Tensor | None = None,
        cache: DeltaProductCache | None = None,
        use_cache: bool = False,
        cu_seqlens: Tensor | None = None,
    ) -> tuple[Float[Tensor, "B T D"], DeltaProductCache | None]:
        """Attend; arguments and results as ``DeltaProduct.forward``.

        Raises:
            ValueError: If a cache comes with ``cu_seqlens``, for which keys and values are not kept.
        """
        if cu_seqlens is not None and (cache is not None or use_cache):
            raise ValueError("cu_seqlens must be None with a cache in a stack with softmax attention; pad the batch instead")
        q, k, v = (p(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        index, past = self.layer_idx or 0, 0
        if cache is not None:
            before = cache[index]
            if before.keys is not None and before.values is not None:
                k, v, past = torch.cat([before.keys, k], 2), torch.cat([before.values, v], 2), before.keys.shape[2]
        if use_cache:
            cache = DeltaProductCache() if cache is None else cache
            cache.update(index, LayerState(keys=k, values=v, tokens=cache[index].tokens + x.shape[1]))
        seen = self._seen(attention_mask, cu_seqlens, x.shape[1], past, x.device)
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=seen is None and x.shape[1] > 1)
        return self.o_proj(o.transpose(1, 2).flatten(2)), cache

    @staticmethod
    def _seen(attention_mask: Tensor | None, cu_seqlens: Tensor | None, tokens: int, past: int, device: torch.device) -> Tensor | None:
        """Which keys a query sees, ``(B or 1, 1, T, past + T)``; ``None`` for the plain causal case."""
        if attention_mask is None and cu_seqlens is None and (past == 0 or tokens == 1):
            return None
        causal = torch.ones(tokens, past + tokens, dtype=torch.bool, device=device).tril(past)
        seen = causal[None, None]
        if attention_mask is not None:
            real = attention_mask != 0
            real = F.pad(real, (past + tokens - real.shape[1], 0), value=True)
            itself = torch.eye(tokens, past + tokens, dtype=torch.bool, device=device).roll(past, 1)  # padding sees itself: no row is empty
            seen = (seen & real[:, None, None, :]) | itself
        if cu_seqlens is not None:
            sequence = torch.bucketize(torch.arange(tokens, device=device), cu_seqlens.to(device), right=True)
            seen = seen & (sequence[:, None] == sequence[None, :])
        return seen


class Block(nn.Module):
    """``x + mixer(RMSNorm(x))``, then ``x + mlp(RMSNorm(x))``.

    Args:
        hidden_size: Features.
        mixer: ``DeltaProduct`` or ``SoftmaxAttention``.
        intermediate_size: Width of the MLP; ``swiglu_width(hidden_size)`` by default, 0 for none.
        norm_eps: Epsilon of the norms.
    """

    def __init__(self, hidden_size: int, mixer: nn.Module, *, intermediate_size: int | None = None, norm_eps: float = 1e-5) -> None:
        super().__init__()
        width = swiglu_width(hidden_size) if intermediate_size is None else intermediate_size
        self.attn_norm = nn.RMSNorm(hidden_size, eps=norm_eps)
        self.attn = mixer
        self.mlp_norm = nn.RMSNorm(hidden_size, eps=norm_eps) if width else None
        self.mlp = SwiGLU(hidden_size, width) if width else None

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        attention_mask: Tensor | None = None,
        past_key_values: DeltaProductCache | None = None,
        use_cache: bool = False,
        cu_seqlens: Tensor | None = None,
    ) -> tuple[Float[Tensor, "B T D"], DeltaProductCache | None]:
        """Transform tokens ``(B, T, hidden_size)``; arguments and results as ``DeltaProduct.forward``."""
        mixed, cache = self.attn(self.attn_norm(x), attention_mask, past_key_values, use_cache, cu_seqlens)
        x = x + mixed
        if self.mlp is not None and self.mlp_norm is not None:
            x = x + self.mlp(self.mlp_norm(x))
        return x, cache
