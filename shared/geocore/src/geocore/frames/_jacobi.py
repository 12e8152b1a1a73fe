"""Eigen-decomposition of very many matrices of size two and three: Jacobi rotations on whole batches."""

import torch
from jaxtyping import Float
from torch import Tensor

from geocore._dispatch import eigh
from geocore._ops import kernel_may_run

__all__ = ["jacobi_eigh", "symmetric_eigh"]

_WORTH = 2048
"""Matrices from which Jacobi is faster than LAPACK on one CPU thread (3 to 4 times for 100 000 of size three)."""

_SWEEPS = {torch.float32: 4, torch.float64: 5}
"""Convergence is quadratic: one fewer leaves a residual of 7 eps in float32, none is left after these."""


def _rotation(p: Tensor, q: Tensor, off: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Tangent, cosine and sine of the smaller angle that makes ``[[p, off], [off, q]]`` diagonal."""
    difference = q - p
    reach = difference.abs() + torch.hypot(difference, 2 * off)
    t = 2 * off / torch.where(reach > 0, reach, 1.0)
    t = torch.where(difference < 0, -t, t)
    c = torch.rsqrt(1 + t * t)
    return t, c, t * c


def jacobi_eigh(C: Float[Tensor, "*batch d d"]) -> tuple[Float[Tensor, "*batch d"], Float[Tensor, "*batch d d"]]:
    """Eigenvalues (ascending) and eigenvectors (columns) of symmetric matrices with ``d <= 3``, by elementwise operations only.

    As accurate as LAPACK, does not wait for a device, and gives NaN for NaN. Not meant to be differentiated.

    Args:
        C: Shape ``(..., d, d)``, float32 or float64, ``d`` from 1 to 3.

    Returns:
        Shapes ``(..., d)`` and ``(..., d, d)``.
    """
    d = C.shape[-1]
    diagonal = [C[..., i, i] for i in range(d)]
    off = {(i, j): C[..., i, j] for i in range(d) for j in range(i + 1, d)}
    one, zero = torch.ones_like(diagonal[0]), torch.zeros_like(diagonal[0])
    columns = [[one if i == j else zero for i in range(d)] for j in range(d)]
    for _ in range(_SWEEPS[C.dtype] if d == 3 else d - 1):
        for p, q in off:
            t, c, s = _rotation(diagonal[p], diagonal[q], off[p, q])
            shift = t * off[p, q]
            diagonal[p], diagonal[q] = diagonal[p] - shift, diagonal[q] + shift
            off[p, q] = zero
            for r in range(d):
                if r not in (p, q):
                    rp, rq = (min(r, p), max(r, p)), (min(r, q), max(r, q))
                    off[rp], off[rq] = c * off[rp] - s * off[rq], s * off[rp] + c * off[rq]
            u, v = columns[p], columns[q]
            columns[p] = [c * a - s * b for a, b in zip(u, v, strict=True)]
            columns[q] = [s * a + c * b for a, b in zip(u, v, strict=True)]
    values, order = torch.stack(diagonal, -1).sort(dim=-1)
    vectors = torch.stack([torch.stack(column, -1) for column in columns], -1)
    return values, vectors.gather(-1, order[..., None, :].expand(vectors.shape))


def symmetric_eigh(C: Float[Tensor, "*batch d d"]) -> tuple[Float[Tensor, "*batch d"], Float[Tensor, "*batch d d"]]:
    """``eigh``, or without its kernel ``jacobi_eigh`` where that is faster: small matrices, on an accelerator or very many on the CPU."""
    compiling = torch.compiler.is_compiling()
    count = None if compiling else C.shape[:-2].numel()
    if C.shape[-1] <= 3 and not kernel_may_run("sym_eig", C, size=C.shape[-1], count=count):
        if C.device.type not in ("cpu", "meta"):
            return jacobi_eigh(C)  # torch's waits for the device
        if count is not None and count >= _WORTH:
            return jacobi_eigh(C)
    return eigh(C)
