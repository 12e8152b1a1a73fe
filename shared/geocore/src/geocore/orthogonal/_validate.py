"""Is it a rotation, an orthogonal or a skew matrix: masks without synchronisation, and assertions that say by how much it is not."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geocore._checks import check_floating, check_square, check_trailing

__all__ = ["assert_orthogonal", "assert_rotation", "assert_skew", "is_orthogonal", "is_rotation", "is_skew", "orthogonality_error"]

# Room for a few hundred compositions in float64 and float32, for the rounding of the entries alone in half precision.
_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}


class _InvalidMatrixError(ValueError, AssertionError):
    """Raised by ``assert_*``: a ValueError to a program, a failed assertion to a test runner."""


def _tolerance(x: Tensor, atol: float | None) -> float:
    return _TOLERANCE.get(x.dtype, 1e-5) if atol is None else atol


def _full(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def orthogonality_error(Q: Float[Tensor, "*batch m n"]) -> Float[Tensor, "*batch"]:
    """Largest entry of ``|Q^T Q - I|``; for wide matrices (orthonormal rows) of ``|Q Q^T - I|``.

    Args:
        Q: Matrices, shape ``(..., m, n)``.

    Returns:
        Shape ``(...)``, float32 for half precision input; NaN if ``Q`` holds a NaN.

    Raises:
        ValueError: If ``Q`` has fewer than two dimensions.
        TypeError, NotImplementedError: If ``Q`` has an integer or a complex dtype.

    Example:
        >>> orthogonality_error(torch.diag(torch.tensor([1.0, 2.0])))
        tensor(3.)
    """
    check_trailing("Q", Q, (None, None))
    Q = _full(Q)
    if Q.shape[-2] < Q.shape[-1]:
        Q = Q.mT
    with torch.autocast(Q.device.type, enabled=False):
        return _largest(Q.mT @ Q - torch.eye(Q.shape[-1], dtype=Q.dtype, device=Q.device))


def _largest(E: Tensor) -> Tensor:
    return torch.nn.functional.pad(E.abs().flatten(-2), (0, 1)).amax(-1)  # padded: matrices without entries have error 0


def _skew_error(S: Tensor) -> Tensor:
    S = _full(S)
    return _largest(S + S.mT) / _largest(S).clamp(min=1.0)


def is_orthogonal(Q: Float[Tensor, "*batch m n"], *, atol: float | None = None) -> Bool[Tensor, "*batch"]:
    """Whether the columns (for wide matrices the rows) of ``Q`` are orthonormal.

    Args:
        Q: Matrices, shape ``(..., m, n)``.
        atol: Largest allowed entry of ``|Q^T Q - I|``; by default 1e-10 for float64, 1e-5 for float32, 1e-2 for float16, 6e-2 for
            bfloat16.

    Returns:
        Boolean mask of shape ``(...)``; false for NaN. No device synchronisation.

    Raises:
        ValueError: If ``Q`` has fewer than two dimensions.
        TypeError, NotImplementedError: If ``Q`` has an integer or a complex dtype.

    Example:
        >>> is_orthogonal(torch.diag(torch.tensor([1.0, -1.0])))
        tensor(True)
    """
    return orthogonality_error(Q) <= _tolerance(Q, atol)


def is_rotation(R: Float[Tensor, "*batch n n"], *, atol: float | None = None) -> Bool[Tensor, "*batch"]:
    """Whether ``R`` is orthogonal with determinant +1.

    Args:
        R: Matrices, shape ``(..., n, n)``.
        atol: As ``is_orthogonal``.

    Returns:
        Boolean mask of shape ``(...)``; false for NaN. No device synchronisation.

    Raises:
        ValueError: If ``R`` is not square.
        TypeError, NotImplementedError: If ``R`` has an integer or a complex dtype.

    Example:
        >>> is_rotation(torch.diag(torch.tensor([1.0, -1.0])))
        tensor(False)
    """
    check_square("R", R)
    return is_orthogonal(R, atol=atol) & (torch.linalg.det(_full(R)) > 0)


def is_skew(S: Float[Tensor, "*batch n n"], *, atol: float | None = None) -> Bool[Tensor, "*batch"]:
    """Whether ``S = -S^T``.

    Args:
        S: Matrices, shape ``(..., n, n)``.
        atol: Largest allowed entry of ``|S + S^T| / max(1, max|S|)``; defaults as ``is_orthogonal``.

    Returns:
        Boolean mask of shape ``(...)``; false for NaN. No device synchronisation.

    Raises:
        ValueError: If ``S`` is not square.
        TypeError, NotImplementedError: If ``S`` has an integer or a complex dtype.

    Example:
        >>> is_skew(torch.tensor([[0.0, 1.0], [-1.0, 0.0]]))
        tensor(True)
    """
    check_square("S", S)
    return _skew_error(S) <= _tolerance(S, atol)


def _report(good: Tensor, error: Tensor, what: str, tolerance: float, fix: str) -> None:
    if bool(good.all()):
        return
    bad = ~good
    index = tuple(int(i) for i in bad.nonzero()[0])
    where = f" at index {index}" if index else ""
    raise _InvalidMatrixError(
        f"{what}; {int(bad.sum())} of {bad.numel()} are not, the first{where} with error {float(error[bad][0]):.3g} "
        f"(allowed {tolerance:.3g}). {fix}"
    )


def assert_orthogonal(Q: Float[Tensor, "*batch m n"], *, atol: float | None = None) -> None:
    """Raise unless every matrix satisfies ``is_orthogonal``; reads the result, so it synchronises the device.

    Args:
        Q: Matrices, shape ``(..., m, n)``.
        atol: As ``is_orthogonal``.

    Raises:
        ValueError: If one is not orthogonal (the error is an AssertionError too), or ``Q`` has fewer than two dimensions.
        TypeError, NotImplementedError: If ``Q`` has an integer or a complex dtype.

    Example:
        >>> assert_orthogonal(torch.eye(3))
    """
    error, tolerance = orthogonality_error(Q), _tolerance(Q, atol)
    _report(error <= tolerance, error, "Q must be orthogonal, Q^T Q = I", tolerance, "Project with geocore.orthogonal.polar.")


def assert_rotation(R: Float[Tensor, "*batch n n"], *, atol: float | None = None) -> None:
    """Raise unless every matrix satisfies ``is_rotation``; reads the result, so it synchronises the device.

    Args:
        R: Matrices, shape ``(..., n, n)``.
        atol: As ``is_orthogonal``.

    Raises:
        ValueError: If one is not a rotation (the error is an AssertionError too), or ``R`` is not square.
        TypeError, NotImplementedError: If ``R`` has an integer or a complex dtype.

    Example:
        >>> assert_rotation(torch.eye(3))
    """
    check_square("R", R)
    error, tolerance = orthogonality_error(R), _tolerance(R, atol)
    fix = "Project with geocore.son.special_procrustes."
    _report(error <= tolerance, error, "R must be a rotation, R^T R = I", tolerance, fix)
    det = torch.linalg.det(_full(R))
    _report(det > 0, (det - 1).abs(), "R must be a rotation, det R = 1", tolerance, fix)


def assert_skew(S: Float[Tensor, "*batch n n"], *, atol: float | None = None) -> None:
    """Raise unless every matrix satisfies ``is_skew``; reads the result, so it synchronises the device.

    Args:
        S: Matrices, shape ``(..., n, n)``.
        atol: As ``is_skew``.

    Raises:
        ValueError: If one is not skew (the error is an AssertionError too), or ``S`` is not square.
        TypeError, NotImplementedError: If ``S`` has an integer or a complex dtype.

    Example:
        >>> assert_skew(torch.zeros(3, 3))
    """
    check_floating("S", S)
    check_square("S", S)
    error, tolerance = _skew_error(S), _tolerance(S, atol)
    _report(error <= tolerance, error, "S must be skew, S = -S^T", tolerance, "Use (S - S^T) / 2.")
