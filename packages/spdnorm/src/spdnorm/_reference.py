"""The methods, literally: one matrix at a time, one decomposition per matrix function. The oracle of tests and the peer of benchmarks.

No guards and no shared factorisations. Plain differentiable torch, so gradients are right only at distinct eigenvalues.
"""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = [
    "airm_batch_norm_reference",
    "airm_mean_reference",
    "bw_barycentre_reference",
    "bw_dist2_reference",
    "bw_geodesic_reference",
    "chart_batch_norm_reference",
    "gbw_batch_norm_reference",
    "matrix_function_reference",
    "pull_back_reference",
    "push_forward_reference",
    "released_batch_norm_reference",
    "spd_mlr_reference",
]

Decompose = str  # "eigh", or "svd" as the research code does


def matrix_function_reference(X: Tensor, f: Callable[[Tensor], Tensor], decompose: Decompose = "eigh") -> Tensor:
    """``U diag(f(lambda)) U^T`` of one symmetric matrix."""
    if decompose == "svd":
        U, values, _ = torch.linalg.svd(X)
    else:
        values, U = torch.linalg.eigh(X)
    return U @ torch.diag(f(values)) @ U.mT


def _sqrt(X: Tensor, decompose: Decompose = "eigh") -> Tensor:
    return matrix_function_reference(X, torch.sqrt, decompose)


def _invsqrt(X: Tensor, decompose: Decompose = "eigh") -> Tensor:
    return matrix_function_reference(X, lambda x: x**-0.5, decompose)


def _power(X: Tensor, p: float | Tensor, decompose: Decompose = "eigh") -> Tensor:
    return matrix_function_reference(X, lambda x: x**p, decompose)


def _log(X: Tensor) -> Tensor:
    return matrix_function_reference(X, torch.log)


def _exp(X: Tensor) -> Tensor:
    return matrix_function_reference(X, torch.exp)


def _sym(X: Tensor) -> Tensor:
    return (X + X.mT) / 2


def pull_back_reference(X: Tensor, M: Tensor, theta: float, decompose: Decompose = "eigh") -> Tensor:
    """``phi(X) = M^(-1/2) X^theta M^(-1/2)``."""
    root = _invsqrt(M, decompose)
    return _sym(root @ (X if theta == 1 else _power(X, theta, decompose)) @ root)


def push_forward_reference(Z: Tensor, M: Tensor, theta: float, decompose: Decompose = "eigh") -> Tensor:
    """``(M^(1/2) Z M^(1/2))^(1/theta)``."""
    root = _sqrt(M, decompose)
    X = _sym(root @ Z @ root)
    return X if theta == 1 else _power(X, 1 / theta, decompose)


def bw_dist2_reference(A: Tensor, B: Tensor, decompose: Decompose = "eigh") -> Tensor:
    """``tr A + tr B - 2 tr (A^(1/2) B A^(1/2))^(1/2)``."""
    root = _sqrt(A, decompose)
    return torch.trace(A) + torch.trace(B) - 2 * torch.trace(_sqrt(_sym(root @ B @ root), decompose))


def bw_barycentre_reference(Ys: list[Tensor], steps: int, decompose: Decompose = "eigh") -> Tensor:
    """``m <- m^(-1/2) (mean (m^(1/2) Y m^(1/2))^(1/2))^2 m^(-1/2)``, ``steps`` times from the arithmetic mean."""
    m = torch.stack(Ys).mean(0)
    for _ in range(steps):
        root, inverse = _sqrt(m, decompose), _invsqrt(m, decompose)
        T = torch.stack([_sqrt(_sym(root @ Y @ root), decompose) for Y in Ys]).mean(0)
        m = _sym(inverse @ T @ T @ inverse)
    return m


def bw_geodesic_reference(A: Tensor, B: Tensor, t: float) -> Tensor:
    """``(1-t)^2 A + t^2 B + t (1-t) ((AB)^(1/2) + (BA)^(1/2))``."""
    root, inverse = _sqrt(A), _invsqrt(A)
    AB = root @ _sqrt(_sym(root @ B @ root)) @ inverse
    return (1 - t) ** 2 * A + t**2 * B + t * (1 - t) * (AB + AB.mT)


def _log_map(m: Tensor, Y: Tensor, decompose: Decompose) -> Tensor:
    root, inverse = _sqrt(m, decompose), _invsqrt(m, decompose)
    mY = root @ _sqrt(_sym(root @ Y @ root), decompose) @ inverse
    return mY + mY.mT - 2 * m


def _weighted(A: Tensor, V: Tensor, weight: Callable[[Tensor], Tensor], decompose: Decompose) -> Tensor:
    """``U [weight(a_i + a_j) o U^T V U] U^T`` in the eigenbasis of ``A``."""
    if decompose == "svd":
        U, a, _ = torch.linalg.svd(A)
    else:
        a, U = torch.linalg.eigh(A)
    return U @ (weight(a[:, None] + a[None, :]) * (U.mT @ V @ U)) @ U.mT


def _exp_map(w: Tensor, V: Tensor, decompose: Decompose) -> Tensor:
    L = _weighted(w, V, lambda total: 1 / total, decompose)
    grown = torch.eye(len(w), dtype=w.dtype) + L
    return _sym(grown @ w @ grown)


def _fold(V: Tensor, decompose: Decompose) -> Tensor:
    """``log_I(exp_I(V)) = 2 ((I + V/2)^2)^(1/2) - 2 I``: there and back through a square root."""
    eye = torch.eye(len(V), dtype=V.dtype)
    grown = eye + V / 2
    return 2 * _sqrt(_sym(grown @ grown), decompose) - 2 * eye


def gbw_batch_norm_reference(
    X: Tensor,
    M: Tensor,
    W: Tensor,
    s: Tensor | float,
    *,
    theta: float = 1.0,
    steps: int = 1,
    eps: float = 1e-5,
    mean: Tensor | None = None,
    var: Tensor | float | None = None,
    detach: bool = True,
    variance: str = "mean",
    fold: bool = False,
    decompose: Decompose = "eigh",
) -> tuple[Tensor, Tensor, Tensor]:
    """Steps 1 to 6 on matrices ``(N, n, n)``; with ``mean`` and ``var`` the evaluation mode. Returns output, mean, variance."""
    Ys = [pull_back_reference(x, M, theta, decompose) for x in X]  # 1
    w = pull_back_reference(W, M, theta, decompose)
    eye = torch.eye(X.shape[-1], dtype=X.dtype)
    m = bw_barycentre_reference(Ys, steps, decompose) if mean is None else mean  # 2
    m = m.detach() if detach else m
    if var is not None:
        v = torch.as_tensor(var, dtype=X.dtype)
    elif variance == "none":
        v = X.new_ones(()) - eps
    else:
        about = eye if variance == "identity" else m
        v = torch.stack([bw_dist2_reference(Y, about, decompose) for Y in Ys]).mean() / theta**2
    v = v.detach() if detach else v
    out = []
    for Y in Ys:
        V = _weighted(m, _log_map(m, Y, decompose), lambda total: (2 / total) ** 0.5, decompose)  # 3
        V = _fold(V, decompose) if fold else V
        V = s / (v + eps) ** 0.5 * V  # 4
        V = _fold(V, decompose) if fold else V
        Z = _exp_map(w, _weighted(w, V, lambda total: (total / 2) ** 0.5, decompose), decompose)  # 5
        out.append(push_forward_reference(Z, M, theta, decompose))  # 6
    return torch.stack(out), m, v


def released_batch_norm_reference(X: Tensor, M: Tensor, W: Tensor, s: Tensor | float, **options: object) -> tuple[Tensor, Tensor, Tensor]:
    """What the published code computes: dispersion of the uncentred batch about ``I``, tangent vectors through ``exp_I`` and ``log_I``."""
    return gbw_batch_norm_reference(X, M, W, s, variance="identity", fold=True, **options)  # pyright: ignore[reportArgumentType]


def airm_mean_reference(X: Tensor, steps: int) -> Tensor:
    """Karcher steps ``m <- m^(1/2) exp(mean log(m^(-1/2) X m^(-1/2))) m^(1/2)`` from the arithmetic mean."""
    m = X.mean(0)
    for _ in range(steps):
        root, inverse = _sqrt(m), _invsqrt(m)
        m = _sym(root @ _exp(torch.stack([_log(_sym(inverse @ x @ inverse)) for x in X]).mean(0)) @ root)
    return m


def airm_batch_norm_reference(
    X: Tensor,
    W: Tensor,
    s: Tensor | float,
    *,
    theta: float = 1.0,
    alpha: float = 1.0,
    beta: float = 0.0,
    steps: int = 1,
    eps: float = 1e-5,
    scale: bool = True,
    cholesky: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Affine-invariant centring ``R^(-1/2) X R^(-1/2)``, power ``s / sqrt(v + eps)``, bias by congruence with ``W^(1/2)`` or ``chol W``."""
    P = torch.stack([x if theta == 1 else _power(x, theta) for x in X])
    m = airm_mean_reference(P, steps).detach()
    inverse = _invsqrt(m)
    w = W if theta == 1 else _power(W, theta)
    root = torch.linalg.cholesky(w) if cholesky else _sqrt(w)
    centred = [_sym(inverse @ p @ inverse) for p in P]
    logs = [_log(c) for c in centred]
    v = torch.stack([alpha * (L * L).sum() + beta * torch.trace(L) ** 2 for L in logs]).mean().detach() / theta**2
    out = []
    for c, L in zip(centred, logs, strict=True):
        scaled = _exp(s / (v + eps) ** 0.5 * L) if scale else c
        z = _sym(root @ scaled @ root.mT)
        out.append(z if theta == 1 else _power(z, 1 / theta))
    return torch.stack(out), m, v


def _chart(X: Tensor, name: str, theta: float) -> Tensor:
    if name == "lem":
        return _log(X)
    P = X if theta == 1 else _power(X, theta)
    if name == "pem":
        return P / theta
    L = torch.linalg.cholesky(P)
    return (torch.tril(L, -1) + torch.diag(torch.log(torch.diagonal(L)))) / theta


def _unchart(C: Tensor, name: str, theta: float) -> Tensor:
    if name == "lem":
        return _exp(C)
    if name == "pem":
        return _power(theta * C, 1 / theta)
    L = torch.tril(theta * C, -1) + torch.diag(torch.exp(theta * torch.diagonal(C)))
    P = L @ L.mT
    return P if theta == 1 else _power(P, 1 / theta)


def chart_batch_norm_reference(
    X: Tensor,
    W: Tensor,
    s: Tensor | float,
    *,
    name: str,
    theta: float = 1.0,
    alpha: float = 1.0,
    beta: float = 0.0,
    eps: float = 1e-5,
    scale: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Euclidean batch normalisation in the chart of LEM, LCM or PEM."""
    C = torch.stack([_chart(x, name, theta) for x in X])
    m = C.mean(0).detach()
    V = C - m
    v = torch.stack([alpha * (c * c).sum() + beta * torch.trace(c) ** 2 for c in V]).mean().detach()
    V = s / (v + eps) ** 0.5 * V if scale else V
    shift = _chart(W, name, theta)
    return torch.stack([_unchart(c + shift, name, theta) for c in V]), m, v


def spd_mlr_reference(S: Tensor, P: Tensor, A: Tensor, *, metric: str, theta: float = 1.0, alpha: float = 1.0, beta: float = 0.0) -> Tensor:
    """Logits ``<log_P S, A~>_P`` of matrices ``(N, n, n)`` for classes ``P, A (K, n, n)``, one pair at a time."""

    def inner(a: Tensor, b: Tensor) -> Tensor:
        return alpha * (a * b).sum() + beta * torch.trace(a) * torch.trace(b)

    def logit(x: Tensor, p: Tensor, a: Tensor) -> Tensor:
        if metric == "lem":
            return inner(_log(x) - _log(p), a)
        if metric == "airm":
            root = _power(p, -theta / 2)
            return inner(_log(_sym(root @ _power(x, theta) @ root)), a) / theta
        if metric == "pem":
            return inner(_power(x, theta) - _power(p, theta), a) / theta
        if metric == "lcm":
            K, L = torch.linalg.cholesky(_power(x, theta)), torch.linalg.cholesky(_power(p, theta))
            strict = ((torch.tril(K, -1) - torch.tril(L, -1)) * torch.tril(a, -1)).sum()
            return (strict + ((torch.log(torch.diagonal(K)) - torch.log(torch.diagonal(L))) * torch.diagonal(a) / 2).sum()) / theta
        base = _power(p, 2 * theta)
        C = torch.linalg.cholesky(base)
        tangent = _weighted(base, C @ a @ C.mT, lambda total: 1 / total, "eigh")
        return (_log_map(base, _power(x, 2 * theta), "eigh") * tangent).sum() / (4 * theta)

    return torch.stack([torch.stack([logit(x, p, a) for p, a in zip(P, A, strict=True)]) for x in S])
