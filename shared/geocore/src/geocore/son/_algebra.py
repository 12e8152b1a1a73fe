"""The Lie algebra so(n): skew matrices, their coordinates and brackets."""

import torch
from jaxtyping import Float
from torch import Tensor

from geocore._checks import check_square, check_trailing
from geocore._precision import full_precision

__all__ = ["skew", "skew_from_vec", "vec"]


@full_precision
def skew(P: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """Skew matrix of a free parameter matrix, ``S = P - P^T``.

    The parametrisation of so(n) by all of ``R^(n x n)``, not the projection: the symmetric part of ``P`` never acts, and
    ``skew(S) = 2 S`` for skew ``S``. The gradient with respect to ``P`` is skew.

    Args:
        P: Square matrices, shape ``(..., n, n)``.

    Returns:
        Skew matrices, shape ``(..., n, n)``.

    Raises:
        ValueError: If ``P`` is not square.
        TypeError, NotImplementedError: If ``P`` has an integer or a complex dtype.

    Example:
        >>> skew(torch.tensor([[1.0, 2.0], [5.0, 3.0]]))
        tensor([[ 0., -3.],
                [ 3.,  0.]])
    """
    check_square("P", P)
    return P - P.mT


def _lower(n: int, device: torch.device) -> Tensor:
    return torch.tril_indices(n, n, -1, device=device)


@full_precision
def vec(S: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch d"]:
    """Coordinates of a skew matrix: its entries strictly below the diagonal, row by row, ``S[1,0], S[2,0], S[2,1], S[3,0], ...``.

    For ``n = 2`` the coordinate is the rotation angle. For ``n = 3`` it is ``(w_z, -w_y, w_x)`` of the rotation vector ``w = so3.vee(S)``.
    ``|S|_F = sqrt(2) |vec(S)|``. Entries on and above the diagonal are not read.

    Args:
        S: Skew matrices, shape ``(..., n, n)``.

    Returns:
        Shape ``(..., n (n - 1) / 2)``.

    Raises:
        ValueError: If ``S`` is not square.
        TypeError, NotImplementedError: If ``S`` has an integer or a complex dtype.

    Example:
        >>> vec(torch.tensor([[0.0, -3.0], [3.0, 0.0]]))
        tensor([3.])
    """
    check_square("S", S)
    rows, columns = _lower(S.shape[-1], S.device)
    return S[..., rows, columns]


@full_precision
def skew_from_vec(v: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch n n"]:
    """Skew matrix with the coordinates ``v``: the inverse of ``vec``.

    Args:
        v: Coordinates, shape ``(..., d)`` with ``d = n (n - 1) / 2`` (0 gives ``n = 1``).

    Returns:
        Skew matrices, shape ``(..., n, n)``.

    Raises:
        ValueError: If ``d`` is not ``n (n - 1) / 2`` for an integer ``n``.
        TypeError, NotImplementedError: If ``v`` has an integer or a complex dtype.

    Example:
        >>> skew_from_vec(torch.tensor([3.0]))
        tensor([[ 0., -3.],
                [ 3.,  0.]])
    """
    check_trailing("v", v, (None,))
    d = v.shape[-1]
    n = 1
    while n * (n - 1) // 2 < d:
        n += 1
    if n * (n - 1) // 2 != d:
        raise ValueError(f"v must have n (n - 1) / 2 coordinates (0, 1, 3, 6, 10, ...), got shape {tuple(v.shape)}")
    # A gather instead of a scatter: entry (i, j) reads coordinate k(max, min) with its sign, the diagonal reads an added zero.
    index = torch.full((n, n), d, dtype=torch.long, device=v.device)
    rows, columns = _lower(n, v.device)
    order = torch.arange(d, device=v.device)
    index = index.index_put((rows, columns), order).index_put((columns, rows), order)
    sign = torch.ones(n, n, dtype=v.dtype, device=v.device).tril() * 2 - 1
    padded = torch.cat([v, torch.zeros_like(v[..., :1]) if d else v.new_zeros((*v.shape[:-1], 1))], dim=-1)
    return padded[..., index] * sign
