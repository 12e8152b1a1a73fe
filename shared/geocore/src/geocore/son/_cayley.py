"""The Cayley transform: a rational stand-in for the exponential map."""

import torch
from jaxtyping import Float
from torch import Tensor

from geocore._checks import check_square
from geocore._precision import full_precision
from geocore.son._readable import values_readable
from geocore.son._spectral import skew_part

__all__ = ["cayley", "cayley_inv"]


@full_precision
def cayley(A: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """Rotation ``(I - A/2)^{-1} (I + A/2)`` of a skew matrix; equals ``exp(A)`` to second order, angle ``2 atan(w / 2)`` for ``w``.

    Defined for every skew ``A`` (the matrix to invert has singular values at least 1); reaches every rotation without an
    eigenvalue -1. Only the skew part ``(A - A^T) / 2`` acts.

    Args:
        A: Skew matrices, shape ``(..., n, n)``.

    Returns:
        Rotations, shape ``(..., n, n)``.

    Raises:
        ValueError: If ``A`` is not square.
        TypeError, NotImplementedError: If ``A`` has an integer or a complex dtype.

    Example:
        >>> cayley(torch.tensor([[0.0, -2.0], [2.0, 0.0]]))[1]  # a quarter turn, about [1, 0]
    """
    check_square("A", A)
    half = skew_part(A) / 2
    eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    return torch.linalg.solve_ex(eye - half, eye + half)[0]


@full_precision
def cayley_inv(R: Float[Tensor, "*batch n n"], *, check: bool | None = None) -> Float[Tensor, "*batch n n"]:
    """Skew matrix ``2 (R - I) (R + I)^{-1}`` whose Cayley transform is the rotation ``R``.

    Undefined where ``R`` has an eigenvalue -1 (a plane turned by pi, or a reflection); near it entries grow like ``4 / (pi - angle)``.

    Args:
        R: Rotations, shape ``(..., n, n)``.
        check: Whether to look for an eigenvalue -1 to rounding. By default only where values can be read at no cost: on the
            CPU, outside of ``torch.compile`` and function transforms. Unchecked, the result is infinite, NaN or meaningless.

    Returns:
        Skew matrices, shape ``(..., n, n)``.

    Raises:
        ValueError: If ``R`` is not square, or by the check.
        TypeError, NotImplementedError: If ``R`` has an integer or a complex dtype.

    Example:
        >>> cayley_inv(torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
        tensor([[ 0., -2.],
                [ 2.,  0.]])
    """
    check_square("R", R)
    n = R.shape[-1]
    eye = torch.eye(n, dtype=R.dtype, device=R.device)
    if values_readable(R) if check is None else check:
        smallest = torch.linalg.svdvals((R + eye).detach())[..., -1]
        if bool((smallest < 8 * n * torch.finfo(R.dtype).eps).any()):
            raise ValueError(
                f"R must have no eigenvalue -1, but R + I has the singular value {float(smallest.min()):.3g}; "
                "the Cayley transform does not reach half turns and reflections, use geocore.son.log for half turns"
            )
    return skew_part(2 * torch.linalg.solve_ex((R + eye).mT, (R - eye).mT)[0].mT)
