"""Haar-distributed rotations and orthogonal matrices."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from geocore._checks import check_positive_int

__all__ = ["haar"]


def haar(
    n: int,
    shape: int | Sequence[int] = (),
    *,
    special: bool = True,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, "*shape n n"]:
    """Rotations of n-space drawn from the uniform (Haar) law, independent of each other.

    QR of a Gaussian matrix with the signs of the diagonal of ``R`` moved into ``Q`` (without that the law is not uniform),
    then, for rotations, the first column is flipped where the determinant is -1.

    Args:
        n: Dimension.
        shape: Batch shape, or a number of samples.
        special: Rotations; otherwise all of O(n), either determinant with probability one half.
        generator: Source of randomness; its device must match.
        dtype: Of the result, the default dtype if not given; half precision is drawn in float32 and rounded.
        device: Of the result.

    Returns:
        Shape ``(*shape, n, n)``.

    Raises:
        ValueError: If ``n < 1``.
        TypeError: If ``n`` is not an int, or ``dtype`` is not a real floating-point dtype.

    Example:
        >>> haar(4, (2, 3), generator=torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3, 4, 4])
    """
    check_positive_int("n", n)
    dtype = torch.get_default_dtype() if dtype is None else dtype
    if not dtype.is_floating_point:
        raise TypeError(f"dtype must be a real floating-point dtype, got {dtype}")
    work = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
    batch = (shape,) if isinstance(shape, int) else tuple(shape)
    Q, R = torch.linalg.qr(torch.randn((*batch, n, n), generator=generator, dtype=work, device=device))
    Q = Q * torch.where(R.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(work)[..., None, :]
    if special:
        flip = torch.where(torch.linalg.det(Q) < 0, -1.0, 1.0).to(work)[..., None, None]
        Q = torch.cat([Q[..., :1] * flip, Q[..., 1:]], dim=-1)
    return Q.to(dtype)
