"""Continuity of encoders, measured: the reason why networks learn some representations and fail at others."""

import math

import torch

from geocore import so3, son
from geocore._checks import check_positive_int
from rotrep._base import Representation
from rotrep._rotations import RotationRepresentation
from rotrep.ndim import NDRotation
from rotrep.registry import get_representation

__all__ = ["continuity_report"]


def continuity_report(
    rep: str | Representation, n: int = 64, *, steps: int = 2000, generator: torch.Generator | None = None
) -> dict[str, float]:
    """Largest jump and steepest slope of ``encode`` along random closed geodesics.

    Each is ``R0 exp(t A)`` with Haar-random ``R0`` and a random axis (in n-space a random plane), ``t`` from 0 to 2 pi in equal steps.
    On SO(3) such a loop crosses the rotations of angle pi, which is where an encoder in less than five dimensions has to jump. Finer steps
    make ``max_jump`` of a continuous encoder smaller in proportion, and leave that of a discontinuous one as it is.

    Args:
        rep: Representation, a name or an instance.
        n: Number of geodesics.
        steps: Steps per geodesic.
        generator: Source of randomness; a fixed seed by default, so that reports repeat.

    Returns:
        ``"max_jump"``: largest ``|encode(R(t + dt)) - encode(R(t))|``; ``"lipschitz"``: the same over ``dt``, an estimate of the Lipschitz
        constant in radians where ``max_jump`` shows continuity; ``"jump_angle"``: the rotation angle in radians at the largest jump (NaN
        beyond SO(3)); ``"step"``: ``dt``.

    Raises:
        TypeError: If ``n`` or ``steps`` is not an int.
        ValueError: If ``n < 1``, ``steps < 2``, or ``rep`` does not represent rotations of 2-space or more.

    Example:
        >>> continuity_report("6d")["lipschitz"] <= 1.5
        True
        >>> continuity_report("quaternion")["max_jump"] > 1
        True
    """
    check_positive_int("n", n)
    check_positive_int("steps", steps, minimum=2)
    if isinstance(rep, str):
        rep = get_representation(rep)
    if not isinstance(rep, RotationRepresentation | NDRotation) or rep.n < 2:
        raise ValueError(f"rep must represent rotations of 2-space or more, got {rep!r}")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    device = generator.device
    start = son.haar(rep.n, (n, 1), generator=generator, dtype=torch.float64, device=device)
    frame = son.haar(rep.n, (n, 1), generator=generator, dtype=torch.float64, device=device)
    t = torch.linspace(0.0, 2.0 * math.pi, steps + 1, dtype=torch.float64, device=device)
    turn = torch.eye(rep.n, dtype=torch.float64, device=device).repeat(steps + 1, 1, 1)
    turn[:, 0, 0], turn[:, 1, 1] = torch.cos(t), torch.cos(t)
    turn[:, 1, 0], turn[:, 0, 1] = torch.sin(t), -torch.sin(t)
    R = start @ frame @ turn @ frame.mT
    jumps = rep.encode(R).diff(dim=1).norm(dim=-1)
    largest = float(jumps.max())
    place = int(jumps.argmax())
    angle = math.nan
    if rep.n == 3:
        at = R[place // steps, place % steps]
        angle = float(so3.geodesic(at, torch.eye(3, dtype=torch.float64, device=device)))
    step = 2.0 * math.pi / steps
    return {"max_jump": largest, "lipschitz": largest / step, "jump_angle": angle, "step": step}
