"""Layer-wise frame averaging for dynamics."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from geocore._checks import check_option, check_positive_int, check_trailing
from geocore.frames import PCAFrame

__all__ = ["FAGNN", "MessagePassing", "other_nodes", "pair_features"]


class MessagePassing(nn.Module):
    """``h_i + MLP([h_i, sum over j != i of MLP([h_i, h_j, e_ij])])`` over all pairs.

    The first layer of the edge network is applied to nodes and edges apart, so pairs are materialised at its output only, and only those
    of different nodes.

    Args:
        hidden: Features of a node.
        edge_dim: Features of an edge.
    """

    def __init__(self, hidden: int, edge_dim: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.edge_in = nn.Linear(2 * hidden + edge_dim, hidden)
        self.edge_out = nn.Linear(hidden, hidden)
        self.node = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden))

    def forward(
        self,
        h: Float[Tensor, "*batch k n c"],
        edges: Float[Tensor, "*batch n others e"],
        others: Int[Tensor, "n others"],
        valid: Bool[Tensor, "*batch n others"] | None = None,
    ) -> Float[Tensor, "*batch k n c"]:
        """One step for every pose.

        Args:
            h: Nodes in ``k`` poses.
            edges: Features of pairs, the same in all poses.
            others: For each node the others, as ``other_nodes`` gives them.
            valid: Pairs that exchange messages.
        """
        receive, send, attr = self.edge_in.weight.split([self.hidden, self.hidden, edges.shape[-1]], dim=1)
        between = F.linear(edges, attr, self.edge_in.bias).unsqueeze(-4)
        m = F.linear(h, send).index_select(-2, others.flatten()).unflatten(-2, others.shape)
        m = m.add_(F.linear(h, receive).unsqueeze(-2)).add_(between)  # sums of no further use to the backward pass
        inplace = not torch.is_grad_enabled()
        m = F.silu(self.edge_out(F.silu(m, inplace)), inplace)
        if valid is not None:
            m = m * valid[..., None, :, :, None]
        return h + self.node(torch.cat([h, m.sum(-2)], -1))


def other_nodes(n: int, device: torch.device | None = None) -> Int[Tensor, "n others"]:
    """For each of ``n`` nodes the numbers of the others, shape ``(n, n - 1)``."""
    column = torch.arange(n - 1, device=device)
    return column + (column >= torch.arange(n, device=device).unsqueeze(-1)).long()


def pair_features(
    x: Float[Tensor, "*batch n d"], edge_attr: Float[Tensor, "*batch n n e"] | None, others: Int[Tensor, "n others"]
) -> Float[Tensor, "*batch n others f"]:
    """Given features of each pair of different nodes, then its squared distance."""
    distance = (x.unsqueeze(-2) - x[..., others, :]).square().sum(-1, keepdim=True)
    if edge_attr is None:
        return distance
    index = others.unsqueeze(-1).expand(*edge_attr.shape[:-2], -1, edge_attr.shape[-1])
    return torch.cat([edge_attr.gather(-2, index), distance], -1)


class FAGNN(nn.Module):
    """Graph network for the positions of interacting bodies, equivariant to rigid motions by averaging after every layer.

    Centred positions and velocities are embedded in each pose of the input's frame. After every layer but the last the features are read
    as ``hidden / dim`` vectors, taken back and averaged; these equivariant vectors make the frame of the next layer.

    Source: Puny et al., ICLR 2022, section 4 and appendix (FA-GNN, n-body).

    Args:
        hidden: Features of a node, a multiple of ``dim``.
        n_layers: Message-passing layers.
        edge_dim: Features of a pair beside its squared distance (1: the product of charges).
        node_dim: Invariant features of a node.
        dim: Dimension of space.
        group: ``"E"`` or ``"SE"``.
        detach: The axes of the frames are constants for the gradient; the centre never is.
        degenerate: What degenerate frames do (see ``PCAFrame``).

    Raises:
        ValueError: If ``hidden`` is no multiple of ``dim`` or the group is unknown.

    Example:
        >>> model = FAGNN()
        >>> x, v, charges = torch.randn(4, 5, 3), torch.randn(4, 5, 3), torch.randn(4, 5, 1).sign()
        >>> model(x, v, (charges * charges.mT).unsqueeze(-1)).shape
        torch.Size([4, 5, 3])
    """

    def __init__(
        self,
        hidden: int = 60,
        n_layers: int = 4,
        edge_dim: int = 1,
        *,
        node_dim: int = 0,
        dim: int = 3,
        group: str = "E",
        detach: bool = True,
        degenerate: str = "warn",
    ) -> None:
        super().__init__()
        for name, value in (("hidden", hidden), ("n_layers", n_layers), ("dim", dim)):
            check_positive_int(name, value)
        check_option("group", group, ("E", "SE"))
        if hidden % dim:
            raise ValueError(f"hidden must be a multiple of dim, to be read as vectors, got {hidden} and {dim}")
        self.hidden, self.dim, self.edge_dim, self.node_dim = hidden, dim, edge_dim, node_dim
        options: Any = {"degenerate": degenerate, "detach": detach}
        self.outer = PCAFrame(dim, group, **options)
        self.inner = PCAFrame(dim, group.replace("E", "O"), **options)
        self.embed = nn.Linear(2 * dim + node_dim, hidden)
        self.layers = nn.ModuleList(MessagePassing(hidden, edge_dim + 1) for _ in range(n_layers))
        self.decode = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, dim))

    def forward(
        self,
        x: Float[Tensor, "*batch n d"],
        v: Float[Tensor, "*batch n d"],
        edge_attr: Float[Tensor, "*batch n n e"] | None = None,
        node_attr: Float[Tensor, "*batch n f"] | None = None,
        *,
        mask: Bool[Tensor, "*batch n"] | None = None,
    ) -> Float[Tensor, "*batch n d"]:
        """Predicted positions.

        Args:
            x: Positions.
            v: Velocities.
            edge_attr: Features of pairs, such as products of charges.
            node_attr: Invariant features of nodes.
            mask: Valid nodes of padded scenes; the predictions of others are zero.

        Raises:
            ValueError: If shapes do not fit the model.
        """
        check_trailing("x", x, (None, self.dim))
        check_trailing("v", v, tuple(x.shape[-2:]))
        for name, value, size in (("edge_attr", edge_attr, self.edge_dim), ("node_attr", node_attr, self.node_dim)):
            got = 0 if value is None else value.shape[-1]
            if got != size:
                raise ValueError(f"{name} must have {size} features as the model was made for, got {got}")
        n = x.shape[-2]
        valid = torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device) if mask is None else mask.bool()
        x, v = (torch.where(valid.unsqueeze(-1), t, torch.zeros((), dtype=t.dtype, device=t.device)) for t in (x, v))
        others = other_nodes(n, x.device)
        edges = pair_features(x, edge_attr, others)
        pairs = None if mask is None else valid.unsqueeze(-1) & valid[..., others]
        weights = None if mask is None else valid.to(x.dtype)

        total = valid.sum(-1)[..., None, None].clamp(min=1)
        centre = (x * valid.unsqueeze(-1)).sum(-2, keepdim=True) / total
        frame = self.outer(x, weights=weights)
        inputs = [frame.canonicalize(x - centre, "vector"), frame.canonicalize(v, "vector")]
        if node_attr is not None:
            inputs.append(node_attr.unsqueeze(-3).expand(*inputs[0].shape[:-1], self.node_dim))
        h = self.embed(torch.cat(inputs, -1))
        channels = self.hidden // self.dim
        for i, layer in enumerate(self.layers):
            h = layer(h, edges, others, pairs)
            if i + 1 < len(self.layers):
                vectors = frame.average(h.unflatten(-1, (channels, self.dim)), "vector")
                flat = vectors.flatten(-3, -2)
                spread = None if weights is None else weights.repeat_interleave(channels, -1)
                frame = self.inner(flat, weights=spread)
                h = frame.canonicalize(vectors, "vector").flatten(-2)
        y = frame.average(self.decode(h), "vector")
        return torch.where(valid.unsqueeze(-1), y + centre, torch.zeros((), dtype=y.dtype, device=y.device))
