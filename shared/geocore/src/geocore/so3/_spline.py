"""Interpolation of rotations in time with continuous angular velocity and acceleration."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from geocore._checks import check_floating, check_positive_int
from geocore._precision import full_precision
from geocore.so3._algebra import right_jacobian, right_jacobian_inverse
from geocore.so3._elements import dot, join, split
from geocore.so3._interpolate import Parts, join_like, parts_of, step_parts
from geocore.so3._pairs import rotvec_parts_to_quat
from geocore.so3._quaternion import mul_parts
from geocore.so3._series import left_coefficients, left_slopes

__all__ = ["RotationSpline"]


def _times(A: Tensor, x: Tensor) -> Tensor:
    return (A @ x.unsqueeze(-1)).squeeze(-1)


def _drift(p: Tensor, v: Tensor) -> Tensor:
    """``(d/dt J) v`` for the right Jacobian ``J`` at a rotation vector ``p`` that moves with velocity ``v``."""
    parts_p, parts_v = split(p), split(v)
    square, along = dot(parts_p, parts_p), dot(parts_p, parts_v)
    _, c = left_coefficients(square)
    slope_b, slope_c = left_slopes(square)
    pv = torch.linalg.cross(p, v)
    return (
        torch.linalg.cross(p, pv) * (2.0 * slope_c * along).unsqueeze(-1)
        - pv * (2.0 * slope_b * along).unsqueeze(-1)
        + torch.linalg.cross(v, pv) * c.unsqueeze(-1)
    )


class RotationSpline:
    """Rotations through ``knots`` at ``times``, twice continuously differentiable.

    Between two knots ``R(t) = R_i exp(p(t - t_i))`` with a cubic ``p``; the angular velocities at the inner knots are such that the
    angular acceleration is continuous, those of the first and last knot are the mean velocities of the first and last interval.
    The nonlinear system is solved by a fixed number of tridiagonal solves. This is the curve of ``scipy.spatial.transform.RotationSpline``,
    batched and differentiable in the knots, the times and the evaluation points. Beyond the ends the end pieces are continued.

    Args:
        knots: Quaternions ``(..., n, 4)`` or rotation matrices ``(..., n, 3, 3)``, n >= 2, neighbours less than half a turn apart.
        times: Strictly increasing times, shape ``(n,)``, a tensor or a sequence of numbers; shared by the batch.
        order: Component order of quaternions, ``"wxyz"`` or ``"xyzw"``.
        iterations: Fixed-point iterations on the nonlinear terms; each gains about a digit for steps below pi/2, less for longer ones.
        check: Raise if ``times`` does not increase (reads the values, so it synchronises the device).

    Raises:
        ValueError: If a shape is wrong, or with ``check`` if ``times`` does not increase.

    Example:
        >>> turn = torch.tensor([0.0, 0.0, 1.0])
        >>> spline = RotationSpline(exp(torch.arange(4.0).unsqueeze(-1) * turn), [0.0, 1.0, 2.0, 3.0])
        >>> spline(torch.tensor(1.5), derivative=1)  # one radian per second about z
        tensor([0., 0., 1.])
    """

    def __init__(
        self,
        knots: Float[Tensor, "*knots"],
        times: Float[Tensor, " n"] | Sequence[float | int],
        *,
        order: str = "wxyz",
        iterations: int = 16,
        check: bool = False,
    ) -> None:
        check_floating("knots", knots)
        check_positive_int("iterations", iterations)
        low = knots.dtype in (torch.float16, torch.bfloat16)
        self._dtype = knots.dtype
        q, self._is_quat = parts_of("knots", knots.float() if low else knots, order)
        self._order = order
        if q[0].ndim < 1 or q[0].shape[-1] < 2:
            raise ValueError(f"knots must have shape (..., n, 4) or (..., n, 3, 3) with n >= 2, got {tuple(knots.shape)}")
        times = times.to(q[0]) if isinstance(times, Tensor) else q[0].new_tensor(times)
        if times.shape != q[0].shape[-1:]:
            raise ValueError(f"times must have shape ({q[0].shape[-1]},), one per knot, got {tuple(times.shape)}")
        if check and not bool((times.diff() > 0).all()):
            raise ValueError(f"times must increase strictly, got {times.tolist()}")
        self.times = times
        self._q: Parts = q
        first = (q[0][..., :-1], q[1][..., :-1], q[2][..., :-1], q[3][..., :-1])
        last = (q[0][..., 1:], q[1][..., 1:], q[2][..., 1:], q[3][..., 1:])
        self._coefficients = _fit(join(step_parts(first, last, shortest=True)), times.diff().unsqueeze(-1), iterations)

    def __call__(self, t: Float[Tensor, "*t"] | float, derivative: int = 0) -> Tensor:
        """Rotation, angular velocity or angular acceleration at times ``t``.

        Args:
            t: Times, a tensor of any shape ``(*t)`` or a number.
            derivative: 0 for rotations; 1 for angular velocity in radians per unit time; 2 for angular acceleration; both in the
                moving frame (``dR/dt = R hat(velocity)``).

        Returns:
            For 0 the form of the knots, shape ``(..., *t, 4)`` or ``(..., *t, 3, 3)``; else vectors ``(..., *t, 3)``.

        Raises:
            ValueError: If ``derivative`` is not 0, 1 or 2.
        """
        if derivative not in (0, 1, 2):
            raise ValueError(f"derivative must be 0, 1 or 2, got {derivative!r}")
        return self._evaluate(t.to(self.times) if isinstance(t, Tensor) else self.times.new_tensor(t), derivative).to(self._dtype)

    @full_precision
    def _evaluate(self, t: Tensor, derivative: int) -> Tensor:
        flat = t.reshape(-1)  # a zero-dimensional index would be read on the host
        piece = torch.bucketize(flat.detach(), self.times[1:-1].detach(), right=True)
        s = (flat - self.times[piece]).unsqueeze(-1)
        c1, c2, c3 = (c[..., piece, :] for c in self._coefficients)
        p = ((c3 * s + c2) * s + c1) * s
        if derivative == 0:
            x, y, z = split(p)
            a, b, c, d = (part[..., piece] for part in self._q)
            out = join_like(mul_parts((a, b, c, d), rotvec_parts_to_quat((x, y, z))), self._is_quat, self._order)
        else:
            v = (3.0 * c3 * s + 2.0 * c2) * s + c1
            J = right_jacobian(p)
            out = _times(J, v) if derivative == 1 else _times(J, 6.0 * c3 * s + 2.0 * c2) + _drift(p, v)
        batch = self._q[0].shape[:-1]
        return out.reshape(*batch, *t.shape, *out.shape[len(batch) + 1 :])


@full_precision
def _fit(p: Tensor, h: Tensor, iterations: int) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficients of ``s``, ``s^2``, ``s^3`` of every piece (..., n - 1, 3): the Hermite cubic of its end velocities."""
    rates = _knot_rates(p, h, iterations)
    start, end = rates[..., :-1, :], _times(right_jacobian_inverse(p), rates[..., 1:, :])
    return start, (3.0 * p / h - 2.0 * start - end) / h, (start + end - 2.0 * p / h) / (h * h)


def _knot_rates(p: Tensor, h: Tensor, iterations: int) -> Tensor:
    """Angular velocities at the knots (..., n, 3) from the steps ``p`` (..., n - 1, 3) of lengths ``h`` (n - 1, 1).

    Equal accelerations on both sides of knot ``k`` read
    ``2/h_- J(p_-) r_{k-1} + 4 (1/h_- + 1/h_+) r_k + 2/h_+ J(p_+)^-1 r_{k+1} = 6 (p_-/h_-^2 + p_+/h_+^2) - drift(p_-, J(p_-)^-1 r_k)``,
    block tridiagonal for a given drift; the factors serve all iterations.
    """
    rates = p / h
    ends = (rates[..., 0, :], rates[..., -1, :])
    n = p.shape[-2] - 1
    if n == 0:
        return torch.stack(ends, -2)
    J, J_inverse = right_jacobian(p), right_jacobian_inverse(p)
    lower = (2.0 / h[:-1]).unsqueeze(-1) * J[..., :-1, :, :]
    upper = (2.0 / h[1:]).unsqueeze(-1) * J_inverse[..., 1:, :, :]
    diagonal = (4.0 / h[:-1] + 4.0 / h[1:]).unsqueeze(-1) * torch.eye(3, dtype=p.dtype, device=p.device)
    linear = 6.0 * (rates[..., :-1, :] / h[:-1] + rates[..., 1:, :] / h[1:])

    lower, upper, diagonal = lower.unbind(-3), upper.unbind(-3), diagonal.unbind(-3)
    inverse = [torch.linalg.inv(diagonal[0])]
    for k in range(1, n):
        inverse.append(torch.linalg.inv(diagonal[k] - lower[k] @ inverse[-1] @ upper[k - 1]))

    inner = rates[..., 1:, :]
    for _ in range(iterations):
        right = linear - _drift(p[..., :-1, :], _times(J_inverse[..., :-1, :, :], inner[..., :n, :]))
        columns = list(right.unbind(-2))
        columns[0] = columns[0] - _times(lower[0], ends[0])
        columns[-1] = columns[-1] - _times(upper[-1], ends[1])
        solved = [_times(inverse[0], columns[0])]
        for k in range(1, n):
            solved.append(_times(inverse[k], columns[k] - _times(lower[k], solved[-1])))
        for k in range(n - 2, -1, -1):
            solved[k] = solved[k] - _times(inverse[k] @ upper[k], solved[k + 1])
        inner = torch.stack(solved, -2)
    return torch.cat((ends[0].unsqueeze(-2), inner, ends[1].unsqueeze(-2)), -2)
