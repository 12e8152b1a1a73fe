"""How a group element acts on data of a named type, on tensors and on trees of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from geocore.groups._elements import Element, Flip, Motion, Pair, as_element, batch_shape, inverse, orientation
from geocore.spd._checks import no_autocast

__all__ = ["TYPES", "Type", "check_type", "parse_type", "transform"]

TYPES: tuple[str, ...] = (
    "invariant",
    "vector",
    "position",
    "tensor(k)",
    "pseudovector",
    "pseudoscalar",
    "node",
    "node(k)",
    "edge",
    "edge(k)",
)
"""Names of types of data; ``k`` is a number. For a product of groups two of them are joined, as in ``"position*node"``."""

Type = str | Callable[[Any, Tensor], Tensor]
"""A name from ``TYPES`` or a function ``(g, x) -> x``."""

_MOTION = ("vector", "position", "tensor", "pseudovector", "pseudoscalar")
_PLAIN = ("invariant", "vector", "position", "pseudovector", "pseudoscalar", "node", "edge")
_COUNTED = ("tensor", "node", "edge")


def parse_type(name: str) -> tuple[str, int]:
    """``(name, k)`` of a single type; ``k`` is its number or the default of that name.

    Raises:
        ValueError: If it is not a type; the message lists them.
    """
    base, bracket, rest = name.strip().partition("(")
    if not bracket and base in _PLAIN:
        return base, int(base == "node")
    if bracket and base in _COUNTED and rest.endswith(")") and rest[:-1].isdigit():
        return base, int(rest[:-1])
    raise ValueError(
        f"type must be a function (g, x) -> x or one of {', '.join(TYPES)} (k a number, two joined by '*' for a product), got {name!r}"
    )


def check_type(kind: Any) -> None:
    """Raise unless ``kind`` is a function or names a type.

    Raises:
        ValueError: If it names none.
        TypeError: If it is neither.
    """
    if isinstance(kind, str):
        for part in kind.split("*"):
            parse_type(part)
    elif not callable(kind):
        raise TypeError(f"type must be a name or a function (g, x) -> x, got {type(kind).__name__}")


def _fit(name: str, kind: str, x: Tensor, batch: Sequence[int], trailing: int) -> None:
    if x.ndim < len(batch) + trailing:
        raise ValueError(
            f"{name} of type {kind!r} must have the batch dimensions of the element, {tuple(batch)}, and {trailing} more, "
            f"got shape {tuple(x.shape)}"
        )
    for have, want in zip(x.shape, batch, strict=False):
        if have != want and have != 1 and want != 1:
            raise ValueError(
                f"{name} of type {kind!r} must begin with the batch dimensions of the element, {tuple(batch)}, got shape {tuple(x.shape)}"
            )


def _rotate(Q: Tensor, x: Tensor, batch: int) -> Tensor:
    """``x Q^T`` along the last axis; ``Q`` of ``batch`` leading dimensions that broadcast with those of ``x``.

    Products of tiny matrices cost by their number, not by their size, so each case is written as few of them with long rows.
    """
    d = x.shape[-1]
    if not batch:
        return x @ Q.mT
    if x.ndim == batch + 1:
        return (Q * x[..., None, :]).sum(-1)
    flat = x if x.ndim == batch + 2 else x.flatten(batch, -2)
    k = Q.shape[batch - 1]
    if flat.shape[batch - 1] == 1 and k > 1:  # many elements for one item: side by side
        side = Q.mT.movedim(batch - 1, -2).flatten(-2)
        out = (flat.squeeze(batch - 1) @ side).unflatten(-1, (k, d)).movedim(-2, batch - 1)
    else:
        out = (Q @ flat.mT).mT.contiguous()  # faster than flat @ Q.mT, and what follows runs over rows
    return out if x.ndim == batch + 2 else out.reshape(*out.shape[:batch], *x.shape[batch:])


def _insert(s: Tensor, count: int, before: int = 0) -> Tensor:
    """``s`` with ``count`` dimensions of size 1 inserted before its last ``before`` ones."""
    at = s.ndim - before
    return s.reshape((*s.shape[:at], *(1,) * count, *s.shape[at:]))


def _axes(kind: str, k: int) -> int:
    """How many of the last axes are geometric."""
    return {"tensor": k, "pseudoscalar": 0}.get(kind, 1)


def _check_geometric(x: Tensor, kind: str, k: int, name: str, batch: Sequence[int], d: int) -> torch.dtype:
    """Check the shape and return the dtype to work in."""
    if not (x.dtype.is_floating_point or x.dtype.is_complex):
        raise TypeError(f"{name} must have a floating-point dtype to be of type {kind!r}, got {x.dtype}; integer data is 'invariant'")
    axes = _axes(kind, k)
    _fit(name, kind, x, batch, axes)
    if any(size != d for size in x.shape[x.ndim - axes :]):
        raise ValueError(f"{name} of type {kind!r} must end in {axes} dimension(s) of size {d}, the element's, got shape {tuple(x.shape)}")
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype


def _flip(g: Flip, x: Tensor, kind: str, k: int, name: str) -> Tensor:
    """A diagonal motion, by multiplication; it is its own inverse."""
    batch, d = g.s.shape[:-1], g.s.shape[-1]
    work = _check_geometric(x, kind, k, name, batch, d)
    s, y = g.s.to(work), x.to(work)
    between = x.ndim - len(batch)
    for axis in range(-_axes(kind, k), 0):
        y = y * s.reshape((*batch, *(1,) * (between + axis), d, *(1,) * (-1 - axis)))
    if kind in ("pseudovector", "pseudoscalar"):
        y = y * _insert(s.prod(-1), between)
    return y.to(x.dtype)


@no_autocast
def _move(g: Motion, x: Tensor, kind: str, k: int, name: str, invert: bool) -> Tensor:
    batch, d = g.Q.shape[:-2], g.Q.shape[-1]
    work = _check_geometric(x, kind, k, name, batch, d)
    Q, y = g.Q.to(work), x.to(work)
    if invert:
        Q = Q.mT
    if kind == "position" and g.t is not None:
        t = _insert(g.t.to(work), x.ndim - len(batch) - 1, 1)
        y = _rotate(Q, y - t, len(batch)) if invert else _rotate(Q, y, len(batch)) + t
    elif kind == "tensor":
        for axis in range(-k, 0):
            y = _rotate(Q, y.movedim(axis, -1), len(batch)).movedim(-1, axis)
    elif kind != "pseudoscalar":
        y = _rotate(Q, y, len(batch))
    if kind in ("pseudovector", "pseudoscalar"):
        y = y * _insert(orientation(g.Q).to(work), x.ndim - len(batch))
    return y.to(x.dtype)


def _permute(p: Tensor, x: Tensor, kind: str, k: int, name: str) -> Tensor:
    """``y_{..., i} = x_{..., p_i}`` along the permuted axes."""
    batch, n = p.shape[:-1], p.shape[-1]
    count = 1 if kind == "node" else 2
    _fit(name, kind, x, batch, count + k)
    places = range(x.ndim - k - count, x.ndim - k)
    if any(x.shape[axis] != n for axis in places):
        raise ValueError(
            f"{name} of type {kind!r} must have {count} dimension(s) of size {n}, the element's, before its last {k}, "
            f"got shape {tuple(x.shape)}"
        )
    y = x.expand(*torch.broadcast_shapes(x.shape[: len(batch)], batch), *x.shape[len(batch) :])
    if not batch:
        for axis in places:
            y = y.index_select(axis, p.long())
        return y
    for axis in places:
        index = p.long().reshape(*batch, *(1,) * (axis - len(batch)), n, *(1,) * (x.ndim - axis - 1))
        y = y.gather(axis, index.expand(y.shape))
    return y


def _act(g: Any, x: Tensor, kind: Any, name: str, invert: bool) -> Tensor:
    if not isinstance(kind, str):
        check_type(kind)
        return kind(inverse(g) if invert else g, x)
    g = as_element(g)
    if isinstance(g, Pair):
        first, star, second = kind.rpartition("*")
        if not star:
            if parse_type(kind)[0] != "invariant":
                raise ValueError(f"type must name an action of each factor of the pair, as in 'position*node', got {kind!r}")
            first = "invariant"
        return _act(g.first, _act(g.second, x, second, name, invert), first, name, invert)
    base, k = parse_type(kind)
    if base == "invariant":
        batch = batch_shape(g)
        _fit(name, kind, x, batch, 0)
        return x.expand(*torch.broadcast_shapes(x.shape[: len(batch)], batch), *x.shape[len(batch) :])
    if isinstance(g, Motion | Flip):
        if base not in _MOTION:
            raise ValueError(f"{name} of type {kind!r} is acted on by permutations, but the element is a motion")
        if isinstance(g, Flip):
            return _flip(g, x, base, k, name)
        return _move(g, x, base, k, name, invert)
    if base in _MOTION:
        raise ValueError(f"{name} of type {kind!r} is acted on by motions, but the element is a permutation; its types are node and edge")
    p = g if invert else inverse(g)
    assert isinstance(p, Tensor)
    return _permute(p, x, base, k, name)


def _walk(g: Any, tree: Any, types: Any, name: str, invert: bool, shared: bool) -> Any:
    if isinstance(tree, Tensor):
        if types is None:
            return tree
        if shared and not (tree.dtype.is_floating_point or tree.dtype.is_complex) and isinstance(types, str) and _acts_as_motion(g):
            return tree
        if isinstance(types, Mapping | tuple | list):
            raise ValueError(f"types must have the structure of the data, but {name} is a tensor with type {types!r}")  # noqa: TRY004
        return _act(g, tree, types, name, invert)
    leaves, spec = _pytree.tree_flatten(tree, is_leaf=lambda node: node is not tree)
    if len(leaves) == 1 and leaves[0] is tree:  # a number, a string, None: nothing that a group acts on
        return tree
    if isinstance(types, Mapping) or (isinstance(types, tuple | list) and not callable(types)):
        if isinstance(tree, Mapping) and isinstance(types, Mapping) and set(tree) == set(types):
            names, parts = list(tree), [types[key] for key in tree]
        elif not isinstance(tree, Mapping) and not isinstance(types, Mapping) and len(types) == len(leaves):
            names, parts = list(range(len(leaves))), list(types)
        else:
            have = sorted(map(str, tree)) if isinstance(tree, Mapping) else f"{len(leaves)} entries"
            raise ValueError(f"types must have the structure of the data, but {name} has {have} and types is {types!r}")
        moved = [_walk(g, leaf, part, f"{name}[{key!r}]", invert, False) for key, leaf, part in zip(names, leaves, parts, strict=True)]
    else:
        moved = [_walk(g, leaf, types, f"{name}[{i}]", invert, True) for i, leaf in enumerate(leaves)]
    return _pytree.tree_unflatten(moved, spec)


def _acts_as_motion(g: Any) -> bool:
    return isinstance(as_element(g), Motion | Flip)


def transform(g: Element | tuple[Tensor, Tensor | None], tree: Any, types: Any, *, invert: bool = False) -> Any:
    """Act with a group element on data: ``g x`` for every tensor of ``tree``, each by its type.

    | type | shape of ``x`` | ``g x`` |
    |---|---|---|
    | ``"invariant"`` | any | ``x`` |
    | ``"vector"`` | ``(..., d)`` | ``Q x`` |
    | ``"position"`` | ``(..., d)`` | ``Q x + t`` |
    | ``"tensor(k)"`` | ``(..., d, ..., d)`` | ``Q`` on each of the last ``k`` axes, so ``Q T Q^T`` for ``k = 2`` |
    | ``"pseudovector"`` | ``(..., d)`` | ``det(Q) Q x`` |
    | ``"pseudoscalar"`` | ``(...)`` | ``det(Q) x`` |
    | ``"node"``, ``"node(k)"`` | ``(..., n, c)``, ``k`` axes after ``n`` | row ``i`` goes to row ``p[i]`` |
    | ``"edge"``, ``"edge(k)"`` | ``(..., n, n)``, ``k`` axes after them | rows and columns alike |
    | ``"a*b"`` | | for a ``Pair``: ``b`` with the second element, then ``a`` with the first |

    The batch dimensions of ``g`` are matched with the *leading* dimensions of ``x`` and broadcast with them; anything may stand between
    these and the geometric axes (points, channels), so an element of shape ``(B, d, d)`` acts on ``(B, n, c, d)``.

    Args:
        g: Element: ``Motion`` or ``(Q, t)``, ``Pair``, or int64 permutation of shape ``(..., n)``.
        tree: Tensor or any tree of dicts, lists and tuples of them. What is not a tensor passes through.
        types: One type for all tensors, or a tree of types with the structure of ``tree``; ``None`` leaves a branch as it is. Under one
            type for a whole tree of several tensors, integer tensors pass a motion unchanged.
        invert: Act with the inverse of ``g``; positions become ``Q^T (x - t)``, without the cancellation of ``Q^T x - Q^T t``.

    Returns:
        The same structure. Dtypes are kept; half precision is computed in float32.

    Raises:
        ValueError: If a type is unknown or does not belong to this kind of element, structures differ, or a shape does not fit.
        TypeError: If ``g`` is not an element, a type is neither a name nor a function, or an integer tensor is given a geometric type.

    Example:
        >>> g = Motion(torch.tensor([[0.0, -1.0], [1.0, 0.0]]), torch.tensor([5.0, 0.0]))
        >>> transform(g, {"x": torch.tensor([1.0, 0.0]), "v": torch.tensor([1.0, 0.0])}, {"x": "position", "v": "vector"})
        {'x': tensor([5., 1.]), 'v': tensor([0., 1.])}
    """
    return _walk(g, tree, types, "x", invert, False)
