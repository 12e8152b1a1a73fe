"""Frame averaging and layer-wise frame averaging written out, one item and one element at a time: slow, and plain to read."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from frameavg.models._gnn import FAGNN
from geocore.frames import Frame

__all__ = ["elements_of", "fagnn_reference", "frame_average_reference"]


def elements_of(frame: Frame, item: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Matrix, translation and weight of every element of one item."""
    motions: Any = frame.elements
    Q, t = motions.Q[item], motions.t
    shift = torch.zeros_like(Q[..., 0]) if t is None else t[item]
    weights = torch.full((len(Q),), 1 / len(Q), dtype=Q.dtype) if frame.weights is None else frame.weights[item]
    return list(zip(Q, shift, weights, strict=True))


def frame_average_reference(fn: Callable[[Tensor], Tensor], x: Tensor, frame: Callable[[Tensor], Frame], out_type: str) -> Tensor:
    """``sum over g of w_g g fn(g^-1 x)`` for positions ``x`` of shape ``(batch, n, d)`` and one output type."""
    frames = frame(x)
    results = []
    for item in range(len(x)):
        total = None
        for Q, t, w in elements_of(frames, item):
            y = fn((x[item] - t)[None] @ Q)[0]
            if out_type == "vector":
                y = y @ Q.T
            elif out_type == "position":
                y = y @ Q.T + t
            elif out_type == "tensor(2)":
                y = Q @ y @ Q.T
            total = w * y if total is None else total + w * y
        assert total is not None
        results.append(total)
    return torch.stack(results)


def fagnn_reference(model: FAGNN, x: Tensor, v: Tensor, edge_attr: Tensor) -> Tensor:
    """``FAGNN`` scene by scene, pose by pose, pair by pair."""
    results = []
    n, d, channels = x.shape[1], model.dim, model.hidden // model.dim
    for xs, vs, es in zip(x, v, edge_attr, strict=True):
        centre = xs.mean(0)
        frame = elements_of(model.outer(xs[None]), 0)
        poses = [model.embed(torch.cat([(xs - centre) @ Q, vs @ Q], -1)) for Q, _, _ in frame]
        for depth, layer in enumerate(model.layers):
            moved = []
            for h in poses:
                rows = []
                for i in range(n):
                    total = torch.zeros_like(h[0])
                    for j in range(n):
                        if i != j:
                            edge = torch.cat([h[i], h[j], es[i, j], (xs[i] - xs[j]).square().sum()[None]])
                            m = torch.nn.functional.silu(layer.edge_in(edge))  # pyright: ignore[reportCallIssue]
                            total = total + torch.nn.functional.silu(layer.edge_out(m))  # pyright: ignore[reportCallIssue]
                    rows.append(h[i] + layer.node(torch.cat([h[i], total])))  # pyright: ignore[reportCallIssue]
                moved.append(torch.stack(rows))
            poses = moved
            if depth + 1 < len(model.layers):
                back = [w * h.reshape(n, channels, d) @ Q.T for (Q, _, w), h in zip(frame, poses, strict=True)]
                vectors = torch.stack(back).sum(0)
                frame = elements_of(model.inner(vectors.reshape(1, n * channels, d)), 0)
                poses = [(vectors @ Q).reshape(n, model.hidden) for Q, _, _ in frame]
        y = torch.stack([w * model.decode(h) @ Q.T for (Q, _, w), h in zip(frame, poses, strict=True)]).sum(0)
        results.append(y + centre)
    return torch.stack(results)
