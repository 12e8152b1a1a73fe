"""CorDA adapters as plain LoRA on the untouched base, and files of them."""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn

from geocore._checks import check_option
from peft_loldu_corda._base import kind_of, matrix_of, quantization_of, unwrap
from peft_loldu_corda._lora_files import LoraFactors, lora_config_for, read_prints, saved_modules, state_dict_of, write_adapter
from peft_loldu_corda.corda.adapter import CordaLinear, CordaStart, base_print, check_print
from peft_loldu_corda.corda.config import CordaLoraConfig

__all__ = ["LoraConversion", "corda_to_lora", "load_corda_adapter", "save_corda_adapter"]

FORMATS = ("lora-2r", "lora-r", "corda")


@dataclass
class LoraConversion:
    """A CorDA adapter as plain LoRA.

    Args:
        config: Its configuration.
        state_dict: Its tensors, named as peft saves them.
        errors: Layer name to the relative error of its change of the weight; 0 where it is exact.
    """

    config: LoraConfig
    state_dict: dict[str, Tensor]
    errors: dict[str, float] = field(default_factory=dict)

    @property
    def worst(self) -> float:
        """Largest error."""
        return max(self.errors.values(), default=0.0)


@dataclass
class _Layer:
    """What one adapted layer holds."""

    name: str
    module: Any
    A: Tensor
    B: Tensor
    A0: Tensor
    B0: Tensor
    scaling: float
    magnitude: Tensor | None

    def original(self) -> Tensor:
        """The weight of the base before anything was subtracted from it."""
        base = self.module.get_base_layer()
        backend = quantization_of(base)
        W = matrix_of(base, kind_of(base, backend, self.name), backend)
        if isinstance(self.module, CordaLinear):
            return W
        return W + self.scaling * (self.B0 @ self.A0).to(W)


def _layers(model: nn.Module, adapter_name: str) -> list[_Layer]:
    found = []
    for path, found_module in model.named_modules():
        if not isinstance(found_module, LoraLayer) or adapter_name not in found_module.lora_A:
            continue
        module: Any = found_module
        name = path.removeprefix("base_model.model.")
        if module.merged:
            raise ValueError(f"adapter must not be merged while it is saved, but {name} has {module.merged_adapters} merged")
        down, up, s = module.lora_A[adapter_name], module.lora_B[adapter_name], module.scaling[adapter_name]
        magnitude = module.lora_magnitude_vector[adapter_name].weight if adapter_name in module.lora_magnitude_vector else None
        if isinstance(module, CordaLinear):
            A, B = down.trained, up.trained
            A0, B0 = module.start_of(adapter_name)
        else:
            waiting: CordaStart | None = unwrap(module).__dict__.get("corda_start")
            if waiting is None:
                raise ValueError(
                    f"{name} does not know what CorDA subtracted from it: our preprocess_corda did not decompose it, or it was loaded since"
                )
            A, B = down.weight, up.weight
            A0, B0 = torch.zeros_like(A), torch.zeros_like(B)
            if waiting.parts is not None:
                A0, B0 = waiting.parts.factors(s, sigma_split=waiting.sigma_split)
        found.append(_Layer(name, module, A.detach(), B.detach(), A0.detach().to(A), B0.detach().to(B), s, magnitude))
    if not found:
        raise ValueError(f"model must have a CorDA adapter named {adapter_name!r}, found none")
    return found


@torch.no_grad()
def corda_to_lora(model: nn.Module, adapter_name: str = "default", *, format: Literal["lora-2r", "lora-r"] = "lora-2r") -> LoraConversion:  # noqa: A002
    r"""A CorDA adapter as plain LoRA for the untouched base: ``s (B A - B0 A0)``.

    Args:
        model: Model with the adapter; made by us, or by peft from our decompositions.
        adapter_name: Its name.
        format: ``"lora-2r"``, exact, rank ``2r``: ``[A; A0]`` and ``[B, -B0]``; or ``"lora-r"``, the best change of rank ``r``.

    Returns:
        ``LoraConversion`` with the relative error of every layer.

    Raises:
        ValueError: If there is no such adapter, it is merged, or what was subtracted from its base is not known.
    """
    check_option("format", format, FORMATS[:2])
    layers = _layers(model, adapter_name)
    factors, errors = {}, {}
    for layer in layers:
        up, down = torch.cat([layer.B, -layer.B0], dim=1), torch.cat([layer.A, layer.A0])
        error = 0.0
        if format == "lora-r":
            down, up, error = _best(down, up, len(layer.A))
        factors[layer.name] = LoraFactors(
            down,
            up,
            layer.scaling,
            transposed=layer.module.fan_in_fan_out,
            magnitude=layer.magnitude,
            error=error,
        )
        errors[layer.name] = error
    like = getattr(model, "peft_config")[adapter_name]  # noqa: B009
    config = lora_config_for(factors, like)
    return LoraConversion(config, {**state_dict_of(factors), **saved_modules(model, adapter_name)}, errors)


def _best(A: Tensor, B: Tensor, r: int) -> tuple[Tensor, Tensor, float]:
    """The nearest product of rank ``r``, from the SVD of a small core, with the relative error."""
    Qb, Rb = torch.linalg.qr(B.double())
    Qa, Ra = torch.linalg.qr(A.double().T)
    U, S, Vh = torch.linalg.svd(Rb @ Ra.T)
    r = min(r, len(S))
    root = S[:r].sqrt()
    total = float(S.norm())
    error = float(S[r:].norm()) / total if total > 0 else 0.0
    return (root[:, None] * (Vh[:r] @ Qa.T)).to(A.dtype), ((Qb @ U[:, :r]) * root).to(B.dtype), error


@torch.no_grad()
def save_corda_adapter(
    model: nn.Module,
    path: str | Path,
    format: Literal["lora-2r", "lora-r", "corda"] = "lora-2r",  # noqa: A002
    *,
    adapter_name: str = "default",
) -> dict[str, float]:
    """Write an adapter folder that loads on the *untouched* base, also if peft subtracted the start from the base in memory.

    Args:
        model: Model with the adapter.
        path: Folder.
        format: ``"lora-2r"`` and ``"lora-r"`` load with plain peft, see ``corda_to_lora``; ``"corda"``, the factors and their start, needs
            this package and can be trained on.
        adapter_name: Name of the adapter.

    Returns:
        Layer name to the relative error of its change of the weight; 0 but for ``"lora-r"``.

    Raises:
        ValueError: If there is no such adapter, or what was subtracted from its base is not known.
    """
    check_option("format", format, FORMATS)
    layers = _layers(model, adapter_name)
    prints = {layer.name: base_print(layer.original()) for layer in layers}
    if format != "corda":
        converted = corda_to_lora(model, adapter_name, format=format)
        write_adapter(path, converted.config, converted.state_dict, prints)
        return converted.errors
    like = getattr(model, "peft_config")[adapter_name]  # noqa: B009
    config = copy.deepcopy(like) if isinstance(like, CordaLoraConfig) else CordaLoraConfig.from_lora(like)
    config.inference_mode = True
    tensors = saved_modules(model, adapter_name)
    for layer in layers:
        key = f"base_model.model.{layer.name}."
        tensors |= {
            f"{key}lora_A.trained": layer.A.cpu(),
            f"{key}lora_B.trained": layer.B.cpu(),
            f"{key}lora_A.start": layer.A0.cpu(),
            f"{key}lora_B.start": layer.B0.cpu(),
            f"{key}lora_base_print": prints[layer.name],
        }
        if layer.magnitude is not None:
            tensors[f"{key}lora_magnitude_vector.weight"] = layer.magnitude.detach().cpu()
    write_adapter(path, config, tensors, prints)
    return dict.fromkeys(prints, 0.0)


def load_corda_adapter(model: nn.Module, path: str | Path, adapter_name: str = "default", **kwargs: Any) -> PeftModel:
    """Load a folder that ``save_corda_adapter`` wrote, after checking that it was made for this base.

    Args:
        model: The untouched base model, or a ``PeftModel`` on it to add the adapter to.
        path: Folder, in any of the formats.
        adapter_name: Name it gets.
        **kwargs: As for ``PeftModel.from_pretrained`` or ``load_adapter``.

    Returns:
        The model with the adapter.

    Raises:
        RuntimeError: If a weight of the base is not the one that the adapter was made for.
        FileNotFoundError: If there is no adapter.
    """
    prints = read_prints(path)
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    modules = {name: module for name, module in inner.named_modules() if ".base_layer" not in name}
    for name, stored in prints.items():
        if name not in modules:
            raise RuntimeError(f"the adapter was not made for this base model: it has no layer {name}")
        base: Any = unwrap(modules[name])
        backend = quantization_of(base)
        if backend is None:
            check_print(name, matrix_of(base, kind_of(base, backend, name), backend), stored, base.weight.dtype)
    if isinstance(model, PeftModel):
        model.load_adapter(str(path), adapter_name, **kwargs)
        return model
    return PeftModel.from_pretrained(model, str(path), adapter_name=adapter_name, **kwargs)
