"""Random rotations."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from geocore._checks import check_option
from geocore.so3._algebra import exp
from geocore.so3._elements import split, unit
from geocore.so3._pairs import quat_parts_to_matrix

__all__ = ["random"]

LAWS = ("haar", "uniform_angle", "wrapped_normal")


def random(
    shape: int | Sequence[int] = (),
    law: str = "haar",
    *,
    sigma: float = 1.0,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, "*shape 3 3"]:
    """Random rotation matrices.

    - ``"haar"``: the uniform law on the group (a normalised Gaussian quaternion); the angle has density (1 - cos a) / pi.
    - ``"uniform_angle"``: uniform axis, angle uniform on [0, pi]. Not the uniform law: it favours small rotations.
    - ``"wrapped_normal"``: ``exp`` of a Gaussian rotation vector with standard deviation ``sigma`` per component, centred at the identity.

    Args:
        shape: Batch shape, an int or a sequence of ints; ``()`` for one matrix.
        law: ``"haar"``, ``"uniform_angle"`` or ``"wrapped_normal"``.
        sigma: Standard deviation in radians of ``"wrapped_normal"``.
        generator: Source of randomness; its device must be ``device``.
        dtype: Floating-point dtype of the result, by default torch's.
        device: Device of the result, by default the generator's or torch's.

    Returns:
        Rotation matrices, shape ``(*shape, 3, 3)``.

    Raises:
        ValueError: If ``law`` is unknown, or ``sigma`` is negative.
        TypeError: If ``dtype`` is not a floating-point dtype.

    Example:
        >>> random((2, 5), generator=torch.Generator().manual_seed(0)).shape
        torch.Size([2, 5, 3, 3])
    """
    check_option("law", law, LAWS)
    if sigma < 0:
        raise ValueError(f"sigma must not be negative, got {sigma}")
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    dtype = torch.get_default_dtype() if dtype is None else dtype
    if not dtype.is_floating_point:
        raise TypeError(f"dtype must be a floating-point dtype, got {dtype}")
    if device is None and generator is not None:
        device = generator.device
    work = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
    if law == "haar":
        q = torch.randn((*shape, 4), generator=generator, dtype=work, device=device)
        return quat_parts_to_matrix(split(q)).to(dtype)
    v = torch.randn((*shape, 3), generator=generator, dtype=work, device=device)
    if law == "wrapped_normal":
        return exp(sigma * v).to(dtype)
    axis, _ = unit(split(v), (0.0, 0.0, 1.0))
    half = (0.5 * torch.pi) * torch.rand(shape, generator=generator, dtype=work, device=device)
    s = half.sin()
    return quat_parts_to_matrix((half.cos(), s * axis[0], s * axis[1], s * axis[2])).to(dtype)
