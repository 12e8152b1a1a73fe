"""Figures of trajectories and inferred interactions, and animations; needs matplotlib (``eqmotion[demo]``)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["animate", "draw_interactions", "new_figure", "plot_trajectories"]

COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink", "tab:olive", "tab:cyan", "tab:gray")


def _import() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib; install eqmotion[demo]") from error
    return Figure


def new_figure(columns: int) -> Any:
    """A figure with so many axes beside each other, that no global state holds."""
    figure = _import()(figsize=(4.0 * columns, 3.8), layout="constrained")
    figure.subplots(1, columns)
    return figure


def _flat(x: Tensor) -> Tensor:
    """The first two coordinates (or one and zero), for drawing."""
    x = x.detach().cpu().double()
    return x[..., :2] if x.shape[-1] >= 2 else torch.cat([x, torch.zeros_like(x)], dim=-1)


def plot_trajectories(
    past: Float[Tensor, "n t d"],
    future: Float[Tensor, "n f d"] | None = None,
    pred: Float[Tensor, "..."] | None = None,
    *,
    title: str = "",
    axes: Any = None,
) -> Any:
    """Draw a scene: past as dots, truth as a line, prediction dashed; of several modes all, faintly.

    Args:
        past: Shape ``(N, T, d)``; the first two coordinates are drawn.
        future: Truth ``(N, F, d)``.
        pred: Prediction ``(N, F, d)`` or ``(N, M, F, d)``.
        title: Of the axes.
        axes: Draw there; a new figure if not given.

    Returns:
        The ``matplotlib.figure.Figure``.
    """
    figure_type = _import()
    if axes is None:
        figure = figure_type(figsize=(4.2, 4.0), layout="constrained")
        axes = figure.subplots()
    for i in range(len(past)):
        colour = COLOURS[i % len(COLOURS)]
        p = _flat(past[i])
        axes.plot(p[:, 0], p[:, 1], ".", color=colour, markersize=3)
        if future is not None:
            y = torch.cat([p[-1:], _flat(future[i])])
            axes.plot(y[:, 0], y[:, 1], "-", color=colour, linewidth=1.2)
        if pred is not None:
            modes = pred[i][None] if pred.ndim == 3 else pred[i]
            for mode in modes:
                z = torch.cat([p[-1:], _flat(mode)])
                axes.plot(z[:, 0], z[:, 1], "--", color=colour, linewidth=1.2, alpha=1.0 if len(modes) == 1 else 0.4)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_title(title, fontsize=9)
    axes.tick_params(labelsize=7)
    return axes.figure


def draw_interactions(categories: Float[Tensor, "n n k"], *, null: Sequence[int] = (), title: str = "", axes: Any = None) -> Any:
    """Draw the inferred graph of a scene with networkx: an edge for each pair, coloured by its most likely category.

    Args:
        categories: Shape ``(N, N, K)``; the two directions of a pair are averaged.
        null: Categories that mean "no interaction", drawn without an edge.
        title: Of the axes.
        axes: Draw there; a new figure if not given.

    Returns:
        The ``matplotlib.figure.Figure``.
    """
    figure_type = _import()
    import networkx as nx

    if axes is None:
        axes = figure_type(figsize=(3.2, 3.0), layout="constrained").subplots()
    c = categories.detach().cpu().double()
    c = 0.5 * (c + c.transpose(0, 1))
    graph = nx.Graph()
    graph.add_nodes_from(range(len(c)))
    for i in range(len(c)):
        for j in range(i):
            kind = int(c[i, j].argmax())
            if kind not in null:
                graph.add_edge(i, j, color=COLOURS[kind % len(COLOURS)], width=0.5 + 2.0 * float(c[i, j, kind]))
    style: dict[str, Any] = {
        "edge_color": [e["color"] for *_, e in graph.edges(data=True)],
        "width": [e["width"] for *_, e in graph.edges(data=True)],
    }
    nx.draw_networkx(graph, nx.circular_layout(graph), ax=axes, node_color="lightgray", node_size=220, font_size=8, **style)
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()
    return axes.figure


def animate(
    past: Float[Tensor, "n t d"],
    future: Float[Tensor, "n f d"],
    pred: Float[Tensor, "n f d"],
    file: str | Path,
    *,
    fps: int = 10,
    title: str = "",
) -> Path:
    """Write a GIF of a scene: truth as discs, prediction as rings once the past is over, both with a trace.

    Args:
        past: Shape ``(N, T, d)``.
        future: Truth ``(N, F, d)``.
        pred: Prediction ``(N, F, d)``.
        file: Where to write.
        fps: Frames per second.
        title: Above the frames.

    Returns:
        The file.
    """
    figure_type = _import()
    from matplotlib.animation import FuncAnimation, PillowWriter
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    truth = torch.cat([_flat(past), _flat(future)], dim=1)
    guess = torch.cat([_flat(past), _flat(pred)], dim=1)
    steps, start = truth.shape[1], past.shape[1]
    figure = figure_type(figsize=(4.0, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    both = torch.cat([truth, guess], dim=1).flatten(0, 1)
    low, high = both.amin(0), both.amax(0)
    pad = 0.05 * float((high - low).max()) + 1e-6
    axes.set(xlim=(float(low[0]) - pad, float(high[0]) + pad), ylim=(float(low[1]) - pad, float(high[1]) + pad), aspect="equal")
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(past))]
    discs = axes.scatter(truth[:, 0, 0], truth[:, 0, 1], c=colours, s=40)
    rings = axes.scatter(guess[:, 0, 0], guess[:, 0, 1], facecolors="none", edgecolors=colours, s=90)
    traces = [(axes.plot([], [], "-", color=c, linewidth=0.8)[0], axes.plot([], [], "--", color=c, linewidth=0.8)[0]) for c in colours]

    def update(t: int) -> tuple[Any, ...]:
        discs.set_offsets(truth[:, t].numpy())
        rings.set_offsets(guess[:, t].numpy())
        rings.set_visible(t >= start)
        for i, (solid, dashed) in enumerate(traces):
            solid.set_data(truth[i, : t + 1, 0], truth[i, : t + 1, 1])
            if t >= start:
                dashed.set_data(guess[i, start - 1 : t + 1, 0], guess[i, start - 1 : t + 1, 1])
        axes.set_title(f"{title} {'observed' if t < start else 'predicted (rings, dashed)'}, step {t + 1}", fontsize=9)
        return discs, rings

    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    FuncAnimation(figure, update, frames=steps, blit=False).save(file, writer=PillowWriter(fps=fps))
    return file
