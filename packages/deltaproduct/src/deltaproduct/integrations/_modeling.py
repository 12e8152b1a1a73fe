"""The models in transformers' conventions: ``generate`` with batches and beams, cache protocol, saving and loading."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from deltaproduct.blocks import Block, SoftmaxAttention
from deltaproduct.cache import DeltaProductCache
from deltaproduct.integrations._configuration import DeltaProductConfig
from deltaproduct.modules import DeltaProduct

__all__ = ["DeltaProductForCausalLM", "DeltaProductModel", "DeltaProductPreTrainedModel"]


class DeltaProductLayer(GradientCheckpointingLayer, Block):
    """One block of the stack."""

    def __init__(self, config: DeltaProductConfig, layer_idx: int) -> None:
        if layer_idx in (config.attention_layers or ()):
            heads = config.num_attention_heads_softmax or config.num_heads
            mixer: nn.Module = SoftmaxAttention(config.hidden_size, num_heads=heads, layer_idx=layer_idx)
        else:
            mixer = DeltaProduct(
                config.hidden_size,
                num_heads=config.num_heads,
                head_dim=config.head_dim,
                num_householder=config.num_householder,
                expand_v=config.expand_v,
                num_v_heads=config.num_v_heads,
                allow_neg_eigval=config.allow_neg_eigval,
                use_forget_gate=config.use_forget_gate,
                use_output_gate=config.use_output_gate,
                use_short_conv=config.use_short_conv,
                conv_size=config.conv_size,
                norm_eps=config.norm_eps,
                mode=config.mode,
                layer_idx=layer_idx,
            )
        Block.__init__(self, config.hidden_size, mixer, intermediate_size=config.intermediate_size, norm_eps=config.norm_eps)

    def forward(
        self,
        x: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: DeltaProductCache | None = None,
        use_cache: bool = False,
        cu_seqlens: Tensor | None = None,
    ) -> tuple[Tensor, DeltaProductCache | None]:
        return Block.forward(self, x, attention_mask, past_key_values, use_cache, cu_seqlens)


class DeltaProductPreTrainedModel(PreTrainedModel):
    """What the models share."""

    config_class = DeltaProductConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["DeltaProductLayer"]  # noqa: RUF012 - as every model of the library
    _is_stateful = True  # no token can be taken back, so no assisted decoding

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Embedding):
            init.normal_(module.weight, mean=0.0, std=std)
        elif isinstance(module, nn.RMSNorm):
            init.ones_(module.weight)
        elif isinstance(module, DeltaProduct) and module.use_forget_gate:
            fresh = DeltaProduct(
                1, num_heads=module.num_heads, head_dim=1, num_v_heads=module.num_v_heads, use_forget_gate=True, use_short_conv=False
            )
            init.copy_(module.A_log, fresh.A_log)
            init.copy_(module.dt_bias, fresh.dt_bias)

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # the models make a DeltaProductCache themselves


class DeltaProductModel(DeltaProductPreTrainedModel):
    """Embedding, blocks of DeltaProduct and SwiGLU, final norm.

    Args:
        config: Configuration.

    Example:
        >>> model = DeltaProductModel(DeltaProductConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_heads=2, head_dim=16))
        >>> model(torch.randint(50, (2, 7))).last_hidden_state.shape
        torch.Size([2, 7, 32])
    """

    def __init__(self, config: DeltaProductConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList(DeltaProductLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embeddings = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: DeltaProductCache | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cu_seqlens: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...] | BaseModelOutputWithPast:
        """Hidden states of tokens ``input_ids (B, T)`` or embeddings ``inputs_embeds (B, T, D)``.

        ``attention_mask`` is 1 for tokens and 0 for padding on either side, ``(B, T)`` or with earlier tokens first; ``cu_seqlens``
        offsets of sequences in a batch of 1. Other keyword arguments of transformers are accepted and have no meaning here (positions,
        for one).

        Raises:
            ValueError: If not exactly one of ``input_ids`` and ``inputs_embeds`` is given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("exactly one of input_ids and inputs_embeds must be given")
        if isinstance(past_key_values, DeltaProductCache) or past_key_values is None:
            cache = past_key_values
        else:
            raise TypeError(f"past_key_values must be a DeltaProductCache, got {type(past_key_values).__name__}")
        use_cache = (self.config.use_cache and not self.training) if use_cache is None else use_cache
        if use_cache and self.gradient_checkpointing and self.training:
            use_cache = False
        if use_cache and cache is None:
            cache = DeltaProductCache()
        x = self.embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        hidden = [x]
        for layer in self.layers:
            x, _ = layer(x, attention_mask, past_key_values=cache, use_cache=use_cache, cu_seqlens=cu_seqlens)
            hidden.append(x)
        x = self.norm(x)
        hidden[-1] = x
        output = BaseModelOutputWithPast(
            last_hidden_state=x,
            past_key_values=cache if use_cache else None,  # pyright: ignore[reportArgumentType] - a cache of another kind
            hidden_states=tuple(hidden) if wanted else None,
        )
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()


class DeltaProductForCausalLM(DeltaProductPreTrainedModel, GenerationMixin):
    """Language model.

    Args:
        config: Configuration.

    Example:
        >>> model = DeltaProductForCausalLM(
        ...     DeltaProductConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_heads=2, head_dim=16)
        ... )
        >>> model.generate(torch.tensor([[3, 4, 5]]), max_new_tokens=4, num_beams=2).shape
        torch.Size([1, 7])
    """

    _tied_weights_keys = {"lm_head.weight": "model.embeddings.weight"}  # noqa: RUF012

    def __init__(self, config: DeltaProductConfig) -> None:
        super().__init__(config)
        self.model = DeltaProductModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.embeddings = value

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.lm_head = new_embeddings

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: DeltaProductCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        cu_seqlens: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...] | CausalLMOutputWithPast:
        """Logits ``(B, T, vocab_size)``, and with ``labels (B, T)`` the loss of the next token (-100 is left out).

        ``logits_to_keep`` limits the logits to so many last positions (0: all), or to these positions. Otherwise as
        ``DeltaProductModel.forward``.
        """
        outputs = self.model(
            input_ids,
            attention_mask,
            inputs_embeds,
            past_key_values,
            use_cache,
            output_hidden_states,
            return_dict=True,
            cu_seqlens=cu_seqlens,
        )
        hidden = outputs.last_hidden_state
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) and logits_to_keep else slice(None)
        logits = self.lm_head(hidden[:, logits_to_keep if isinstance(logits_to_keep, Tensor) else keep])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        output = CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=outputs.past_key_values, hidden_states=outputs.hidden_states
        )
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()
