"""Finite groups of the plane, on vectors and on images."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from geocore._checks import check_floating, check_positive_int
from geocore.groups._elements import Motion, as_element
from geocore.groups._group import FiniteMotions

__all__ = ["Cyclic", "Dihedral", "grid_action"]

_SNAP = 1e-6


def _turns(n: int) -> Tensor:
    """Rotations by multiples of ``2 pi / n`` in float64, quarter turns exact."""
    rows = []
    for k in range(n):
        quarters = 4 * k / n
        if quarters == int(quarters):
            c, s = ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[int(quarters)]
        else:
            c, s = math.cos(2 * math.pi * k / n), math.sin(2 * math.pi * k / n)
        rows.append([[c, -s], [s, c]])
    return torch.tensor(rows, dtype=torch.float64)


class Cyclic(FiniteMotions):
    """``C_n``: rotations of the plane by multiples of ``2 pi / n``, counter-clockwise in order.

    On images use the type ``geocore.groups.grid_action``.

    Args:
        n: Number of elements.

    Raises:
        ValueError: If ``n < 1``.

    Example:
        >>> Cyclic(4).elements().Q[1]
        tensor([[ 0., -1.],
                [ 1.,  0.]])
    """

    dim = 2

    def __init__(self, n: int) -> None:
        check_positive_int("n", n)
        self.n = n

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.n})"

    def matrices(self) -> Tensor:
        """All elements in float64."""
        return _turns(self.n)


class Dihedral(Cyclic):
    """``D_n``: the ``n`` rotations of ``C_n``, then each of them after the reflection ``(x, y) -> (x, -y)``; ``2 n`` elements.

    Args:
        n: Number of rotations.

    Raises:
        ValueError: If ``n < 1``.

    Example:
        >>> Dihedral(4).order
        8
    """

    def matrices(self) -> Tensor:
        """All elements in float64."""
        turns = _turns(self.n)
        return torch.cat([turns, turns * torch.tensor([1.0, -1.0], dtype=torch.float64)])


def grid_action(g: Motion, x: Float[Tensor, "*batch H W"]) -> Float[Tensor, "*batch H W"]:
    """Rotate and reflect images: ``y(p) = x(Q^-1 p)`` with ``p`` from the centre, x to the right and y upwards.

    Elements that map the pixel grid to itself (quarter turns, the eight elements of ``Dihedral(4)``) are exact permutations of the pixels,
    the same as ``torch.rot90`` and ``flip``. All others are interpolated (bilinear, zero outside), so they compose only approximately. A
    function ``(g, x) -> x``, so it serves as a type: ``transform(g, images, grid_action)``. Looking at the elements waits for the device.

    Args:
        g: Motion of the plane without translation, batch dimensions as ``transform``.
        x: Images, the last two dimensions are rows (downwards) and columns.

    Returns:
        Shape of ``x``.

    Raises:
        ValueError: If ``g`` is not a motion of the plane or has a translation, or an image is not square and an element swaps its axes.
        TypeError: If ``x`` is not floating point.

    Example:
        >>> x = torch.arange(4.0).reshape(2, 2)
        >>> torch.equal(grid_action(Motion(Cyclic(4).elements().Q[1]), x), torch.rot90(x))
        True
    """
    element: Any = as_element(g)
    if not isinstance(element, Motion) or element.Q.shape[-1] != 2 or element.t is not None:
        raise ValueError("g must be a motion of the plane without translation")
    check_floating("x", x)
    batch = element.Q.shape[:-2]
    fits = all(want in (1, have) for have, want in zip(x.shape, batch, strict=False))
    if x.ndim < len(batch) + 2 or not fits:
        raise ValueError(f"x must have shape (*{tuple(batch)}, ..., H, W), got {tuple(x.shape)}")
    H, W = x.shape[-2:]
    Q = element.Q.double().expand(*x.shape[: len(batch)], 2, 2)
    exact = (Q - Q.round()).abs().amax((-1, -2)) < _SNAP
    if H != W and bool((exact & (Q[..., 0, 0].abs() < 0.5)).any()):
        raise ValueError(f"x must be square to be turned by a quarter, got {H} x {W}")
    rows, columns = torch.meshgrid(torch.arange(H, device=x.device), torch.arange(W, device=x.device), indexing="ij")
    p = torch.stack([columns - (W - 1) / 2, (H - 1) / 2 - rows], -1).double().flatten(0, 1)
    source = p @ torch.where(exact[..., None, None], Q.round(), Q)  # Q^T p
    column, row = source[..., 0] + (W - 1) / 2, (H - 1) / 2 - source[..., 1]
    flat = x.reshape(*x.shape[: len(batch)], -1, H * W)
    picked = torch.zeros_like(flat)
    r, c = row.floor(), column.floor()
    snapped_r, snapped_c = row.round(), column.round()
    r = torch.where((row - snapped_r).abs() < _SNAP, snapped_r, r)
    c = torch.where((column - snapped_c).abs() < _SNAP, snapped_c, c)
    for i in (0, 1):
        for j in (0, 1):
            weight = (1 - (row - r - i).abs()).clamp(0, 1) * (1 - (column - c - j).abs()).clamp(0, 1)
            inside = (r + i >= 0) & (r + i < H) & (c + j >= 0) & (c + j < W)
            index = ((r + i).clamp(0, H - 1) * W + (c + j).clamp(0, W - 1)).long()
            share = torch.where(inside, weight, 0.0)
            share = torch.where(exact[..., None], share.round(), share).to(x.dtype)
            picked = picked + flat.gather(-1, index[..., None, :].expand(flat.shape)) * share[..., None, :]
    return picked.reshape(x.shape)
