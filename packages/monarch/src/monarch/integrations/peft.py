"""Monarch adapters as a method of peft: ``get_peft_model(model, MonarchConfig(target_modules=[...]))``.

Importing this module registers the method under the name ``monarch``; do so before loading a saved adapter, too.
"""

import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from monarch.adapter import adapter_delta, adapter_dense, adapter_factors

try:
    from peft import PeftConfig
    from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, check_adapters_to_merge
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    from geocore.integrations.peft import peft_type, register_method
except ImportError as error:
    raise ImportError("monarch.integrations.peft needs peft: pip install 'monarch[peft]'") from error

__all__ = ["MonarchConfig", "MonarchLayer", "MonarchModel"]


MONARCH = peft_type("MONARCH")


@dataclass
class MonarchConfig(PeftConfig):
    """Configuration of a Monarch adapter (MoRe, arXiv 2408.17383).

    Args:
        blk_r: Rows of a block; ``nblocks blk_r (in / nblocks + out / nblocks)`` parameters per layer.
        nblocks: Number of blocks.
        monarch_dropout: Probability of dropping an input of the adapter in training.
        target_modules: Names of the layers to adapt, a regular expression, or ``"all-linear"``; peft's choice for the model otherwise.
        exclude_modules: Layers to leave out.
        modules_to_save: Other layers to train and save.
        layers_to_transform: Indices of the transformer layers to adapt.
        layers_pattern: Name of the list of transformer layers.

    Raises:
        ValueError: If a size or the probability is out of range.
    """

    blk_r: int = field(default=4, metadata={"help": "Rows of a block."})
    nblocks: int = field(default=4, metadata={"help": "Number of blocks."})
    monarch_dropout: float = field(default=0.1, metadata={"help": "Dropout of the adapter's input."})
    target_modules: list[str] | str | None = field(default=None, metadata={"help": "Layers to adapt."})
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "Layers to leave out."})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "Other layers to train and save."})
    layers_to_transform: list[int] | int | None = field(default=None, metadata={"help": "Indices of layers to adapt."})
    layers_pattern: list[str] | str | None = field(default=None, metadata={"help": "Name of the list of layers."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = MONARCH
        for name in ("blk_r", "nblocks"):
            if isinstance(getattr(self, name), bool) or not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"{name} must be an int of at least 1, got {getattr(self, name)!r}")
        if not 0 <= self.monarch_dropout < 1:
            raise ValueError(f"monarch_dropout must lie in [0, 1), got {self.monarch_dropout}")
        for name in ("target_modules", "exclude_modules"):
            value = getattr(self, name)
            setattr(self, name, set(value) if isinstance(value, list) else value)


class MonarchLayer(nn.Module, BaseTunerLayer):
    """A linear layer with named Monarch adapters.

    Args:
        base_layer: ``nn.Linear``.
        adapter_name: Name of the first adapter.
        config: Its configuration.
    """

    adapter_layer_names = ("monarch_w1", "monarch_w2")
    other_param_names = ("monarch_dropout",)

    def __init__(self, base_layer: nn.Linear, adapter_name: str, config: MonarchConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        self.monarch_w1, self.monarch_w2, self.monarch_dropout = nn.ParameterDict(), nn.ParameterDict(), nn.ModuleDict()
        self._disable_adapters = False
        self.merged_adapters = []
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: MonarchConfig) -> None:
        """Add an adapter, or start one anew."""
        weight = self.get_base_layer().weight
        w1, w2 = adapter_factors(self.in_features, self.out_features, config.blk_r, config.nblocks)
        self.monarch_w1[adapter_name], self.monarch_w2[adapter_name] = nn.Parameter(w1), nn.Parameter(w2)
        self.monarch_dropout[adapter_name] = nn.Dropout(config.monarch_dropout)
        if weight.device.type != "meta":
            self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """Change of the weight, shape ``(out, in)``."""
        return adapter_dense(self.monarch_w1[adapter_name], self.monarch_w2[adapter_name], self.in_features, self.out_features)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add adapters to the base weight.

        Raises:
            ValueError: With ``safe_merge``, if the merged weight would not be finite; the base stays as it was.
        """
        for name in check_adapters_to_merge(self, adapter_names) or ():
            if name not in self.monarch_w1:
                continue
            weight: Any = self.get_base_layer().weight
            merged = weight.data + self.get_delta_weight(name).to(weight.dtype)
            if safe_merge and not bool(torch.isfinite(merged).all()):
                raise ValueError(f"adapter {name!r} must leave finite weights, but merging it gives NaN or infinity")
            weight.data = merged
            self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Take merged adapters out of the base weight, up to rounding."""
        if not self.merged:
            warnings.warn("no adapter is merged, nothing to take out", stacklevel=2)
            return
        while self.merged_adapters:
            name = self.merged_adapters.pop()
            weight: Any = self.get_base_layer().weight
            weight.data = weight.data - self.get_delta_weight(name).to(weight.dtype)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters:
            if self.merged:
                self.unmerge()
            return self.base_layer(x, *args, **kwargs)
        y = self.base_layer(x, *args, **kwargs)
        if self.merged:
            return y
        for name in self.active_adapters:
            if name in self.monarch_w1:
                w1, w2 = self.monarch_w1[name], self.monarch_w2[name]
                inputs = self.monarch_dropout[name](self._cast_input_dtype(x, w1.dtype))
                y = y + adapter_delta(inputs, w1, w2, self.out_features).to(y.dtype)
        return y


class MonarchModel(BaseTuner):
    """The tuner that peft makes from a ``MonarchConfig``."""

    prefix = "monarch_"
    tuner_layer_cls = MonarchLayer
    target_module_mapping = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if parameter_name is not None:
            raise NotImplementedError(f"a Monarch adapter stands beside a linear layer, not a bare parameter; got {parameter_name!r}")
        if isinstance(target, MonarchLayer):
            target.update_layer(adapter_name, peft_config)
            return
        base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        if type(base) is not nn.Linear:
            raise TypeError(
                f"target_modules must name nn.Linear layers, but {current_key} is a {type(base).__name__}; quantised and transposed layers "
                "are not supported"
            )
        layer = MonarchLayer(target, adapter_name, peft_config)  # pyright: ignore[reportArgumentType]
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)


register_method("monarch", MonarchConfig, MonarchModel)
