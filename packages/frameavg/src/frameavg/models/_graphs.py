"""Graph networks beyond Weisfeiler-Leman by averaging over canonical node orders."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from frameavg.modules import FrameAveraging
from geocore._checks import check_positive_int
from geocore.frames import PermutationFrame

__all__ = ["FAGIN", "GIN", "FAGraphMLP"]


def _mlp(sizes: Sequence[int], activation: type[nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), activation()]
    return nn.Sequential(*layers[:-1])


class _Flat(nn.Module):
    """A multilayer perceptron of the flattened adjacency and node features."""

    def __init__(self, sizes: Sequence[int], activation: type[nn.Module]) -> None:
        super().__init__()
        self.net = _mlp(sizes, activation)

    def forward(self, adjacency: Tensor, x: Tensor | None = None) -> Tensor:
        flat = adjacency.flatten(-2)
        return self.net(flat if x is None else torch.cat([flat, x.flatten(-2)], -1))


class GIN(nn.Module):
    """Graph isomorphism network on dense adjacencies; with ``ids`` every node also carries its place in the order it is given in.

    Args:
        n_nodes: Largest number of nodes.
        node_dim: Features of a node.
        hidden: Width.
        out_dim: Outputs of a graph.
        n_layers: Layers.
        ids: Append the one-hot place of each node.
    """

    def __init__(self, n_nodes: int, node_dim: int, hidden: int, out_dim: int, n_layers: int, ids: bool) -> None:
        super().__init__()
        self.n_nodes, self.ids = n_nodes, ids
        inputs = max(node_dim, 1) + (n_nodes if ids else 0)
        self.layers = nn.ModuleList(_mlp((inputs if i == 0 else hidden, hidden, hidden), nn.ReLU) for i in range(n_layers))
        self.eps = nn.Parameter(torch.zeros(n_layers))
        self.readout = _mlp((hidden, hidden, out_dim), nn.ReLU)

    def forward(self, adjacency: Float[Tensor, "*batch n n"], x: Float[Tensor, "*batch n f"] | None = None) -> Float[Tensor, "*batch out"]:
        """Outputs of each graph."""
        n = adjacency.shape[-1]
        h = torch.ones(*adjacency.shape[:-1], 1, dtype=adjacency.dtype, device=adjacency.device) if x is None else x
        if self.ids:
            place = torch.eye(n, self.n_nodes, dtype=h.dtype, device=h.device).expand(*h.shape[:-1], self.n_nodes)
            h = torch.cat([h, place], -1)
        for i, layer in enumerate(self.layers):
            h = layer((1 + self.eps[i]) * h + adjacency @ h)
            h = torch.relu(h)
        return self.readout(h.sum(-2))


class FAGraphMLP(FrameAveraging):
    """A multilayer perceptron of the adjacency matrix, invariant to the order of nodes: universal, and simple.

    Source: Puny et al., ICLR 2022, section 3.2 and appendix (FA-MLP on graphs).

    Args:
        n_nodes: Nodes of every graph.
        node_dim: Features of a node.
        hidden: Width.
        out_dim: Outputs of a graph.
        n_layers: Linear layers.
        activation: Activation between them.
        frame: Frame of the adjacency.
        n_samples: Random orders in training instead of all.
        eval_samples: The same in evaluation.

    Example:
        >>> model = FAGraphMLP(7, out_dim=4)
        >>> A = torch.bernoulli(torch.full((2, 7, 7), 0.5)).triu(1)
        >>> model(A + A.mT).shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        n_nodes: int,
        node_dim: int = 0,
        hidden: int = 128,
        out_dim: int = 1,
        n_layers: int = 3,
        activation: type[nn.Module] = nn.ReLU,
        *,
        frame: PermutationFrame | None = None,
        n_samples: int | None = None,
        eval_samples: int | None = None,
    ) -> None:
        for name, value in (("n_nodes", n_nodes), ("hidden", hidden), ("out_dim", out_dim), ("n_layers", n_layers)):
            check_positive_int(name, value)
        sizes = (n_nodes * (n_nodes + node_dim), *[hidden] * (n_layers - 1), out_dim)
        super().__init__(
            _Flat(sizes, activation),
            PermutationFrame() if frame is None else frame,
            {0: "edge", 1: "node"} if node_dim else "edge",
            "invariant",
            n_samples=n_samples,
            eval_samples=eval_samples,
        )


class FAGIN(FrameAveraging):
    """Graph isomorphism network whose nodes know their place, averaged over canonical orders; separates what 1-WL cannot.

    Source: Puny et al., ICLR 2022, section 4 (FA-GIN+ID).

    Args:
        n_nodes: Largest number of nodes.
        node_dim: Features of a node.
        hidden: Width.
        out_dim: Outputs of a graph.
        n_layers: Layers.
        ids: Give nodes their place. Without it the network does not see the order, and averaging changes nothing.
        frame: Frame of the adjacency.
        n_samples: Random orders in training instead of all.
        eval_samples: The same in evaluation.
    """

    def __init__(
        self,
        n_nodes: int,
        node_dim: int = 0,
        hidden: int = 64,
        out_dim: int = 1,
        n_layers: int = 3,
        ids: bool = True,
        *,
        frame: PermutationFrame | None = None,
        n_samples: int | None = None,
        eval_samples: int | None = None,
    ) -> None:
        for name, value in (("n_nodes", n_nodes), ("hidden", hidden), ("out_dim", out_dim), ("n_layers", n_layers)):
            check_positive_int(name, value)
        super().__init__(
            GIN(n_nodes, node_dim, hidden, out_dim, n_layers, ids),
            PermutationFrame() if frame is None else frame,
            {0: "edge", 1: "node"} if node_dim else "edge",
            "invariant",
            n_samples=n_samples,
            eval_samples=eval_samples,
        )
