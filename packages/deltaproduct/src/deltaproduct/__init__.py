"""Linear RNN whose state transition is a product of Householder factors (Siems et al., DeltaProduct, NeurIPS 2025, arXiv 2502.10297).

``DeltaProductConfig``, ``DeltaProductModel`` and ``DeltaProductForCausalLM`` load with ``transformers``, on use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from deltaproduct import tasks
from deltaproduct.cache import DeltaProductCache
from deltaproduct.checkpoints import load_fla_state_dict, load_vendored_state_dict
from deltaproduct.functional import delta_product, transition_matrix
from deltaproduct.modules import DeltaProduct

if TYPE_CHECKING:
    from deltaproduct.integrations.transformers import DeltaProductConfig, DeltaProductForCausalLM, DeltaProductModel

__all__ = [
    "DeltaProduct",
    "DeltaProductCache",
    "DeltaProductConfig",
    "DeltaProductForCausalLM",
    "DeltaProductModel",
    "__version__",
    "delta_product",
    "load_fla_state_dict",
    "load_vendored_state_dict",
    "tasks",
    "transition_matrix",
]
__version__ = "0.1.0"

_OF_TRANSFORMERS = ("DeltaProductConfig", "DeltaProductForCausalLM", "DeltaProductModel")


def __getattr__(name: str) -> Any:
    if name not in _OF_TRANSFORMERS:
        raise AttributeError(f"module 'deltaproduct' has no attribute {name!r}")
    try:
        import_module("transformers")
    except ImportError as error:
        raise ImportError(f"{name} needs transformers: pip install 'deltaproduct[transformers]'") from error
    return getattr(import_module("deltaproduct.integrations.transformers"), name)
