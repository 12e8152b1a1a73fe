"""Decoders and encoders of the comparison representations that geocore does not carry: five of the paper's discontinuous ones.

The continuous ones, quaternions, rotation vectors, Euler angles and modified Rodrigues parameters are in ``geocore.so3``.
Rotations are active, matrices act on column vectors, angles are in radians, quaternions are ``(w, x, y, z)``. Every decoder returns a
rotation for every finite input, with finite gradients; every encoder is finite for every rotation, also at angle 0 and pi.
Source: Zhou et al., On the Continuity of Rotation Representations in Neural Networks, CVPR 2019, and its supplement.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from geocore import so3
from geocore._checks import check_trailing
from geocore._precision import full_precision

__all__ = [
    "from_axis_angle4",
    "from_euler_sincos",
    "from_hopf",
    "from_quaternion_half",
    "from_rodrigues",
    "to_axis_angle4",
    "to_euler_sincos",
    "to_hopf",
    "to_quaternion_half",
    "to_rodrigues",
]


def _arg(y: Tensor, x: Tensor) -> Tensor:
    """``atan2(y, x)``, and 0 with zero gradient where both vanish."""
    nowhere = (x == 0) & (y == 0)
    return torch.atan2(torch.where(nowhere, 0.0, y), torch.where(nowhere, 1.0, x))


def _length(x: Tensor, y: Tensor) -> Tensor:
    """``sqrt(x^2 + y^2)``, with zero gradient where both vanish."""
    square = x * x + y * y
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)


def _largest(x: Tensor) -> Tensor:
    """Largest entry in absolute value, a constant to autograd, at least the smallest normal number."""
    return x.detach().abs().amax(-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)


@full_precision
def from_axis_angle4(v: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    r"""Rotation by ``pi tanh(v_0)`` about the axis ``v_{1:4} / |v_{1:4}|``.

    Invariant to the length of the axis part; a zero axis part gives the first coordinate axis and gets no gradient.

    Args:
        v: Four numbers, shape ``(..., 4)``.

    Returns:
        Rotation matrices, shape ``(..., 3, 3)``.

    Raises:
        ValueError: If the last dimension is not 4.
        TypeError, NotImplementedError: If ``v`` has an integer or a complex dtype.

    Example:
        >>> from_axis_angle4(torch.tensor([9.0, 0.0, 0.0, 2.0]))  # about half a turn about the third axis: diag(-1, -1, 1)
    """
    check_trailing("v", v, (4,))
    axis = v[..., 1:]
    axis = axis / _largest(axis)
    square = axis.square().sum(-1, keepdim=True)
    valid = square > 0
    unit = axis * torch.rsqrt(torch.where(valid, square, 1.0))
    unit = torch.where(valid, unit, _first_axis(v))
    half = (0.5 * torch.pi) * torch.tanh(v[..., :1])
    return so3.quat_to_matrix(torch.cat([torch.cos(half), torch.sin(half) * unit], dim=-1))


def _first_axis(like: Tensor) -> Tensor:
    return torch.nn.functional.pad(like.new_ones(1), (0, 2))


@full_precision
def to_axis_angle4(R: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4"]:
    """Inverse of ``from_axis_angle4`` with a unit axis and ``v_0 = atanh(angle / pi)``.

    At angle pi, where the inverse hyperbolic tangent is infinite, the largest angle below pi that the dtype resolves is used, with zero
    gradient in ``v_0``. The identity gives ``(0, 1, 0, 0)``.

    Args:
        R: Rotation matrices, shape ``(..., 3, 3)``.

    Returns:
        Shape ``(..., 4)``; discontinuous at the identity and at angle pi.

    Raises:
        ValueError: If the last two dimensions are not 3 and 3.
        TypeError, NotImplementedError: If ``R`` has an integer or a complex dtype.

    Example:
        >>> to_axis_angle4(torch.eye(3))
        tensor([0., 1., 0., 0.])
    """
    check_trailing("R", R, (3, 3))
    w = so3.log(R)
    largest = w.detach().abs().amax(-1, keepdim=True)
    turned = largest > 0
    scaled = w / torch.where(turned, largest, 1.0)  # the square of a small angle underflows
    size = torch.where(turned, scaled.square().sum(-1, keepdim=True), 1.0).sqrt()
    axis = torch.where(turned, scaled / size, _first_axis(w))
    fraction = torch.where(turned, size * largest / torch.pi, 0.0)
    fraction = fraction.clamp(max=1.0 - 0.5 * torch.finfo(w.dtype).eps)
    return torch.cat([torch.atanh(fraction), axis], dim=-1)


@full_precision
def from_euler_sincos(v: Float[Tensor, "*batch 6"], *, euler: str = "XYZ") -> Float[Tensor, "*batch 3 3"]:
    """Rotation of three Euler angles given as pairs ``(sin a, cos a, sin b, cos b, sin c, cos c)`` of any positive scale each.

    A pair ``(0, 0)`` counts as the angle 0 and gets no gradient.

    Args:
        v: Six numbers, shape ``(..., 6)``.
        euler: Convention, one of ``geocore.so3.EULER_CONVENTIONS``: upper case intrinsic, lower case extrinsic.

    Returns:
        Rotation matrices, shape ``(..., 3, 3)``.

    Raises:
        ValueError: If the last dimension is not 6 or ``euler`` is unknown.
        TypeError, NotImplementedError: If ``v`` has an integer or a complex dtype.

    Example:
        >>> from_euler_sincos(torch.tensor([0.0, 1.0, 0.0, 5.0, 0.0, 2.0]))  # three zero angles: the identity
    """
    check_trailing("v", v, (6,))
    pairs = v.unflatten(-1, (3, 2))
    pairs = pairs / _largest(pairs)
    return so3.euler_to_matrix(_arg(pairs[..., 0], pairs[..., 1]), euler)


@full_precision
def to_euler_sincos(R: Float[Tensor, "*batch 3 3"], *, euler: str = "XYZ") -> Float[Tensor, "*batch 6"]:
    """Sines and cosines of the Euler angles of a rotation, ``(sin a, cos a, sin b, cos b, sin c, cos c)``.

    Free of the jumps at angle pi, but still discontinuous at gimbal lock, where the outer angles are not determined.

    Args:
        R: Rotation matrices, shape ``(..., 3, 3)``.
        euler: Convention, one of ``geocore.so3.EULER_CONVENTIONS``.

    Returns:
        Shape ``(..., 6)``.

    Raises:
        ValueError: If the last two dimensions are not 3 and 3 or ``euler`` is unknown.
        TypeError, NotImplementedError: If ``R`` has an integer or a complex dtype.

    Example:
        >>> to_euler_sincos(torch.eye(3))
        tensor([0., 1., 0., 1., 0., 1.])
    """
    check_trailing("R", R, (3, 3))
    angles = so3.matrix_to_euler(R, euler)
    return torch.stack([torch.sin(angles), torch.cos(angles)], dim=-1).flatten(-2)


@full_precision
def from_quaternion_half(v: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation of the quaternion ``(|v_0|, v_1, v_2, v_3)``: the network's output folded onto the half sphere ``w >= 0``.

    The half sphere covers every rotation once, so the double cover is gone, but the fold is at angle pi: still discontinuous. Zero
    gives the identity.

    Args:
        v: Four numbers, shape ``(..., 4)``, of any scale.

    Returns:
        Rotation matrices, shape ``(..., 3, 3)``.

    Raises:
        ValueError: If the last dimension is not 4.
        TypeError, NotImplementedError: If ``v`` has an integer or a complex dtype.

    Example:
        >>> from_quaternion_half(torch.tensor([-3.0, 0.0, 0.0, 0.0]))  # the identity
    """
    check_trailing("v", v, (4,))
    return so3.quat_to_matrix(torch.cat([v[..., :1].abs(), v[..., 1:]], dim=-1))


@full_precision
def to_quaternion_half(R: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4"]:
    """Unit quaternion ``(w, x, y, z)`` with ``w >= 0``.

    Args:
        R: Rotation matrices, shape ``(..., 3, 3)``.

    Returns:
        Shape ``(..., 4)``.

    Raises:
        ValueError: If the last two dimensions are not 3 and 3.
        TypeError, NotImplementedError: If ``R`` has an integer or a complex dtype.

    Example:
        >>> to_quaternion_half(torch.eye(3))
        tensor([1., 0., 0., 0.])
    """
    return so3.matrix_to_quat(R)


@full_precision
def from_rodrigues(v: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation of a Rodrigues vector ``tan(angle / 2) axis``, through the quaternion ``(1, v)``: no special case at zero.

    Args:
        v: Rodrigues (Gibbs) vectors, shape ``(..., 3)``.

    Returns:
        Rotation matrices, shape ``(..., 3, 3)``; angle pi is reached only in the limit.

    Raises:
        ValueError: If the last dimension is not 3.
        TypeError, NotImplementedError: If ``v`` has an integer or a complex dtype.

    Example:
        >>> from_rodrigues(torch.tensor([0.0, 0.0, 1.0])) @ torch.tensor([1.0, 0.0, 0.0])  # a quarter turn: about [0, 1, 0]
    """
    check_trailing("v", v, (3,))
    q = torch.nn.functional.pad(v, (1, 0), value=1.0)
    return so3.quat_to_matrix(q / _largest(q))


@full_precision
def to_rodrigues(R: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Rodrigues vector ``tan(angle / 2) axis`` of a rotation.

    Infinite at angle pi: there, and within rounding of it, the vector is cut at length ``2 / eps``, which still decodes to the rotation.

    Args:
        R: Rotation matrices, shape ``(..., 3, 3)``.

    Returns:
        Shape ``(..., 3)``.

    Raises:
        ValueError: If the last two dimensions are not 3 and 3.
        TypeError, NotImplementedError: If ``R`` has an integer or a complex dtype.

    Example:
        >>> to_rodrigues(torch.eye(3))
        tensor([0., 0., 0.])
    """
    check_trailing("R", R, (3, 3))
    q = so3.matrix_to_quat(R)
    return q[..., 1:] / q[..., :1].clamp(min=0.5 * torch.finfo(q.dtype).eps)


@full_precision
def from_hopf(v: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    r"""Rotation of Hopf coordinates ``(theta, phi, psi)``.

    The quaternion is ``(cos(theta/2) cos(psi/2), cos(theta/2) sin(psi/2), sin(theta/2) cos(phi + psi/2), sin(theta/2) sin(phi + psi/2))``.

    Args:
        v: Angles in radians, shape ``(..., 3)``; the group is covered once by ``theta`` in [0, pi], ``phi`` and ``psi`` in a full turn.

    Returns:
        Rotation matrices, shape ``(..., 3, 3)``.

    Raises:
        ValueError: If the last dimension is not 3.
        TypeError, NotImplementedError: If ``v`` has an integer or a complex dtype.

    Example:
        >>> from_hopf(torch.zeros(3))  # the identity
    """
    check_trailing("v", v, (3,))
    theta, phi, psi = v.unbind(-1)
    theta, psi = 0.5 * theta, 0.5 * psi
    c, s = torch.cos(theta), torch.sin(theta)
    q = (c * torch.cos(psi), c * torch.sin(psi), s * torch.cos(phi + psi), s * torch.sin(phi + psi))
    return so3.quat_to_matrix(torch.stack(q, dim=-1))


@full_precision
def to_hopf(R: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Hopf coordinates ``(theta, phi, psi)`` with ``theta`` in [0, pi], ``phi`` and ``psi`` in [-pi, pi].

    Where a radius vanishes, the angle that is not determined is zero.

    Args:
        R: Rotation matrices, shape ``(..., 3, 3)``.

    Returns:
        Shape ``(..., 3)``.

    Raises:
        ValueError: If the last two dimensions are not 3 and 3.
        TypeError, NotImplementedError: If ``R`` has an integer or a complex dtype.

    Example:
        >>> to_hopf(torch.eye(3))
        tensor([0., 0., 0.])
    """
    check_trailing("R", R, (3, 3))
    a, b, c, d = so3.matrix_to_quat(R).unbind(-1)
    psi = 2.0 * _arg(b, a)
    theta = 2.0 * _arg(_length(c, d), _length(a, b))
    # phi is the argument of (c + i d) / (a + i b); one of the two factors may be zero, and then stands for a positive number
    none = (a == 0) & (b == 0)
    a = torch.where(none, 1.0, a)
    phi = _arg(a * d - b * c, a * c + b * d)
    return torch.stack([theta, phi, psi], dim=-1)
