"""The rotary kernel: planar rotations of coordinate pairs by given cosines and sines."""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from geocore import _ops
from geocore._checks import check_broadcastable, check_floating, check_option
from geocore._precision import full_precision

__all__ = ["rope_apply"]


def rope_apply(
    x: Float[Tensor, "*xbatch d"],
    cos: Float[Tensor, "*cbatch w"],
    sin: Float[Tensor, "*sbatch w"],
    *,
    layout: Literal["interleaved", "half"] = "interleaved",
) -> Float[Tensor, "*batch d"]:
    r"""Rotate coordinate pairs, ``(a, b) -> (a cos - b sin, a sin + b cos)``: the kernel of every rotary embedding.

    Pair ``p`` is coordinates ``(2p, 2p + 1)`` in the ``"interleaved"`` layout (RoFormer, GPT-J) and ``(p, p + d/2)`` in the
    ``"half"`` layout (GPT-NeoX, Llama, the ``rotate_half`` of Hugging Face).

    Args:
        x: Vectors, shape ``(..., d)`` with ``d`` even.
        cos: Cosines, shape ``(..., d/2)``, one per pair, or ``(..., d)``, one per coordinate in the order of ``x``. In the full-width form
            the two entries of a pair are both used, so they need not be equal.
        sin: Sines, of the width of ``cos``.
        layout: Where the two coordinates of a pair stand.

    Returns:
        Shape ``(..., d)`` with the broadcast batch dimensions; float16 and bfloat16 are computed in float32.

    Raises:
        ValueError: If ``d`` is odd, the widths do not fit, the batches do not broadcast or the layout is unknown.
        TypeError, NotImplementedError: If an argument has an integer or a complex dtype.

    Example:
        >>> angle = torch.tensor([torch.pi / 2, 0.0])
        >>> rope_apply(torch.tensor([1.0, 0.0, 3.0, 4.0]), angle.cos(), angle.sin())  # about [0, 1, 3, 4]
    """
    check_option("layout", layout, ("interleaved", "half"))
    for name, t in (("x", x), ("cos", cos), ("sin", sin)):
        check_floating(name, t)
        if t.ndim == 0:
            raise ValueError(f"{name} must have shape (..., n), got a scalar")
    d, width = x.shape[-1], cos.shape[-1]
    if d % 2:
        raise ValueError(f"x must have an even last dimension to form pairs, got {tuple(x.shape)}")
    if (width != d // 2 and width != d) or sin.shape[-1] != width:  # `in` is wrong for symbolic sizes
        raise ValueError(
            f"cos and sin must both have last dimension {d // 2} or {d} for x {tuple(x.shape)}, got {width} and {sin.shape[-1]}"
        )
    check_broadcastable(x=x.shape[:-1], cos=cos.shape[:-1], sin=sin.shape[:-1])
    # the kernel reads and writes half precision itself
    if x.dtype in (torch.float16, torch.bfloat16) and _kernel_runs(x, cos, sin):
        return torch.ops.geocore.rope_apply(x, cos, sin, layout == "half", False)
    return _rotate(x, cos, sin, layout)


@full_precision
def _rotate(x: Tensor, cos: Tensor, sin: Tensor, layout: str) -> Tensor:
    if _kernel_runs(x, cos, sin):
        return torch.ops.geocore.rope_apply(x, cos, sin, layout == "half", False)
    return rope_apply_reference(x, cos, sin, layout)


def rope_apply_reference(x: Tensor, cos: Tensor, sin: Tensor, layout: str) -> Tensor:
    """``rope_apply`` without checks, by plain operations."""
    d, width = x.shape[-1], cos.shape[-1]
    if layout == "interleaved":
        # Pairs are first brought side by side: strided halves cost the CPU twice the time of the arithmetic.
        a, b = x.unflatten(-1, (d // 2, 2)).movedim(-1, 0).contiguous()
        if width == d:
            return x * cos + torch.stack((-b, a)).movedim(0, -1).flatten(-2) * sin
        return torch.stack(_turn(a, b, cos, sin)).movedim(0, -1).flatten(-2)
    a, b = x.chunk(2, -1) if d else (x, x)
    if width == d:
        return x * cos + torch.cat((-b, a), -1) * sin
    return torch.cat(_turn(a, b, cos, sin), -1)


def _turn(a: Tensor, b: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    return torch.addcmul(a * cos, b, sin, value=-1), torch.addcmul(a * sin, b, cos)


def _kernel_runs(x: Tensor, cos: Tensor, sin: Tensor) -> bool:
    """Whether one entry per pair is given, in one shape that does not enlarge the batch of ``x``, and the kernel pays."""
    if cos.shape != sin.shape or cos.ndim > x.ndim or x.ndim > 8 or 2 * cos.shape[-1] != x.shape[-1]:
        return False
    if not all(c in (1, n) for c, n in zip(reversed(cos.shape[:-1]), reversed(x.shape[:-1]), strict=False)):
        return False
    return _ops.kernel_may_run("rope_apply", x, cos, sin, count=x.numel())


def _plain(x: Tensor, cos: Tensor, sin: Tensor, half: bool, inverse: bool) -> Tensor:
    return full_precision(rope_apply_reference)(x, cos, -sin if inverse else sin, "half" if half else "interleaved").contiguous()


def _pairs(x: Tensor, half: bool) -> tuple[Tensor, Tensor]:
    a, b = x.chunk(2, -1) if half else x.unflatten(-1, (x.shape[-1] // 2, 2)).unbind(-1)
    return a, b


def _backward(inputs: tuple[Any, ...], outputs: Any, grads: tuple[Tensor], needs: tuple[bool, ...]) -> tuple[Tensor | None, ...]:
    del outputs
    (x, cos, sin, half, inverse), (g,) = inputs, grads
    back = torch.ops.geocore.rope_apply(g, cos, sin, half, not inverse)
    if not (needs[1] or needs[2]):
        return back, None, None
    (a, b), (u, v) = _pairs(x, half), _pairs(g, half)
    by_cos, by_sin = _by_angle(a, b, u, v, cos.shape)
    return back, by_cos, -by_sin if inverse else by_sin


@full_precision
def _by_angle(a: Tensor, b: Tensor, u: Tensor, v: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
    return (u * a).addcmul(v, b).sum_to_size(shape), u.neg().mul(b).addcmul(v, a).sum_to_size(shape)


_ops.define(
    "rope_apply",
    "(Tensor x, Tensor cos, Tensor sin, bool half, bool inverse) -> Tensor",
    _plain,
    lambda x, cos, sin, half, inverse: x.new_empty(x.shape),
    backward=_backward,
    save_outputs=False,
    tell_needs=True,
)
