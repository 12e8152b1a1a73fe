"""Commuting skew matrices: how far a family is from commuting, and its common planes."""

import torch
from jaxtyping import Float
from torch import Tensor

from geocore._checks import check_broadcastable, check_square
from geocore._precision import full_precision
from geocore.son._spectral import skew_part, skew_spectral

__all__ = ["commutator_norm", "joint_skew_spectral"]


@full_precision
def commutator_norm(A: Float[Tensor, "*abatch n n"], B: Float[Tensor, "*bbatch n n"]) -> Float[Tensor, "*batch"]:
    """Frobenius norm of the commutator, ``|A B - B A|_F``; 0 exactly where ``A`` and ``B`` commute.

    Args:
        A, B: Square matrices, shapes ``(..., n, n)`` that broadcast.

    Returns:
        Shape ``(...)``; the gradient at 0, where the norm has none, is 0.

    Raises:
        ValueError: If an argument is not square, the sizes differ or the batches do not broadcast.
        TypeError, NotImplementedError: If an argument has an integer or a complex dtype.

    Example:
        >>> commutator_norm(torch.eye(2), torch.ones(2, 2))
        tensor(0.)
    """
    check_square("A", A)
    check_square("B", B)
    if A.shape[-1] != B.shape[-1]:
        raise ValueError(f"A and B must have the same size, got {tuple(A.shape)} and {tuple(B.shape)}")
    check_broadcastable(A=A.shape[:-2], B=B.shape[:-2])
    return _norm(A @ B - B @ A)


def _norm(X: Tensor) -> Tensor:
    square = X.square().sum((-2, -1))
    positive = square > 0
    return torch.where(positive, torch.sqrt(torch.where(positive, square, 1.0)), 0.0)


@full_precision
def joint_skew_spectral(
    S: Float[Tensor, "*batch k n n"],
) -> tuple[Float[Tensor, "*batch k m"], Float[Tensor, "*batch n n"], Float[Tensor, "*batch"]]:
    r"""Common planes of a family of skew matrices, and how far from common they are: ``S_i`` against ``Q blockdiag(w_i J) Q^T``.

    Commuting skew matrices share one orthogonal basis in which all of them are blocks ``w J``, ``J = [[0, -1], [1, 0]]``. The basis is
    that of a fixed generic combination of the family. The last result is the check: it is at rounding level exactly when the
    family is simultaneously block diagonal (commutes). Not differentiable.

    Args:
        S: Families of ``k >= 1`` skew matrices, shape ``(..., k, n, n)``; only the skew part acts.

    Returns:
        Signed frequencies ``w`` of shape ``(..., k, n // 2)`` (one orientation per plane serves all members), the basis ``Q`` of shape
        ``(..., n, n)`` with planes in column pairs as in ``skew_spectral``, and the residual of shape ``(...)``:
        ``max_i |S_i - Q blockdiag(w_i J) Q^T|_F / max_i |S_i|_F``, 0 for a zero family.

    Raises:
        ValueError: If ``S`` is not square, or has no family dimension or an empty one.
        TypeError, NotImplementedError: If ``S`` has an integer or a complex dtype.

    Example:
        >>> S = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
        >>> joint_skew_spectral(torch.stack([S, -2 * S]))[0]
        tensor([[-1.],
                [ 2.]])
    """
    check_square("S", S)
    if S.ndim < 3 or S.shape[-3] < 1:
        raise ValueError(f"S must have shape (..., k, n, n) with k >= 1, got {tuple(S.shape)}")
    A = skew_part(S.detach()).double()
    k, m = S.shape[-3], S.shape[-1] // 2
    # Members of unit size with weights cos(1), cos(2), ...: no small integer combination of them vanishes.
    size = _norm(A)[..., None, None]
    weight = torch.cos(torch.arange(1, k + 1, dtype=A.dtype, device=A.device))[:, None, None]
    Q = skew_spectral((A / torch.where(size > 0, size, 1.0) * weight).sum(-3))[1]
    inside = Q[..., None, :, :].mT @ A @ Q[..., None, :, :]
    even = torch.arange(m, device=A.device) * 2
    w = (inside[..., even + 1, even] - inside[..., even, even + 1]) / 2
    blocks = torch.zeros_like(inside)
    diagonal = torch.nn.functional.one_hot(even, S.shape[-1]).to(A.dtype) if m else A.new_zeros(0, S.shape[-1])
    partner = torch.nn.functional.one_hot(even + 1, S.shape[-1]).to(A.dtype) if m else A.new_zeros(0, S.shape[-1])
    blocks = partner.mT @ (w[..., None] * diagonal) - diagonal.mT @ (w[..., None] * partner)
    largest = _norm(A).amax(-1)
    residual = _norm(inside - blocks).amax(-1) / torch.where(largest > 0, largest, 1.0)
    return w.to(S.dtype), Q.to(S.dtype), residual.to(S.dtype)
