"""Folding a trained basis into the projections: what remains of any ComRoPE layer is plain RoPE with per-head frequencies."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from comrope._base import PairRotary, Positions, Rotary, at_least_float32
from comrope._checks import check_positions
from geocore._checks import check_option
from geocore.blocks import BlockRotation

__all__ = ["RotaryTable", "check_projection", "fold_rows", "plane_basis", "plane_frequencies", "plane_order"]


class RotaryTable(PairRotary):
    """Cosines and sines of plain RoPE with frequencies of its own for every head and axis.

    Made by ``ComRoPE.fold_into_``. ``table(positions)`` gives the pair ``(cos, sin)`` for any RoPE kernel; ``table.apply(q, k, positions)``
    rotates with ours. The frequencies are a buffer, kept in float32 or wider when the module is cast to half precision.

    Args:
        freqs: Frequencies in radians per unit coordinate, shape ``(H, N, D/2)``.
        layout: Pairing of coordinates, ``"interleaved"`` or ``"half"``.
        full_width: Whether ``table(positions)`` has one entry per coordinate (``D``) instead of one per pair (``D/2``). With
            ``layout="half"`` this is the contract of Hugging Face: ``apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim=0)`` for
            shared positions.

    Raises:
        ValueError: If ``freqs`` does not have three dimensions or ``layout`` is unknown.

    Example:
        >>> table = RotaryTable(torch.ones(12, 2, 32))
        >>> cos, sin = table(grid_positions((14, 14)))
        >>> cos.shape
        torch.Size([12, 196, 32])
    """

    freqs: Tensor

    def __init__(self, freqs: Float[Tensor, "heads axes planes"], *, layout: str = "interleaved", full_width: bool = False) -> None:
        check_option("layout", layout, ("interleaved", "half"))
        if freqs.ndim != 3:
            raise ValueError(f"freqs must have shape (H, N, D/2), got {tuple(freqs.shape)}")
        super().__init__(2 * freqs.shape[2], freqs.shape[0], freqs.shape[1])
        self.layout, self.full_width = layout, full_width
        self.register_buffer("freqs", at_least_float32(freqs.detach()).clone())

    def frequencies(self) -> Float[Tensor, "heads axes planes"]:
        """The frequencies, shape ``(H, N, D/2)``."""
        return self.freqs

    def forward(  # type: ignore[override]
        self, positions: Float[Tensor, "*batch tokens axes"], *, dtype: torch.dtype | None = None, validate: bool = False
    ) -> tuple[Float[Tensor, "*batch heads tokens width"], Float[Tensor, "*batch heads tokens width"]]:
        """Cosines and sines at the positions.

        Args:
            positions: Shape ``(L, N)`` or ``(B, L, N)``.
            dtype: Dtype of the result, that of the frequencies by default.
            validate: Whether to check that positions are finite, which waits for the device.

        Returns:
            Two tensors of shape ``(..., H, L, D/2)``, or ``(..., H, L, D)`` with ``full_width``.

        Raises:
            ValueError: If positions do not have ``N`` coordinates or are not floating.
        """
        check_positions(positions, self.num_axes, validate=validate)
        cos, sin = self._table(at_least_float32(positions), self._dtype())
        if self.full_width and self.layout == "half":
            cos, sin = torch.cat((cos, cos), -1), torch.cat((sin, sin), -1)
        elif self.full_width:
            cos, sin = cos.repeat_interleave(2, -1), sin.repeat_interleave(2, -1)
        return (cos, sin) if dtype is None else (cos.to(dtype), sin.to(dtype))

    def apply(  # type: ignore[override]
        self, q: Any, k: Tensor | None = None, positions: Positions | None = None, *, validate: bool = False
    ) -> Any:
        """Rotate the outputs of folded projections; arguments as those of ``ComRoPE.forward``.

        With a function as its only argument this is ``nn.Module.apply``, which containers call on their children.
        """
        if k is None and positions is None and not isinstance(q, Tensor):
            return nn.Module.apply(self, q)
        if k is None or positions is None:
            raise ValueError("apply takes q, k and positions")
        return Rotary.forward(self, q, k, positions, validate=validate)

    def extra_repr(self) -> str:
        """Sizes and options."""
        sizes = f"num_heads={self.num_heads}, num_axes={self.num_axes}, head_dim={self.head_dim}"
        return f"{sizes}, layout={self.layout!r}, full_width={self.full_width}"


def plane_order(num_blocks: int, block_size: int, layout: str) -> list[int]:
    """Order in which the coordinates of a head go into a RoPE layout: planes first, then the fixed directions of odd blocks in pairs.

    An odd number of coordinates is filled up with the index one past the last.
    """
    check_option("layout", layout, ("interleaved", "half"))
    d = num_blocks * block_size
    starts = range(0, d, block_size)
    planar = [j + i for j in starts for i in range(block_size - block_size % 2)]
    fixed = [j + block_size - 1 for j in starts] if block_size % 2 else []
    order = planar + fixed + ([d] if d % 2 else [])
    return order if layout == "interleaved" else order[0::2] + order[1::2]


def plane_basis(basis: Float[Tensor, "heads m b b"], layout: str) -> Float[Tensor, "heads d width"]:
    """The basis of each head as one matrix whose columns are the new coordinates in a RoPE layout; a zero column makes ``width`` even."""
    dense = BlockRotation(basis).to_dense()
    return F.pad(dense, (0, dense.shape[-1] % 2))[..., plane_order(basis.shape[-3], basis.shape[-1], layout)]


def plane_frequencies(freqs: Float[Tensor, "heads axes m planes"], block_size: int) -> Float[Tensor, "heads axes width"]:
    """The frequencies in the order of ``plane_basis``, zero for fixed directions."""
    flat = freqs.flatten(-2)
    return F.pad(flat, (0, (freqs.shape[-2] * block_size + 1) // 2 - flat.shape[-1]))


def check_projection(name: str, projection: nn.Linear, basis: Float[Tensor, "heads d d"], parts: int = 1) -> None:
    """Raise unless the layer is linear with ``parts H D`` outputs.

    Raises:
        ValueError, TypeError: If not.
    """
    if not isinstance(projection, nn.Linear):
        raise TypeError(f"{name} must be an nn.Linear, got {type(projection).__name__}; merge adapters into it first")
    heads, d, _ = basis.shape
    if projection.out_features != parts * heads * d:
        hint = "; grouped key heads cannot share one fold" if projection.out_features < parts * heads * d else ""
        factor = f"{parts} * " if parts > 1 else ""
        raise ValueError(f"{name} must have {factor}H * D = {factor}{heads} * {d} outputs, got {projection.out_features}{hint}")


@torch.no_grad()
def fold_rows(projection: nn.Linear, basis: Float[Tensor, "heads d d"], start: int = 0) -> None:
    """Replace the rows of ``H D`` outputs from ``start`` on by their coordinates in ``basis``, in place, computed in float64."""
    heads, d, _ = basis.shape
    rows = slice(start, start + heads * d)
    weight = projection.weight[rows]
    folded = torch.einsum("hdc,hdi->hci", basis.to(weight.device), weight.double().unflatten(0, (heads, d)))
    weight.copy_(folded.flatten(0, 1))
    if projection.bias is not None:
        bias = projection.bias[rows]
        bias.copy_(torch.einsum("hdc,hd->hc", basis.to(bias.device), bias.double().unflatten(0, (heads, d))).flatten())
