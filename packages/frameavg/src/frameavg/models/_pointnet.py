"""PointNet for the normals of a surface, made equivariant by frames."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from geocore._checks import check_option, check_positive_int, check_trailing
from geocore.frames import PCAFrame

__all__ = ["FAPointNet", "PointNet", "normal_loss"]


class _Shared(nn.Module):
    """The same linear map at every point, with batch normalisation over items and points."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.norm = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.linear(x).flatten(0, -2)).unflatten(0, x.shape[:-1]))


class PointNet(nn.Module):
    """Per-point outputs from per-point features and their maximum, without the two nets that learn an alignment.

    Args:
        inputs: Features of a point.
        outputs: Outputs of a point.
        widths: Per-point layers; the last is pooled, the first joins the pooled features.
        head: Layers after the pooling.
    """

    def __init__(self, inputs: int, outputs: int, widths: Sequence[int] = (64, 128, 1024), head: Sequence[int] = (512, 256, 128)) -> None:
        super().__init__()
        self.first = _Shared(inputs, widths[0])
        self.body = nn.Sequential(*(_Shared(a, b) for a, b in pairwise(widths)))
        joined = [widths[0] + widths[-1], *head]
        self.head = nn.Sequential(*(_Shared(a, b) for a, b in pairwise(joined)), nn.Linear(joined[-1], outputs))

    def forward(self, x: Float[Tensor, "batch n c"]) -> Float[Tensor, "batch n o"]:
        """Outputs at every point."""
        local = self.first(x)
        pooled = self.body(local).amax(-2, keepdim=True)
        return self.head(torch.cat([local, pooled.expand(-1, x.shape[-2], -1)], -1))


class FAPointNet(nn.Module):
    """Unit normals of a point cloud, turning with it.

    The global variant runs PointNet on the poses of the cloud's frame, all of them in one batch, so that batch normalisation sees items,
    poses and points together. The local variant first runs a network on the ``neighbours`` nearest points of each point in the poses of
    their own frame, which gives ``channels`` equivariant vectors a point, and then PointNet on the vectors of each channel in the poses of
    that channel's frame; the normals of the channels are combined with learned weights.

    Source: Puny et al., ICLR 2022, section 4 and appendix (FA-PointNet, FA-local).

    Args:
        local: The local variant.
        group: ``"O"`` or ``"SO"``; both centre the cloud first.
        neighbours: Points of a neighbourhood.
        channels: Equivariant vectors of a point.
        widths: Per-point layers of PointNet.
        head: Its layers after the pooling.
        degenerate: What degenerate frames do (see ``PCAFrame``).

    Example:
        >>> normals = FAPointNet(widths=(16, 32), head=(32,))(torch.randn(2, 64, 3))
        >>> normals.norm(dim=-1).allclose(torch.ones(2, 64))
        True
    """

    def __init__(
        self,
        local: bool = False,
        *,
        group: str = "O",
        neighbours: int = 20,
        channels: int = 42,
        widths: Sequence[int] = (64, 128, 1024),
        head: Sequence[int] = (512, 256, 128),
        degenerate: str = "ignore",
    ) -> None:
        super().__init__()
        check_option("group", group, ("O", "SO"))
        for name, value in (("neighbours", neighbours), ("channels", channels)):
            check_positive_int(name, value)
        self.local, self.neighbours, self.channels = local, neighbours, channels
        self.frame = PCAFrame(3, group.replace("O", "E"), degenerate=degenerate)
        self.vectors = PCAFrame(3, group, degenerate=degenerate)
        self.pointnet = PointNet(3, 3, widths, head)
        if local:
            hidden = widths[0]
            self.neighbourhood = nn.Sequential(
                nn.Linear(3 * neighbours, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 3 * channels)
            )
            self.mix = nn.Parameter(torch.empty(channels))
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Every channel counts the same; the networks have resets of their own."""
        if self.local:
            nn.init.constant_(self.mix, 1 / self.channels)

    def forward(self, x: Float[Tensor, "batch n 3"]) -> Float[Tensor, "batch n 3"]:
        """Normals of length one, up to sign.

        Raises:
            ValueError: If ``x`` is no batch of clouds in space, or has too few points for the local variant.
        """
        check_trailing("x", x, (None, None, 3))
        if not self.local:
            frame = self.frame(x)
            poses = frame.canonicalize(x, "position")
            y = self.pointnet(poses.flatten(0, 1)).unflatten(0, poses.shape[:2])
            return F.normalize(frame.average(y, "vector"), dim=-1)
        if x.shape[-2] < self.neighbours:
            raise ValueError(f"x must have at least the {self.neighbours} points of a neighbourhood, got {x.shape[-2]}")
        v = self._local_vectors(x).movedim(-2, 1)
        frame = self.vectors(v)
        poses = frame.canonicalize(v, "vector")
        y = self.pointnet(poses.flatten(0, 2)).unflatten(0, poses.shape[:3])
        normals = frame.average(y, "vector")
        return F.normalize(torch.einsum("bcnd,c->bnd", normals, self.mix), dim=-1)

    def extra_repr(self) -> str:
        """What the layers below do not show."""
        return f"local={self.local}, frame={self.frame!r}" + (f", neighbours={self.neighbours}" if self.local else "")

    def _local_vectors(self, x: Tensor) -> Tensor:
        """``(batch, n, channels, 3)``: equivariant vectors from each point's neighbours, nearest first."""
        nearest = torch.cdist(x.detach(), x.detach()).topk(self.neighbours, largest=False).indices
        patches = x.unsqueeze(1).expand(-1, x.shape[1], -1, -1).gather(2, nearest.unsqueeze(-1).expand(*nearest.shape, 3))
        frame = self.frame(patches)
        y = self.neighbourhood(frame.canonicalize(patches, "position").flatten(-2))
        return frame.average(y.unflatten(-1, (self.channels, 3)), "vector")


def normal_loss(predicted: Float[Tensor, "*batch n 3"], normals: Float[Tensor, "*batch n 3"]) -> Float[Tensor, ""]:
    """``mean of 1 - <n, n'>^2``: zero for parallel and opposite unit normals, one for orthogonal ones."""
    return (1 - (predicted * normals).sum(-1).square()).mean()
