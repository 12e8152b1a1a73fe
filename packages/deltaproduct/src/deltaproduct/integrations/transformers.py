"""DeltaProduct in transformers: configuration, models, and their registration with the ``Auto`` classes."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from deltaproduct.integrations._configuration import DeltaProductConfig
from deltaproduct.integrations._modeling import DeltaProductForCausalLM, DeltaProductModel, DeltaProductPreTrainedModel

__all__ = ["DeltaProductConfig", "DeltaProductForCausalLM", "DeltaProductModel", "DeltaProductPreTrainedModel"]

AutoConfig.register(DeltaProductConfig.model_type, DeltaProductConfig, exist_ok=True)
AutoModel.register(DeltaProductConfig, DeltaProductModel, exist_ok=True)
AutoModelForCausalLM.register(DeltaProductConfig, DeltaProductForCausalLM, exist_ok=True)
