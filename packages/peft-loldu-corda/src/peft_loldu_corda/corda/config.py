"""Configuration of CorDA adapters that leave the base weight alone."""

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peft import LoraConfig

from geocore.integrations.peft import peft_type

__all__ = ["CordaLoraConfig"]

CORDA = peft_type("CORDA")
_CARD = """
## Loading this adapter

It was made with the CorDA method of `peft-loldu-corda`. Import that package before loading; without it, peft stops with
`KeyError: 'CORDA'`. `peft-loldu-corda convert` makes a plain LoRA of it.

```python
import peft_loldu_corda  # registers CORDA with peft
from peft import PeftModel

model = PeftModel.from_pretrained(base_model, "<this folder>")
```
"""


@dataclass
class CordaLoraConfig(LoraConfig):
    """Configuration of ``W x + s (B A - B0 A0) x``: CorDA started from ``B = B0``, ``A = A0``, on an untouched base.

    peft's own ``LoraConfig(init_lora_weights="corda")`` subtracts ``s B0 A0`` from the base weight, which disabling the adapter does
    not undo and a second adapter inherits. This one computes the same function and takes the options of ``LoraConfig``: rank and
    alpha patterns, dropout, rsLoRA, DoRA, half-precision and quantised bases. Call ``preprocess_corda`` before ``get_peft_model``.

    Args:
        corda_mode: Filled in: ``"ipm"`` or ``"kpm"``.
        corda_whitening: Filled in: see ``decompose``.
        base_quantization: Filled in: quantisation of the weights the adapter was made for.
        restored: Filled in: true in saved files.

    Raises:
        ValueError: If ``init_lora_weights`` is not ``True``, or an option is one that needs another start or another layer.

    Example:
        >>> CordaLoraConfig(r=8, lora_alpha=8, target_modules=["q_proj"]).peft_type.value
        'CORDA'
    """

    corda_mode: str | None = field(default=None, metadata={"help": "Filled in: 'ipm' or 'kpm'."})
    corda_whitening: str | None = field(default=None, metadata={"help": "Filled in."})
    base_quantization: str | None = field(default=None, metadata={"help": "Filled in."})
    restored: bool = field(default=False, metadata={"help": "Filled in: true in saved files."})

    def __post_init__(self) -> None:
        if self.init_lora_weights != "corda" and self.init_lora_weights is not True:
            raise ValueError(f"init_lora_weights must be True: CorDA is the start, got {self.init_lora_weights!r}")
        self.init_lora_weights, self.corda_config = True, None
        for name in ("lora_bias", "target_parameters", "layer_replication", "trainable_token_indices", "ensure_weight_tying"):
            if getattr(self, name, None):
                raise ValueError(f"{name} is not supported by CorDA adapters, got {getattr(self, name)!r}")
        super().__post_init__()
        self.peft_type = CORDA

    @classmethod
    def from_lora(cls, config: LoraConfig) -> "CordaLoraConfig":
        """The same options as a ``LoraConfig``."""
        known = {f.name for f in dataclasses.fields(LoraConfig) if f.init} - {"peft_type", "init_lora_weights", "corda_config"}
        return cls(**{name: getattr(config, name) for name in known if name != "runtime_config"})

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
