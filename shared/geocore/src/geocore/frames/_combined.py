"""Frames from groups that are small enough to be taken whole, and from two frames at once."""

from typing import Any

import torch
from torch import Tensor

from geocore.frames._frame import Frame, FrameInfo, map_element
from geocore.groups._elements import Element, Motion, Pair, as_element, batch_shape, compose

__all__ = ["GroupFrame", "ProductFrame"]


_PRODUCTS = 256


class GroupFrame:
    """A whole finite group as the frame of every input: averaging over it is the Reynolds operator.

    Never degenerate, and exact for inputs of any symmetry; for octahedral, dihedral or cyclic symmetry, or few nodes.

    Args:
        elements: A finite group of ``geocore.groups``; or all elements of one: orthogonal matrices ``(k, d, d)`` (tensor or array), a
            ``Motion`` of them, or permutations ``(k, n)``.
        check: Whether to verify that products of elements are elements again: of all pairs, of larger sets those with 256 left factors.

    Raises:
        ValueError: If the elements are no group, or infinitely many.
        TypeError: If they are no elements.

    Example:
        >>> frame = GroupFrame(torch.stack([torch.eye(2), -torch.eye(2)]))(torch.randn(5, 2))
        >>> frame.average(frame.canonicalize(torch.randn(5, 2), "vector")).abs().max()
        tensor(0.)
    """

    def __init__(self, elements: Any, *, check: bool = True) -> None:
        g = elements
        if hasattr(g, "elements") and callable(g.elements):
            if not g.is_finite:
                raise ValueError(f"elements must be those of a finite group, got {g.name}")
            g, check = g.elements(), False
        elif not isinstance(g, Tensor | tuple):
            g = torch.as_tensor(g)  # an array, as of scipy's Rotation.create_group
        self.elements: Element = as_element(g)
        batch = batch_shape(self.elements)
        if len(batch) != 1 or batch[0] == 0:
            raise ValueError(f"elements must have one batch dimension, their number, got batch shape {tuple(batch)}")
        if check:
            _check_closed(self.elements)

    def __repr__(self) -> str:
        return f"GroupFrame(size={batch_shape(self.elements)[0]})"

    def __call__(self, x: Tensor, weights: Tensor | None = None, batch: Tensor | None = None, *, n_items: int | None = None) -> Frame:
        """The group, once for each item of ``x``.

        Args:
            x: Data with two dimensions of its own, as ``(..., n, d)`` or ``(..., n, n)``; with ``batch``, ``(N, d)``.
            weights: Not used.
            batch: Item of each point of ragged input, shape ``(N,)``.
            n_items: Number of items; read from ``batch`` if not given.

        Returns:
            ``Frame`` with the elements expanded (views) to the batch dimensions, in the floating dtype of ``x`` (at least float32).

        Raises:
            ValueError: If ``x`` has fewer than two dimensions.
        """
        from geocore.frames._moments import count_items

        del weights
        if x.ndim < 2:
            raise ValueError(f"x must have shape (..., n, d), got {tuple(x.shape)}")
        shape = x.shape[:-2] if batch is None else (count_items(batch, n_items),)
        dtype = torch.promote_types(x.dtype, torch.float32) if x.dtype.is_floating_point else torch.get_default_dtype()

        def spread(v: Tensor) -> Tensor:
            v = v.to(x.device, dtype) if v.dtype.is_floating_point else v.to(x.device)
            return v.expand(*shape, *v.shape)

        flat = torch.zeros(shape, dtype=torch.bool, device=x.device)
        ones = torch.ones(shape, dtype=dtype, device=x.device)
        info = FrameInfo(flat, ones, torch.full(shape, x.shape[-1], device=x.device))
        return Frame(map_element(self.elements, spread), None, info, None if batch is None else batch.long())


def _flat(g: Element) -> Tensor:
    if isinstance(g, Pair):
        return torch.cat([_flat(as_element(g.first)), _flat(as_element(g.second))], -1)
    if isinstance(g, Motion):
        Q = g.Q.flatten(-2).double()
        return Q if g.t is None else torch.cat([Q, g.t.double()], -1)
    assert isinstance(g, Tensor)
    return g.double()


def _check_closed(g: Element) -> None:
    k = batch_shape(g)[0]
    have = _flat(g)
    tol = 1e-9 if _flat_dtype(g) != torch.float32 else 1e-4
    for i in range(0, k, max(1, k // _PRODUCTS)):
        products = _flat(compose(map_element(g, lambda v, i=i: v[i : i + 1]), g))
        distance = torch.cdist(products, have, p=torch.inf).amin(-1)
        if bool((distance > tol).any()):
            j = int(distance.argmax())
            raise ValueError(f"elements must be all those of a group, but the product of elements {i} and {j} is not among the {k} given")


def _flat_dtype(g: Element) -> torch.dtype:
    if isinstance(g, Pair):
        return _flat_dtype(as_element(g.first))
    return g.Q.dtype if isinstance(g, Motion) else torch.int64


class ProductFrame:
    """The frame of a product of two groups: all pairs of an element of each.

    Given one input, the second frame is built from every canonical pose of the first: that is a frame if the first does not move when the
    second group acts (principal axes do not depend on the order of points) and needs nothing of the second. Given a pair of inputs, the
    frames are built from one each, and neither may move with the other group. Data types are pairs, as ``"position*node"``.

    Args:
        first: Frame constructor of the first group.
        second: Frame constructor of the second group.

    Example:
        >>> frame = ProductFrame(PCAFrame(3), SortFrame.random(3, 4))(torch.randn(6, 3))
        >>> frame.canonicalize(torch.randn(6, 3), "vector*node").shape
        torch.Size([32, 6, 3])
    """

    def __init__(self, first: Any, second: Any) -> None:
        for name, value in (("first", first), ("second", second)):
            if not callable(value):
                raise TypeError(f"{name} must be a frame constructor, a function of x that returns a Frame, got {type(value).__name__}")
        self.first, self.second = first, second

    def __repr__(self) -> str:
        return f"ProductFrame({self.first!r}, {self.second!r})"

    def __call__(self, x: Any, weights: Any = None, batch: Tensor | None = None) -> Frame:
        """The product frame of each item.

        Args:
            x: Input of the first frame, a tensor, or a pair of inputs, one for each.
            weights: Weights for both frames, or a pair of them.
            batch: Not supported.

        Returns:
            ``Frame`` with ``Pair`` elements and the product of both sizes, the first varying slowest.

        Raises:
            NotImplementedError: If ``batch`` is given.
            ValueError: If the batch shapes of both frames differ.
        """
        if batch is not None:
            raise NotImplementedError("batch is not supported for product frames; pad the items to one size and pass the mask as weights")
        u, v = weights if isinstance(weights, tuple) else (weights, weights)
        if isinstance(x, tuple):
            a, b = self.first(x[0], weights=u), self.second(x[1], weights=v)
            if a.batch_shape != b.batch_shape:
                raise ValueError(f"both frames must have the same batch shape, got {tuple(a.batch_shape)} and {tuple(b.batch_shape)}")
            b_axis = None
        else:
            a = self.first(x, weights=u)
            poses = a.canonicalize(x, "position" if isinstance(a.elements, Motion) else "node")
            b_axis = len(a.batch_shape)
            v = None if v is None else v.unsqueeze(b_axis).expand(*v.shape[:b_axis], a.size, *v.shape[b_axis:])
            b = self.second(poses, weights=v)
        n, i, j = len(a.batch_shape), a.size, b.size

        def slow(t: Tensor) -> Tensor:
            return t.unsqueeze(n + 1).expand(*t.shape[: n + 1], j, *t.shape[n + 1 :]).flatten(n, n + 1)

        def fast(t: Tensor) -> Tensor:
            t = t.unsqueeze(n).expand(*t.shape[:n], i, *t.shape[n:]) if b_axis is None else t
            return t.flatten(n, n + 1)

        weights_out = None
        if a.weights is not None or b.weights is not None:
            w = a.info.gap.new_ones(()) if a.weights is None else slow(a.weights)
            w = w / i if a.weights is None else w
            z = fast(b.weights) if b.weights is not None else w.new_full((), 1.0 / j)
            weights_out = (w * z).expand(*a.batch_shape, i * j)
        inner = b.info
        if b_axis is not None:
            inner = FrameInfo(b.info.degenerate.any(n), b.info.gap.amin(n), b.info.rank.amin(n))
        info = FrameInfo(a.info.degenerate | inner.degenerate, torch.minimum(a.info.gap, inner.gap.to(a.info.gap.dtype)), a.info.rank)
        return Frame(Pair(map_element(a.elements, slow), map_element(b.elements, fast)), weights_out, info)
