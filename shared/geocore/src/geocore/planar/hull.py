"""Convex hulls, and rectangles of least area around points."""

from math import pi

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geocore._checks import check_positive_int, check_trailing
from geocore.planar.boxes import canonicalize, cross, wide

__all__ = ["convex_hull", "min_area_rect"]


def convex_hull(
    points: Float[Tensor, "*#batch n 2"], mask: Bool[Tensor, "*#batch n"] | None = None
) -> tuple[Int[Tensor, "*batch n"], Int[Tensor, "*batch"]]:
    """Vertices of the convex hull in positive order, the lowest of the leftmost first; duplicates and points on edges are left out.

    A single large set goes through a monotone chain, batches and small sets through an ``O(n^3)`` test of all directions at once.

    Args:
        points: Shape ``(..., n, 2)``.
        mask: Valid points, anywhere.

    Returns:
        Indices, int64 of shape ``(..., n)`` padded with -1, and their number.

    Raises:
        ValueError: If a shape is wrong.
    """
    check_trailing("points", points, (None, 2))
    p = wide(points).detach()
    batch, n = p.shape[:-2], p.shape[-2]
    if mask is not None and tuple(mask.shape) != tuple(p.shape[:-1]):
        raise ValueError(f"mask must have one entry a point, shape {tuple(p.shape[:-1])}, got {tuple(mask.shape)}")
    if n > 32 or (not torch.compiler.is_compiling() and p.numel() and len(batch) == 0):
        flat, valid = p.reshape(-1, n, 2), None if mask is None else mask.reshape(-1, n)
        chains = [_monotone_chain(flat[i], None if valid is None else valid[i]) for i in range(len(flat))]
        index = torch.full((len(flat), n), -1, dtype=torch.int64, device=p.device)
        for row, chain in zip(index, chains, strict=True):
            row[: len(chain)] = torch.tensor(chain, dtype=torch.int64, device=p.device)
        count = torch.tensor([len(chain) for chain in chains], dtype=torch.int64, device=p.device)
        return index.reshape(*batch, n), count.reshape(batch)
    return _hull_by_directions(p, mask)


def _monotone_chain(p: Tensor, mask: Tensor | None) -> list[int]:
    """Andrew's algorithm in float64."""
    xy = p.double().tolist()
    names = [i for i in range(len(xy)) if mask is None or bool(mask[i])]
    names.sort(key=lambda i: (xy[i][0], xy[i][1]))
    unique = [i for k, i in enumerate(names) if k == 0 or xy[i] != xy[names[k - 1]]]
    if len(unique) <= 2:
        return unique

    def half(order: list[int]) -> list[int]:
        chain: list[int] = []
        for i in order:
            while len(chain) >= 2:
                (ax, ay), (bx, by), (cx, cy) = xy[chain[-2]], xy[chain[-1]], xy[i]
                if (bx - ax) * (cy - ay) - (by - ay) * (cx - ax) > 0:
                    break
                chain.pop()
            chain.append(i)
        return chain

    lower, upper = half(unique), half(unique[::-1])
    return lower[:-1] + upper[:-1]


def _hull_by_directions(p: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """From each hull vertex the next is the one with all others to its left, the farthest if several are in line."""
    n = p.shape[-2]
    if n == 0:
        empty = torch.zeros(p.shape[:-2], dtype=torch.int64, device=p.device)
        return torch.full(p.shape[:-1], -1, dtype=torch.int64, device=p.device), empty
    work = p.double()
    valid = torch.ones(p.shape[:-1], dtype=torch.bool, device=p.device) if mask is None else mask
    work = torch.where(valid.unsqueeze(-1), work, 0.0)
    d = work.unsqueeze(-3) - work.unsqueeze(-2)  # (i, j): from i to j
    apart = valid.unsqueeze(-1) & valid.unsqueeze(-2) & (d != 0).any(-1)
    side = cross(d.unsqueeze(-2), d.unsqueeze(-3))  # (i, j, k): where k lies, seen from i towards j
    ahead = (d.unsqueeze(-2) * d.unsqueeze(-3)).sum(-1)
    far = ahead <= d.square().sum(-1).unsqueeze(-1)
    # k may be left of the line, or on it but neither beyond j nor behind i
    fine = (side > 0) | ((side == 0) & far & (ahead >= 0)) | ~valid[..., None, None, :]
    edge = apart & fine.all(-1)
    following = torch.where(edge, torch.arange(n, device=p.device), n).amin(-1)
    x = torch.where(valid, work[..., 0], torch.inf)
    leftmost = x == x.amin(-1, keepdim=True)
    y = torch.where(leftmost, work[..., 1], torch.inf)
    start = y.argmin(-1)
    any_valid = valid.any(-1)
    index = [torch.where(any_valid, start, -1)]
    here, done = start, ~any_valid
    first = work.gather(-2, start[..., None, None].expand(*start.shape, 1, 2))[..., 0, :]
    for _ in range(n - 1):
        step = following.gather(-1, here.unsqueeze(-1)).squeeze(-1)
        stuck = step >= n
        step = torch.where(stuck, here, step)
        back = (work.gather(-2, step[..., None, None].expand(*step.shape, 1, 2))[..., 0, :] == first).all(-1)
        done = done | stuck | back
        index.append(torch.where(done, -1, step))
        here = torch.where(done, here, step)
    found = torch.stack(index, -1)
    return found, (found >= 0).sum(-1)


def _hull_directions(p: Tensor) -> Tensor:
    """Directions of the edges of hulls ``(..., edges, 2)``, by walking round all of them at once; padded with the first edge."""
    flat = p.detach().double().reshape(-1, *p.shape[-2:])
    places = torch.arange(len(flat), device=p.device)
    start = flat[..., 1].argmin(-1)
    here, heading = start, torch.zeros(len(flat), dtype=flat.dtype, device=p.device)
    tiny = 1e-12 * flat.abs().amax((-1, -2)).clamp(min=1e-300).unsqueeze(-1)
    steps: list[Tensor] = []
    done = torch.zeros(len(flat), dtype=torch.bool, device=p.device)
    for _ in range(p.shape[-2]):
        v = flat - flat[places, here].unsqueeze(-2)
        length = torch.hypot(v[..., 0], v[..., 1])
        turn = torch.remainder(torch.atan2(v[..., 1], v[..., 0]) - heading.unsqueeze(-1) + 1e-9, 2 * pi)
        turn = torch.where(length > tiny, turn, torch.inf)
        least = turn.amin(-1, keepdim=True)
        ahead = torch.where(turn <= least + 1e-9, length, -1.0).argmax(-1)  # the farthest of those in line
        steps.append(torch.where(done, -1, here * p.shape[-2] + ahead))
        chosen = v[places, ahead]
        heading = torch.atan2(chosen[:, 1], chosen[:, 0])
        done = done | (flat[places, ahead] == flat[places, start]).all(-1) | ~torch.isfinite(least[:, 0])
        here = ahead
        if bool(done.all()):
            break
    if not steps:
        return p[..., :1, :] * 0
    pair = torch.stack(steps, -1)
    pair = torch.where(pair < 0, pair[:, :1], pair).reshape(*p.shape[:-2], -1)
    i, j = pair // p.shape[-2], torch.remainder(pair, p.shape[-2])

    def take(index: Tensor) -> Tensor:
        return p.gather(-2, index.unsqueeze(-1).expand(*index.shape, 2))

    return take(j) - take(i)


def min_area_rect(points: Float[Tensor, "*#batch n 2"], mask: Bool[Tensor, "*#batch n"] | None = None) -> Float[Tensor, "*batch 5"]:
    """The rectangle of least area around points, as a box with ``w >= h`` and ``t`` in ``[-pi/2, pi/2)``.

    One side of it runs along an edge of the hull, so all directions from point to point are tried at once (of more than eight points, those
    between neighbours on the hull).

    Args:
        points: Shape ``(..., n, 2)`` with ``n >= 1``.
        mask: Valid points, at least one.

    Raises:
        ValueError: If a shape is wrong or there are no points.
    """
    check_trailing("points", points, (None, 2))
    check_positive_int("points.shape[-2]", points.shape[-2])
    p = wide(points)
    n = p.shape[-2]
    if mask is not None:
        first = mask.long().argmax(-1)
        anchor = p.gather(-2, first[..., None, None].expand(*first.shape, 1, 2))
        p = torch.where(mask.unsqueeze(-1), p, anchor)
    origin = p.detach().mean(-2, keepdim=True)
    p = p - origin
    if n > 8:
        d = _hull_directions(p)
    else:
        i, j = torch.triu_indices(n, n, 1, device=p.device)
        d = p.index_select(-2, j) - p.index_select(-2, i) if n > 1 else torch.zeros_like(p)
    none = (d == 0).all(-1)
    d = torch.stack([torch.where(none, 1.0, d[..., 0]), d[..., 1]], -1)
    u = d / torch.hypot(d[..., 0], d[..., 1]).unsqueeze(-1)
    along = u @ p.mT
    across = torch.stack([-u[..., 1], u[..., 0]], -1) @ p.mT
    w, h = along.amax(-1) - along.amin(-1), across.amax(-1) - across.amin(-1)
    best = (w * h).detach().argmin(-1, keepdim=True)

    def pick(v: Tensor) -> Tensor:
        return v.gather(-1, best).squeeze(-1)

    mid_along, mid_across = pick(0.5 * (along.amax(-1) + along.amin(-1))), pick(0.5 * (across.amax(-1) + across.amin(-1)))
    c, s = pick(u[..., 0]), pick(u[..., 1])
    centre = torch.stack([c * mid_along - s * mid_across, s * mid_along + c * mid_across], -1) + origin[..., 0, :]
    box = torch.cat([centre, torch.stack([pick(w), pick(h), torch.atan2(s, c)], -1)], -1)
    return canonicalize(box, "le90").to(points.dtype)
