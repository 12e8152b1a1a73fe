"""One call of a backbone over the poses of a frame: inputs posed and folded, outputs taken back and averaged."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from frameavg._fold import DenseFold, Fold, RaggedFold
from frameavg._inputs import as_frame, call_frame, find_source, frame_weights, sampling, split_types, takes
from frameavg._types import Types, map_types
from geocore._checks import check_option, check_positive_int
from geocore.frames import Frame, FrameInfo

__all__ = ["Averaged", "average"]


class Averaged(NamedTuple):
    """An averaged output with the frame it was averaged over."""

    output: Any
    frame: Frame


def average(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    frame: Callable[..., Any],
    in_types: Types,
    out_types: Types,
    *,
    frame_input: int | str | Callable[..., Tensor] = 0,
    weights: Tensor | None = None,
    mask: Tensor | None = None,
    n_samples: int | None = None,
    generator: torch.Generator | None = None,
    chunk: int | None = None,
    reduce: str = "mean",
) -> Averaged:
    """Frame averaging of a call with any arguments; see ``FrameAveraging`` for what they mean.

    Args:
        fn: The function.
        args: Its positional inputs, transformed after ``in_types``.
        kwargs: Its keyword inputs.
        frame: Frame constructor.
        in_types: Types of ``args`` (a sequence), or of arguments by position and name (a dict).
        out_types: Types of the outputs.
        frame_input: Which input decides the frame.
        weights: Weights of the points.
        mask: Valid points.
        n_samples: Random elements instead of the whole frame.
        generator: Source of the randomness.
        chunk: Elements handed over at once.
        reduce: ``"mean"``, or ``"none"`` for the outputs of every element, restored, on an axis after the batch axes.

    Returns:
        Output and frame.
    """
    check_option("reduce", reduce, ("mean", "none"))
    for name, count in (("n_samples", n_samples), ("chunk", chunk)):
        if count is not None:
            check_positive_int(name, count)
    arg_types, kwarg_types = split_types(in_types, args, kwargs)
    source = find_source(args, kwargs, frame_input, arg_types)
    batch = kwargs.get("batch")
    ragged = isinstance(batch, Tensor) and not batch.is_floating_point() and source.ndim == 2
    weights = frame_weights(weights, mask, source)
    if mask is not None and source.ndim >= 2 and not ragged:
        source = torch.where(mask.bool().unsqueeze(-1), source, torch.zeros((), dtype=source.dtype, device=source.device))
    frame = sampling(frame, n_samples)
    if hasattr(frame, "buckets") and reduce == "mean" and source.ndim == 3 and len(source) > 1 and not ragged:
        return _by_size(fn, args, kwargs, frame, source, (arg_types, kwarg_types), out_types, weights, mask, generator, chunk)
    elements = as_frame(call_frame(frame, source, weights, batch if ragged else None, generator), source)
    if n_samples is not None and elements.size > n_samples:
        elements = elements.sample(n_samples, generator)
    run = _Run(fn, args, kwargs, (arg_types, kwarg_types), out_types, mask, source, batch if ragged else None)
    return Averaged(run.over(elements, chunk, reduce), elements)


class _Run(NamedTuple):
    """One call of the backbone, ready to be made over any part of a frame."""

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    types: tuple[list[Types], dict[str, Types]]
    out_types: Types
    mask: Tensor | None
    source: Tensor
    batch: Tensor | None

    def over(self, elements: Frame, chunk: int | None, reduce: str) -> Any:
        """The average over all elements, ``chunk`` at a time, or the restored outputs of each."""
        size = elements.size
        step = size if chunk is None else min(chunk, size)
        if step >= size:
            return self.part(elements, 0, size, reduce)
        pieces = []
        for start in range(0, size, step):
            part = (elements, start, min(start + step, size), reduce)
            pieces.append(checkpoint(self.part, *part, use_reentrant=False) if torch.is_grad_enabled() else self.part(*part))
        if reduce == "none":
            axis = 0 if self.batch is not None else self.source.ndim - 2
            return _zip_trees(pieces, lambda values: torch.cat(values, axis))
        return _zip_trees(pieces, lambda values: torch.stack(values).sum(0))

    def part(self, elements: Frame, start: int, stop: int, reduce: str) -> Any:
        """The share of the elements from ``start`` to ``stop``."""
        chosen = elements
        if stop - start < elements.size:
            places = torch.arange(start, stop, device=self.source.device)
            chosen = elements.select(places.expand(*elements.batch_shape, stop - start))
        fold: Fold = (
            DenseFold(tuple(self.source.shape[:-2]), self.source.shape[-2], chosen.size)
            if self.batch is None
            else RaggedFold(self.batch, elements.batch_shape[0], chosen.size, _edges(self.kwargs))
        )

        def pose(t: Tensor, kind: Any) -> Tensor:
            return _pose(chosen, fold, t, kind, self.mask)

        arg_types, kwarg_types = self.types
        given = [map_types(pose, value, kind, f"input {i}") for i, (value, kind) in enumerate(zip(self.args, arg_types, strict=True))]
        named = {
            key: map_types(pose, value, kwarg_types[key], key)
            if key in kwarg_types
            else map_types(lambda t, _, key=key: fold.keyword(key, t), value, "invariant", key)
            for key, value in self.kwargs.items()
        }
        if self.mask is not None and "mask" not in named and takes(self.fn, "mask"):
            named["mask"] = fold.keyword("mask", self.mask)

        def back(y: Tensor, kind: Any) -> Tensor:
            y = fold.unfold(y, "output")
            return chosen.restore(y, kind, per=fold.per(y.shape[1]) if isinstance(fold, RaggedFold) else "point")

        result = self.fn(*given, **named)
        if reduce == "mean" and chosen is elements:
            return map_types(lambda y, kind: _mean(elements, fold, y, kind), result, self.out_types, "output")
        restored = map_types(back, result, self.out_types, "output")
        if reduce == "none":
            return restored
        return map_types(lambda y, _: _share(elements, y, start, stop, fold), restored, "invariant", "output")


def _by_size(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    frame: Any,
    source: Tensor,
    types: tuple[list[Types], dict[str, Types]],
    out_types: Types,
    weights: Tensor | None,
    mask: Tensor | None,
    generator: torch.Generator | None,
    chunk: int | None,
) -> Averaged:
    """Items of one frame size at a time, so that an item with a large frame does not pad all others."""
    places, pieces, frames = [], [], []
    for index, elements in frame.buckets(source, weights, generator=generator):

        def own(t: Tensor, _: Any, index: Tensor = index) -> Tensor:
            return t[index] if t.ndim and t.shape[0] == len(source) else t

        run = _Run(
            fn,
            tuple(map_types(own, value, "invariant") for value in args),
            {key: map_types(own, value, "invariant") for key, value in kwargs.items()},
            types,
            out_types,
            None if mask is None else mask[index],
            source[index],
            None,
        )
        places.append(index)
        frames.append(elements)
        pieces.append(run.over(elements, chunk, "mean"))
    back = torch.cat(places).argsort()
    output = _zip_trees(pieces, lambda values: torch.cat(values)[back])
    return Averaged(output, frames[0] if len(frames) == 1 else _joined(frames, back))


def _joined(frames: list[Frame], back: Tensor) -> Frame:
    """Frames of several sizes as one, padded by their first element with weight zero."""
    size = max(frame.size for frame in frames)
    elements, weights = [], []
    for frame in frames:
        own: Any = frame.elements
        w = torch.full((len(own), frame.size), 1 / frame.size, device=own.device) if frame.weights is None else frame.weights
        extra = size - frame.size
        elements.append(torch.cat([own, own[:, :1].expand(-1, extra, -1)], 1))
        weights.append(torch.cat([w, w.new_zeros(len(w), extra)], 1))
    info = FrameInfo(*(torch.cat(values)[back] for values in zip(*(frame.info[:3] for frame in frames), strict=True)))
    return Frame(torch.cat(elements)[back], torch.cat(weights)[back], info)


def _edges(kwargs: Mapping[str, Any]) -> int | None:
    edges = kwargs.get("edge_index")
    return edges.shape[-1] if isinstance(edges, Tensor) else None


def _pose(frame: Frame, fold: Fold, x: Tensor, kind: Any, mask: Tensor | None) -> Tensor:
    """An input in every pose, folded; padded positions at zero."""
    if kind == "invariant":
        return fold.fold(fold.expand(x))
    if isinstance(fold, RaggedFold):
        return fold.fold(frame.canonicalize(x, kind, per=fold.per(x.shape[0])))
    posed = frame.canonicalize(x, kind)
    if mask is not None and kind == "position":
        valid = fold.expand(mask.bool())
        valid = valid.reshape(*valid.shape, *[1] * (posed.ndim - valid.ndim))
        posed = torch.where(valid, posed, torch.zeros((), dtype=posed.dtype, device=posed.device))
    return fold.fold(posed)


def _check_floating(y: Tensor) -> None:
    if not (y.is_floating_point() or y.is_complex()):
        raise TypeError(f"outputs must be floating to be averaged, got {y.dtype}; average scores, then decide")


def _mean(frame: Frame, fold: Fold, y: Tensor, kind: Any) -> Tensor:
    """The average over the whole frame, taken back in the order that is cheapest."""
    _check_floating(y)
    y = fold.unfold(y, "output")
    return frame.average(y, kind, per=fold.per(y.shape[1]) if isinstance(fold, RaggedFold) else "point")


def _share(frame: Frame, y: Tensor, start: int, stop: int, fold: Fold) -> Tensor:
    """What the elements from ``start`` to ``stop`` add to the average."""
    _check_floating(y)
    axis = 0 if isinstance(fold, RaggedFold) else len(frame.batch_shape)
    work = y.float() if y.dtype in (torch.float16, torch.bfloat16) else y
    if frame.weights is None:
        return (work.sum(axis) / frame.size).to(y.dtype)
    weights = frame.weights[..., start:stop].to(work.real.dtype)
    if isinstance(fold, RaggedFold):
        weights = (weights[fold.batch] if fold.per(y.shape[1]) == "point" else weights).transpose(0, 1)
    return (work * weights.reshape(*weights.shape, *[1] * (y.ndim - weights.ndim))).sum(axis).to(y.dtype)


def _zip_trees(trees: list[Any], fn: Callable[[list[Tensor]], Tensor]) -> Any:
    """The same structure with ``fn`` of the tensors that stand in one place."""
    first = trees[0]
    if isinstance(first, Tensor):
        return fn(trees)
    if isinstance(first, Mapping):
        return type(first)(**{key: _zip_trees([tree[key] for tree in trees], fn) for key in first})
    if isinstance(first, tuple | list):
        values = [_zip_trees(list(group), fn) for group in zip(*trees, strict=True)]
        return type(first)(*values) if hasattr(first, "_fields") else type(first)(values)
    return first
