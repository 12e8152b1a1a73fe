"""When a check may look at values without costing a synchronisation or breaking a trace."""

import torch
from torch import Tensor

from geocore._dispatch import needs_composable

__all__ = ["values_readable"]


def values_readable(x: Tensor) -> bool:
    """Whether ``x`` lies in host memory and no compiler or function transform is watching."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and not needs_composable()
