"""Layers with named LoLDU adapters beside them; the base weight is read, never written except by ``merge``."""

import math
import warnings
from typing import Any

import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from peft.utils.other import get_pattern_key
from peft.utils.quantization_utils import QuantizationBackend
from torch import Tensor, nn
from torch.nn import functional as F

from geocore.structured import column_order
from peft_loldu_corda._base import WatchedBuffers, kind_of, matrix_of, to_weight
from peft_loldu_corda.functional import loldu_factors
from peft_loldu_corda.loldu._restore import restore_factors
from peft_loldu_corda.loldu.config import LolduConfig, check_alpha, check_rank

__all__ = ["LolduLayer"]


def initial_diagonal(d: Tensor, kind: str) -> Tensor:
    """Start of the trained diagonal, given the pivots."""
    if kind == "ldu":
        return d.clone()
    if kind == "constant":
        return torch.full_like(d, float(d.mean()))
    if kind == "normal":
        return d.mean() + torch.nan_to_num(d.std()) * torch.randn_like(d)
    if kind == "uniform":
        return (torch.rand_like(d) - 0.5) * d.mean().abs()
    if kind == "std_uniform":
        return 2 * torch.rand_like(d) - 1
    if kind == "std_normal":
        return torch.randn_like(d)
    return torch.ones_like(d) if kind == "ones" else torch.zeros_like(d)


class LolduLayer(nn.Module, BaseTunerLayer):
    """A layer ``W x + b`` with named adapters ``s L diag(z - d) U x`` (arXiv 2410.13618).

    Args:
        base_layer: Linear, quantised linear, Conv1D of transformers, embedding or convolution without groups.
        adapter_name: Name of the first adapter.
        config: Its configuration.
        name: Name of the layer in the model, for messages and patterns.
        backend: How its weight is quantised.

    Raises:
        TypeError: If the layer is of another type.
        ValueError: If the rank does not fit it.
    """

    adapter_layer_names = ("loldu_diag",)
    other_param_names = (
        *("loldu_L", "loldu_U", "loldu_d0", "loldu_perm", "loldu_columns", "loldu_dropout"),
        *("r", "lora_alpha", "scaling", "relative"),
    )
    loldu_L: Any  # noqa: N815
    loldu_U: Any  # noqa: N815
    loldu_d0: Any
    loldu_perm: Any
    loldu_columns: Any
    in_features: int
    out_features: int

    def __init__(
        self, base_layer: nn.Module, adapter_name: str, config: LolduConfig, *, name: str = "", backend: QuantizationBackend | None = None
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.name = name
        self.quantization_backend = backend
        base: Any = self.get_base_layer()
        self.kind = kind_of(base, backend, name)
        weight: Any = base.weight
        if backend is not None:
            self.out_features, self.in_features = int(base.out_features), int(base.in_features)
        elif self.kind in ("transposed", "embedding"):
            self.in_features, self.out_features = weight.shape
        else:
            self.out_features, self.in_features = weight.shape[0], math.prod(weight.shape[1:])
        self.loldu_diag, self.loldu_dropout = nn.ParameterDict(), nn.ModuleDict()
        self.loldu_L, self.loldu_U = BufferDict({}), BufferDict({})
        self.loldu_d0, self.loldu_perm, self.loldu_columns = WatchedBuffers(), WatchedBuffers(), WatchedBuffers()
        self.r: dict[str, int] = {}
        self.lora_alpha: dict[str, float] = {}
        self.scaling: dict[str, float] = {}
        self.relative: dict[str, bool] = {}
        self._built: dict[str, tuple[Tensor, Tensor, int, int]] = {}
        self._configs: dict[str, LolduConfig] = {}
        self._unmerged: Any = None
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self.register_load_state_dict_post_hook(restore_factors)
        self.update_layer(adapter_name, config)

    def _rank(self, config: LolduConfig) -> tuple[int, float]:
        """Rank and alpha of this layer."""
        largest = min(self.out_features, self.in_features)
        r = config.rank_pattern.get(get_pattern_key(list(config.rank_pattern), self.name), config.r)
        check_rank(f"r of {self.name}", r)
        r = largest if r == "full" else int(r)
        if r > largest:
            raise ValueError(f"r must be at most min(out, in) = {largest} for {self.name}, got {r}")
        alpha = config.alpha_pattern.get(get_pattern_key(list(config.alpha_pattern), self.name), config.lora_alpha)
        check_alpha(f"lora_alpha of {self.name}", alpha)
        return r, float(r if alpha == "r" else alpha)

    def update_layer(self, adapter_name: str, config: LolduConfig) -> None:
        """Add an adapter, or start one anew."""
        r, alpha = self._rank(config)
        self.r[adapter_name], self.lora_alpha[adapter_name] = r, alpha
        self.scaling[adapter_name] = alpha / math.sqrt(r) if config.use_rslora else alpha / r
        self.relative[adapter_name] = config.parametrization == "relative"
        self._configs[adapter_name] = config
        self.loldu_dropout[adapter_name] = nn.Dropout(config.lora_dropout)
        weight: Any = self.get_base_layer().weight
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        z = nn.Parameter(torch.zeros(r, dtype=dtype, device=weight.device))
        self.loldu_diag[adapter_name] = z
        waits = config.column_order == "activation" and not hasattr(self.get_base_layer(), "loldu_activity")
        if waits and not config.restored:
            raise ValueError(
                f"column_order='activation' needs preprocess_loldu(model, config, data=...) first; {self.name} has no statistics"
            )
        if waits or weight.is_meta or self.loldu_diag[adapter_name].is_meta:
            self._allocate(adapter_name, r, dtype)
        else:
            self._factorise(adapter_name, r, config)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def _columns(self, W: Tensor, config: LolduConfig) -> Tensor | None:
        if config.column_order == "natural":
            return None
        if config.column_order == "activation":
            base: Any = self.get_base_layer()
            activity = base.loldu_activity
            del base.loldu_activity
            return activity.to(W.device).argsort(descending=True, stable=True)
        return column_order(W, config.column_order)

    def _factorise(self, adapter_name: str, r: int, config: LolduConfig) -> None:
        W = matrix_of(self.get_base_layer(), self.kind, self.quantization_backend)
        columns = self._columns(W, config)
        if columns is not None:
            columns = columns[:r]
        factors = loldu_factors(W, r, columns=columns)
        self.set_factors(adapter_name, factors.L, factors.U, factors.d, factors.pivots, columns)
        z = initial_diagonal(factors.d, config.init_diag)
        with torch.no_grad():
            if self.relative[adapter_name]:
                z = (z - factors.d) / self._unit(adapter_name)
            self.loldu_diag[adapter_name].copy_(z)

    def _allocate(self, adapter_name: str, r: int, dtype: torch.dtype) -> None:
        """Buffers of the right shape without content; loading fills them."""
        place = self.loldu_diag[adapter_name].device
        config = self._configs[adapter_name]

        def empty(*shape: int, dtype: torch.dtype = dtype, device: torch.device | str = place) -> Tensor:
            return torch.zeros(*shape, dtype=dtype, device=device)

        columns = None if config.column_order == "natural" else empty(r, dtype=torch.int32)
        later = place if self._keeps_projection(config) else "meta"
        L, U = empty(self.out_features, r, device=later), empty(r, self.in_features, device=later)
        self.set_factors(adapter_name, L, U, empty(r), empty(r, dtype=torch.int32), columns)
        self._built.pop(adapter_name, None)

    def _keeps_projection(self, config: LolduConfig) -> bool:
        return self.quantization_backend is not None if config.save_projection is None else config.save_projection

    def set_factors(self, adapter_name: str, L: Tensor, U: Tensor, d: Tensor, pivots: Tensor, columns: Tensor | None) -> None:
        """Store the frozen part of an adapter."""
        keep = self._keeps_projection(self._configs[adapter_name])
        self.loldu_L.register_buffer(adapter_name, L, persistent=keep)
        self.loldu_U.register_buffer(adapter_name, U, persistent=keep)
        self.loldu_d0[adapter_name], self.loldu_perm[adapter_name] = d, pivots.to(torch.int32)
        if columns is not None:
            self.loldu_columns[adapter_name] = columns.to(torch.int32)
        self.mark_built(adapter_name)

    def mark_built(self, adapter_name: str) -> None:
        """Remember which pivots the factors belong to."""
        perm, d = self.loldu_perm[adapter_name], self.loldu_d0[adapter_name]
        self._built[adapter_name] = (perm, d, perm._version, d._version)

    def keep_projection(self, adapter_name: str) -> None:
        """Let the state dict hold the triangular factors of an adapter."""
        z = self.loldu_diag[adapter_name]
        for factors in (self.loldu_L, self.loldu_U):
            kept = factors[adapter_name]
            if kept.is_meta and not z.is_meta:
                kept = torch.zeros_like(kept, device=z.device)
            factors.register_buffer(adapter_name, kept, persistent=True)

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove an adapter."""
        super().delete_adapter(adapter_name)
        self._built.pop(adapter_name, None)
        self._configs.pop(adapter_name, None)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        """As peft's, but the dtype stays: factors in half precision would not give back the weight they came from."""
        weight: Any = self.get_base_layer().weight
        device = torch.device(weight.device if device is None else device)
        if device.type == "meta":
            return
        for entries in (self.loldu_diag, self.loldu_d0, self.loldu_perm, self.loldu_columns, self.loldu_L, self.loldu_U):
            if adapter_name in entries and not entries[adapter_name].is_meta:
                moved = entries[adapter_name].to(device)
                if entries is self.loldu_diag:
                    entries[adapter_name].data = moved
                else:
                    entries._buffers[adapter_name] = moved

    def _unit(self, adapter_name: str) -> Tensor:
        """What a relative step of 1 is worth: the pivot, or 1 where there is none."""
        d = self.loldu_d0[adapter_name]
        return torch.where(d == 0, torch.ones_like(d), d)

    def change(self, adapter_name: str) -> Tensor:
        """``z - d``, shape ``(r,)``; exactly 0 before training."""
        if self.loldu_perm.changed or self.loldu_d0.changed:
            restore_factors(self)
        z, d = self.loldu_diag[adapter_name], self.loldu_d0[adapter_name]
        if d.is_meta or self.loldu_L[adapter_name].is_meta:
            raise RuntimeError(f"adapter {adapter_name!r} of {self.name} has no factors yet: load its weights first")
        return z * self._unit(adapter_name) if self.relative[adapter_name] else z - d

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """Change of the base weight, in its shape."""
        weight = self.scaling[adapter_name] * self.change(adapter_name)
        matrix = (self.loldu_L[adapter_name] * weight) @ self.loldu_U[adapter_name]
        return to_weight(matrix, self.get_base_layer(), self.kind)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """True: the change has rank ``r``."""
        return True

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add adapters to the base weight; ``unmerge`` gives back the very same weight.

        Raises:
            ValueError: With ``safe_merge``, if the merged weight would not be finite; the base stays as it was.
            TypeError: If the weight is quantised in a way that cannot be written back.
        """
        base: Any = self.get_base_layer()
        backend = self.quantization_backend
        for name in check_adapters_to_merge(self, adapter_names) or ():
            if name not in self.loldu_diag:
                continue
            if backend is not None and not backend.supports_merge:
                backend.set_base_weight(self, base.weight)  # says why not
            weight = self.get_base_weight()
            delta = self.get_delta_weight(name).detach()
            merged = (weight.to(delta.dtype) + delta).to(weight.dtype)
            if safe_merge and not bool(torch.isfinite(merged).all()):
                raise ValueError(f"adapter {name!r} must leave finite weights, but merging it into {self.name} gives NaN or infinity")
            if self._unmerged is None:
                self._unmerged = base.weight
            if backend is None:
                base.weight = nn.Parameter(merged, requires_grad=base.weight.requires_grad)  # a new one: tied layers keep theirs
            else:
                self.set_base_weight(merged)
            self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Put the base weight back, bit for bit."""
        if not self.merged:
            warnings.warn("no adapter is merged, nothing to take out", stacklevel=2)
            return
        base: Any = self.get_base_layer()
        now = base.weight
        base.weight = self._unmerged.to(now.device) if self._unmerged.device != now.device else self._unmerged
        self._unmerged = None
        self.merged_adapters.clear()

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The base layer and the active adapters."""
        if self.disable_adapters:
            if self.merged:
                self.unmerge()
            return self.base_layer(x, *args, **kwargs)
        y = self.base_layer(x, *args, **kwargs)
        if self.merged:
            return y
        for name in self.active_adapters:
            if name in self.loldu_diag:
                y = y + self._delta(x, name).to(y.dtype)
        return y

    def _delta(self, x: Tensor, name: str) -> Tensor:
        weight = self.scaling[name] * self.change(name)
        L, U = self.loldu_L[name], self.loldu_U[name]
        if self.kind == "embedding":
            delta = F.linear(F.embedding(x, U.T) * weight, L)
            scale = getattr(self.get_base_layer(), "embed_scale", None)
            return delta if scale is None else delta * scale
        x = self.loldu_dropout[name](self._cast_input_dtype(x, U.dtype))
        if self.kind != "conv":
            return F.linear(F.linear(x, U) * weight, L)
        base: Any = self.get_base_layer()
        middle = base._conv_forward(x, U.view(-1, *base.weight.shape[1:]), None)
        shape = (-1, *(1,) * (base.weight.ndim - 2))
        conv = (F.conv1d, F.conv2d, F.conv3d)[base.weight.ndim - 3]
        return conv(middle * weight.view(shape), L.view(*L.shape, *shape[1:]))
