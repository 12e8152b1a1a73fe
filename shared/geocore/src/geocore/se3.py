"""Rigid motions of 3-space, SE(3).

Conventions: a motion is ``T = [[R, t], [0, 1]]``, shape ``(..., 4, 4)``, and acts on column vectors, ``p -> R p + t``. A tangent
vector is ``xi = (rho, phi)``, shape ``(..., 6)``: translation part first, then the rotation vector in radians. ``compose(A, B)`` is ``A``
after ``B``. Jacobians and adjoints act on tangent vectors in that order.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from geocore import _homogeneous
from geocore._checks import check_broadcastable, check_trailing
from geocore._precision import full_precision
from geocore.so3 import _algebra
from geocore.so3._series import horner, left_coefficients

__all__ = [
    "act",
    "adjoint",
    "compose",
    "exp",
    "from_rt",
    "hat",
    "interpolate",
    "inverse",
    "left_jacobian",
    "left_jacobian_inverse",
    "log",
    "to_rt",
    "vee",
]

_ROW_CONVENTION = "a motion is [[R, t], [0, 1]] and acts on columns; transpose matrices of the row-vector convention"
# Coefficients of (t^2 + 2 cos t - 2) / (2 t^4) and (2 t - 3 sin t + t cos t) / (2 t^5) in powers of t^2. With 12 terms they are exact
# to 1e-17 up to t = 2, where the closed forms lose less than a digit.
_FACTORIALS = [1.0]
for _k in range(1, 32):
    _FACTORIALS.append(_FACTORIALS[-1] * _k)
_THIRD = [(-1.0) ** k / _FACTORIALS[2 * k + 4] for k in range(12)]
_FOURTH = [(-1.0) ** k * (k + 1) / _FACTORIALS[2 * k + 5] for k in range(12)]


def hat(xi: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 4 4"]:
    """Matrix ``[[hat(phi), rho], [0, 0]]`` of a tangent vector ``(rho, phi)``, shape ``(..., 4, 4)``.

    Raises:
        ValueError: If the last dimension is not 6.
        TypeError, NotImplementedError: If ``xi`` is not real floating point.
    """
    check_trailing("xi", xi, (6,))
    top = torch.cat([_algebra.hat(xi[..., 3:]), xi[..., :3, None]], dim=-1)
    return torch.cat([top, torch.zeros_like(top[..., :1, :])], dim=-2)


def vee(X: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 6"]:
    """Tangent vector of a matrix, the inverse of ``hat``; shape ``(..., 6)``.

    Raises:
        ValueError: If the last dimensions are not 4 and 4.
        TypeError, NotImplementedError: If ``X`` is not real floating point.
    """
    check_trailing("X", X, (4, 4))
    return torch.cat([X[..., :3, 3], _algebra.vee(X[..., :3, :3])], dim=-1)


@full_precision
def from_rt(R: Float[Tensor, "*rbatch 3 3"], t: Float[Tensor, "*tbatch 3"]) -> Float[Tensor, "*batch 4 4"]:
    """Motion ``p -> R p + t`` from rotation and translation; batch dimensions broadcast.

    Args:
        R: Rotation matrices, shape ``(..., 3, 3)``.
        t: Translations, shape ``(..., 3)``.

    Returns:
        Shape ``(..., 4, 4)``.

    Raises:
        ValueError: If a shape does not fit.
        TypeError, NotImplementedError: If an argument is not real floating point.
    """
    check_trailing("R", R, (3, 3))
    check_trailing("t", t, (3,))
    check_broadcastable(R=R.shape[:-2], t=t.shape[:-1])
    return _homogeneous.assemble(R, t)


def to_rt(T: Float[Tensor, "*batch 4 4"]) -> tuple[Float[Tensor, "*batch 3 3"], Float[Tensor, "*batch 3"]]:
    """Rotation ``(..., 3, 3)`` and translation ``(..., 3)`` of a motion, as views.

    Raises:
        ValueError: If the last dimensions are not 4 and 4.
        TypeError, NotImplementedError: If ``T`` is not real floating point.
    """
    check_trailing("T", T, (4, 4), hint=_ROW_CONVENTION)
    return _homogeneous.split(T)


@full_precision
def exp(xi: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 4 4"]:
    """Motion of a twist: rotation by ``phi``, translation ``J rho`` with the left Jacobian ``J`` of SO(3) at ``phi``.

    Exact to rounding at every angle, zero included, where all derivatives exist.

    Args:
        xi: Twists, shape ``(..., 6)``.

    Returns:
        Motions, shape ``(..., 4, 4)``.

    Raises:
        ValueError: If the last dimension is not 6.
        TypeError, NotImplementedError: If ``xi`` is not real floating point.

    Example:
        >>> exp(torch.tensor([1.0, 2.0, 3.0, 0.0, 0.0, 0.0]))[:3, 3]
        tensor([1., 2., 3.])
    """
    check_trailing("xi", xi, (6,), hint="translation part first, then the rotation vector")
    rho, phi = xi[..., :3], xi[..., 3:]
    t = (_algebra.left_jacobian(phi) @ rho[..., None])[..., 0]
    return _homogeneous.assemble(_algebra.exp(phi), t)


@full_precision
def log(T: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 6"]:
    """Twist of a motion, the inverse of ``exp`` on angles up to pi; shape ``(..., 6)``.

    Args:
        T: Motions, shape ``(..., 4, 4)``. The last row is not looked at.

    Returns:
        Twists ``(rho, phi)``, shape ``(..., 6)``; at angle pi the axis is that of ``geocore.so3.log``.

    Raises:
        ValueError: If the last dimensions are not 4 and 4.
        TypeError, NotImplementedError: If ``T`` is not real floating point.
    """
    check_trailing("T", T, (4, 4), hint=_ROW_CONVENTION)
    R, t = _homogeneous.split(T)
    phi = _algebra.log(R)
    return torch.cat([(_algebra.left_jacobian_inverse(phi) @ t[..., None])[..., 0], phi], dim=-1)


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
    (R, t), (S, u) = _homogeneous.split(A), _homogeneous.split(B)
    return _homogeneous.assemble(R @ S, (R @ u[..., None])[..., 0] + t)


@full_precision
def inverse(T: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """Inverse motion ``[[R^T, -R^T t], [0, 1]]``.

    Raises:
        ValueError: If the last dimensions are not 4 and 4.
        TypeError, NotImplementedError: If ``T`` is not real floating point.
    """
    check_trailing("T", T, (4, 4))
    R, t = _homogeneous.split(T)
    return _homogeneous.inverse_linear(R.mT, t)


@full_precision
def act(T: Float[Tensor, "*tbatch 4 4"], points: Float[Tensor, "*pbatch 3"]) -> Float[Tensor, "*batch 3"]:
    """Move points, ``R p + t``; batch dimensions broadcast, so ``T[..., None, :, :]`` moves a cloud ``(..., L, 3)``.

    Raises:
        ValueError: If a shape does not fit.
        TypeError, NotImplementedError: If an argument is not real floating point.
    """
    return _homogeneous.act(T, points, 3)


@full_precision
def adjoint(T: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 6 6"]:
    """Adjoint ``Ad = [[R, hat(t) R], [0, R]]``: ``T exp(xi) T^-1 = exp(Ad xi)``.

    Args:
        T: Motions, shape ``(..., 4, 4)``.

    Returns:
        Shape ``(..., 6, 6)``.

    Raises:
        ValueError: If the last dimensions are not 4 and 4.
        TypeError, NotImplementedError: If ``T`` is not real floating point.
    """
    check_trailing("T", T, (4, 4))
    R, t = _homogeneous.split(T)
    return _upper(R, _algebra.hat(t) @ R)


def _upper(diagonal: Tensor, corner: Tensor) -> Tensor:
    top = torch.cat([diagonal, corner], dim=-1)
    return torch.cat([top, torch.cat([torch.zeros_like(corner), diagonal], dim=-1)], dim=-2)


def _coupling(rho: Tensor, phi: Tensor) -> Tensor:
    """Barfoot's ``Q(rho, phi)``, the corner of the left Jacobian (State Estimation for Robotics, eq. 8.91)."""
    t2 = (phi * phi).sum(-1)
    small = t2 < 4.0
    near, far = torch.where(small, t2, 0.0), torch.where(small, 9.0, t2)
    t = far.sqrt()
    sin, cos = t.sin(), t.cos()
    _, second = left_coefficients(t2)
    third = torch.where(small, horner(near, _THIRD), (far + 2 * cos - 2) / (2 * far * far))
    fourth = torch.where(small, horner(near, _FOURTH), (2 * t - 3 * sin + t * cos) / (2 * far * far * t))
    P, F = _algebra.hat(rho), _algebra.hat(phi)
    FP, PF = F @ P, P @ F
    FPF = FP @ F
    second, third, fourth = (c[..., None, None] for c in (second, third, fourth))
    return 0.5 * P + second * (FP + PF + FPF) + third * (F @ FP + PF @ F - 3 * FPF) + fourth * (FPF @ F + F @ FPF)


@full_precision
def left_jacobian(xi: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 6 6"]:
    """Left Jacobian of ``exp``: ``exp(xi + d) = exp(J d) exp(xi)`` to first order.

    Args:
        xi: Twists, shape ``(..., 6)``.

    Returns:
        Shape ``(..., 6, 6)``.

    Raises:
        ValueError: If the last dimension is not 6.
        TypeError, NotImplementedError: If ``xi`` is not real floating point.
    """
    check_trailing("xi", xi, (6,))
    rho, phi = xi[..., :3], xi[..., 3:]
    return _upper(_algebra.left_jacobian(phi), _coupling(rho, phi))


@full_precision
def left_jacobian_inverse(xi: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 6 6"]:
    """Inverse of ``left_jacobian``, for rotation angles below 2 pi; shape ``(..., 6, 6)``.

    Raises:
        ValueError: If the last dimension is not 6.
        TypeError, NotImplementedError: If ``xi`` is not real floating point.
    """
    check_trailing("xi", xi, (6,))
    rho, phi = xi[..., :3], xi[..., 3:]
    J = _algebra.left_jacobian_inverse(phi)
    return _upper(J, -(J @ _coupling(rho, phi) @ J))


@full_precision
def interpolate(
    A: Float[Tensor, "*abatch 4 4"], B: Float[Tensor, "*bbatch 4 4"], s: Float[Tensor, "*sbatch"]
) -> Float[Tensor, "*batch 4 4"]:
    """Screw motion from ``A`` (``s = 0``) to ``B`` (``s = 1``), ``A exp(s log(A^-1 B))``; batch dimensions broadcast.

    Args:
        A: First motions, shape ``(..., 4, 4)``.
        B: Last motions, shape ``(..., 4, 4)``.
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
