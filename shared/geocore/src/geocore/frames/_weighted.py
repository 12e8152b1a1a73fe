"""Weighted frames: continuous everywhere, exact on inputs whose principal axes are not defined."""

from itertools import permutations

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from geocore._checks import check_option, check_positive_int
from geocore.frames._errors import FrameTooLargeError
from geocore.frames._frame import Frame, FrameInfo
from geocore.frames._jacobi import symmetric_eigh
from geocore.frames._moments import check_finite, check_points, count_items, moments, to_dense
from geocore.frames._random import integers, normal
from geocore.groups._elements import Motion
from geocore.son import gram_schmidt
from geocore.spd._checks import no_autocast, values_readable

__all__ = ["WeightedFrame", "mix"]

_Vector = tuple[Tensor, ...]

_LARGEST = 1 << 20
"""Number of tuples above which a frame is refused."""


def _tuples(n: int, k: int, device: torch.device) -> Int[Tensor, "T k"]:
    """All ordered ``k``-tuples of different indices below ``n``, lexicographic."""
    if k == 2:
        i = torch.arange(n, device=device).repeat_interleave(max(n - 1, 0))
        j = torch.arange(n * max(n - 1, 0), device=device) % max(n - 1, 1)
        return torch.stack([i, j + (j >= i)], -1)
    if k < 2:
        return torch.arange(n if k else 0, device=device).reshape(-1 if k else 1, k)
    return torch.tensor(list(permutations(range(n), k)), dtype=torch.int64, device=device).reshape(-1, k)


class WeightedFrame:
    r"""Axes from every ordered tuple of ``d - 1`` points, weighted by a power of the volume that they span.

    For ``d = 3``: ``e1 = x_i / |x_i|``, ``e3 = x_i x x_j / |x_i x x_j|``, ``e2 = e3 x e1`` with weight ``|x_i x x_j|^p``, normalised over
    the ordered pairs. In general the tuple is orthonormalised in its order and completed to determinant +1; its weight is the Gram
    determinant to the power ``p / 2``. Groups with reflections have both signs of the last axis. Points are taken from their mean.
    Unlike any finite frame without weights, the average over it is continuous in the points (once differentiable for ``p = 2``), also where
    principal axes are not defined (Dym, Lawrence, Siegel, *Equivariant Frames and the Impossibility of Continuous Canonicalization*, ICML
    2024). Its size is ``n (n - 1) ... (n - d + 2)``, twice that with reflections.

    Points that span fewer than ``d - 1`` dimensions leave a rotation about them undetermined, and their frame is infinite: the spanned
    directions come from the tuples, weighted by the volume in them, and each element gets a uniformly random rotation of the rest. Those
    items are flagged ``degenerate`` and their average is equivariant in expectation. Looking for them reads the values once (waits for the
    device); compiled code always draws the random numbers.

    Args:
        dim: Dimension ``d``.
        group: ``"O"``, ``"SO"``, ``"E"`` or ``"SE"``.
        power: ``p``, positive.
        n_samples: Draw that many elements for each item in proportion to the weights (with replacement, uniform afterwards; unbiased)
            instead of building all.
        top_k: Keep the ``top_k`` tuples of largest weight, each weight lowered by the largest weight left out. So truncation stays
            continuous, and equal weights at the cut are all zero instead of a matter of rounding. If that leaves nothing, the ``top_k``
            first ones are kept as they are, and the item is flagged. ``info.tail`` is the share of the weights left out.
        tol: Singular values below ``tol`` times the largest do not count as a dimension; 1e-3 for float32, 1e-7 for float64.
        detach: Treat the frame as a constant.

    Raises:
        ValueError: If an option does not make sense.

    Example:
        >>> corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)
        >>> WeightedFrame(3, "SO")(corners).size
        56
    """

    def __init__(
        self,
        dim: int,
        group: str = "O",
        power: float = 2,
        n_samples: int | None = None,
        top_k: int | None = None,
        *,
        tol: float | None = None,
        detach: bool = True,
    ) -> None:
        check_positive_int("dim", dim)
        check_option("group", group, ("O", "SO", "E", "SE"))
        if not power > 0:
            raise ValueError(f"power must be positive, got {power}")
        for name, value in (("n_samples", n_samples), ("top_k", top_k)):
            if value is not None:
                check_positive_int(name, value)
        if n_samples is not None and top_k is not None:
            raise ValueError(f"n_samples and top_k exclude each other, got {n_samples} and {top_k}")
        self.dim, self.group, self.power, self.n_samples, self.top_k = dim, group, power, n_samples, top_k
        self.tol, self.detach = tol, detach

    def __repr__(self) -> str:
        bound = f", n_samples={self.n_samples}" if self.n_samples else f", top_k={self.top_k}" if self.top_k else ""
        return f"WeightedFrame(dim={self.dim}, group={self.group!r}, power={self.power}{bound})"

    def __call__(
        self,
        x: Float[Tensor, "*batch n d"],
        weights: Shaped[Tensor, "*#batch n"] | None = None,
        batch: Int[Tensor, "N"] | None = None,
        *,
        n_items: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Frame:
        """The frame of each point set.

        Args:
            x: Points, shape ``(..., n, d)``; with ``batch``, ``(N, d)``.
            weights: Masses or a mask, not negative, shape ``(..., n)``. The volume to the power ``p`` is multiplied by the weights of the
                points of the tuple, each divided by the largest one.
            batch: Item of each point of ragged input, int64 of shape ``(N,)``. It is made dense inside, which waits for the device.
            n_items: Number of items; read from ``batch`` if not given.
            generator: Source of randomness of ``n_samples`` and of degenerate items.

        Returns:
            ``Frame``; ``elements.Q`` of shape ``(*batch, k, d, d)``.

        Raises:
            ValueError: If a shape does not fit, there are no points, or (seen on the CPU) a point is not finite.
            TypeError: If a dtype does not fit.
            FrameTooLargeError: If there are more than 2^20 tuples.
        """
        check_points(x, self.dim, weights, batch, n_items)
        return self._build(x, weights, batch, n_items, generator)

    @no_autocast
    def _build(
        self, x: Tensor, weights: Tensor | None, batch: Tensor | None, n_items: int | None, generator: torch.Generator | None
    ) -> Frame:
        x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        x = x.detach() if self.detach else x
        own = None
        if batch is not None:
            own = batch.long()
            x, weights, _ = to_dense(x, weights, own, count_items(own, n_items))
        n, d, k = x.shape[-2], self.dim, self.dim - 1
        count = 1  # not math.perm, which cannot be traced with a dynamic n
        for i in range(k):
            count = count * ((n if n > k else k) - i)
        if count > _LARGEST:
            raise FrameTooLargeError(f"the frame of {n} points in dimension {d} has {count} tuples of points, allowed {_LARGEST}", count)
        m = moments(x, weights)
        y = x - m.mean[..., None, :]
        if weights is not None:  # what weighs nothing stands nowhere
            y = torch.where((weights > 0)[..., None], y, 0.0)
        rank, gap = self._rank(m.covariance.detach(), m.total, m.mean)
        flat = rank < k
        if n < k:  # tuples need so many points; padding at the mean adds none to what is spanned
            y = torch.cat([y, y.new_zeros(*y.shape[:-2], k - n, d)], -2)
        T = _tuples(y.shape[-2], k, x.device)
        mass = None if weights is None else weights.to(y.dtype).expand(x.shape[:-1])
        w: Tensor | None = self._weights(y, mass, T, rank)
        tail = None
        if self.n_samples is None and self.top_k is None:
            chosen = y[..., T, :]
        else:
            if self.n_samples is not None:
                flat_w = w.detach().reshape(-1, w.shape[-1])
                index = torch.multinomial(flat_w, self.n_samples, True, generator=generator) if len(flat_w) else flat_w.long()
                index = index.reshape(*w.shape[:-1], self.n_samples)
                w = None
            else:
                w, index, tail, flat = self._truncate(w, flat)
            chosen = y.gather(-2, T[index].flatten(-2)[..., None].expand(*index.shape[:-1], -1, d)).unflatten(-2, (index.shape[-1], k))
        Q = self._axes(chosen, rank, generator)
        if not self.group.startswith("S"):
            if self.n_samples is None:
                Q = torch.stack([Q, torch.cat([Q[..., :-1], -Q[..., -1:]], -1)], -3).flatten(-4, -3)
                w = None if w is None else (w / 2).repeat_interleave(2, -1)
            else:
                coin = integers(2, Q.shape[:-2], generator, Q.device)
                Q = torch.cat([Q[..., :-1], Q[..., -1:] * (1 - 2 * coin).to(Q.dtype)[..., None, None]], -1)
        t = m.mean[..., None, :].expand(Q.shape[:-1]) if self.group.endswith("E") else None
        return Frame(Motion(Q, t), w, FrameInfo(flat, gap, rank, tail), own)

    def _rank(self, C: Tensor, total: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Dimensions spanned, and the ``d - 1``-th singular value relative to the largest: how far an item is from being degenerate."""
        # The smallest eigenvalues carry an error of eps times the largest, so their roots one of sqrt(eps).
        tol = (1e-7 if C.dtype == torch.float64 else 1e-3) if self.tol is None else self.tol
        eps = torch.finfo(C.dtype).eps
        check_finite(C)
        spread = symmetric_eigh(C)[0].clamp(min=0).sqrt()
        top = spread[..., -1]
        point = top <= 8 * eps * total.sqrt() * mean.detach().norm(dim=-1)
        relative = torch.where(point[..., None], 0.0, spread / torch.where(top > 0, top, 1.0)[..., None])
        gap = relative[..., 1] if self.dim > 1 else (~point).to(C.dtype)
        return (relative > tol).sum(-1), gap

    def _weights(self, y: Tensor, mass: Tensor | None, T: Tensor, rank: Tensor) -> Tensor:
        """Weights of all tuples, normalised: the volume of the first ``min(rank, d - 1)`` points to the power ``p``."""
        scale = y.detach().norm(dim=-1).amax(-1)
        unit = y / torch.where(scale > 0, scale, 1.0)[..., None, None]
        lengths = torch.ones_like(y[..., :1, 0]).expand(*y.shape[:-2], len(T))
        volumes = [lengths]
        if self.dim == 3:
            a, b = unit[..., T[:, 0], :], unit[..., T[:, 1], :]
            volumes += [a.norm(dim=-1), torch.linalg.cross(a, b).norm(dim=-1)]
        else:
            basis: list[Tensor] = []
            for j in range(T.shape[-1]):
                rest = unit[..., T[:, j], :]
                for q in basis + basis:
                    rest = rest - (rest * q).sum(-1, keepdim=True) * q
                length = rest.norm(dim=-1)
                lengths = lengths * length
                volumes.append(lengths)
                basis.append(rest / torch.where(length > 0, length, 1.0)[..., None])
        volume = volumes[-1]
        for j in range(T.shape[-1]):
            volume = torch.where((rank == j)[..., None], volumes[j], volume)
        largest = volume.detach().amax(-1, keepdim=True)
        w = (volume / torch.where(largest > 0, largest, 1.0)) ** self.power
        w = torch.where(largest > 0, w, 1.0)
        if mass is not None:
            relative = mass / mass.amax(-1, keepdim=True).clamp(min=torch.finfo(mass.dtype).tiny)
            relative = torch.nn.functional.pad(relative, (0, y.shape[-2] - mass.shape[-1]), value=1.0)
            for j in range(T.shape[-1]):
                # What does not count does not weigh: points after the rank-th are replaced by random ones.
                w = w * torch.where((rank > j)[..., None], relative[..., T[:, j]], 1.0)
        total = w.sum(-1, keepdim=True)
        return torch.where(total > 0, w / torch.where(total > 0, total, 1.0), 1.0 / max(len(T), 1))

    def _truncate(self, w: Tensor, flat: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        assert self.top_k is not None
        k = min(self.top_k, w.shape[-1])
        best, index = w.topk(min(k + 1, w.shape[-1]), -1)
        kept, index = best[..., :k], index[..., :k]
        tail = (1 - kept.detach().sum(-1)).clamp(min=0)
        if k == w.shape[-1]:
            return kept, index, torch.zeros_like(tail), flat
        lowered = kept - best[..., k:]
        total = lowered.sum(-1, keepdim=True)
        none = total <= 1e-3 * kept.sum(-1, keepdim=True)
        plain = kept / kept.sum(-1, keepdim=True)
        return torch.where(none, plain, lowered / torch.where(none, 1.0, total)), index, tail, flat | none[..., 0]

    def _axes(self, points: Tensor, rank: Tensor, generator: torch.Generator | None) -> Tensor:
        """Rotations ``(*batch, k, d, d)`` from tuples ``(*batch, k, d - 1, d)``; columns after the ``rank``-th are random."""
        d, k = self.dim, self.dim - 1
        if d == 1:
            return points.new_ones(*points.shape[:-2], 1, 1)
        if not values_readable(rank) or bool((rank < k).any()):
            noise = normal(points, generator)
            known = rank[..., None] > torch.arange(k, device=points.device)
            points = torch.where(known[..., None, :, None], points, noise)
        # Dependent tuples have weight zero but are completed to rotations too, so that every element is one.
        return _from_pairs(points) if d == 3 else gram_schmidt(points.mT)


def _from_pairs(points: Tensor) -> Tensor:
    """``gram_schmidt`` of pairs in three dimensions, ``(..., 2, 3)`` to ``(..., 3, 3)``, by components: several times faster."""
    a, b = (tuple(points[..., i, :].unbind(-1)) for i in (0, 1))
    e1 = _unit(a, (1.0, 0.0, 0.0))
    b = _unit(b, (0.0, 0.0, 0.0))
    normal = _cross(e1, b)
    short = _dot(normal, normal).detach() <= (8 * torch.finfo(points.dtype).eps) ** 2
    least = torch.stack([c.detach().abs() for c in e1], -1).argmin(-1)
    b = tuple(torch.where(short, (least == i).to(v.dtype), v) for i, v in enumerate(b))
    e3 = _unit(_cross(e1, b), (0.0, 0.0, 1.0))
    tilt = _dot(e3, e1)  # of nearly dependent pairs, from rounding
    e3 = _unit(tuple(u - tilt * v for u, v in zip(e3, e1, strict=True)), (0.0, 0.0, 1.0))
    return torch.stack([torch.stack(row, -1) for row in zip(e1, _cross(e3, e1), e3, strict=True)], -2)


def _dot(a: _Vector, b: _Vector) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _cross(a: _Vector, b: _Vector) -> _Vector:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def _unit(a: _Vector, otherwise: tuple[float, float, float]) -> _Vector:
    """``a / |a|``, scaled first so that nothing underflows; ``otherwise`` for zero."""
    most = torch.maximum(torch.maximum(a[0].abs(), a[1].abs()), a[2].abs()).detach()
    none = most == 0
    most = torch.where(none, 1.0, most)
    a = (a[0] / most, a[1] / most, a[2] / most)
    scale = torch.rsqrt(torch.where(none, 1.0, _dot(a, a)))
    return (
        torch.where(none, otherwise[0], a[0] * scale),
        torch.where(none, otherwise[1], a[1] * scale),
        torch.where(none, otherwise[2], a[2] * scale),
    )


def mix(rule: WeightedFrame, frame: Frame, x: Tensor, weights: Tensor | None, generator: torch.Generator | None) -> Frame:
    """``frame`` with the elements of another rule at its degenerate items, both padded to one size with weight zero."""
    shape, bad = frame.batch_shape, frame.info.degenerate.reshape(-1)
    readable = values_readable(bad)
    if frame.batch is not None:
        items, w, _ = to_dense(x, weights, frame.batch, shape[0])
    else:
        items = x.reshape(-1, *x.shape[-2:])
        w = None if weights is None else weights.expand(x.shape[:-1]).reshape(-1, x.shape[-2])
    where = torch.nonzero(bad)[:, 0] if readable else torch.arange(len(items), device=bad.device)
    other = rule(items[where], None if w is None else w[where], generator=generator)
    assert isinstance(frame.elements, Motion)
    assert isinstance(other.elements, Motion)
    mine, size = frame.size, max(frame.size, other.size)
    Q = _pad(frame.elements.Q.reshape(-1, mine, rule.dim, rule.dim), size)
    share = _pad_weights(Q.new_full((len(items), mine), 1.0 / mine), size)
    their_Q = _pad(other.elements.Q, size)
    theirs = other.weights if other.weights is not None else Q.new_full((len(where), other.size), 1.0 / other.size)
    theirs = _pad_weights(theirs, size)
    if readable:
        Q, share = Q.index_copy(0, where, their_Q), share.index_copy(0, where, theirs)
    else:
        Q, share = torch.where(bad[:, None, None, None], their_Q, Q), torch.where(bad[:, None], theirs, share)
    t = frame.elements.t
    t = None if t is None else t[..., :1, :].expand(*shape, size, rule.dim)
    return Frame(Motion(Q.reshape(*shape, size, rule.dim, rule.dim), t), share.reshape(*shape, size), frame.info, frame.batch)


def _pad(Q: Tensor, size: int) -> Tensor:
    return torch.cat([Q, Q[:, :1].expand(-1, size - Q.shape[1], -1, -1)], 1)


def _pad_weights(w: Tensor, size: int) -> Tensor:
    return torch.nn.functional.pad(w, (0, size - w.shape[1]))
