"""Unit eigenvector of the smallest eigenvalue of a symmetric matrix, with derivatives that only see its own gap."""

import torch
from torch import Tensor

from geocore._dispatch import eigh

__all__ = ["horn_matrix", "smallest_eigenvector"]


def smallest_eigenvector(A: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvector ``q`` (..., n) and gap ``l_2 - l_1 >= 0`` (...) of symmetric ``A`` (..., n, n), eigenvalues ascending.

    Autograd through ``eigh`` divides by the differences of all eigenvalues, also of those that ``q`` does not depend on, and
    gives NaN when they repeat. Here the decomposition is a constant ``A0`` and two steps of the chord iteration
    ``y <- y - (A0 - l_1)^+ (A y - (q0.A y) y)`` carry the derivatives: each step leaves the value alone, up to rounding, and
    makes one more order of derivative exact. First derivatives grow as 1/gap; where the gap is rounding noise they are zero.
    """
    values, vectors = eigh(A.detach())
    values, vectors = values.detach(), vectors.detach()
    q0, rest = vectors[..., 0], vectors[..., 1:]
    gaps = values[..., 1:] - values[..., :1]
    noise = 8.0 * torch.finfo(A.dtype).eps * values.abs().amax(-1, keepdim=True) + 16.0 * torch.finfo(A.dtype).tiny
    simple = gaps > noise
    inverse = torch.where(simple, torch.where(simple, gaps, 1.0).reciprocal(), 0.0)
    pseudo = (rest * inverse.unsqueeze(-2)) @ rest.mT
    y = q0
    for _ in range(2):
        Ay = (A @ y.unsqueeze(-1)).squeeze(-1)
        residual = Ay - (q0 * Ay).sum(-1, keepdim=True) * y
        y = y - (pseudo @ residual.unsqueeze(-1)).squeeze(-1)
    return y * torch.rsqrt((y * y).sum(-1, keepdim=True)), gaps[..., 0]


def horn_matrix(M: Tensor) -> Tensor:
    """Symmetric ``K`` (..., 4, 4) with ``q^T K q = tr(M^T R(q))`` for unit quaternions ``q = (w, x, y, z)`` and ``M`` (..., 3, 3)."""
    a, b, c, d, e, f, g, h, i = M.flatten(-2).movedim(-1, 0).unbind(0)
    p, q, r = h - f, c - g, d - b
    rows = (a + e + i, p, q, r, p, a - e - i, b + d, c + g, q, b + d, e - a - i, f + h, r, c + g, f + h, i - a - e)
    return torch.stack(rows, 0).movedim(0, -1).unflatten(-1, (4, 4)).contiguous()
