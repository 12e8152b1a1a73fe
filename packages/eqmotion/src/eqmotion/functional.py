"""Pure functions: the vector non-linearity, and norms, angles and means with finite derivatives where the plain formulas have none."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

__all__ = ["channel_map", "legacy_angle", "masked_mean", "safe_angle", "safe_norm", "vector_relu", "wide"]


def wide(x: Tensor) -> Tensor:
    """``x`` in float32 if it is of half precision, else unchanged."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def safe_sqrt(x: Tensor) -> Tensor:
    """Square root with zero derivatives at 0, of every order."""
    zero = x == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, x).sqrt())


def safe_norm(x: Float[Tensor, "..."], dim: int = -1, *, keepdim: bool = False) -> Float[Tensor, "..."]:
    """Euclidean norm along one dimension; all derivatives at the zero vector are 0. Half precision is squared in float32."""
    w = wide(x)
    return safe_sqrt((w * w).sum(dim, keepdim=keepdim)).to(x.dtype)


def _unit_scale(x: Tensor) -> Tensor:
    """``x`` over its largest entry. An angle does not depend on the scale, so the scale needs no gradient."""
    if x.shape[-1] == 0:
        return x
    size = x.detach().abs().amax(-1, keepdim=True)
    return x / torch.where(size == 0, 1.0, size)


def safe_angle(a: Float[Tensor, "*#batch d"], b: Float[Tensor, "*#batch d"]) -> Float[Tensor, "*batch"]:
    """Angle in ``[0, pi]`` between vectors of any dimension, ``atan2(|a x b|, a . b)``; 0 if one of them is zero.

    In other dimensions than 2 and 3 the sine is ``|a| |b_perp|`` with the part of ``b`` orthogonal to ``a``. Exact to rounding at
    every angle and every scale; where the vectors are collinear the function has a kink, and its derivatives are given as 0.
    """
    x, y = _unit_scale(wide(a)), _unit_scale(wide(b))
    dot = (x * y).sum(-1)
    d = x.shape[-1]
    if d == 2:
        sine = (x[..., 0] * y[..., 1] - x[..., 1] * y[..., 0]).abs()
    elif d == 3:
        x, y = torch.broadcast_tensors(x, y)
        sine = safe_norm(torch.linalg.cross(x, y, dim=-1))
    else:
        square = (x * x).sum(-1)
        ratio = dot / torch.where(square == 0, 1.0, square)
        sine = safe_sqrt(square) * safe_norm(y - ratio[..., None] * x)
    nowhere = (sine == 0) & (dot == 0)
    flat = sine == 0
    # atan2(0, c) is 0 or pi with a kink in the sine: the constant keeps its derivatives out
    angle = torch.atan2(torch.where(flat, 1.0, sine), torch.where(flat, 0.0, dot))
    straight = torch.where(nowhere | (dot > 0), 0.0, torch.pi)
    return torch.where(flat, straight.to(angle.dtype), angle).to(torch.promote_types(a.dtype, b.dtype))


def _plain_norm(x: Tensor) -> Tensor:
    """The norm as torch rounds it (an ulp here is 1e-5 rad in the angle below), with zero derivatives at 0."""
    zero = (x == 0).all(-1, keepdim=True)
    return torch.linalg.vector_norm(torch.where(zero, 1.0, x), dim=-1).masked_fill(zero[..., 0], 0.0)


def legacy_angle(a: Float[Tensor, "*#batch d"], b: Float[Tensor, "*#batch d"], eps: float = 1e-6) -> Float[Tensor, "*batch"]:
    """The official ``acos(<a, b> / ((|a| + eps)(|b| + eps)))``, biased by ``eps``; ``pi / 2`` for zero vectors."""
    x, y = wide(a), wide(b)
    cosine = ((x * y).sum(-1) / ((_plain_norm(x) + eps) * (_plain_norm(y) + eps))).clamp(-1.0, 1.0)
    inside = cosine.abs() < 1
    angle = torch.where(inside, torch.acos(torch.where(inside, cosine, 0.0)), torch.where(cosine > 0, 0.0, torch.pi).to(cosine.dtype))
    return angle.to(torch.promote_types(a.dtype, b.dtype))


def masked_mean(x: Float[Tensor, "b n ..."], mask: Bool[Tensor, "b n"] | None, dims: tuple[int, ...]) -> Float[Tensor, "b ..."]:
    """Mean over agents (dimension 1) and the further ``dims``, kept with size 1; only valid agents count, and of none the mean is 0."""
    if mask is None:
        return x.mean((1, *dims), keepdim=True)
    weight = mask.to(x.dtype)[(..., *[None] * (x.ndim - 2))]
    count = weight.sum(1, keepdim=True).clamp_min(1.0)
    for d in dims:
        count = count * x.shape[d]
    return (x * weight).sum((1, *dims), keepdim=True) / count


def channel_map(weight: Float[Tensor, "o c"], x: Float[Tensor, "*batch c d"]) -> Float[Tensor, "*batch o d"]:
    """``weight @ x`` as one matrix product over all agents and coordinates."""
    return F.linear(x.mT, weight).mT


def vector_relu(q: Float[Tensor, "*batch d"], k: Float[Tensor, "*batch d"], eps: float = 1e-4) -> Float[Tensor, "*batch d"]:
    """``q`` where ``<q, k> >= 0``, else ``q - <q, k> k / (|k|^2 + eps)``: the part of ``q`` against ``k`` removed.

    Args:
        q: Vectors, shape ``(..., d)``.
        k: Directions, same shape.
        eps: Added to ``|k|^2``; 1e-4 in the official code.

    Returns:
        Shape ``(..., d)``.
    """
    dot = (q * k).sum(-1, keepdim=True)
    against = torch.where(dot < 0, dot, 0.0)  # not a clamp, whose slope at 0 depends on torch
    return q - against / ((k * k).sum(-1, keepdim=True) + eps) * k
