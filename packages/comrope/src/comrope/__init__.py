"""ComRoPE: rotary position encoding with trainable commuting angle matrices (CVPR 2025, arXiv 2506.03737)."""

from typing import TYPE_CHECKING, Any

from comrope.analysis import rope_equation_error
from comrope.baselines import AxialRoPE, LearnedAPE, LieRE, MixedRoPE
from comrope.config import ComRoPEConfig
from comrope.folding import RotaryTable
from comrope.modules import ComRoPE
from comrope.positions import grid_positions
from geocore.blocks import apply_block_rotation

if TYPE_CHECKING:
    from comrope.integrations import patch_vit

__all__ = [
    "AxialRoPE",
    "ComRoPE",
    "ComRoPEConfig",
    "LearnedAPE",
    "LieRE",
    "MixedRoPE",
    "RotaryTable",
    "__version__",
    "apply_block_rotation",
    "grid_positions",
    "patch_vit",
    "rope_equation_error",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "patch_vit":
        from comrope.integrations import patch_vit

        return patch_vit
    raise AttributeError(f"module 'comrope' has no attribute {name!r}")
