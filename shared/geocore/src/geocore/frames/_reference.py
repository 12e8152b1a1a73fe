"""The frames as the papers write them down: one input, loops, no batching. What the constructors are tested against."""

import math
from itertools import pairwise, permutations, product

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geocore.groups._elements import Motion

__all__ = ["minimal_frame_reference", "pca_frame_reference", "permutation_frame_reference", "weighted_frame_reference"]


def pca_frame_reference(x: Float[Tensor, "n d"], weights: Float[Tensor, "n"] | None = None, *, group: str = "O") -> Motion:
    """Puny et al., section 3.1: eigenvectors of the covariance, largest first, with all signs."""
    n, d = x.shape
    w = x.new_ones(n) if weights is None else weights
    t = sum((w[i] * x[i] for i in range(n)), x.new_zeros(d)) / w.sum()
    C = sum((w[i] * torch.outer(x[i] - t, x[i] - t) for i in range(n)), x.new_zeros(d, d))
    V = torch.linalg.eigh(C).eigenvectors.flip(-1)
    elements = []
    for signs in product((1.0, -1.0), repeat=d):
        Q = V @ torch.diag(x.new_tensor(signs))
        if group.startswith(("O", "E")) or torch.linalg.det(Q) > 0:
            elements.append(Q)
    Q = torch.stack(elements)
    return Motion(Q, t.expand(len(Q), d) if group.endswith("E") else None)


def weighted_frame_reference(x: Float[Tensor, "n 3"], *, group: str = "SO", power: float = 2) -> tuple[Motion, Tensor]:
    """Dym et al.: a frame for each ordered pair of points in three dimensions, and the weights."""
    n = len(x)
    t = x.mean(0)
    y = x - t
    elements, weights = [], []
    for i, j in permutations(range(n), 2):
        normal = torch.linalg.cross(y[i], y[j])
        e1, e3 = y[i] / y[i].norm(), normal / normal.norm()
        e2 = torch.linalg.cross(e3, e1)
        for sign in (1.0,) if group.startswith("S") else (1.0, -1.0):
            elements.append(torch.stack([e1, e2, sign * e3], -1))
            weights.append(normal.norm() ** power)
    w = torch.stack(weights)
    return Motion(torch.stack(elements), t.expand(len(elements), 3) if group.endswith("E") else None), w / w.sum()


def minimal_frame_reference(x: Float[Tensor, "n d"], *, group: str = "O", tol: float = 1e-7) -> Tensor:
    """Lin et al.: Gram-Schmidt over the points in their order, dependent ones left out; ``Q`` for points that span enough."""
    n, d = x.shape
    y = x - x.mean(0)
    bound = tol * y.norm(dim=-1).max()
    basis: list[Tensor] = []
    for i in range(n):
        rest = y[i]
        for q in basis:
            rest = rest - (rest @ q) * q
        if rest.norm() > bound and len(basis) < d:
            basis.append(rest / rest.norm())
    if len(basis) == d - 1 and group.startswith("S"):
        full = torch.linalg.qr(torch.stack([*basis, *torch.eye(d, dtype=x.dtype)], -1)).Q
        basis.append(full[:, d - 1])
    Q = torch.stack(basis, -1)
    if group.startswith("S") and torch.linalg.det(Q) < 0:
        Q = torch.cat([Q[:, :-1], -Q[:, -1:]], -1)
    return Q


def permutation_frame_reference(A: Float[Tensor, "n n"], tol: float = 1e-6) -> Int[Tensor, "k n"]:
    """Puny et al., section 3.2: sort the rows of projector diagonals, then take every order of equal rows."""
    A = A.double()
    n = len(A)
    values, vectors = torch.linalg.eigh(torch.diag(A.sum(-1)) - A)
    columns: list[Tensor] = []
    for i in range(n):
        if i and values[i] - values[i - 1] <= tol * values.abs().max():
            columns[-1] = columns[-1] + vectors[:, i] ** 2
        else:
            columns.append(vectors[:, i] ** 2)

    def levels(column: Tensor) -> list[int]:
        ordered = sorted(column.tolist())
        starts = [ordered[0], *(b for a, b in pairwise(ordered) if b - a > tol)]
        return [sum(value >= start for start in starts) for value in column.tolist()]

    keys = list(zip(*(levels(column) for column in columns), strict=True))
    groups = [[i for i in range(n) if keys[i] == key] for key in sorted(set(keys))]
    orders = [[i for part in choice for i in part] for choice in product(*(permutations(group) for group in groups))]
    assert len(orders) == math.prod(math.factorial(len(group)) for group in groups)
    return torch.tensor(orders)
