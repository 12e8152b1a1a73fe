"""Telling graphs apart: a perceptron of the adjacency, averaged over canonical orders, against the Weisfeiler-Leman test.

``python -m frameavg.experiments.graphs``
"""

from collections import Counter
from typing import NamedTuple

import torch
from torch import Tensor, nn

from frameavg.models._graphs import FAGraphMLP
from geocore.frames import PermutationFrame

__all__ = ["Separation", "atlas", "read_graph6", "refine", "separation"]


class Separation(NamedTuple):
    """What a set of graphs looks like to a network.

    Args:
        graphs: Number of graphs.
        pairs: Number of pairs.
        closest: Smallest L1 distance of the outputs of two graphs.
        merged: Pairs with a distance of at most 1e-6.
        invariance: Largest change of an output when nodes are permuted, relative to the largest output.
        wl_pairs: Pairs that colour refinement (1-WL) cannot tell apart.
        sizes: Number of graphs for each frame size.
    """

    graphs: int
    pairs: int
    closest: float
    merged: int
    invariance: float
    wl_pairs: int
    sizes: dict[int, int]


def atlas(n: int = 7) -> Tensor:
    """Adjacencies of all connected graphs with ``n <= 7`` nodes, float64 of shape ``(graphs, n, n)``."""
    import networkx

    found = [g for g in networkx.graph_atlas_g() if len(g) == n and networkx.is_connected(g)]
    return torch.stack([torch.from_numpy(networkx.to_numpy_array(g, nodelist=sorted(g))) for g in found])


def read_graph6(path: str) -> Tensor:
    """Adjacencies of the graphs of equal size in a graph6 file, such as ``graph8c.g6`` of the paper, ``(graphs, n, n)``.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it holds no graphs, or of different sizes.
    """
    from pathlib import Path

    import networkx

    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is missing; connected graphs of a size are at users.cecs.anu.edu.au/~bdm/data/graphs.html")
    found = networkx.read_graph6(path)
    found = found if isinstance(found, list) else [found]
    sizes = sorted({len(g) for g in found})
    if len(sizes) != 1:
        raise ValueError(f"{path} must hold graphs of one size, got sizes {sizes}")
    return torch.stack([torch.from_numpy(networkx.to_numpy_array(g, nodelist=sorted(g))) for g in found])


def refine(adjacency: Tensor) -> list[tuple[tuple[int, ...], ...]]:
    """Colour histograms of each graph after every round of refinement, with colours named alike in all graphs."""
    n = adjacency.shape[-1]
    neighbours = [[row.nonzero().flatten().tolist() for row in graph] for graph in adjacency]
    colours = [[0] * n for _ in neighbours]
    history: list[list[tuple[int, ...]]] = [[] for _ in neighbours]
    for _ in range(n):
        keys = [[(own[i], *sorted(own[j] for j in near[i])) for i in range(n)] for own, near in zip(colours, neighbours, strict=True)]
        names = {key: number for number, key in enumerate(sorted({key for graph in keys for key in graph}))}
        colours = [[names[key] for key in graph] for graph in keys]
        for past, own in zip(history, colours, strict=True):
            past.append(tuple(sorted(own)))
    return [tuple(past) for past in history]


def separation(adjacency: Tensor, *, out_dim: int = 10, std: float = 0.3, seed: int = 0) -> Separation:
    """Outputs of an untrained three-layer tanh perceptron, averaged over the frame, for all pairs of graphs.

    Args:
        adjacency: Shape ``(graphs, n, n)``.
        out_dim: Outputs of the network.
        std: Standard deviation of its weights.
        seed: Seed of the weights.
    """
    n = adjacency.shape[-1]
    generator = torch.Generator().manual_seed(seed)
    orders = PermutationFrame()
    model = FAGraphMLP(n, hidden=64, out_dim=out_dim, activation=nn.Tanh, frame=orders).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(std * torch.randn(p.shape, generator=generator, dtype=p.dtype))
        y = model(adjacency)
        order = torch.rand(adjacency.shape[:2], generator=generator).argsort(-1)
        moved = adjacency.gather(1, order[:, :, None].expand_as(adjacency)).gather(2, order[:, None, :].expand_as(adjacency))
        invariance = (model(moved) - y).abs().max() / y.abs().max()
        distances = torch.cdist(y, y, p=1)[*torch.triu_indices(len(y), len(y), 1)]
    histogram = Counter(refine(adjacency))
    return Separation(
        graphs=len(y),
        pairs=len(distances),
        closest=distances.min().item(),
        merged=int((distances <= 1e-6).sum()),
        invariance=invariance.item(),
        wl_pairs=sum(count * (count - 1) // 2 for count in histogram.values()),
        sizes={frame.size: len(index) for index, frame in orders.buckets(adjacency)},
    )


if __name__ == "__main__":
    for name, value in separation(atlas())._asdict().items():
        print(f"{name:12}", value)  # noqa: T201
