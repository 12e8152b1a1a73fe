"""Block-diagonal rotations and the rotary-embedding kernel.

A block-diagonal rotation of ``R^d``, ``d = m k``, is held as its ``m`` blocks, shape ``(..., m, k, k)``, and never as the
``d x d`` matrix. Rotations act on columns: ``y = R x``.
"""

from geocore.blocks._apply import apply_block_rotation
from geocore.blocks._monarch import blockdiag_dense, blockdiag_matmul, monarch_dense, monarch_matmul
from geocore.blocks._rope import rope_apply
from geocore.blocks._rotation import BlockRotation

__all__ = [
    "BlockRotation",
    "apply_block_rotation",
    "blockdiag_dense",
    "blockdiag_matmul",
    "monarch_dense",
    "monarch_matmul",
    "rope_apply",
]
