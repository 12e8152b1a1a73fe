"""Interpolation on the group: slerp and squad."""

from jaxtyping import Float
from torch import Tensor

from geocore._checks import check_broadcastable, check_floating, check_option, check_trailing
from geocore._precision import full_precision
from geocore.so3._algebra import quat_direction, rotvec_scale
from geocore.so3._elements import dot, unit
from geocore.so3._pairs import quat_parts_to_matrix, rotvec_parts_to_quat
from geocore.so3._quaternion import ORDERS, canonical_sign, join_quat, mul_parts, split_quat

__all__ = ["join_like", "parts_of", "slerp", "squad", "squad_controls"]

Parts = tuple[Tensor, Tensor, Tensor, Tensor]


def parts_of(name: str, x: Tensor, order: str) -> tuple[Parts, bool]:
    """Unit component quaternions of ``x`` of shape ``(..., 4)`` or ``(..., 3, 3)``, and whether ``x`` was quaternions."""
    check_option("order", order, ORDERS)
    check_floating(name, x)
    is_quat = x.ndim >= 1 and x.shape[-1] == 4
    if not is_quat:
        check_trailing(name, x, (3, 3), hint="give quaternions (..., 4) or matrices (..., 3, 3)")
    (w, a, b, c), _ = unit(split_quat(x, order) if is_quat else quat_direction(x), (1.0, 0.0, 0.0, 0.0))
    return (w, a, b, c), is_quat


def join_like(q: Parts, is_quat: bool, order: str) -> Tensor:
    """Quaternions or matrices of component quaternions."""
    return join_quat(*q, order) if is_quat else quat_parts_to_matrix(q)


def conj_parts(q: Parts) -> Parts:
    """Conjugate."""
    return q[0], -q[1], -q[2], -q[3]


def step_parts(a: Parts, b: Parts, *, shortest: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Rotation vector from ``a`` to ``b`` in the frame of ``a``: ``log(a^-1 b)``, up to 2 pi long unless ``shortest``."""
    d = mul_parts(conj_parts(a), b)
    if shortest:
        sign = canonical_sign(d)
        d = (d[0] * sign, d[1] * sign, d[2] * sign, d[3] * sign)
    w, x, y, z = d
    scale = rotvec_scale(w, dot((x, y, z), (x, y, z)))
    return scale * x, scale * y, scale * z


def slerp_parts(a: Parts, b: Parts, t: Tensor | float, *, shortest: bool) -> Parts:
    """Component form of ``slerp``."""
    x, y, z = step_parts(a, b, shortest=shortest)
    return mul_parts(a, rotvec_parts_to_quat((x * t, y * t, z * t)))


def _check_same(a: bool, b: bool) -> None:
    if a != b:
        raise ValueError("all rotations must come in one form, quaternions (..., 4) or matrices (..., 3, 3), got both")


def _check_parameter(t: Tensor | float, **batches: Parts) -> None:
    shapes = {name: q[0].shape for name, q in batches.items()}
    if isinstance(t, Tensor):
        check_floating("t", t)
        shapes["t"] = t.shape
    check_broadcastable(**shapes)


@full_precision
def slerp(
    a: Float[Tensor, "*#a"], b: Float[Tensor, "*#b"], t: Float[Tensor, "*#t"] | float, *, order: str = "wxyz", shortest: bool = True
) -> Float[Tensor, "*#c"]:
    """Rotation at fraction ``t`` of the constant-speed arc from ``a`` to ``b``, ``a exp(t log(a^-1 b))``.

    Exact at both ends, smooth also for equal rotations, and defined for ``t`` outside [0, 1]. For rotations half a turn apart the
    axis of ``log`` decides.

    Args:
        a: Quaternions ``(..., 4)`` or rotation matrices ``(..., 3, 3)``.
        b: The same form as ``a``; batch dimensions broadcast.
        t: A number, or a tensor that broadcasts with the batch dimensions: ``a`` of shape (4,) and ``t`` of shape (m,) give (m, 4).
        order: Component order of quaternions, ``"wxyz"`` or ``"xyzw"``.
        shortest: Take ``-b`` where it is nearer (no effect on matrices); otherwise the arc may be up to a full turn.

    Returns:
        Unit quaternions or rotation matrices, in the form of ``a``.

    Raises:
        ValueError: If the forms differ, a shape is wrong or ``order`` is unknown.

    Example:
        >>> quarter = exp(torch.tensor([0.0, 0.0, torch.pi / 2]))
        >>> log(slerp(torch.eye(3), quarter, 0.5))  # pi / 4 about z
    """
    p, is_quat = parts_of("a", a, order)
    q, other = parts_of("b", b, order)
    _check_same(is_quat, other)
    _check_parameter(t, a=p, b=q)
    return join_like(slerp_parts(p, q, t, shortest=shortest or not is_quat), is_quat, order)


def _aligned(q: Parts, to: Parts) -> Parts:
    sign = 1.0 - 2.0 * (dot(q, to).detach() < 0).to(q[0].dtype)
    return q[0] * sign, q[1] * sign, q[2] * sign, q[3] * sign


@full_precision
def squad(
    a: Float[Tensor, "*#a"],
    b: Float[Tensor, "*#b"],
    control_a: Float[Tensor, "*#c"],
    control_b: Float[Tensor, "*#d"],
    t: Float[Tensor, "*#t"] | float,
    *,
    order: str = "wxyz",
) -> Float[Tensor, "*#e"]:
    """Spherical quadrangle interpolation from ``a`` to ``b`` (Shoemake 1987).

    ``slerp(slerp(a, b, t), slerp(control_a, control_b, t), 2 t (1 - t))``; with the controls of ``squad_controls`` the pieces of a
    sequence join with continuous angular velocity.

    Args:
        a: Quaternions ``(..., 4)`` or rotation matrices ``(..., 3, 3)``.
        b: The same form; batch dimensions broadcast throughout.
        control_a: Control rotation of ``a``.
        control_b: Control rotation of ``b``.
        t: A number, or a tensor that broadcasts with the batch dimensions.
        order: Component order of quaternions, ``"wxyz"`` or ``"xyzw"``.

    Returns:
        Unit quaternions or rotation matrices, in the form of ``a``.

    Raises:
        ValueError: If the forms differ, a shape is wrong or ``order`` is unknown.
    """
    p, is_quat = parts_of("a", a, order)
    others = []
    for name, x in (("b", b), ("control_a", control_a), ("control_b", control_b)):
        q, form = parts_of(name, x, order)
        _check_same(is_quat, form)
        others.append(q)
    _check_parameter(t, a=p, b=others[0], control_a=others[1], control_b=others[2])
    # Signs are settled once, between the ends; a choice inside would jump where two moving arcs are half a turn apart.
    q = _aligned(others[0], p)
    inner = slerp_parts(_aligned(others[1], p), _aligned(others[2], q), t, shortest=False)
    return join_like(slerp_parts(slerp_parts(p, q, t, shortest=False), inner, 2.0 * t * (1.0 - t), shortest=False), is_quat, order)


@full_precision
def squad_controls(knots: Float[Tensor, "*knots"], *, order: str = "wxyz") -> Float[Tensor, "*knots"]:
    """Control rotations of a sequence, ``q_i exp(-(log(q_i^-1 q_{i+1}) + log(q_i^-1 q_{i-1})) / 4)``; the ends control themselves.

    Args:
        knots: Sequence of quaternions ``(..., n, 4)`` or rotation matrices ``(..., n, 3, 3)``.
        order: Component order of quaternions, ``"wxyz"`` or ``"xyzw"``.

    Returns:
        Controls in the shape of ``knots``.

    Raises:
        ValueError: If a shape is wrong or ``order`` is unknown.
    """
    q, is_quat = parts_of("knots", knots, order)
    if q[0].ndim < 1 or q[0].shape[-1] < 1:
        raise ValueError(f"knots must have shape (..., n, 4) or (..., n, 3, 3) with n >= 1, got {tuple(knots.shape)}")

    def shifted(part: Tensor, by: int) -> Tensor:
        n = part.shape[-1]
        index = [min(max(i + by, 0), n - 1) for i in range(n)]
        return part[..., index]

    after = step_parts(q, (shifted(q[0], 1), shifted(q[1], 1), shifted(q[2], 1), shifted(q[3], 1)), shortest=True)
    before = step_parts(q, (shifted(q[0], -1), shifted(q[1], -1), shifted(q[2], -1), shifted(q[3], -1)), shortest=True)
    n = q[0].shape[-1]
    inside = q[0].new_tensor([-0.25 if 0 < i < n - 1 else 0.0 for i in range(n)])
    x, y, z = ((p + m) * inside for p, m in zip(after, before, strict=True))
    return join_like(mul_parts(q, rotvec_parts_to_quat((x, y, z))), is_quat, order)
