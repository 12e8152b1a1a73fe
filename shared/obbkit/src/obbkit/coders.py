"""Angle coders: continuous codes of undirected angles, so that a network need not jump where the angle does.

A coder has ``encode_size``, ``encode(angle)`` with shapes ``(...)`` or ``(..., 1)`` to ``(..., encode_size)``, and ``decode(code)`` back to
``(...)``. ``build_coder`` makes one by name; ``register_coder`` adds a name, as ``ucr_rsar`` does.
"""

from collections.abc import Callable
from math import cos, pi, sin
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geocore._checks import check_floating, check_option, check_positive_int
from geocore.planar import decode_phase, encode_harmonics, wrap
from obbkit import _quick

__all__ = ["ACMCoder", "AngleCoder", "CSLCoder", "DirectCoder", "PSCCoder", "build_coder", "coder_names", "register_coder"]


@runtime_checkable
class AngleCoder(Protocol):
    """What every coder has."""

    encode_size: int

    def encode(self, angle: Tensor) -> Tensor:
        """Codes of angles."""
        ...

    def decode(self, code: Tensor, keepdim: bool = False) -> Tensor:
        """Angles of codes, in ``[-period / 2, period / 2)``."""
        ...


_CODERS: dict[str, Callable[..., Any]] = {}


def register_coder(name: str, make: Callable[..., Any]) -> None:
    """Make a coder known to ``build_coder``. Registering the same again changes nothing.

    Raises:
        ValueError: If another coder has that name.
    """
    if _CODERS.get(name, make) is not make:
        raise ValueError(f"name must be new, but {name!r} is {_CODERS[name]}")
    _CODERS[name] = make


def coder_names() -> list[str]:
    """Names that ``build_coder`` knows."""
    return sorted(_CODERS)


def build_coder(name: str, **options: Any) -> Any:
    """A coder by name: ``"psc"``, ``"acm"``, ``"csl"``, ``"direct"``, and what other packages registered (``"ucr"``).

    Args:
        name: Name of the coder.
        **options: Its arguments.

    Raises:
        ValueError: If the name is unknown.
    """
    if name not in _CODERS:
        raise ValueError(f"name must be one of {', '.join(map(repr, coder_names()))}, got {name!r}")
    return _CODERS[name](**options)


def flat_angle(angle: Tensor) -> Tensor:
    """Angles as ``(...)``; a last dimension of one, of at least two, is dropped."""
    check_floating("angle", angle)
    return angle.squeeze(-1) if angle.ndim >= 2 and angle.shape[-1] == 1 else angle


def check_code(code: Tensor, size: int) -> None:
    """Raise unless the last dimension is that of the codes."""
    check_floating("code", code)
    if code.ndim == 0 or code.shape[-1] != size:
        raise ValueError(f"code must have shape (..., {size}), got {tuple(code.shape)}")


def wide(x: Tensor) -> Tensor:
    """Half precision in float32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class DirectCoder(nn.Module):
    """The angle itself, wrapped when it is read.

    Args:
        period: Period of the angle.
    """

    def __init__(self, period: float = pi) -> None:
        super().__init__()
        self.period, self.encode_size = period, 1

    def encode(self, angle: Float[Tensor, "..."]) -> Float[Tensor, "... 1"]:
        """Shape ``(..., 1)``."""
        return flat_angle(angle).unsqueeze(-1)

    def decode(self, code: Float[Tensor, "... 1"], keepdim: bool = False) -> Float[Tensor, "..."]:
        """Angles in ``[-period / 2, period / 2)``."""
        check_code(code, 1)
        angle = wrap(code, self.period, -self.period / 2)
        return angle if keepdim else angle.squeeze(-1)


class PSCCoder(nn.Module):
    """Phase-shifting coder: ``m`` shifted cosines of twice the angle, and with ``dual_freq`` of four times, for square-like objects.

    Source: Yu and Da, Phase-Shifting Coder, CVPR 2023, arXiv 2211.06368.

    Args:
        num_step: Number of cosines ``m``, at least 3.
        dual_freq: Also code the doubled frequency, unwrapped with the first.
        thr_mod: Codes whose squared unnormalised amplitude is below it decode to 0 without gradient; at full amplitude it is ``(m / 2)^2``.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, num_step: int = 3, dual_freq: bool = True, thr_mod: float = 0.47) -> None:
        super().__init__()
        check_positive_int("num_step", num_step, minimum=3)
        if not thr_mod >= 0:
            raise ValueError(f"thr_mod must not be negative, got {thr_mod}")
        self.num_step, self.dual_freq, self.thr_mod = num_step, dual_freq, thr_mod
        self.encode_size = num_step * (2 if dual_freq else 1)
        self.phases = tuple(2 * pi * k / num_step for k in range(num_step))
        self.columns = [cos(p) for p in self.phases], [sin(p) for p in self.phases]

    def encode(self, angle: Float[Tensor, "..."]) -> Float[Tensor, "... m"]:
        """Shape ``(..., encode_size)``."""
        a = flat_angle(angle)
        if not _quick.pays(a, a.numel()):
            return encode_harmonics(a, (2, 4) if self.dual_freq else 2, self.phases)
        if not self.dual_freq:
            return _quick.encode(a, 2.0, *self.columns)
        codes = a.new_empty(a.numel(), self.encode_size)
        for factor, half in zip((2.0, 4.0), codes.chunk(2, 1), strict=True):
            _quick.encode(a, factor, *self.columns, out=half)
        return codes.reshape(*a.shape, self.encode_size)

    def decode(self, code: Float[Tensor, "... m"], keepdim: bool = False) -> Float[Tensor, "..."]:
        """Angles in ``[-pi/2, pi/2)``."""
        check_code(code, self.encode_size)
        if _quick.may_run(code):
            flat = code.detach().reshape(-1, self.encode_size)
            angle = flat.new_empty(len(flat))
            for part, into in _quick.pieces(flat, angle):
                self._decode_quick(part, into)
            angle = angle.reshape(code.shape[:-1])
            return angle.unsqueeze(-1) if keepdim else angle
        x = wide(code)
        first, valid = self._phase(x[..., : self.num_step])
        if self.dual_freq:
            second, fine = self._phase(x[..., self.num_step :])
            turns = torch.round((first - 0.5 * second).detach() / pi)
            first = torch.where(fine, 0.5 * second + pi * turns, first)
        angle = wrap(torch.where(valid, 0.5 * first, 0.0)).to(code.dtype)
        return angle.unsqueeze(-1) if keepdim else angle

    def _decode_quick(self, code: Tensor, out: Tensor) -> None:
        """The same of codes ``(n, encode_size)``, for which ``_quick.may_run`` holds."""
        least = max(self.thr_mod, 1e-12)
        c, s = _quick.project(code[:, : self.num_step], *self.columns)
        valid = c.square().addcmul_(s, s) >= least
        if not self.dual_freq:
            _quick.read_angle(c, s, pi, 1e-6, out)
            out.masked_fill_(~valid, 0.0)
            return
        fine_c, fine_s = _quick.project(code[:, self.num_step :], *self.columns)
        fine = fine_c.square().addcmul_(fine_s, fine_s) >= least
        first, second = decode_phase(c, s, tol=1e-6), 0.5 * decode_phase(fine_c, fine_s, tol=1e-6)
        first = torch.where(fine, second + pi * torch.round((first - second) / pi), first)
        out.copy_(wrap(torch.where(valid, 0.5 * first, 0.0)))

    def _phase(self, x: Tensor) -> tuple[Tensor, Tensor]:
        c, s = _quick.project_reference(x, *self.columns)
        square = c.detach().square() + s.detach().square()
        return decode_phase(c, s, tol=1e-6), square >= max(self.thr_mod, 1e-12)


class ACMCoder(nn.Module):
    """Angle correct module: cosine and sine of twice the angle, and with ``dual_freq`` of four times.

    Source: Xu et al., Rethinking Boundary Discontinuity Problem for Oriented Object Detection, CVPR 2024.

    Args:
        dual_freq: Also code the doubled frequency.
    """

    def __init__(self, dual_freq: bool = False) -> None:
        super().__init__()
        self.dual_freq, self.encode_size = dual_freq, 4 if dual_freq else 2

    def encode(self, angle: Float[Tensor, "..."]) -> Float[Tensor, "... m"]:
        """Shape ``(..., encode_size)``."""
        return encode_harmonics(flat_angle(angle), (2, 4) if self.dual_freq else 2)

    def decode(self, code: Float[Tensor, "... m"], keepdim: bool = False) -> Float[Tensor, "..."]:
        """Angles in ``[-pi/2, pi/2)``."""
        check_code(code, self.encode_size)
        x = wide(code)
        first = decode_phase(x[..., 0], x[..., 1], tol=1e-6)
        if self.dual_freq:
            second = decode_phase(x[..., 2], x[..., 3], tol=1e-6)
            first = 0.5 * second + pi * torch.round((first - 0.5 * second).detach() / pi)
        angle = wrap(0.5 * first).to(code.dtype)
        return angle.unsqueeze(-1) if keepdim else angle


class CSLCoder(nn.Module):
    """Circular smooth label: one class for every ``omega`` degrees, the target smeared over its neighbours by a window of height one.

    Source: Yang and Yan, Arbitrary-Oriented Object Detection with Circular Smooth Label, ECCV 2020.

    Args:
        omega: Degrees of a class; divides 180.
        window: ``"gaussian"`` (``exp(-x^2 / (2 r^2))``), ``"triangle"``, ``"rect"`` or ``"pulse"``.
        radius: Width ``r`` of the window in classes.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, omega: float = 1.0, window: str = "gaussian", radius: float = 6.0) -> None:
        super().__init__()
        check_option("window", window, ("gaussian", "triangle", "rect", "pulse"))
        bins = round(180 / omega) if omega > 0 else 0
        if bins < 2 or abs(bins * omega - 180) > 1e-6:
            raise ValueError(f"omega must be a positive divisor of 180 degrees, got {omega}")
        if not radius > 0:
            raise ValueError(f"radius must be positive, got {radius}")
        self.omega, self.window, self.radius, self.encode_size = omega, window, radius, bins

    def encode(self, angle: Float[Tensor, "..."]) -> Float[Tensor, "... bins"]:
        """Shape ``(..., 180 / omega)``, with 1 at the class of the angle."""
        a = flat_angle(angle)
        step = pi / self.encode_size
        place = torch.remainder(torch.floor((wrap(wide(a)) + pi / 2) / step), self.encode_size)
        bins = torch.arange(self.encode_size, device=a.device, dtype=place.dtype)
        gap = (bins - place.unsqueeze(-1)).abs()
        gap = torch.minimum(gap, self.encode_size - gap)
        if self.window == "gaussian":
            label = torch.exp(-gap.square() / (2 * self.radius**2))
        elif self.window == "triangle":
            label = (1 - gap / self.radius).clamp(min=0)
        else:
            label = (gap < (self.radius if self.window == "rect" else 0.5)).to(place.dtype)
        return label.to(a.dtype)

    def decode(self, code: Float[Tensor, "... bins"], keepdim: bool = False) -> Float[Tensor, "..."]:
        """Centre of the likeliest class, without gradient."""
        check_code(code, self.encode_size)
        place = code.argmax(-1, keepdim=keepdim).to(wide(code).dtype)
        return ((place + 0.5) * (pi / self.encode_size) - pi / 2).to(code.dtype)


for _name, _make in (("direct", DirectCoder), ("psc", PSCCoder), ("acm", ACMCoder), ("csl", CSLCoder)):
    register_coder(_name, _make)
