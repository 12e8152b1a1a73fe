"""Weights under the two published naming schemes.

The maintained scheme (flash-linear-attention) has one projection and one convolution for all micro-steps, as here; the vendored scheme of
the paper's code has one per micro-step (``k_projs.0``, ``k_projs.1``, ...). Both compute the same function: row blocks, micro-step
outermost.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["load_fla_state_dict", "load_vendored_state_dict"]

_SPLIT = re.compile(r"^(.*\b)([kvb]_proj|[kv]_conv1d)s\.(\d+)(\..+)$")
_PREFIX = "model."


def load_fla_state_dict(model: nn.Module, sd: Mapping[str, Tensor]) -> nn.Module:
    """Load weights named as in flash-linear-attention's ``GatedDeltaProduct`` layer or model.

    Args:
        model: ``DeltaProduct``, ``DeltaProductModel`` or ``DeltaProductForCausalLM``; changed in place.
        sd: The weights; a prefix ``model.`` may be there or not.

    Returns:
        ``model``.

    Raises:
        ValueError: If a weight is missing, unknown or of another shape; the message lists them.

    Example:
        >>> load_fla_state_dict(layer, {name: weight.clone() for name, weight in layer.state_dict().items()})
    """
    return _load(model, _split_gate(dict(sd)))


def load_vendored_state_dict(model: nn.Module, sd: Mapping[str, Tensor]) -> nn.Module:
    """Load weights named as in the paper's code, with one projection and one convolution per micro-step.

    Args:
        model: As in ``load_fla_state_dict``.
        sd: The weights, ``k_projs.i``, ``v_projs.i``, ``b_projs.i`` and, with convolutions, ``k_conv1ds.i`` and ``v_conv1ds.i``.

    Returns:
        ``model``.

    Raises:
        ValueError: If micro-steps are missing, or as in ``load_fla_state_dict``.
    """
    fused: dict[str, Tensor] = {}
    parts: dict[str, dict[int, Tensor]] = {}
    for name, weight in sd.items():
        match = _SPLIT.match(name)
        if match is None:
            fused[name] = weight
        else:
            parts.setdefault(f"{match[1]}{match[2]}{match[4]}", {})[int(match[3])] = weight
    for name, steps in parts.items():
        if sorted(steps) != list(range(len(steps))):
            raise ValueError(f"{name} must have micro-steps 0 to {max(steps)}, got {sorted(steps)}")
        fused[name] = torch.cat([steps[i] for i in range(len(steps))], dim=0)
    return _load(model, _split_gate(fused))


def _split_gate(sd: dict[str, Tensor]) -> dict[str, Tensor]:
    """Separate the halves of ``gate_proj`` in code of a time when it held gate and value in one matrix."""
    out = {}
    for name, weight in sd.items():
        base = name.removesuffix("gate_proj.weight")
        if base != name and base + "up_proj.weight" not in sd and base.endswith("mlp."):
            out[name], out[base + "up_proj.weight"] = weight.chunk(2, dim=0)
        else:
            out[name] = weight
    return out


def _load(model: nn.Module, sd: dict[str, Tensor]) -> nn.Module:
    own = model.state_dict()
    renamed: dict[str, Tensor] = {}
    for name, weight in sd.items():
        candidates = (name, _PREFIX + name, name.removeprefix(_PREFIX))
        renamed[next((c for c in candidates if c in own), name)] = weight
    head, embedding = "lm_head.weight", "model.embeddings.weight"
    if head in own and head not in renamed and embedding in renamed and own[head].data_ptr() == own[embedding].data_ptr():
        renamed[head] = renamed[embedding]  # tied: saved once
    if head not in own and embedding not in own:
        renamed.pop(head, None)  # a language model's weights for its body
    missing = sorted(set(own) - set(renamed))
    unknown = sorted(set(renamed) - set(own))
    shapes = [
        f"{name}: {tuple(renamed[name].shape)} for {tuple(own[name].shape)}"
        for name in sorted(set(own) & set(renamed))
        if renamed[name].shape != own[name].shape
    ]
    if missing or unknown or shapes:
        problems = {"missing": missing, "unknown": unknown, "of another shape": shapes}
        listed = "; ".join(f"{kind} {names[:6]}" for kind, names in problems.items() if names)
        raise ValueError(
            f"sd must hold exactly the weights of the model: {listed}; compare gates, convolutions, num_householder and expand_v"
        )
    model.load_state_dict(renamed, strict=True)
    return model
