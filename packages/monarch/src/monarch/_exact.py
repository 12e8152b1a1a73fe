"""Closed-form factors of fast transforms: no factorisation, no dense matrix, exact to rounding in float64."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from geocore._checks import check_option, check_positive_int
from geocore.structured import Permutation, hadamard_matrix

__all__ = ["KINDS", "Factors", "exact_factors", "nearest_divisor"]

Norm = Literal["backward", "ortho"]


class Factors(NamedTuple):
    """``y = (M x[in_perm])[out_perm]`` with the Monarch product ``M`` of ``w1`` and ``w2``."""

    w1: Tensor
    w2: Tensor
    in_perm: Permutation | None
    out_perm: Permutation | None


def nearest_divisor(n: int) -> int:
    """Divisor of ``n`` nearest to its square root, the smaller of two."""
    divisors = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return min({*divisors, *(n // d for d in divisors)}, key=lambda d: (abs(d - math.sqrt(n)), d))


def _angles(n: int, rows: Tensor, cols: Tensor) -> Tensor:
    """``2 pi rows cols / n`` with the integer product reduced first, so that no digit is lost to large angles."""
    return (rows * cols % n).double() * (2 * math.pi / n)


def _twiddle(n: int, rows: Tensor, cols: Tensor) -> Tensor:
    angle = _angles(n, rows, cols)
    return torch.complex(angle.cos(), -angle.sin())


def _dft(n: int, k: int) -> tuple[Tensor, Tensor]:
    """Cooley and Tukey with ``l = n / k``: short transforms inside the blocks of the input, then twiddles and transforms across them."""
    l = n // k  # noqa: E741
    one = torch.arange(l)
    w1 = _twiddle(l, one[:, None], one).expand(k, l, l).clone()
    out = torch.arange(k)[None, :, None] * l + one[:, None, None]  # output entry ss l + ll
    return w1, _twiddle(n, out, torch.arange(k))


def _decimation(n: int, k: int) -> Permutation:
    """``arange(n).reshape(n / k, k).T``: block ``kk`` of the input holds the entries that are ``kk`` modulo ``k``."""
    return Permutation.stride(n, n // k)


def _make_dft(n: int, k: int, norm: Norm) -> Factors:
    w1, w2 = _dft(n, k)
    return Factors(w1, w2 / math.sqrt(n) if norm == "ortho" else w2, _decimation(n, k), None)


def _make_idft(n: int, k: int, norm: Norm) -> Factors:
    w1, w2 = _dft(n, k)
    return Factors(w1.conj().resolve_conj(), w2.conj().resolve_conj() / (math.sqrt(n) if norm == "ortho" else n), _decimation(n, k), None)


def _make_dct2(n: int, k: int, norm: Norm) -> Factors:
    """``Re(2 e^{-i pi j / 2n} F)`` after Makhoul's order.

    Each complex block of rank 1 is a real one of rank 2, ``Re a Re b - Im a Im b``.
    """
    w1, w2 = _dft(n, k)
    l = n // k  # noqa: E741
    out = torch.arange(k)[None, :] * l + torch.arange(l)[:, None]
    angle = out.double() * (math.pi / (2 * n))
    scale = torch.full((l, k), 2.0, dtype=torch.float64)
    if norm == "ortho":
        scale = scale / math.sqrt(2 * n)
        scale[0, 0] /= math.sqrt(2)
    w2 = w2 * (scale * torch.complex(angle.cos(), -angle.sin()))[..., None]
    first = torch.cat([w1.real, -w1.imag], dim=1)  # row ll + t l of block kk is its term t for block ll
    second = torch.stack([w2.real, w2.imag], dim=-1).flatten(-2)  # input 2 kk + t
    return Factors(first, second, _decimation(n, k) @ Permutation.makhoul(n), None)


def _make_dst2(n: int, k: int, norm: Norm) -> Factors:
    """Alternate the signs of the input, take the DCT-II, reverse the output."""
    w1, w2, order, _ = _make_dct2(n, k, norm)
    assert order is not None
    signs = 1.0 - 2.0 * (order.index % 2).double()
    return Factors(w1 * signs.reshape(k, 1, n // k), w2, order, Permutation(torch.arange(n - 1, -1, -1), check=False))


def _make_dct3(n: int, k: int, norm: Norm) -> Factors:
    """Transpose of the DCT-II, with the first column halved when it is not orthonormal, as in SciPy."""
    w1, w2, order, _ = _make_dct2(n, n // k, norm)
    assert order is not None
    return _transposed(w1, w2, order, None, _halved(n, norm, 0))


def _make_dst3(n: int, k: int, norm: Norm) -> Factors:
    w1, w2, order, reverse = _make_dst2(n, n // k, norm)
    assert order is not None
    return _transposed(w1, w2, order, reverse, _halved(n, norm, n - 1))


def _halved(n: int, norm: Norm, entry: int) -> Tensor:
    scale = torch.ones(n, dtype=torch.float64)
    if norm != "ortho":
        scale[entry] = 0.5
    return scale


def _transposed(w1: Tensor, w2: Tensor, in_perm: Permutation, out_perm: Permutation | None, scale: Tensor) -> Factors:
    from monarch.functional import transpose_factors

    k, _, p = w1.shape
    l, s, _ = w2.shape  # noqa: E741
    first, second = transpose_factors(w1, w2)
    read = Permutation(torch.arange(l * s).reshape(s, l).T.flatten(), check=False)
    write = Permutation(torch.arange(k * p).reshape(p, k).T.flatten(), check=False)
    if out_perm is not None:
        read = read @ out_perm.inverse()
    return Factors(first * scale[read.index].reshape(l, 1, s), second, read, in_perm.inverse() @ write)


def _make_hadamard(n: int, k: int, norm: Norm) -> Factors:
    from monarch.functional import kronecker_factors

    if n & (n - 1):
        raise ValueError(f"n must be a power of two for the Hadamard transform, got {n}")
    w1, w2 = kronecker_factors(hadamard_matrix(k, dtype=torch.float64), hadamard_matrix(n // k, dtype=torch.float64))
    return Factors(w1, w2 / math.sqrt(n) if norm == "ortho" else w2, None, None)


def _make_identity(n: int, k: int, norm: Norm) -> Factors:
    from monarch.functional import kronecker_factors

    del norm
    return Factors(*kronecker_factors(torch.eye(k, dtype=torch.float64), torch.eye(n // k, dtype=torch.float64)), None, None)


KINDS: dict[str, Callable[[int, int, Norm], Factors]] = {
    "dft": _make_dft,
    "idft": _make_idft,
    "dct2": _make_dct2,
    "dct3": _make_dct3,
    "dst2": _make_dst2,
    "dst3": _make_dst3,
    "hadamard": _make_hadamard,
    "identity": _make_identity,
}


def exact_factors(kind: str, n: int, *, nblocks: int | None = None, norm: Norm = "backward") -> Factors:
    """Factors of a transform of length ``n`` in float64 or complex128.

    Args:
        kind: ``"dft"``, ``"idft"``, ``"dct2"``, ``"dct3"``, ``"dst2"``, ``"dst3"``, ``"hadamard"``, ``"identity"``.
        n: Length; composite, and for ``"hadamard"`` a power of two.
        nblocks: Blocks of the first factor, a divisor of ``n``; by default the divisor nearest to the root.
        norm: ``"backward"``, the scale of ``torch.fft``, ``scipy.fft`` and ``scipy.linalg.hadamard``, or ``"ortho"``.

    Raises:
        ValueError: If an option is unknown, ``nblocks`` does not divide ``n``, or ``n`` is prime.
        TypeError: If a size is not an int.
    """
    check_option("kind", kind, KINDS)
    check_option("norm", norm, ("backward", "ortho"))
    check_positive_int("n", n)
    if nblocks is None:
        nblocks = nearest_divisor(n)
        if n > 3 and nblocks == 1 and kind != "identity":
            raise ValueError(
                f"n must be composite, got the prime {n}: its only Monarch form has 1 or {n} blocks, which is dense. Pad to a composite "
                "length, or pass nblocks=1"
            )
    check_positive_int("nblocks", nblocks)
    if n % nblocks:
        raise ValueError(f"nblocks must divide n = {n}, got {nblocks}")
    return KINDS[kind](n, nblocks, norm)
