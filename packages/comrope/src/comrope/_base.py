"""What every rotary encoding shares: checks, precision, one call for queries and keys."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from comrope._cache import InferenceCache, may_cache, own_tensors
from comrope._checks import check_positions, check_tokens
from comrope.functional import cos_sin, plane_matrices, position_angles
from geocore.blocks import rope_apply

__all__ = ["HALF", "PairRotary", "Positions", "Rotary", "at_least_float32"]

HALF = (torch.float16, torch.bfloat16)
Positions = Tensor | tuple[Tensor, Tensor]


def at_least_float32(x: Tensor) -> Tensor:
    """``x``, or its float32 copy if it has half precision."""
    return x.float() if x.dtype in HALF else x


class Rotary(nn.Module):
    """Base of the encodings that rotate queries and keys, each at its own position.

    Subclasses implement ``_turn`` and ``rotation_blocks``.

    Args:
        head_dim: Size ``D`` of a head.
        num_heads: Number of heads ``H``.
        num_axes: Number of coordinates ``N`` of a position.
    """

    def __init__(self, head_dim: int, num_heads: int, num_axes: int) -> None:
        super().__init__()
        self.head_dim, self.num_heads, self.num_axes = head_dim, num_heads, num_axes
        self._cache = InferenceCache()

    def forward(
        self,
        q: Float[Tensor, "*qbatch heads q_len dim"],
        k: Float[Tensor, "*kbatch heads k_len dim"],
        positions: Positions,
        *,
        validate: bool = False,
    ) -> tuple[Float[Tensor, "*qbatch heads q_len dim"], Float[Tensor, "*kbatch heads k_len dim"]]:
        """Rotate queries and keys.

        Args:
            q: Queries, shape ``(..., H, L, D)``.
            k: Keys, shape ``(..., H, L', D)``.
            positions: Shape ``(L, N)`` or ``(B, L, N)``; a pair ``(positions_q, positions_k)`` if they differ, as with a cache of
                keys. Positions shared by the batch are cheaper, since their angles are computed once.
            validate: Whether to check that positions are finite, which waits for the device.

        Returns:
            The rotated pair, shapes and dtypes unchanged.

        Raises:
            ValueError: If a shape differs from the configuration, positions are not floating or, with ``validate``, not finite.
            TypeError: If an argument is not a tensor, or ``q`` or ``k`` is an integer tensor.
        """
        if isinstance(positions, tuple):
            if len(positions) != 2:
                raise ValueError(f"positions must be a tensor or a pair (positions_q, positions_k), got {len(positions)} items")
            return self.rotate(q, positions[0], validate=validate), self.rotate(k, positions[1], validate=validate)
        if q.shape != k.shape or q.dtype != k.dtype:
            return self.rotate(q, positions, validate=validate), self.rotate(k, positions, validate=validate)
        check_positions(positions, self.num_axes, validate=validate)
        check_tokens("q", q, positions, self.num_heads, self.head_dim)
        check_tokens("k", k, positions, self.num_heads, self.head_dim)
        return self._forward_pair(q, k, positions)

    def _forward_pair(self, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        turned = self._in_precision(torch.stack((q, k)), positions)
        return turned[0], turned[1]

    def rotate(
        self, x: Float[Tensor, "*batch heads tokens dim"], positions: Float[Tensor, "*pbatch tokens axes"], *, validate: bool = False
    ) -> Float[Tensor, "*batch heads tokens dim"]:
        """Rotate one tensor of shape ``(..., H, L, D)``; see ``forward``."""
        check_positions(positions, self.num_axes, validate=validate)
        check_tokens("x", x, positions, self.num_heads, self.head_dim)
        return self._in_precision(x, positions)

    def rotation_blocks(self, positions: Float[Tensor, "*batch tokens axes"], *, validate: bool = False) -> Float[Tensor, "*out"]:
        """Rotation matrices of the blocks, shape ``(..., L, H, m, b, b)``."""
        raise NotImplementedError(f"{type(self).__name__} must implement this method")

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters to keep out of weight decay, which would lower every frequency without a word: all of them."""
        return {name for name, _ in self.named_parameters(recurse=False)}

    def _turn(self, x: Tensor, positions: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must implement this method")

    def _in_precision(self, x: Tensor, positions: Tensor) -> Tensor:
        out = self._turn(at_least_float32(x), at_least_float32(positions))
        return out.to(x.dtype)

    def train(self, mode: bool = True) -> Any:
        """As ``nn.Module.train``; forgets what eval mode has remembered."""
        self._cache.clear()
        return super().train(mode)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        self._cache.clear()
        return super()._apply(fn, recurse)


class PairRotary(Rotary):
    """Base of the encodings whose blocks are planes: angles ``phi = sum_i w_i x_i`` and nothing else.

    Subclasses implement ``frequencies``.
    """

    layout: str = "interleaved"

    def frequencies(self) -> Float[Tensor, "heads axes planes"]:
        """Frequencies in radians per unit coordinate, shape ``(H, N, D/2)``, or ``(1, N, D/2)`` if the heads share them."""
        raise NotImplementedError(f"{type(self).__name__} must implement this method")

    def angles(
        self, positions: Float[Tensor, "*batch tokens axes"], *, validate: bool = False
    ) -> Float[Tensor, "*batch heads tokens planes"]:
        """Angles of every plane, shape ``(..., H, L, D/2)``."""
        check_positions(positions, self.num_axes, validate=validate)
        phi = self._phi(at_least_float32(positions))
        phi = phi.expand(*phi.shape[:-3], self.num_heads, *phi.shape[-2:])
        return phi.to(torch.promote_types(self._dtype(), at_least_float32(positions).dtype))

    def rotation_blocks(self, positions: Float[Tensor, "*batch tokens axes"], *, validate: bool = False) -> Float[Tensor, "*out"]:
        """Rotation matrices of the planes, shape ``(..., L, H, D/2, 2, 2)``."""
        phi = self.angles(positions, validate=validate).movedim(-3, -2).unsqueeze(-1)
        cos, sin = cos_sin(phi, phi.dtype)
        return plane_matrices(cos, sin, 2)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        fixed = [id(b) for b in self.buffers(recurse=False)]

        def keep(t: Tensor) -> Tensor:
            moved = fn(t)
            # Fixed frequencies stay exact when the model around them goes to half precision.
            return t.to(moved.device) if id(t) in fixed and moved.dtype in HALF else moved

        return super()._apply(keep, recurse)

    def _dtype(self) -> torch.dtype:
        return at_least_float32(self.frequencies()).dtype

    def _phi(self, positions: Tensor) -> Tensor:
        return position_angles(positions, at_least_float32(self.frequencies()))

    def _table(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        if not may_cache(self, positions):
            return cos_sin(self._phi(positions), dtype)
        return self._cache.get(f"table {dtype}", (positions, *own_tensors(self)), lambda: cos_sin(self._phi(positions), dtype))

    def _turn(self, x: Tensor, positions: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, self._dtype())
        cos, sin = self._table(positions, dtype)
        return rope_apply(x.to(dtype), cos, sin, layout=self.layout)  # type: ignore[arg-type]

    def _forward_pair(self, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        # Nothing to share but the table, so no copy into one tensor.
        dtype = torch.promote_types(at_least_float32(q).dtype, self._dtype())
        cos, sin = self._table(at_least_float32(positions), dtype)
        turned = (rope_apply(at_least_float32(x).to(dtype), cos, sin, layout=self.layout) for x in (q, k))  # type: ignore[arg-type]
        first, second = turned
        return first.to(q.dtype), second.to(k.dtype)
