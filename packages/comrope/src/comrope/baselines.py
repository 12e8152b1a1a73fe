"""The encodings that ComRoPE is compared with, behind the same interface."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from comrope._base import PairRotary, Positions, Rotary, at_least_float32
from comrope._checks import check_positions
from comrope.functional import AXIAL_BASE, AXIAL_MAX_FREQUENCY, axial_frequencies, axis_mask, combine
from geocore._checks import check_positive_int
from geocore._clamp import clamp
from geocore.blocks import apply_block_rotation
from geocore.son import exp

__all__ = ["AxialRoPE", "LearnedAPE", "LieRE", "MixedRoPE"]


def _check_sizes(head_dim: int, num_heads: int, num_axes: int, block_size: int) -> None:
    for name, value in (("head_dim", head_dim), ("num_heads", num_heads), ("num_axes", num_axes)):
        check_positive_int(name, value)
    check_positive_int("block_size", block_size, minimum=2)
    if head_dim % block_size:
        raise ValueError(f"head_dim must be divisible by the block size, got {head_dim} and {block_size}")


class AxialRoPE(PairRotary):
    """RoPE with fixed frequencies, each plane turned by one coordinate (RoFormer; axial form for images). No parameters.

    Plane ``p`` belongs to axis ``p mod N`` (for larger ``block_size``, block by block, as ComRoPE-AP does); each axis has the frequencies
    ``max_frequency * base^(-i / n)``, ``i = 0 .. n-1``, ``n = ceil(D / (2 N))``.

    Args:
        head_dim: Size ``D`` of a head, even.
        num_heads: Number of heads ``H``; they share the frequencies.
        num_axes: Number of coordinates ``N``.
        base: Ratio of the highest to the lowest frequency, about; RoFormer has 10000 for text, vision models 100.
        max_frequency: Highest frequency in radians per unit coordinate. The default suits coordinates in ``[0, 1]``; RoFormer's 1 is
            for indices ``0, 1, 2, ...``.
        block_size: Neighbouring planes given to one axis, times two; 2 alternates plane by plane.

    Raises:
        ValueError: If a size is not positive or ``head_dim`` is not divisible by ``block_size``.

    Example:
        >>> text = AxialRoPE(64, 8, 1, base=10_000.0, max_frequency=1.0)
    """

    freqs: Tensor

    def __init__(
        self,
        head_dim: int,
        num_heads: int,
        num_axes: int,
        *,
        base: float = AXIAL_BASE,
        max_frequency: float = AXIAL_MAX_FREQUENCY,
        block_size: int = 2,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        _check_sizes(head_dim, num_heads, num_axes, block_size)
        if block_size % 2:
            raise ValueError(f"block_size must be even, got {block_size}")
        super().__init__(head_dim, num_heads, num_axes)
        self.base, self.max_frequency, self.block_size = base, max_frequency, block_size
        m = head_dim // block_size
        rates = axial_frequencies(num_axes, m, block_size // 2, base=base, max_frequency=max_frequency)
        freqs = (axis_mask(num_axes, m, rates)[:, :, None] * rates).flatten(1)
        self.register_buffer("freqs", freqs.to(dtype=dtype or torch.get_default_dtype(), device=device))

    def frequencies(self) -> Float[Tensor, "heads axes planes"]:
        """The frequencies, shape ``(1, N, D/2)``."""
        return self.freqs.unsqueeze(0)

    def extra_repr(self) -> str:
        """Arguments, as in the constructor."""
        return f"{self.head_dim}, {self.num_heads}, {self.num_axes}, base={self.base}, max_frequency={self.max_frequency:.4g}"


class MixedRoPE(PairRotary):
    """RoPE-Mixed (Heo et al., ECCV 2024): learned frequency vectors, ``phi_p(x) = sum_i freqs_ip x_i`` for every head and plane.

    Equal to ComRoPE-LD with ``block_size=2``.

    Args:
        head_dim: Size ``D`` of a head, even.
        num_heads: Number of heads ``H``.
        num_axes: Number of coordinates ``N``.
        init_std: Standard deviation of the frequencies in radians per unit coordinate.

    Raises:
        ValueError: If a size is not positive or ``head_dim`` is odd.

    Example:
        >>> rope = MixedRoPE(64, 12, 2)
    """

    def __init__(
        self,
        head_dim: int,
        num_heads: int,
        num_axes: int,
        *,
        init_std: float = 1.5,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        _check_sizes(head_dim, num_heads, num_axes, 2)
        super().__init__(head_dim, num_heads, num_axes)
        self.init_std = init_std
        self.freqs = nn.Parameter(torch.empty(num_axes, num_heads, head_dim // 2, dtype=dtype, device=device))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the frequencies anew, from ``generator`` if given."""
        self.freqs.normal_(0.0, self.init_std, generator=generator)

    def frequencies(self) -> Float[Tensor, "heads axes planes"]:
        """The frequencies, shape ``(H, N, D/2)``."""
        return self.freqs.transpose(0, 1)

    def extra_repr(self) -> str:
        """Arguments, as in the constructor."""
        return f"{self.head_dim}, {self.num_heads}, {self.num_axes}, init_std={self.init_std}"


class LieRE(Rotary):
    """LieRE (Ostmeier et al., 2024): ``R(x) = exp(sum_i x_i S_i)`` with independent skew generators per axis, head and block.

    The generators do not commute, so attention depends on absolute positions too (``rope_equation_error`` is not 0), and every
    token needs its own matrix exponential.

    Args:
        head_dim: Size ``D`` of a head.
        num_heads: Number of heads ``H``.
        num_axes: Number of coordinates ``N``.
        block_size: Size ``b`` of a block.
        init_std: Standard deviation of ``P``.

    Raises:
        ValueError: If a size is not positive or ``head_dim`` is not divisible by ``block_size``.

    Example:
        >>> rope = LieRE(64, 12, 2)
    """

    def __init__(
        self,
        head_dim: int,
        num_heads: int,
        num_axes: int,
        *,
        block_size: int = 8,
        init_std: float = 1.0,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        _check_sizes(head_dim, num_heads, num_axes, block_size)
        super().__init__(head_dim, num_heads, num_axes)
        self.block_size, self.init_std = block_size, init_std
        m = head_dim // block_size
        self.P = nn.Parameter(torch.empty(num_axes, num_heads, m, block_size, block_size, dtype=dtype, device=device))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the generators anew, from ``generator`` if given."""
        self.P.normal_(0.0, self.init_std, generator=generator)

    def generators(self) -> Float[Tensor, "heads axes m b b"]:
        """The skew generators, shape ``(H, N, m, b, b)``."""
        P = at_least_float32(self.P).transpose(0, 1)
        return P - P.mT

    def rotation_blocks(
        self, positions: Float[Tensor, "*batch tokens axes"], *, validate: bool = False
    ) -> Float[Tensor, "*batch tokens heads m b b"]:
        """Rotation matrices, shape ``(..., L, H, m, b, b)``."""
        check_positions(positions, self.num_axes, validate=validate)
        positions = at_least_float32(positions)
        G = self.generators().transpose(0, 1)
        dtype = torch.promote_types(G.dtype, positions.dtype)
        return exp(combine(positions.to(dtype), G.to(dtype)))

    def _turn(self, x: Tensor, positions: Tensor) -> Tensor:
        return apply_block_rotation(x, self.rotation_blocks(positions).movedim(-5, -4).to(x.dtype))

    def extra_repr(self) -> str:
        """Arguments, as in the constructor."""
        return f"{self.head_dim}, {self.num_heads}, {self.num_axes}, block_size={self.block_size}, init_std={self.init_std}"


class LearnedAPE(nn.Module):
    """Learned absolute position embedding on a grid, multilinear between cell centres, constant beyond the outermost.

    An absolute embedding is added to the tokens once, before the first layer: ``tokens + ape.embed(positions)``. So that it can stand
    where a rotary encoding stands, ``forward(q, k, positions)`` returns queries and keys as they are.

    Args:
        embed_dim: Width of the tokens.
        shape: Cells per axis of the table, for example ``(14, 14)``.
        init_std: Standard deviation of the table.

    Raises:
        ValueError: If a size is not positive.

    Example:
        >>> ape = LearnedAPE(768, (14, 14))
        >>> ape.embed(grid_positions((32, 32))).shape
        torch.Size([1024, 768])
    """

    def __init__(
        self,
        embed_dim: int,
        shape: Sequence[int],
        *,
        init_std: float = 0.02,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        check_positive_int("embed_dim", embed_dim)
        for i, size in enumerate(shape):
            check_positive_int(f"shape[{i}]", size)
        super().__init__()
        self.embed_dim, self.shape, self.num_axes, self.init_std = embed_dim, tuple(shape), len(shape), init_std
        self.table = nn.Parameter(torch.empty(*self.shape, embed_dim, dtype=dtype, device=device))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the table anew, from ``generator`` if given."""
        self.table.normal_(0.0, self.init_std, generator=generator)

    def embed(self, positions: Float[Tensor, "*batch tokens axes"], *, validate: bool = False) -> Float[Tensor, "*batch tokens dim"]:
        """Embedding at positions in ``[0, 1]^N``, shape ``(..., L, embed_dim)``, dtype of the table."""
        check_positions(positions, self.num_axes, validate=validate)
        positions = at_least_float32(positions)
        rows = positions.new_zeros(positions.shape[:-1], dtype=torch.int64).unsqueeze(-1)
        weights = positions.new_ones(positions.shape[:-1]).unsqueeze(-1)
        for i, size in enumerate(self.shape):  # after axis i: 2^(i+1) corners with their product weights
            u = clamp(positions[..., i] * size - 0.5, 0.0, size - 1.0)  # its ends are the centres of the outer cells
            low = u.detach().floor().clamp(max=max(size - 2, 0))
            near = torch.stack((low, (low + 1).clamp(max=size - 1)), dim=-1).long()
            share = torch.stack((1 - (u - low), u - low), dim=-1)
            rows = (rows.unsqueeze(-1) * size + near.unsqueeze(-2)).flatten(-2)
            weights = (weights.unsqueeze(-1) * share.unsqueeze(-2)).flatten(-2)
        corners = self.table.flatten(0, -2)[rows]
        return (weights.to(self.table.dtype).unsqueeze(-1) * corners).sum(-2)

    def forward(self, q: Tensor, k: Tensor, positions: Positions, *, validate: bool = False) -> tuple[Tensor, Tensor]:
        """Queries and keys, unchanged: this encoding acts through ``embed``."""
        for p in positions if isinstance(positions, tuple) else (positions,):
            check_positions(p, self.num_axes, validate=validate)
        return q, k

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters to keep out of weight decay."""
        return {"table"}

    def extra_repr(self) -> str:
        """Arguments, as in the constructor."""
        return f"{self.embed_dim}, {self.shape}, init_std={self.init_std}"
