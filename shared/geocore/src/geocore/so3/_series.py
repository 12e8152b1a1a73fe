"""Even functions of an angle, evaluated from the squared angle so that every derivative exists at zero.

Below a threshold on ``t2 = t * t`` a power series, above it the closed form; both branches are fed a clamped argument, so the
one that is not chosen stays finite. Thresholds are per dtype: the series' remainder and its slope's are below one eps there, and
the closed forms, whose slopes lose ``eps / t2``, still carry that loss only through factors of size ``t2``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from geocore.so3._elements import blend

__all__ = ["half_cot", "horner", "left_coefficients", "left_slopes", "sinc_cosc", "sinc_half", "switch"]

_SINC = (1.0, -1 / 6, 1 / 120, -1 / 5040, 1 / 362880, -1 / 39916800)
_COSC = (1 / 2, -1 / 24, 1 / 720, -1 / 40320, 1 / 3628800, -1 / 479001600)
_CUBE = (1 / 6, -1 / 120, 1 / 5040, -1 / 362880, 1 / 39916800, -1 / 6227020800)
_COT = (1 / 12, 1 / 720, 1 / 30240, 1 / 1209600, 1 / 47900160, 691 / 1307674368000)
_COSC_SLOPE = (-1 / 24, 2 / 720, -3 / 40320, 4 / 3628800, -5 / 479001600, 6 / 87178291200)
_CUBE_SLOPE = (-1 / 120, 2 / 5040, -3 / 362880, 4 / 39916800, -5 / 6227020800, 6 / 1307674368000)


def horner(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    """Polynomial with ascending ``coefficients``."""
    p = x * coefficients[-1] + coefficients[-2]
    for c in reversed(coefficients[:-2]):
        p = p * x + c
    return p


def switch(t2: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
    """Mask of small angles as 0/1, argument of the series, argument of the closed form, number of series terms."""
    threshold, terms = (1 / 16, 6) if t2.dtype == torch.float64 else (1 / 4, 4)
    # The slope of a clamp at its bound depends on torch: the closed form's bound lies below the threshold, where it is not used.
    return (t2 < threshold).to(t2.dtype), t2.clamp_max(threshold), t2.clamp_min(0.875 * threshold), terms


def sinc_cosc(t2: Tensor) -> tuple[Tensor, Tensor]:
    """``sin(t) / t`` and ``(1 - cos t) / t^2``."""
    small, near, far, n = switch(t2)
    t = far.sqrt()
    return blend(small, horner(near, _SINC[:n]), t.sin() / t), blend(small, horner(near, _COSC[:n]), (1.0 - t.cos()) / far)


def sinc_half(t2: Tensor) -> tuple[Tensor, Tensor]:
    """``cos(t / 2)`` and ``sin(t / 2) / t``."""
    small, near, far, n = switch(t2 * 0.25)
    h = far.sqrt()
    cosine = 1.0 - near * horner(near, _COSC[:n])
    return blend(small, cosine, h.cos()), blend(small, horner(near, _SINC[:n]), h.sin() / h) * 0.5


def left_coefficients(t2: Tensor) -> tuple[Tensor, Tensor]:
    """``(1 - cos t) / t^2`` and ``(t - sin t) / t^3``."""
    small, near, far, n = switch(t2)
    h = far.sqrt() * 0.5
    s = h.sin() / h
    cube = (1.0 - s * h.cos()) / far
    return blend(small, horner(near, _COSC[:n]), s * s * 0.5), blend(small, horner(near, _CUBE[:n]), cube)


def left_slopes(t2: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of ``left_coefficients`` with respect to ``t2``."""
    small, near, far, n = switch(t2)
    h = far.sqrt() * 0.5
    s = h.sin() / h
    a, b = s * h.cos(), s * s * 0.5
    c = (1.0 - a) / far
    return (
        blend(small, horner(near, _COSC_SLOPE[:n]), (a - 2.0 * b) / (2.0 * far)),
        blend(small, horner(near, _CUBE_SLOPE[:n]), (b - 3.0 * c) / (2.0 * far)),
    )


def half_cot(t2: Tensor) -> Tensor:
    """``(1 - (t / 2) cot(t / 2)) / t^2``, smooth up to ``t < 2 pi``."""
    small, near, far, n = switch(t2)
    h = far.sqrt() * 0.5
    return blend(small, horner(near, _COT[:n]), (1.0 - h * h.cos() / h.sin()) / far)
