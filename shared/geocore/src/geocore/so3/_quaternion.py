"""Quaternion arithmetic. Order ``wxyz`` unless ``order="xyzw"``; Hamilton product, active rotations."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from geocore import _ops
from geocore._checks import check_broadcastable, check_option, check_trailing
from geocore._precision import full_precision
from geocore.so3._elements import cross, dot, join, split, tiny, unit

__all__ = [
    "canonical_sign",
    "check_quat",
    "join_quat",
    "quat_apply",
    "quat_conj",
    "quat_mul",
    "quat_normalize",
    "reorder",
    "split_quat",
    "standardize",
]

ORDERS = ("wxyz", "xyzw")


def check_quat(name: str, q: Tensor, order: str) -> None:
    """Raise unless ``q`` has shape ``(..., 4)`` and ``order`` is known."""
    check_option("order", order, ORDERS)
    check_trailing(name, q, (4,), hint="a quaternion has four components")


def split_quat(q: Tensor, order: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Components ``w, x, y, z``."""
    a, b, c, d = split(q)
    return (a, b, c, d) if order == "wxyz" else (d, a, b, c)


def join_quat(w: Tensor, x: Tensor, y: Tensor, z: Tensor, order: str) -> Tensor:
    """Quaternions from components ``w, x, y, z``."""
    return join((w, x, y, z) if order == "wxyz" else (x, y, z, w))


def canonical_sign(parts: Sequence[Tensor]) -> Tensor:
    """+1 or -1: the sign of the first non-zero component (+1 when all are zero), constant for autograd."""
    key = parts[-1].detach().sign()
    for k, p in enumerate(reversed(parts[:-1])):
        key = torch.add(key, p.detach().sign(), alpha=2.0 ** (k + 1))
    return 1.0 - 2.0 * (key < 0).to(key.dtype)


def mul_parts(a: Sequence[Tensor], b: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hamilton product of component tuples ``w, x, y, z``."""
    aw, ax, ay, az = a
    bw, bx, by, bz = b
    return (
        aw * bw - ax * bx - ay * by - az * bz,
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
    )


def reorder(q: Float[Tensor, "*batch 4"], src: str, dst: str) -> Float[Tensor, "*batch 4"]:
    """Quaternions in component order ``dst``, given in order ``src`` (each ``"wxyz"`` or ``"xyzw"``).

    Args:
        q: Quaternions, shape ``(..., 4)``.
        src: Order of ``q``.
        dst: Order wanted.

    Returns:
        Quaternions, shape ``(..., 4)``; ``q`` itself when the orders agree.

    Raises:
        ValueError: If an order is unknown or the last dimension is not 4.

    Example:
        >>> reorder(torch.tensor([1.0, 2.0, 3.0, 4.0]), "wxyz", "xyzw")
        tensor([2., 3., 4., 1.])
    """
    check_option("dst", dst, ORDERS)
    check_quat("q", q, src)
    if src == dst:
        return q
    return q.roll(-1 if src == "wxyz" else 1, -1)


@full_precision
def quat_mul(a: Float[Tensor, "*#batch 4"], b: Float[Tensor, "*#batch 4"], *, order: str = "wxyz") -> Float[Tensor, "*#batch 4"]:
    """Hamilton product ``a b``: the rotation ``b`` followed by ``a``. Nothing is normalised.

    Args:
        a: Quaternions, shape ``(..., 4)``.
        b: Quaternions, shape ``(..., 4)``; batch dimensions broadcast.
        order: Component order of both and of the result, ``"wxyz"`` or ``"xyzw"``.

    Returns:
        Products, shape ``(..., 4)``.

    Raises:
        ValueError: If a last dimension is not 4, the batches do not broadcast or ``order`` is unknown.

    Example:
        >>> i, j = torch.tensor([0.0, 1, 0, 0]), torch.tensor([0.0, 0, 1, 0])
        >>> quat_mul(i, j)
        tensor([0., 0., 0., 1.])
    """
    check_quat("a", a, order)
    check_quat("b", b, order)
    check_broadcastable(a=a.shape[:-1], b=b.shape[:-1])
    if order == "wxyz" and a.shape == b.shape and _ops.kernel_may_run("quat_mul", a, b, count=a.numel() // 4):
        return torch.ops.geocore.quat_mul(a, b)
    return join_quat(*mul_parts(split_quat(a, order), split_quat(b, order)), order)


def _mul_backward(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], grads: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    del outputs
    (a, b), (g,) = inputs, grads
    turn = a.new_tensor([1.0, -1.0, -1.0, -1.0])
    return torch.ops.geocore.quat_mul(g, b * turn), torch.ops.geocore.quat_mul(a * turn, g)


_ops.define(
    "quat_mul",
    "(Tensor a, Tensor b) -> Tensor",
    lambda a, b: join(mul_parts(split(a), split(b))),
    lambda a, b: a.new_empty(a.shape),
    backward=_mul_backward,
    save_outputs=False,
)


@full_precision
def quat_conj(q: Float[Tensor, "*batch 4"], *, order: str = "wxyz") -> Float[Tensor, "*batch 4"]:
    """Conjugate ``(w, -x, -y, -z)``: the inverse of a unit quaternion.

    Args:
        q: Quaternions, shape ``(..., 4)``.
        order: Component order, ``"wxyz"`` or ``"xyzw"``.

    Returns:
        Conjugates, shape ``(..., 4)``.

    Raises:
        ValueError: If the last dimension is not 4 or ``order`` is unknown.
    """
    check_quat("q", q, order)
    w, x, y, z = split_quat(q, order)
    return join_quat(w, -x, -y, -z, order)


@full_precision
def quat_apply(q: Float[Tensor, "*#batch 4"], v: Float[Tensor, "*#batch 3"], *, order: str = "wxyz") -> Float[Tensor, "*#batch 3"]:
    """Vectors rotated by quaternions, ``v + 2/|q|^2 (w (u x v) + u x (u x v))`` with ``u`` the vector part of ``q``.

    The length of ``q`` does not matter; a zero quaternion acts as the identity.

    Args:
        q: Quaternions, shape ``(..., 4)``.
        v: Vectors, shape ``(..., 3)``; batch dimensions broadcast.
        order: Component order of ``q``, ``"wxyz"`` or ``"xyzw"``.

    Returns:
        Rotated vectors, shape ``(..., 3)``.

    Raises:
        ValueError: If a last dimension is wrong, the batches do not broadcast or ``order`` is unknown.

    Example:
        >>> quarter_turn = torch.tensor([0.5, 0.0, 0.0, 0.5])  # about z, not normalised
        >>> quat_apply(quarter_turn, torch.tensor([1.0, 0.0, 0.0]))
        tensor([0., 1., 0.])
    """
    check_quat("q", q, order)
    check_trailing("v", v, (3,))
    check_broadcastable(q=q.shape[:-1], v=v.shape[:-1])
    w, *u = split_quat(q, order)
    p = split(v)
    scale = inverse_square(w, *u) * 2.0
    t = tuple(scale * c for c in cross(u, p))
    return join(tuple(c + w * s + d for c, s, d in zip(p, t, cross(u, t), strict=True)))


def inverse_square(w: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """``1 / |q|^2``, and 1 for a quaternion without direction."""
    square = dot((w, x, y, z), (w, x, y, z))
    return torch.where(square > tiny(square), square, 1.0).reciprocal()


@full_precision
def quat_normalize(q: Float[Tensor, "*batch 4"], *, order: str = "wxyz") -> Float[Tensor, "*batch 4"]:
    """Unit quaternions ``q / |q|``; a zero quaternion becomes the identity and gets no gradient.

    Use it to undo the drift of long products of quaternions.

    Args:
        q: Quaternions, shape ``(..., 4)``.
        order: Component order, ``"wxyz"`` or ``"xyzw"``.

    Returns:
        Unit quaternions, shape ``(..., 4)``.

    Raises:
        ValueError: If the last dimension is not 4 or ``order`` is unknown.
    """
    check_quat("q", q, order)
    (w, x, y, z), _ = unit(split_quat(q, order), (1.0, 0.0, 0.0, 0.0))
    return join_quat(w, x, y, z, order)


@full_precision
def standardize(q: Float[Tensor, "*batch 4"], *, order: str = "wxyz") -> Float[Tensor, "*batch 4"]:
    """The one of ``q`` and ``-q`` (the same rotation) with ``w >= 0``; for ``w = 0`` the first non-zero component is positive.

    Args:
        q: Quaternions, shape ``(..., 4)``.
        order: Component order, ``"wxyz"`` or ``"xyzw"``.

    Returns:
        Quaternions, shape ``(..., 4)``; lengths are kept.

    Raises:
        ValueError: If the last dimension is not 4 or ``order`` is unknown.
    """
    check_quat("q", q, order)
    return q * canonical_sign(split_quat(q, order)).unsqueeze(-1)
