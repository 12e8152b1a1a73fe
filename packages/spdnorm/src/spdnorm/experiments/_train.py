"""The training loop that the small experiments share."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spdnorm.batchnorm import GBWBatchNorm, SPDBatchNorm
from spdnorm.experiments._data import Split
from spdnorm.networks import SPDNet

__all__ = ["NORMS", "Recipe", "accuracy", "map_in_threads", "one_thread", "train"]

NORMS: dict[str, Callable[[int], nn.Module] | None] = {
    "no normalisation": None,
    "AIM (Brooks)": lambda n: SPDBatchNorm(n, "airm", variance="none", scale=False, param="geoopt"),
    "AIM + variance": lambda n: SPDBatchNorm(n, "airm", param="geoopt"),
    "LEM": lambda n: SPDBatchNorm(n, "lem", param="geoopt"),
    "LCM": lambda n: SPDBatchNorm(n, "lcm", param="geoopt"),
    "GBW theta=1": lambda n: GBWBatchNorm(n, theta=1.0, param="geoopt"),
    "GBW theta=0.5": lambda n: GBWBatchNorm(n, theta=0.5, param="geoopt"),
    "GBW as released": lambda n: GBWBatchNorm(n, theta=0.5, variant="released", param="geoopt"),
}
"""Rows of the tables: label to the normalisation of ``n x n`` matrices."""


@dataclass(frozen=True)
class Recipe:
    """SPDNet with one block, Riemannian Adam (amsgrad).

    Args:
        size: Size after ``BiMap``.
        epochs, batch: Length of training.
        lr: Learning rate.
        threshold: Of ``ReEig``.
        device: Torch device.
    """

    size: int = 12
    epochs: int = 20
    batch: int = 30
    lr: float = 5e-3
    threshold: float = 1e-8
    device: str = "cpu"


def train(norm: Callable[[int], nn.Module] | None, split: Split, seed: int, recipe: Recipe) -> nn.Module:
    """Train one network; ``seed`` fixes its weights and the order of the batches, the same for every normalisation.

    Raises:
        ImportError: If geoopt is missing.
    """
    try:
        from geoopt.optim import RiemannianAdam
    except ImportError as error:
        raise ImportError("the experiments need geoopt: pip install 'spdnorm[demo]'") from error
    g = torch.Generator().manual_seed(1000 + seed)
    classes = int(split.y_train.max()) + 1
    net = SPDNet([split.x_train.shape[-1], recipe.size], norm, classes, threshold=recipe.threshold, param="geoopt")
    reseed(net, g)
    net.to(recipe.device)
    x, y = split.x_train.to(recipe.device), split.y_train.to(recipe.device)
    optimizer = RiemannianAdam(net.parameters(), lr=recipe.lr, amsgrad=True)
    loss = nn.CrossEntropyLoss()
    for _ in range(recipe.epochs):
        for index in torch.randperm(len(x), generator=g).split(recipe.batch):
            if len(index) < 2:
                continue
            optimizer.zero_grad()
            loss(net(x[index]), y[index]).backward()
            optimizer.step()
    return net.eval()


@torch.no_grad()
def reseed(net: SPDNet, g: torch.Generator) -> None:
    """Draw the weights of ``BiMap`` and the linear layer from a generator, so that threads do not share one."""
    for block in net.blocks:
        block[0].stiefel.reset_parameters(g)  # pyright: ignore
    last: Any = net.classifier.last
    bound = last.in_features**-0.5
    for parameter in (last.weight, last.bias):
        parameter.uniform_(-bound, bound, generator=g)


@torch.no_grad()
def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Fraction of right answers."""
    device = next(net.parameters()).device
    return float((net(x.to(device)).argmax(-1) == y.to(device)).double().mean())


@contextmanager
def one_thread() -> Iterator[None]:
    """One intra-op thread: at these sizes more of them only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def map_in_threads(work: Callable[[Any], Any], jobs: Sequence[Any], done: Callable[[float], None]) -> list[Any]:
    """``[work(job) for job in jobs]`` on at most two threads."""
    count = min(2, os.cpu_count() or 1)
    results: list[Any] = []
    with one_thread(), ThreadPoolExecutor(count) as pool:
        for result in pool.map(work, jobs):
            results.append(result)
            done(len(results) / len(jobs))
    return results
