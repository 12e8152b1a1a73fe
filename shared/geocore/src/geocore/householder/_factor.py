"""From orthogonal matrices and permutations to reflections."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geocore._checks import check_square
from geocore._precision import full_precision

__all__ = ["from_orthogonal", "permutation_to_reflectors"]


@full_precision
def from_orthogonal(Q: Float[Tensor, "*batch n n"], *, tol: float | None = None) -> Float[Tensor, "*batch n n"]:
    r"""Unit vectors whose reflections multiply to ``Q``, as few as there can be: ``rank(I - Q)`` of them, then zero columns.

    Cartan and Dieudonné: reflecting in ``Q e_j - e_j`` sends ``Q e_j`` back to ``e_j`` and keeps what ``Q`` keeps, so each step lowers the
    rank of ``I - Q`` by one. The step takes the axis that ``Q`` moves most. ``to_matrix(from_orthogonal(Q))`` is ``Q``.

    Args:
        Q: Orthogonal matrices, shape ``(..., n, n)``, of either determinant. They are not checked.
        tol: Movement ``|Q e_j - e_j|`` that counts as none; ``8 n eps`` by default.

    Returns:
        Vectors as columns, shape ``(..., n, n)``: unit columns first, in the order of the product, zeros after them. Constant for
        autograd: the number of factors is not a continuous function of ``Q``.

    Raises:
        ValueError: If ``Q`` is not square.
        TypeError, NotImplementedError: If it is not real floating point.

    Example:
        >>> quarter_turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
        >>> from_orthogonal(quarter_turn)  # two reflections
    """
    check_square("Q", Q)
    n = Q.shape[-1]
    tol = 8 * n * torch.finfo(Q.dtype).eps if tol is None else tol
    rest = Q.detach()
    eye = torch.eye(n, dtype=Q.dtype, device=Q.device)
    vectors = []
    for _ in range(n):
        moved = rest - eye
        square = (moved * moved).sum(-2)
        j = square.argmax(-1, keepdim=True)
        length = square.gather(-1, j).sqrt()
        v = moved.gather(-1, j[..., None, :].expand(*moved.shape[:-1], 1))[..., 0]
        alive = length > tol
        v = torch.where(alive, v / torch.where(alive, length, 1.0), 0.0)
        vectors.append(v)
        rest = rest - 2.0 * v[..., :, None] * (v[..., None, :] @ rest)
    return torch.stack(vectors, dim=-1)


def permutation_to_reflectors(permutation: Int[Tensor, "*batch n"], *, dtype: torch.dtype | None = None) -> Float[Tensor, "*batch n k"]:
    """Transpositions whose product is a permutation matrix, as unit vectors ``(e_i - e_j) / sqrt(2)``.

    The matrix ``P`` gathers: ``(P x)_i = x[permutation[i]]``. ``n`` minus the number of cycles of the columns are not zero, which
    is the smallest possible number; the others stand for the identity, wherever they are.

    Args:
        permutation: Each of ``0 .. n-1`` once, shape ``(..., n)``, integer.
        dtype: Dtype of the result; the default dtype if none is given.

    Returns:
        Vectors as columns, shape ``(..., n, n - 1)``; ``to_matrix`` of them is ``P``.

    Raises:
        TypeError: If ``permutation`` is not an integer tensor.
        ValueError: If it is empty, a scalar, or not a permutation.

    Example:
        >>> V = permutation_to_reflectors(torch.tensor([1, 2, 0]))
        >>> apply_product(V, torch.tensor([10.0, 20.0, 30.0]))  # about [20, 30, 10]
    """
    if not isinstance(permutation, Tensor) or permutation.dtype.is_floating_point or permutation.dtype in (torch.bool, torch.complex64):
        kind = permutation.dtype if isinstance(permutation, Tensor) else type(permutation).__name__
        raise TypeError(f"permutation must be an integer tensor, got {kind}")
    if permutation.ndim == 0 or permutation.shape[-1] == 0:
        raise ValueError(f"permutation must have shape (..., n) with n >= 1, got {tuple(permutation.shape)}")
    n = permutation.shape[-1]
    current = permutation.long()
    if not torch.equal(current.sort(-1).values, torch.arange(n, device=current.device).expand(current.shape)):
        raise ValueError(f"permutation must hold each of 0 .. {n - 1} once in its last dimension, got {permutation.tolist()}")
    eye = torch.eye(n, dtype=dtype or torch.get_default_dtype(), device=current.device)
    vectors = []
    for i in range(n - 1):
        j = (current == i).long().argmax(-1, keepdim=True)
        vectors.append((eye[i] - eye[j[..., 0]]) * math.sqrt(0.5))
        # Swap entries i and j: entry i is now in its place.
        at_i = current[..., i : i + 1]
        current = current.scatter(-1, j, at_i)
        current = torch.cat([current[..., :i], torch.full_like(at_i, i), current[..., i + 1 :]], dim=-1)
    if not vectors:
        return eye.new_zeros(*permutation.shape, 0)
    return torch.stack(vectors, dim=-1)
