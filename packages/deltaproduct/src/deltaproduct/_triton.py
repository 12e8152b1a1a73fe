"""Triton kernel of the state pass: one program carries a block of columns of one head's state through all chunks.

In torch this is a loop with a few launches per chunk. The kernel runs on CUDA, and on CPU tensors under Triton's interpreter.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from deltaproduct._plan import Plan

__all__ = ["state_pass"]


@triton.jit
def _state_pass(
    x_ptr,  # (rows, M, K)
    y_ptr,  # (rows, M, K)
    u_ptr,  # (rows, M, V), read and replaced by U - Y S
    e_ptr,  # (rows, K, V)
    whole_ptr,  # (rows,)
    state_ptr,  # (N * H, K, V), read and replaced by the last state
    out_ptr,  # (rows, K, V), the state before each update
    offset_ptr,  # (chunks of the longest sequence,): where its slice begins
    count_ptr,  # (N,): chunks of each sequence
    heads,
    M,
    K: tl.constexpr,
    V: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr,
    HAS_U: tl.constexpr,
    HAS_E: tl.constexpr,
    HAS_DECAY: tl.constexpr,
    REVERSE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``S <- gamma S + X^T (U - Y S) + E`` over the chunks of one sequence, head and block of columns."""
    sequence = tl.program_id(0) // heads
    head = tl.program_id(0) % heads
    at_k = tl.arange(0, BLOCK_K)
    at_v = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    inside = (at_k[:, None] < K) & (at_v[None, :] < V)
    tile = at_k[:, None] * V + at_v[None, :]
    base = state_ptr + tl.program_id(0).to(tl.int64) * K * V
    S = tl.load(base + tile, mask=inside, other=0.0)
    count = tl.load(count_ptr + sequence)
    for i in range(count):
        c = count - 1 - i if REVERSE else i
        row = (tl.load(offset_ptr + c) + sequence).to(tl.int64) * heads + head
        tl.store(out_ptr + row * K * V + tile, S, mask=inside)
        new = S
        if HAS_DECAY:
            new = S * tl.load(whole_ptr + row)
        if HAS_E:
            new += tl.load(e_ptr + row * K * V + tile, mask=inside, other=0.0)
        for m in range(0, M, BLOCK_M):
            at_m = m + tl.arange(0, BLOCK_M)
            keys = at_m[:, None] * K + at_k[None, :]
            keys_inside = (at_m[:, None] < M) & (at_k[None, :] < K)
            values = at_m[:, None] * V + at_v[None, :]
            values_inside = (at_m[:, None] < M) & (at_v[None, :] < V)
            Y = tl.load(y_ptr + row * M * K + keys, mask=keys_inside, other=0.0)
            R = -tl.dot(Y, S, input_precision=PRECISION, out_dtype=S.dtype)
            if HAS_U:
                R += tl.load(u_ptr + row * M * V + values, mask=values_inside, other=0.0)
                tl.store(u_ptr + row * M * V + values, R, mask=values_inside)
            X = tl.load(x_ptr + row * M * K + keys, mask=keys_inside, other=0.0)
            new += tl.dot(tl.trans(X), R, input_precision=PRECISION, out_dtype=S.dtype)
        S = new
    tl.store(base + tile, S, mask=inside)


def state_pass(
    X: Tensor,
    Y: Tensor,
    whole: Tensor | None,
    S: Tensor,
    out: Tensor,
    plan: Plan,
    heads: int,
    *,
    residual: Tensor | None = None,
    extra: Tensor | None = None,
    reverse: bool = False,
) -> None:
    """Run the recurrence of this module in place of ``S (N * H, K, V)``, storing in ``out`` the state before each update."""
    rows, M, K = X.shape
    V = S.shape[-1]
    if rows == 0 or S.numel() == 0:
        return
    active = torch.tensor(plan.active)
    offsets = (active.cumsum(0) - active).to(X.device)
    counts = (active[None, :] > torch.arange(plan.active[0])[:, None]).sum(1).to(X.device)
    X, Y = X.contiguous(), Y.contiguous()
    block_v = min(32, max(16, triton.next_power_of_2(V)))
    grid = (plan.active[0] * heads, triton.cdiv(V, block_v))
    tf32 = X.is_cuda and X.dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32
    kernel: Any = _state_pass  # triton's types know no launches
    kernel[grid](
        X,
        Y,
        X if residual is None else residual,
        X if extra is None else extra.contiguous(),
        X if whole is None else whole.contiguous(),
        S,
        out,
        offsets,
        counts,
        heads,
        M,
        K=K,
        V=V,
        BLOCK_M=min(32, max(16, triton.next_power_of_2(M))),
        BLOCK_K=max(16, triton.next_power_of_2(K)),
        BLOCK_V=block_v,
        HAS_U=residual is not None,
        HAS_E=extra is not None,
        HAS_DECAY=whole is not None,
        REVERSE=reverse,
        PRECISION="tf32" if tf32 else "ieee",
    )
