"""Regression losses of oriented boxes and of their angles. Empty input gives a zero that is connected to the graph.

Half precision is computed in float32 and cast back.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geocore import planar
from geocore._checks import check_option, check_trailing
from geocore.planar import angle_diff, obb_iou, obb_to_gaussian
from obbkit.coders import wide

__all__ = [
    "circumscribed_iou_loss",
    "gwd_loss",
    "jd_loss",
    "kfiou_loss",
    "kld_loss",
    "probiou",
    "probiou_loss",
    "rotated_iou_loss",
    "smooth_l1",
    "symmetry_consistency",
]


def _reduce(loss: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    check_option("reduction", reduction, ("mean", "sum", "none"))
    if weight is not None:
        weight = wide(weight)
        loss = loss * weight
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    total = weight.expand(loss.shape).sum() if weight is not None else loss.new_tensor(float(loss.numel()))
    return loss.sum() / total.clamp(min=torch.finfo(loss.dtype).tiny) if loss.numel() else loss.sum()


def _bounded(distance: Tensor, fun: str | None, tau: float) -> Tensor:
    """``1 - 1 / (tau + f(distance))`` for ``tau >= 1``, ``f(distance)`` otherwise."""
    if fun is not None:
        check_option("fun", fun, ("log1p", "sqrt"))
        distance = torch.log1p(distance) if fun == "log1p" else distance.clamp(min=1e-12).sqrt()
    return 1 - 1 / (tau + distance) if tau >= 1 else distance


def _read(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor, torch.dtype]:
    """Checked boxes, half precision in float32 (covariances of a few hundred pixels do not fit into float16), and the dtype of the loss."""
    check_trailing("pred", pred, (5,))
    check_trailing("target", target, (5,))
    return wide(pred), wide(target), torch.promote_types(pred.dtype, target.dtype)


def smooth_l1(x: Tensor, beta: float) -> Tensor:
    """``x^2 / (2 beta)`` below ``beta``, ``|x| - beta / 2`` above."""
    size = x.abs()
    return torch.where(size < beta, 0.5 * x.square() / beta, size - 0.5 * beta)


def gwd_loss(
    pred: Float[Tensor, "*batch 5"],
    target: Float[Tensor, "*batch 5"],
    *,
    fun: str | None = "log1p",
    tau: float = 1.0,
    normalize: bool = True,
    weight: Float[Tensor, "*batch"] | None = None,
    reduction: str = "mean",
) -> Float[Tensor, "..."]:
    """Gaussian Wasserstein distance of boxes. Blind to the angle of squares.

    Source: Yang et al., Rethinking Rotated Object Detection with Gaussian Wasserstein Distance Loss, ICML 2021.

    Args:
        pred, target: Boxes.
        fun: ``"log1p"``, ``"sqrt"`` or ``None``, applied to the distance.
        tau: ``1 - 1 / (tau + f)`` if at least 1, else ``f``.
        normalize: Divide by ``2 (det S1 det S2)^(1/8)``, which makes it free of units.
        weight: Weights of the boxes; the mean is divided by their sum.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Raises:
        ValueError: If a shape or option is wrong.
    """
    pred, target, dtype = _read(pred, target)
    m1, S1 = obb_to_gaussian(pred)
    m2, S2 = obb_to_gaussian(target)
    distance = planar.bures_wasserstein(m1, S1, m2, S2).clamp(min=1e-12).sqrt()
    if normalize:
        area = (pred[..., 2] * pred[..., 3] * target[..., 2] * target[..., 3] / 16).clamp(min=1e-12)
        distance = distance / (2 * area.pow(0.25))
    return _reduce(_bounded(distance, fun, tau), weight, reduction).to(dtype)


def kld_loss(
    pred: Float[Tensor, "*batch 5"],
    target: Float[Tensor, "*batch 5"],
    *,
    fun: str | None = "log1p",
    tau: float = 1.0,
    sqrt: bool = True,
    weight: Float[Tensor, "*batch"] | None = None,
    reduction: str = "mean",
) -> Float[Tensor, "..."]:
    """Kullback-Leibler divergence of the predicted from the target Gaussian. Blind to the angle of squares.

    Source: Yang et al., Learning High-Precision Bounding Box for Rotated Object Detection via Kullback-Leibler Divergence, NeurIPS 2021.

    Args:
        pred, target: Boxes with positive sides.
        fun, tau: As ``gwd_loss``.
        sqrt: Take the root of the divergence first.
        weight, reduction: As ``gwd_loss``.

    Raises:
        ValueError: If a shape or option is wrong.
    """
    pred, target, dtype = _read(pred, target)
    divergence = planar.kl(*obb_to_gaussian(pred), *obb_to_gaussian(target)).clamp(min=1e-12)
    return _reduce(_bounded(divergence.sqrt() if sqrt else divergence, fun, tau), weight, reduction).to(dtype)


def jd_loss(
    pred: Float[Tensor, "*batch 5"],
    target: Float[Tensor, "*batch 5"],
    *,
    fun: str | None = "log1p",
    tau: float = 1.0,
    sqrt: bool = True,
    weight: Float[Tensor, "*batch"] | None = None,
    reduction: str = "mean",
) -> Float[Tensor, "..."]:
    """Mean of the two Kullback-Leibler divergences (Jeffreys).

    Args:
        pred, target: Boxes with positive sides.
        fun, tau, sqrt, weight, reduction: As ``kld_loss``.

    Raises:
        ValueError: If a shape or option is wrong.
    """
    pred, target, dtype = _read(pred, target)
    first, second = obb_to_gaussian(pred), obb_to_gaussian(target)
    divergence = 0.5 * (planar.kl(*first, *second) + planar.kl(*second, *first)).clamp(min=1e-12)
    return _reduce(_bounded(divergence.sqrt() if sqrt else divergence, fun, tau), weight, reduction).to(dtype)


def kfiou_loss(
    pred: Float[Tensor, "*batch 5"],
    target: Float[Tensor, "*batch 5"],
    *,
    centre_weight: float = 1.0,
    weight: Float[Tensor, "*batch"] | None = None,
    reduction: str = "mean",
) -> Float[Tensor, "..."]:
    """``1 - KFIoU``, which is 2/3 for equal boxes, plus ``centre_weight log(1 + d^T S^-1 d)`` of the target's covariance for the centres.

    Source: Yang et al., The KFIoU Loss for Rotated Object Detection, ICLR 2023.

    Args:
        pred, target: Boxes.
        centre_weight: Weight of the second term; the first does not see the centres.
        weight, reduction: As ``gwd_loss``.

    Raises:
        ValueError: If a shape or option is wrong.
    """
    pred, target, dtype = _read(pred, target)
    (m1, S1), (m2, S2) = obb_to_gaussian(pred), obb_to_gaussian(target)
    loss = 1 - planar.kfiou(S1, S2)
    if centre_weight:
        d = (m1 - m2).unsqueeze(-1)
        c, s = target[..., 4].cos(), target[..., 4].sin()
        along, across = c * d[..., 0, 0] + s * d[..., 1, 0], c * d[..., 1, 0] - s * d[..., 0, 0]
        reach = 4 * (along / target[..., 2].clamp(min=1e-6)).square() + 4 * (across / target[..., 3].clamp(min=1e-6)).square()
        loss = loss + centre_weight * torch.log1p(reach)
    return _reduce(loss, weight, reduction).to(dtype)


def probiou(a: Float[Tensor, "*batch 5"], b: Float[Tensor, "*batch 5"]) -> Float[Tensor, "*batch"]:
    """One minus the Hellinger distance of the uniform densities' Gaussians.

    Source: Murrugarra-Llerena et al., Gaussian Bounding Boxes and Probabilistic Intersection-over-Union, 2021.

    Args:
        a, b: Boxes with positive sides.

    Raises:
        ValueError: If a shape is wrong.
    """
    check_trailing("a", a, (5,))
    check_trailing("b", b, (5,))
    gaussians = obb_to_gaussian(wide(a), "uniform"), obb_to_gaussian(wide(b), "uniform")
    return (1 - planar.hellinger(*gaussians[0], *gaussians[1])).to(torch.promote_types(a.dtype, b.dtype))


def probiou_loss(
    pred: Float[Tensor, "*batch 5"],
    target: Float[Tensor, "*batch 5"],
    *,
    weight: Float[Tensor, "*batch"] | None = None,
    reduction: str = "mean",
) -> Float[Tensor, "..."]:
    """``1 - probiou``.

    Args:
        pred, target: Boxes with positive sides.
        weight, reduction: As ``gwd_loss``.

    Raises:
        ValueError: If a shape or option is wrong.
    """
    pred, target, dtype = _read(pred, target)
    return _reduce(1 - probiou(pred, target), weight, reduction).to(dtype)


def rotated_iou_loss(
    pred: Float[Tensor, "*batch 5"],
    target: Float[Tensor, "*batch 5"],
    mode: str = "linear",
    *,
    weight: Float[Tensor, "*batch"] | None = None,
    reduction: str = "mean",
) -> Float[Tensor, "..."]:
    """Exact overlap as a loss: ``1 - IoU`` or ``-log IoU``.

    Args:
        pred, target: Boxes.
        mode: ``"linear"`` or ``"log"`` (of at least 1e-6).
        weight, reduction: As ``gwd_loss``.

    Raises:
        ValueError: If a shape or option is wrong.
    """
    pred, target, dtype = _read(pred, target)
    check_option("mode", mode, ("log", "linear"))
    iou = obb_iou(pred, target)
    return _reduce(1 - iou if mode == "linear" else -iou.clamp(min=1e-6).log(), weight, reduction).to(dtype)


def circumscribed_iou_loss(
    pred: Float[Tensor, "*batch 5"],
    target: Float[Tensor, "*batch 5"],
    *,
    weight: Float[Tensor, "*batch"] | None = None,
    reduction: str = "mean",
) -> Float[Tensor, "..."]:
    """How well the upright hull of a prediction fits a horizontal box that was turned with its image: the box loss of H2RBox-v2.

    In the frame of the target the prediction is replaced by the box around it; the loss is ``-log IoU`` of the two. The predicted angle is
    a constant here: sizes learn from it, it does not learn from sizes.

    Source: Yu et al., H2RBox-v2, NeurIPS 2023, arXiv 2304.04403, section 3.3.

    Args:
        pred: Boxes.
        target: Circumscribed horizontal boxes of a view, with the angle of the view.
        weight, reduction: As ``gwd_loss``.

    Raises:
        ValueError: If a shape or option is wrong.
    """
    pred, target, dtype = _read(pred, target)
    turn = (pred[..., 4] - target[..., 4]).detach()
    c, s = turn.cos().abs(), turn.sin().abs()
    w, h = pred[..., 2] * c + pred[..., 3] * s, pred[..., 2] * s + pred[..., 3] * c
    d = pred[..., :2] - target[..., :2]
    ct, st = target[..., 4].cos(), target[..., 4].sin()
    x, y = ct * d[..., 0] + st * d[..., 1], ct * d[..., 1] - st * d[..., 0]
    tw, th = target[..., 2], target[..., 3]

    def shared(offset: Tensor, size: Tensor, other: Tensor) -> Tensor:
        return (torch.minimum(offset + size / 2, other / 2) - torch.maximum(offset - size / 2, -other / 2)).clamp(min=0)

    inter = shared(x, w, tw) * shared(y, h, th)
    union = w * h + tw * th - inter
    iou = torch.where(union > 0, inter / torch.where(union > 0, union, 1.0), 0.0)
    return _reduce(-iou.clamp(min=1e-6).log(), weight, reduction).to(dtype)


def symmetry_consistency(
    a_ori: Float[Tensor, "n"],
    a_rot: Float[Tensor, "n"],
    a_flip: Float[Tensor, "n"],
    rot: float | Float[Tensor, "..."],
    agnostic: Bool[Tensor, "n"] | None = None,
    beta: float = 0.1,
    flip_weight: float = 0.05,
) -> Float[Tensor, ""]:
    """Angles of one object in three views must differ by the rotation and be opposite under the flip: the self-supervision of H2RBox-v2.

    ``mean SmoothL1(snap(a_ori - a_rot + rot)) + flip_weight mean SmoothL1(snap(a_ori + a_flip))``, ``snap`` to ``[-pi/2, pi/2)``.

    Source: Yu et al., H2RBox-v2, NeurIPS 2023, arXiv 2304.04403, section 3.2.

    Args:
        a_ori, a_rot, a_flip: Decoded angles of each object.
        rot: Rotation of the second view, one for all or one for each.
        agnostic: Objects without direction: their terms are zero, but count.
        beta: Bend of the smooth L1.
        flip_weight: Weight of the second term.

    Raises:
        ValueError: If the shapes differ.
    """
    if not a_ori.shape == a_rot.shape == a_flip.shape:
        shapes = ", ".join(str(tuple(a.shape)) for a in (a_ori, a_rot, a_flip))
        raise ValueError(f"angles of the views must have one shape, got {shapes}")
    turned = smooth_l1(angle_diff(a_ori + rot, a_rot), beta)
    mirrored = smooth_l1(angle_diff(a_ori, -a_flip), beta)
    if agnostic is not None:
        turned, mirrored = torch.where(agnostic, 0.0, turned), torch.where(agnostic, 0.0, mirrored)
    count = max(a_ori.numel(), 1)
    return (turned.sum() + flip_weight * mirrored.sum()) / count
