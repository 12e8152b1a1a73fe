"""Rigid motions of the plane, SE(2).

Conventions: a motion is ``T = [[R, t], [0, 1]]``, shape ``(..., 3, 3)``, and acts on column vectors, ``p -> R p + t``, counter-clockwise. A
tangent vector is ``xi = (rho, phi)``, shape ``(..., 3)``: translation part (2), then the angle in radians.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from geocore import _homogeneous
from geocore._checks import check_broadcastable, check_trailing
from geocore._precision import full_precision
from geocore.so3._series import half_cot, left_coefficients, sinc_cosc

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


def _complex(a: Tensor, b: Tensor) -> Tensor:
    """Matrix ``[[a, -b], [b, a]]``."""
    return torch.stack([torch.stack([a, -b], dim=-1), torch.stack([b, a], dim=-1)], dim=-2)


def hat(xi: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Matrix ``[[0, -phi, rho_1], [phi, 0, rho_2], [0, 0, 0]]`` of a tangent vector.

    Raises:
        ValueError: If the last dimension is not 3.
        TypeError, NotImplementedError: If ``xi`` is not real floating point.
    """
    check_trailing("xi", xi, (3,))
    phi = xi[..., 2]
    top = torch.cat([_complex(torch.zeros_like(phi), phi), xi[..., :2, None]], dim=-1)
    return torch.cat([top, torch.zeros_like(top[..., :1, :])], dim=-2)


def vee(X: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Tangent vector of a matrix, the inverse of ``hat``; shape ``(..., 3)``.

    Raises:
        ValueError: If the last dimensions are not 3 and 3.
        TypeError, NotImplementedError: If ``X`` is not real floating point.
    """
    check_trailing("X", X, (3, 3))
    return torch.cat([X[..., :2, 2], ((X[..., 1, 0] - X[..., 0, 1]) / 2)[..., None]], dim=-1)


@full_precision
def from_rt(R: Float[Tensor, "*rbatch 2 2"], t: Float[Tensor, "*tbatch 2"]) -> Float[Tensor, "*batch 3 3"]:
    """Motion ``p -> R p + t`` from rotation ``(..., 2, 2)`` and translation ``(..., 2)``; batch dimensions broadcast.

    Raises:
        ValueError: If a shape does not fit.
        TypeError, NotImplementedError: If an argument is not real floating point.
    """
    check_trailing("R", R, (2, 2))
    check_trailing("t", t, (2,))
    check_broadcastable(R=R.shape[:-2], t=t.shape[:-1])
    return _homogeneous.assemble(R, t)


def to_rt(T: Float[Tensor, "*batch 3 3"]) -> tuple[Float[Tensor, "*batch 2 2"], Float[Tensor, "*batch 2"]]:
    """Rotation ``(..., 2, 2)`` and translation ``(..., 2)`` of a motion, as views.

    Raises:
        ValueError: If the last dimensions are not 3 and 3.
        TypeError, NotImplementedError: If ``T`` is not real floating point.
    """
    check_trailing("T", T, (3, 3))
    return _homogeneous.split(T)


@full_precision
def exp(xi: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Motion of a twist ``(rho, phi)``: rotation by ``phi``, translation ``V(phi) rho``.

    ``V = [[sin(phi)/phi, -(1 - cos(phi))/phi], [(1 - cos(phi))/phi, sin(phi)/phi]]``, smooth at zero with all derivatives.

    Args:
        xi: Twists, shape ``(..., 3)``.

    Returns:
        Motions, shape ``(..., 3, 3)``.

    Raises:
        ValueError: If the last dimension is not 3.
        TypeError, NotImplementedError: If ``xi`` is not real floating point.

    Example:
        >>> exp(torch.tensor([1.0, 0.0, 0.0]))[:2, 2]
        tensor([1., 0.])
    """
    check_trailing("xi", xi, (3,), hint="translation part first, then the angle")
    rho, phi = xi[..., :2], xi[..., 2]
    sinc, cosc = sinc_cosc(phi * phi)
    t = (_complex(sinc, cosc * phi) @ rho[..., None])[..., 0]
    return _homogeneous.assemble(_complex(phi.cos(), phi.sin()), t)


def _inverse_v(phi: Tensor) -> Tensor:
    return _complex(1.0 - half_cot(phi * phi) * phi * phi, -phi / 2)


@full_precision
def log(T: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Twist of a motion, the inverse of ``exp`` on angles in ``(-pi, pi]``; shape ``(..., 3)``.

    Raises:
        ValueError: If the last dimensions are not 3 and 3.
        TypeError, NotImplementedError: If ``T`` is not real floating point.
    """
    check_trailing("T", T, (3, 3))
    R, t = _homogeneous.split(T)
    phi = torch.atan2(R[..., 1, 0], R[..., 0, 0])
    return torch.cat([(_inverse_v(phi) @ t[..., None])[..., 0], phi[..., None]], dim=-1)


@full_precision
def compose(A: Float[Tensor, "*abatch 3 3"], B: Float[Tensor, "*bbatch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """``A`` after ``B``, the matrix product; batch dimensions broadcast.

    Raises:
        ValueError: If a shape does not fit.
        TypeError, NotImplementedError: If an argument is not real floating point.
    """
    check_trailing("A", A, (3, 3))
    check_trailing("B", B, (3, 3))
    check_broadcastable(A=A.shape[:-2], B=B.shape[:-2])
    (R, t), (S, u) = _homogeneous.split(A), _homogeneous.split(B)
    return _homogeneous.assemble(R @ S, (R @ u[..., None])[..., 0] + t)


@full_precision
def inverse(T: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Inverse motion ``[[R^T, -R^T t], [0, 1]]``.

    Raises:
        ValueError: If the last dimensions are not 3 and 3.
        TypeError, NotImplementedError: If ``T`` is not real floating point.
    """
    check_trailing("T", T, (3, 3))
    R, t = _homogeneous.split(T)
    return _homogeneous.inverse_linear(R.mT, t)


@full_precision
def act(T: Float[Tensor, "*tbatch 3 3"], points: Float[Tensor, "*pbatch 2"]) -> Float[Tensor, "*batch 2"]:
    """Move points, ``R p + t``; batch dimensions broadcast, so ``T[..., None, :, :]`` moves a cloud ``(..., L, 2)``.

    Raises:
        ValueError: If a shape does not fit.
        TypeError, NotImplementedError: If an argument is not real floating point.
    """
    return _homogeneous.act(T, points, 2)


@full_precision
def adjoint(T: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Adjoint ``[[R, (t_2, -t_1)], [0, 1]]``: ``T exp(xi) T^-1 = exp(Ad xi)``.

    Raises:
        ValueError: If the last dimensions are not 3 and 3.
        TypeError, NotImplementedError: If ``T`` is not real floating point.
    """
    check_trailing("T", T, (3, 3))
    R, t = _homogeneous.split(T)
    return _homogeneous.assemble(R, torch.stack([t[..., 1], -t[..., 0]], dim=-1))


@full_precision
def left_jacobian(xi: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Left Jacobian of ``exp``: ``exp(xi + d) = exp(J d) exp(xi)`` to first order; shape ``(..., 3, 3)``.

    Raises:
        ValueError: If the last dimension is not 3.
        TypeError, NotImplementedError: If ``xi`` is not real floating point.
    """
    check_trailing("xi", xi, (3,))
    rho, phi = xi[..., :2], xi[..., 2]
    sinc, cosc = sinc_cosc(phi * phi)
    b, c = left_coefficients(phi * phi)
    moved = (_complex(b, c * phi) @ rho[..., None])[..., 0]  # the translation averaged over the path
    return _homogeneous.assemble(_complex(sinc, cosc * phi), torch.stack([moved[..., 1], -moved[..., 0]], dim=-1))


@full_precision
def left_jacobian_inverse(xi: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Inverse of ``left_jacobian``, for angles below 2 pi; shape ``(..., 3, 3)``.

    Raises:
        ValueError: If the last dimension is not 3.
        TypeError, NotImplementedError: If ``xi`` is not real floating point.
    """
    J = left_jacobian(xi)
    return _homogeneous.inverse_linear(_inverse_v(xi[..., 2]), J[..., :2, 2])


@full_precision
def interpolate(
    A: Float[Tensor, "*abatch 3 3"], B: Float[Tensor, "*bbatch 3 3"], s: Float[Tensor, "*sbatch"]
) -> Float[Tensor, "*batch 3 3"]:
    """Path of constant velocity from ``A`` (``s = 0``) to ``B`` (``s = 1``), ``A exp(s log(A^-1 B))``; batch dimensions broadcast.

    Args:
        A: First motions, shape ``(..., 3, 3)``.
        B: Last motions, shape ``(..., 3, 3)``.
        s: Fractions, shape ``(...)``; outside [0, 1] it extrapolates.

    Returns:
        Shape ``(..., 3, 3)``.

    Raises:
        ValueError: If a shape does not fit.
        TypeError, NotImplementedError: If an argument is not real floating point.
    """
    check_trailing("s", s, ())
    check_broadcastable(A=A.shape[:-2], B=B.shape[:-2], s=s.shape)
    return compose(A, exp(s[..., None] * log(compose(inverse(A), B))))
