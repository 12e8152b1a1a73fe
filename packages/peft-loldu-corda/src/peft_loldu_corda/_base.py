"""What both methods need to know of the layers they adapt: their weight as a matrix, and whether it is quantised."""

from typing import Any

import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.integrations import dequantize_module_weight, gather_params_ctx
from peft.utils.quantization_utils import ForwardOnlyQuantizationBackend, QuantizationBackend, resolve_quantization_backend
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

__all__ = ["DequantizeOnly", "WatchedBuffers", "kind_of", "matrix_of", "named_targets", "quantization_of", "to_weight", "unwrap"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class DequantizeOnly(QuantizationBackend):
    """A quantised layer that can be read but not written back, such as one of torchao whose recipe is not known."""

    supports_merge = False
    layer_type = "linear"

    def __init__(self, backend_name: str) -> None:
        self.backend_name = backend_name

    def get_base_weight(self, base_layer: nn.Module) -> Tensor:
        """Dequantised weight."""
        return dequantize_module_weight(base_layer)

    def set_base_weight(self, peft_layer: Any, weight_data: Tensor) -> None:
        """Refused.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            f"cannot merge into a {self.backend_name} weight: how to quantise it again is not known. Convert the adapter to LoRA, or "
            "load the model through transformers with its quantization_config"
        )


class WatchedBuffers(BufferDict):
    """Saved buffers by adapter name that remember which were set from outside.

    ``load_adapter`` of transformers sets buffers one by one, without ``load_state_dict`` and so without its hooks.
    """

    def __init__(self) -> None:
        super().__init__({}, persistent=True)
        self.changed: set[str] = set()

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in self.__dict__.get("_buffers", ()):
            self.changed.add(name)


def unwrap(module: nn.Module) -> nn.Module:
    """The layer under adapters of any method."""
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def quantization_of(base: nn.Module, **kwargs: Any) -> QuantizationBackend | None:
    """How the weight is quantised, or ``None``."""
    try:
        return resolve_quantization_backend(base, **kwargs)
    except ValueError:  # torchao without the quantisation recipe
        return DequantizeOnly("torchao")


def kind_of(base: nn.Module, backend: QuantizationBackend | None, name: str) -> str:
    """``"linear"``, ``"transposed"`` (Conv1D of transformers), ``"conv"`` or ``"embedding"``.

    Raises:
        TypeError: If the layer is none of these, with its name.
    """
    if backend is not None:
        if backend.layer_type == "linear" and not isinstance(backend, ForwardOnlyQuantizationBackend):
            return "linear"
    elif isinstance(base, nn.Linear) and not isinstance(base, nn.modules.linear.NonDynamicallyQuantizableLinear):
        if isinstance(base.weight, Tensor) and base.weight.dtype.is_floating_point:
            return "linear"
    elif isinstance(base, Conv1D):
        return "transposed"
    elif isinstance(base, nn.Embedding):
        return "embedding"
    elif isinstance(base, _CONVOLUTIONS):
        if base.groups == 1:
            return "conv"
        raise TypeError(f"target_modules must name convolutions without groups, but {name} has groups={base.groups}")
    detail = f" with {base.weight.dtype} weights" if isinstance(getattr(base, "weight", None), Tensor) else ""
    raise TypeError(
        f"target_modules must name linear layers (quantised ones if they can be dequantised), Conv1D of transformers, embeddings or "
        f"convolutions, but {name} is a {type(base).__name__}{detail}"
    )


def matrix_of(base: nn.Module, kind: str, backend: QuantizationBackend | None) -> Tensor:
    """The weight as ``(out, in)``, dequantised, at least float32, detached."""
    with torch.no_grad(), gather_params_ctx(base.weight):  # pyright: ignore[reportArgumentType]
        weight: Any = base.weight if backend is None else backend.get_base_weight(base)
        weight = weight.detach()
        W = weight.T if kind in ("transposed", "embedding") else weight.flatten(1)
        if W.dtype not in (torch.float32, torch.float64):
            W = W.float()
        return W


def to_weight(matrix: Tensor, base: nn.Module, kind: str) -> Tensor:
    """A matrix ``(out, in)`` in the shape of the weight."""
    if kind in ("transposed", "embedding"):
        return matrix.T
    if kind == "conv":
        shape: Any = base.weight.shape
        return matrix.reshape(shape)
    return matrix


def named_targets(model: nn.Module, config: Any) -> list[tuple[str, nn.Module]]:
    """The layers that peft would adapt under a configuration, by name; layers of an adapted model are looked through.

    Raises:
        ValueError: If there is none.
    """
    from peft.tuners.lora import LoraModel
    from peft.tuners.tuners_utils import BaseTuner, _maybe_include_all_linear_layers

    if config.target_modules is None:
        from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

        known = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(BaseTuner.get_model_config(model).get("model_type", ""))
        if known is None:
            raise ValueError("target_modules must name the layers to adapt: peft knows no default for this model")
        config.target_modules = set(known)
    config = _maybe_include_all_linear_layers(config, model)
    found = []
    for name, module in model.named_modules():
        if ".base_layer" in name or not LoraModel._check_target_module_exists(config, name):
            continue
        found.append((name, unwrap(module)))
    if not found:
        raise ValueError(f"target_modules must match layers of the model, but {config.target_modules!r} matches none")
    return found
