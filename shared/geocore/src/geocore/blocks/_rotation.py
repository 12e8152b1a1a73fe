"""The container of a block-diagonal rotation."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils import _pytree as pytree

from geocore._checks import check_broadcastable
from geocore._precision import full_precision
from geocore.blocks._apply import apply_block_rotation, check_blocks

__all__ = ["BlockRotation"]


@dataclass(frozen=True, eq=False)
class BlockRotation:
    """A block-diagonal rotation of ``R^(m k)``, held as its ``m`` blocks of size ``k``.

    Immutable; the inverse is the transpose, because the blocks are taken to be orthogonal (use
    ``geocore.orthogonal.is_rotation(R.blocks)`` to check). A pytree, so it passes through ``torch.func`` transforms, ``torch.compile``
    and ``torch.export`` as an argument or a result. Gradients flow to ``blocks``. ``A @ B`` is ``A.matmul(B)``; write the latter
    inside compiled code, since Dynamo (torch 2.13) traces ``@`` for tensors only.

    Args:
        blocks: Rotation blocks, shape ``(..., m, k, k)``, acting on columns.

    Raises:
        ValueError: If ``blocks`` does not have shape ``(..., m, k, k)``.
        TypeError, NotImplementedError: If ``blocks`` is not a real floating-point tensor.

    Example:
        >>> R = BlockRotation(torch.eye(3).expand(2, 4, 3, 3))
        >>> R.apply(torch.ones(2, 12)).shape, (R @ R.T).to_dense().shape
        (torch.Size([2, 12]), torch.Size([2, 12, 12]))
    """

    blocks: Float[Tensor, "*batch m k k"]

    def __post_init__(self) -> None:
        check_blocks("blocks", self.blocks)

    @property
    def batch_shape(self) -> torch.Size:
        """Leading dimensions of the batch."""
        return self.blocks.shape[:-3]

    @property
    def num_blocks(self) -> int:
        """Number of blocks ``m``."""
        return self.blocks.shape[-3]

    @property
    def block_size(self) -> int:
        """Size ``k`` of a block."""
        return self.blocks.shape[-1]

    @property
    def dim(self) -> int:
        """Dimension ``m k`` of the space that is rotated."""
        return self.num_blocks * self.block_size

    @property
    def T(self) -> "BlockRotation":
        """The transpose, which is the inverse."""
        return self.transpose()

    def transpose(self) -> "BlockRotation":
        """The transpose, which is the inverse."""
        return _wrap(self.blocks.mT)

    def inverse(self) -> "BlockRotation":
        """The inverse rotation, computed as the transpose."""
        return self.transpose()

    def apply(self, x: Float[Tensor, "*xbatch d"]) -> Float[Tensor, "*out d"]:
        """Rotate vectors of shape ``(..., m k)``; batch dimensions broadcast. See ``apply_block_rotation``."""
        return apply_block_rotation(x, self.blocks)

    def matmul(self, other: "BlockRotation") -> "BlockRotation":
        """The composition ``self after other``, block by block; batch dimensions broadcast.

        Raises:
            ValueError: If the number or size of the blocks differ, or the batches do not broadcast.
            TypeError: If ``other`` is not a ``BlockRotation``.
        """
        if not isinstance(other, BlockRotation):
            raise TypeError(f"other must be a BlockRotation, got {type(other).__name__}; use apply for vectors")
        if self.blocks.shape[-3:] != other.blocks.shape[-3:]:
            raise ValueError(
                f"the rotations must have equal blocks (m, k, k), got {tuple(self.blocks.shape[-3:])} and {tuple(other.blocks.shape[-3:])}"
            )
        check_broadcastable(self=self.batch_shape, other=other.batch_shape)
        return _wrap(_matmul(self.blocks, other.blocks))

    def __matmul__(self, other: Any) -> "BlockRotation":
        if not isinstance(other, BlockRotation):
            return NotImplemented
        return self.matmul(other)

    def to_dense(self) -> Float[Tensor, "*batch d d"]:
        """The full matrix, shape ``(..., m k, m k)``, zero off the diagonal blocks."""
        m, k = self.num_blocks, self.block_size
        eye = torch.eye(m, dtype=self.blocks.dtype, device=self.blocks.device)
        return (self.blocks[..., :, :, None, :] * eye[:, None, :, None]).reshape(*self.batch_shape, m * k, m * k)


@full_precision
def _matmul(a: Tensor, b: Tensor) -> Tensor:
    return a @ b


def _wrap(blocks: Any) -> BlockRotation:
    # Without the checks: the blocks come from a checked rotation, and tree maps put arbitrary leaves here.
    rotation = object.__new__(BlockRotation)
    object.__setattr__(rotation, "blocks", blocks)
    return rotation


def _flatten(rotation: BlockRotation) -> tuple[list[Any], None]:
    return [rotation.blocks], None


def _flatten_with_keys(rotation: BlockRotation) -> Any:
    return [(pytree.GetAttrKey("blocks"), rotation.blocks)], None


def _unflatten(leaves: Any, _context: None) -> BlockRotation:
    (blocks,) = leaves
    return _wrap(blocks)


pytree.register_pytree_node(
    BlockRotation,
    _flatten,
    _unflatten,
    flatten_with_keys_fn=_flatten_with_keys,
    serialized_type_name="geocore.blocks.BlockRotation",
    to_dumpable_context=lambda context: context,
    from_dumpable_context=lambda context: context,
)
