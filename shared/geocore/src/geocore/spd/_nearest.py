"""Is it positive definite, and if not, what is the nearest matrix that is."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geocore._dispatch import eigvalsh
from geocore.spd._checks import check_matrix, check_min_eig, check_positive, check_symmetric, no_autocast, values_readable, work_dtype
from geocore.spd._differences import Clamp
from geocore.spd._spectral import apply, factorise

__all__ = ["assert_spd", "is_spd", "nearest_spd"]

_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}


def is_spd(X: Float[Tensor, "*batch n n"], *, atol: float | None = None) -> Bool[Tensor, "*batch"]:
    """Whether ``X`` is finite, symmetric and positive definite.

    Args:
        X: Matrices, shape ``(..., n, n)``.
        atol: Largest allowed entry of ``|X - X^T|`` relative to the largest of ``|X|``; by default 1e-10 for float64, 1e-5 for float32,
            1e-2 for float16, 6e-2 for bfloat16. Positive means a smallest eigenvalue above 0.

    Returns:
        Boolean mask of shape ``(...)``; no device synchronisation.

    Raises:
        ValueError: If ``X`` is not square.
        TypeError: If ``X`` is not real floating point.

    Example:
        >>> is_spd(torch.diag(torch.tensor([1.0, -1.0])))
        tensor(False)
    """
    check_matrix("X", X)
    X = X.detach().to(work_dtype(X, None)) if X.dtype in (torch.float16, torch.bfloat16) else X.detach()
    tolerance = _TOLERANCE[X.dtype] if atol is None else atol
    size = X.abs().amax((-2, -1))
    close = (X - X.mT).abs().amax((-2, -1)) <= tolerance * size
    finite = torch.isfinite(X).all(-1).all(-1)
    eye = torch.eye(X.shape[-1], dtype=X.dtype, device=X.device)
    W = torch.where(finite[..., None, None], (X + X.mT) / 2, eye).to(work_dtype(X, None))
    return finite & close & (eigvalsh(W)[..., 0] > 0)


def assert_spd(X: Float[Tensor, "*batch n n"], *, atol: float | None = None) -> None:
    """Raise unless every matrix satisfies ``is_spd``; reads the result, so it synchronises the device.

    Args:
        X: Matrices, shape ``(..., n, n)``.
        atol: As ``is_spd``.

    Raises:
        NotPositiveDefiniteError: If a matrix is symmetric but not positive definite.
        ValueError: If one is not square, not finite or not symmetric.
        TypeError: If ``X`` is not real floating point.

    Example:
        >>> assert_spd(torch.eye(3))
    """
    check_matrix("X", X)
    check_symmetric("X", X.detach())
    W = X.detach().to(work_dtype(X, None))
    check_positive("X", eigvalsh((W + W.mT) / 2)[..., 0])
    if not bool(is_spd(X, atol=atol).all()):
        raise ValueError(f"X must be symmetric to atol = {atol if atol is not None else _TOLERANCE[X.dtype]:g} of its largest entry")


@no_autocast
def nearest_spd(
    X: Float[Tensor, "*batch n n"],
    *,
    min_eig: float | str = "eps",
    compute_dtype: torch.dtype | None = None,
    check: bool = True,
) -> Float[Tensor, "*batch n n"]:
    r"""Nearest SPD matrix in the Frobenius norm whose eigenvalues are at least ``min_eig``: the symmetric part with its spectrum floored.

    Higham (1988) for a floor of 0; a positive floor lands inside the open cone, also after rounding. Differentiable, with the derivative of
    ``clamp_eig``; the floor is a constant for autograd.

    Args:
        X: Any square matrices, shape ``(..., n, n)``.
        min_eig: Smallest eigenvalue, absolute, or ``"eps"``: ``4 n eps`` of the dtype of ``X`` times the largest absolute eigenvalue.
        compute_dtype: As ``sqrtm``.
        check: Whether to raise if ``X`` is not finite, where values can be read.

    Returns:
        SPD matrices, shape ``(..., n, n)``, dtype of ``X``.

    Raises:
        ValueError: If ``X`` is not square or not finite, or ``min_eig`` is negative.
        TypeError: If ``X`` is not real floating point.

    Example:
        >>> nearest_spd(torch.diag(torch.tensor([2.0, -1.0])), min_eig=0.1).diagonal()
        tensor([2.0000, 0.1000])
    """
    check_matrix("X", X)
    check_min_eig(min_eig)
    if min_eig is None:
        raise ValueError("min_eig must be a number >= 0 or 'eps', got None")
    if check and values_readable(X) and not bool(torch.isfinite(X).all()):
        raise ValueError("X must be finite, but it holds NaN or infinity")
    s = factorise("X", X, positive=False, compute_dtype=compute_dtype, check=False)
    if isinstance(min_eig, str):
        largest = s.values.abs().amax(-1)
        # Room for rounding of the entries to the dtype of X; the zero matrix goes to the smallest normal numbers.
        floor = largest * (4 * X.shape[-1] * torch.finfo(X.dtype).eps)
        floor = floor.clamp(min=torch.finfo(X.dtype).tiny)
    else:
        floor = s.values.new_tensor(float(min_eig))
    return apply(s, Clamp(floor)).to(X.dtype)
