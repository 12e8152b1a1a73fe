"""Configuration of LoLDU adapters."""

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from peft import PeftConfig

from geocore.integrations.peft import peft_type

__all__ = ["LolduConfig"]

LOLDU = peft_type("LOLDU")
INIT_DIAG = ("ldu", "constant", "normal", "uniform", "std_uniform", "std_normal", "ones", "zeros")
COLUMN_ORDER = ("natural", "norm", "qr", "activation")
_CARD = """
## Loading this adapter

It was made with the LoLDU method of `peft-loldu-corda`. Import that package before loading; without it, peft stops with
`KeyError: 'LOLDU'`.

```python
import peft_loldu_corda  # registers LOLDU with peft
from peft import PeftModel

model = PeftModel.from_pretrained(base_model, "<this folder>")
```
"""
log = logging.getLogger("peft_loldu_corda")


@dataclass
class LolduConfig(PeftConfig):
    """Configuration of a LoLDU adapter (arXiv 2410.13618): one trained diagonal per layer, between frozen triangular factors.

    Args:
        r: Length of the diagonal, or ``"full"`` for ``min(out, in)`` of each layer.
        lora_alpha: ``alpha`` of the scale ``s = alpha / r``; 1 is the default of the official code. ``"r"`` makes ``s = 1``, the setting
            for ``r="full"``.
        use_rslora: ``s = alpha / sqrt(r)`` instead.
        lora_dropout: Probability of dropping an input of the adapter in training.
        init_diag: Start of the diagonal. ``"ldu"`` leaves the model as it is; the others of the official code change its output.
        column_order: Input features to eliminate: the first ``r`` (``"natural"``), those with the longest columns (``"norm"``), the
            order of a column-pivoted QR (``"qr"``), or those most active on data (``"activation"``; call ``preprocess_loldu`` first).
        parametrization: ``"absolute"`` trains the diagonal ``z``; ``"relative"`` trains ``delta`` of ``d (1 + delta)``.
        save_projection: Whether files hold the triangular factors. ``None``: only for layers with quantised weights, from which
            they cannot be computed again on another base.
        target_modules: Names of the layers to adapt, a regular expression, or ``"all-linear"``; peft's choice for the model otherwise.
        exclude_modules: Layers to leave out.
        rank_pattern: Layer name or regular expression to another ``r``.
        alpha_pattern: Layer name or regular expression to another ``lora_alpha``.
        bias: ``"none"``, ``"all"`` or ``"loldu_only"``: biases of the base to train as well.
        modules_to_save: Other layers to train and save.
        layers_to_transform: Indices of the transformer layers to adapt.
        layers_pattern: Name of the list of transformer layers.
        base_dtype: Filled in: dtype of the weights the adapter was made for.
        base_quantization: Filled in: their quantisation.
        restored: Filled in: true in saved files.

    Raises:
        ValueError: If an option is unknown or a number out of range.
        TypeError: If ``r`` is neither an int nor ``"full"``.

    Example:
        >>> LolduConfig(r=64, lora_alpha=64, target_modules=["q_proj", "v_proj"]).r
        64
    """

    r: int | str = field(default=64, metadata={"help": "Length of the diagonal, or 'full'."})
    lora_alpha: float | str = field(default=1.0, metadata={"help": "Scale s = alpha / r, or 'r' for s = 1."})
    use_rslora: bool = field(default=False, metadata={"help": "s = alpha / sqrt(r)."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout of the adapter's input."})
    init_diag: Literal["ldu", "constant", "normal", "uniform", "std_uniform", "std_normal", "ones", "zeros"] = field(
        default="ldu", metadata={"help": "Start of the diagonal."}
    )
    column_order: Literal["natural", "norm", "qr", "activation"] = field(default="natural", metadata={"help": "Which input features."})
    parametrization: Literal["absolute", "relative"] = field(default="absolute", metadata={"help": "What is trained."})
    save_projection: bool | None = field(default=None, metadata={"help": "Whether files hold the triangular factors."})
    target_modules: list[str] | str | None = field(default=None, metadata={"help": "Layers to adapt."})
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "Layers to leave out."})
    rank_pattern: dict[str, int | str] = field(default_factory=dict, metadata={"help": "Layers with another r."})
    alpha_pattern: dict[str, float | str] = field(default_factory=dict, metadata={"help": "Layers with another lora_alpha."})
    bias: Literal["none", "all", "loldu_only", "lora_only"] = field(default="none", metadata={"help": "Biases to train."})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "Other layers to train and save."})
    layers_to_transform: list[int] | int | None = field(default=None, metadata={"help": "Indices of layers to adapt."})
    layers_pattern: list[str] | str | None = field(default=None, metadata={"help": "Name of the list of layers."})
    base_dtype: str | None = field(default=None, metadata={"help": "Filled in: dtype of the base weights."})
    base_quantization: str | None = field(default=None, metadata={"help": "Filled in: quantisation of the base weights."})
    restored: bool = field(default=False, metadata={"help": "Filled in: true in saved files."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = LOLDU
        check_rank("r", self.r)
        check_alpha("lora_alpha", self.lora_alpha)
        for name, options in (
            ("init_diag", INIT_DIAG),
            ("column_order", COLUMN_ORDER),
            ("parametrization", ("absolute", "relative")),
            ("bias", ("none", "all", "loldu_only", "lora_only")),
        ):
            if getattr(self, name) not in options:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}, got {getattr(self, name)!r}")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout must lie in [0, 1), got {self.lora_dropout}")
        if self.layers_pattern is not None and self.layers_to_transform is None:
            raise ValueError("layers_pattern must come with layers_to_transform, got layers_to_transform=None")
        for name in ("target_modules", "exclude_modules"):
            value: Any = getattr(self, name)
            setattr(self, name, set(value) if isinstance(value, list) else value)
        if self.init_diag != "ldu" and not self.restored:
            log.warning("init_diag=%r changes the output of the model before any training; 'ldu' does not", self.init_diag)

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """As peft's; marks the configuration as that of a file and tells readers of the model card what loading it needs."""
        restored, self.restored = self.restored, True
        try:
            super().save_pretrained(str(save_directory), **kwargs)
        finally:
            self.restored = restored
        card = Path(save_directory) / "README.md"
        text = card.read_text(encoding="utf-8") if card.exists() else ""
        if _CARD not in text:
            card.write_text(text + _CARD, encoding="utf-8")


def check_rank(name: str, r: Any) -> None:
    """Raise unless ``r`` is a rank or ``"full"``."""
    if r == "full":
        return
    if isinstance(r, bool) or not isinstance(r, int):
        raise TypeError(f"{name} must be an int or 'full', got {r!r}")
    if r < 1:
        raise ValueError(f"{name} must be at least 1, got {r}")


def check_alpha(name: str, alpha: Any) -> None:
    """Raise unless ``alpha`` is a finite number or ``"r"``."""
    if alpha == "r":
        return
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) < float("inf"):
        raise ValueError(f"{name} must be a finite number or 'r', got {alpha!r}")
