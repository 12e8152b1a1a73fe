"""Frames from the principal axes of a point set."""

import warnings
from itertools import product
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from geocore._checks import check_option, check_positive_int
from geocore.frames._errors import DegenerateFrameError, FrameTooLargeError
from geocore.frames._frame import Axes, Frame, FrameInfo
from geocore.frames._jacobi import symmetric_eigh
from geocore.frames._moments import Moments, check_finite, check_points, moments
from geocore.frames._random import normal
from geocore.frames._spectrum import cluster_eigenvalues, default_tol, relative_gap
from geocore.groups._elements import Motion, orientation
from geocore.spd import eigh
from geocore.spd._checks import no_autocast, values_readable

if TYPE_CHECKING:
    from geocore.frames._weighted import WeightedFrame

__all__ = ["GROUPS", "PCAFrame", "sign_table"]

GROUPS = ("O", "SO", "E", "SE")
POLICIES = ("warn", "raise", "average", "weighted", "ignore")
_LARGEST = 16


def sign_table(dim: int, special: bool) -> list[tuple[int, ...]]:
    """All ``2^d`` rows of +-1, or the half of them whose product is one; the first is all ones."""
    rows: list[tuple[int, ...]] = list(product((1, -1), repeat=dim))
    return [row for row in rows if row.count(-1) % 2 == 0] if special else rows


class PCAFrame:
    r"""Principal axes with every choice of signs: the frame of Puny et al. for O(d), SO(d), E(d) and SE(d).

    With ``t = sum w x / sum w`` and ``C = sum w (x - t)(x - t)^T = V diag(l) V^T`` the elements are ``V diag(s)`` for all signs ``s``
    (``2^d``), for SO and SE those of determinant +1 (``2^(d-1)``), with translation ``t`` for E and SE. All signs are in the set, so it
    depends on no sign convention and on no LAPACK build. The covariance is central for O and SO too.

    **Degenerate spectra.** Where two eigenvalues are closer than ``tol`` times the largest, the axes in their plane are arbitrary and
    the average is not invariant: not slightly off, but by as much as it varies. Symmetric molecules, crystals and regular shapes are like
    that, and so are fewer than ``d`` points. ``degenerate`` decides what happens to such items:

    - ``"warn"``: one warning per frame object, with the share of such items, and arbitrary axes. On an accelerator only the calls numbered
      1, 2, 4, 8, ... look, since looking waits for the device. Compiled code does not warn.
    - ``"raise"``: ``DegenerateFrameError`` with their positions; waits for the device.
    - ``"average"``: the exact frame of such an item is infinite, all orthonormal eigenbases. Each of the ``2^d`` (``2^(d-1)``) elements
      gets a rotation of its own, uniform (Haar) within every eigenspace, which is an unbiased sample of it: the average is equivariant in
      expectation, with variance, and consumes random numbers. For SO and SE the rotations have determinant one.
    - ``"weighted"``: such items get the elements of ``WeightedFrame``, exactly equivariant if the points span ``d - 1`` dimensions or more.
      All items then have the frame size of the larger of both frames; elements beyond the own ones of an item repeat its first with
      weight zero. Without degenerate items nothing is padded. Items change their rule at ``tol``: for continuity use ``WeightedFrame``.
    - ``"ignore"``: as ``"warn"`` in silence.

    Coordinates along axes of eigenvalue zero vanish, so items of rank ``r < d - 1`` are flagged although invariant, vector and position
    outputs stay exact; one zero eigenvalue is not degenerate. An item without weight, or with all points in one place, has the signs of the
    identity as its frame (identity first), flagged.

    Args:
        dim: Dimension ``d`` of the points.
        group: ``"O"``, ``"SO"``, ``"E"`` or ``"SE"``.
        order: Of the axes by eigenvalue, ``"descending"`` or ``"ascending"``.
        degenerate: ``"warn"``, ``"raise"``, ``"average"``, ``"weighted"`` or ``"ignore"``.
        tol: Relative gap that counts as none; 1e-4 for float32 (and half precision), 1e-7 for float64 if not given.
        detach: Treat the frame as a constant. ``False`` differentiates axes and translation, as forces from an energy need; the gradient
            has a factor ``1 / gap``, so degenerate items then raise under every policy where values can be read.
        center: Whether ``C`` is central; ``False`` for sets of vectors, as velocities.
        weighted: The ``WeightedFrame`` of ``degenerate="weighted"``, to bound its size; by default with all its elements.

    Raises:
        ValueError: If an option is unknown or ``dim < 1``.
        FrameTooLargeError: If ``dim`` is above 16.

    Example:
        >>> frame = PCAFrame(3, "SE")(torch.randn(8, 20, 3))
        >>> frame.canonicalize(torch.randn(8, 20, 3)).shape
        torch.Size([8, 4, 20, 3])
    """

    def __init__(
        self,
        dim: int,
        group: str = "O",
        order: str = "descending",
        degenerate: str = "warn",
        tol: float | None = None,
        detach: bool = True,
        *,
        center: bool = True,
        weighted: "WeightedFrame | None" = None,
    ) -> None:
        check_positive_int("dim", dim)
        check_option("group", group, GROUPS)
        check_option("order", order, ("descending", "ascending"))
        check_option("degenerate", degenerate, POLICIES)
        if tol is not None and not tol >= 0:
            raise ValueError(f"tol must not be negative, got {tol}")
        if dim > _LARGEST:
            size = 2 ** (dim - 1 if group.startswith("S") else dim)
            raise FrameTooLargeError(f"dim must be at most {_LARGEST}, since the frame has 2^d elements; got {dim}: {size} elements", size)
        if weighted is not None and (weighted.dim, weighted.group) != (dim, group):
            raise ValueError(f"weighted must be a frame for dim={dim}, group={group!r}, got {weighted}")
        self.dim, self.group, self.order, self.degenerate, self.tol, self.detach = dim, group, order, degenerate, tol, detach
        self.center, self.weighted = center, weighted
        self._signs = torch.tensor(sign_table(dim, self.special), dtype=torch.float64)
        self._calls, self._warned = 0, False

    def __repr__(self) -> str:
        return f"PCAFrame(dim={self.dim}, group={self.group!r}, order={self.order!r}, degenerate={self.degenerate!r}, detach={self.detach})"

    @property
    def special(self) -> bool:
        """Whether the group has no reflections."""
        return self.group.startswith("S")

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
            weights: Masses or a mask, not negative, shape ``(..., n)``; zero is padding.
            batch: Item of each point of ragged input, int64 of shape ``(N,)``, in any order.
            n_items: Number of items; read from ``batch`` (waiting for the device) if not given.
            generator: Source of randomness of ``degenerate="average"`` and ``"weighted"``.

        Returns:
            ``Frame`` with ``elements.Q`` of shape ``(*batch, k, d, d)``, float32 for half-precision input, otherwise the dtype of ``x``.

        Raises:
            ValueError: If a shape does not fit, there are no points, or (seen on the CPU) a point is not finite.
            TypeError: If a dtype does not fit.
            DegenerateFrameError: If an item is degenerate and ``degenerate="raise"`` or ``detach=False``.
        """
        check_points(x, self.dim, weights, batch, n_items)
        return self._build(x, weights, batch, n_items, generator)

    @no_autocast
    def _build(
        self, x: Tensor, weights: Tensor | None, batch: Tensor | None, n_items: int | None, generator: torch.Generator | None
    ) -> Frame:
        x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        if self.detach:
            x = x.detach()
        m = moments(x, weights, batch, n_items, center=self.center)
        values, V, info = self._axes(m)
        if self.degenerate == "raise" or not self.detach:
            self._refuse(info)
        elif self.degenerate == "warn":
            self._warn(info)
        if self.special:
            V = torch.cat([V[..., :-1], V[..., -1:] * orientation(V)[..., None, None]], -1)
        signs = self._signs.to(V.device, V.dtype)
        axes = Axes(Motion(V, m.mean if self.group.endswith("E") else None), signs.expand((*(1,) * (V.ndim - 2), *signs.shape)))
        own = None if batch is None else batch.long()
        frame = Frame(axes, None, info, own)
        if self.degenerate in ("average", "weighted") and _some(info.degenerate):
            if self.degenerate == "average":
                return Frame(self._turn(axes.elements(), values, generator), None, info, own)
            from geocore.frames._weighted import WeightedFrame, mix

            rule = self.weighted or WeightedFrame(self.dim, self.group, detach=self.detach)
            return mix(rule, frame, x, weights, generator)
        return frame

    def _axes(self, m: Moments) -> tuple[Tensor, Tensor, FrameInfo]:
        tol = default_tol(m.covariance.dtype) if self.tol is None else self.tol
        check_finite(m.covariance)
        if self.detach:
            values, V = symmetric_eigh(m.covariance)
        else:
            values, V = eigh(m.covariance, compute_dtype=m.covariance.dtype, check=False)
        if self.order == "descending":
            values, V = values.flip(-1), V.flip(-1)
        still = values.detach()
        top = still.amax(-1)
        # Below this the covariance is what rounding of the mean leaves of points in one place.
        noise = (8 * torch.finfo(still.dtype).eps) ** 2 * m.total * m.mean.detach().square().sum(-1)
        point = top <= (noise if self.center else 0.0)
        V = torch.where(point[..., None, None], torch.eye(self.dim, dtype=V.dtype, device=V.device), V)
        gap = torch.where(point, 0.0, relative_gap(still))
        rank = torch.where(point, 0, (still > tol * top[..., None]).sum(-1))
        return torch.where(point[..., None], 0.0, values), V, FrameInfo((gap < tol) | point, gap, rank)

    def _turn(self, g: Motion, values: Tensor, generator: torch.Generator | None) -> Motion:
        """Each element turned by a Haar rotation within every eigenspace: QR of a Gaussian matrix that is zero between them."""
        labels = cluster_eigenvalues(values, default_tol(values.dtype) if self.tol is None else self.tol)
        same = labels[..., :, None] == labels[..., None, :]
        noise = normal(g.Q, generator)
        Q, R = torch.linalg.qr(torch.where(same[..., None, :, :], noise, 0.0))
        alone = (same.sum(-1) == 1)[..., None, :]
        # The signs make the law uniform; an axis that is alone keeps its own, since all signs are in the frame already.
        keep = torch.where(alone, Q.diagonal(dim1=-2, dim2=-1) < 0, R.diagonal(dim1=-2, dim2=-1) < 0)
        turned = g.Q @ (Q * torch.where(keep, -1.0, 1.0)[..., None, :])
        if self.special:
            turned = torch.cat([turned[..., :-1], turned[..., -1:] * orientation(turned)[..., None, None]], -1)
        return Motion(turned, g.t)

    def _refuse(self, info: FrameInfo) -> None:
        if values_readable(info.degenerate) and bool(info.degenerate.any()):
            advice = "Pass degenerate='weighted' for a frame without axes, or another policy"
            if not self.detach:
                advice = "Their axes have no derivative: pass detach=True, or use WeightedFrame"
            raise DegenerateFrameError.of(
                info.degenerate, f"{self!r}: two eigenvalues coincide (smallest relative gap {info.gap.min().item():.1e})", advice + "."
            )

    def _warn(self, info: FrameInfo) -> None:
        if self._warned or torch.compiler.is_compiling() or not values_readable(info.degenerate):
            return
        self._calls += 1
        if info.degenerate.device.type != "cpu" and self._calls & (self._calls - 1):
            return
        share = info.degenerate.float().mean().item() if info.degenerate.numel() else 0.0
        if share > 0:
            self._warned = True
            warnings.warn(
                f"{share:.1%} of the inputs have two equal principal variances, so their PCA frame is arbitrary and the average over it is "
                "not invariant. Pass degenerate='weighted' (exact), 'average' (in expectation), 'raise' or 'ignore'; "
                "frame.info.degenerate tells which inputs.",
                stacklevel=5,
            )


def _some(mask: Tensor) -> bool:
    """Whether an entry is true; where it cannot be looked at, it may be."""
    return not values_readable(mask) or bool(mask.any())
