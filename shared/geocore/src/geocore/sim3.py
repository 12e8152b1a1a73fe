"""Similarities of 3-space, Sim(3): rotation, uniform scale and translation.

Conventions: ``T = [[s R, t], [0, 1]]``, shape ``(..., 4, 4)``, ``s > 0``, acts on column vectors, ``p -> s R p + t``. A tangent vector is
``xi = (rho, phi, sigma)``, shape ``(..., 7)``: translation part, rotation vector in radians, logarithm of the scale.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from geocore import _homogeneous
from geocore._checks import check_broadcastable, check_trailing
from geocore._precision import full_precision
from geocore.so3 import _algebra
from geocore.so3._series import sinc_cosc

__all__ = [
    "act",
    "adjoint",
    "compose",
    "exp",
    "from_srt",
    "hat",
    "interpolate",
    "inverse",
    "left_jacobian",
    "log",
    "to_srt",
    "vee",
]

# Integrals of e^(sigma u) times trigonometric functions over [0, 1]: the closed forms cancel where sigma or the angle is small, in
# three different ways. Sixteen Gauss nodes are exact to rounding for |sigma| + angle up to 12 and have no special cases.
_NODES = _homogeneous.gauss_legendre(16)


def hat(xi: Float[Tensor, "*batch 7"]) -> Float[Tensor, "*batch 4 4"]:
    """Matrix ``[[hat(phi) + sigma I, rho], [0, 0]]`` of a tangent vector, shape ``(..., 4, 4)``.

    Raises:
        ValueError: If the last dimension is not 7.
        TypeError, NotImplementedError: If ``xi`` is not real floating point.
    """
    check_trailing("xi", xi, (7,))
    eye = torch.eye(3, dtype=xi.dtype, device=xi.device)
    linear = _algebra.hat(xi[..., 3:6]) + xi[..., 6, None, None] * eye
    top = torch.cat([linear, xi[..., :3, None]], dim=-1)
    return torch.cat([top, torch.zeros_like(top[..., :1, :])], dim=-2)


def vee(X: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 7"]:
    """Tangent vector of a matrix, the inverse of ``hat``; shape ``(..., 7)``.

    Raises:
        ValueError: If the last dimensions are not 4 and 4.
        TypeError, NotImplementedError: If ``X`` is not real floating point.
    """
    check_trailing("X", X, (4, 4))
    linear = X[..., :3, :3]
    sigma = linear.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True)
    return torch.cat([X[..., :3, 3], _algebra.vee(linear), sigma], dim=-1)


@full_precision
def from_srt(s: Float[Tensor, "*sbatch"], R: Float[Tensor, "*rbatch 3 3"], t: Float[Tensor, "*tbatch 3"]) -> Float[Tensor, "*batch 4 4"]:
    """Similarity ``p -> s R p + t``; batch dimensions broadcast.

    Args:
        s: Positive scales, shape ``(...)``.
        R: Rotation matrices, shape ``(..., 3, 3)``.
        t: Translations, shape ``(..., 3)``.

    Returns:
        Shape ``(..., 4, 4)``.

    Raises:
        ValueError: If a shape does not fit.
        TypeError, NotImplementedError: If an argument is not real floating point.
    """
    check_trailing("s", s, ())
    check_trailing("R", R, (3, 3))
    check_trailing("t", t, (3,))
    check_broadcastable(s=s.shape, R=R.shape[:-2], t=t.shape[:-1])
    return _homogeneous.assemble(s[..., None, None] * R, t)


@full_precision
def to_srt(T: Float[Tensor, "*batch 4 4"]) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch 3 3"], Float[Tensor, "*batch 3"]]:
    """Scale ``(...)``, rotation ``(..., 3, 3)`` and translation ``(..., 3)`` of a similarity.

    Raises:
        ValueError: If the last dimensions are not 4 and 4.
        TypeError, NotImplementedError: If ``T`` is not real floating point.
    """
    check_trailing("T", T, (4, 4))
    M, t = _homogeneous.split(T)
    s = (M * M).sum((-2, -1)).div(3.0).sqrt()
    return s, M / s[..., None, None], t


def _coefficients(phi: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``C, A, B`` of ``W = C I + A F + B F^2 = int_0^1 e^(sigma u) exp(u F) du`` for ``F = hat(phi)``, and the squared angle."""
    t2 = (phi * phi).sum(-1)
    nodes = t2.new_tensor(_NODES)
    u, weights = nodes[:, 0], nodes[:, 1]
    grown = weights * torch.exp(sigma[..., None] * u)
    sinc, cosc = sinc_cosc(t2[..., None] * (u * u))
    C, A, B = grown.sum(-1), (grown * u * sinc).sum(-1), (grown * (u * u) * cosc).sum(-1)
    return C, A, B, t2


def _apply(v: Tensor, phi: Tensor, C: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """``(C I + A F + B F^2) v``."""
    Fv = torch.linalg.cross(phi, v)
    return C[..., None] * v + A[..., None] * Fv + B[..., None] * torch.linalg.cross(phi, Fv)


@full_precision
def exp(xi: Float[Tensor, "*batch 7"]) -> Float[Tensor, "*batch 4 4"]:
    """Similarity of a tangent vector: scale ``e^sigma``, rotation by ``phi``, translation ``W rho``.

    ``W = int_0^1 e^(sigma u) exp(u hat(phi)) du``, without special cases: smooth where the angle, the log-scale or both are zero. Exact to
    rounding for ``|sigma| + |phi|`` up to 12.

    Args:
        xi: Tangent vectors, shape ``(..., 7)``.

    Returns:
        Similarities, shape ``(..., 4, 4)``.

    Raises:
        ValueError: If the last dimension is not 7.
        TypeError, NotImplementedError: If ``xi`` is not real floating point.

    Example:
        >>> exp(torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.6931]))[0, 0]  # about 2
    """
    check_trailing("xi", xi, (7,), hint="translation part, rotation vector, logarithm of the scale")
    rho, phi, sigma = xi[..., :3], xi[..., 3:6], xi[..., 6]
    C, A, B, _ = _coefficients(phi, sigma)
    return _homogeneous.assemble(torch.exp(sigma)[..., None, None] * _algebra.exp(phi), _apply(rho, phi, C, A, B))


@full_precision
def log(T: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 7"]:
    """Tangent vector of a similarity, the inverse of ``exp`` on angles up to pi; shape ``(..., 7)``.

    Raises:
        ValueError: If the last dimensions are not 4 and 4.
        TypeError, NotImplementedError: If ``T`` is not real floating point.
    """
    s, R, t = to_srt(T)
    phi, sigma = _algebra.log(R), torch.log(s)
    C, A, B, t2 = _coefficients(phi, sigma)
    # On the plane orthogonal to phi, W is the complex number p + iq; its inverse there and 1 / C along phi give W^-1.
    p = C - B * t2
    size = p * p + A * A * t2
    rho = _apply(t, phi, 1 / C, -A / size, (A * A - p * B) / (C * size))
    return torch.cat([rho, phi, sigma[..., None]], dim=-1)


@full_precision
def compose(A: Float[Tensor, "*abatch 4 4"], B: Float[Tensor, "*bbatch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """``A`` after ``B``, the matrix product; batch dimensions broadcast.

    Raises:
        ValueError: If a shape does not fit.
        TypeError, NotImplementedError: If an argument is not real floating point.
    """
    check_trailing("A", A, (4, 4))
    check_trailing("B", B, (4, 4))
    check_broadcastable(A=A.shape[:-2], B=B.shape[:-2])
    (M, t), (N, u) = _homogeneous.split(A), _homogeneous.split(B)
    return _homogeneous.assemble(M @ N, (M @ u[..., None])[..., 0] + t)


@full_precision
def inverse(T: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """Inverse similarity ``[[R^T / s, -R^T t / s], [0, 1]]``.

    Raises:
        ValueError: If the last dimensions are not 4 and 4.
        TypeError, NotImplementedError: If ``T`` is not real floating point.
    """
    check_trailing("T", T, (4, 4))
    M, t = _homogeneous.split(T)
    return _homogeneous.inverse_linear(M.mT * (3.0 / (M * M).sum((-2, -1)))[..., None, None], t)


@full_precision
def act(T: Float[Tensor, "*tbatch 4 4"], points: Float[Tensor, "*pbatch 3"]) -> Float[Tensor, "*batch 3"]:
    """Move points, ``s R p + t``; batch dimensions broadcast, so ``T[..., None, :, :]`` moves a cloud ``(..., L, 3)``.

    Raises:
        ValueError: If a shape does not fit.
        TypeError, NotImplementedError: If an argument is not real floating point.
    """
    return _homogeneous.act(T, points, 3)


@full_precision
def adjoint(T: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 7 7"]:
    """Adjoint ``[[s R, hat(t) R, -t], [0, R, 0], [0, 0, 1]]``: ``T exp(xi) T^-1 = exp(Ad xi)``.

    Args:
        T: Similarities, shape ``(..., 4, 4)``.

    Returns:
        Shape ``(..., 7, 7)``.

    Raises:
        ValueError: If the last dimensions are not 4 and 4.
        TypeError, NotImplementedError: If ``T`` is not real floating point.
    """
    _, R, t = to_srt(T)
    M, _ = _homogeneous.split(T)
    zero = torch.zeros_like(R)
    column = torch.zeros_like(t)[..., None]
    rows = [
        torch.cat([M, _algebra.hat(t) @ R, -t[..., None]], dim=-1),
        torch.cat([zero, R, column], dim=-1),
        torch.cat([column.mT, column.mT, torch.ones_like(column[..., :1, :])], dim=-1),
    ]
    return torch.cat(rows, dim=-2)


@full_precision
def left_jacobian(xi: Float[Tensor, "*batch 7"]) -> Float[Tensor, "*batch 7 7"]:
    """Left Jacobian of ``exp``: ``exp(xi + d) = exp(J d) exp(xi)`` to first order; ``J = int_0^1 Ad(exp(u xi)) du``.

    Args:
        xi: Tangent vectors, shape ``(..., 7)``, with ``|sigma| + |phi|`` up to 12.

    Returns:
        Shape ``(..., 7, 7)``.

    Raises:
        ValueError: If the last dimension is not 7.
        TypeError, NotImplementedError: If ``xi`` is not real floating point.
    """
    check_trailing("xi", xi, (7,))
    nodes = xi.new_tensor(_NODES)
    path = adjoint(exp(xi[..., None, :] * nodes[:, :1]))
    return (nodes[:, 1, None, None] * path).sum(-3)


@full_precision
def interpolate(
    A: Float[Tensor, "*abatch 4 4"], B: Float[Tensor, "*bbatch 4 4"], s: Float[Tensor, "*sbatch"]
) -> Float[Tensor, "*batch 4 4"]:
    """Path of constant velocity from ``A`` (``s = 0``) to ``B`` (``s = 1``), ``A exp(s log(A^-1 B))``; batch dimensions broadcast.

    Args:
        A: First similarities, shape ``(..., 4, 4)``.
        B: Last similarities, shape ``(..., 4, 4)``.
        s: Fractions, shape ``(...)``; outside [0, 1] it extrapolates.

    Returns:
        Shape ``(..., 4, 4)``.

    Raises:
        ValueError: If a shape does not fit.
        TypeError, NotImplementedError: If an argument is not real floating point.
    """
    check_trailing("s", s, ())
    check_broadcastable(A=A.shape[:-2], B=B.shape[:-2], s=s.shape)
    return compose(A, exp(s[..., None] * log(compose(inverse(A), B))))
