"""Skew matrices as planes and frequencies: the real spectral form that every fast path of this room stands on."""

import torch
from jaxtyping import Float
from torch import Tensor

from geocore._checks import check_square
from geocore._precision import full_precision

__all__ = ["half_form", "join_pairs", "skew_part", "skew_spectral", "split_pairs"]


def skew_part(S: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """``(S - S^T) / 2``, the orthogonal projection onto skew matrices."""
    return (S - S.mT) / 2


def _real_pairs(S: Tensor, U: Tensor) -> Tensor:
    """Orthogonal ``Q (..., n, n)`` from the eigenvectors ``U`` of ``iS`` (eigenvalues ascending), planes interleaved.

    ``iS u = w u`` with ``u = a + ib`` means ``S a = w b`` and ``S b = -w a``, so ``sqrt(2) (a, b)`` is the plane of ``w``. Where
    ``w`` is within rounding of zero, ``a`` and ``b`` come out dependent. Frequencies descend, so those planes stand last
    and Householder QR replaces them by an exact orthonormal basis of what the others leave, which is the null space.
    """
    n = S.shape[-1]
    m = n // 2
    top = torch.view_as_real(U[..., n - m :].flip(-1))
    columns = top.flatten(-2)
    if n % 2:
        columns = torch.cat([columns, columns.new_zeros((*columns.shape[:-1], 1))], dim=-1)
    Q, R = torch.linalg.qr(columns)
    Q = Q * torch.where(R.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(Q.dtype)[..., None, :]
    first, second = Q[..., 0 : 2 * m : 2], Q[..., 1 : 2 * m : 2]
    turn = (second * (S @ first)).sum(-2, keepdim=True)
    second = second * torch.where(turn < 0, -1.0, 1.0).to(Q.dtype)
    pairs = torch.stack([first, second], dim=-1).flatten(-2)
    return torch.cat([pairs, Q[..., 2 * m :]], dim=-1)


def half_form(S: Float[Tensor, "*batch n n"]) -> tuple[Float[Tensor, "*batch p"], Float[Tensor, "*batch n q"]]:
    """Frequencies and planes of a skew float64 matrix in the layout of the fast paths, ``p = ceil(n / 2)``; no gradient.

    The first vectors of all planes come first, then all second vectors. For odd ``n`` the null direction is a plane of
    frequency 0 whose second vector is zero, so ``Q Q^T = I`` and the rotation formula holds without a special case.
    """
    n = S.shape[-1]
    S = S.detach()
    lam, U = torch.linalg.eigh(torch.complex(torch.zeros_like(S), S))
    Q = _real_pairs(S, U)
    w = lam[..., n - n // 2 :].flip(-1).clamp(min=0.0)
    if n % 2:
        w = torch.cat([w, torch.zeros_like(lam[..., :1])], dim=-1)
        Q = torch.cat([Q, torch.zeros_like(Q[..., :1])], dim=-1)
    return w, torch.cat([Q[..., 0::2], Q[..., 1::2]], dim=-1)


def split_pairs(M: Float[Tensor, "*batch q q"]) -> Float[Tensor, "*batch 2 2 p p"]:
    """Write each 2x2 block (plane j, plane k) of a matrix in the layout of ``half_form`` as two complex numbers.

    Returns:
        Shape ``(..., kind, reim, p, p)``: kind 0 commutes with ``J`` (``[[x, -y], [y, x]]``), kind 1 anticommutes
        (``[[x, y], [y, -x]]``). Conjugating by rotations multiplies kind 0 by a phase in ``w_j - w_k``, kind 1 in ``w_j + w_k``.
    """
    p = M.shape[-1] // 2
    a, b, c, d = M[..., :p, :p], M[..., :p, p:], M[..., p:, :p], M[..., p:, p:]
    return torch.stack([a + d, c - b, a - d, c + b], dim=-3).unflatten(-3, (2, 2)) / 2


def join_pairs(Z: Float[Tensor, "*batch 2 2 p p"]) -> Float[Tensor, "*batch q q"]:
    """Inverse of ``split_pairs``."""
    (x, y), (u, v) = (part.unbind(-3) for part in Z.unbind(-4))
    return torch.cat([torch.cat([x + u, v - y], dim=-1), torch.cat([y + v, x - u], dim=-1)], dim=-2)


@full_precision
def skew_spectral(S: Float[Tensor, "*batch n n"]) -> tuple[Float[Tensor, "*batch m"], Float[Tensor, "*batch n n"]]:
    r"""Rotation planes and frequencies of a skew matrix, ``S = Q blockdiag(w_1 J, ..., w_m J) Q^T``.

    ``J = [[0, -1], [1, 0]]`` and ``m = n // 2``: columns ``2k`` and ``2k + 1`` of ``Q`` span the plane that ``S`` turns at the rate
    ``w_k >= 0``, from the first towards the second. Frequencies descend. For odd ``n`` the last column of ``Q`` is the null
    direction. Only the skew part ``(S - S^T) / 2`` acts.

    Computed in float64 from the Hermitian matrix ``iS`` and re-orthonormalised, so ``Q`` is orthogonal to a few eps whatever
    the spectrum, also where frequencies are zero or repeated; ``Q`` is not unique there, nor is the phase inside a plane.

    Gradient: ``w`` is differentiable (any subgradient where frequencies coincide or vanish). ``Q`` is constant by definition:
    its derivative does not exist at repeated frequencies and depends on the arbitrary phases elsewhere. Differentiate
    ``expm_skew_apply`` or ``exp``, which have no such trouble.

    Args:
        S: Skew matrices, shape ``(..., n, n)``.

    Returns:
        ``w`` of shape ``(..., n // 2)`` and orthogonal ``Q`` of shape ``(..., n, n)`` (its determinant may be -1), dtype of ``S``.

    Raises:
        ValueError: If ``S`` is not square.
        TypeError, NotImplementedError: If ``S`` has an integer or a complex dtype.

    Example:
        >>> w, Q = skew_spectral(torch.tensor([[0.0, 2.0], [-2.0, 0.0]]))
        >>> w
        tensor([2.])
    """
    check_square("S", S)
    n = S.shape[-1]
    A = skew_part(S).double()
    lam, U = torch.linalg.eigh(torch.complex(torch.zeros_like(A), A))
    Q = _real_pairs(A.detach(), U.detach())
    return lam[..., n - n // 2 :].flip(-1).clamp(min=0.0).to(S.dtype), Q.to(S.dtype)
