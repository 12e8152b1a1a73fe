"""Losses: mean Euclidean distance, not squared, and the best of several modes."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from eqmotion.functional import safe_norm
from geocore._checks import check_floating, check_option, check_positive_int

__all__ = ["best_of_modes_loss", "displacement_loss", "horizon_weights", "mode_score_loss"]


def _check_pair(pred: Tensor, y: Tensor, *, modes: bool) -> None:
    check_floating("pred", pred)
    check_floating("y", y)
    if modes:
        if pred.ndim < 4 or y.ndim != pred.ndim - 1 or (*pred.shape[:-3], *pred.shape[-2:]) != tuple(y.shape):
            raise ValueError(
                f"pred must have shape (..., N, M, F, d) with y of shape (..., N, F, d), got {tuple(pred.shape)} and {tuple(y.shape)}"
            )
    elif pred.shape != y.shape or pred.ndim < 3:
        raise ValueError(f"pred and y must have the same shape (..., N, F, d), got {tuple(pred.shape)} and {tuple(y.shape)}")


def _reduce(value: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    """Weighted mean or sum of ``value`` (weights broadcast), or all of it."""
    check_option("reduction", reduction, ("mean", "sum", "none"))
    if weight is None:
        return value.mean() if reduction == "mean" else value.sum() if reduction == "sum" else value
    weight = weight.to(value.dtype).expand_as(value)
    weighed = torch.where(weight == 0, 0.0, value * weight)
    if reduction == "none":
        return weighed
    return weighed.sum() / weight.sum().clamp_min(1.0) if reduction == "mean" else weighed.sum()


def _agent_mask(mask: Tensor | None, y: Tensor) -> Tensor | None:
    """Mask ``(..., N)`` or ``(..., N, F)`` as weights of distances ``(..., N, F)``."""
    if mask is None:
        return None
    if mask.shape == y.shape[:-1]:
        return mask
    if mask.shape == y.shape[:-2]:
        return mask[..., None]
    raise ValueError(f"mask must have shape {tuple(y.shape[:-2])} or {tuple(y.shape[:-1])}, got {tuple(mask.shape)}")


def horizon_weights(out_steps: int, *, like: Tensor | None = None) -> Float[Tensor, "f"]:
    """Weights ``F / (1 + 4 t / F)`` of steps ``t = 0 .. F - 1``, the official recipe for the long horizon of Human3.6M."""
    check_positive_int("out_steps", out_steps)
    t = torch.arange(out_steps, dtype=None if like is None else like.dtype, device=None if like is None else like.device)
    return out_steps / (1 + 4 * t / out_steps)


def displacement_loss(
    pred: Float[Tensor, "*b n f d"],
    y: Float[Tensor, "*b n f d"],
    weights: Float[Tensor, "f"] | None = None,
    mask: Bool[Tensor, "..."] | None = None,
    reduction: str = "mean",
) -> Float[Tensor, "..."]:
    """Mean of ``w_t |pred_t - y_t|``; its gradient at zero error is zero.

    Args:
        pred: Predictions, shape ``(..., N, F, d)``.
        y: Truth, same shape.
        weights: Of the steps, shape ``(F,)``.
        mask: What counts, shape ``(..., N)`` or ``(..., N, F)``; the mean is over what counts.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``, which gives shape ``(..., N, F)``.

    Returns:
        The loss.

    Raises:
        ValueError: If shapes do not fit or ``reduction`` is unknown.

    Example:
        >>> displacement_loss(torch.zeros(1, 2, 3, 2), torch.ones(1, 2, 3, 2))  # sqrt(2)
        tensor(1.4142)
    """
    _check_pair(pred, y, modes=False)
    distance = safe_norm(pred - y)
    if weights is not None:
        if weights.shape != y.shape[-2:-1]:
            raise ValueError(f"weights must have shape {tuple(y.shape[-2:-1])}, one per step, got {tuple(weights.shape)}")
        distance = distance * weights.to(distance.dtype)
    return _reduce(distance, _agent_mask(mask, y), reduction)


def _mode_distance(pred: Tensor, y: Tensor, mask: Tensor | None, *, joint: bool) -> Tensor:
    """Time-mean distance of every mode, ``(..., N, M)``; for joint modes the mean over agents, ``(..., 1, M)``."""
    distance = safe_norm(pred - y.unsqueeze(-3)).mean(-1)
    if not joint:
        return distance
    if mask is None:
        return distance.mean(-2, keepdim=True)
    weight = mask[..., None].to(distance.dtype)
    kept = torch.where(weight == 0, 0.0, distance * weight)
    return kept.sum(-2, keepdim=True) / weight.sum(-2, keepdim=True).clamp_min(1.0)


def best_of_modes_loss(
    pred: Float[Tensor, "*b n m f d"],
    y: Float[Tensor, "*b n f d"],
    mask: Bool[Tensor, "*b n"] | None = None,
    *,
    supervise: str = "ego",
    joint: bool = False,
    reduction: str = "mean",
) -> Float[Tensor, "..."]:
    """Time-mean distance of the best mode.

    Args:
        pred: Predictions, shape ``(..., N, M, F, d)``.
        y: Truth, shape ``(..., N, F, d)``.
        mask: Agents that count, shape ``(..., N)``.
        supervise: ``"ego"``, only agent 0, as the official pedestrian recipe, or ``"all"``.
        joint: Choose one mode for the whole scene instead of one for each agent (with ``"all"``).
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        The loss; with ``"none"`` of shape ``(..., 1)`` for ego or joint, else ``(..., N)``.

    Raises:
        ValueError: If shapes do not fit or an option is unknown.
    """
    _check_pair(pred, y, modes=True)
    check_option("supervise", supervise, ("ego", "all"))
    if mask is not None and mask.shape != y.shape[:-2]:
        raise ValueError(f"mask must have shape {tuple(y.shape[:-2])}, got {tuple(mask.shape)}")
    if supervise == "ego":
        pred, y, mask = pred[..., :1, :, :, :], y[..., :1, :, :], None if mask is None else mask[..., :1]
    best = _mode_distance(pred, y, mask, joint=joint).amin(-1)
    if joint and mask is not None:
        mask = mask.any(-1, keepdim=True)
    return _reduce(best, mask, reduction)


def mode_score_loss(
    mode_logits: Float[Tensor, "*b n m"],
    pred: Float[Tensor, "*b n m f d"],
    y: Float[Tensor, "*b n f d"],
    mask: Bool[Tensor, "*b n"] | None = None,
    *,
    reduction: str = "mean",
) -> Float[Tensor, "..."]:
    """Cross-entropy of the mode logits against the mode that is nearest to the truth.

    Args:
        mode_logits: Of ``EqMotion(mode_scores=True)``, shape ``(..., N, M)``.
        pred: Predictions, shape ``(..., N, M, F, d)``; no gradient goes into them.
        y: Truth, shape ``(..., N, F, d)``.
        mask: Agents that count, shape ``(..., N)``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Raises:
        ValueError: If shapes do not fit.
    """
    _check_pair(pred, y, modes=True)
    if mode_logits.shape != pred.shape[:-2]:
        raise ValueError(f"mode_logits must have shape {tuple(pred.shape[:-2])}, got {tuple(mode_logits.shape)}")
    best = _mode_distance(pred.detach(), y, mask, joint=False).argmin(-1)
    loss = F.cross_entropy(mode_logits.flatten(0, -2), best.flatten(), reduction="none").view(best.shape)
    return _reduce(loss, mask, reduction)
