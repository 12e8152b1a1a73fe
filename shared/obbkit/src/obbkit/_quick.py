"""Coders on a CPU without gradients: the same formulas in pieces that fit a cache, the sums over a code as products of wide matrices.

A code has few numbers, and a reduction over so short a last dimension takes several times as long as the arithmetic in it. Read as a
matrix of ``m`` rows and many columns the same memory goes through a matrix product at full speed, at twice that with four rows on the
left instead of one or two.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from geocore._dispatch import needs_composable

__all__ = ["encode", "encode_reference", "may_run", "pays", "pieces", "project", "project_reference", "read_angle", "row_sum"]

PIECE = 1 << 17
LEAST = 1 << 14  # codes from which writing and restricting them in pieces pays; reading an angle in pieces pays for any number


def may_run(x: Tensor) -> bool:
    """Whether nothing needs the plain operators: no gradient, transform, tracing, autocast, reduced precision, or other device."""
    return (
        type(x) is Tensor
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and not (x.requires_grad and torch.is_grad_enabled())
        and not torch.compiler.is_compiling()
        and not torch._C._is_tracing()
        and not needs_composable()
        and not torch.is_autocast_enabled("cpu")
        and torch.get_float32_matmul_precision() == "highest"
    )


def pays(x: Tensor, codes: int) -> bool:
    """Whether ``encode`` and ``row_sum`` may run and are faster than the plain operators for so many codes."""
    return may_run(x) and codes >= LEAST  # in this order: a number of codes that is being traced must not be compared


def pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Tensors of one length, ``PIECE`` rows at a time."""
    if len(tensors[0]) <= PIECE:
        return iter((tensors,))
    return zip(*(t.split(PIECE) for t in tensors), strict=True)


def encode_reference(angle: Tensor, factor: float, cosines: Sequence[float], sines: Sequence[float]) -> Tensor:
    """``cos(factor a) cosines[k] - sin(factor a) sines[k]``, with plain operators."""
    phase = angle * factor
    c, s = phase.cos(), phase.sin()
    return torch.stack([c * x - s * y for x, y in zip(cosines, sines, strict=True)], -1)


def encode(angle: Tensor, factor: float, cosines: Sequence[float], sines: Sequence[float], out: Tensor | None = None) -> Tensor:
    """``encode_reference`` piece by piece.

    Args:
        angle: Shape ``(...)``, for which ``may_run`` holds.
        factor: Multiple of the angle.
        cosines, sines: Of the phases, one of each for a column.
        out: Where to write, shape ``(n, m)`` of ``n`` angles; new if not given.

    Returns:
        Shape ``(..., m)``.
    """
    flat = angle.detach().reshape(-1)
    codes = flat.new_empty(len(flat), len(cosines)) if out is None else out
    size = min(len(flat), PIECE)
    phase, scaled = flat.new_empty(2, size).unbind()
    axes = flat.new_empty(2 * size)
    turns = torch.tensor((cosines, [-y for y in sines]), dtype=flat.dtype) if len(cosines) > 4 else None
    for part, into in pieces(flat, codes):
        n = len(part)
        both = axes[: 2 * n].view(2, n)
        c, s = both.unbind()
        torch.mul(part, factor, out=phase[:n])
        torch.cos(phase[:n], out=c)
        torch.sin(phase[:n], out=s)
        if turns is not None:
            torch.mm(both.t(), turns, out=into)
            continue
        for column, x, y in zip(into.unbind(1), cosines, sines, strict=True):
            torch.sub(torch.mul(c, x, out=scaled[:n]), s, alpha=y, out=column)
    return codes.reshape(*angle.shape, len(cosines))


def project_reference(code: Tensor, cosines: Sequence[float], sines: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Sums of ``x_k cosines[k]`` and ``-x_k sines[k]``, with plain operators."""
    c = s = torch.zeros((), dtype=code.dtype, device=code.device)
    for column, x, y in zip(code.unbind(-1), cosines, sines, strict=True):
        c, s = c + x * column, s - y * column
    return c, s


def project(code: Tensor, cosines: Sequence[float], sines: Sequence[float]) -> tuple[Tensor, Tensor]:
    """``project_reference`` of codes ``(n, m)`` for which ``may_run`` holds."""
    c, s, _, _ = (torch.tensor(2 * (cosines, [-y for y in sines]), dtype=code.dtype) @ code.detach().t()).unbind()
    return c, s


def row_sum(code: Tensor) -> Tensor:
    """Sums over the last dimension of ``(n, m)``."""
    return (torch.ones(4, code.shape[1], dtype=code.dtype) @ code.t())[0]


def read_angle(c: Tensor, s: Tensor, period: float, tol: float, out: Tensor) -> None:
    """``atan2(s, c)`` in units of the period, in ``[-period / 2, period / 2)``; 0 where both are at most ``tol``. Uses up ``c`` and ``s``.

    ``geocore.planar.decode_phase`` and ``wrap`` give the same.
    """
    half = period / 2
    torch.atan2(s, c, out=out)
    out.mul_(half / torch.pi)
    size = torch.maximum(c.abs_(), s.abs_())
    out.sub_(torch.ge(out, half, out=c), alpha=period).clamp_(min=-half)  # comparisons into floats are several times faster than masks
    out.mul_(torch.gt(size, tol, out=s)).add_(0.0)  # a product, so that what is not a number stays so; the sum leaves no negative zero
