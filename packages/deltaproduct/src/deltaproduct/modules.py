"""The token mixer: projections, short convolutions, gates and ``delta_product``."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from deltaproduct._checks import check_cu_seqlens
from deltaproduct._conv import ShortConv, ragged_window
from deltaproduct._dispatch import MODES
from deltaproduct.cache import DeltaProductCache, LayerState
from deltaproduct.functional import delta_product
from geocore._checks import check_option, check_positive_int, check_trailing

__all__ = ["DeltaProduct"]

_DT_MIN, _DT_MAX, _DT_FLOOR = 1e-3, 0.1, 1e-4


class DeltaProduct(nn.Module):
    r"""Multi-head linear RNN with ``num_householder`` Householder factors per token; a drop-in replacement for causal attention.

    ``q = W_q x`` per token, ``k = W_k x``, ``v = W_v x`` and ``b = W_b x`` per micro-step (the outermost part of their features), each of
    ``q, k, v`` behind a causal depthwise convolution and SiLU; queries and keys normalised; ``beta = sigmoid(b)``, doubled with
    ``allow_neg_eigval``; then ``delta_product``, an RMSNorm per head (with ``SiLU(W_g x)`` as its gate), and ``W_o``. The log-gate is
    ``g = -exp(A_log) softplus(W_a x + dt_bias)``. No positional encoding. Siems et al., NeurIPS 2025; parameter names and shapes are
    those of flash-linear-attention's ``GatedDeltaProduct``.

    Args:
        hidden_size: Features of the input and output.
        num_heads: Heads of queries and keys.
        head_dim: Features of queries and keys per head, ``K``.
        num_householder: Factors per token. 1 is DeltaNet; 2 reach rotations, ``m - 1`` the permutations of ``m`` things.
        expand_v: Features of values per head over ``head_dim``; 1, as in the paper's recipes (flash-linear-attention's default is 2).
        num_v_heads: Heads of values, a multiple of ``num_heads``, each group sharing queries and keys; ``num_heads`` by default.
        allow_neg_eigval: Whether ``beta`` reaches 2, so that factors reach reflections.
        use_forget_gate: Whether the state decays.
        use_output_gate: Whether the output is gated.
        use_short_conv: Whether to convolve; plain SiLU otherwise.
        conv_size: Tokens under the convolution.
        norm_eps: Epsilon of the output norm.
        mode: As in ``delta_product``.
        layer_idx: Index of the layer in a cache; 0 if none is given.
        dtype: Dtype of the parameters.
        device: Device of the parameters.

    Raises:
        ValueError: If a size is less than 1, ``num_v_heads`` is not a multiple of ``num_heads``, or ``mode`` is unknown.
        TypeError: If a size is not an int.

    Example:
        >>> layer = DeltaProduct(64, num_heads=4, head_dim=16, num_householder=2)
        >>> y, _ = layer(torch.randn(2, 100, 64))
    """

    no_weight_decay = frozenset({"A_log", "dt_bias"})

    def __init__(
        self,
        hidden_size: int,
        *,
        num_heads: int,
        head_dim: int,
        num_householder: int = 2,
        expand_v: float = 1.0,
        num_v_heads: int | None = None,
        allow_neg_eigval: bool = True,
        use_forget_gate: bool = False,
        use_output_gate: bool = False,
        use_short_conv: bool = True,
        conv_size: int = 4,
        norm_eps: float = 1e-5,
        mode: str = "auto",
        layer_idx: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        num_v_heads = num_heads if num_v_heads is None else num_v_heads
        sizes = {"hidden_size": hidden_size, "num_heads": num_heads, "head_dim": head_dim, "num_householder": num_householder}
        for name, size in (sizes | {"num_v_heads": num_v_heads, "conv_size": conv_size}).items():
            check_positive_int(name, size)
        if num_v_heads % num_heads:
            raise ValueError(f"num_v_heads must be a multiple of num_heads = {num_heads}, got {num_v_heads}")
        head_v_dim = int(expand_v * head_dim)
        if head_v_dim < 1:
            raise ValueError(f"expand_v must give at least one feature per head, got {expand_v} * {head_dim}")
        check_option("mode", mode, MODES)
        self.hidden_size, self.num_heads, self.head_dim, self.num_householder = hidden_size, num_heads, head_dim, num_householder
        self.expand_v, self.num_v_heads, self.head_v_dim = expand_v, num_v_heads, head_v_dim
        self.allow_neg_eigval, self.use_forget_gate, self.use_output_gate = allow_neg_eigval, use_forget_gate, use_output_gate
        self.use_short_conv, self.conv_size, self.norm_eps, self.mode, self.layer_idx = use_short_conv, conv_size, norm_eps, mode, layer_idx

        def linear(inputs: int, outputs: int) -> nn.Linear:
            return nn.Linear(inputs, outputs, bias=False, dtype=dtype, device=device)

        n, key, value = num_householder, num_heads * head_dim, num_v_heads * head_v_dim
        self.q_proj = linear(hidden_size, key)
        self.k_proj = linear(hidden_size, n * key)
        self.v_proj = linear(hidden_size, n * value)
        self.b_proj = linear(hidden_size, n * num_v_heads)
        if use_forget_gate:
            self.a_proj = linear(hidden_size, num_v_heads)
            self.A_log = nn.Parameter(torch.empty(num_v_heads, dtype=dtype, device=device))
            self.dt_bias = nn.Parameter(torch.empty(num_v_heads, dtype=dtype, device=device))
        if use_short_conv:
            self.q_conv1d = ShortConv(key, conv_size, dtype=dtype, device=device)
            self.k_conv1d = ShortConv(n * key, conv_size, dtype=dtype, device=device)
            self.v_conv1d = ShortConv(n * value, conv_size, dtype=dtype, device=device)
        if use_output_gate:
            self.g_proj = linear(hidden_size, value)
        self.o_norm = nn.RMSNorm(head_v_dim, eps=norm_eps, dtype=dtype, device=device)
        self.o_proj = linear(value, hidden_size)
        self.reset_parameters()

    def reset_parameters(self, std: float = 0.02) -> None:
        """Draw matrices from ``N(0, std^2)``, decays ``A`` from ``U(0, 16)``, time steps log-uniformly from ``[1e-3, 0.1]``."""
        for module in self.children():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=std)
            elif isinstance(module, nn.RMSNorm | ShortConv):
                module.reset_parameters()
        self.reset_gate()

    @torch.no_grad()
    def reset_gate(self) -> None:
        """Draw ``A_log`` and ``dt_bias`` anew."""
        if self.use_forget_gate:
            A = torch.empty_like(self.A_log, dtype=torch.float32).uniform_(0, 16)
            self.A_log.copy_(A.clamp(min=1e-4).log())  # U(0, 16) may give 0
            low, high = math.log(_DT_MIN), math.log(_DT_MAX)
            dt = torch.empty_like(self.dt_bias, dtype=torch.float32).uniform_(low, high).exp().clamp(min=_DT_FLOOR)
            self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        attention_mask: Tensor | None = None,
        cache: DeltaProductCache | None = None,
        use_cache: bool = False,
        cu_seqlens: Int[Tensor, " N1"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], DeltaProductCache | None]:
        """Mix tokens.

        Args:
            x: Tokens, shape ``(B, T, hidden_size)``.
            attention_mask: 1 for tokens and 0 for padding, shape ``(B, T)``, or longer with the tokens of earlier calls first. Padding
                before or after the tokens changes nothing at the tokens; what comes out at the padding itself means nothing.
            cache: States of earlier calls; read, and replaced if ``use_cache``.
            use_cache: Whether to return states for the next call.
            cu_seqlens: Offsets of sequences that follow one another in a batch of 1, as in ``delta_product``.

        Returns:
            Shape ``(B, T, hidden_size)``, and the cache (``None`` without one).

        Raises:
            ValueError: If a shape does not fit, or a mask comes with ``cu_seqlens``.
        """
        check_trailing("x", x, (None, None, self.hidden_size))
        if x.ndim != 3:
            raise ValueError(f"x must have shape (B, T, {self.hidden_size}), got {tuple(x.shape)}")
        B, T, _ = x.shape
        mask = self._mask(attention_mask, B, T, ragged=cu_seqlens is not None)
        offsets = None if cu_seqlens is None else check_cu_seqlens(cu_seqlens, B, T)
        index = self.layer_idx or 0
        before = LayerState() if cache is None else cache[index]

        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        if mask is not None:
            q, k, v = q * mask, k * mask, v * mask
        conv_states: tuple[Tensor | None, ...] = (None, None, None)
        if self.use_short_conv:
            window = None if offsets is None else ragged_window(offsets, self.conv_size, x.device)
            lengths = None
            if mask is not None and use_cache:
                lengths = (mask[..., 0] * torch.arange(1, T + 1, device=x.device)).amax(-1).long() if T else mask.new_zeros(B).long()
            q, q_state = self.q_conv1d(q, before.q_conv_state, window, lengths)
            k, k_state = self.k_conv1d(k, before.k_conv_state, window, lengths)
            v, v_state = self.v_conv1d(v, before.v_conv_state, window, lengths)
            conv_states = q_state, k_state, v_state
        else:
            q, k, v = F.silu(q), F.silu(k), F.silu(v)

        n, groups = self.num_householder, self.num_v_heads // self.num_heads
        q = q.reshape(B, T, self.num_heads, self.head_dim)
        k = k.reshape(B, T * n, self.num_heads, self.head_dim)
        v = v.reshape(B, T * n, self.num_v_heads, self.head_v_dim)
        if groups > 1:
            q, k = q.repeat_interleave(groups, 2), k.repeat_interleave(groups, 2)
        o, state = delta_product(
            q,
            k,
            v,
            self._beta(x, mask),
            self._log_gate(x, mask),
            num_householder=n,
            initial_state=before.recurrent_state,
            output_final_state=use_cache,
            cu_seqlens=cu_seqlens,
            l2norm_qk=True,
            mode=self.mode,
        )
        if use_cache:
            cache = DeltaProductCache() if cache is None else cache
            cache.update(index, LayerState(state, *conv_states, tokens=before.tokens + T))
        o = self.o_norm(o.to(self.o_norm.weight.dtype))
        if self.use_output_gate:
            o = o * F.silu(self.g_proj(x)).reshape(o.shape)
        return self.o_proj(o.flatten(2).to(x.dtype)), cache

    @staticmethod
    def _mask(attention_mask: Tensor | None, batch: int, tokens: int, *, ragged: bool) -> Tensor | None:
        if attention_mask is None:
            return None
        if ragged:
            raise ValueError("attention_mask must be None with cu_seqlens, which leaves no padding")
        if attention_mask.ndim != 2 or attention_mask.shape[0] != batch or attention_mask.shape[1] < tokens:
            raise ValueError(f"attention_mask must have shape (B, T) = {(batch, tokens)}, or longer, got {tuple(attention_mask.shape)}")
        return attention_mask[:, attention_mask.shape[1] - tokens :, None] != 0

    def _beta(self, x: Tensor, mask: Tensor | None) -> Tensor:
        b = self.b_proj(x)
        # in float32: a bfloat16 sigmoid is exactly 1 from 6.2 on, and the factor then loses its gradient
        beta = torch.sigmoid(b.to(torch.promote_types(b.dtype, torch.float32)))
        if self.allow_neg_eigval:
            beta = 2 * beta
        if mask is not None:
            beta = beta * mask
        return beta.reshape(x.shape[0], x.shape[1] * self.num_householder, self.num_v_heads)

    def _log_gate(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        if not self.use_forget_gate:
            return None
        a = self.a_proj(x)
        dtype = torch.promote_types(a.dtype, torch.float32)
        g = -torch.exp(self.A_log.to(dtype)) * F.softplus(a.to(dtype) + self.dt_bias.to(dtype))
        return g if mask is None else g * mask

    def extra_repr(self) -> str:
        """Configuration for ``repr``."""
        return (
            f"hidden_size={self.hidden_size}, num_heads={self.num_heads}, head_dim={self.head_dim}, "
            f"num_householder={self.num_householder}, "
            f"num_v_heads={self.num_v_heads}, head_v_dim={self.head_v_dim}, allow_neg_eigval={self.allow_neg_eigval}, "
            f"use_forget_gate={self.use_forget_gate}, mode={self.mode!r}"
        )
