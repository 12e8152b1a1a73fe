"""Several networks of one shape trained side by side: the seeds of an experiment for about the price of one."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn

__all__ = ["EnsembleMLP", "one_thread"]


class EnsembleMLP(nn.Module):
    """Independent multilayer perceptrons with LeakyReLU, ``(members, batch, in) -> (members, batch, out)``.

    Args:
        widths: Input width, hidden widths, output width.
        seeds: One seed per member; the initialisation is that of ``nn.Linear``.
    """

    def __init__(self, widths: Sequence[int], seeds: Sequence[int]) -> None:
        super().__init__()
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for a, b in pairwise(widths):
            bound = 1.0 / math.sqrt(a)
            draws = [(2.0 * torch.rand(a + 1, b, generator=g) - 1.0) * bound for g in generators]
            self.weights.append(nn.Parameter(torch.stack([d[:-1] for d in draws])))
            self.biases.append(nn.Parameter(torch.stack([d[-1:] for d in draws])))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of every member on its own batch."""
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            if i < last:
                x = torch.nn.functional.leaky_relu(x)
        return x


@contextmanager
def one_thread() -> Iterator[None]:
    """One intra-op thread: at these sizes more of them only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
