"""Running statistics as buffers, and how momentum moves them."""

from typing import Any

import torch
from torch import Tensor, nn

from geocore._checks import check_positive_int
from spdnorm._geometry import Geometry

__all__ = ["RunningStatistics", "check_momentum", "store"]


def check_momentum(name: str, value: float | None, *, optional: bool = False) -> None:
    """Raise unless ``value`` lies in ``[0, 1]`` (or is None, where that is allowed)."""
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{name} must lie in [0, 1]{', or be None for a cumulative average' if optional else ''}, got {value!r}")


def store(buffer: Tensor, value: Tensor) -> None:
    """Write to a buffer in place.

    Through a view with one more dimension: compiled code of torch 2.13 drops ``copy_`` from one 0-dimensional tensor to another.
    """
    buffer.unsqueeze(0).copy_(value.unsqueeze(0))


class RunningStatistics(nn.Module):
    """Running mean (SPD, starts at ``I``), running variance (starts at 1) and the number of batches seen.

    Args:
        num_features: Size of the matrices.
        per_channel: ``False`` for one set; a number of channels for one set each; ``True`` takes the number from the first batch.
        momentum: Weight of the new batch in the statistics for evaluation; ``None`` for the average over all batches.
        train_momentum: Weight of the new batch in the statistics used in training (Kobler et al.): 1 for the batch alone; below 1 a second
            set of statistics is kept. ``None`` is 1 for good, without the second set.
        dtype, device: Of the buffers.

    Raises:
        ValueError, TypeError: If an argument is out of range.
    """

    running_mean: Tensor
    running_var: Tensor
    train_mean: Tensor
    train_var: Tensor
    num_batches_tracked: Tensor
    _momentum: Tensor
    _train_momentum: Tensor

    def __init__(
        self,
        num_features: int,
        *,
        per_channel: bool | int = False,
        momentum: float | None = 0.1,
        train_momentum: float | None = None,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        check_positive_int("num_features", num_features)
        check_momentum("momentum", momentum, optional=True)
        if train_momentum is not None:
            check_momentum("train_momentum", train_momentum)
        if per_channel is not True and per_channel is not False:
            check_positive_int("per_channel", per_channel)
        self.num_features, self.per_channel = num_features, per_channel
        self.cumulative, self.renormalise = momentum is None, train_momentum is not None
        channels = () if per_channel is False else (int(per_channel),)
        eye = torch.eye(num_features, dtype=dtype, device=device)
        for kind in ("running", "train") if self.renormalise else ("running",):
            self.register_buffer(f"{kind}_mean", eye.expand(*channels, num_features, num_features).clone())
            self.register_buffer(f"{kind}_var", torch.ones(channels, dtype=dtype, device=device))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.int64, device=device))
        # On the device, so that a schedule neither recompiles nor synchronises.
        self.register_buffer("_momentum", torch.tensor(0.0 if momentum is None else momentum, dtype=dtype, device=device), persistent=False)
        rate = 1.0 if train_momentum is None else train_momentum
        self.register_buffer("_train_momentum", torch.tensor(rate, dtype=dtype, device=device), persistent=False)

    @property
    def momentum(self) -> float | None:
        """Weight of a new batch in the statistics for evaluation."""
        return None if self.cumulative else float(self._momentum)

    @momentum.setter
    def momentum(self, value: float | None) -> None:
        check_momentum("momentum", value, optional=True)
        self.cumulative = value is None
        if value is not None:
            self._momentum.fill_(value)

    @property
    def train_momentum(self) -> float | None:
        """Weight of a new batch in the statistics used in training; ``None`` if the layer keeps no second set."""
        return float(self._train_momentum) if self.renormalise else None

    @train_momentum.setter
    def train_momentum(self, value: float) -> None:
        check_momentum("train_momentum", value)
        if not self.renormalise:
            raise ValueError("train_momentum can only change in a layer made with train_momentum=..., which keeps statistics for training")
        self._train_momentum.fill_(value)

    @torch.no_grad()
    def reset_running_stats(self) -> None:
        """Back to mean ``I`` and variance 1."""
        for kind in ("running", "train") if self.renormalise else ("running",):
            mean: Tensor = getattr(self, f"{kind}_mean")
            mean.copy_(torch.eye(self.num_features, dtype=mean.dtype, device=mean.device).expand_as(mean))
            getattr(self, f"{kind}_var").fill_(1.0)
        self.num_batches_tracked.zero_()

    def fit_channels(self, channels: int) -> None:
        """Make room for the channels of the first batch, or check that they are as many as before."""
        have = self.running_mean.shape[0]
        if self.per_channel is True and have == 1 != channels and int(self.num_batches_tracked) == 0:
            for name in self._sized():
                buffer: Tensor = getattr(self, name)
                setattr(self, name, buffer.expand(channels, *buffer.shape[1:]).clone())
        elif have != channels:
            raise ValueError(f"X must have {have} channels in dimension -3, got {channels}")

    def _sized(self) -> list[str]:
        return [f"{kind}_{what}" for kind in (("running", "train") if self.renormalise else ("running",)) for what in ("mean", "var")]

    def rate(self) -> Tensor:
        """Weight of the batch that was just counted."""
        if self.cumulative:
            return 1.0 / self.num_batches_tracked.to(self._momentum.dtype)
        return self._momentum

    @torch.no_grad()
    def move(self, kind: str, geometry: Geometry, m: Tensor, rate: Tensor, skip: Tensor) -> Tensor:
        """Move a running mean towards ``m`` along the geodesic and return it in the working space; where ``skip`` it stays."""
        buffer: Tensor = getattr(self, f"{kind}_mean")
        before = geometry.load(buffer.to(m.dtype))
        after = geometry.between(before, m, rate.to(m.dtype))
        store(buffer, torch.where(skip, buffer, geometry.save(after).to(buffer.dtype)))
        return torch.where(skip, before, after)

    @torch.no_grad()
    def move_variance(self, kind: str, v: Tensor, rate: Tensor, skip: Tensor) -> Tensor:
        """Move a running variance towards ``v`` and return it."""
        buffer: Tensor = getattr(self, f"{kind}_var")
        after = torch.where(skip, buffer, buffer + rate.to(buffer.dtype) * (v.to(buffer.dtype) - buffer))
        store(buffer, after)
        return after.to(v.dtype)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        if self.per_channel is True:  # the number of channels is known to the checkpoint
            for name in self._sized():
                saved, buffer = state_dict.get(prefix + name), getattr(self, name)
                if isinstance(saved, Tensor) and saved.shape[1:] == buffer.shape[1:] and saved.shape != buffer.shape:
                    setattr(self, name, buffer[:1].expand(saved.shape).clone())
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        """Configuration for ``repr``."""
        return f"{self.num_features}, momentum={self.momentum}, per_channel={self.per_channel}"
