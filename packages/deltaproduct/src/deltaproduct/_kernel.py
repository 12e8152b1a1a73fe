"""Chunks by the compiled kernel of ``geocore-cuda``, which takes a head through all of them in a core's cache; with its own gradient."""

from typing import Any

import torch
from torch import Tensor

from deltaproduct._chunk_grad import Settings, differentiable_backward
from deltaproduct._dispatch import without_autocast
from deltaproduct._plan import dense_plan, ragged_plan
from geocore import _ops

__all__ = ["kernel_pass", "kernel_runs"]

_LARGEST = 4096  # features of a key or a value that the kernel takes


def kernel_runs(inputs: tuple[Tensor | None, ...], S: Tensor, micro_steps: int) -> bool:
    """Whether there is a kernel for these inputs and initial states, which are in the computing dtype, and it is the faster way.

    Args:
        inputs: ``q, k, v, beta, g``, cast for the kernel where they are in another dtype.
        S: Initial states ``(N, H, K, V)``.
        micro_steps: Of a chunk.
    """
    if max(S.shape[-2:]) > _LARGEST:
        return False
    for x in inputs:
        if x is not None and (x.numel() == 0 or x.device != S.device or type(x) not in (Tensor, torch.nn.Parameter)):
            return False
    return _ops.kernel_may_run("householder_scan", S, size=micro_steps, count=S.shape[0] * S.shape[1])


def kernel_pass(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor | None,
    S: Tensor,
    offsets: list[int] | None,
    size: int,
    settings: Settings,
) -> tuple[Tensor, Tensor]:
    """``chunk_pass_recomputed`` without a plan: outputs ``(B, T, H, V)`` and final states ``(N, H, K, V)``.

    Saves its inputs and one state per chunk, as the plain form does, and only where a gradient can be asked for.
    """
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k, v, beta, g, S))
    return _Scan.apply(q, k, v, beta, g, S, offsets, size, settings, keep)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q, k, v, beta, g, S, offsets, size, settings, keep):  # the types of kernel_pass
        with without_autocast(q.device):
            inputs = [None if x is None else x.to(settings.dtype) for x in (q, k, v, beta, g)]
            bounds = None if offsets is None else torch.tensor(offsets, device=q.device)
            o, final, states = torch.ops.geocore.householder_scan(*inputs, S, bounds, settings.n, size, settings.scale, keep)
        if keep:
            ctx.save_for_backward(q, k, v, beta, g, S, bounds, states)
            ctx.settings = offsets, size, settings
        return o, final

    @staticmethod
    def backward(ctx: Any, do: Tensor, dS: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, beta, g, S, bounds, states = ctx.saved_tensors
        offsets, size, settings = ctx.settings
        with without_autocast(q.device):
            if torch.is_grad_enabled():  # a second derivative will be asked for: only plain operators have one
                B, T = q.shape[:2]
                plan = dense_plan(B, T, size) if offsets is None else ragged_plan(offsets, size, q.device)
                return *differentiable_backward(ctx.needs_input_grad, (q, k, v, beta, g, S), (do, dS), plan, settings), None, None
            inputs = [None if x is None else x.to(settings.dtype) for x in (q, k, v, beta, g)]
            found = torch.ops.geocore.householder_scan_backward(
                *inputs, bounds, states, do.to(settings.dtype), dS.to(settings.dtype), None, settings.n, size, settings.scale
            )
        grads = [None if x is None else d.to(x.dtype) for x, d in zip((q, k, v, beta, g), found, strict=False)]
        return *grads, found[5], None, None, None, None
