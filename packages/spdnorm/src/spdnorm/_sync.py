"""Means over a batch, on one process or several."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["Average", "convert_sync"]


def convert_sync(model: nn.Module, process_group: Any = None) -> nn.Module:
    """Make every batch normalisation of this package in ``model`` use statistics over all processes, as ``convert_sync_batchnorm``.

    Args:
        model: Changed in place.
        process_group: Processes to average over; all by default.

    Returns:
        ``model``.

    Example:
        >>> net = convert_sync(SPDNet([20, 12], n_classes=10))
    """
    from spdnorm._base import RiemannianBatchNorm

    for module in model.modules():
        if isinstance(module, RiemannianBatchNorm):
            module.sync, module.process_group = True, process_group
    return model


class _AllReduceSum(torch.autograd.Function):
    """Sum over processes; every process contributes the gradient of its own loss, so the backward pass sums too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total, None


class Average:
    """Mean over all batch dimensions, or all but the last of them (channels), and over the processes of a group.

    Args:
        batch: Batch shape of what will be averaged.
        per_channel: Keep the last batch dimension.
        sync: Average over processes too, if torch.distributed runs.
        group: Its process group.
        like: Gives dtype and device.
    """

    def __init__(self, batch: Sequence[int], *, per_channel: bool, sync: bool, group: Any, like: Tensor) -> None:
        self.dims = tuple(range(len(batch) - int(per_channel)))
        self.group = group
        self.sync = sync and dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1
        here = math.prod(batch[: len(self.dims)])
        self.local = here
        self.count: float | Tensor = float(here)
        if self.sync:
            self.count = _AllReduceSum.apply(torch.tensor(float(here), dtype=like.dtype, device=like.device), group)

    def __call__(self, A: Tensor) -> Tensor:
        """Mean of ``A (*batch, ...)``."""
        total = A.sum(self.dims) if self.dims else A
        if self.sync:
            total = _AllReduceSum.apply(total, self.group)
        return total / self.count

    def any(self, mask: Tensor) -> Tensor:
        """Whether ``mask`` holds anywhere, on any process: a boolean scalar on the device."""
        found = mask.any()
        if self.sync:
            found = _AllReduceSum.apply(found.to(torch.float64 if mask.device.type == "cpu" else torch.float32), self.group) > 0
        return found
