"""LoLDU adapters as plain LoRA, and the statistics for ``column_order="activation"``."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor, nn

from peft_loldu_corda._base import kind_of, matrix_of, named_targets, quantization_of
from peft_loldu_corda._lora_files import LoraFactors, lora_config_for, saved_modules, state_dict_of, write_adapter
from peft_loldu_corda.corda.collect import collect_input_stats
from peft_loldu_corda.corda.stats import InputStats
from peft_loldu_corda.errors import CalibrationError
from peft_loldu_corda.loldu.config import LolduConfig
from peft_loldu_corda.loldu.layer import LolduLayer

__all__ = ["convert_to_lora", "preprocess_loldu"]


@torch.no_grad()
def convert_to_lora(
    model: nn.Module, adapter_name: str = "default", *, path: str | Path | None = None
) -> tuple[LoraConfig, dict[str, Tensor]]:
    """Write a LoLDU adapter as LoRA of the same rank, exactly: ``A = U``, ``B = s L diag(z - d)``.

    Any program that serves LoRA can serve it then, at the price of a file of ``(m + n) r`` numbers per layer.

    Args:
        model: Model with the adapter.
        adapter_name: Its name.
        path: Folder to write it to, for ``PeftModel.from_pretrained``.

    Returns:
        The configuration and the state dict, as ``peft.convert_to_lora`` does.

    Raises:
        ValueError: If the model has no such LoLDU adapter, it trains biases of the base, or it adapts a dilated or specially padded
            convolution, which peft's LoRA computes without dilation and with zeros.
    """
    layers: dict[str, LoraFactors] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, LolduLayer) and adapter_name in layer.loldu_diag:
            layers[name.removeprefix("base_model.model.")] = _factors(layer, adapter_name)
    if not layers:
        raise ValueError(f"model must have a LoLDU adapter named {adapter_name!r}, found none")
    like = getattr(model, "peft_config")[adapter_name]  # noqa: B009
    if like.bias != "none":
        raise ValueError(f"an adapter that trains biases of the base cannot be written as LoRA, got bias={like.bias!r}")
    config = lora_config_for(layers, like)
    tensors = {**state_dict_of(layers), **saved_modules(model, adapter_name)}
    if path is not None:
        write_adapter(path, config, tensors)
    return config, tensors


def _factors(layer: LolduLayer, name: str) -> LoraFactors:
    weight = layer.scaling[name] * layer.change(name)
    A, B = layer.loldu_U[name], layer.loldu_L[name] * weight
    if layer.kind == "conv":
        base: Any = layer.get_base_layer()
        if base.padding_mode != "zeros" or set(base.dilation) != {1}:
            raise ValueError(
                f"LoRA layers of peft ignore dilation and padding_mode of convolutions, which {layer.name} has: it cannot be converted"
            )
        shape: Any = base.weight.shape
        return LoraFactors(A.reshape(-1, *shape[1:]), B.reshape(*B.shape, *(1,) * (len(shape) - 2)), 1.0)
    return LoraFactors(A, B, 1.0, embedding=layer.kind == "embedding", transposed=layer.kind == "transposed")


@torch.no_grad()
def preprocess_loldu(
    model: nn.Module,
    config: LolduConfig,
    data: Iterable[Any] | Callable[[], Any] | None = None,
    *,
    stats: InputStats | None = None,
    **collect: Any,
) -> None:
    """Give the layers what ``column_order="activation"`` needs: the mean square of each input feature.

    Args:
        model: The model to adapt.
        config: Its configuration, read for the target layers.
        data: Calibration batches, or a function that runs the model.
        stats: Statistics collected before, instead.
        **collect: Options of ``collect_input_stats``.

    Raises:
        ValueError: If not exactly one of ``data`` and ``stats`` is given, or a layer's width does not fit.
        CalibrationError: If a layer has no statistics.
    """
    if (data is None) == (stats is None):
        raise ValueError("exactly one of data and stats must be given")
    inner: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # pyright: ignore[reportCallIssue]
    targets = dict(named_targets(inner, config))
    if stats is None:
        stats = collect_input_stats(model, data, target_modules=list(targets), **collect)  # pyright: ignore[reportArgumentType]
    for name, layer in targets.items():
        if name not in stats or name in stats.missing:
            raise CalibrationError(f"layer {name!r} has no statistics; collect more")
        backend = quantization_of(layer)
        n = matrix_of(layer, kind_of(layer, backend, name), backend).shape[1]
        activity = stats.mean_square(name)
        if len(activity) != n:
            raise ValueError(f"stats must hold {n} features for {name}, got {len(activity)}")
        layer.__dict__["loldu_activity"] = activity
