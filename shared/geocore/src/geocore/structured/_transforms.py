"""Cosine, sine, Hartley and Walsh-Hadamard transforms in SciPy's conventions, differentiable, any length, any dimension."""

import math
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from geocore._checks import check_floating, check_option, check_positive_int
from geocore._precision import full_precision

__all__ = ["dct", "dct_matrix", "dft_matrix", "dst", "dst_matrix", "hadamard", "hadamard_matrix", "hartley", "idct", "idst"]

Norm = Literal["ortho"] | None
_MATMUL_BELOW = 128  # below this length the product with the cached matrix beats the FFT on CPU, many rows or few


def _grid(n: int, rows: float, columns: float) -> tuple[Tensor, Tensor]:
    k = torch.arange(n, dtype=torch.float64)
    return (k + rows)[:, None], (k + columns)[None, :]


def _raw_matrix(kind: str, variant: int, n: int) -> Tensor:
    """The transform without normalisation, float64."""
    shifts = {
        ("dct", 1): (0.0, 0.0, n - 1),
        ("dct", 2): (0.0, 0.5, n),
        ("dct", 3): (0.5, 0.0, n),
        ("dct", 4): (0.5, 0.5, n),
        ("dst", 1): (1.0, 1.0, n + 1),
        ("dst", 2): (1.0, 0.5, n),
        ("dst", 3): (0.5, 1.0, n),
        ("dst", 4): (0.5, 0.5, n),
    }
    row, column, period = shifts[kind, variant]
    k, j = _grid(n, row, column)
    # The angle is a multiple of pi / (4 period): reduce in integers, so that large n loses nothing.
    quarter = torch.remainder((2 * k) * (2 * j), 8 * period) if period else torch.zeros(n, n, dtype=torch.float64)
    angle = quarter * (math.pi / (4 * max(period, 1)))
    matrix = 2 * (torch.cos(angle) if kind == "dct" else torch.sin(angle))
    for i in _halved(kind, variant, n):
        matrix[:, i] /= 2
    return matrix


def _halved(kind: str, variant: int, n: int) -> tuple[int, ...]:
    """Input entries that the definition counts once instead of twice."""
    if kind == "dct":
        return {1: (0, n - 1), 3: (0,)}.get(variant, ())
    return (n - 1,) if variant == 3 else ()


def _ortho_scales(kind: str, variant: int, n: int) -> tuple[float, tuple[int, ...], tuple[int, ...]]:
    """Common factor, outputs to divide by sqrt(2), and inputs to multiply by sqrt(2), that make the transform orthogonal."""
    period = {("dct", 1): n - 1, ("dst", 1): n + 1}.get((kind, variant), n)
    ends: dict[tuple[str, int], tuple[tuple[int, ...], tuple[int, ...]]] = {
        ("dct", 1): ((0, n - 1), (0, n - 1)),
        ("dct", 2): ((0,), ()),
        ("dct", 3): ((), (0,)),
        ("dst", 2): ((n - 1,), ()),
        ("dst", 3): ((), (n - 1,)),
    }
    out, into = ends.get((kind, variant), ((), ()))
    return 1 / math.sqrt(2 * period), out, into


def _build64(kind: str, variant: int, n: int, norm: Norm) -> Tensor:
    matrix = _raw_matrix(kind, variant, n)
    if norm == "ortho":
        factor, out, into = _ortho_scales(kind, variant, n)
        matrix = matrix * factor
        for i in out:
            matrix[i] /= math.sqrt(2)
        for i in into:
            matrix[:, i] *= math.sqrt(2)
    return matrix


_matrix64 = lru_cache(maxsize=64)(_build64)


def _check(kind: str, n: int, variant: int, norm: Norm) -> None:
    if variant not in (1, 2, 3, 4):
        raise ValueError(f"type must be 1, 2, 3 or 4, got {variant!r}")
    if norm not in ("ortho", None):
        raise ValueError(f"norm must be 'ortho' or None, got {norm!r}")
    if n < (2 if (kind, variant) == ("dct", 1) else 1):
        need = "at least 2 entries for type 1" if variant == 1 else "at least 1 entry"
        raise ValueError(f"the transformed dimension must have {need}, got {n}")


@lru_cache(maxsize=64)
def _matrix_on(kind: str, variant: int, n: int, norm: Norm, dtype: torch.dtype, device: str) -> Tensor:
    return _matrix64(kind, variant, n, norm).to(device=device, dtype=dtype)


def _matrix_for(kind: str, variant: int, norm: Norm, x: Tensor) -> Tensor:
    n = x.shape[-1]
    if torch.compiler.is_compiling():  # Dynamo does not look into caches; the compiler sees the construction instead
        return _build64(kind, variant, n, norm).to(device=x.device, dtype=x.dtype)
    return _matrix_on(kind, variant, n, norm, x.dtype, str(x.device))


def _phase(n: int, steps: int, start: float, like: Tensor) -> Tensor:
    """``e^{-i pi (k + start) / steps}`` for ``k < n``."""
    angle = (torch.arange(n, dtype=torch.float64, device=like.device) + start) * (-math.pi / steps)
    kind = torch.complex128 if like.dtype == torch.float64 else torch.complex64
    return torch.polar(torch.ones_like(angle), angle).to(kind)


def _sign(n: int, like: Tensor) -> Tensor:
    return 1 - 2 * (torch.arange(n, device=like.device) % 2).to(like.dtype)


def _dct2(x: Tensor, norm: Norm) -> Tensor:
    """Makhoul (1980), on the reversed sequence: entries k and n - k are the real and imaginary part of one rotated spectrum entry."""
    n = x.shape[-1]
    spectrum = torch.fft.rfft(torch.cat([x[..., :1], x[..., 1::2], x[..., 2::2].flip(-1)], dim=-1))
    z = spectrum * _half_phase(n, 2.0, math.sqrt(0.5), norm, x)
    return torch.cat([z.real, z.imag[..., 1 : (n + 1) // 2].flip(-1)], dim=-1)


def _dct3(x: Tensor, norm: Norm) -> Tensor:
    """The same steps backwards."""
    n = x.shape[-1]
    mirrored = torch.cat([torch.zeros_like(x[..., :1]), x[..., (n + 1) // 2 :].flip(-1)], dim=-1)
    z = torch.complex(x[..., : n // 2 + 1], -mirrored) * _half_phase(n, float(n), math.sqrt(2.0), norm, x)
    v = torch.fft.irfft(z, n=n)
    odd = v[..., (n + 1) // 2 :].flip(-1)
    if n % 2:
        odd = torch.cat([odd, torch.zeros_like(v[..., :1])], dim=-1)
    return torch.stack([v[..., : (n + 1) // 2], odd], dim=-1).flatten(-2)[..., :n]


def _half_phase(n: int, common: float, first: float, norm: Norm, like: Tensor) -> Tensor:
    """``common e^{i pi k / 2n}`` for ``k <= n / 2``, with the factors that make the transform orthogonal."""
    if norm == "ortho":
        common = common / math.sqrt(2 * n)
    magnitude = torch.full((n // 2 + 1,), common, dtype=torch.float64, device=like.device)
    if norm == "ortho":
        magnitude[0] = common * first
    angle = torch.arange(n // 2 + 1, dtype=torch.float64, device=like.device) * (math.pi / (2 * n))
    return torch.polar(magnitude, angle).to(torch.complex128 if like.dtype == torch.float64 else torch.complex64)


def _fft(kind: str, variant: int, x: Tensor, norm: Norm) -> Tensor:
    """The transform along the last dimension by FFTs of length ``O(n)``."""
    n = x.shape[-1]
    if kind == "dst" and variant != 1:  # sines are cosines of the reversed or alternating sequence
        if variant == 2:
            return _fft("dct", 2, x * _sign(n, x), norm).flip(-1)
        return _fft("dct", variant, x.flip(-1), norm) * _sign(n, x)
    if variant == 2:
        return _dct2(x, norm)
    if variant == 3:
        return _dct3(x, norm)
    factor, out, into = _ortho_scales(kind, variant, n) if norm == "ortho" else (1.0, (), ())
    if into:
        x = x * _scaled(dict.fromkeys(into, math.sqrt(2)), n, 1.0, x)
    if variant == 4:
        z = torch.fft.fft(x * _phase(n, 2 * n, 0.0, x), n=2 * n)[..., :n]
        y = 2 * (z * _phase(n, 2 * n, 0.5, x)).real
    elif kind == "dct":
        y = torch.fft.rfft(torch.cat([x, x[..., 1:-1].flip(-1)], dim=-1)).real
    else:
        zero = x.new_zeros((*x.shape[:-1], 1))
        y = -torch.fft.rfft(torch.cat([zero, x, zero, -x.flip(-1)], dim=-1)).imag[..., 1 : n + 1]
    if norm == "ortho":
        y = y * _scaled(dict.fromkeys(out, math.sqrt(0.5)), n, factor, y)
    return y


def _scaled(scale: dict[int, float], n: int, common: float, like: Tensor) -> Tensor:
    factors = torch.full((n,), common, dtype=torch.float64, device=like.device)
    for i, value in scale.items():
        factors[i] *= value
    return factors.to(like.dtype)


def _transform(kind: str, x: Tensor, variant: int, norm: Norm, dim: int, method: str) -> Tensor:
    check_floating("x", x)
    check_option("method", method, ("auto", "matmul", "fft"))
    if x.ndim == 0:
        raise ValueError("x must have at least one dimension, got a scalar")
    n = x.shape[dim]
    _check(kind, n, variant, norm)
    x = x.movedim(dim, -1)
    if method == "matmul" or (method == "auto" and n < _MATMUL_BELOW) or x.numel() == 0:  # MKL refuses empty batches
        y = x @ _matrix_for(kind, variant, norm, x).mT
    else:
        y = _fft(kind, variant, x, norm)
    return y.movedim(-1, dim)


def _inverse(kind: str, x: Tensor, variant: int, norm: Norm, dim: int, method: str) -> Tensor:
    other = {2: 3, 3: 2}.get(variant, variant)
    y = _transform(kind, x, other, norm, dim, method)
    if norm == "ortho":
        return y
    n = x.shape[dim]
    return y / (2 * {("dct", 1): n - 1, ("dst", 1): n + 1}.get((kind, variant), n))


@full_precision
def dct(x: Float[Tensor, "..."], *, type: int = 2, norm: Norm = "ortho", dim: int = -1, method: str = "auto") -> Float[Tensor, "..."]:  # noqa: A002
    """Discrete cosine transform of type 1 to 4 along one dimension, in the conventions of ``scipy.fft.dct``.

    Args:
        x: Real input of any length along ``dim`` (type 1: at least 2).
        type: 1, 2, 3 or 4.
        norm: ``"ortho"`` makes the transform orthogonal; ``None`` is SciPy's ``"backward"``, without any factor.
        dim: Dimension to transform.
        method: ``"matmul"`` with the cached matrix, ``"fft"`` (types 2 and 3: one real FFT of the same length; Makhoul, 1980), or
            ``"auto"`` by length.

    Returns:
        Same shape and dtype; float16 and bfloat16 are computed in float32.

    Raises:
        ValueError: If an option is unknown or the dimension too short.
        TypeError, NotImplementedError: If ``x`` is integer or complex.

    Example:
        >>> dct(torch.ones(4))
        tensor([2., 0., 0., 0.])
    """
    return _transform("dct", x, type, norm, dim, method)


@full_precision
def idct(x: Float[Tensor, "..."], *, type: int = 2, norm: Norm = "ortho", dim: int = -1, method: str = "auto") -> Float[Tensor, "..."]:  # noqa: A002
    """Inverse of ``dct`` with the same options.

    Raises:
        ValueError, TypeError, NotImplementedError: As ``dct``.
    """
    return _inverse("dct", x, type, norm, dim, method)


@full_precision
def dst(x: Float[Tensor, "..."], *, type: int = 2, norm: Norm = "ortho", dim: int = -1, method: str = "auto") -> Float[Tensor, "..."]:  # noqa: A002
    """Discrete sine transform of type 1 to 4 along one dimension, in the conventions of ``scipy.fft.dst``; options as ``dct``.

    Raises:
        ValueError, TypeError, NotImplementedError: As ``dct``.
    """
    return _transform("dst", x, type, norm, dim, method)


@full_precision
def idst(x: Float[Tensor, "..."], *, type: int = 2, norm: Norm = "ortho", dim: int = -1, method: str = "auto") -> Float[Tensor, "..."]:  # noqa: A002
    """Inverse of ``dst`` with the same options.

    Raises:
        ValueError, TypeError, NotImplementedError: As ``dct``.
    """
    return _inverse("dst", x, type, norm, dim, method)


def _matrix(kind: str, n: int, variant: int, norm: Norm, dtype: torch.dtype | None, device: torch.device | str | None) -> Tensor:
    check_positive_int("n", n)
    _check(kind, n, variant, norm)
    return _matrix64(kind, variant, n, norm).to(device=device, dtype=dtype or torch.get_default_dtype(), copy=True)


def dct_matrix(
    n: int,
    type: int = 2,  # noqa: A002
    norm: Norm = "ortho",
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, "n n"]:
    """Matrix ``D`` with ``dct(x) = D x``, computed in float64 and rounded once.

    Raises:
        ValueError: If an option is unknown or ``n`` too small.
        TypeError: If ``n`` is not an int.

    Example:
        >>> D = dct_matrix(8, dtype=torch.float64)
        >>> torch.allclose(D @ D.T, torch.eye(8, dtype=torch.float64))
        True
    """
    return _matrix("dct", n, type, norm, dtype, device)


def dst_matrix(
    n: int,
    type: int = 2,  # noqa: A002
    norm: Norm = "ortho",
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, "n n"]:
    """Matrix ``D`` with ``dst(x) = D x``; see ``dct_matrix``.

    Raises:
        ValueError: If an option is unknown or ``n`` too small.
        TypeError: If ``n`` is not an int.
    """
    return _matrix("dst", n, type, norm, dtype, device)


def dft_matrix(
    n: int, norm: Norm = "ortho", *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Complex[Tensor, "n n"]:
    """Matrix ``F_jk = e^{-2 pi i j k / n}``, unitary for ``norm="ortho"``; angles are reduced in integers.

    Args:
        n: Size.
        norm: ``"ortho"`` or ``None``.
        dtype: Complex dtype; that of the default dtype if none is given.
        device: Device.

    Raises:
        ValueError: If ``norm`` is unknown or ``n`` too small.
        TypeError: If ``n`` is not an int, or ``dtype`` not complex.
    """
    check_positive_int("n", n)
    check_option("norm", norm or "none", ("ortho", "none"))
    dtype = dtype or (torch.complex128 if torch.get_default_dtype() == torch.float64 else torch.complex64)
    if not dtype.is_complex:
        raise TypeError(f"dtype must be complex, got {dtype}")
    k = torch.arange(n)
    angle = torch.remainder(k[:, None] * k[None, :], n).double() * (-2 * math.pi / n)
    scale = 1 / math.sqrt(n) if norm == "ortho" else 1.0
    return torch.polar(torch.full_like(angle, scale), angle).to(device=device, dtype=dtype)


def _check_power_of_two(n: int) -> None:
    if n < 1 or n & (n - 1):
        raise ValueError(f"the Walsh-Hadamard transform needs a power of two as length, got {n}")


@full_precision
def hadamard(x: Float[Tensor, "..."], *, norm: Norm = None, dim: int = -1) -> Float[Tensor, "..."]:
    """Fast Walsh-Hadamard transform along one dimension, natural (Sylvester) order, ``n log2 n`` additions.

    Args:
        x: Real input; the length along ``dim`` is a power of two.
        norm: ``None`` for entries of +-1, ``"ortho"`` for the orthogonal, self-inverse transform.
        dim: Dimension to transform.

    Returns:
        Same shape and dtype.

    Raises:
        ValueError: If the length is not a power of two or ``norm`` is unknown.
        TypeError, NotImplementedError: If ``x`` is not a real floating tensor; for the matrix call ``hadamard_matrix(n)``.

    Example:
        >>> hadamard(torch.tensor([1.0, 2.0]))
        tensor([ 3., -1.])
    """
    check_floating("x", x)
    check_option("norm", norm or "none", ("ortho", "none"))
    if x.ndim == 0:
        raise ValueError("x must have at least one dimension, got a scalar")
    n = x.shape[dim]
    _check_power_of_two(n)
    y = x.movedim(dim, -1)
    shape = y.shape
    h = 1
    while h < n:
        a, b = y.unflatten(-1, (n // (2 * h), 2, h)).unbind(-2)
        y = torch.stack([a + b, a - b], dim=-2).reshape(shape)
        h *= 2
    if norm == "ortho":
        y = y / math.sqrt(n)
    return y.movedim(-1, dim)


def hadamard_matrix(
    n: int, norm: Norm = None, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Float[Tensor, "n n"]:
    """Sylvester's Hadamard matrix, entries +-1, or orthogonal for ``norm="ortho"``.

    Raises:
        ValueError: If ``n`` is not a power of two or ``norm`` is unknown.
        TypeError: If ``n`` is not an int.
    """
    check_positive_int("n", n)
    _check_power_of_two(n)
    return hadamard(torch.eye(n, dtype=dtype, device=device), norm=norm)


@full_precision
def hartley(x: Float[Tensor, "..."], *, norm: Norm = "ortho", dim: int = -1) -> Float[Tensor, "..."]:
    """Discrete Hartley transform ``sum_j x_j (cos + sin)(2 pi j k / n)``; with ``"ortho"`` it is its own inverse.

    Raises:
        ValueError: If ``norm`` is unknown or the dimension is empty.
        TypeError, NotImplementedError: If ``x`` is integer or complex.
    """
    check_floating("x", x)
    check_option("norm", norm or "none", ("ortho", "none"))
    if x.ndim == 0 or x.shape[dim] == 0:
        raise ValueError(f"x must have at least one entry along dim {dim}, got shape {tuple(x.shape)}")
    if x.numel() == 0:  # MKL refuses empty batches
        return x * 1.0
    z = torch.fft.fft(x, dim=dim, norm="ortho" if norm == "ortho" else "backward")
    return z.real - z.imag
