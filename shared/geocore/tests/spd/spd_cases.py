"""Spectra at which matrix functions break, and matrices that have them."""

import torch
from torch import Tensor

SPECTRA: dict[str, list[float]] = {
    "cond 1e2": [10 ** (2 * i / 7) for i in range(8)],
    "cond 1e6": [10 ** (6 * i / 7 - 3) for i in range(8)],
    "cond 1e10": [10 ** (10 * i / 7 - 5) for i in range(8)],
    "cond 1e14": [10 ** (14 * i / 7 - 7) for i in range(8)],
    "2I": [2.0] * 8,
    "repeated": [1.0, 1.0, 1.0, 2.0, 2.0, 5.0, 5.0, 5.0],
    "gap 1e-6": [1 + i * 1e-6 for i in range(8)],
    "gap 1e-9": [1 + i * 1e-9 for i in range(8)],
    "gap 1e-13": [1 + i * 1e-13 for i in range(8)],
    "tiny": [1e-8 * v for v in (1, 1, 2, 2, 3, 3, 4, 4)],
    "EEG": [1e-12 * v for v in (1, 1, 1.5, 2, 3, 5, 5 + 1e-9, 8)],
    "mixed": [1.0, 1.0, 1 + 1e-7, 2.0, 2 + 1e-11, 30.0, 30.0, 90.0],
}


def rotation(n: int, seed: int = 0) -> Tensor:
    A = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.linalg.qr(A)[0]


def matrix(values: list[float] | Tensor, seed: int = 0) -> Tensor:
    """SPD matrix with a spectrum, exactly symmetric; a multiple of the identity stays one exactly."""
    v = torch.as_tensor(values, dtype=torch.float64)
    if bool((v == v[0]).all()):
        return torch.diag(v)
    Q = rotation(len(v), seed)
    X = (Q * v) @ Q.T
    return (X + X.T) / 2


def random_spd(*shape: int, n: int = 3, seed: int = 0, scale: float = 0.5) -> Tensor:
    A = torch.randn(*shape, n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.matrix_exp(scale * (A + A.mT) / 2)


def random_sym(*shape: int, n: int = 3, seed: int = 0, scale: float = 1.0) -> Tensor:
    A = torch.randn(*shape, n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(100 + seed))
    return scale * (A + A.mT) / 2
