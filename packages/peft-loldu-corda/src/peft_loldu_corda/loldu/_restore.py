"""Loading the compact format: the frozen factors are computed again from the base weight and the stored pivot rows."""

from typing import Any

import torch

from peft_loldu_corda._base import matrix_of
from peft_loldu_corda.functional import loldu_factors

__all__ = ["restore_factors"]

_HALF = ("float16", "bfloat16")


def _tolerance(layer: Any, recorded: str | None) -> float:
    """How far the pivots of the same weights may be from the stored ones."""
    present = str(layer.get_base_layer().weight.dtype).removeprefix("torch.")
    return 3e-2 if recorded in _HALF or present in _HALF else 1e-3


def restore_factors(layer: Any, incompatible_keys: Any = None) -> None:
    """Refactorise each adapter whose pivot rows or pivots were replaced; also a post-hook of ``load_state_dict``.

    Raises:
        RuntimeError: If the pivots found in the base weight are not those of the file: the adapter belongs to another base.
    """
    for name in list(layer.loldu_diag):
        perm, d0 = layer.loldu_perm[name], layer.loldu_d0[name]
        if perm.is_meta or d0.is_meta:
            continue
        known = layer._built.get(name)
        same = known is not None and known[0] is perm and known[1] is d0 and known[2:] == (perm._version, d0._version)
        if not same:
            _restore(layer, name)
    layer.loldu_perm.changed.clear()
    layer.loldu_d0.changed.clear()


def _restore(layer: Any, name: str) -> None:
    config = layer._configs[name]
    perm, d0 = layer.loldu_perm[name], layer.loldu_d0[name]
    backend = layer.quantization_backend
    stored = name not in layer.loldu_L._non_persistent_buffers_set and not layer.loldu_L[name].is_meta
    columns = layer.loldu_columns[name] if name in layer.loldu_columns else None  # noqa: SIM401 - it has no get
    if not (stored and config.base_quantization != (None if backend is None else backend.backend_name)):
        base = layer.get_base_layer()
        if base.weight.is_meta:
            raise RuntimeError(f"the weight of {layer.name} is not loaded, so the factors of adapter {name!r} cannot be computed from it")
        W = matrix_of(base, layer.kind, backend)
        problem = f"adapter {name!r} was not made for this base model: "
        try:
            found = loldu_factors(W, layer.r[name], pivots=perm, columns=columns)
        except ValueError as error:
            raise RuntimeError(f"{problem}{layer.name} does not take its pivot rows ({error})") from error
        distance = float((found.d - d0.to(found.d)).norm() / d0.norm().clamp(min=torch.finfo(torch.float32).tiny))
        if not distance <= _tolerance(layer, config.base_dtype):
            quantized = f"; it was trained on {config.base_quantization} weights" if config.base_quantization else ""
            raise RuntimeError(
                f"{problem}the pivots of {layer.name} differ from the stored ones by {distance:.2g} of their norm, at most "
                f"{_tolerance(layer, config.base_dtype):g} was expected{quantized}"
            )
        if not stored:
            layer.loldu_L._buffers[name] = found.L.to(d0.dtype)
            layer.loldu_U._buffers[name] = found.U.to(d0.dtype)
    layer.mark_built(name)
