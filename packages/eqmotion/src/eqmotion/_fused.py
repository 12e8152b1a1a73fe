"""Operations on pairs that keep less for the backward pass than their parts would.

Each is the composite named ``*_plain`` with a gradient written by hand: activations are computed again instead of kept, and the gradient of
distances is a sum over neighbours instead of a tensor of differences. They run in eager mode only; under function transforms, forward
mode, the compiler and autocast the composites take over, and so they do inside a backward pass that is itself differentiated.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from eqmotion.functional import safe_sqrt, wide

__all__ = ["may_run", "pair_norms_plain", "silu_linear", "silu_scale"]


def may_run(x: Tensor) -> bool:
    """Whether the gradients written by hand may be used."""
    return (
        torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and torch.autograd.forward_ad._current_level < 0
        and not torch.is_autocast_enabled(x.device.type)
    )


def _again(fn: Any, inputs: tuple[Any, ...], needs: tuple[bool, ...], grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradient of the composite, differentiable again."""
    wanted = [x for x, need in zip(inputs, needs, strict=True) if need]
    found = iter(torch.autograd.grad(fn(*inputs), wanted, grad, create_graph=True, allow_unused=True))
    return tuple(next(found) if need else None for need in needs)


def _silu_linear_plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(F.silu(x), weight, bias)


class _SiLULinear(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return _silu_linear_plain(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weight, bias = ctx.saved_tensors
        (g,) = grads
        if torch.is_grad_enabled():
            return _again(_silu_linear_plain, (x, weight, bias), ctx.needs_input_grad, g)
        gx = torch.ops.aten.silu_backward(g @ weight, x) if ctx.needs_input_grad[0] else None
        gw = g.mT @ F.silu(x) if ctx.needs_input_grad[1] else None
        return gx, gw, g.sum(0) if ctx.needs_input_grad[2] else None


def silu_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``SiLU(x) W^T + b`` on rows."""
    if may_run(x):
        return _SiLULinear.apply(x, weight, bias)
    return F.linear(F.silu(x, inplace=not torch.is_grad_enabled() and x.is_contiguous()), weight, bias)


def _silu_scale_plain(x: Tensor, c: Tensor) -> Tensor:
    return F.silu(x) * c


class _SiLUScale(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, c: Tensor) -> Tensor:
        return F.silu(x).mul_(c)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, c = ctx.saved_tensors
        (g,) = grads
        if torch.is_grad_enabled():
            return _again(_silu_scale_plain, (x, c), ctx.needs_input_grad, g)
        gx = torch.ops.aten.silu_backward(g * c, x) if ctx.needs_input_grad[0] else None
        return gx, (F.silu(x).mul_(g)).sum(-1, keepdim=True) if ctx.needs_input_grad[1] else None


def silu_scale(x: Tensor, c: Tensor) -> Tensor:
    """``SiLU(x) c`` with one factor ``c`` per row."""
    return _SiLUScale.apply(x, c) if may_run(x) else _silu_scale_plain(x, c)


def pair_norms_plain(pairs: Any, G: Tensor) -> Tensor:
    """Coordinate by coordinate, so that no tensor of pairs has the size ``d`` more."""
    square = None
    for k in range(G.shape[-1]):
        step = pairs.difference(G[..., k])
        square = step * step if square is None else torch.addcmul(square, step, step)
    if square is None:
        square = pairs.difference(G.sum(-1))
    return safe_sqrt(square)


class _PairNorms(torch.autograd.Function):
    @staticmethod
    def forward(pairs: Any, G: Tensor) -> Tensor:
        return pair_norms_plain(pairs, G)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, Tensor], output: Tensor) -> None:
        ctx.pairs = inputs[0]
        ctx.save_for_backward(inputs[1], output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        G, norm = ctx.saved_tensors
        (g,) = grads
        if torch.is_grad_enabled():
            return None, _again(lambda G: pair_norms_plain(ctx.pairs, G), (G,), (True,), g)[0]
        return None, ctx.pairs.spread(torch.where(norm == 0, 0.0, g / norm), G)


def pair_norms(pairs: Any, G: Tensor) -> Tensor:
    """Norm of every channel of ``G_i - G_j``, one row per pair; half precision in float32."""
    G = wide(G)
    return _PairNorms.apply(pairs, G) if may_run(G) else pair_norms_plain(pairs, G)
