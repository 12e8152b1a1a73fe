"""Product of a block-diagonal matrix with vectors, arranged as few large matrix products as the shapes allow."""

from jaxtyping import Float
from torch import Tensor

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

    v = x.expand(*batch, m * k).unflatten(-1, (m, k))
    R = blocks.reshape((1,) * (len(batch) - blocks.ndim + 3) + tuple(blocks.shape))
    # Batch dimensions along which R is constant become rows; the others stay a batch of matrices.
    rows = [i for i in range(len(batch)) if R.shape[i] == 1]
    kept = [i for i in range(len(batch)) if R.shape[i] != 1]
    nb = len(batch)
    v = v.permute(*kept, nb, *rows, nb + 1)
    shape = v.shape
    v = v.reshape(*shape[: len(kept) + 1], _product(shape[len(kept) + 1 : -1]), k)
    R = R.permute(*rows, *kept, nb, nb + 1, nb + 2).reshape(*shape[: len(kept) + 1], k, k)
    y = (v @ R.mT).reshape(shape)
    order = [*kept, nb, *rows, nb + 1]
    return y.permute(*(order.index(i) for i in range(nb + 2))).flatten(-2)


def _product(sizes: tuple[int, ...]) -> int:
    n = 1
    for s in sizes:
        n *= s
    return n
