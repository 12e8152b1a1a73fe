"""Frames of graphs and point sets under permutation: sort by keys that no choice of basis can change."""

import math
from collections.abc import Callable
from itertools import permutations, product

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from geocore._checks import check_floating, check_positive_int
from geocore._dispatch import eigh
from geocore.frames._errors import FrameTooLargeError
from geocore.frames._frame import Frame, FrameInfo, map_element
from geocore.frames._spectrum import cluster_eigenvalues

__all__ = ["PermutationFrame", "SortFrame"]


def laplacian_key(A: Float[Tensor, "*batch n n"], tol: float) -> Float[Tensor, "*batch n n"]:
    """Diagonals of the projectors onto the eigenspaces of ``D - A``, by increasing eigenvalue, filled up with zero columns."""
    L = torch.diag_embed(A.sum(-1)) - A
    values, vectors = eigh(L)
    groups = cluster_eigenvalues(values, tol)
    return torch.zeros_like(A).scatter_add_(-1, groups[..., None, :].expand(A.shape), vectors.square())


def _dense_ranks(v: Int[Tensor, "*batch n"]) -> Int[Tensor, "*batch n"]:
    ordered, index = v.sort(dim=-1)
    ranks = torch.nn.functional.pad((ordered.diff(dim=-1) > 0).long().cumsum(-1), (1, 0))
    return ranks.gather(-1, index.argsort(dim=-1))


def lexicographic_classes(keys: Float[Tensor, "*batch n c"], tol: float) -> Int[Tensor, "*batch n"]:
    """Place of each row among the different rows in lexicographic order; entries of a column within ``tol`` of each other are equal."""
    n = keys.shape[-2]
    classes = torch.zeros(keys.shape[:-1], dtype=torch.int64, device=keys.device)
    for c in range(keys.shape[-1]):
        ordered, index = keys[..., c].sort(dim=-1)
        step = ordered.diff(dim=-1) > tol * ordered.abs().amax(-1, keepdim=True).clamp(min=1.0)
        column = torch.nn.functional.pad(step.long().cumsum(-1), (1, 0))
        classes = _dense_ranks(classes * n + column.gather(-1, index.argsort(dim=-1)))
    return classes


def _tie_groups(sizes: tuple[int, ...]) -> Tensor:
    """All permutations of places that move them within consecutive groups of these sizes; the identity first."""
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    parts = [[tuple(start + i for i in p) for p in permutations(range(size))] for start, size in zip(starts, sizes, strict=True)]
    return torch.tensor([[i for part in choice for i in part] for choice in product(*parts)], dtype=torch.int64)


class PermutationFrame:
    r"""All permutations that sort the nodes of a graph by keys which do not depend on their numbering: a frame for ``S_n``.

    With ``"laplacian"`` the key of a node is its row of ``S``: for every eigenspace of ``L = D - A``, eigenvalues increasing, the diagonal
    entry of the projector onto it (Puny et al., section 3.2). Single eigenvectors would not do, their sign and basis are arbitrary.
    Everything is float64, and what is equal is decided by gaps (``cluster_eigenvalues``), never by rounding. Nodes with equal keys tie, and
    all their orders are in the frame: its size is the product of the factorials of the tie groups.

    Element ``p`` sorts: ``canonicalize(x, "node")`` is ``x[..., p, :]`` and ``canonicalize(A, "edge")`` is ``A[..., p, :][..., p]``, the
    keys in lexicographically increasing order. Frames of a batch are padded to the largest by repeating the first element with weight zero,
    so one symmetric graph makes the elements of its whole batch large: ``buckets`` avoids that, ``n_samples`` bounds it.

    Args:
        key: ``"laplacian"``, or a function of the input ``(..., n, n)`` in float64 that returns node keys ``(..., n, c)`` and commutes with
            permutations, most significant column first.
        tol: Relative gap below which eigenvalues, and absolute gap (relative above 1) below which entries of a key column are equal.
        max_size: Largest size of a frame.
        n_samples: Graphs with larger frames get that many independent uniform samples of it instead of an error.

    Raises:
        ValueError: If an option does not make sense.

    Example:
        >>> path = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]])
        >>> PermutationFrame()(path).elements  # the two ends tie
        tensor([[1, 0, 2],
                [1, 2, 0]])
    """

    def __init__(
        self,
        key: str | Callable[[Tensor], Tensor] = "laplacian",
        tol: float = 1e-6,
        max_size: int = 5040,
        n_samples: int | None = None,
    ) -> None:
        if key != "laplacian" and (isinstance(key, str) or not callable(key)):
            raise ValueError(f"key must be 'laplacian' or a function, got {key!r}")
        if not tol >= 0:
            raise ValueError(f"tol must not be negative, got {tol}")
        check_positive_int("max_size", max_size)
        if n_samples is not None:
            check_positive_int("n_samples", n_samples)
        self.key, self.tol, self.max_size, self.n_samples = key, tol, max_size, n_samples

    def __repr__(self) -> str:
        key = self.key if isinstance(self.key, str) else getattr(self.key, "__name__", "function")
        return f"PermutationFrame(key={key!r}, tol={self.tol}, max_size={self.max_size}, n_samples={self.n_samples})"

    def classes(
        self, A: Float[Tensor, "*batch n n"], features: Float[Tensor, "*batch n c"] | None = None, mask: Tensor | None = None
    ) -> Int[Tensor, "*batch n"]:
        """Place of each node's key among the different keys of its graph, in increasing order; equal numbers are ties.

        Args:
            A: Adjacency matrices, shape ``(..., n, n)``.
            features: Further key columns, after the others, shape ``(..., n, c)``.
            mask: Which nodes are real, shape ``(..., n)``; each of the others has a class of its own, after all real ones.

        Returns:
            int64 of shape ``(..., n)``.

        Raises:
            ValueError: If a shape does not fit, or ``A`` is not symmetric under the Laplacian key.
        """
        check_floating("A", A)
        if A.ndim < 2 or A.shape[-1] != A.shape[-2] or A.shape[-1] == 0:
            raise ValueError(f"A must have shape (..., n, n) with n >= 1, got {tuple(A.shape)}")
        n = A.shape[-1]
        work = A.detach().double()
        if mask is not None:
            if mask.shape[-1:] != (n,):
                raise ValueError(f"weights must have shape {tuple(A.shape[:-1])}, one per node, got {tuple(mask.shape)}")
            mask = (mask > 0).expand(A.shape[:-1])
            work = torch.where(mask[..., :, None] & mask[..., None, :], work, 0.0)
        if isinstance(self.key, str):
            if not torch.allclose(work, work.mT, rtol=0, atol=1e-12):
                raise ValueError("A must be symmetric for key='laplacian'; pass a function as key for directed graphs")
            keys = laplacian_key(work, self.tol)
        else:
            keys = self.key(work)
            if keys.ndim != A.ndim or keys.shape[:-1] != A.shape[:-1]:
                raise ValueError(f"key must return shape {(*A.shape[:-1], 'c')}, got {tuple(keys.shape)}")
        if features is not None:
            if features.ndim != A.ndim or features.shape[:-1] != A.shape[:-1]:
                raise ValueError(f"features must have shape {(*A.shape[:-1], 'c')}, got {tuple(features.shape)}")
            keys = torch.cat([keys, features.detach().double()], -1)
        classes = lexicographic_classes(keys.double(), self.tol)
        if mask is not None:
            classes = torch.where(mask, classes, n + torch.arange(n, device=A.device))
        return _dense_ranks(classes)

    def __call__(
        self,
        A: Float[Tensor, "*batch n n"],
        weights: Tensor | None = None,
        batch: Tensor | None = None,
        *,
        features: Float[Tensor, "*batch n c"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Frame:
        """The frame of each graph.

        Args:
            A: Adjacency matrices, shape ``(..., n, n)``; symmetric, weighted or not, for the Laplacian key.
            weights: Which nodes are real (positive), shape ``(..., n)``; padding is sorted last and stays in its order.
            batch: Not supported: graphs of different sizes are padded.
            features: Node features appended to the keys, shape ``(..., n, c)``.
            generator: Source of randomness of ``n_samples``, on the CPU.

        Returns:
            ``Frame`` with int64 ``elements`` of shape ``(*batch, k, n)``; ``info.degenerate`` tells which graphs were sampled,
            ``info.rank`` how many different keys they have, ``info.gap`` is the inverse of the size of the frame.

        Raises:
            ValueError: If a shape does not fit, or ``A`` is not symmetric under the Laplacian key.
            NotImplementedError: If ``batch`` is given.
            FrameTooLargeError: If a frame is larger than ``max_size`` and ``n_samples`` is not given.
        """
        if batch is not None:
            raise NotImplementedError("batch is not supported for graphs; pad them to one size and pass the mask as weights")
        classes = self.classes(A, features, weights)
        shape = classes.shape[:-1]
        order, counts, large, logs = self._plan(classes)
        frame = self._build(order, counts, large, logs, torch.promote_types(A.dtype, torch.float32), generator)

        def back(v: Tensor) -> Tensor:
            return v.reshape((*shape, *v.shape[1:])).to(A.device)

        info = FrameInfo(*(back(v) for v in frame.info[:3]))
        return Frame(map_element(frame.elements, back), None if frame.weights is None else back(frame.weights), info)

    def buckets(
        self,
        A: Float[Tensor, "items n n"],
        weights: Tensor | None = None,
        *,
        features: Float[Tensor, "items n c"] | None = None,
        generator: torch.Generator | None = None,
    ) -> list[tuple[Int[Tensor, "m"], Frame]]:
        """The frames of a batch sorted by size, so that nothing is padded: one symmetric graph no longer costs the whole batch.

        Args:
            A: Adjacency matrices, shape ``(items, n, n)``.
            weights, features, generator: As the call.

        Returns:
            Pairs ``(positions, frame)``, by increasing size: which graphs, int64 of shape ``(m,)``, and the frame of ``A[positions]``.

        Raises:
            ValueError, FrameTooLargeError: As the call.

        Example:
            >>> A = torch.stack([torch.zeros(3, 3), torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]])])
            >>> [(index.tolist(), frame.size) for index, frame in PermutationFrame().buckets(A)]
            [([1], 2), ([0], 6)]
        """
        if A.ndim != 3:
            raise ValueError(f"A must have shape (items, n, n), got {tuple(A.shape)}")
        order, counts, large, logs = self._plan(self.classes(A, features, weights))
        out = []
        sizes = torch.where(large, self.n_samples or 0, torch.exp(logs).round().long())
        for size in torch.unique(sizes).tolist():
            at = torch.nonzero(sizes == size)[:, 0]
            frame = self._build(order[at], counts[at], large[at], logs[at], A.dtype, generator)
            info = FrameInfo(*(v.to(A.device) for v in frame.info[:3]))
            out.append((at.to(A.device), Frame(map_element(frame.elements, lambda v: v.to(A.device)), None, info)))
        return out

    def _plan(self, classes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Sorted order, sizes of the classes, which frames are to be sampled, and the logarithm of every frame's size; on the CPU."""
        n = classes.shape[-1]
        flat = classes.reshape(-1, n).cpu()
        order = torch.argsort(flat, dim=-1, stable=True)
        counts = torch.zeros_like(flat).scatter_add_(-1, flat, torch.ones_like(flat))
        factorials = torch.cumsum(torch.log(torch.arange(1, n + 1).double()), 0)
        logs = torch.where(counts > 0, factorials[(counts - 1).clamp(min=0)], 0.0).sum(-1)
        large = logs > math.log(self.max_size if self.n_samples is None else self.n_samples) + 1e-9
        if self.n_samples is None and bool(large.any()):
            worst = counts[int(logs.argmax())].tolist()
            size = math.prod(math.factorial(c) for c in worst)
            raise FrameTooLargeError(
                f"the frame of {int(large.sum())} of {len(flat)} graphs is larger than max_size={self.max_size}, the largest has {size} "
                f"elements (ties of {', '.join(str(c) for c in worst if c > 1)} nodes). Pass n_samples to sample it, features to break "
                "ties, or a larger max_size",
                size,
            )
        return order, counts, large, logs

    def _build(
        self, order: Tensor, counts: Tensor, large: Tensor, logs: Tensor, dtype: torch.dtype, generator: torch.Generator | None
    ) -> Frame:
        elements, sizes = self._enumerate(order, counts, large, generator)
        k = elements.shape[1]
        weights = None
        if bool((sizes != k).any()):
            weights = (torch.arange(k) < sizes[:, None]).to(dtype).div_(sizes.to(dtype)[:, None])
        return Frame(elements, weights, FrameInfo(large, torch.exp(-logs), (counts > 0).sum(-1)))

    def _enumerate(
        self, order: Tensor, counts: Tensor, large: Tensor, generator: torch.Generator | None
    ) -> tuple[Int[Tensor, "items k n"], Int[Tensor, "items"]]:
        n = order.shape[1]
        if len(order) == 0:
            return order.new_zeros(0, 1, n), order.new_zeros(0)
        patterns, which = torch.unique(torch.where(large[:, None], 0, counts), dim=0, return_inverse=True)
        tables = {i: _tie_groups(tuple(c for c in row if c)) for i, row in enumerate(patterns.tolist()) if any(row)}
        sizes = torch.tensor([len(tables[i]) if i in tables else self.n_samples or 0 for i in range(len(patterns))])[which]
        k = int(sizes.max())
        elements = order.repeat_interleave(k, 0).reshape(-1, k, n)  # several times faster than repeat(1, k, 1)
        for i, table in tables.items():
            rows = torch.nonzero(which == i)[:, 0]
            elements[rows, : len(table)] = order[rows][:, table]
        rows = torch.nonzero(large)[:, 0]
        if len(rows):
            # Within ties any order is as likely: sort by place of the tie plus noise below one.
            classes = torch.repeat_interleave(torch.arange(n).repeat(len(rows)), counts[rows].flatten()).reshape(len(rows), 1, n)
            noise = torch.rand(len(rows), k, n, generator=generator, dtype=torch.float64)
            elements[rows] = order[rows][:, None].expand(-1, k, -1).gather(-1, torch.argsort(classes + noise, dim=-1))
        return elements, sizes


class SortFrame:
    r"""Sort points along fixed directions, one permutation for each: a weighted frame for ``S_n`` on ``R^(n x d)``.

    The weight of a direction is the smallest gap between neighbours of the sorted projections, normalised over the directions, so a
    direction loses its say before its order changes, and the average is continuous (Dym, Lawrence, Siegel, ICML 2024) where all points are
    different. Points in the same place do not count as neighbours; invariant averages stay exact for them, node outputs do not, and the
    item is flagged. So is one in which every direction sees two different points at the same height.

    Args:
        directions: Rows, shape ``(m, d)``. ``(n (n - 1) / 2) (d - 1) + 1`` of them in general position separate the points of every set of
            ``n`` different points.
        tol: Points closer than ``tol`` times the largest distance from the origin in every coordinate are in the same place; 1e-6 in
            float32, 1e-12 in float64 if not given.

    Raises:
        ValueError: If ``directions`` is not ``(m, d)``.

    Example:
        >>> SortFrame(torch.eye(2))(torch.tensor([[0.0, 3.0], [1.0, 0.0]])).elements
        tensor([[0, 1],
                [1, 0]])
    """

    def __init__(self, directions: Float[Tensor, "m d"], *, tol: float | None = None) -> None:
        check_floating("directions", directions)
        if directions.ndim != 2 or 0 in directions.shape:
            raise ValueError(f"directions must have shape (m, d) with m, d >= 1, got {tuple(directions.shape)}")
        self.directions, self.tol = directions, tol

    def __repr__(self) -> str:
        return f"SortFrame(directions={self.directions.shape[0]}, dim={self.directions.shape[1]})"

    @classmethod
    def random(cls, dim: int, count: int, generator: torch.Generator | None = None, *, dtype: torch.dtype | None = None) -> "SortFrame":
        """With ``count`` uniformly random unit directions, fixed from then on.

        Args:
            dim: Dimension ``d``.
            count: Number of directions.
            generator: Source of randomness.
            dtype: Of the directions.

        Returns:
            The frame constructor.

        Raises:
            ValueError: If ``dim`` or ``count`` is below 1.
        """
        check_positive_int("dim", dim)
        check_positive_int("count", count)
        v = torch.randn(count, dim, generator=generator, dtype=dtype)
        return cls(v / v.norm(dim=-1, keepdim=True))

    def __call__(
        self, x: Float[Tensor, "*batch n d"], weights: Shaped[Tensor, "*#batch n"] | None = None, batch: Tensor | None = None
    ) -> Frame:
        """The frame of each set.

        Args:
            x: Points, shape ``(..., n, d)``.
            weights: Which points are real (positive), shape ``(..., n)``; padding is sorted last and stays in its order.
            batch: Not supported: sets of different sizes are padded.

        Returns:
            ``Frame`` with int64 ``elements`` of shape ``(*batch, m, n)``; the weights are constants.

        Raises:
            ValueError: If a shape does not fit.
            NotImplementedError: If ``batch`` is given.
        """
        from geocore.frames._moments import check_points

        if batch is not None:
            raise NotImplementedError("batch is not supported for permutations; pad the sets to one size and pass the mask as weights")
        check_points(x, self.directions.shape[1], weights, None, None)
        y = x.detach().to(torch.promote_types(x.dtype, torch.float32))
        tol = (1e-12 if y.dtype == torch.float64 else 1e-6) if self.tol is None else self.tol
        heights = (y @ self.directions.to(y).mT).mT
        real = None if weights is None else (weights > 0).expand(x.shape[:-1])
        if real is not None:
            heights = torch.where(real[..., None, :], heights, torch.inf)
        p = torch.argsort(heights, dim=-1, stable=True)
        ordered = y[..., None, :, :].expand(*p.shape, y.shape[-1]).gather(-2, p[..., None].expand(*p.shape, y.shape[-1]))
        step = heights.gather(-1, p).diff(dim=-1)
        scale = y.abs().amax((-1, -2))[..., None, None]
        same = ordered.diff(dim=-2).abs().amax(-1) <= tol * scale
        padding = torch.zeros_like(same) if real is None else ~real[..., None, :].expand(p.shape).gather(-1, p)[..., 1:]
        whole = torch.where(same | padding, torch.inf, step)
        smallest = whole.amin(-1) if whole.shape[-1] else torch.full(p.shape[:-1], torch.inf, dtype=y.dtype, device=y.device)
        smallest = torch.where(torch.isinf(smallest), 1.0, smallest)  # a single point: any order will do
        total = smallest.sum(-1, keepdim=True)
        w = torch.where(total > 0, smallest / torch.where(total > 0, total, 1.0), 1.0 / p.shape[-2])
        twins = (same & ~padding).any(-1).any(-1)
        gap = smallest.amax(-1) / torch.where(scale > 0, scale, 1.0)[..., 0, 0]
        distinct = (~(same | padding)).sum(-1).amax(-1) + 1
        return Frame(p, w, FrameInfo(twins | (total[..., 0] <= 0), gap, distinct))
