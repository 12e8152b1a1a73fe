"""Nearest rotation: the special orthogonal Procrustes problem in any dimension."""

from typing import Literal, overload

from jaxtyping import Float
from torch import Tensor

from geocore._checks import check_square
from geocore._precision import full_precision
from geocore.orthogonal._nearest import nearest_orthogonal, nearest_rotation

__all__ = ["nearest_special_orthogonal", "special_procrustes"]


@overload
def special_procrustes(M: Tensor, *, return_confidence: Literal[False] = False) -> Tensor: ...
@overload
def special_procrustes(M: Tensor, *, return_confidence: Literal[True]) -> tuple[Tensor, Tensor]: ...
@overload
def special_procrustes(M: Tensor, *, return_confidence: bool) -> Tensor | tuple[Tensor, Tensor]: ...


@full_precision
def special_procrustes(
    M: Float[Tensor, "*batch n n"], *, return_confidence: bool = False
) -> Float[Tensor, "*batch n n"] | tuple[Float[Tensor, "*batch n n"], Float[Tensor, "*batch"]]:
    r"""Rotation nearest to ``M`` in the Frobenius norm, ``R = U diag(1, ..., 1, det(U V^T)) V^T`` for ``M = U diag(s) V^T``.

    Equivalently the rotation that maximises ``trace(R^T M)``. The gradient is the explicit one,
    ``U ((B - B^T) / (s_i + s_j)) V^T`` with ``B = U^T G V`` and signed ``s``: no division by differences of singular values, so it is
    exact at the identity and at every repeated singular value. Where ``s_i + s_j = 0`` (``M = 0``, ``diag(1, 1, -1)``) the rotation is
    not unique; one of the nearest is returned and the free directions get gradient zero. Near such points the gradient
    grows like ``1 / (s_{n-1} + s_n)``, bounded by ``1 / (8 eps s_1)``. First and second derivatives are exact.

    Args:
        M: Square matrices, shape ``(..., n, n)``.
        return_confidence: Also return ``s_{n-1} + s_n`` (signed), the distance-like margin to the points where the answer is
            not unique: 0 there, 2 at a rotation. Not differentiable; infinite for ``n = 1``.

    Returns:
        Rotations, shape ``(..., n, n)``; with ``return_confidence`` a tuple with the confidence, shape ``(...)``.

    Raises:
        ValueError: If ``M`` is not square.
        TypeError, NotImplementedError: If ``M`` has an integer or a complex dtype.

    Example:
        >>> special_procrustes(torch.diag(torch.tensor([3.0, 2.0, -1.0])))
        tensor([[1., 0., 0.],
                [0., 1., 0.],
                [0., 0., 1.]])
    """
    check_square("M", M)
    if not return_confidence:
        return nearest_rotation(M)
    R, s = nearest_orthogonal(M, special=True)
    if M.shape[-1] == 1:
        return R, s.new_full(s.shape[:-1], float("inf"))
    return R, s[..., -2] + s[..., -1]


def nearest_special_orthogonal(M: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """Rotation nearest to ``M``: ``special_procrustes`` under the name that says what comes out.

    Args:
        M: Square matrices, shape ``(..., n, n)``.

    Returns:
        Rotations, shape ``(..., n, n)``.

    Raises:
        ValueError: If ``M`` is not square.
        TypeError, NotImplementedError: If ``M`` has an integer or a complex dtype.

    Example:
        >>> nearest_special_orthogonal(2 * torch.eye(2))
        tensor([[1., 0.],
                [0., 1.]])
    """
    return special_procrustes(M)
