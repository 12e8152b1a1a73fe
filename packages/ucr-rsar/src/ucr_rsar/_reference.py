"""Literal transcriptions, one shifted cosine and one object at a time: what tests and benchmarks compare with."""

from math import pi

import torch
from torch import Tensor

__all__ = ["decode_reference", "encode_reference", "object_codes_reference", "object_codes_unique", "restriction_reference"]


def encode_reference(angle: Tensor, m: int) -> Tensor:
    """``x_k = cos(2 t + 2 pi k / m)``, a tensor for each ``k``; ``(cos 2 t, sin 2 t)`` for ``m = 2``."""
    if m == 2:
        return torch.stack([torch.cos(2 * angle), torch.sin(2 * angle)], -1)
    return torch.stack([torch.cos(2 * angle + 2 * pi * k / m) for k in range(m)], -1)


def decode_reference(code: Tensor, m: int, invalid_thr: float = 0.0) -> Tensor:
    """``atan2(-sum x_k sin(2 pi k / m), sum x_k cos(2 pi k / m)) / 2``, 0 where the radius is below the threshold."""
    if m == 2:
        c, s, radius2 = code[..., 0], code[..., 1], 1.0
    else:
        c, s, radius2 = torch.zeros_like(code[..., 0]), torch.zeros_like(code[..., 0]), m / 2
        for k in range(m):
            c = c + code[..., k] * torch.tensor(2 * pi * k / m, dtype=code.dtype).cos()
            s = s - code[..., k] * torch.tensor(2 * pi * k / m, dtype=code.dtype).sin()
    angle = torch.atan2(s, c) / 2
    if invalid_thr > 0:
        angle = torch.where(c**2 + s**2 < radius2**2 * invalid_thr, torch.zeros_like(angle), angle)
    return angle


def restriction_reference(code: Tensor, m: int) -> Tensor:
    """``mean | |x|^2 - r^2 |``, and for ``m > 2`` also ``mean |x_1 + ... + x_m|``."""
    value = ((code**2).sum(-1) - (1.0 if m == 2 else m / 2)).abs().mean()
    return value + code.sum(-1).abs().mean() if m > 2 else value


def object_codes_reference(code: Tensor, obj: Tensor, view: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean code of each object in each view by two loops, and which objects are in all three views."""
    mean = torch.zeros(3, count, code.shape[-1], dtype=code.dtype)
    complete = torch.ones(count, dtype=torch.bool)
    for v in range(3):
        for k in range(count):
            own = [code[i] for i in range(len(code)) if obj[i] == k and view[i] == v]
            if own:
                mean[v, k] = torch.stack(own).mean(0)
            else:
                complete[k] = False
    return mean, complete


def object_codes_unique(code: Tensor, obj: Tensor, view: Tensor) -> Tensor:
    """The same by sorting float numbers ``object + 0.2 (view + 1)``, as H2RBox-v2 does; of objects in all views, ``(3, k, m)``."""
    number = obj.to(code.dtype) + 0.2 * (view + 1).to(code.dtype)
    unique, place = number.unique(return_inverse=True)
    mean = code.new_zeros(len(unique), code.shape[-1]).index_add(0, place, code)
    mean = mean / code.new_zeros(len(unique)).index_add(0, place, torch.ones_like(code[:, 0])).unsqueeze(-1)
    whole, share = unique.floor(), unique.frac()
    _, kind, copies = whole.unique(return_inverse=True, return_counts=True)
    found = copies[kind] == 3
    return torch.stack([mean[found & ((share - 0.2 * (v + 1)).abs() < 0.1)] for v in range(3)])
