"""Types of data over nested inputs and outputs."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

__all__ = ["LeafType", "Types", "map_types"]

LeafType = str | Callable[..., Any]
Types = Any  # a LeafType, or a structure of them that mirrors the data


def map_types(fn: Callable[[Tensor, LeafType], Any], tree: Any, types: Types, name: str = "tree") -> Any:
    """``fn(leaf, type)`` for every tensor of a structure; what is not a tensor stays.

    One type serves every tensor below it. In a mapping, a key that the types leave out is invariant.

    Raises:
        ValueError: If the types do not fit the structure; the message carries ``name``.
    """
    if isinstance(tree, Tensor):
        if isinstance(types, Mapping | tuple | list):
            raise ValueError(f"types of {name} must be one type for one tensor, got {types!r}")  # noqa: TRY004
        return fn(tree, types)
    if isinstance(tree, Mapping):
        if isinstance(types, Mapping):
            unknown = sorted(set(types) - set(tree), key=str)
            if unknown:
                raise ValueError(f"types of {name} name {unknown}, but it holds {sorted(tree, key=str)}")
            mapped = {key: map_types(fn, value, types.get(key, "invariant"), f"{name}[{key!r}]") for key, value in tree.items()}
        else:
            mapped = {key: map_types(fn, value, types, f"{name}[{key!r}]") for key, value in tree.items()}
        return mapped if type(tree) is dict else _rebuild(tree, mapped)
    if isinstance(tree, tuple | list):
        if isinstance(types, tuple | list):
            if len(types) != len(tree):
                raise ValueError(f"types of {name} must be {len(tree)} like its entries, got {len(types)}")
            each = list(types)
        else:
            each = [types] * len(tree)
        values = [map_types(fn, value, kind, f"{name}[{i}]") for i, (value, kind) in enumerate(zip(tree, each, strict=True))]
        if isinstance(tree, tuple) and hasattr(tree, "_fields"):
            return type(tree)(*values)
        return tuple(values) if isinstance(tree, tuple) else values
    return tree


def _rebuild(tree: Mapping[Any, Any], mapped: dict[Any, Any]) -> Any:
    """The same class where it takes keywords (the outputs of transformers do), a plain dict otherwise."""
    try:
        return type(tree)(**mapped)
    except TypeError:
        return mapped
