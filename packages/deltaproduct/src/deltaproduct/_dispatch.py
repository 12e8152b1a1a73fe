"""Which of the equal ways of computing runs."""

import os
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from geocore._checks import check_option

__all__ = [
    "MODES",
    "NORM_EPS",
    "choose_mode",
    "default_chunk_size",
    "needs_composable",
    "part_tokens",
    "reason_against_triton",
    "without_autocast",
]

MODES = ("auto", "recurrent", "chunk", "triton", "fla")
NORM_EPS = 1e-6
_HALF = (torch.float16, torch.bfloat16)
_SHORT = 4  # tokens up to which a loop beats setting up a chunk
_LARGEST_KEY = 256  # the kernel holds a block of the state with all rows


def default_chunk_size(num_householder: int, device: torch.device) -> int:
    """Tokens per chunk: about 32 micro-steps on the CPU (measured with 64 features per head), 64 where launches cost more than work."""
    return max(1, (32 if device.type == "cpu" else 64) // num_householder)


def part_tokens(rows_per_token: int, device: torch.device) -> int:
    """Tokens that are worked on at a time: enough for the overhead of calls, few enough for intermediate arrays to stay small.

    On the CPU each is then about half a megabyte with 64 features per head and stays in a core's cache; on other devices parts are large,
    since they need the parallel work.
    """
    return max(1, (2048 if device.type == "cpu" else 1 << 20) // max(1, rows_per_token))


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Switch autocast off where it is on: it would send the products of float32 states to half precision."""
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def needs_composable() -> bool:
    """Whether plain operators must run: under a ``torch.func`` transform, in forward mode, and in the compiler."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def reason_against_triton(q: Tensor, dtype: torch.dtype) -> str:
    """Why the kernel cannot run for queries ``q``, computing in ``dtype``; empty if it can."""
    if find_spec("triton") is None:
        return "triton is not installed"
    if not (q.is_cuda or (q.device.type == "cpu" and _interpreted())):
        return f"it needs CUDA tensors (or TRITON_INTERPRET=1 set before the first import of triton), got {q.device}"
    if dtype != torch.float32 and q.is_cuda:
        return f"it computes in float32, this call in {dtype}"
    if q.shape[-1] > _LARGEST_KEY:
        return f"it takes keys of at most {_LARGEST_KEY} features, got {q.shape[-1]}"
    return ""


def _reason_against_fla(q: Tensor, k: Tensor, v: Tensor) -> str:
    if not q.is_cuda or q.dtype not in _HALF or {k.dtype, v.dtype} != {q.dtype}:
        return f"it needs CUDA tensors in float16 or bfloat16, got {q.dtype} on {q.device}"
    if q.shape[-1] > _LARGEST_KEY:
        return f"it takes keys of at most {_LARGEST_KEY} features, got {q.shape[-1]}"
    return ""


def choose_mode(mode: Any, q: Tensor, k: Tensor, v: Tensor, *, tokens: int, state_dtype: torch.dtype) -> str:
    """The mode that will run: ``"recurrent"``, ``"chunk"``, ``"triton"`` or ``"fla"``.

    ``"auto"`` takes the loop for a few tokens; otherwise flash-linear-attention where it is installed and fits, else plain chunks. The
    Triton kernel runs when it is asked for by name: it has not been measured on a GPU yet. Under transforms and in the compiler
    ``"auto"`` takes plain chunks.

    Raises:
        ValueError: If ``mode`` is unknown, or cannot run here; the message says why.
        ImportError: If ``mode="fla"`` and flash-linear-attention is missing.
    """
    check_option("mode", mode, MODES)
    computing = torch.promote_types(q.dtype, state_dtype)
    if mode == "auto":
        if tokens <= _SHORT:
            return "recurrent"
        if not q.is_cuda or needs_composable():
            return "chunk"
        if computing == torch.float32 and find_spec("fla") is not None and not _reason_against_fla(q, k, v):
            return "fla"
        return "chunk"
    if mode == "fla":
        if find_spec("fla") is None:
            raise ImportError("mode='fla' needs flash-linear-attention: pip install 'deltaproduct[fla]'")
        reason = _reason_against_fla(q, k, v)
        if reason:
            raise ValueError(f"mode='fla' cannot run here: {reason}; use mode='auto'")
    if mode == "triton":
        reason = reason_against_triton(q, computing)
        if reason:
            raise ValueError(f"mode='triton' cannot run here: {reason}; use mode='auto'")
    return mode
