"""Both sides of every switch between a series and a closed form, against 40-digit values."""

from collections.abc import Callable

import mpmath
import pytest
import torch
from torch import Tensor

from geocore.so3 import _series
from geocore.so3._algebra import _ATAN_SWITCH, rotvec_scale


def around(x: float, dtype: torch.dtype) -> Tensor:
    """Half, one ulp below, at, one ulp above and twice the angle whose square is ``x``."""
    at = torch.tensor(x, dtype=dtype)
    up, down = torch.tensor(torch.inf, dtype=dtype), torch.tensor(0.0, dtype=dtype)
    return torch.stack([at / 4, torch.nextafter(at, down), at, torch.nextafter(at, up), at * 4])


def slope(f: Callable[[mpmath.mpf], mpmath.mpf]) -> Callable[[mpmath.mpf], mpmath.mpf]:
    return lambda u: mpmath.diff(f, u)


def cosc(u):
    return (1 - mpmath.cos(mpmath.sqrt(u))) / u


def cube(u):
    return (mpmath.sqrt(u) - mpmath.sin(mpmath.sqrt(u))) / u**1.5


def sinc(u):
    return mpmath.sin(mpmath.sqrt(u)) / mpmath.sqrt(u)


def half_cot(u):
    t = mpmath.sqrt(u)
    return (1 - t / 2 * mpmath.cot(t / 2)) / u


# The function, its exact values, and the power of t^2 that multiplies it in use: closed forms lose digits that this takes away.
CASES = {
    "sinc_cosc": (_series.sinc_cosc, (sinc, cosc), (0, 1)),
    "sinc_half": (_series.sinc_half, (lambda u: mpmath.cos(mpmath.sqrt(u) / 2), lambda u: sinc(u / 4) / 2), (0, 0)),
    "left_coefficients": (_series.left_coefficients, (cosc, cube), (0.5, 1)),
    "left_slopes": (_series.left_slopes, (slope(cosc), slope(cube)), (1, 1.5)),
    "half_cot": (lambda u: (_series.half_cot(u),), (half_cot,), (1,)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_series_and_closed_form_agree_at_the_switch(name, dtype):
    fn, exact, powers = CASES[name]
    switch = (1 / 16 if dtype == torch.float64 else 1 / 4) * (4 if name == "sinc_half" else 1)
    t2 = around(switch, dtype)
    assert fn(t2)[0].dtype == dtype
    with mpmath.workdps(40):
        for got, want, power in zip(fn(t2), exact, powers, strict=True):
            error = [
                abs(mpmath.mpf(g) - want(mpmath.mpf(u))) * mpmath.mpf(u) ** power for g, u in zip(got.tolist(), t2.tolist(), strict=True)
            ]
            assert max(error) <= 4 * torch.finfo(dtype).eps, [float(e) for e in error]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logarithm_scale_agrees_at_the_switch(dtype):
    square = around(_ATAN_SWITCH, dtype)
    w = torch.ones_like(square)
    with mpmath.workdps(40):
        want = [2 * mpmath.atan(mpmath.sqrt(s)) / mpmath.sqrt(s) for s in map(mpmath.mpf, square.tolist())]
        error = [abs(mpmath.mpf(g) - v) for g, v in zip(rotvec_scale(w, square).tolist(), want, strict=True)]
    assert max(error) <= 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_slopes_at_the_switch(name, dtype):
    fn, exact, powers = CASES[name]
    switch = (1 / 16 if dtype == torch.float64 else 1 / 4) * (4 if name == "sinc_half" else 1)
    t2 = around(switch, dtype).requires_grad_()
    for got, want, power in zip(fn(t2), exact, powers, strict=True):
        found = torch.autograd.grad(got.sum(), t2, retain_graph=True)[0]
        with mpmath.workdps(40):
            right = [mpmath.diff(want, mpmath.mpf(u)) for u in t2.tolist()]
            error = [
                abs(mpmath.mpf(g) - r) * mpmath.mpf(u) ** (power + 1) for g, r, u in zip(found.tolist(), right, t2.tolist(), strict=True)
            ]
        assert max(error) <= 16 * torch.finfo(dtype).eps, [float(e) for e in error]
