"""Frames of one element, from the first independent points."""

import warnings

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from geocore._checks import check_option, check_positive_int
from geocore.frames._errors import DegenerateFrameError
from geocore.frames._frame import Frame, FrameInfo
from geocore.frames._moments import check_finite, check_points, count_items, moments, to_dense
from geocore.groups._elements import Motion, orientation
from geocore.spd._checks import no_autocast, values_readable

__all__ = ["MinimalFrame"]


class MinimalFrame:
    r"""One pose: the first linearly independent points, in index order, orthonormalised with positive diagonal (QR).

    The minimal frame of Lin, Helwig, Gui, Ji (*Equivariance via Minimal Frame Averaging*, ICML 2024) for the orthogonal groups: size one,
    so one call of the backbone instead of ``2^d``. It depends on the order of the points and jumps where the first of them become
    dependent. If the points span all dimensions (for SO and SE at least ``d - 1``: the last axis follows from orientation), nothing of the
    group leaves them fixed and averaging is exact for every type of output. Otherwise the missing axes are arbitrary: invariant outputs
    stay exact, since the coordinates along them are zero; other outputs do not, and the item is flagged.

    Args:
        group: ``"O"``, ``"SO"``, ``"E"`` or ``"SE"``.
        dim: Dimension ``d``.
        degenerate: ``"warn"`` (once per object), ``"raise"`` or ``"ignore"`` for flagged items; ``"warn"`` and ``"raise"`` wait for the
            device.
        tol: A point counts as dependent if less than ``tol`` times the largest distance from the mean is left of it; 1e-4 for float32,
            1e-7 for float64 if not given.
        detach: Treat the frame as a constant.

    Raises:
        ValueError: If an option is unknown.

    Example:
        >>> MinimalFrame("SE", 3)(torch.randn(8, 20, 3)).canonicalize(torch.randn(8, 20, 3)).shape
        torch.Size([8, 1, 20, 3])
    """

    def __init__(self, group: str, dim: int, *, degenerate: str = "ignore", tol: float | None = None, detach: bool = True) -> None:
        check_option("group", group, ("O", "SO", "E", "SE"))
        check_positive_int("dim", dim)
        check_option("degenerate", degenerate, ("warn", "raise", "ignore"))
        if tol is not None and not tol >= 0:
            raise ValueError(f"tol must not be negative, got {tol}")
        self.group, self.dim, self.degenerate, self.tol, self.detach = group, dim, degenerate, tol, detach
        self._warned = False

    def __repr__(self) -> str:
        return f"MinimalFrame(group={self.group!r}, dim={self.dim}, degenerate={self.degenerate!r})"

    def __call__(
        self,
        x: Float[Tensor, "*batch n d"],
        weights: Shaped[Tensor, "*#batch n"] | None = None,
        batch: Int[Tensor, "N"] | None = None,
        *,
        n_items: int | None = None,
    ) -> Frame:
        """The frame of each point set.

        Args:
            x: Points, shape ``(..., n, d)``; with ``batch``, ``(N, d)``.
            weights: Masses or a mask, not negative, shape ``(..., n)``: they move the mean, and points of weight zero are not used.
            batch: Item of each point of ragged input, int64 of shape ``(N,)``. It is made dense inside, which waits for the device.
            n_items: Number of items; read from ``batch`` if not given.

        Returns:
            ``Frame`` of size one.

        Raises:
            ValueError: If a shape does not fit or there are no points.
            TypeError: If a dtype does not fit.
            DegenerateFrameError: If an item is flagged and ``degenerate="raise"``.
        """
        check_points(x, self.dim, weights, batch, n_items)
        return self._build(x, weights, batch, n_items)

    @no_autocast
    def _build(self, x: Tensor, weights: Tensor | None, batch: Tensor | None, n_items: int | None) -> Frame:
        x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        x = x.detach() if self.detach else x
        own = None
        if batch is not None:
            own = batch.long()
            x, weights, _ = to_dense(x, weights, own, count_items(own, n_items))
        tol = (1e-7 if x.dtype == torch.float64 else 1e-4) if self.tol is None else self.tol
        m = moments(x, weights)
        check_finite(m.covariance)
        mean = m.mean
        y = x - mean[..., None, :]
        if weights is not None:
            y = torch.where((weights > 0)[..., None], y, 0.0)
        scale = y.detach().norm(dim=-1).amax(-1, keepdim=True)
        noise = 8 * torch.finfo(x.dtype).eps * mean.detach().norm(dim=-1, keepdim=True)
        bound = torch.maximum(tol * scale, noise)
        eye = torch.eye(self.dim, dtype=x.dtype, device=x.device)
        basis: list[Tensor] = []
        rank = torch.zeros(x.shape[:-2], dtype=torch.int64, device=x.device)
        gap = torch.ones_like(mean[..., 0]).detach()
        for _ in range(self.dim):
            rest = _apart(y, basis)
            length = rest.norm(dim=-1)
            independent = length.detach() > bound
            first = independent.to(torch.int8).argmax(-1)  # the first of the largest
            found = independent.any(-1)
            column = rest.gather(-2, first[..., None, None].expand(*first.shape, 1, self.dim))
            # What is left to choose is the axis that is least covered; the same for all orders, so that later ones fill up too.
            spare = _apart(eye.expand(*x.shape[:-2], self.dim, self.dim), basis)
            widest = spare.detach().norm(dim=-1).argmax(-1)
            spare = spare.gather(-2, widest[..., None, None].expand(*widest.shape, 1, self.dim))
            column = torch.where(found[..., None, None], column, spare)
            column = _apart(column / column.norm(dim=-1, keepdim=True), basis)
            basis.append(column / column.norm(dim=-1, keepdim=True))
            left = length.detach().amax(-1) / torch.where(scale[..., 0] > 0, scale[..., 0], 1.0)
            rank = rank + found
            special = self.group.startswith("S") and len(basis) == self.dim
            gap = gap if special else torch.minimum(gap, torch.where(found, left, 0.0))
        Q = torch.cat(basis, -2).mT
        need = self.dim
        if self.group.startswith("S"):
            Q = torch.cat([Q[..., :-1], Q[..., -1:] * orientation(Q)[..., None, None]], -1)
            need = self.dim - 1
        info = FrameInfo(rank < need, gap, rank)
        self._report(info)
        t = mean[..., None, :] if self.group.endswith("E") else None
        return Frame(Motion(Q[..., None, :, :], t), None, info, own)

    def _report(self, info: FrameInfo) -> None:
        if self.degenerate == "ignore" or self._warned or not values_readable(info.degenerate) or not bool(info.degenerate.any()):
            return
        if self.degenerate == "raise":
            raise DegenerateFrameError.of(info.degenerate, f"{self!r}: the points span too few dimensions", "Use WeightedFrame.")
        self._warned = True
        warnings.warn(
            f"{info.degenerate.float().mean().item():.1%} of the inputs span too few dimensions for their minimal frame: only invariant "
            "outputs are exact for them. Use WeightedFrame, or pass degenerate='raise' or 'ignore'.",
            stacklevel=5,
        )


def _apart(y: Tensor, basis: list[Tensor]) -> Tensor:
    """What is left of each row of ``y`` orthogonal to the basis rows ``(..., 1, d)``, twice for rounding."""
    for q in basis + basis:
        y = y - (y @ q.mT) * q
    return y
