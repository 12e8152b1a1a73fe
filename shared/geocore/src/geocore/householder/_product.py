"""Products of Householder-like factors in compact WY form: one Gram matrix and one triangular solve, never factor by factor."""

import torch
from jaxtyping import Float
from torch import Tensor

from geocore._checks import check_broadcastable, check_positive_int, check_trailing
from geocore._precision import full_precision
from geocore.householder._dense import dense_product
from geocore.householder._wy import reflection_tau, scaled_gram, unit_upper_solve

__all__ = ["apply_product", "apply_product_reference", "compact_wy", "reflect", "to_matrix"]

COLUMNS = "the vectors are its columns; for one vector use V[:, None] or reflect"


def check_factors(V: Tensor, tau: Tensor | None) -> Tensor:
    """Return ``tau``, by default that of reflections.

    Raises:
        ValueError: If ``V`` has not shape ``(..., n, k)`` or ``tau`` not ``(..., k)``.
        TypeError, NotImplementedError: If a dtype is not real floating point.
    """
    check_trailing("V", V, (None, None), hint=COLUMNS)
    if tau is None:
        return reflection_tau(V)
    check_trailing("tau", tau, (V.shape[-1],), hint=f"one coefficient for each of the {V.shape[-1]} columns of V")
    check_broadcastable(V=V.shape[:-2], tau=tau.shape[:-1])
    return tau


def rows_times(x: Tensor, M: Tensor) -> Tensor:
    """``x M`` for vectors ``x (..., n)`` and matrices ``M (..., n, k)`` with broadcasting.

    Trailing batch dimensions along which ``M`` is constant become the rows of one product, so ``M`` is not copied per vector.
    """
    shared = x.ndim - 1
    for i in range(1, min(x.ndim, M.ndim - 1)):
        if M.shape[-2 - i] != 1:
            shared = i - 1
            break
    if shared == 0:
        return (x[..., None, :] @ M)[..., 0, :]
    kept = M.reshape(*M.shape[: max(M.ndim - 2 - shared, 0)], *M.shape[-2:])
    rows = x.shape[-1 - shared : -1]
    y = x.flatten(-1 - shared, -2) @ kept
    return y.unflatten(-2, rows)


@full_precision
def reflect(v: Float[Tensor, "*vbatch n"], x: Float[Tensor, "*xbatch n"]) -> Float[Tensor, "*batch n"]:
    """Reflect ``x`` in the hyperplane orthogonal to ``v``, ``x - 2 v (v . x) / (v . v)``; ``v = 0`` leaves ``x`` as it is.

    Args:
        v: Normals, shape ``(..., n)``, of any length.
        x: Vectors, shape ``(..., n)``; batch dimensions broadcast.

    Returns:
        Shape ``(..., n)``.

    Raises:
        ValueError: If the last dimensions differ or the batches do not broadcast.
        TypeError, NotImplementedError: If an argument is not real floating point.

    Example:
        >>> reflect(torch.tensor([2.0, 0.0]), torch.tensor([3.0, 4.0]))
        tensor([-3.,  4.])
    """
    check_trailing("v", v, (None,))
    check_trailing("x", x, (v.shape[-1],), hint=f"v has length {v.shape[-1]}")
    check_broadcastable(v=v.shape[:-1], x=x.shape[:-1])
    tau = reflection_tau(v[..., None])
    return x - tau * (v * x).sum(-1, keepdim=True) * v


@full_precision
def compact_wy(V: Float[Tensor, "*batch n k"], tau: Float[Tensor, "*tbatch k"] | None = None) -> Float[Tensor, "*out k k"]:
    r"""Upper triangular ``T`` with ``(I - tau_1 v_1 v_1^T) ... (I - tau_k v_k v_k^T) = I - V T V^T``.

    ``T = (I + diag(tau) triu_1(V^T V))^-1 diag(tau)``, which for non-zero ``tau`` is the known ``T^-1 = triu_1(V^T V) + diag(1 / tau)``
    (Joffrain et al., 2006; Schreiber and Van Loan, 1989).

    Args:
        V: Vectors as columns, shape ``(..., n, k)``.
        tau: Coefficients, shape ``(..., k)``; ``2 / |v|^2`` (reflections) by default. Between 0 and that, a factor contracts
            its direction; with 0, or a zero column, it is the identity.

    Returns:
        Shape ``(..., k, k)``.

    Raises:
        ValueError: If a shape does not fit.
        TypeError, NotImplementedError: If an argument is not real floating point.

    Example:
        >>> V = torch.randn(5, 3)
        >>> Q = torch.eye(5) - V @ compact_wy(V) @ V.T  # orthogonal
    """
    tau = check_factors(V, tau)
    A = scaled_gram(V, tau)
    return unit_upper_solve(A, torch.diag_embed(tau).expand(A.shape))


@full_precision
def apply_product(
    V: Float[Tensor, "*vbatch n k"],
    x: Float[Tensor, "*xbatch n"],
    tau: Float[Tensor, "*tbatch k"] | None = None,
    transpose: bool = False,
) -> Float[Tensor, "*batch n"]:
    r"""Apply ``Q = H_1 H_2 ... H_k``, ``H_i = I - tau_i v_i v_i^T``, to vectors without forming ``Q``.

    ``Q x = x - V T V^T x`` with ``T`` of ``compact_wy``: one ``k x k`` Gram matrix and one triangular solve for any number of vectors,
    ``O(n k)`` per vector.

    Args:
        V: Vectors as columns, shape ``(..., n, k)``.
        x: Vectors, shape ``(..., n)``; batch dimensions broadcast with those of ``V`` in the NumPy way, so ``V (n, k)`` serves any
            ``x (L, n)``.
        tau: As in ``compact_wy``.
        transpose: Whether to apply ``Q^T = H_k ... H_1`` instead (the inverse, for reflections).

    Returns:
        Shape ``(..., n)``.

    Raises:
        ValueError: If a shape does not fit.
        TypeError, NotImplementedError: If an argument is not real floating point.

    Example:
        >>> V, x = torch.randn(8, 3), torch.randn(10, 8)
        >>> torch.allclose(apply_product(V, apply_product(V, x), transpose=True), x, atol=1e-5)
        True
    """
    tau = check_factors(V, tau)
    check_trailing("x", x, (V.shape[-2],), hint=f"the columns of V have length {V.shape[-2]}")
    check_broadcastable(V=V.shape[:-2], tau=tau.shape[:-1], x=x.shape[:-1])
    A = scaled_gram(V, tau)
    # y = V^T x for rows: solve for T once per V, then everything is a product over the vectors.
    T = unit_upper_solve(A, torch.diag_embed(tau).expand(A.shape))
    return x - rows_times(rows_times(rows_times(x, V), T if transpose else T.mT), V.mT)


@full_precision
def apply_product_reference(
    V: Float[Tensor, "*vbatch n k"],
    x: Float[Tensor, "*xbatch n"],
    tau: Float[Tensor, "*tbatch k"] | None = None,
    transpose: bool = False,
) -> Float[Tensor, "*batch n"]:
    """``apply_product`` factor by factor: the oracle of its tests; arguments, result and errors are the same."""
    tau = check_factors(V, tau)
    check_trailing("x", x, (V.shape[-2],))
    k = V.shape[-1]
    for i in range(k) if transpose else reversed(range(k)):
        v = V[..., i]
        x = x - tau[..., i, None] * (v * x).sum(-1, keepdim=True) * v
    return x


@full_precision
def to_matrix(
    V: Float[Tensor, "*batch n k"], tau: Float[Tensor, "*tbatch k"] | None = None, cols: int | None = None
) -> Float[Tensor, "*out n c"]:
    """The first ``cols`` columns of ``Q = H_1 ... H_k``; all of them by default.

    Args:
        V: Vectors as columns, shape ``(..., n, k)``.
        tau: As in ``compact_wy``.
        cols: Number of columns, from 0 to ``n``.

    Returns:
        Shape ``(..., n, cols)``; for reflections the columns are orthonormal.

    Raises:
        ValueError: If a shape does not fit or ``cols`` is out of range.
        TypeError, NotImplementedError: If an argument is not real floating point, or ``cols`` is not an int.

    Example:
        >>> to_matrix(torch.tensor([[1.0], [0.0]]))
        tensor([[-1.,  0.],
                [ 0.,  1.]])
    """
    if tau is None:
        check_trailing("V", V, (None, None), hint=COLUMNS)
    else:
        check_factors(V, tau)
    n = V.shape[-2]
    if cols is None:
        cols = n
    check_positive_int("cols", cols, minimum=0)
    if cols > n:
        raise ValueError(f"cols must be at most n = {n}, got {cols}")
    return dense_product(V, tau, cols)
