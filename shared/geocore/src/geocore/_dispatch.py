"""When a hand-written gradient may run, and the one matrix exponential that everything else is checked against."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["matrix_exp", "needs_composable"]


def needs_composable() -> bool:
    """Whether a ``torch.func`` transform or forward-mode differentiation is active.

    A ``torch.autograd.Function`` without forward rule raises there, one with it is refused by ``torch.compile`` or drops its
    derivative in silence; formulas of plain operators are right under all of them.
    """
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def matrix_exp(A: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """``torch.matrix_exp`` without its two traps: it is never given a single matrix and never strided memory.

    For one float64 matrix of norm 0.01 to 0.05 torch takes a Taylor polynomial of too low degree (error up to 1e4 eps).
    """
    n = A.shape[-1]
    count = 1
    for size in A.shape[:-2]:
        count *= size
    flat = A.reshape(count, n, n)
    if count == 1:
        return torch.matrix_exp(flat.expand(2, n, n).contiguous())[0].reshape(A.shape)
    return torch.matrix_exp(flat.contiguous()).reshape(A.shape)
