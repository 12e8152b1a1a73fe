"""Configuration of the transformers models, strict about unknown keys."""

import warnings
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig

from deltaproduct.blocks import swiglu_width

__all__ = ["CONFIG_VERSION", "DeltaProductConfig"]

CONFIG_VERSION = 1

# What other code bases call the same thing; taken over with a warning.
_RENAMED = {"use_gate": "use_output_gate", "attn_mode": "mode", "num_hidden_layer": "num_hidden_layers"}
# Settings of kernels that change nothing in the function computed.
_WITHOUT_EFFECT = frozenset(
    {"fuse_norm", "fuse_swiglu", "fuse_cross_entropy", "fuse_linear_cross_entropy", "use_l2warp", "hidden_act", "chunk_size", "model_type"}
)
# What PreTrainedConfig takes without declaring it.
_OF_BASE = frozenset(
    {
        "attn_implementation",
        "auto_map",
        "experts_implementation",
        "name_or_path",
        "num_labels",
        "output_attentions",
        "per_layer_config",
        "quantization_config",
        "torch_dtype",
        "use_return_dict",
    }
)


class DeltaProductConfig(PreTrainedConfig):
    """Configuration of ``DeltaProductModel`` and ``DeltaProductForCausalLM``; the defaults are the paper's language model.

    Unknown keys raise: code that swallows them builds a gated model from ``use_gate=False``. Known names of other code bases are translated
    with a warning.

    Args:
        vocab_size: Number of tokens.
        hidden_size: Width.
        num_hidden_layers: Number of blocks.
        num_heads, head_dim, num_householder, expand_v, num_v_heads, allow_neg_eigval, use_forget_gate, use_output_gate, use_short_conv,
            conv_size, mode: As in ``DeltaProduct``.
        hidden_ratio: Width of the MLP over ``hidden_size``, before the 2/3 rule.
        intermediate_size: Width of the MLP itself.
        norm_eps: Epsilon of all norms.
        initializer_range: Standard deviation of all matrices at the start.
        max_position_embeddings: Context of training; nothing depends on it.
        attention_layers: Indices of layers with softmax attention instead (hybrid stacks).
        num_attention_heads_softmax: Heads of those layers; ``num_heads`` by default.
        use_cache: Whether models return states outside training.
        tie_word_embeddings: Whether the head shares the embedding's matrix.
        config_version: Version of this format.

    Raises:
        ValueError: If a key is unknown, a layer of ``attention_layers`` does not exist, or the version is newer than this package.

    Example:
        >>> config = DeltaProductConfig(vocab_size=100, hidden_size=64, num_hidden_layers=2, num_heads=2, head_dim=16)
    """

    __no_type_check__ = True  # runtime checkers would refuse the keys that the library passes on

    model_type = "deltaproduct"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012 - as every configuration of the library
    attribute_map = {"num_attention_heads": "num_heads"}  # noqa: RUF012

    vocab_size: int = 32000
    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_heads: int = 8
    head_dim: int = 128
    num_householder: int = 2
    expand_v: float | int = 1.0
    num_v_heads: int | None = None
    allow_neg_eigval: bool = True
    use_forget_gate: bool = False
    use_output_gate: bool = False
    use_short_conv: bool = True
    conv_size: int = 4
    mode: str = "auto"
    hidden_ratio: float | int = 4
    intermediate_size: int | None = None
    norm_eps: float = 1e-5
    initializer_range: float = 0.006
    max_position_embeddings: int = 2048
    attention_layers: list[int] | None = None
    num_attention_heads_softmax: int | None = None
    use_cache: bool = True
    tie_word_embeddings: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    config_version: int = CONFIG_VERSION

    def __post_init__(self, **kwargs: Any) -> None:
        known = {*self.__dataclass_fields__, *_OF_BASE, *GenerationConfig._get_default_generation_params()}
        unknown = []
        for key in list(kwargs):
            if key in _RENAMED:
                value = kwargs.pop(key)
                if key == "attn_mode":
                    value = {"chunk": "auto", "fused_recurrent": "auto"}.get(value, value)
                warnings.warn(f"{key} is called {_RENAMED[key]} here; taken over as {_RENAMED[key]}={value!r}", stacklevel=4)
                setattr(self, _RENAMED[key], value)
            elif key in _WITHOUT_EFFECT:
                kwargs.pop(key)
            elif key == "attn" and isinstance(kwargs[key], dict) and "layers" in kwargs[key]:
                hybrid = kwargs.pop(key)
                self.attention_layers = list(hybrid["layers"])
                self.num_attention_heads_softmax = hybrid.get("num_heads")
                warnings.warn(
                    "attn is called attention_layers here; softmax layers have no rotary encoding, so such weights cannot be imported",
                    stacklevel=4,
                )
            elif key == "attn" and kwargs[key] is None:
                kwargs.pop(key)
            elif key not in known and not key.startswith("_"):
                unknown.append(key)
        if unknown:
            raise ValueError(f"unknown keys {sorted(unknown)} for DeltaProductConfig; it takes {', '.join(sorted(self.own_keys()))}")
        if self.config_version > CONFIG_VERSION:
            raise ValueError(f"config_version must be at most {CONFIG_VERSION}, got {self.config_version}; update deltaproduct")
        if self.intermediate_size is None:
            self.intermediate_size = swiglu_width(self.hidden_size, self.hidden_ratio)
        outside = [i for i in self.attention_layers or () if not 0 <= i < self.num_hidden_layers]
        if outside:
            raise ValueError(f"attention_layers must be indices below num_hidden_layers = {self.num_hidden_layers}, got {outside}")
        super().__post_init__(**kwargs)

    @classmethod
    def own_keys(cls) -> set[str]:
        """Keys that this class declares."""
        return {key for key in cls.__annotations__ if key in cls.__dataclass_fields__}
