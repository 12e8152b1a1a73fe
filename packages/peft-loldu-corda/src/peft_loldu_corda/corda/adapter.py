"""The tuner that peft makes from a ``CordaLoraConfig``: LoRA layers that carry their own start."""

import copy
import warnings
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.lora.layer import Linear
from peft.tuners.lora.model import LoraModel
from peft.tuners.tuners_utils import check_adapters_to_merge
from peft.utils import register_peft_method
from torch import Tensor, nn
from torch.nn import functional as F

from peft_loldu_corda._base import WatchedBuffers, kind_of, matrix_of, quantization_of, unwrap
from peft_loldu_corda.corda.config import CORDA, CordaLoraConfig
from peft_loldu_corda.corda.decompose import CordaDecomposition

__all__ = ["CordaModel", "CordaStart", "base_print", "check_print"]


@dataclass
class CordaStart:
    """A decomposition waiting for the adapter to be made from it.

    Args:
        parts: Terms that the adapter starts from, or ``None`` for a plain LoRA start.
        sigma_split: Which factor takes the singular values.
    """

    parts: CordaDecomposition | None
    sigma_split: Any = "UV"


def base_print(W: Tensor) -> Tensor:
    """Two numbers that tell one weight from another: its norm and ``u^T W v`` with fixed ``u`` and ``v``."""
    W = W.detach().double()
    u, v = (torch.arange(side, dtype=torch.float64, device=W.device).cos() for side in W.shape)
    return torch.stack([W.norm(), u @ W @ v]).cpu()


def check_print(name: str, W: Tensor, stored: Tensor, dtype: torch.dtype) -> None:
    """Raise unless a weight is the one whose print was stored, up to rounding.

    Raises:
        RuntimeError: If it is not.
    """
    tolerance = 1e-3 if dtype in (torch.float32, torch.float64) else 3e-2
    found, stored = base_print(W), stored.double().cpu()
    distance = float((found - stored).abs().max() / stored[0].clamp(min=1e-300))
    if not distance <= tolerance:
        raise RuntimeError(
            f"the adapter was not made for this base model: {name} has norm {float(found[0]):.4g} and probe {float(found[1]):.4g}, the "
            f"file says {float(stored[0]):.4g} and {float(stored[1]):.4g}. Was the base replaced by the residual of peft's CorDA?"
        )


class _Down(nn.Module):
    """``x -> (A x, A0 x)``, a pair of products of their own, so that equal parts stay equal to the last bit; only ``A`` is trained."""

    bias = None

    def __init__(self, trained: Tensor, start: Tensor) -> None:
        super().__init__()
        self.trained = nn.Parameter(trained)
        self.register_buffer("start", start)

    @property
    def weight(self) -> Tensor:
        """Both parts, shape ``(2r, n)``."""
        start: Any = self.start
        return torch.cat([self.trained, start.to(self.trained.dtype)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        start: Any = self.start
        return F.linear(x, self.trained), F.linear(x, start.to(self.trained.dtype))


class _Up(nn.Module):
    """``(h, h0) -> B h - B0 h0``; only ``B`` is trained."""

    bias = None

    def __init__(self, trained: Tensor, start: Tensor) -> None:
        super().__init__()
        self.trained = nn.Parameter(trained)
        self.register_buffer("start", start)

    @property
    def weight(self) -> Tensor:
        """Both parts, shape ``(m, 2r)``."""
        start: Any = self.start
        return torch.cat([self.trained, -start.to(self.trained.dtype)], dim=1)

    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        start: Any = self.start
        return F.linear(pair[0], self.trained) - F.linear(pair[1], start.to(self.trained.dtype))


def _check_loaded(layer: "CordaLinear", incompatible_keys: Any = None) -> None:
    """Post-hook of ``load_state_dict``: the base must be the one that a loaded adapter was made for."""
    for name in list(layer.lora_base_print):
        stored = layer.lora_base_print[name]
        if stored.is_meta or (layer.checked.get(name) is stored and layer.checked_version.get(name) == stored._version):
            continue
        base: Any = layer.get_base_layer()
        recorded = layer.made_for.get(name)
        backend = layer.quantization_backend
        if not base.weight.is_meta and recorded == (None if backend is None else backend.backend_name):
            check_print(layer.name, matrix_of(base, layer.kind, backend), stored, base.weight.dtype)
        layer.mark_checked(name)
    layer.lora_base_print.changed.clear()


class CordaLinear(Linear):
    """peft's LoRA layer of rank ``2r`` whose second half is the frozen start with a minus sign.

    Args:
        base_layer: Linear, quantised linear, or Conv1D of transformers.
        adapter_name: Name of the first adapter.
        config: Its configuration.
        name: Name of the layer in the model.
        backend: How its weight is quantised.
        **kwargs: As peft's.
    """

    name: str
    kind: str
    backend: Any
    lora_base_print: Any
    made_for: dict[str, str | None]
    checked: dict[str, Tensor]
    checked_version: dict[str, int]
    _unmerged: Any

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: Any, *, name: str, backend: Any, **kwargs: Any) -> None:
        # peft's constructor calls update_layer, which needs these
        for key, value in (("name", name), ("kind", kind_of(unwrap(base_layer), backend, name)), ("backend", backend)):
            object.__setattr__(self, key, value)
        config = _for_layer(config, self.kind)
        super().__init__(base_layer, adapter_name, config, is_target_conv_1d_layer=self.kind == "transposed", **kwargs)
        self.quantization_backend = backend
        self.register_load_state_dict_post_hook(_check_loaded)

    def update_layer(self, adapter_name: str, r: int, lora_alpha: float, config: Any, **kwargs: Any) -> None:
        """Add an adapter, or start one anew."""
        base: Any = self.get_base_layer()
        waiting: CordaStart | None = base.__dict__.pop("corda_start", None)
        if waiting is None and not config.restored:
            raise ValueError(f"{self.name} has no decomposition: call preprocess_corda(model, config, data=...) before get_peft_model")
        if not hasattr(self, "lora_base_print"):
            self.lora_base_print = WatchedBuffers()
            self.other_param_names = (*self.other_param_names, "lora_base_print", "made_for", "checked", "checked_version")
            self.made_for, self.checked, self.checked_version, self._unmerged = {}, {}, {}, None
        super().update_layer(adapter_name, r, lora_alpha, _for_layer(config, self.kind), **kwargs)  # pyright: ignore[reportArgumentType] - patterns hold floats
        down, up = cast(Any, self.lora_A[adapter_name]), cast(Any, self.lora_B[adapter_name])
        A, B = down.weight.detach(), up.weight.detach()
        A0, B0 = torch.zeros_like(A), torch.zeros_like(B)
        if waiting is not None and waiting.parts is not None and not A.is_meta:
            if len(waiting.parts.S) != r:
                raise ValueError(f"{self.name} was decomposed for rank {len(waiting.parts.S)}, but r is {r}; call preprocess_corda again")
            A0, B0 = (f.to(A) for f in waiting.parts.factors(self.scaling[adapter_name], sigma_split=waiting.sigma_split))
            A, B = A0.clone(), B0.clone()
        self.lora_A[adapter_name], self.lora_B[adapter_name] = _Down(A, A0), _Up(B, B0)
        readable = not (A.is_meta or base.weight.is_meta or config.restored)
        self.lora_base_print[adapter_name] = (
            base_print(matrix_of(base, self.kind, self.backend)) if readable else torch.zeros(2, dtype=torch.float64, device=A.device)
        )
        self.made_for[adapter_name] = config.base_quantization
        self.mark_checked(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def mark_checked(self, name: str) -> None:
        """Remember that the base was compared with this print."""
        self.checked[name], self.checked_version[name] = self.lora_base_print[name], self.lora_base_print[name]._version

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.lora_base_print.changed:
            _check_loaded(self)
        return super().forward(x, *args, **kwargs)

    def start_of(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """``A0`` and ``B0``."""
        down, up = self.lora_A[adapter_name], self.lora_B[adapter_name]
        return down.start, up.start  # pyright: ignore[reportReturnType]

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        prints = self.lora_base_print._buffers.pop(adapter_name, None) if hasattr(self, "lora_base_print") else None
        super()._move_adapter_to_device_of_base_layer(adapter_name, device)
        if prints is not None:
            self.lora_base_print._buffers[adapter_name] = prints  # stays in float64

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add adapters to the base weight; without DoRA, ``unmerge`` gives back the very same weight.

        Raises:
            ValueError: With ``safe_merge``, if the merged weight would not be finite.
            TypeError: If the weight is quantised and cannot be written back, or DoRA would have to be merged into it.
        """
        names = [n for n in check_adapters_to_merge(self, adapter_names) or () if n in self.lora_A]
        base: Any = self.get_base_layer()
        backend = self.quantization_backend
        if not names:
            return
        if self._unmerged is None:
            self._unmerged = base.weight
        if backend is None:
            base.weight = nn.Parameter(base.weight.detach().clone(), requires_grad=base.weight.requires_grad)  # tied layers keep theirs
            super().merge(safe_merge=safe_merge, adapter_names=names)
            return
        for name in names:
            if name in self.lora_variant:
                raise TypeError(f"adapter {name!r} uses DoRA, which cannot be merged into the {backend.backend_name} weight of {self.name}")
            if not backend.supports_merge:
                backend.set_base_weight(self, base.weight)  # says why not
            weight = self.get_base_weight()
            delta = self.get_delta_weight(name).detach()
            self.set_base_weight((weight.to(delta.dtype) + delta).to(weight.dtype))
            self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Put the base weight back."""
        if not self.merged:
            warnings.warn("no adapter is merged, nothing to take out", stacklevel=2)
            return
        base: Any = self.get_base_layer()
        base.weight = self._unmerged.to(base.weight.device) if self._unmerged.device != base.weight.device else self._unmerged
        for name in self.merged_adapters:
            if f"{name}-weight_norm" in self._caches:
                self._cache_pop(f"{name}-weight_norm")
        self._unmerged = None
        self.merged_adapters.clear()


def _for_layer(config: Any, kind: str) -> Any:
    """The configuration with the storage order of one layer."""
    config = copy.copy(config)
    config.fan_in_fan_out = kind == "transposed"
    return config


class CordaModel(LoraModel):
    """A model with CorDA adapters on an untouched base; made by ``peft.get_peft_model(model, CordaLoraConfig(...))``."""

    @staticmethod
    def _create_new_module(lora_config: Any, adapter_name: str, target: nn.Module, **kwargs: Any) -> nn.Module:
        base, name = unwrap(target), kwargs.get("target_name", "")
        recipe = kwargs.get("get_apply_tensor_subclass")
        backend = quantization_of(base, **({} if recipe is None else {"get_apply_tensor_subclass": recipe}))
        if kind_of(base, backend, name) not in ("linear", "transposed"):
            raise TypeError(f"CorDA needs linear layers or Conv1D of transformers, but {name} is a {type(base).__name__}")
        if backend is not None and not lora_config.restored:
            lora_config.base_quantization = backend.backend_name
        return CordaLinear(target, adapter_name, lora_config, name=name, backend=backend, **kwargs)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # peft's would also move the new layer to its device; ours is there already, or on the meta device until it is loaded.
        setattr(parent, child_name, new_module)

    @classmethod
    def _get_adapter_state_dict(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor], unwanted_adapter_names: list[str]
    ) -> dict[str, Tensor]:
        # LoRA shortens the name of the DoRA magnitude, after which transformers cannot load it.
        return super(LoraModel, cls)._get_adapter_state_dict(model, config, adapter_name, state_dict, unwanted_adapter_names)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        bare = {key.removeprefix("base_model.model.") for key in state_dict}
        missing = []
        for name, layer in model.named_modules():
            if isinstance(layer, CordaLinear) and adapter_name in layer.lora_A:
                path = name.removeprefix("base_model.model.")
                missing += [key for part in ("lora_A", "lora_B") if (key := f"{path}.{part}.trained") not in bare]
        if missing:
            raise RuntimeError(
                f"adapter {adapter_name!r} does not fit this base model: {len(missing)} of its tensors are missing, such as {missing[0]}"
            )
        return super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)


def register_corda() -> None:
    """Register CORDA with peft, under LoRA's prefix: its layers are LoRA layers."""
    if CORDA not in PEFT_TYPE_TO_CONFIG_MAPPING:
        register_peft_method(name="corda", config_cls=CordaLoraConfig, model_cls=CordaModel, prefix="lora_")
