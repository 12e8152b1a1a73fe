"""Frame averaging of a function, and the choice of one canonical pose."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from frameavg._average import average
from frameavg._inputs import as_frame
from frameavg._types import Types
from geocore.groups import Motion

__all__ = ["canonicalize", "frame_average"]


def frame_average(
    fn: Callable[..., Any],
    x: Any,
    frame: Callable[..., Any],
    in_types: Types = "position",
    out_types: Types = "invariant",
    *,
    weights: Shaped[Tensor, "*batch n"] | None = None,
    mask: Shaped[Tensor, "*batch n"] | None = None,
    n_samples: int | None = None,
    generator: torch.Generator | None = None,
    chunk: int | None = None,
) -> Any:
    """``1 / |F| sum over g in F(x) of g fn(g^-1 x)``: a function made invariant or equivariant.

    Source: Puny et al., Frame Averaging for Invariant and Equivariant Network Design, ICLR 2022, equations 4 and 5.

    Args:
        fn: Function of one batch. It sees each item ``k`` times, once in every pose of its frame; the copies stand in the batch axis.
        x: Points ``(*batch, n, d)``, or a tuple of inputs of which the first decides the frame, or a dict, of which the first entry
            of type ``"position"`` does.
        frame: Frame of ``x``, such as ``PCAFrame(3, "SE")``.
        in_types: How the group acts on the inputs: ``"invariant"``, ``"position"``, ``"vector"``, ``"tensor(2)"``, ``"pseudovector"``,
            ``"node"``, ``"edge"``, a function ``(g, x) -> x``, or a structure of these like ``x``.
        out_types: The same for the outputs.
        weights: Weights of the points in the frame, such as masses.
        mask: Valid points of padded items. They alone make the frame, and positions of the others are zero in every pose.
        n_samples: Average over so many random elements of each item's frame instead of all.
        generator: Source of the randomness.
        chunk: Frame elements handed to ``fn`` at once; bounds the memory.

    Returns:
        Output of ``fn`` for the batch as it was, averaged.

    Raises:
        ValueError: If a type is unknown or does not fit, sizes differ from the frame's dimension, or the frame fails (see its class).
        TypeError: If an output is not floating and has no type of its own.

    Example:
        >>> from frameavg import PCAFrame
        >>> x = torch.randn(8, 20, 3)
        >>> frame_average(lambda x: x.amax(-2), x, PCAFrame(3, "O"), "vector", "vector").shape
        torch.Size([8, 3])
    """
    if isinstance(x, tuple | list):
        args: tuple[Any, ...] = tuple(x)
        if not isinstance(in_types, tuple | list):
            in_types = (in_types, *["invariant"] * (len(args) - 1))
    else:
        args, in_types = (x,), (in_types,)
    return average(
        fn, args, {}, frame, in_types, out_types, weights=weights, mask=mask, n_samples=n_samples, generator=generator, chunk=chunk
    ).output


def canonicalize(
    x: Shaped[Tensor, "*batch n d"], frame: Callable[..., Any], *, weights: Shaped[Tensor, "*batch n"] | None = None
) -> tuple[Shaped[Tensor, "*batch n d"], Callable[..., Tensor]]:
    """One canonical pose of each item, and the way back.

    Of the poses of the frame the one with the greatest ``sum over axes a of 2^-a sum over points of z_a^3`` is taken (axes point to
    where the heavier tail is). Where that ties, as in symmetric clouds, the greatest ``sum over points i of (i + 1) sum over axes a of
    2^-a z_ia`` decides, which depends on the order of the points. The choice is discontinuous: for a continuous model average instead.

    Args:
        x: Points.
        frame: Frame of ``x``.
        weights: Weights of the points in the frame.

    Returns:
        The pose, and ``restore(y, type)``, which takes outputs back: ``restore(pose, "position")`` is ``x``.
    """
    elements = as_frame(frame(x) if weights is None else frame(x, weights=weights), x)
    kind = "position" if isinstance(elements.elements, Motion) else "node"
    poses = elements.canonicalize(x, kind)
    axis_scale = 0.5 ** torch.arange(x.shape[-1], device=x.device, dtype=poses.dtype)
    order = torch.arange(1, x.shape[-2] + 1, device=x.device, dtype=poses.dtype)
    with torch.no_grad():
        cubes = ((poses**3).sum(-2) * axis_scale).sum(-1)
        spread = (poses.abs() ** 3).sum((-2, -1)).amax(-1, keepdim=True)
        tied = cubes >= cubes.amax(-1, keepdim=True) - spread * torch.finfo(poses.dtype).eps ** 0.5
        ranks = ((poses * axis_scale).sum(-1) * order).sum(-1)
        choice = torch.where(tied, ranks, -torch.inf).argmax(-1)
    chosen = elements.select(choice.unsqueeze(-1))
    axis = x.ndim - 2

    def restore(y: Tensor, kind: Any = "position") -> Tensor:
        """Outputs in the canonical pose, taken back to the pose of the input."""
        return chosen.restore(y.unsqueeze(axis), kind).squeeze(axis)

    return chosen.canonicalize(x, kind).squeeze(axis), restore
