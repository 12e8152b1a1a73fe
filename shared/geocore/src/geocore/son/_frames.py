"""Frames: orthonormalisation, the vector orthogonal to n - 1 others, products of plane rotations."""

from itertools import combinations
from typing import Literal, overload

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geocore._checks import check_option, check_positive_int, check_trailing
from geocore._precision import full_precision

__all__ = ["generalized_cross", "givens_product", "gram_schmidt"]

_EXPANDED = 8  # dimension up to which cofactors are expanded as polynomials


def _minor_tables(n: int, k: int) -> tuple[list[list[int]], list[list[int]]]:
    """For each set of ``k + 1`` of ``n`` rows: the rows, and for each of them the position of the set without it among the ``k``-sets."""
    position = {rows: i for i, rows in enumerate(combinations(range(n), k))}
    sets = list(combinations(range(n), k + 1))
    return [list(rows) for rows in sets], [[position[rows[:i] + rows[i + 1 :]] for i in range(k + 1)] for rows in sets]


@full_precision
def generalized_cross(M: Float[Tensor, "*batch n n-1"]) -> Float[Tensor, "*batch n"]:
    """Vector ``c`` orthogonal to the ``n - 1`` columns of ``M`` with ``det [M, c] = |c|^2``: the cofactors of the missing column.

    ``|c|`` is the volume of the parallelotope of the columns; ``c = 0`` if they are dependent. For ``n = 3`` it is the cross product of
    the two columns, for ``n = 2`` the quarter turn of the one. Polynomial in ``M`` (up to ``n = 8`` computed so, with ``n 2^n``
    multiplications, so all derivatives exist), by determinants beyond.

    Args:
        M: Columns, shape ``(..., n, n - 1)``.

    Returns:
        Shape ``(..., n)``.

    Raises:
        ValueError: If the last two dimensions are not ``(n, n - 1)``.
        TypeError, NotImplementedError: If ``M`` has an integer or a complex dtype.

    Example:
        >>> generalized_cross(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
        tensor([0., 0., 1.])
    """
    check_trailing("M", M, (None, None))
    n = M.shape[-2]
    if n < 1 or M.shape[-1] != n - 1:
        raise ValueError(f"M must have shape (..., n, n - 1), got {tuple(M.shape)}")
    if n == 3:
        return torch.linalg.cross(M[..., 0], M[..., 1])
    alternate = torch.tensor([1.0 if (i + n) % 2 else -1.0 for i in range(n)], dtype=M.dtype, device=M.device)
    if n > _EXPANDED:
        rows = torch.tensor([[j for j in range(n) if j != i] for i in range(n)], device=M.device)
        return torch.linalg.det(M[..., rows, :]) * alternate
    minors = M.new_ones((*M.shape[:-2], 1))
    for k in range(n - 1):  # Laplace expansion along column k
        rows, rest = (torch.tensor(table, device=M.device) for table in _minor_tables(n, k))
        signs = torch.tensor([-1.0 if (i + k) % 2 else 1.0 for i in range(k + 1)], dtype=M.dtype, device=M.device)
        minors = (M[..., k][..., rows] * minors[..., rest] * signs).sum(-1)
    return minors.flip(-1) * alternate


def _unit(v: Tensor) -> tuple[Tensor, Tensor]:
    """``v / |v|`` with a guarded norm, and the squared norm."""
    square = v.square().sum(-1, keepdim=True)
    return v * torch.rsqrt(torch.where(square > 0, square, 1.0)), square


def _orthogonal_to(v: Tensor, basis: list[Tensor]) -> Tensor:
    for _ in range(2):  # the second pass removes what rounding of the first one leaves
        for q in basis:
            v = v - (q * v).sum(-1, keepdim=True) * q
    return v


def _substitute(like: Tensor, basis: list[Tensor]) -> Tensor:
    """Unit vector orthogonal to ``basis`` made from the coordinate axis that lies closest to the orthogonal complement."""
    covered = torch.zeros_like(like)
    for q in basis:
        covered = covered + q.square()
    eye = torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
    return _unit(_orthogonal_to(eye[covered.detach().argmin(-1)], basis))[0]


@overload
def gram_schmidt(
    M: Tensor, *, special: bool = True, degenerate: Literal["safe", "nan", "raise"] = "safe", return_info: Literal[False] = False
) -> Tensor: ...
@overload
def gram_schmidt(
    M: Tensor, *, special: bool = True, degenerate: Literal["safe", "nan", "raise"] = "safe", return_info: Literal[True]
) -> tuple[Tensor, Tensor]: ...


@full_precision
def gram_schmidt(
    M: Float[Tensor, "*batch n k"],
    *,
    special: bool = True,
    degenerate: Literal["safe", "nan", "raise"] = "safe",
    return_info: bool = False,
) -> Float[Tensor, "*batch n c"] | tuple[Float[Tensor, "*batch n c"], Bool[Tensor, "*batch"]]:
    r"""Orthonormalise the columns of ``M`` in order: the first keeps its direction, the second loses its part along it, and so on.

    With ``special`` the first ``n - 1`` columns are orthonormalised and completed by the unit vector that makes the determinant
    +1 (for ``n = 3`` the cross product; this is the 6D representation); a last column of a square ``M`` is ignored. Otherwise all
    ``k <= n`` columns are orthonormalised, whatever the determinant. Depends only on directions: scaling a column changes
    nothing.

    A column is degenerate if less than about 8 eps of its length is left after the projection (float32: 1e-6), or if it is zero.
    ``"safe"`` replaces it by the coordinate axis least aligned with the columns before it, so the result is always
    orthonormal and gradients along undefined directions are zero; ``"nan"`` returns NaN for those items; ``"raise"`` reads the
    mask back from the device and raises.

    Args:
        M: Columns, shape ``(..., n, k)``; ``k`` is ``n - 1`` or ``n`` if ``special``, else at most ``n``.
        special: Return rotations.
        degenerate: What to do with dependent or zero columns.
        return_info: Also return the mask of degenerate items, shape ``(...)``.

    Returns:
        Rotations of shape ``(..., n, n)`` if ``special``, else orthonormal columns of shape ``(..., n, k)``.

    Raises:
        ValueError: If the shape does not fit, ``degenerate`` is unknown, or is ``"raise"`` and an item is degenerate.
        TypeError, NotImplementedError: If ``M`` has an integer or a complex dtype.

    Example:
        >>> gram_schmidt(torch.tensor([[2.0, 5.0], [0.0, 3.0], [0.0, 0.0]]))
        tensor([[1., 0., 0.],
                [0., 1., 0.],
                [0., 0., 1.]])
    """
    check_trailing("M", M, (None, None))
    check_option("degenerate", degenerate, ("safe", "nan", "raise"))
    n, k = M.shape[-2:]
    if n < 1 or k > n or (special and k < n - 1):
        need = "(..., n, n - 1) or (..., n, n) to determine a rotation; pass special=False" if special else "(..., n, k) with k <= n"
        raise ValueError(f"M must have shape {need}, got {tuple(M.shape)}")
    tol = (8 * torch.finfo(M.dtype).eps) ** 2
    basis: list[Tensor] = []
    bad = torch.zeros(M.shape[:-2], dtype=torch.bool, device=M.device)
    for j in range(n - 1 if special else k):
        column = M[..., j]
        most = column.detach().abs().amax(-1, keepdim=True)
        column = column / torch.where(most > 0, most, 1.0)  # scale-free, so a constant to autograd
        rest = _orthogonal_to(column, basis)
        whole = column.detach().square().sum(-1, keepdim=True)
        lost = rest.detach().square().sum(-1, keepdim=True) <= tol * whole
        axis = _substitute(column, basis)
        # A nearly dependent column leaves a short rest with rounding along the basis: project once more at unit length.
        rest = _unit(_orthogonal_to(_unit(torch.where(lost, axis, rest))[0], basis))[0]
        basis.append(rest)
        bad = bad | lost[..., 0]
    if special:
        last = _substitute(M[..., 0] if k else M.new_ones(M.shape[:-1]), basis)
        Q = torch.stack([*basis, last], dim=-1)
        flip = torch.where(torch.linalg.det(Q.detach()) < 0, -1.0, 1.0).to(M.dtype)
        Q = torch.stack([*basis, last * flip[..., None]], dim=-1)
    else:
        Q = torch.stack(basis, dim=-1) if basis else M
    if degenerate == "raise" and bool(bad.any()):
        raise ValueError(
            f"M must have independent columns, but {int(bad.sum())} of {bad.numel()} items do not. Drop them "
            "(return_info=True gives the mask), or pass degenerate='safe'."
        )
    if degenerate == "nan":
        Q = torch.where(bad[..., None, None], float("nan"), Q)
    return (Q, bad) if return_info else Q


@full_precision
def givens_product(
    angles: Float[Tensor, "*batch d"], *, n: int, planes: list[tuple[int, int]] | None = None
) -> Float[Tensor, "*batch n n"]:
    r"""Product ``G_1 G_2 ... G_d`` of rotations in coordinate planes.

    ``G`` in the plane ``(i, j)`` turns axis ``j`` towards axis ``i`` by its angle: ``G[j, j] = G[i, i] = cos a``, ``G[i, j] = sin a``,
    ``G[j, i] = -sin a``, so ``G = exp(skew_from_vec(a e))`` for the coordinate of ``(i, j)``. With all planes, every rotation is reached.

    Args:
        angles: Radians, shape ``(..., d)``.
        n: Dimension.
        planes: ``d`` pairs of different axes; by default ``(1, 0), (2, 0), (2, 1), (3, 0), ...``, all ``n (n - 1) / 2`` in the order of
            ``vec``.

    Returns:
        Rotations, shape ``(..., n, n)``.

    Raises:
        ValueError: If ``n < 1``, a plane is not a pair of different axes below ``n``, or ``d`` differs from the number of planes.
        TypeError, NotImplementedError: If ``angles`` has an integer or a complex dtype.

    Example:
        >>> givens_product(torch.tensor([torch.pi / 2]), n=2)[1]  # about [1, 0]
    """
    check_positive_int("n", n)
    planes = [(i, j) for i in range(n) for j in range(i)] if planes is None else planes
    for i, j in planes:
        if not (0 <= i < n and 0 <= j < n and i != j):
            raise ValueError(f"planes must be pairs of different axes in 0..{n - 1}, got {(i, j)}")
    check_trailing("angles", angles, (len(planes),), hint=f"one angle for each of {len(planes)} planes")
    c, s = torch.cos(angles), torch.sin(angles)
    eye = torch.eye(n, dtype=angles.dtype, device=angles.device).expand(*angles.shape[:-1], n, n)
    columns = list(eye.unbind(-1))
    for k, (i, j) in enumerate(planes):
        ck, sk = c[..., k, None], s[..., k, None]
        columns[j], columns[i] = ck * columns[j] + sk * columns[i], ck * columns[i] - sk * columns[j]
    return torch.stack(columns, dim=-1)
