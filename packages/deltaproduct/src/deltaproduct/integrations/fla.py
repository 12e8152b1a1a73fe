"""``mode="fla"``: the Triton kernels of flash-linear-attention behind the same arguments. CUDA, float16 or bfloat16."""

import importlib
from typing import Any

import torch
from torch import Tensor

__all__ = ["fla_pass"]


def fla_pass(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor | None,
    num_householder: int,
    scale: float,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    l2norm_qk: bool,
) -> tuple[Tensor, Tensor]:
    """Outputs and final states of ``chunk_gated_delta_product``.

    Raises:
        ImportError: If the installed package has no such kernel.
    """
    try:
        kernel: Any = importlib.import_module("fla.ops.gated_delta_product").chunk_gated_delta_product
    except (ImportError, AttributeError) as error:
        raise ImportError("mode='fla' needs flash-linear-attention 0.3 or later: pip install 'deltaproduct[fla]'") from error
    o, final = kernel(
        q.contiguous(),
        k.contiguous(),
        v.contiguous(),
        None if g is None else g.float().contiguous(),
        beta.to(q.dtype).contiguous(),
        num_householder,
        scale=scale,
        initial_state=None if initial_state is None else initial_state.float().contiguous(),
        output_final_state=True,
        use_qk_l2norm_in_kernel=l2norm_qk,
        cu_seqlens=None if cu_seqlens is None else cu_seqlens.to(q.device, torch.int64),
    )
    return o, final
