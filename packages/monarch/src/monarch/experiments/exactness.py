"""How near structured matrices with the same number of parameters come to the classical transforms.

``python -m monarch.experiments.exactness``
"""

import torch
from torch import Tensor

from geocore.structured import dct_matrix, dft_matrix, hadamard_matrix
from monarch._exact import exact_factors
from monarch.functional import project_monarch

__all__ = ["COLUMNS", "errors", "table"]

COLUMNS = ("Monarch", "low rank", "block-diagonal")


def _relative(error2: Tensor, M: Tensor) -> float:
    return float((error2.clamp(min=0) / M.abs().square().sum()).sqrt())


def errors(M: Tensor, k: int, rank: int, in_perm: Tensor | None = None) -> dict[str, float]:
    """Relative Frobenius errors of the best approximations of each kind with as many numbers.

    Args:
        M: Matrix, shape ``(n, n)``.
        k: Blocks of the Monarch product.
        rank: Rank of its blocks.
        in_perm: Order of its input.
    """
    n = M.shape[0]
    l = n // k  # noqa: E741
    shown = M if in_perm is None else M[:, in_perm]
    w1, w2, info = project_monarch(shown, k, l, rank=rank)
    budget = w1.numel() + w2.numel()
    s = torch.linalg.svdvals(M)
    low = _relative(s[-(-budget // (2 * n)) :].square().sum(), M)
    size = min(b for b in range(1, n + 1) if n % b == 0 and n * b >= budget)
    blocks = torch.block_diag(*[torch.ones(size, size, dtype=torch.bool)] * (n // size))
    diagonal = _relative(M.abs().square()[~blocks].sum(), M)
    return {"Monarch": float(info.rel_error), "low rank": low, "block-diagonal": diagonal}


def table() -> dict[str, dict[str, float]]:
    """Rows of the demonstration: DCT of 144, DFT of 144, Hadamard of 64, in float64."""
    dct, dft = exact_factors("dct2", 144), exact_factors("dft", 144)
    assert dct.in_perm is not None
    assert dft.in_perm is not None
    return {
        "DCT-II, n = 144": errors(dct_matrix(144, dtype=torch.float64), 12, 2, dct.in_perm.index),
        "DFT, n = 144": errors(dft_matrix(144, dtype=torch.complex128), 12, 1, dft.in_perm.index),
        "Hadamard, n = 64": errors(hadamard_matrix(64, dtype=torch.float64), 8, 1),
    }


if __name__ == "__main__":
    for name, row in table().items():
        print(f"{name:<18}", *(f"{key} {value:.3g}" for key, value in row.items()))  # noqa: T201
