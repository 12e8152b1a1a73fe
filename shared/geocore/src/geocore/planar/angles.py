"""Angles on the circle and, with period pi, on the projective line of undirected axes."""

from collections.abc import Sequence
from math import pi

import torch
from jaxtyping import Float
from torch import Tensor

from geocore._checks import check_floating

__all__ = ["angle_diff", "axial_mean", "decode_phase", "encode_harmonics", "wrap"]


def _check_period(period: float) -> None:
    if not period > 0:
        raise ValueError(f"period must be positive, got {period}")


def _wide(x: Tensor) -> Tensor:
    """Half precision in float32: its remainders are meaningless."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def wrap(a: Float[Tensor, "*batch"], period: float = pi, start: float = -pi / 2) -> Float[Tensor, "*batch"]:
    """The angle that differs from ``a`` by a multiple of ``period`` and lies in ``[start, start + period)``.

    Rounding never leads out of that range, as it does for ``torch.remainder`` of tiny negative numbers. The gradient is one everywhere.

    Args:
        a: Angles in radians, any shape.
        period: Period, pi for undirected axes.
        start: Lower end of the range.

    Raises:
        TypeError: If ``a`` is not floating.
        ValueError: If ``period`` is not positive.

    Example:
        >>> wrap(torch.tensor([2.0, -1e-9]), start=0.0)
        tensor([2., 0.])
    """
    check_floating("a", a)
    _check_period(period)
    r = torch.remainder(_wide(a) - start, period)
    out = (torch.where(r >= period, r - period, r) + start).to(a.dtype)
    out = torch.where(out >= start + period, out - period, out)
    return torch.where(out < start, out + (start - out).detach(), out)


def angle_diff(a: Float[Tensor, "*#batch"], b: Float[Tensor, "*#batch"], period: float = pi) -> Float[Tensor, "*batch"]:
    """``a - b`` as the shortest signed way, in ``[-period / 2, period / 2)``; gradients are 1 and -1.

    Args:
        a, b: Angles in radians, broadcast against each other.
        period: Period.

    Raises:
        TypeError: If an input is not floating.
        ValueError: If ``period`` is not positive.
    """
    check_floating("b", b)
    return wrap(a - b, period, -period / 2)


def axial_mean(
    a: Float[Tensor, "..."], weights: Float[Tensor, "..."] | None = None, period: float = pi, dim: int = -1
) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    """Mean direction of angles that are the same modulo ``period``, and how much they agree.

    Source: Mardia and Jupp, Directional Statistics, section 9.1: the mean of the points at ``2 pi a / period`` on the circle.

    Args:
        a: Angles in radians.
        weights: Non-negative, broadcast against ``a``.
        period: Period, pi for undirected axes.
        dim: Dimension of the mean.

    Returns:
        Mean in ``[-period / 2, period / 2)`` and resultant length in [0, 1]. Where the length is zero (opposite angles, no weight) the mean
        is 0 with zero gradient.

    Raises:
        TypeError: If an input is not floating.
        ValueError: If ``period`` is not positive.

    Example:
        >>> mean, length = axial_mean(torch.deg2rad(torch.tensor([89.0, -89.0])))
        >>> torch.rad2deg(mean).abs(), length
        (tensor(90.), tensor(0.9994))
    """
    check_floating("a", a)
    _check_period(period)
    k = 2 * pi / period
    x = k * _wide(a)
    w = torch.ones_like(x) if weights is None else _wide(weights).expand(x.shape).to(x.dtype)
    total = w.sum(dim)
    total = torch.where(total > 0, total, torch.ones_like(total))
    c, s = (w * x.cos()).sum(dim) / total, (w * x.sin()).sum(dim) / total
    angle = decode_phase(c, s, tol=8 * torch.finfo(x.dtype).eps) / k
    square = c.square() + s.square()
    length = torch.where(square > 0, torch.where(square > 0, square, 1.0).sqrt(), 0.0)
    return wrap(angle, period, -period / 2).to(a.dtype), length.clamp(max=1).to(a.dtype)


def encode_harmonics(
    a: Float[Tensor, "*batch"], orders: float | Sequence[float] | Tensor, phases: Sequence[float] | Tensor = (0.0, -pi / 2)
) -> Float[Tensor, "*batch codes"]:
    """``cos(order a + phase)`` for every order and phase: the continuous codes of angle coders.

    The default phases give ``(cos, sin)``; ``2 pi k / m`` for ``k < m`` the ``m`` phase-shifted cosines.

    Args:
        a: Angles in radians, shape ``(...)``.
        orders: Multiples of the angle: ``2 pi / period`` for one with that period.
        phases: Phases in radians.

    Returns:
        Codes, shape ``(..., orders * phases)``, order by order.

    Raises:
        TypeError: If ``a`` is not floating.
    """
    check_floating("a", a)
    x = _wide(a)
    order = torch.as_tensor(orders, dtype=x.dtype, device=x.device).reshape(-1, 1)
    phase = torch.as_tensor(phases, dtype=x.dtype, device=x.device).reshape(1, -1)
    return torch.cos(x[..., None, None] * order + phase).flatten(-2).to(a.dtype)


def decode_phase(c: Float[Tensor, "*#batch"], s: Float[Tensor, "*#batch"], *, tol: float = 0.0) -> Float[Tensor, "*batch"]:
    """``atan2(s, c)``, with value 0 and gradient 0 where both are at most ``tol``, instead of NaN.

    Args:
        c, s: Cosine and sine times any positive amplitude.
        tol: Amplitude that counts as none.

    Returns:
        Angle in ``[-pi, pi]``.

    Raises:
        TypeError: If an input is not floating.
    """
    check_floating("c", c)
    check_floating("s", s)
    dtype = torch.promote_types(c.dtype, s.dtype)
    c, s = torch.broadcast_tensors(_wide(c), _wide(s))
    none = (c.abs() <= tol) & (s.abs() <= tol)
    angle = torch.atan2(torch.where(none, 0.0, s), torch.where(none, 1.0, c))
    return angle.to(dtype)
