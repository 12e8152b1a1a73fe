"""Hypothesis strategies that visit the places where geometry breaks (needs ``hypothesis``)."""

import math
from typing import Any

import torch
from torch import Tensor

try:
    from hypothesis import strategies as st
except ImportError as error:  # pragma: no cover - depends on the environment
    raise ImportError("geocore.testing.strategies needs hypothesis: pip install 'geocore[testing]'") from error

from geocore.testing._tolerances import ANGLES

__all__ = ["angles", "axes", "orthogonal_matrices", "rotation_vectors", "skew_matrices", "spectra"]


def angles() -> st.SearchStrategy[float]:
    """Angles in ``[0, pi]`` radians, half of them from ``ANGLES``."""
    return st.one_of(st.sampled_from(ANGLES), st.floats(0.0, math.pi))


@st.composite
def axes(draw: Any, n: int = 3) -> Tensor:
    """Unit vectors, shape ``(n,)`` float64: coordinate axes, their negatives, and generic directions."""
    if draw(st.booleans()):
        axis = torch.zeros(n, dtype=torch.float64)
        axis[draw(st.integers(0, n - 1))] = draw(st.sampled_from([1.0, -1.0]))
        return axis
    axis = torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(draw(st.integers(0, 2**31))))
    return axis / axis.norm()


@st.composite
def rotation_vectors(draw: Any, dtype: torch.dtype = torch.float64) -> Tensor:
    """Rotation vectors, shape ``(3,)``, with the angles of ``angles``."""
    return (draw(axes()) * draw(angles())).to(dtype)


@st.composite
def orthogonal_matrices(draw: Any, n: int, *, special: bool = True, dtype: torch.dtype = torch.float64) -> Tensor:
    """Haar-distributed rotations (or, with ``special=False``, orthogonal matrices), shape ``(n, n)``."""
    g = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(draw(st.integers(0, 2**31))))
    q, r = torch.linalg.qr(g)
    q = q * torch.where(r.diagonal() < 0, -1.0, 1.0)
    if special and torch.linalg.det(q) < 0:
        q = torch.cat([-q[:, :1], q[:, 1:]], dim=1)
    return q.to(dtype)


@st.composite
def spectra(draw: Any, size: int, *, top: float = math.pi) -> list[float]:
    """``size`` non-negative frequencies up to ``top`` with zeros, exact repetitions and near repetitions."""
    base = draw(st.lists(st.floats(0.0, top), min_size=size, max_size=size))
    kind = draw(st.sampled_from(["generic", "zeros", "repeated", "close"]))
    if kind == "zeros":
        return [0.0 if i % 2 else b for i, b in enumerate(base)]
    if kind == "repeated":
        return [base[0]] * size
    if kind == "close":
        return [min(top, base[0] + 1e-9 * i) for i in range(size)]
    return base


@st.composite
def skew_matrices(draw: Any, n: int, *, top: float = math.pi, dtype: torch.dtype = torch.float64) -> Tensor:
    """Skew-symmetric matrices, shape ``(n, n)``, with the frequencies of ``spectra``."""
    q = draw(orthogonal_matrices(n, special=False))
    core = torch.zeros(n, n, dtype=torch.float64)
    for k, w in enumerate(draw(spectra(n // 2, top=top)) if n > 1 else []):
        core[2 * k + 1, 2 * k], core[2 * k, 2 * k + 1] = w, -w
    s = q @ core @ q.T
    return ((s - s.T) / 2).to(dtype)
