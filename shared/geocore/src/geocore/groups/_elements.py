"""Group elements as plain data: what a motion, a permutation and a pair are, composed and inverted by one rule each."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geocore._checks import check_square

__all__ = ["Element", "Flip", "Motion", "Pair", "as_element", "batch_shape", "compose", "inverse", "is_permutation", "orientation"]


class Motion(NamedTuple):
    """``v -> Q v + t``: an orthogonal matrix and a translation.

    Args:
        Q: Orthogonal matrices, shape ``(..., d, d)``.
        t: Translations, shape ``(..., d)``; ``None`` is no translation.

    Example:
        >>> half_turn = Motion(torch.diag(torch.tensor([-1.0, -1.0, 1.0])), torch.tensor([1.0, 0.0, 0.0]))
        >>> transform(half_turn, torch.tensor([1.0, 0.0, 2.0]), "position")
        tensor([0., 0., 2.])
    """

    Q: Float[Tensor, "*batch d d"]
    t: Float[Tensor, "*batch d"] | None = None


class Flip(NamedTuple):
    """A diagonal motion of signs, shape ``(..., d)``: what principal axes leave open. Internal, since it is also a ``Motion``."""

    s: Float[Tensor, "*batch d"]


class Pair(NamedTuple):
    """An element of a product of two groups; both act, ``first`` after ``second`` (their actions commute).

    Args:
        first: Element of the first group.
        second: Element of the second group.

    Example:
        >>> g = Pair(Motion(torch.eye(3)), torch.tensor([1, 0]))
        >>> transform(g, torch.tensor([[1.0, 0, 0], [0, 1, 0]]), "position*node")
        tensor([[0., 1., 0.],
                [1., 0., 0.]])
    """

    first: Any
    second: Any


Element = Motion | Pair | Flip | Tensor
"""A motion, a pair, or a permutation: an int64 tensor of shape ``(..., n)`` sending ``i`` to ``p[i]``."""


def is_permutation(g: Any) -> bool:
    """Whether ``g`` is a tensor of indices."""
    return isinstance(g, Tensor) and not (g.dtype.is_floating_point or g.dtype.is_complex or g.dtype == torch.bool)


def as_element(g: Any) -> Element:
    """``g`` as one of the element classes: a floating tensor is the ``Q`` of a motion, a plain pair ``(Q, t)`` a motion.

    Raises:
        TypeError: If it is none of them.
        ValueError: If ``Q`` is not square, or ``t`` does not fit it.
    """
    if isinstance(g, Pair | Flip) or is_permutation(g):
        return g
    if isinstance(g, Tensor):
        g = Motion(g)
    elif isinstance(g, tuple) and len(g) == 2 and isinstance(g[0], Tensor) and (g[1] is None or isinstance(g[1], Tensor)):
        g = Motion(*g)
    else:
        raise TypeError(f"g must be a Motion, a Pair, a (Q, t) tuple or a tensor of permutation indices, got {type(g).__name__}")
    check_square("Q", g.Q)
    if g.t is not None:
        fits = g.t.ndim == g.Q.ndim - 1 and g.t.shape[-1] == g.Q.shape[-1]
        if not fits or any(have not in (1, want) for have, want in zip(g.t.shape[:-1], g.Q.shape[:-2], strict=True)):
            raise ValueError(f"t must have shape {tuple(g.Q.shape[:-1])} to go with Q of shape {tuple(g.Q.shape)}, got {tuple(g.t.shape)}")
    return g


def batch_shape(g: Element) -> torch.Size:
    """Batch dimensions of an element."""
    if isinstance(g, Pair):
        return torch.broadcast_shapes(batch_shape(as_element(g.first)), batch_shape(as_element(g.second)))
    if isinstance(g, Motion):
        return g.Q.shape[:-2]
    return (g.s if isinstance(g, Flip) else g).shape[:-1]


def orientation(Q: Float[Tensor, "*batch d d"]) -> Float[Tensor, "*batch"]:
    """+1 or -1: the determinant of an orthogonal matrix without its rounding."""
    Q = Q.detach()
    if Q.shape[-1] == 3:
        det = (torch.linalg.cross(Q[..., 0], Q[..., 1]) * Q[..., 2]).sum(-1)
    elif Q.shape[-1] == 2:
        det = Q[..., 0, 0] * Q[..., 1, 1] - Q[..., 0, 1] * Q[..., 1, 0]
    else:
        det = torch.linalg.det(Q)
    return torch.where(det < 0, -1.0, 1.0).to(Q.dtype)


def _invert(p: Int[Tensor, "*batch n"]) -> Int[Tensor, "*batch n"]:
    return torch.argsort(p, dim=-1).to(p.dtype)  # not a scatter, which function transforms cannot batch


def inverse(g: Element) -> Element:
    """The inverse element: ``(Q^T, -Q^T t)`` of a motion, the inverse permutation, the pair of inverses.

    Args:
        g: Element; ``as_element`` forms are taken too.

    Returns:
        Element of the same kind and batch shape.

    Raises:
        TypeError: If ``g`` is not an element.

    Example:
        >>> inverse(torch.tensor([2, 0, 1]))
        tensor([1, 2, 0])
    """
    g = as_element(g)
    if isinstance(g, Pair):
        return Pair(inverse(g.first), inverse(g.second))
    if isinstance(g, Motion):
        return Motion(g.Q.mT, None if g.t is None else -(g.Q.mT @ g.t[..., None])[..., 0])
    return g if isinstance(g, Flip) else _invert(g)


def compose(g: Element, h: Element) -> Element:
    """``g h``: first ``h`` acts, then ``g``; ``(Q_g Q_h, Q_g t_h + t_g)`` for motions, ``i -> g[h[i]]`` for permutations.

    Args:
        g: Element.
        h: Element of the same kind, batch shapes broadcast.

    Returns:
        Element of the same kind.

    Raises:
        TypeError: If ``g`` and ``h`` are not elements of one kind.
        ValueError: If their sizes differ.

    Example:
        >>> compose(torch.tensor([2, 0, 1]), torch.tensor([1, 0, 2]))
        tensor([0, 2, 1])
    """
    g, h = as_element(g), as_element(h)
    if isinstance(g, Pair) and isinstance(h, Pair):
        return Pair(compose(g.first, h.first), compose(g.second, h.second))
    if isinstance(g, Motion) and isinstance(h, Motion):
        if g.Q.shape[-1] != h.Q.shape[-1]:
            raise ValueError(f"g and h must act on the same dimension, got {g.Q.shape[-1]} and {h.Q.shape[-1]}")
        moved = None if h.t is None else (g.Q @ h.t[..., None])[..., 0]
        t = g.t if moved is None else moved if g.t is None else moved + g.t
        return Motion(g.Q @ h.Q, t)
    if isinstance(g, Tensor) and isinstance(h, Tensor):
        if g.shape[-1] != h.shape[-1]:
            raise ValueError(f"g and h must permute the same number of entries, got {g.shape[-1]} and {h.shape[-1]}")
        shape = torch.broadcast_shapes(g.shape, h.shape)
        return g.expand(shape).gather(-1, h.expand(shape).long())
    raise TypeError(f"g and h must be elements of one kind, got {type(g).__name__} and {type(h).__name__}")
