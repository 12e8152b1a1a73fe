"""Errors of predictions, accuracy of inferred interactions up to relabelling, and a report of equivariance."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from eqmotion.functional import wide
from eqmotion.losses import _agent_mask, _check_pair, _mode_distance, _reduce
from geocore._checks import check_floating
from geocore.son import haar

__all__ = ["EquivarianceReport", "ade", "equivariance_report", "fde", "interaction_accuracy", "min_ade", "min_fde", "mpjpe"]


def _distance(pred: Tensor, y: Tensor) -> Tensor:
    return torch.linalg.vector_norm(wide(pred) - wide(y), dim=-1)


def ade(pred: Float[Tensor, "*b n f d"], y: Float[Tensor, "*b n f d"], mask: Bool[Tensor, "..."] | None = None) -> Float[Tensor, ""]:
    """Average displacement error: mean distance over agents and steps.

    Args:
        pred: Predictions, shape ``(..., N, F, d)``.
        y: Truth, same shape.
        mask: What counts, shape ``(..., N)`` or ``(..., N, F)``.

    Raises:
        ValueError: If shapes do not fit.

    Example:
        >>> ade(torch.zeros(1, 1, 2, 2), torch.tensor([[[[3.0, 4.0], [0.0, 1.0]]]]))
        tensor(3.)
    """
    _check_pair(pred, y, modes=False)
    return _reduce(_distance(pred, y), _agent_mask(mask, y), "mean")


def fde(pred: Float[Tensor, "*b n f d"], y: Float[Tensor, "*b n f d"], mask: Bool[Tensor, "*b n"] | None = None) -> Float[Tensor, ""]:
    """Final displacement error: mean distance over agents at the last step.

    Args:
        pred: Predictions, shape ``(..., N, F, d)``.
        y: Truth, same shape.
        mask: Agents that count, shape ``(..., N)``.

    Raises:
        ValueError: If shapes do not fit.
    """
    _check_pair(pred, y, modes=False)
    return _reduce(_distance(pred[..., -1:, :], y[..., -1:, :]), _agent_mask(mask, y[..., -1:, :]), "mean")


def min_ade(
    pred: Float[Tensor, "*b n m f d"], y: Float[Tensor, "*b n f d"], mask: Bool[Tensor, "*b n"] | None = None, *, joint: bool = False
) -> Float[Tensor, ""]:
    """Smallest ADE over modes, for each agent, or with ``joint`` for the scene as a whole.

    Args:
        pred: Predictions, shape ``(..., N, M, F, d)``.
        y: Truth, shape ``(..., N, F, d)``.
        mask: Agents that count, shape ``(..., N)``.
        joint: One mode for all agents of a scene.

    Raises:
        ValueError: If shapes do not fit.
    """
    _check_pair(pred, y, modes=True)
    best = _mode_distance(wide(pred), wide(y), mask, joint=joint).amin(-1)
    return _reduce(best, mask if mask is None or not joint else mask.any(-1, keepdim=True), "mean")


def min_fde(
    pred: Float[Tensor, "*b n m f d"], y: Float[Tensor, "*b n f d"], mask: Bool[Tensor, "*b n"] | None = None, *, joint: bool = False
) -> Float[Tensor, ""]:
    """Smallest final error over modes. As published, its best mode is its own, not that of ``min_ade``.

    Args, Raises: As ``min_ade``.
    """
    _check_pair(pred, y, modes=True)
    return min_ade(pred[..., -1:, :], y[..., -1:, :], mask, joint=joint)


def mpjpe(
    pred: Float[Tensor, "*b n f d"], y: Float[Tensor, "*b n f d"], *, frames: Sequence[int] | None = None, scale: float = 1.0
) -> Float[Tensor, "..."]:
    """Mean per-joint position error.

    Args:
        pred: Predictions, shape ``(..., J, F, d)``.
        y: Truth, same shape.
        frames: Steps to report one by one (at 25 fps step 1 is 80 ms, 9 is 400 ms); the mean over all steps if not given.
        scale: Units of the result per unit of the data; 100 for data in units of 100 mm.

    Returns:
        A number, or one per frame.

    Raises:
        ValueError: If shapes do not fit or a frame is not there.
    """
    _check_pair(pred, y, modes=False)
    distance = _distance(pred, y) * scale
    if frames is None:
        return distance.mean()
    steps = distance.shape[-1]
    if any(not -steps <= f < steps for f in frames):
        raise ValueError(f"frames must be in [0, {steps}), got {list(frames)}")
    return distance[..., list(frames)].flatten(0, -2).mean(0)


def interaction_accuracy(
    categories: Shaped[Tensor, "..."], edges: Shaped[Tensor, "*b n n"], mask: Bool[Tensor, "*b n"] | None = None
) -> float:
    """Share of pairs ``i != j`` with the right type, under the best assignment of categories to types.

    Categories have no names, so each is given the type that makes the most pairs right (no type twice; Hungarian assignment).

    Args:
        categories: Probabilities ``(..., N, N, K)``, or labels ``(..., N, N)`` of integer dtype.
        edges: True types ``(..., N, N)``, any integers.
        mask: Valid agents ``(..., N)``.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: If shapes do not fit or there is no pair.

    Example:
        >>> edges = torch.tensor([[0, 1], [0, 0]])
        >>> interaction_accuracy(1 - edges, edges)
        1.0
    """
    from scipy.optimize import linear_sum_assignment

    if categories.dtype.is_floating_point:
        if categories.ndim != edges.ndim + 1:
            raise ValueError(f"categories must have shape {tuple(edges.shape)} and K, got {tuple(categories.shape)}")
        categories = categories.argmax(-1)
    if categories.shape != edges.shape or edges.ndim < 2 or edges.shape[-1] != edges.shape[-2]:
        raise ValueError(
            f"categories and edges must have shapes (..., N, N, K) and (..., N, N), got {tuple(categories.shape)} and {tuple(edges.shape)}"
        )
    N = edges.shape[-1]
    keep = ~torch.eye(N, dtype=torch.bool, device=edges.device).expand_as(edges)
    if mask is not None:
        keep = keep & mask[..., :, None] & mask[..., None, :]
    found, truth = categories[keep], edges[keep].round().long()
    if found.numel() == 0:
        raise ValueError(f"edges must have at least one pair of different valid agents, got shape {tuple(edges.shape)}")
    types, truth = truth.unique(return_inverse=True)
    labels, found = found.long().unique(return_inverse=True)
    confusion = torch.zeros(len(labels), len(types), dtype=torch.float64, device=edges.device)
    confusion.index_put_((found, truth), torch.ones_like(found, dtype=torch.float64), accumulate=True)
    rows, columns = linear_sum_assignment(confusion.cpu().numpy(), maximize=True)
    return float(confusion[torch.as_tensor(rows), torch.as_tensor(columns)].sum() / found.numel())


@dataclass(frozen=True)
class EquivarianceReport:
    """Largest violations, relative to the size of the prediction about the scene's centre.

    Args:
        rotation: ``|f(X R) - f(X) R|`` for rotations.
        reflection: The same for rotations with a reflection.
        translation: ``|f(X + t) - f(X) - t|``.
        permutation: Agents in another order.
        categories: Change of the categories under rotations, reflections and translations.
    """

    rotation: float
    reflection: float
    translation: float
    permutation: float
    categories: float

    def to_dict(self) -> dict[str, float]:
        """Plain numbers."""
        return asdict(self)


def equivariance_report(
    model: Callable[..., Any],
    x: Float[Tensor, "*b n t d"],
    *,
    n: int = 4,
    shift: float = 10.0,
    generator: torch.Generator | None = None,
    **inputs: Any,
) -> EquivarianceReport:
    """Measure how equivariant a model is on given scenes.

    Args:
        model: ``EqMotion``, or anything that maps positions to a prediction or to an object with ``pred`` and ``categories``.
        x: Positions, shape ``(B, N, T, d)`` or ``(N, T, d)``.
        n: Random transformations of each kind.
        shift: Standard deviation of translations.
        generator: Source of the transformations.
        inputs: Further arguments of the model that do not change with the frame, such as ``node_attr``; per-agent ones are permuted.

    Returns:
        The report.

    Raises:
        ValueError: If ``x`` has a wrong rank.

    Example:
        >>> equivariance_report(EqMotion(8, 4).double(), torch.randn(2, 5, 8, 3).double()).rotation < 1e-12
        True
    """
    check_floating("x", x)
    if x.ndim not in (3, 4):
        raise ValueError(f"x must have shape (B, N, T, d) or (N, T, d), got {tuple(x.shape)}")
    d, agents = x.shape[-1], x.ndim - 3
    options: dict[str, Any] = {"generator": generator, "dtype": x.dtype, "device": x.device}

    def run(x: Tensor, **inputs: Any) -> tuple[Tensor, Tensor | None]:
        out = model(x, **inputs)
        return (out, None) if isinstance(out, Tensor) else (out.pred, out.categories)

    with torch.no_grad():
        base, base_categories = run(x, **inputs)
        scale = float((base - x.mean((-2, -3), keepdim=True).reshape(*x.shape[:-3], *[1] * (base.ndim - x.ndim + 2), d)).abs().max())
        worst: dict[str, float] = dict.fromkeys(EquivarianceReport.__dataclass_fields__, 0.0)

        def compare(kind: str, moved: tuple[Tensor, Tensor | None], wanted: Tensor) -> None:
            worst[kind] = max(worst[kind], float((moved[0] - wanted).abs().max()) / scale)
            if kind != "permutation" and moved[1] is not None and base_categories is not None and moved[1].shape == base_categories.shape:
                worst["categories"] = max(worst["categories"], float((moved[1] - base_categories).abs().max()))

        for _ in range(n):
            Q = haar(d, special=True, **options)
            flip = torch.cat([-Q[:1], Q[1:]])
            t = shift * torch.randn(d, **options)
            compare("rotation", run(x @ Q.mT, **inputs), base @ Q.mT)
            compare("reflection", run(x @ flip.mT, **inputs), base @ flip.mT)
            compare("translation", run(x + t, **inputs), base + t)
            order = torch.randperm(x.shape[agents], generator=generator, device=x.device)
            permuted = {name: _permute(name, value, order, agents) for name, value in inputs.items()}
            compare("permutation", run(x.index_select(agents, order), **permuted), base.index_select(agents, order))
    return EquivarianceReport(**worst)


def _permute(name: str, value: Any, order: Tensor, agents: int) -> Any:
    if not isinstance(value, Tensor):
        return value
    value = value.index_select(agents, order)
    return value.index_select(agents + 1, order) if name in ("edge_attr", "categories") else value
