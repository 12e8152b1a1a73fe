"""A compact rotated FCOS: backbone, pyramid and head, in plain torch. Any backbone that returns a list of maps serves."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import log
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from geocore._checks import check_positive_int
from obbkit.coders import wide
from obbkit.losses import rotated_iou_loss, smooth_l1
from obbkit.nms import rotated_nms
from obbkit.points import assign_points, centerness, decode_points, encode_points, grid_points

__all__ = ["FPN", "Positives", "RotatedFCOSHead", "TinyBackbone", "sigmoid_focal_loss"]


def _block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    groups = next(g for g in (8, 4, 2, 1) if outputs % g == 0)
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.GroupNorm(groups, outputs), nn.ReLU())


class TinyBackbone(nn.Module):
    """Strided convolutions with group normalisation; a map for each of the last ``levels`` stages.

    Args:
        in_channels: Channels of the image.
        widths: Channels of the stages; each halves the resolution.
        levels: Maps returned.
    """

    def __init__(self, in_channels: int = 3, widths: Sequence[int] = (16, 32, 64), levels: int = 1) -> None:
        super().__init__()
        check_positive_int("in_channels", in_channels)
        if not 1 <= levels <= len(widths):
            raise ValueError(f"levels must lie between 1 and the {len(widths)} stages, got {levels}")
        sizes = [in_channels, *widths]
        self.stages = nn.ModuleList(nn.Sequential(_block(a, b, 2), _block(b, b, 1)) for a, b in pairwise(sizes))
        self.levels, self.out_channels = levels, list(widths[-levels:])
        self.strides = [2 ** (len(widths) - levels + k + 1) for k in range(levels)]

    def forward(self, x: Float[Tensor, "batch c h w"]) -> list[Tensor]:
        """Maps, fine to coarse."""
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[-self.levels :]


class FPN(nn.Module):
    """Feature pyramid: lateral connections, a way down, and strided levels on top.

    Source: Lin et al., Feature Pyramid Networks, CVPR 2017; Tian et al., FCOS, ICCV 2019 (levels on the output).

    Args:
        in_channels: Channels of the maps, fine to coarse.
        out_channels: Channels of the pyramid.
        extra: Further levels, each half as fine.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int = 256, extra: int = 0) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, out_channels, 1) for c in in_channels)
        self.smooth = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, 1, 1) for _ in in_channels)
        self.extra = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, 2, 1) for _ in range(extra))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Pyramid, fine to coarse."""
        if len(maps) != len(self.lateral):
            raise ValueError(f"maps must be {len(self.lateral)} levels, got {len(maps)}")
        lateral = [layer(x) for layer, x in zip(self.lateral, maps, strict=True)]
        for k in range(len(lateral) - 1, 0, -1):
            lateral[k - 1] = lateral[k - 1] + F.interpolate(lateral[k], size=lateral[k - 1].shape[-2:], mode="nearest")
        out = [layer(x) for layer, x in zip(self.smooth, lateral, strict=True)]
        for k, layer in enumerate(self.extra):
            out.append(layer(out[-1] if k == 0 else F.relu(out[-1])))
        return out


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss of each logit (Lin et al., ICCV 2017)."""
    p = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    share = p * targets + (1 - p) * (1 - targets)
    return (alpha * targets + (1 - alpha) * (1 - targets)) * (1 - share) ** gamma * entropy


class Positives(NamedTuple):
    """Points that are responsible for an object, over all images of a batch.

    Args:
        row: Their place in the flattened predictions.
        points: Coordinates.
        boxes: Target boxes.
        labels: Target classes.
        image: Number of the image.
        object: Number of the object: ``targets[image]["object"]`` if given, counted through otherwise.
        labels_all: Class of every point of the batch, ``num_classes`` for none.
    """

    row: Tensor
    points: Tensor
    boxes: Tensor
    labels: Tensor
    image: Tensor
    object: Tensor
    labels_all: Tensor


class RotatedFCOSHead(nn.Module):
    """One box a point: class, distances to four sides, centerness, and the code of an angle.

    Source: Tian et al., FCOS, ICCV 2019; the rotated form and constants of mmrotate 1.x.

    Args:
        in_channels: Channels of the maps.
        num_classes: Classes.
        strides: Stride of each level.
        coder: Angle coder (``obbkit.coders``).
        agnostic: Classes without direction: their angle is 0 in training and test.
        feat_channels: Channels of the towers.
        stacked_convs: Convolutions of a tower.
        regress_ranges: Largest distance each level is for; doubling from eight strides if not given.
        radius: Centre sampling, in strides.
        angle_weight: Weight of the loss of the code.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        strides: Sequence[int],
        coder: Any,
        agnostic: Sequence[int] = (),
        *,
        feat_channels: int = 256,
        stacked_convs: int = 4,
        regress_ranges: Sequence[tuple[float, float]] | None = None,
        radius: float = 1.5,
        angle_weight: float = 0.2,
    ) -> None:
        super().__init__()
        for name, value in (("in_channels", in_channels), ("num_classes", num_classes), ("feat_channels", feat_channels)):
            check_positive_int(name, value)
        if any(not 0 <= c < num_classes for c in agnostic):
            raise ValueError(f"agnostic must name classes below {num_classes}, got {list(agnostic)}")
        self.num_classes, self.strides, self.coder, self.agnostic = num_classes, list(strides), coder, tuple(agnostic)
        edges = [-1.0, *(8.0 * s for s in self.strides[:-1]), float("inf")]
        self.ranges = list(regress_ranges) if regress_ranges is not None else list(pairwise(edges))
        self.radius, self.angle_weight = radius, angle_weight
        sizes = [in_channels, *[feat_channels] * stacked_convs]
        towers = [nn.Sequential(*(_block(a, b, 1) for a, b in pairwise(sizes))) for _ in range(2)]
        self.cls_tower, self.reg_tower = towers
        self.cls = nn.Conv2d(sizes[-1], num_classes, 3, 1, 1)
        self.reg = nn.Conv2d(sizes[-1], 4, 3, 1, 1)
        self.ctr = nn.Conv2d(sizes[-1], 1, 3, 1, 1)
        self.angle = nn.Conv2d(sizes[-1], coder.encode_size, 3, 1, 1)
        self.scales = nn.Parameter(torch.empty(len(self.strides)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights of all convolutions small and normal, biases zero, every class rare."""
        nn.init.ones_(self.scales)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.constant_(self.cls.bias, -log((1 - 0.01) / 0.01))  # pyright: ignore[reportArgumentType]

    def extra_repr(self) -> str:
        """What the layers do not show."""
        return (
            f"num_classes={self.num_classes}, strides={self.strides}, ranges={self.ranges}, radius={self.radius}, agnostic={self.agnostic}"
        )

    def forward(self, feats: Sequence[Float[Tensor, "batch c h w"]]) -> dict[str, list[Tensor]]:
        """``cls``, ``distances`` (pixels, not negative), ``centerness`` and ``code`` of each level, channels second."""
        out: dict[str, list[Tensor]] = {"cls": [], "distances": [], "centerness": [], "code": []}
        for k, x in enumerate(feats):
            seen, placed = self.cls_tower(x), self.reg_tower(x)
            out["cls"].append(self.cls(seen))
            out["distances"].append(F.relu(self.scales[k] * self.reg(placed)) * self.strides[k])
            out["centerness"].append(self.ctr(placed))
            out["code"].append(self.angle(placed))
        return out

    def flatten(self, preds: Mapping[str, Sequence[Tensor]]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Predictions ``(batch, points, channels)``, and points and levels."""
        flat = {name: torch.cat([x.flatten(2).mT for x in maps], 1) for name, maps in preds.items()}
        sizes = [(x.shape[-2], x.shape[-1]) for x in preds["cls"]]
        return flat, *grid_points(sizes, self.strides, preds["cls"][0].device)

    def assign(self, points: Tensor, levels: Tensor, targets: Sequence[Mapping[str, Any]]) -> Positives:
        """Points of each object. Targets have ``boxes (n, 5)`` and ``labels (n,)``, and perhaps ``object``."""
        rows, boxes, labels, images, objects, everything = [], [], [], [], [], []
        count = 0
        for i, target in enumerate(targets):
            found = assign_points(points, levels, target["boxes"].to(points.dtype), self.strides, self.ranges, self.radius)
            place = found.positive.nonzero()[:, 0]
            own = found.objects[place]
            number = target.get("object", torch.arange(count, count + len(target["boxes"]), device=points.device))
            count += len(target["boxes"])
            label = torch.full((len(points),), self.num_classes, dtype=torch.int64, device=points.device)
            label[place] = target["labels"][own]
            rows.append(place + i * len(points))
            boxes.append(target["boxes"][own].to(points.dtype))
            labels.append(target["labels"][own])
            images.append(torch.full_like(place, i))
            objects.append(number[own])
            everything.append(label)
        row = torch.cat(rows)
        return Positives(
            row,
            points.repeat(len(targets), 1)[row],
            *(torch.cat(parts) for parts in (boxes, labels, images, objects, everything)),
        )

    def is_agnostic(self, labels: Tensor) -> Tensor:
        """Whether classes have no direction."""
        return torch.isin(labels, torch.tensor(self.agnostic, dtype=labels.dtype, device=labels.device))

    def common_losses(self, flat: Mapping[str, Tensor], found: Positives) -> tuple[dict[str, Tensor], Tensor]:
        """Losses of class and centerness, and the centerness targets."""
        count = max(len(found.row), 1)
        wanted = F.one_hot(found.labels_all, self.num_classes + 1)[:, : self.num_classes].to(flat["cls"].dtype)
        cls = sigmoid_focal_loss(flat["cls"].flatten(0, 1), wanted).sum() / count
        target = centerness(encode_points(found.points, found.boxes).clamp(min=0))
        ctr = flat["centerness"].flatten()[found.row]
        return {"cls": cls, "centerness": F.binary_cross_entropy_with_logits(ctr, target.to(ctr.dtype), reduction="sum") / count}, target

    def loss(self, preds: Mapping[str, Sequence[Tensor]], targets: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Losses of full supervision.

        Args:
            preds: From ``forward``.
            targets: For each image ``boxes (n, 5)`` and ``labels (n,)``.
        """
        flat, points, levels = self.flatten(preds)
        found = self.assign(points, levels, targets)
        losses, weight = self.common_losses(flat, found)
        code = flat["code"].flatten(0, 1)[found.row]
        still = self.is_agnostic(found.labels)
        angle = torch.where(still, 0.0, self.coder.decode(code))
        boxes = decode_points(found.points, flat["distances"].flatten(0, 1)[found.row], angle)
        wanted = torch.cat([found.boxes[:, :4], torch.where(still, 0.0, found.boxes[:, 4])[:, None]], 1)
        losses["box"] = rotated_iou_loss(boxes, wanted, "log", weight=weight)
        gap = smooth_l1(code - self.coder.encode(wanted[:, 4]), 0.1).mean(-1)
        losses["angle"] = self.angle_weight * torch.where(still, 0.0, gap).sum() / max(len(found.row), 1)
        return losses

    @torch.no_grad()
    def predict(
        self,
        preds: Mapping[str, Sequence[Tensor]],
        image_sizes: Sequence[tuple[int, int]] | None = None,
        *,
        score_threshold: float = 0.05,
        nms_pre: int = 2000,
        nms_iou: float = 0.1,
        max_per_image: int = 2000,
    ) -> list[dict[str, Tensor]]:
        """Detections.

        Args:
            preds: From ``forward``.
            image_sizes: True height and width of each image; centres outside are dropped.
            score_threshold: Least class probability times centerness.
            nms_pre: Candidates of an image before suppression.
            nms_iou: Overlap that suppresses.
            max_per_image: Detections of an image.

        Returns:
            For each image ``boxes (k, 5)``, ``scores`` and ``labels``, best first.
        """
        flat, points, _ = self.flatten(preds)
        scores = flat["cls"].sigmoid() * flat["centerness"].sigmoid()
        out = []
        for i, score in enumerate(wide(scores)):
            place, label = (score > score_threshold).nonzero(as_tuple=True)
            value, order = score[place, label].sort(descending=True, stable=True)
            value, order = value[:nms_pre], order[:nms_pre]
            place, label = place[order], label[order]
            angle = torch.where(self.is_agnostic(label), 0.0, wide(self.coder.decode(flat["code"][i, place])))
            boxes = decode_points(points[place], wide(flat["distances"][i, place]), angle)
            fine = (boxes[:, 2:4] > 0).all(-1)
            if image_sizes is not None:
                height, width = image_sizes[i]
                fine &= (boxes[:, 0] >= 0) & (boxes[:, 0] <= width) & (boxes[:, 1] >= 0) & (boxes[:, 1] <= height)
            boxes, value, label = boxes[fine], value[fine], label[fine]
            keep = rotated_nms(boxes, value, nms_iou, label, max_output=max_per_image)
            out.append({"boxes": boxes[keep], "scores": value[keep], "labels": label[keep]})
        return out
