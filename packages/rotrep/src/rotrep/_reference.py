"""The formulas of the paper, literally, one rotation at a time: the oracle of tests and the peer of benchmarks.

No guards: these return NaN where the formulas do. Plain differentiable torch.
"""

import torch
from torch import Tensor

__all__ = [
    "decode_5d_reference",
    "decode_6d_reference",
    "decode_9d_reference",
    "decode_10d_reference",
    "decode_nd_reference",
    "encode_5d_reference",
    "rows_6d_reference",
]


def _each(fn, v: Tensor) -> Tensor:
    """``fn`` on every item of the last dimension."""
    return torch.stack([fn(x) for x in v.reshape(-1, v.shape[-1])]).reshape(*v.shape[:-1], *fn(v.reshape(-1, v.shape[-1])[0]).shape)


def decode_6d_reference(v: Tensor) -> Tensor:
    """Zhou et al., equation (12) to (15) for n = 3: columns ``x = N(a1)``, ``z = N(x x a2)``, ``y = z x x``."""

    def one(v: Tensor) -> Tensor:
        x = v[:3] / v[:3].norm()
        z = torch.linalg.cross(x, v[3:])
        z = z / z.norm()
        return torch.stack([x, torch.linalg.cross(z, x), z], dim=-1)

    return _each(one, v)


def decode_5d_reference(v: Tensor) -> Tensor:
    """Stereographic unprojection of the last three numbers, then 6D."""

    def one(v: Tensor) -> Tensor:
        r = v[2:].norm()
        unprojected = torch.cat([((r**2 - 1) / 2)[None], v[2:]]) / r  # Q(p) = (1/|p|) [(|p|^2 - 1)/2, p]
        return decode_6d_reference(torch.cat([v[:2], unprojected]))

    return _each(one, v)


def encode_5d_reference(R: Tensor) -> Tensor:
    """``x1, x2`` and ``p = y / (sqrt(x3^2 + 1) - x3)``."""
    x, y = R[..., 0], R[..., 1]
    return torch.cat([x[..., :2], y / (torch.sqrt(x[..., 2:] ** 2 + 1) - x[..., 2:])], dim=-1)


def decode_9d_reference(v: Tensor) -> Tensor:
    """``U diag(1, 1, det(U V^T)) V^T`` of the nine numbers read row by row."""

    def one(v: Tensor) -> Tensor:
        U, _, Vh = torch.linalg.svd(v.reshape(3, 3))
        return U @ torch.diag(torch.stack([v.new_ones(()), v.new_ones(()), torch.det(U @ Vh)])) @ Vh

    return _each(one, v)


def decode_10d_reference(v: Tensor) -> Tensor:
    """Quaternion of the smallest eigenvalue of the symmetric matrix whose upper triangle, row by row, is ``v``."""

    def one(v: Tensor) -> Tensor:
        i, j = torch.triu_indices(4, 4)
        A = v.new_zeros(4, 4)
        A[i, j] = v
        A[j, i] = v
        w, x, y, z = torch.linalg.eigh(A)[1][:, 0]
        entries = [
            *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
            *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
            *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
        ]
        return torch.stack(entries).reshape(3, 3)

    return _each(one, v)


def decode_nd_reference(v: Tensor, n: int) -> Tensor:
    """Gram-Schmidt of ``n - 1`` columns; the last column holds the cofactors, entry ``i`` from the minor without row ``i``."""

    def one(v: Tensor) -> Tensor:
        columns: list[Tensor] = []
        for a in v.reshape(n - 1, n):
            for q in columns:
                a = a - (q @ a) * q
            columns.append(a / a.norm())
        M = torch.stack(columns, dim=-1)
        rows = [[k for k in range(n) if k != i] for i in range(n)]
        last = torch.stack([(-1) ** (i + n - 1) * torch.linalg.det(M[row]) for i, row in enumerate(rows)])
        return torch.cat([M, last[:, None]], dim=-1)

    return _each(one, v)


def rows_6d_reference(v: Tensor) -> Tensor:
    """The widespread batched form with the two vectors as the first two ROWS; the transpose of the column convention."""
    a, b = v[..., :3], v[..., 3:]
    x = torch.nn.functional.normalize(a, dim=-1)
    y = torch.nn.functional.normalize(b - (x * b).sum(-1, keepdim=True) * x, dim=-1)
    return torch.stack([x, y, torch.cross(x, y, dim=-1)], dim=-2)
