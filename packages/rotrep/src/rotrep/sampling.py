"""Random rotations by the two laws that the paper uses: uniform on the group, and uniform in the angle."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from geocore import so3, son

__all__ = ["haar", "uniform_angle"]


def haar(
    n: int = 3,
    shape: int | Sequence[int] = (),
    generator: torch.Generator | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, "*shape n n"]:
    """Rotations of n-space by the uniform (Haar) law; for n = 3 the mean angle is 126.476 degrees. Sanity experiment of the paper.

    Args:
        n: Dimension.
        shape: Batch shape, or a number of samples.
        generator: Source of randomness.
        dtype: Of the result, torch's default if not given.
        device: Of the result.

    Returns:
        Rotation matrices, shape ``(*shape, n, n)``.

    Raises:
        ValueError: If ``n < 1``.
        TypeError: If ``n`` is not an int or ``dtype`` is not floating.

    Example:
        >>> haar(3, (2, 5)).shape
        torch.Size([2, 5, 3, 3])
    """
    if n == 3:
        return so3.random(shape, generator=generator, dtype=dtype, device=device)
    return son.haar(n, shape, generator=generator, dtype=dtype, device=device)


def uniform_angle(
    shape: int | Sequence[int] = (),
    generator: torch.Generator | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, "*shape 3 3"]:
    """Rotations with uniform axis and angle uniform on [0, pi]. Not the uniform law; point-cloud experiment of the paper.

    Args:
        shape: Batch shape, or a number of samples.
        generator: Source of randomness.
        dtype: Of the result, torch's default if not given.
        device: Of the result.

    Returns:
        Rotation matrices, shape ``(*shape, 3, 3)``.

    Raises:
        TypeError: If ``dtype`` is not floating.

    Example:
        >>> uniform_angle(4).shape
        torch.Size([4, 3, 3])
    """
    return so3.random(shape, "uniform_angle", generator=generator, dtype=dtype, device=device)
