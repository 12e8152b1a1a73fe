"""Who interacts with whom: all pairs of a scene, or an edge list; one set of operations for both.

Quantities of pairs are matrices with one row per pair: ``B N N`` rows in dense scenes, one per edge otherwise. Edge ``(j, i)`` carries a
message from ``j`` to ``i``; in an ``edge_index`` of shape ``(2, E)`` the first row is the sender ``j`` and the second the receiver
``i``, as in torch_geometric.
"""

from copy import copy

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from eqmotion.functional import wide

__all__ = ["DensePairs", "SparsePairs", "check_edges", "edges_of", "knn_edges", "radius_edges"]


def check_edges(name: str, edge_index: Tensor, agents: int | None) -> None:
    """Raise unless ``edge_index`` has shape ``(2, E)``, integers, and, if ``agents`` is given, entries in ``[0, agents)``.

    Raises:
        TypeError, ValueError: With what is wrong.
    """
    if not isinstance(edge_index, Tensor) or edge_index.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{name} must be an integer tensor of shape (2, E), got {getattr(edge_index, 'dtype', type(edge_index).__name__)}")
    if edge_index.ndim != 2 or edge_index.shape[0] != 2:
        raise ValueError(f"{name} must have shape (2, E), got {tuple(edge_index.shape)}")
    if agents is not None and edge_index.numel():
        low, high = int(edge_index.min()), int(edge_index.max())
        if low < 0 or high >= agents:
            raise ValueError(f"{name} must hold indices in [0, {agents}), got {low} to {high}")


_FEW = 8  # up to so many agents, coordinate by coordinate beats a batched product of tiny matrices (by a tenth of a step on CPU)


class DensePairs:
    """All ordered pairs ``(i, j)`` within each of ``B`` scenes of ``N`` agents, itself excluded from sums.

    Args:
        like: Node tensor of shape ``(B, N, ...)``; gives sizes, dtype and device.
        mask: Valid agents, shape ``(B, N)``, or ``None``.
        mean: Divide sums by the number of valid neighbours.
    """

    def __init__(self, like: Tensor, mask: Bool[Tensor, "b n"] | None, *, mean: bool = False) -> None:
        self.batch, self.agents = like.shape[0], like.shape[1]
        others = ~torch.eye(self.agents, dtype=torch.bool, device=like.device)
        if mask is not None:
            others = others & mask[:, None, :]
        weights = others.to(like.dtype)
        if mean:
            weights = weights / weights.sum(-1, keepdim=True).clamp_min(1.0)
        self.weights = weights  # (N, N) or (B, N, N)
        self.plain = mask is None and not mean
        self.part: slice | None = None  # the receivers of a block, all if None

    def blocks(self, limit: int) -> "list[DensePairs]":
        """The same pairs, receivers in blocks of about ``limit`` pairs."""
        count = -(-self.batch * self.agents**2 // limit)
        step = max(1, -(-self.agents // count))
        found = []
        for start in range(0, self.agents, step):
            block = copy(self)
            block.part = slice(start, start + step)
            block.weights = self.weights[..., block.part, :]
            found.append(block)
        return found

    def own(self, x: Tensor) -> Tensor:
        """Rows of the receivers, along dimension 1."""
        return x if self.part is None else x[:, self.part]

    def _shape(self, pair: Tensor) -> Tensor:
        return pair.view(self.batch, self.weights.shape[-2], self.agents, pair.shape[-1])

    def ends(self, receiver: Float[Tensor, "b n f"], sender: Float[Tensor, "b n f"]) -> Float[Tensor, "pairs f"]:
        """``receiver_i + sender_j`` of every pair."""
        return (self.own(receiver)[:, :, None] + sender[:, None, :]).flatten(0, 2)

    def difference(self, x: Float[Tensor, "b n f"]) -> Float[Tensor, "pairs f"]:
        """``x_i - x_j`` of every pair."""
        return (self.own(x)[:, :, None] - x[:, None, :]).flatten(0, 2)

    def total(self, pair: Float[Tensor, "pairs f"]) -> Float[Tensor, "b n f"]:
        """Sum (or mean) over valid ``j != i``."""
        return (self.weights[..., None, :] @ self._shape(pair)).squeeze(-2)

    def pull(self, factor: Float[Tensor, "pairs c"], Z: Float[Tensor, "b n c d"]) -> Float[Tensor, "b m c d"]:
        """``sum_j factor_ij (Z_i - Z_j)``, as ``Z_i sum_j factor_ij - sum_j factor_ij Z_j``."""
        f = self._shape(factor)
        return self._pull(f if self.plain else f * self.weights[..., None], Z)

    def _pull(self, f: Tensor, Z: Tensor) -> Tensor:
        if self.agents <= _FEW:
            moved = torch.stack([(f * Z[:, None, ..., k]).sum(2) for k in range(Z.shape[-1])], dim=-1)
        else:
            moved = torch.einsum("bijc,bjcd->bicd", f, Z)
        return self.own(Z) * f.sum(2)[..., None] - moved

    def spread(self, w: Float[Tensor, "pairs c"], G: Float[Tensor, "b n c d"]) -> Float[Tensor, "b n c d"]:
        """Adjoint of differences times ``w_ij (G_i - G_j)``: ``sum_j (w_ij + w_ji)(G_i - G_j)``, without the mean, for rounding."""
        w = self._shape(w)
        return self._pull(w + w.transpose(1, 2), G - G.mean((1, 2), keepdim=True))

    def shaped(self, pair: Float[Tensor, "pairs k"]) -> Float[Tensor, "b m n k"]:
        """As users see it."""
        return self._shape(pair)

    def rows(self, pair: Float[Tensor, "b n n k"]) -> Float[Tensor, "pairs k"]:
        """Back to one row per pair."""
        return pair.reshape(self.batch * self.agents * self.agents, pair.shape[-1])

    def cut(self, pair: Tensor | None) -> Tensor | None:
        """The rows of a block from those of all pairs."""
        if pair is None or self.part is None:
            return pair
        return pair.view(self.batch, self.agents, self.agents, pair.shape[-1])[:, self.part].flatten(0, 2)


class SparsePairs:
    """The pairs of an edge list over the ``B N`` agents of all scenes.

    Args:
        like: Node tensor of shape ``(B, N, ...)``.
        edge_index: Senders and receivers, shape ``(2, E)``, as indices into the flattened agents.
        mask: Valid agents, shape ``(B, N)``, or ``None``.
        mean: Divide sums by the number of valid neighbours.
    """

    def __init__(self, like: Tensor, edge_index: Int[Tensor, "2 e"], mask: Bool[Tensor, "b n"] | None, *, mean: bool = False) -> None:
        self.batch, self.agents = like.shape[0], like.shape[1]
        self.sender, self.receiver = edge_index.unbind(0)
        weights = (self.sender != self.receiver).to(like.dtype)
        if mask is not None:
            weights = weights * mask.reshape(-1)[self.sender].to(like.dtype)
        if mean:
            count = torch.zeros(self.batch * self.agents, dtype=like.dtype, device=like.device).index_add(0, self.receiver, weights)
            weights = weights / count.clamp_min(1.0)[self.receiver]
        self.weights = weights[:, None]

    def ends(self, receiver: Float[Tensor, "b n f"], sender: Float[Tensor, "b n f"]) -> Float[Tensor, "pairs f"]:
        """``receiver_i + sender_j`` of every edge."""
        return receiver.flatten(0, 1)[self.receiver] + sender.flatten(0, 1)[self.sender]

    def difference(self, x: Float[Tensor, "b n f"]) -> Float[Tensor, "pairs f"]:
        """``x_i - x_j`` of every edge."""
        flat = x.flatten(0, 1)
        return flat[self.receiver] - flat[self.sender]

    def _gather(self, pair: Tensor) -> Tensor:
        zero = pair.new_zeros((self.batch * self.agents, *pair.shape[1:]))
        return zero.index_add(0, self.receiver, pair).unflatten(0, (self.batch, self.agents))

    def total(self, pair: Float[Tensor, "pairs f"]) -> Float[Tensor, "b n f"]:
        """Sum (or mean) over incoming edges from valid agents."""
        return self._gather(pair * self.weights.to(pair.dtype))

    def pull(self, factor: Float[Tensor, "pairs c"], Z: Float[Tensor, "b n c d"]) -> Float[Tensor, "b n c d"]:
        """``sum_j factor_ij (Z_i - Z_j)`` over incoming edges."""
        f = factor * self.weights.to(factor.dtype)
        return Z * self._gather(f)[..., None] - self._gather(f[..., None] * Z.flatten(0, 1)[self.sender])

    def spread(self, w: Float[Tensor, "pairs c"], G: Float[Tensor, "b n c d"]) -> Float[Tensor, "b n c d"]:
        """Adjoint of differences times ``w_ij (G_i - G_j)``."""
        flat = G.flatten(0, 1)
        step = w[..., None] * (flat[self.receiver] - flat[self.sender])
        return torch.zeros_like(flat).index_add(0, self.receiver, step).index_add(0, self.sender, -step).view_as(G)

    def shaped(self, pair: Float[Tensor, "pairs k"]) -> Float[Tensor, "e k"]:
        """As users see it."""
        return pair

    def rows(self, pair: Float[Tensor, "e k"]) -> Float[Tensor, "pairs k"]:
        """One row per edge."""
        return pair

    def own(self, x: Tensor) -> Tensor:
        """All agents receive."""
        return x

    def cut(self, pair: Tensor | None) -> Tensor | None:
        """There is one block."""
        return pair


def _places(x: Tensor, mask: Tensor | None) -> Tensor:
    """Distances between the agents at the last observed step, shape ``(B, N, N)``; infinite to itself and to invalid agents."""
    last = wide(x[..., -1, :])
    distance = torch.cdist(last, last, compute_mode="donot_use_mm_for_euclid_dist")
    distance = distance.masked_fill(torch.eye(x.shape[1], dtype=torch.bool, device=x.device), torch.inf)
    return distance if mask is None else distance.masked_fill(~mask[:, None, :], torch.inf)


def knn_edges(x: Float[Tensor, "b n t d"], k: int, mask: Bool[Tensor, "b n"] | None = None) -> Int[Tensor, "2 e"]:
    """Edges from the ``k`` nearest agents (at the last observed step) to each agent; ``B N min(k, N - 1)`` of them.

    Where fewer than ``k`` agents are valid, the surplus edges come from invalid ones, which no sum counts.
    """
    batch, agents = x.shape[:2]
    k = min(k, agents - 1)
    with torch.no_grad():
        sender = _places(x, mask).topk(k, dim=-1, largest=False).indices
    first = torch.arange(batch, device=x.device)[:, None, None] * agents
    receiver = torch.arange(agents, device=x.device)[None, :, None].expand(batch, agents, k)
    return torch.stack([(sender + first).flatten(), (receiver + first).flatten()])


def radius_edges(x: Float[Tensor, "b n t d"], radius: float, mask: Bool[Tensor, "b n"] | None = None) -> Int[Tensor, "2 e"]:
    """Edges between agents closer than ``radius`` at the last observed step. Their number depends on the data: no CUDA graphs."""
    agents = x.shape[1]
    with torch.no_grad():
        scene, receiver, sender = (_places(x, mask) < radius).nonzero(as_tuple=True)
    return torch.stack([scene * agents + sender, scene * agents + receiver])


def edges_of(edge_index: Int[Tensor, "2 e"], batch: int, agents: int) -> Int[Tensor, "2 be"]:
    """The edges of one scene repeated for every scene of a batch."""
    first = torch.arange(batch, device=edge_index.device)[:, None] * agents
    return torch.stack([(edge_index[0] + first).flatten(), (edge_index[1] + first).flatten()])
