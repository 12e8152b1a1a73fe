"""Nearest rotation of 3x3 matrices in single precision on the CPU, three times faster than batched LAPACK.

The best unit quaternion is the top eigenvector of a symmetric 4x4 matrix (Davenport, Horn): its eigenvalue by Laguerre's
iteration on the quartic, the vector as the longest column of an adjugate, in float64 on arrays of single entries. The few
matrices whose top eigenvalue is nearly multiple (reflections with equal singular values, rank one, zero) go to the SVD.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["FAST_DTYPE", "register"]

FAST_DTYPE = torch.float32
# Below this product of eigenvalue gaps, relative to the matrix, rounding in the quartic would reach float32: error of the
# eigenvalue 2e-16 / gaps, of the vector once more divided by the smallest one; and the iteration would converge slowly.
_GAP = 1e-3
_LAGUERRE = 10  # cubic convergence from above once near; 10 steps leave 1e-2 float32 eps at the smallest admitted gap


def _entries(M: Tensor) -> tuple[Tensor, ...]:
    """The nine entries as contiguous float64 arrays, row by row."""
    return M.reshape(-1, 9).double().t().contiguous().unbind(0)


def _scaled(m: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Tensor]:
    most = m[0].abs()
    for x in m[1:]:
        most = torch.maximum(most, x.abs())
    inverse = 1.0 / torch.where(most > 0, most, 1.0)
    return tuple(x * inverse for x in m), most


def _adjugate_column(K: tuple[Tensor, ...], x: Tensor) -> tuple[Tensor, ...]:
    """Unit vector along the longest column of ``adj(K - x I)``, ``K`` given by its upper triangle row by row."""
    a, b, c, d, e, f, g, h, i, j = K
    a, e, h, j = a - x, e - x, h - x, j - x
    s0, s1, s2 = a * e - b * b, a * f - b * c, a * g - b * d
    s3, s4, s5 = b * f - e * c, b * g - e * d, c * g - f * d
    c0, c1, c2 = c * g - d * f, c * i - d * h, c * j - d * i
    c3, c4, c5 = f * i - g * h, f * j - g * i, h * j - i * i
    del c0
    rows = torch.stack(
        [
            e * c5 - f * c4 + g * c3,
            c * c4 - b * c5 - d * c3,
            g * s5 - i * s4 + j * s3,
            h * s4 - f * s5 - i * s3,
            a * c5 - c * c2 + d * c1,
            i * s2 - d * s5 - j * s1,
            c * s5 - h * s2 + i * s1,
            d * s4 - g * s2 + j * s0,
            f * s2 - c * s4 - i * s0,
            c * s3 - f * s1 + h * s0,
        ]
    )
    best = rows[[0, 4, 7, 9]].abs().argmax(0, keepdim=True)
    table = torch.tensor([[0, 1, 2, 3], [1, 4, 5, 6], [2, 5, 7, 8], [3, 6, 8, 9]], device=rows.device)
    q = rows.gather(0, table[best[0]].t())
    square = q.square().sum(0)
    return (q * torch.rsqrt(torch.where(square > 0, square, 1.0))).unbind(0)


def _forward(M: Float[Tensor, "*batch 3 3"]) -> tuple[Float[Tensor, "*batch 3 3"], Float[Tensor, "9 count"]]:
    """Nearest rotations, and the same as float64 entry arrays for the gradient."""
    m, _ = _scaled(_entries(M))
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = m
    K = (
        m00 + m11 + m22,
        m21 - m12,
        m02 - m20,
        m10 - m01,
        m00 - m11 - m22,
        m01 + m10,
        m02 + m20,
        m11 - m00 - m22,
        m12 + m21,
        m22 - m00 - m11,
    )
    # Characteristic polynomial x^4 + p x^2 + q x + r from the invariants of M.
    g00, g11, g22 = m00 * m00 + m10 * m10 + m20 * m20, m01 * m01 + m11 * m11 + m21 * m21, m02 * m02 + m12 * m12 + m22 * m22
    g01, g02, g12 = m00 * m01 + m10 * m11 + m20 * m21, m00 * m02 + m10 * m12 + m20 * m22, m01 * m02 + m11 * m12 + m21 * m22
    size = g00 + g11 + g22
    p = -2 * size
    q = -8 * (m00 * (m11 * m22 - m12 * m21) - m01 * (m10 * m22 - m12 * m20) + m02 * (m10 * m21 - m11 * m20))
    r = 2 * (g00 * g00 + g11 * g11 + g22 * g22 + 2 * (g01 * g01 + g02 * g02 + g12 * g12)) - size * size
    x = torch.sqrt(3 * size)
    for _ in range(_LAGUERRE):
        x2 = x * x
        f = (x2 + p) * x2 + q * x + r
        d1 = (4 * x2 + 2 * p) * x + q
        root = torch.sqrt((9 * d1 * d1 - 12 * f * (12 * x2 + 2 * p)).clamp(min=0.0))
        below = d1 + root
        x = x - 4 * f.clamp(min=0.0) / torch.where(below > 0, below, 1.0)
    w, i, j, k = _adjugate_column(K, x)
    ii, jj, kk, ij, ik, jk, wi, wj, wk = i * i, j * j, k * k, i * j, i * k, j * k, w * i, w * j, w * k
    r = torch.stack(
        [
            1 - 2 * (jj + kk),
            2 * (ij - wk),
            2 * (ik + wj),
            2 * (ij + wk),
            1 - 2 * (ii + kk),
            2 * (jk - wi),
            2 * (ik - wj),
            2 * (jk + wi),
            1 - 2 * (ii + jj),
        ]
    )
    gaps = (4 * x * x + 2 * p) * x + q  # derivative of the quartic at its top root
    hard = (gaps <= _GAP * size * torch.sqrt(size)).nonzero()[:, 0]
    if hard.numel():
        U, _, Vh = torch.linalg.svd(M.reshape(-1, 3, 3)[hard].double())
        flip = torch.where(torch.linalg.det(U @ Vh) < 0, -1.0, 1.0).double()
        U = torch.cat([U[..., :2], U[..., 2:] * flip[:, None, None]], dim=-1)
        r[:, hard] = (U @ Vh).reshape(-1, 9).t()
    return r.to(M.dtype).t().contiguous().reshape(M.shape), r


def _gradient(M: Float[Tensor, "*batch 3 3"], R: Float[Tensor, "9 count"], g: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Gradient with respect to ``M``: ``R hat(x)`` with ``(tr(H) I - H) x = vee(R^T g - g^T R)`` and ``H = R^T M``.

    The matrix has the eigenvalues ``s_i + s_j``; it is inverted as ``(T^2 + e^2)^{-1} T``, so directions without a unique answer get 0.
    """
    m, most = _scaled(_entries(M))
    r, u = R.unbind(0), _entries(g)

    def product(v: tuple[Tensor, ...], i: int, j: int) -> Tensor:  # entry (i, j) of R^T v
        return r[i] * v[j] + r[3 + i] * v[3 + j] + r[6 + i] * v[6 + j]

    h00, h11, h22 = product(m, 0, 0), product(m, 1, 1), product(m, 2, 2)
    b = -(product(m, 0, 1) + product(m, 1, 0)) / 2
    c = -(product(m, 0, 2) + product(m, 2, 0)) / 2
    e = -(product(m, 1, 2) + product(m, 2, 1)) / 2
    a, d, f = h11 + h22, h00 + h22, h00 + h11  # T = [[a, b, c], [b, d, e], [c, e, f]]
    x, y, z = product(u, 2, 1) - product(u, 1, 2), product(u, 0, 2) - product(u, 2, 0), product(u, 1, 0) - product(u, 0, 1)
    x, y, z = a * x + b * y + c * z, b * x + d * y + e * z, c * x + e * y + f * z
    bb, cc, ee = b * b, c * c, e * e
    floor = (a + d + f) * (4 * torch.finfo(M.dtype).eps)
    floor = floor * floor
    a, b, c, d, e, f = (
        a * a + bb + cc + floor,
        b * (a + d) + c * e,
        c * (a + f) + b * e,
        bb + d * d + ee + floor,
        e * (d + f) + b * c,
        cc + ee + f * f + floor,
    )
    A, B, C, D, E, F = d * f - e * e, c * e - b * f, b * e - c * d, a * f - c * c, b * c - a * e, a * d - b * b
    some = most > 0
    scale = torch.where(some, 1.0 / torch.where(some, (a * A + b * B + c * C) * most, 1.0), 0.0)
    x, y, z = (A * x + B * y + C * z) * scale, (B * x + D * y + E * z) * scale, (C * x + E * y + F * z) * scale
    out = []
    for i in range(3):
        r0, r1, r2 = r[3 * i : 3 * i + 3]
        out += [r1 * z - r2 * y, r2 * x - r0 * z, r0 * y - r1 * x]
    return torch.stack(out).to(M.dtype).t().contiguous().reshape(M.shape)


def _fake(M: Tensor) -> tuple[Tensor, Tensor]:
    return M.new_empty(M.shape), M.new_empty((9, M.numel() // 9), dtype=torch.float64)


def register(library: torch.library.Library, again: Any) -> None:
    """Define ``geocore::nearest_rotation3``; ``again(M, g)`` gives the gradient where it must be differentiable itself."""

    def save(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs, output[1])

    def backward(ctx: Any, g: Tensor, *unused: Any) -> Tensor:
        M, r = ctx.saved_tensors
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return again(M, g)
        return _gradient(M, r, g)

    library.define("nearest_rotation3(Tensor M) -> (Tensor, Tensor)")
    library.impl("nearest_rotation3", _forward, "CompositeExplicitAutograd")
    torch.library.register_fake("geocore::nearest_rotation3", _fake, lib=library)
    torch.library.register_autograd("geocore::nearest_rotation3", backward, setup_context=save, lib=library)
