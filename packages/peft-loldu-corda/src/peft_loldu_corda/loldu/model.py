"""The tuner that peft makes from a ``LolduConfig``."""

from typing import Any

from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from peft.utils.quantization_utils import get_quantization_kwargs
from torch import Tensor, nn

from geocore.integrations.peft import register_method
from peft_loldu_corda._base import quantization_of
from peft_loldu_corda.loldu.config import LolduConfig
from peft_loldu_corda.loldu.layer import LolduLayer

__all__ = ["LolduModel"]


class LolduModel(BaseTuner):
    """A model with LoLDU adapters; made by ``peft.get_peft_model(model, LolduConfig(...))``."""

    prefix = "loldu_"
    tuner_layer_cls = LolduLayer
    target_module_mapping = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if parameter_name is not None:
            raise NotImplementedError(f"a LoLDU adapter stands beside a layer, not a bare parameter; got {parameter_name!r}")
        base: Any = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        backend = quantization_of(base, **get_quantization_kwargs(self.model))
        if not peft_config.restored:
            weight = getattr(base, "weight", None)
            if isinstance(weight, Tensor):
                peft_config.base_dtype = str(weight.dtype).removeprefix("torch.")
            if backend is not None:
                peft_config.base_quantization = backend.backend_name
        if isinstance(target, LolduLayer):
            target.update_layer(adapter_name, peft_config)
            return
        layer = LolduLayer(target, adapter_name, peft_config, name=current_key, backend=backend)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # peft's would also move the new layer to its device; ours is there already, or on the meta device until it is loaded.
        setattr(parent, child_name, new_module)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        bare = {key.removeprefix("base_model.model.") for key in state_dict}
        missing = []
        for name, layer in model.named_modules():
            if isinstance(layer, LolduLayer) and adapter_name in layer.loldu_diag:
                path = name.removeprefix("base_model.model.")
                if f"{path}.loldu_L" in bare:
                    layer.keep_projection(adapter_name)
                missing += [f"{path}.{part}" for part in ("loldu_diag", "loldu_d0", "loldu_perm") if f"{path}.{part}" not in bare]
        if missing:
            raise RuntimeError(
                f"adapter {adapter_name!r} does not fit this base model: {len(missing)} of its tensors are missing, such as {missing[0]}"
            )
        return super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)


def register_loldu() -> None:
    """Register LOLDU with peft."""
    register_method("loldu", LolduConfig, LolduModel)
