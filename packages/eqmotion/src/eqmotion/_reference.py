"""The method written down as its formulas stand, on the parameters of a model: the oracle of tests and benchmarks.

Every pair's ``[h_i; h_j; d_ij]`` is built for every network that reads it, every difference is built where it is used, and the matrices of
the cosine transform are made anew in Python loops, inverted, and repeated for every scene, as the published implementation is described to
do. Options that the paper does not have (graphs, axes, chirality) are not here.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eqmotion.model import EqMotion

__all__ = [
    "dct_matrix_reference",
    "eqmotion_reference",
    "layer_reference",
    "reasoner_reference",
    "simulate_reference",
    "vector_relu_reference",
]


def dct_matrix_reference(n: int) -> Tensor:
    """Orthonormal DCT-II, entry by entry."""
    matrix = torch.zeros(n, n, dtype=torch.float64)
    for k in range(n):
        for t in range(n):
            scale = math.sqrt(1 / n) if k == 0 else math.sqrt(2 / n)
            matrix[k, t] = scale * math.cos(math.pi * k * (t + 0.5) / n)
    return matrix


def _transform(x: Tensor, n: int, *, inverse: bool = False) -> Tensor:
    matrix = dct_matrix_reference(n)
    if inverse:
        matrix = torch.linalg.inv(matrix)
    matrix = matrix.to(x).repeat(x.shape[0], 1, 1)
    return torch.einsum("bkt,bntd->bnkd", matrix, x)


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1)


def _mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over valid agents and the second axis after them: the mean over all, rescaled by N / n_valid."""
    kept = x * mask[:, :, None, None].to(x)
    valid = mask.sum(1).clamp_min(1)[:, None, None, None]
    return kept.mean((1, 2), keepdim=True) * (x.shape[1] / valid.to(x))


def _pairs(h: Tensor, *pair: Tensor) -> Tensor:
    """``[h_i; h_j; pair_ij]`` for all pairs."""
    B, N, D = h.shape
    first = h[:, :, None, :].expand(B, N, N, D)
    second = h[:, None, :, :].expand(B, N, N, D)
    return torch.cat([first, second, *pair], dim=-1)


def _weights(mask: Tensor, like: Tensor, *, mean: bool) -> Tensor:
    """1 for valid ``j != i``; divided by their number for the mean."""
    N = mask.shape[1]
    weights = mask[:, None, :].expand(-1, N, -1) & ~torch.eye(N, dtype=torch.bool, device=mask.device)
    weights = weights.to(like)
    return weights / weights.sum(-1, keepdim=True).clamp_min(1) if mean else weights


def vector_relu_reference(q: Tensor, k: Tensor, eps: float) -> Tensor:
    """Case by case."""
    dot = (q * k).sum(-1, keepdim=True)
    return torch.where(dot >= 0, q, q - dot * k / ((k * k).sum(-1, keepdim=True) + eps))


def reasoner_reference(reasoner: Any, R: Tensor, h: Tensor, weights: Tensor, *pair: Tensor) -> tuple[Tensor, Tensor]:
    """Categories and logits."""
    distance = reasoner.distance_mlp(_norm(R[:, :, None] - R[:, None, :]))
    edge = reasoner.edge_mlp(_pairs(h, distance, *pair))
    node = reasoner.node_mlp(torch.cat([h, (edge * weights[..., None]).sum(2)], dim=-1))
    logits = F.silu(reasoner.category_mlp[2](F.silu(reasoner.category_mlp[0](_pairs(node, distance)))))
    return torch.softmax(logits / reasoner.tau, dim=-1), logits


def layer_reference(
    layer: Any, h: Tensor, G: Tensor, U: Tensor, categories: Tensor, mask: Tensor, weights: Tensor, *pair: Tensor
) -> tuple[Tensor, Tensor]:
    """One layer, in the steps of the paper."""
    distance = _norm(G[:, :, None] - G[:, None, :])
    message = layer.edge_mlp(_pairs(h, distance, *pair))

    mean = _mean(G, mask)
    w = F.silu(layer.attention.linear(h))[..., None]
    new = G + w * (G - mean) if layer.attention.mode == "residual" else w * (G - mean) + mean

    total = torch.zeros_like(distance)
    for k, expert in enumerate(layer.aggregation.experts):
        total = total + categories[..., k, None] * expert(_pairs(h, distance, *pair))
    factor = total if layer.aggregation.factor_mlp is None else layer.aggregation.factor_mlp(total)
    new = new + (factor[..., None] * (G[:, :, None] - G[:, None, :]) * weights[..., None, None]).sum(2)

    new = new + torch.einsum("oc,bncd->bnod", layer.W_u.weight, U)

    mean = _mean(new, mask)
    q = torch.einsum("oc,bncd->bnod", layer.relu.W_q.weight, new - mean)
    k = torch.einsum("oc,bncd->bnod", layer.relu.W_k.weight, new - mean)
    new = vector_relu_reference(q, k, layer.relu.eps) + mean

    return h + layer.node_mlp(torch.cat([h, (message * weights[..., None]).sum(2)], dim=-1)), new


def _angle(a: Tensor, b: Tensor, *, legacy: bool) -> Tensor:
    dot = (a * b).sum(-1)
    if legacy:
        return torch.acos((dot / ((_norm(a) + 1e-6) * (_norm(b) + 1e-6))).clamp(-1, 1))
    square = (a * a).sum(-1)
    along = dot / torch.where(square == 0, 1.0, square)
    return torch.atan2(_norm(a) * _norm(b - along[..., None] * a), dot)


def eqmotion_reference(
    model: EqMotion,
    x: Tensor,
    v: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    node_attr: Tensor | None = None,
    edge_attr: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Prediction, categories and logits of ``model`` at ``x`` of shape ``(B, N, T, d)``, on all pairs."""
    B, N, T = x.shape[:3]
    mask = torch.ones(B, N, dtype=torch.bool, device=x.device) if mask is None else mask
    hide = mask[:, :, None, None].to(x)
    centre = _mean(x * hide, mask)
    if v is None:
        v = torch.zeros_like(x)
        v[:, :, 1:] = x[:, :, 1:] - x[:, :, :-1]
        v[:, :, 0] = v[:, :, 1]
    x, v = (x - centre) * hide, v * hide

    before = torch.cat([v[:, :, :1], v[:, :, :-1]], dim=2)
    h = torch.cat([model.speed_embedding(_norm(v)), model.angle_embedding(_angle(before, v, legacy=model.legacy_angle))], dim=-1)
    if node_attr is not None:
        assert model.attr_embedding is not None
        h = h + model.attr_embedding(node_attr)
    if model.tokens is not None:
        assert model.token_mlp is not None
        h = model.token_mlp(torch.cat([h, model.tokens.expand(B, -1, -1)], dim=-1))

    P, Q = _transform(x, T), _transform(v, T)
    mean = _mean(P, mask) if model.center_coefficients else 0.0
    G = torch.einsum("ct,bntd->bncd", model.W_x.weight, P - mean) + mean
    U = torch.einsum("ct,bntd->bncd", model.W_v.weight, Q)

    weights = _weights(mask, x, mean=model.aggregation == "mean")
    pair = () if edge_attr is None else (edge_attr,)
    shared = len(model.reasoners) == 1

    def reason(i: int, h: Tensor, G: Tensor) -> tuple[Tensor, Tensor]:
        return reasoner_reference(model.reasoners[i], torch.cat([G, U], dim=2), h, weights, *pair)

    categories, logits = reason(0, h, G)
    for i, layer in enumerate(model.layers):
        if not shared and i > 0:
            categories, logits = reason(i, h, G)
        h, G = layer_reference(layer, h, G, U, categories, mask, weights, *pair)
    if not shared and model.n_modes > 1 and len(model.layers) > 0:
        categories, logits = reason(len(model.layers), h, G)

    def decode(W_o: nn.Module, G: Tensor) -> Tensor:
        mean = _mean(G, mask) if model.center_coefficients else 0.0
        coefficients = torch.einsum("fc,bncd->bnfd", next(W_o.parameters()), G - mean) + mean
        return (_transform(coefficients, model.out_steps, inverse=True) + centre) * hide

    if model.n_modes == 1:
        return decode(model.W_o[0], G), categories, logits
    heads = [layer_reference(layer, h, G, U, categories, mask, weights, *pair)[1] for layer in model.mode_layers]
    return torch.stack([decode(W_o, g) for W_o, g in zip(model.W_o, heads, strict=True)], dim=2), categories, logits


def simulate_reference(
    x: Tensor,
    v: Tensor,
    strength: Tensor,
    *,
    kind: str,
    steps: int,
    stride: int,
    dt: float = 1e-3,
    limit: float = 100.0,
    softening: float = 0.1,
) -> tuple[Tensor, Tensor]:
    """Leapfrog of one scene after the other, one pair after the other.

    Args:
        x, v: Start, shape ``(S, N, d)``, float64.
        strength: Of each pair, ``(S, N, N)``: spring constants, products of charges, or products of masses.
        kind: ``"springs"``, ``"charged"`` or ``"gravity"``.
        steps, stride, dt: Steps, distance of kept frames, and step size.
        limit: Bound of each component of a force.
        softening: Of gravity.

    Returns:
        Positions and velocities at the kept frames, ``(S, N, frames, d)``.
    """

    def force(x: Tensor, s: int) -> Tensor:
        out = torch.zeros_like(x)
        for i in range(len(x)):
            for j in range(len(x)):
                if i == j:
                    continue
                r = x[i] - x[j]
                if kind == "springs":
                    out[i] -= strength[s, i, j] * r
                elif kind == "charged":
                    out[i] += strength[s, i, j] * r / (r * r).sum() ** 1.5
                else:
                    out[i] -= strength[s, i, j] * r / ((r * r).sum() + softening**2) ** 1.5
        return out.clamp(-limit, limit)

    xs, vs = [], []
    for s in range(len(x)):
        at, half = x[s].clone(), v[s] + 0.5 * dt * force(x[s], s)
        places, speeds = [], []
        for step in range(1, steps):
            at = at + dt * half
            pull = force(at, s)
            if step % stride == 0:
                places.append(at)
                speeds.append(half + 0.5 * dt * pull)
            half = half + dt * pull
        xs.append(torch.stack(places, dim=1))
        vs.append(torch.stack(speeds, dim=1))
    return torch.stack(xs), torch.stack(vs)
