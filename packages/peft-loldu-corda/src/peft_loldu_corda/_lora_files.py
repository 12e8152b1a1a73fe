"""Plain LoRA adapters made from ours: a configuration, a state dict, a folder that peft loads without this package."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

__all__ = ["LoraFactors", "lora_config_for", "read_prints", "write_adapter"]

_PRINTS = "peft_loldu_corda.base"


@dataclass
class LoraFactors:
    """``s B A`` of one layer with the scale in ``B``.

    Args:
        A: Shape ``(r, n)``, or that of a convolution.
        B: Shape ``(m, r)``, or that of a convolution.
        scaling: Scale that the configuration has to give.
        embedding: Whether the layer is an embedding, which names its factors differently.
        transposed: Whether the weight is stored as ``(in, out)``.
        magnitude: DoRA magnitude, if any.
        error: Relative error of ``s B A``.
    """

    A: Tensor
    B: Tensor
    scaling: float
    embedding: bool = False
    transposed: bool = False
    magnitude: Tensor | None = None
    error: float = 0.0

    @property
    def r(self) -> int:
        """Rank."""
        return self.A.shape[0]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Entries of peft's state dict."""
        path = f"base_model.model.{name}"
        keys = ("lora_embedding_A", "lora_embedding_B") if self.embedding else ("lora_A.weight", "lora_B.weight")
        found = {f"{path}.{keys[0]}": self.A.contiguous(), f"{path}.{keys[1]}": self.B.contiguous()}
        if self.magnitude is not None:
            found[f"{path}.lora_magnitude_vector"] = self.magnitude.contiguous()
        return found


def lora_config_for(layers: Mapping[str, LoraFactors], like: Any) -> LoraConfig:
    """A plain ``LoraConfig`` with the ranks and scales of the layers; other settings as in ``like``."""
    first = next(iter(layers.values()))
    alphas = {name: f.scaling * f.r for name, f in layers.items()}
    alpha = alphas[next(iter(layers))]
    return LoraConfig(
        r=first.r,
        lora_alpha=alpha,  # pyright: ignore[reportArgumentType]
        target_modules=list(layers),
        rank_pattern={name: f.r for name, f in layers.items() if f.r != first.r},
        alpha_pattern={name: a for name, a in alphas.items() if a != alpha},
        lora_dropout=getattr(like, "lora_dropout", 0.0),
        use_dora=any(f.magnitude is not None for f in layers.values()),
        fan_in_fan_out=all(f.transposed for f in layers.values()),
        modules_to_save=like.modules_to_save,
        task_type=like.task_type,
        base_model_name_or_path=like.base_model_name_or_path,
        inference_mode=True,
    )


def state_dict_of(layers: Mapping[str, LoraFactors]) -> dict[str, Tensor]:
    """Entries of peft's state dict for all layers."""
    return {key: value.detach().cpu() for name, f in layers.items() for key, value in f.tensors(name).items()}


def saved_modules(model: Any, adapter_name: str) -> dict[str, Tensor]:
    """State of the layers in ``modules_to_save``, as peft saves it."""
    from peft.utils.other import ModulesToSaveWrapper

    found = {}
    for name, module in model.named_modules():
        if isinstance(module, ModulesToSaveWrapper) and adapter_name in module.modules_to_save:
            for key, value in module.modules_to_save[adapter_name].state_dict().items():
                found[f"{name}.{key}"] = value.detach().cpu()
    return found


def write_adapter(folder: str | Path, config: Any, tensors: Mapping[str, Tensor], prints: Mapping[str, Tensor] | None = None) -> None:
    """Write an adapter folder; ``prints`` of the base weights go into the header of the file, where plain peft does not look."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    about = {"format": "pt"}
    if prints:
        about[_PRINTS] = json.dumps({name: value.tolist() for name, value in prints.items()})
    save_file({key: value.contiguous().clone() for key, value in tensors.items()}, str(target / SAFETENSORS_WEIGHTS_NAME), metadata=about)
    config.save_pretrained(str(target))


def read_prints(folder: str | Path) -> dict[str, Tensor]:
    """Prints of the base weights in an adapter folder; none in adapters that other programs wrote."""
    file = Path(folder) / SAFETENSORS_WEIGHTS_NAME
    if not file.is_file():
        raise FileNotFoundError(f"no adapter at {folder}: it has no {SAFETENSORS_WEIGHTS_NAME}")
    with safe_open(str(file), framework="pt") as opened:
        text = (opened.metadata() or {}).get(_PRINTS, "{}")
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in json.loads(text).items()}
