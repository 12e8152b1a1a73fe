"""Checks of the arguments of ``delta_product``: shapes and dtypes always, values where no device has to be waited for."""

from itertools import pairwise

import torch
from torch import Tensor

from geocore._checks import check_floating, check_positive_int

__all__ = ["check_cu_seqlens", "check_inputs", "check_values"]


def check_inputs(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor | None,
    num_householder: int,
    initial_state: Tensor | None,
    sequences: int | None,
) -> None:
    """Raise unless the shapes fit together; ``sequences`` is the number of states, by default the batch.

    Raises:
        ValueError: If a shape does not fit; the message names the argument.
        TypeError, NotImplementedError: If an argument is not a real floating-point tensor, or ``num_householder`` not an int.
    """
    check_positive_int("num_householder", num_householder)
    for name, x in (("q", q), ("k", k), ("v", v), ("beta", beta)):
        check_floating(name, x)
    if q.ndim != 4:
        raise ValueError(f"q must have shape (B, T, H, K), got {tuple(q.shape)}")
    B, T, H, K = q.shape
    steps = T * num_householder
    what = f"(B, T * num_householder, H, K) = {(B, steps, H, K)} for q of shape {tuple(q.shape)} and num_householder = {num_householder}"
    if k.ndim != 4 or tuple(k.shape) != (B, steps, H, K):
        raise ValueError(f"k must have shape {what}, got {tuple(k.shape)}")
    if v.ndim != 4 or tuple(v.shape[:3]) != (B, steps, H):
        hint = "; repeat the heads of q and k for grouped value heads" if v.ndim == 4 and v.shape[2] != H else ""
        raise ValueError(f"v must have shape (B, T * num_householder, H, V) = {(B, steps, H)} + (V,), got {tuple(v.shape)}{hint}")
    if tuple(beta.shape) != (B, steps, H):
        raise ValueError(f"beta must have shape (B, T * num_householder, H) = {(B, steps, H)}, got {tuple(beta.shape)}")
    if g is not None:
        check_floating("g", g)
        if tuple(g.shape) != (B, T, H):
            raise ValueError(f"g must have shape (B, T, H) = {(B, T, H)}, one log-gate per token, got {tuple(g.shape)}")
    if initial_state is not None:
        check_floating("initial_state", initial_state)
        N = B if sequences is None else sequences
        want = N, H, K, v.shape[-1]
        if tuple(initial_state.shape) != want:
            what = "sequence of cu_seqlens" if sequences is not None else "item of the batch"
            raise ValueError(f"initial_state must have shape (N, H, K, V) = {want}, one state per {what}, got {tuple(initial_state.shape)}")


def check_cu_seqlens(cu_seqlens: Tensor, batch: int, tokens: int) -> list[int]:
    """Offsets as integers; this waits for the device if they are not on the CPU.

    Raises:
        ValueError: If they are not an increasing sequence from 0 to ``tokens``, or the batch is not 1.
        TypeError: If they are not an integer tensor.
    """
    if not isinstance(cu_seqlens, Tensor) or cu_seqlens.dtype not in (torch.int32, torch.int64):
        kind = cu_seqlens.dtype if isinstance(cu_seqlens, Tensor) else type(cu_seqlens).__name__
        raise TypeError(f"cu_seqlens must be an int32 or int64 tensor, got {kind}")
    if cu_seqlens.ndim != 1 or cu_seqlens.shape[0] < 1:
        raise ValueError(f"cu_seqlens must have shape (N + 1,), got {tuple(cu_seqlens.shape)}")
    if batch != 1:
        raise ValueError(f"cu_seqlens needs a batch of 1 that holds all sequences one after another, got B = {batch}")
    offsets: list[int] = cu_seqlens.tolist()
    if offsets[0] != 0 or any(a > b for a, b in pairwise(offsets)):
        raise ValueError(f"cu_seqlens must start with 0 and not decrease, got {offsets}")
    if offsets[-1] != tokens:
        raise ValueError(f"cu_seqlens must end with T = {tokens}, got {offsets[-1]}; it counts tokens, not micro-steps")
    return offsets


def check_values(k: Tensor, beta: Tensor, g: Tensor | None, *, validate: bool, normalised: bool) -> None:
    """Raise on gates above 0 (where looking costs nothing: on the CPU, in eager mode) and, with ``validate``, on unstable factors.

    Raises:
        ValueError: If ``g`` has a positive entry, or with ``validate`` if ``beta`` leaves [0, 2], a value is not finite, or
            ``beta |k|^2`` exceeds 2.
    """
    visible = not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active())
    if not visible:
        return
    if g is not None and (validate or g.device.type == "cpu") and not bool((g <= 0).all()):
        raise ValueError(
            f"g must be a log-gate of at most 0 without NaN, the largest entry is {float(g.max()):.3g}; pass logsigmoid or -softplus"
        )
    if not validate or beta.numel() == 0:
        return
    low, high = (float(x) for x in beta.aminmax())
    if not (low >= 0 and high <= 2):
        raise ValueError(f"beta must lie in [0, 2], got values from {low:.4g} to {high:.4g}; pass 2 * sigmoid(x)")
    if not bool(torch.isfinite(k).all()):
        raise ValueError("k must be finite, got NaN or infinity")
    if normalised or k.shape[-1] == 0:
        return
    worst = float((beta.double() * k.double().square().sum(-1)).max())
    allowed = 2 + 64 * torch.finfo(torch.promote_types(k.dtype, torch.float32) if k.dtype != torch.float64 else k.dtype).eps
    if worst > allowed:
        raise ValueError(
            f"beta |k|^2 must be at most 2 for a stable recurrence, the largest is {worst:.4g}; normalise the keys in float32, or pass "
            "l2norm_qk=True"
        )
