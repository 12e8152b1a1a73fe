"""Textbook forms in plain differentiable PyTorch, without eigenvectors: slow, right everywhere, the oracle of tests and benchmarks.

Autograd through matrix iterations and linear solves knows nothing of repeated eigenvalues, so these have all derivatives at every SPD
matrix; only ``funcm_reference`` differentiates ``torch.linalg.eigh`` and needs distinct eigenvalues.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from geocore._dispatch import matrix_exp

__all__ = [
    "affine_exp_reference",
    "affine_log_reference",
    "affine_mean_reference",
    "affine_transport_reference",
    "bures_dist2_reference",
    "bures_exp_reference",
    "bures_log_reference",
    "bures_mean_reference",
    "bw_transport_reference",
    "expm_reference",
    "funcm_reference",
    "generalized_lyapunov_reference",
    "invsqrtm_reference",
    "logm_reference",
    "lyapunov_reference",
    "powm_reference",
    "sqrtm_reference",
    "sylvester_reference",
]


def _eye(X: Tensor) -> Tensor:
    return torch.eye(X.shape[-1], dtype=X.dtype, device=X.device)


def _kron(A: Tensor, B: Tensor) -> Tensor:
    m, n = A.shape[-1], B.shape[-1]
    return torch.einsum("...ij,...kl->...ikjl", A, B).reshape(*torch.broadcast_shapes(A.shape[:-2], B.shape[:-2]), m * n, m * n)


def funcm_reference(X: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
    """``U diag(f(l)) U^T``, differentiated through the eigenvectors."""
    values, U = torch.linalg.eigh((X + X.mT) / 2)
    return (U * f(values)[..., None, :]) @ U.mT


def sqrtm_reference(X: Tensor) -> Tensor:
    """Denman and Beavers (1976): ``Y <- (Y + Z^-1) / 2``, ``Z <- (Z + Y^-1) / 2`` from ``X`` and ``I``."""
    X = (X + X.mT) / 2
    scale = X.detach().diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    Y, Z = X / scale, _eye(X).expand_as(X)
    for _ in range(20):
        Y, Z = (Y + torch.linalg.inv(Z)) / 2, (Z + torch.linalg.inv(Y)) / 2
    return Y * scale.sqrt()


def invsqrtm_reference(X: Tensor) -> Tensor:
    """Inverse of the square root."""
    return torch.linalg.inv(sqrtm_reference(X))


def logm_reference(X: Tensor) -> Tensor:
    """Inverse scaling: eight square roots, then ``log A = 2 sum_k C^(2k+1) / (2k + 1)`` with ``C = (A - I) (A + I)^-1``."""
    A = (X + X.mT) / 2
    for _ in range(8):
        A = sqrtm_reference(A)
    C = torch.linalg.solve(A + _eye(X), A - _eye(X))
    square, term = C @ C, C
    total = C
    for k in range(1, 8):
        term = term @ square
        total = total + term / (2 * k + 1)
    return 2**9 * total


def expm_reference(X: Tensor) -> Tensor:
    """Scaling and squaring."""
    return matrix_exp((X + X.mT) / 2)


def powm_reference(X: Tensor, p: float | Tensor) -> Tensor:
    """``exp(p log X)``."""
    p = p[..., None, None] if isinstance(p, Tensor) else p
    return matrix_exp(p * logm_reference(X))


def sylvester_reference(A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The linear system for the entries: ``(A x I + I x B) vec X = vec C``."""
    A, B = (A + A.mT) / 2, (B + B.mT) / 2
    system = _kron(A, _eye(B)) + _kron(_eye(A), B)
    return torch.linalg.solve(system, C.flatten(-2)[..., None])[..., 0].reshape(*system.shape[:-2], *C.shape[-2:])


def lyapunov_reference(P: Tensor, V: Tensor) -> Tensor:
    """``P Y + Y P = V`` as a Sylvester equation."""
    return sylvester_reference(P, P, V)


def generalized_lyapunov_reference(P: Tensor, M: Tensor, V: Tensor) -> Tensor:
    """``P Y M + M Y P = V`` as a linear system for the entries."""
    P, M = (P + P.mT) / 2, (M + M.mT) / 2
    system = _kron(P, M) + _kron(M, P)
    return torch.linalg.solve(system, V.flatten(-2)[..., None])[..., 0].reshape(V.shape)


def bw_transport_reference(A: Tensor, V: Tensor, sign: int) -> Tensor:
    """Square root, or its inverse, of the operator ``V -> (A V + V A) / 2`` on matrices."""
    A = (A + A.mT) / 2
    operator = (_kron(A, _eye(A)) + _kron(_eye(A), A)) / 2
    root = sqrtm_reference(operator) if sign > 0 else invsqrtm_reference(operator)
    return (root @ V.flatten(-2)[..., None])[..., 0].reshape(V.shape)


def affine_log_reference(P: Tensor, Q: Tensor) -> Tensor:
    """``P^1/2 log(P^-1/2 Q P^-1/2) P^1/2``; its norm in the metric is the distance."""
    R = sqrtm_reference(P)
    S = torch.linalg.inv(R)
    return R @ logm_reference(S @ Q @ S) @ R


def affine_exp_reference(P: Tensor, V: Tensor) -> Tensor:
    """``P^1/2 exp(P^-1/2 V P^-1/2) P^1/2``."""
    R = sqrtm_reference(P)
    S = torch.linalg.inv(R)
    return R @ expm_reference(S @ V @ S) @ R


def affine_transport_reference(P: Tensor, Q: Tensor, V: Tensor) -> Tensor:
    """``E V E^T`` with ``E = (Q P^-1)^1/2``."""
    R = sqrtm_reference(P)
    S = torch.linalg.inv(R)
    E = R @ sqrtm_reference(S @ Q @ S) @ S
    return E @ V @ E.mT


def affine_mean_reference(X: Tensor, w: Tensor, steps: int) -> Tensor:
    """Karcher's iteration over matrices ``X`` of shape ``(k, n, n)`` from their arithmetic mean, in a loop."""
    M = sum(w[k] * X[k] for k in range(len(X)))
    assert isinstance(M, Tensor)
    for _ in range(steps):
        step = sum(w[k] * affine_log_reference(M, X[k]) for k in range(len(X)))
        assert isinstance(step, Tensor)
        M = affine_exp_reference(M, step)
    return M


def bures_dist2_reference(P: Tensor, Q: Tensor) -> Tensor:
    """``tr P + tr Q - 2 tr (P^1/2 Q P^1/2)^1/2``."""
    R = sqrtm_reference(P)
    cross = sqrtm_reference(R @ Q @ R)
    return (P + Q - 2 * cross).diagonal(dim1=-2, dim2=-1).sum(-1)


def bures_log_reference(P: Tensor, Q: Tensor) -> Tensor:
    """``(PQ)^1/2 + (QP)^1/2 - 2P``."""
    R = sqrtm_reference(P)
    root = R @ sqrtm_reference(R @ Q @ R) @ torch.linalg.inv(R)
    return root + root.mT - 2 * P


def bures_exp_reference(P: Tensor, V: Tensor) -> Tensor:
    """``P + V + L P L`` with ``P L + L P = V``."""
    L = lyapunov_reference(P, V)
    return P + V + L @ P @ L


def bures_mean_reference(X: Tensor, w: Tensor, steps: int) -> Tensor:
    """Fixed-point iteration over ``X (k, n, n)`` from the arithmetic mean, in a loop (Alvarez-Esteban et al., 2016)."""
    M = sum(w[k] * X[k] for k in range(len(X)))
    assert isinstance(M, Tensor)
    for _ in range(steps):
        R = sqrtm_reference(M)
        S = torch.linalg.inv(R)
        T = sum(w[k] * sqrtm_reference(R @ X[k] @ R) for k in range(len(X)))
        assert isinstance(T, Tensor)
        M = S @ T @ T @ S
    return M
