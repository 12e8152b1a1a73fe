"""The definition, literally: ``M = P_2 blockdiag(w2) P_1 blockdiag(w1)``, every permutation and block written out.

The oracle of tests.
"""

import torch
from torch import Tensor

__all__ = ["monarch_dense_reference", "monarch_matmul_reference", "order_p_reference"]


def _permutation(order: list[int], like: Tensor) -> Tensor:
    """Matrix ``P`` with ``(P x)_i = x_order[i]``."""
    P = like.new_zeros(len(order), len(order))
    for i, j in enumerate(order):
        P[i, j] = 1
    return P


def monarch_dense_reference(w1: Tensor, w2: Tensor) -> Tensor:
    """Dense matrix of ``w1 (k, q, p)`` and ``w2 (l, s, r)`` as a product of four matrices."""
    k, q, _ = w1.shape
    l, s, r = w2.shape  # noqa: E741
    dtype = torch.promote_types(w1.dtype, w2.dtype)
    first, second = torch.block_diag(*w1).to(dtype), torch.block_diag(*w2).to(dtype)
    P1 = _permutation([rr * l + ll for ll in range(l) for rr in range(r)], first)
    P2 = _permutation([ll * s + ss for ss in range(s) for ll in range(l)], first)
    assert k * q == l * r
    return P2 @ second @ P1 @ first


def monarch_matmul_reference(x: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
    """``x M^T``, one block at a time."""
    (k, _, p), l = w1.shape, w2.shape[0]  # noqa: E741
    u = torch.cat([x[..., i * p : (i + 1) * p] @ w1[i].mT.to(x.dtype) for i in range(k)], dim=-1)
    v = [u[..., ll::l] @ w2[ll].mT.to(x.dtype) for ll in range(l)]
    return torch.stack(v, dim=-1).flatten(-2)


def order_p_reference(x: Tensor, weights: list[Tensor], radices: tuple[int, ...]) -> Tensor:
    """``x`` as a tensor with axes of sizes ``radices``; from the last axis to the first, each line along it has a matrix of its own."""
    n = x.shape[-1]
    for axis in reversed(range(len(radices))):
        b = radices[axis]
        inner = 1
        for size in radices[axis + 1 :]:
            inner *= size
        y = [x[..., 0]] * n
        for line in range(n // b):
            outer, rest = divmod(line, inner)
            places = [(outer * b + i) * inner + rest for i in range(b)]
            values = x[..., places] @ weights[axis][line].mT
            for i, place in enumerate(places):
                y[place] = values[..., i]
        x = torch.stack(y, dim=-1)
    return x
