"""A frame as an object: group elements, their weights, and how to go to the canonical poses and back."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils import _pytree

from geocore._checks import check_option, check_positive_int
from geocore.frames._random import integers
from geocore.groups._elements import Element, Flip, Motion, Pair, batch_shape
from geocore.groups._types import transform

__all__ = ["Axes", "Frame", "FrameInfo", "map_element"]


class FrameInfo(NamedTuple):
    """What is known about the inputs of a frame, one entry for each of them.

    Args:
        degenerate: Whether the input has (numerically) more symmetry than an ordinary frame accounts for; what that costs is decided by the
            policy of the constructor.
        gap: How far it is from that, relative to its size; what is compared with ``tol``.
        rank: Number of dimensions that the points span; for graphs, the number of different keys.
        tail: Share of the weights that a truncated frame left out; ``None`` where nothing is left out.
    """

    degenerate: Bool[Tensor, "*batch"]
    gap: Float[Tensor, "*batch"]
    rank: Int[Tensor, "*batch"]
    tail: Float[Tensor, "*batch"] | None = None


def map_element(g: Element, change: Any) -> Element:
    """Apply ``change`` to every tensor of an element."""
    if isinstance(g, Pair):
        return Pair(map_element(g.first, change), map_element(g.second, change))
    if isinstance(g, Motion):
        return Motion(change(g.Q), None if g.t is None else change(g.t))
    return Flip(change(g.s)) if isinstance(g, Flip) else change(g)


class Axes(NamedTuple):
    """Elements that are ``axes`` (one motion per item) after sign changes: ``Q_k = V diag(s_k)`` with one translation.

    Args:
        motion: ``V`` and ``t``, batch dimensions ``*batch``.
        signs: Shape ``(*batch, k, d)`` or, the same for all items, ``(1, ..., 1, k, d)``.
    """

    motion: Motion
    signs: Tensor

    def elements(self) -> Motion:
        """All elements written out."""
        V, t = self.motion
        Q = V[..., None, :, :] * self.signs[..., None, :]
        return Motion(Q, None if t is None else t[..., None, :].expand(Q.shape[:-1]))


class Frame:
    """Group elements ``g`` for each input such that the set moves with it, ``F(h X) = h F(X)``.

    Averaging a function over the canonical poses ``g^-1 X`` makes it invariant; carrying its outputs back with ``g`` first makes it
    equivariant (Puny et al., *Frame Averaging*, ICLR 2022). The frame axis comes right after the batch dimensions. A frame of ragged
    input (``batch`` given) has one entry per item, and its per-point tensors put the frame axis first: ``(N, d)`` becomes ``(k, N, d)``.

    Args:
        elements: ``Motion`` with ``Q`` of shape ``(*batch, k, d, d)``, permutations ``(*batch, k, n)``, or a ``Pair``.
        weights: Non-negative, summing to one over the frame axis, shape ``(*batch, k)``; ``None`` is the uniform ``1 / k``. Elements of
            weight zero are padding and repeat another element of the item.
        info: ``FrameInfo`` with one entry per item.
        batch: Item of each point of ragged input, shape ``(N,)``.

    Example:
        >>> x = torch.tensor([[2.0, 0, 0], [0, 1, 0], [-1, 0, 0.5], [0, -0.5, 1]])
        >>> frame = PCAFrame(3, "SE")(x)
        >>> poses = frame.canonicalize(x)  # (4, n, 3)
        >>> frame.average(frame.restore(poses, "position"))  # x again
    """

    def __init__(
        self,
        elements: Element | Axes,
        weights: Float[Tensor, "*batch k"] | None,
        info: FrameInfo,
        batch: Int[Tensor, "N"] | None = None,
    ) -> None:
        self._axes = elements if isinstance(elements, Axes) else None
        self._elements = None if isinstance(elements, Axes) else elements
        self.weights = weights
        self.info = info
        self.batch = batch

    @property
    def elements(self) -> Any:
        """The group elements; frames of principal axes write them out when they are asked for."""
        if self._elements is None:
            assert self._axes is not None
            self._elements = self._axes.elements()
        return self._elements

    @property
    def size(self) -> int:
        """Number of elements per item, padding included."""
        return self._axes.signs.shape[-2] if self._axes is not None else batch_shape(self.elements)[-1]

    @property
    def batch_shape(self) -> torch.Size:
        """Batch dimensions; the number of items for ragged input."""
        return batch_shape(self._axes.motion) if self._axes is not None else batch_shape(self.elements)[:-1]

    @property
    def sizes(self) -> Int[Tensor, "*batch"]:
        """Number of elements of each item without padding."""
        device = self.info.degenerate.device
        if self.weights is None:
            return torch.full(self.batch_shape, self.size, device=device)
        return (self.weights > 0).sum(-1)

    def __repr__(self) -> str:
        kind = "Motion" if self._axes is not None else "Permutation" if isinstance(self.elements, Tensor) else type(self.elements).__name__
        law = "uniform" if self.weights is None else "weighted"
        ragged = "" if self.batch is None else f", points={len(self.batch)}"
        return f"Frame({kind}, batch_shape={tuple(self.batch_shape)}, size={self.size}, {law}{ragged})"

    def canonicalize(self, x: Any, type: Any = "position", *, per: str = "point") -> Any:  # noqa: A002 - the field's word
        """``g^-1 x`` for every element: the canonical poses.

        Args:
            x: Tensor ``(*batch, ...)`` or tree of them; ragged: ``(N, ...)``, or ``(items, ...)`` with ``per="item"``.
            type: Type of ``x`` (``geocore.groups.transform``), or a tree of types. Invariant data is repeated (a view).
            per: For ragged input, whether the first dimension counts points or items.

        Returns:
            ``(*batch, k, ...)``; ragged: ``(k, N, ...)`` or ``(k, items, ...)``. Not always contiguous.

        Raises:
            ValueError: If a shape or type does not fit.
        """
        at = 0 if self.batch is not None else len(self.batch_shape)
        x = _pytree.tree_map_only(Tensor, lambda v: self._item(v, per), x)
        lift = lambda v: v.unsqueeze(at)  # noqa: E731
        if self._axes is not None and not _has_function(type):
            poses = transform(self._one(self._axes.motion, per), x, type, invert=True)
            return transform(self._many(Flip(self._axes.signs), per), _pytree.tree_map_only(Tensor, lift, poses), type)
        return transform(self._many(self._shared(), per), _pytree.tree_map_only(Tensor, lift, x), type, invert=True)

    def restore(self, y: Any, type: Any = "position", *, per: str = "point") -> Any:  # noqa: A002 - the field's word
        """``g y`` for every element: outputs of the canonical poses carried back, not yet averaged.

        Args:
            y: Tensor ``(*batch, k, ...)`` or tree of them; ragged: ``(k, N, ...)``, or ``(k, items, ...)`` with ``per="item"``.
            type: As ``canonicalize``.
            per: As ``canonicalize``.

        Returns:
            The shape of ``y``.

        Raises:
            ValueError: If a shape or type does not fit.
        """
        _pytree.tree_map_only(Tensor, lambda v: self._framed(v, per), y)
        if self._axes is not None and not _has_function(type):
            y = transform(self._many(Flip(self._axes.signs), per), y, type)
            motion = self._one(self._axes.motion, per)
            return transform(motion if self.batch is None else map_element(motion, lambda v: v[None]), y, type)
        return transform(self._many(self._shared(), per), y, type)

    def average(self, y: Any, type: Any = None, *, per: str = "point") -> Any:  # noqa: A002 - the field's word
        """Weighted mean over the frame axis; with ``type``, of the outputs carried back: ``average(restore(y, type))``, but cheaper.

        Args:
            y: Tensor ``(*batch, k, ...)`` or tree of them; ragged: ``(k, N, ...)``, or ``(k, items, ...)`` with ``per="item"``.
            type: Type of ``y``, or a tree of types; ``None`` averages as it is.
            per: As ``canonicalize``.

        Returns:
            Without the frame axis; half precision is summed in float32.

        Raises:
            ValueError: If the shape or type does not fit.
        """
        mean = lambda y: _pytree.tree_map_only(Tensor, lambda v: self._mean(self._framed(v, per), per), y)  # noqa: E731
        if type is None:
            return mean(y)
        if self._axes is None or _has_function(type):
            return mean(self.restore(y, type, per=per))
        # Signs first, then the mean, then one rotation for each item: the order of cheap to expensive.
        flipped = transform(self._many(Flip(self._axes.signs), per), y, type)
        return transform(self._one(self._axes.motion, per), mean(flipped), type)

    def sample(self, k: int = 1, generator: torch.Generator | None = None) -> "Frame":
        """Draw ``k`` elements for each item, independently, with replacement, in proportion to the weights.

        The average over the sample is an unbiased estimate of the average over the frame.

        Args:
            k: Number of elements.
            generator: Source of randomness, on the device of the elements.

        Returns:
            Frame of size ``k`` with uniform weights.

        Raises:
            ValueError: If ``k < 1``.
        """
        check_positive_int("k", k)
        shape = (*self.batch_shape, k)
        device = self.info.degenerate.device
        if self.weights is None:
            index = integers(self.size, shape, generator, device)
        else:
            flat = self.weights.detach().reshape(-1, self.size)
            index = flat.new_zeros((0, k), dtype=torch.int64) if len(flat) == 0 else torch.multinomial(flat, k, True, generator=generator)
            index = index.reshape(shape)
        return Frame(self._gather(index), None, self.info, self.batch)  # each drawn in proportion, so they count alike

    def select(self, index: Int[Tensor, "*batch j"]) -> "Frame":
        """The elements at these positions of the frame axis, their weights rescaled to sum to one.

        Args:
            index: Positions, int64 of shape ``(*batch, j)``.

        Returns:
            Frame of size ``j``.

        Raises:
            ValueError: If the shape does not fit.
        """
        if index.shape[:-1] != self.batch_shape:
            raise ValueError(f"index must have shape {(*self.batch_shape, 'j')}, got {tuple(index.shape)}")
        weights = None
        if self.weights is not None:
            weights = self.weights.gather(-1, index)
            total = weights.sum(-1, keepdim=True)
            weights = torch.where(total > 0, weights / torch.where(total > 0, total, 1.0), 1.0 / index.shape[-1])
        return Frame(self._gather(index), weights, self.info, self.batch)

    def detach(self) -> "Frame":
        """The same frame as constants."""
        weights = None if self.weights is None else self.weights.detach()
        if self._axes is not None:
            V, t = self._axes.motion
            axes = Axes(Motion(V.detach(), None if t is None else t.detach()), self._axes.signs)
            return Frame(axes, weights, self.info, self.batch)
        return Frame(map_element(self.elements, Tensor.detach), weights, self.info, self.batch)

    def _gather(self, index: Tensor) -> Element | Axes:
        def pick(v: Tensor) -> Tensor:
            own = v.shape[index.ndim :]
            return v.gather(index.ndim - 1, index.reshape(*index.shape, *(1,) * len(own)).expand(*index.shape, *own))

        if self._axes is not None:
            signs = self._axes.signs
            return Axes(self._axes.motion, pick(signs.expand(*self.batch_shape, *signs.shape[-2:])))
        return map_element(self.elements, pick)

    def _item(self, v: Tensor, per: str) -> Tensor:
        if self.batch is not None:
            return self._count(v, per, 0)
        shape = tuple(self.batch_shape)
        if tuple(v.shape[: len(shape)]) != shape:
            raise ValueError(f"x must begin with the batch dimensions of the frame, {shape}, got shape {tuple(v.shape)}")
        return v

    def _count(self, v: Tensor, per: str, axis: int) -> Tensor:
        check_option("per", per, ("point", "item"))
        assert self.batch is not None
        want = len(self.batch) if per == "point" else self.batch_shape[0]
        if v.ndim <= axis or v.shape[axis] != want:
            raise ValueError(
                f"per {per} data of this ragged frame must have {want} entries along dimension {axis}, got shape {tuple(v.shape)}; "
                "per='item' is for one entry per item, per='point' for one per point"
            )
        return v

    def _framed(self, v: Tensor, per: str) -> Tensor:
        if self.batch is not None:
            self._count(v, per, 1)
            want: tuple[int, ...] = (self.size,)
        else:
            want = (*self.batch_shape, self.size)
        if tuple(v.shape[: len(want)]) != want:
            raise ValueError(f"y must begin with the dimensions {want} (batch and frame), got shape {tuple(v.shape)}")
        return v

    def _one(self, g: Element, per: str) -> Element:
        """An element per item as one per entry of the data."""
        if self.batch is None or per == "item":
            return g
        return map_element(g, lambda v: v[self.batch])

    def _many(self, g: Element, per: str) -> Element:
        """Elements per item as they act on data with a frame axis: for ragged data that comes first."""
        if self.batch is None:
            return g
        return map_element(g, lambda v: self._spread(v, per))

    def _spread(self, v: Tensor, per: str) -> Tensor:
        whole = v[self.batch] if per == "point" and v.shape[0] != 1 else v
        return whole.transpose(0, 1)

    def _shared(self) -> Element:
        """The elements, with one translation per item if all have the same."""
        g = self.elements
        if isinstance(g, Motion) and g.t is not None and g.t.ndim > 1 and g.t.stride(-2) == 0:
            return Motion(g.Q, g.t[..., :1, :])
        return g

    def _mean(self, y: Tensor, per: str) -> Tensor:
        axis = 0 if self.batch is not None else len(self.batch_shape)
        work = y.float() if y.dtype in (torch.float16, torch.bfloat16) else y
        if not (y.dtype.is_floating_point or y.dtype.is_complex):
            raise ValueError(f"y must have a floating-point dtype to be averaged, got {y.dtype}")
        if self.weights is None:
            return work.mean(axis).to(y.dtype)
        w = self.weights if self.batch is None else self._spread(self.weights, per)
        w = w.to(work.real.dtype if work.is_complex() else work.dtype)
        return (work * w.reshape(*w.shape, *(1,) * (y.ndim - w.ndim))).sum(axis).to(y.dtype)


def _has_function(types: Any) -> bool:
    return any(callable(leaf) for leaf in _pytree.tree_leaves(types))
