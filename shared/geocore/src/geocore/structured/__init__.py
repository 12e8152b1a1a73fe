"""Structured matrices: permutations, truncated LDU and SVD, Monarch projection, fixed transforms.

Thin, batched where that makes sense, over ``torch.linalg`` and ``torch.fft``; own code only where torch has nothing or is slow. The
products that go with these structures are in ``geocore.blocks``.
"""

from geocore.structured._ldu import LDU, column_order, full_ldu, truncated_ldu
from geocore.structured._perm import Permutation, match
from geocore.structured._project import MonarchProjection, project_monarch
from geocore.structured._svd import SVD, block_power_iteration, svd_trunc, svd_weighted
from geocore.structured._transforms import (
    dct,
    dct_matrix,
    dft_matrix,
    dst,
    dst_matrix,
    hadamard,
    hadamard_matrix,
    hartley,
    idct,
    idst,
)

__all__ = [
    "LDU",
    "SVD",
    "MonarchProjection",
    "Permutation",
    "block_power_iteration",
    "column_order",
    "dct",
    "dct_matrix",
    "dft_matrix",
    "dst",
    "dst_matrix",
    "full_ldu",
    "hadamard",
    "hadamard_matrix",
    "hartley",
    "idct",
    "idst",
    "match",
    "project_monarch",
    "svd_trunc",
    "svd_weighted",
    "truncated_ldu",
]
