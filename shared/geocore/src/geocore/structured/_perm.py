"""Permutations as index vectors: applied by a gather, inverted by a scatter, never an n x n matrix."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from geocore._checks import check_positive_int

__all__ = ["Permutation", "match"]


class Permutation:
    """A permutation of ``n`` entries; applied to ``x`` it gathers, ``y_i = x[index_i]``.

    Args:
        index: Each of ``0 .. n-1`` once, shape ``(n,)``, int32 or int64.
        check: Whether to verify that; it reads the values, so it waits for the device.

    Raises:
        TypeError: If ``index`` is not an int32 or int64 tensor.
        ValueError: If it is not one-dimensional, or not a permutation.

    Example:
        >>> P = Permutation(torch.tensor([2, 0, 1]))
        >>> P(torch.tensor([10.0, 20.0, 30.0]))
        tensor([30., 10., 20.])
    """

    def __init__(self, index: Int[Tensor, "n"], *, check: bool = True) -> None:
        if not isinstance(index, Tensor) or index.dtype not in (torch.int64, torch.int32):
            kind = index.dtype if isinstance(index, Tensor) else type(index).__name__
            raise TypeError(f"index must be an int64 or int32 tensor, got {kind}")
        if index.ndim != 1:
            raise ValueError(f"index must have shape (n,), got {tuple(index.shape)}")
        if check and not torch.equal(index.sort().values, torch.arange(len(index), dtype=index.dtype, device=index.device)):
            raise ValueError(f"index must hold each of 0 .. {len(index) - 1} once, got {index.tolist()[:20]}")
        self.index = index

    def __len__(self) -> int:
        return self.index.shape[0]

    def __repr__(self) -> str:
        return f"Permutation(n={len(self)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Permutation) and torch.equal(self.index.long(), other.index.long())

    __hash__ = None  # type: ignore[assignment]

    def __call__(self, x: Shaped[Tensor, "..."], dim: int = -1) -> Shaped[Tensor, "..."]:
        """Gather along ``dim``; differentiable in ``x``.

        Raises:
            ValueError: If that dimension does not have ``n`` entries.
        """
        if x.ndim == 0 or x.shape[dim] != len(self):
            raise ValueError(f"x must have {len(self)} entries along dim {dim}, got shape {tuple(x.shape)}")
        return x.index_select(dim, self.index)

    apply = __call__

    def inverse(self) -> "Permutation":
        """The inverse, by one scatter."""
        inverse = torch.empty_like(self.index)
        inverse[self.index.long()] = torch.arange(len(self), dtype=self.index.dtype, device=self.index.device)
        return Permutation(inverse, check=False)

    def __matmul__(self, other: "Permutation") -> "Permutation":
        """``self`` after ``other``, as for matrices.

        Raises:
            ValueError: If the sizes differ.
        """
        if not isinstance(other, Permutation):
            return NotImplemented
        if len(self) != len(other):
            raise ValueError(f"permutations must have the same size, got {len(self)} and {len(other)}")
        return Permutation(other.index[self.index.long()], check=False)

    def to_matrix(self, dtype: torch.dtype | None = None) -> Float[Tensor, "n n"]:
        """Dense matrix ``P`` with ``P x`` equal to ``self(x)``; for tests."""
        return torch.eye(len(self), dtype=dtype or torch.get_default_dtype(), device=self.index.device)[self.index.long()]

    def sign(self) -> int:
        """+1 or -1, the determinant of the matrix; reads the values."""
        index, seen, sign = self.index.tolist(), [False] * len(self), 1
        for start in range(len(index)):
            length, i = 0, start
            while not seen[i]:
                seen[i], i, length = True, index[i], length + 1
            if length and length % 2 == 0:
                sign = -sign
        return sign

    def to(self, device: torch.device | str) -> "Permutation":
        """The same permutation on another device."""
        return Permutation(self.index.to(device), check=False)

    @classmethod
    def identity(cls, n: int) -> "Permutation":
        """No change."""
        check_positive_int("n", n, minimum=0)
        return cls(torch.arange(n), check=False)

    @classmethod
    def random(cls, n: int, generator: torch.Generator | None = None) -> "Permutation":
        """Uniformly random."""
        check_positive_int("n", n, minimum=0)
        return cls(torch.randperm(n, generator=generator), check=False)

    @classmethod
    def stride(cls, n: int, k: int) -> "Permutation":
        """Perfect shuffle: the transpose of a ``k x n/k`` view.

        Raises:
            ValueError: If ``k`` does not divide ``n``.
        """
        check_positive_int("n", n)
        check_positive_int("k", k)
        if n % k:
            raise ValueError(f"k must divide n = {n}, got {k}")
        return cls(torch.arange(n).reshape(k, n // k).T.flatten(), check=False)

    @classmethod
    def digit_reversal(cls, radices: Sequence[int]) -> "Permutation":
        """Index ``(d_1, ..., d_p)`` in the mixed radices reads entry ``(d_p, ..., d_1)``: the order of a Cooley-Tukey transform.

        Raises:
            ValueError: If there are no radices or one is below 1.
        """
        radices = list(radices)
        if not radices:
            raise ValueError("radices must name at least one factor, got []")
        for radix in radices:
            check_positive_int("radices", radix)
        grid = torch.arange(math.prod(radices)).reshape(radices[::-1])
        return cls(grid.permute(*reversed(range(len(radices)))).flatten(), check=False)

    @classmethod
    def bit_reversal(cls, n: int) -> "Permutation":
        """Digit reversal in base 2.

        Raises:
            ValueError: If ``n`` is not a power of two.
        """
        check_positive_int("n", n)
        if n & (n - 1):
            raise ValueError(f"n must be a power of two, got {n}")
        return cls.digit_reversal([2] * (n.bit_length() - 1) or [1])

    @classmethod
    def makhoul(cls, n: int) -> "Permutation":
        """Even entries ascending, then odd entries descending: turns a DCT-II into a DFT of the same length (Makhoul, 1980)."""
        check_positive_int("n", n)
        return cls(torch.cat([torch.arange(0, n, 2), torch.arange(1, n, 2).flip(0)]), check=False)

    @classmethod
    def from_pivots(cls, pivots: Int[Tensor, "k"], n: int) -> "Permutation":
        """Row order of an LU factorisation from LAPACK's 1-based interchanges: ``W[index]`` is ``L U``.

        Args:
            pivots: Row that was swapped with row ``i``, counted from 1, shape ``(k,)``, as ``torch.linalg.lu_factor`` returns them.
            n: Number of rows.

        Raises:
            ValueError: If a pivot is out of range or there are more than ``n``.
            TypeError: If ``pivots`` is not an integer tensor.
        """
        if not isinstance(pivots, Tensor) or pivots.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"pivots must be an int32 or int64 tensor, got {getattr(pivots, 'dtype', type(pivots).__name__)}")
        swaps = pivots.tolist()
        if pivots.ndim != 1 or len(swaps) > n or any(not 1 <= p <= n for p in swaps):
            raise ValueError(f"pivots must be at most {n} row numbers in 1 .. {n}, got {swaps[:20]}")
        order = list(range(n))
        for i, p in enumerate(swaps):
            order[i], order[p - 1] = order[p - 1], order[i]
        return cls(torch.tensor(order, dtype=torch.int64, device=pivots.device), check=False)


def match(prev: Int[Tensor, "a"], new: Int[Tensor, "b"]) -> tuple[Int[Tensor, "c"], Int[Tensor, "c"]]:
    """Positions of the common members of two index sets: ``prev[src] == new[dst]``.

    Moves per-column state between column subsets: ``state_new[dst] = state_prev[src]``.

    Args:
        prev: Distinct indices, shape ``(a,)``.
        new: Distinct indices, shape ``(b,)``.

    Returns:
        ``src`` and ``dst``, int64, in the order of ``new``.

    Raises:
        TypeError: If an argument is not an integer tensor.
        ValueError: If an argument is not one-dimensional or repeats an index.

    Example:
        >>> match(torch.tensor([4, 7, 9]), torch.tensor([9, 1, 4]))
        (tensor([2, 0]), tensor([0, 2]))
    """
    for name, index in (("prev", prev), ("new", new)):
        if not isinstance(index, Tensor) or index.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"{name} must be an int64 or int32 tensor, got {getattr(index, 'dtype', type(index).__name__)}")
        if index.ndim != 1 or index.unique().numel() != index.numel():
            raise ValueError(f"{name} must hold distinct indices in one dimension, got shape {tuple(index.shape)}")
    order = prev.argsort()
    if prev.numel() == 0 or new.numel() == 0:
        return order[:0], order[:0]
    slot = torch.searchsorted(prev[order].to(new.dtype), new).clamp(max=prev.numel() - 1)
    src = order[slot]
    found = prev[src] == new
    return src[found], found.nonzero()[:, 0]
