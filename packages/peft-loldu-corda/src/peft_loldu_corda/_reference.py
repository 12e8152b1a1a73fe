"""Both methods written out literally, as dense matrices: the oracle of tests and benchmarks."""

import torch
from torch import Tensor

__all__ = ["corda_reference", "loldu_factors_reference", "loldu_forward_reference", "second_moment_reference"]


def loldu_factors_reference(W: Tensor, r: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``P`` (dense), ``L``, ``d``, ``U`` of the full ``W = P L diag(d) U``, cut after ``r`` terms."""
    P, L, U_raw = torch.linalg.lu(W)
    d = U_raw.diagonal()
    return P, L[:, :r], d[:r], (U_raw / d[:, None])[:r]


def loldu_forward_reference(x: Tensor, W: Tensor, b: Tensor | None, z: Tensor, r: int, s: float) -> Tensor:
    """``(W - s P L diag(d) U + s P L diag(z) U) x + b`` with every matrix formed, the permutation included."""
    P, L, d, U = loldu_factors_reference(W, r)
    residual = W - s * P @ L @ torch.diag(d) @ U
    weight = residual + s * P @ L @ torch.diag(z) @ U
    y = x @ weight.T
    return y if b is None else y + b


def second_moment_reference(inputs: list[Tensor], *, normalize: str = "none") -> Tensor:
    """``sum x x^T`` over tokens, divided by their number, or over calls each divided by its signed maximum, divided by theirs."""
    n = inputs[0].shape[-1]
    total, tokens = torch.zeros(n, n, dtype=torch.float64), 0
    for x in inputs:
        X = x.reshape(-1, n).double()
        if normalize == "max":
            X = X / X.max().abs()
        for row in X:
            total += torch.outer(row, row)
        tokens += len(X)
    return total / (len(inputs) if normalize == "max" else tokens)


def corda_reference(W: Tensor, C: Tensor, r: int, mode: str, scaling: float, damping: float) -> tuple[Tensor, Tensor, Tensor]:
    """``A0``, ``B0`` and the residual weight, with an explicit inverse."""
    Cd = C + damping * C.diagonal().mean() * torch.eye(len(C), dtype=C.dtype)
    U, S, Vh = torch.linalg.svd(W @ Cd, full_matrices=False)
    Vh = Vh @ torch.linalg.inv(Cd)
    chosen = slice(0, r) if mode == "ipm" else slice(len(S) - r, len(S))
    root = (S[chosen] / scaling).sqrt()
    A0, B0 = root[:, None] * Vh[chosen], U[:, chosen] * root
    return A0, B0, W - scaling * B0 @ A0
