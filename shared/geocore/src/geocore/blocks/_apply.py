"""Product of a block-diagonal matrix with vectors, arranged as few large matrix products as the shapes allow."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from geocore import _ops
from geocore._checks import check_broadcastable, check_square, check_trailing
from geocore._precision import full_precision

__all__ = ["apply_block_rotation", "check_blocks"]


def check_blocks(name: str, blocks: Tensor) -> None:
    """Raise unless ``blocks`` is floating with shape ``(..., m, k, k)``.

    Raises:
        ValueError: If it has fewer than three dimensions or non-square blocks.
        TypeError, NotImplementedError: If the dtype is integer or complex.
    """
    check_square(name, blocks, hint="blocks of shape (..., m, k, k)")
    if blocks.ndim < 3:
        raise ValueError(f"{name} must have shape (..., m, k, k), got {tuple(blocks.shape)}; add the block dimension with {name}[None]")


@full_precision
def apply_block_rotation(x: Float[Tensor, "*xbatch d"], blocks: Float[Tensor, "*rbatch m k k"]) -> Float[Tensor, "*batch d"]:
    """Multiply vectors by block-diagonal matrices, ``y[j k : (j+1) k] = R_j x[j k : (j+1) k]`` for every block ``j``.

    Nothing requires the blocks to be rotations. Batch dimensions broadcast; blocks shared by many vectors (a batch
    dimension of size 1 or absent) are never expanded: those vectors become the rows of one matrix product.

    Args:
        x: Vectors, shape ``(..., m k)``.
        blocks: Diagonal blocks, shape ``(..., m, k, k)``, acting on columns.

    Returns:
        Shape ``(..., m k)`` with the broadcast batch dimensions; float16 and bfloat16 are computed in float32.

    Raises:
        ValueError: If the last dimension of ``x`` is not ``m k``, a block is not square or the batches do not broadcast.
        TypeError, NotImplementedError: If an argument has an integer or a complex dtype.

    Example:
        >>> quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
        >>> apply_block_rotation(torch.tensor([1.0, 0.0, 0.0, 2.0]), torch.stack([quarter, torch.eye(2)]))
        tensor([0., 1., 0., 2.])
    """
    check_blocks("blocks", blocks)
    m, k = blocks.shape[-3], blocks.shape[-1]
    check_trailing("x", x, (m * k,), hint=f"{m} blocks of size {k} act on vectors of length {m * k}")
    batch = check_broadcastable(x=x.shape[:-1], blocks=blocks.shape[:-3])

    if _fits_kernel(x, blocks) and _ops.kernel_may_run("block_rotate", x, blocks, size=k, count=x.numel()):
        return torch.ops.geocore.block_rotate(x, blocks, False)
    return apply_reference(x.expand(*batch, m * k), blocks)


def apply_reference(x: Tensor, blocks: Tensor) -> Tensor:
    """``apply_block_rotation`` without checks, by plain operations; ``x`` has the whole batch."""
    v, kept, rows = _as_rows(x, blocks)
    R = blocks.reshape((1,) * (x.ndim + 2 - blocks.ndim) + tuple(blocks.shape))
    nb = x.ndim - 1
    R = R.permute(*rows, *kept, nb, nb + 1, nb + 2).reshape(*v.shape[:-2], *blocks.shape[-2:])
    y = (v @ R.mT).reshape(*v.shape[:-2], *(x.shape[i] for i in rows), v.shape[-1])
    order = [*kept, nb, *rows, nb + 1]
    return y.permute(*(order.index(i) for i in range(nb + 2))).flatten(-2)


def _as_rows(x: Tensor, blocks: Tensor) -> tuple[Tensor, list[int], list[int]]:
    """``x`` as ``(*kept, m, rows, k)``: batch dimensions along which blocks are constant become rows, the others a batch of matrices."""
    m, k = blocks.shape[-3], blocks.shape[-1]
    nb, ahead = x.ndim - 1, x.ndim + 2 - blocks.ndim
    rows = [i for i in range(nb) if i < ahead or blocks.shape[i - ahead] == 1]
    kept = [i for i in range(nb) if i not in rows]
    v = x.unflatten(-1, (m, k)).permute(*kept, nb, *rows, nb + 1)
    return v.reshape(*v.shape[: len(kept) + 1], _product(v.shape[len(kept) + 1 : -1]), k), kept, rows


def _product(sizes: tuple[int, ...]) -> int:
    n = 1
    for s in sizes:
        n *= s
    return n


def _fits_kernel(x: Tensor, blocks: Tensor) -> bool:
    """Whether the blocks do not enlarge the batch of ``x``."""
    if blocks.ndim - 3 > x.ndim - 1 or x.ndim > 8:
        return False
    return all(b in (1, n) for b, n in zip(reversed(blocks.shape[:-3]), reversed(x.shape[:-1]), strict=False))


def _plain(x: Tensor, blocks: Tensor, transpose: bool) -> Tensor:
    return apply_reference(x, blocks.mT if transpose else blocks).contiguous()


def _outer(x: Tensor, g: Tensor, blocks: Tensor) -> Tensor:
    """Gradient in the blocks for the gradient ``g`` in the result: sums of ``g_r x_c`` over the vectors of a block."""
    return (_as_rows(g, blocks)[0].mT @ _as_rows(x, blocks)[0]).reshape(blocks.shape)


def _backward(inputs: tuple[Any, ...], outputs: Any, grads: tuple[Tensor], needs: tuple[bool, ...]) -> tuple[Tensor | None, ...]:
    del outputs
    (x, blocks, transpose), (g,), ops = inputs, grads, torch.ops.geocore
    by_x = ops.block_rotate(g, blocks, not transpose) if needs[0] else None
    return by_x, ops.block_rotate_backward(*((g, x) if transpose else (x, g)), blocks) if needs[1] else None


def _outer_backward(inputs: tuple[Any, ...], outputs: Any, grads: tuple[Tensor], needs: tuple[bool, ...]) -> tuple[Tensor | None, ...]:
    del outputs
    (x, g, _), (h,), rotate = inputs, grads, torch.ops.geocore.block_rotate
    return rotate(g, h, True) if needs[0] else None, rotate(x, h, False) if needs[1] else None, None


_ops.define(
    "block_rotate",
    "(Tensor x, Tensor blocks, bool transpose) -> Tensor",
    _plain,
    lambda x, blocks, transpose: x.new_empty(x.shape),
    backward=_backward,
    save_outputs=False,
    tell_needs=True,
)
_ops.define(
    "block_rotate_backward",
    "(Tensor x, Tensor g, Tensor blocks) -> Tensor",
    _outer,
    lambda x, g, blocks: x.new_empty(blocks.shape),
    backward=_outer_backward,
    save_outputs=False,
    tell_needs=True,
)
