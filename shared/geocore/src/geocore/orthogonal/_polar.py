"""Orthogonal factor of the polar decomposition."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from geocore._checks import check_option, check_trailing
from geocore._precision import full_precision
from geocore.orthogonal._nearest import nearest_orthogonal
from geocore.orthogonal._newton_schulz import newton_schulz
from geocore.orthogonal._qdwh import qdwh

__all__ = ["polar"]

# Scaled Newton needs at most 9 steps up to a condition of 1e16, and one more for rounding. The minimax schedule brings a
# singular value of 1e-3 to 1 in 6 steps; each quintic step after it multiplies a small one by 1.875.
_NEWTON, _SCHULZ = 10, 24


@full_precision
def polar(
    M: Float[Tensor, "*batch m n"], *, method: Literal["svd", "newton", "qdwh", "newton_schulz"] = "svd"
) -> Float[Tensor, "*batch m n"]:
    r"""Orthogonal polar factor of ``M``: the matrix with orthonormal columns (rows, if wide) nearest to ``M``.

    ``M = Q H`` with ``H`` symmetric positive semidefinite; ``Q = U V^T`` for ``M = U diag(s) V^T``. The determinant keeps its sign: for
    the nearest rotation use ``geocore.son.special_procrustes``. ``Q`` is unique, and the gradient finite, where ``M`` has full rank;
    square singular matrices give one nearest orthogonal matrix and gradient zero in the free directions (``"svd"``).

    Args:
        M: Matrices, shape ``(..., m, n)``.
        method: ``"svd"``, always right, with the explicit gradient; ``"newton"``, ``X <- (c X + X^{-T} / c) / 2`` with norm scaling,
            10 steps, to rounding up to condition 1e12 or so; ``"qdwh"``, QR-based dynamically weighted Halley, 6 steps of QR and
            Cholesky (4 in float32), backward stable up to condition 1 / eps; ``"newton_schulz"``, 24 steps of matrix products, to
            rounding up to condition 1e6. The gradient of the last three is that of the unrolled iteration. Tall and wide
            matrices are first reduced by QR (not for the last two).

    Returns:
        Shape ``(..., m, n)``.

    Raises:
        ValueError: If ``M`` has fewer than two dimensions or ``method`` is unknown.
        TypeError, NotImplementedError: If ``M`` has an integer or a complex dtype.

    Example:
        >>> polar(torch.diag(torch.tensor([2.0, -3.0])))
        tensor([[ 1.,  0.],
                [ 0., -1.]])
    """
    check_trailing("M", M, (None, None))
    check_option("method", method, ("svd", "newton", "qdwh", "newton_schulz"))
    if method == "newton_schulz":
        return newton_schulz(M, steps=_SCHULZ, coefficients="polar_express", eps=0.0, differentiable=True)
    m, n = M.shape[-2:]
    if m < n:
        return polar(M.mT, method=method).mT
    if method == "qdwh":
        return qdwh(M)
    if m > n:
        return _tall(M, method)
    return nearest_orthogonal(M, special=False)[0] if method == "svd" else _newton(M)


def _tall(M: Tensor, method: Literal["svd", "newton"]) -> Tensor:
    """Reduction by QR, whose derivative needs full rank: deficient items get one nearest frame and gradient zero."""
    m, n = M.shape[-2:]
    scale = torch.nn.functional.pad(M.detach().abs().flatten(-2), (0, 1)).amax(-1)[..., None, None]
    null = scale < 1e3 * torch.finfo(M.dtype).tiny  # the reciprocal would overflow, and QR of subnormal numbers is NaN
    M = torch.where(null, torch.zeros_like(M), M) / torch.where(null, 1.0, scale)
    size = torch.linalg.qr(M.detach(), mode="r")[1].diagonal(dim1=-2, dim2=-1).abs()
    least, most = (f(torch.nn.functional.pad(size, (0, 1), value=v), -1) for f, v in ((torch.amin, torch.inf), (torch.amax, 0.0)))
    deficient = (least <= 4 * m * torch.finfo(M.dtype).eps * most)[..., None, None]
    frame = torch.eye(m, n, dtype=M.dtype, device=M.device)
    Q, R = torch.linalg.qr(torch.where(deficient, frame, M))
    U, _, Vh = torch.linalg.svd(torch.where(deficient, M.detach(), frame), full_matrices=False)
    return torch.where(deficient, U @ Vh, Q @ polar(R, method=method))


def _newton(M: Tensor) -> Tensor:
    most = torch.nn.functional.pad(M.detach().abs().flatten(-2), (0, 1)).amax(-1)[..., None, None]
    X = M / torch.where(most > 0, most, 1.0)
    for _ in range(_NEWTON):
        inverse = torch.linalg.inv_ex(X)[0].mT
        # Any positive scale leaves the answer unchanged, so it is a constant to autograd.
        ratio = _one_inf(inverse.detach()) / _one_inf(X.detach())
        c = torch.where(torch.isfinite(ratio) & (ratio > 0), ratio, 1.0).pow(0.25)
        X = (c * X + inverse / c) / 2
    return X


def _one_inf(X: Tensor) -> Tensor:
    size = X.abs()
    return (size.sum(-1).amax(-1) * size.sum(-2).amax(-1))[..., None, None]
