"""What ``peft-loldu-corda inspect`` prints."""

from pathlib import Path

import torch
from peft import PeftConfig
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file
from torch import Tensor

from peft_loldu_corda.corda.stats import InputStats

__all__ = ["adapter_rows", "stats_rows"]

Report = tuple[str, list[str], list[list[str]]]


def stats_rows(path: Path) -> Report:
    """Per layer: inputs, tokens, root mean square, and how many directions hold 90 % of the second moment."""
    stats = InputStats.load(path)
    rows = []
    for name in stats:
        if name in stats.missing:
            rows.append([name, str(len(stats.moments[name].absolute)), "0", "", ""])
            continue
        C = stats[name].double()
        values = torch.linalg.eigvalsh((C + C.T) / 2).flip(0).clamp(min=0).cumsum(0)
        directions = int((values < 0.9 * values[-1]).sum()) + 1
        rms = float(C.diagonal().mean().clamp(min=0).sqrt())
        rows.append([name, str(len(C)), str(stats.tokens[name]), f"{rms:.3g}", str(directions)])
    return str(stats), ["layer", "inputs", "tokens", "rms", "directions of 90 %"], rows


def adapter_rows(folder: Path) -> Report:
    """Per layer: rank, stored numbers, and how far training has moved it.

    Raises:
        FileNotFoundError: If the folder holds no adapter.
    """
    if not (folder / SAFETENSORS_WEIGHTS_NAME).is_file():
        raise FileNotFoundError(f"no adapter at {folder}: it has no {SAFETENSORS_WEIGHTS_NAME}")
    config = PeftConfig.from_pretrained(str(folder))
    layers: dict[str, dict[str, Tensor]] = {}
    for key, value in load_file(str(folder / SAFETENSORS_WEIGHTS_NAME)).items():
        path, _, part = key.removeprefix("base_model.model.").partition(".loldu_" if ".loldu_" in key else ".lora_")
        if part:
            layers.setdefault(path, {})[part] = value
    rows = [[name, *_describe(parts)] for name, parts in sorted(layers.items())]
    total = sum(v.numel() for parts in layers.values() for v in parts.values())
    kind = getattr(config.peft_type, "value", config.peft_type)
    made_for = ", ".join(str(v) for v in (getattr(config, "base_dtype", None), getattr(config, "base_quantization", None)) if v)
    title = f"{kind} for {config.base_model_name_or_path or 'an unnamed base'}{f' ({made_for})' if made_for else ''}, {total:,} numbers"
    return title, ["layer", "rank", "numbers", "moved"], rows


def _describe(parts: dict[str, Tensor]) -> list[str]:
    numbers = f"{sum(v.numel() for v in parts.values()):,}"
    if "diag" in parts:
        z, d = parts["diag"], parts["d0"]
        return [str(len(z)), numbers, f"{float((z - d).norm() / d.norm()):.3g}"]
    if "A.trained" in parts:
        A, A0, B, B0 = (parts[k].double() for k in ("A.trained", "A.start", "B.trained", "B.start"))
        start = float((B0 @ A0).norm())
        change = float((B @ A - B0 @ A0).norm())
        return [str(len(A)), numbers, f"{change / start:.3g}" if start else f"{change:.3g}"]
    rank = len(parts["A.weight"]) if "A.weight" in parts else 0
    return [str(rank), numbers, ""]
