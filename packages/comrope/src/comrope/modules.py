"""The ComRoPE layer."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from comrope._base import Rotary, at_least_float32
from comrope._cache import may_cache, own_tensors
from comrope._checks import check_positions
from comrope.config import ComRoPEConfig
from comrope.folding import RotaryTable, check_projection, fold_rows, plane_basis, plane_frequencies
from comrope.functional import (
    axial_frequencies,
    axis_mask,
    block_times,
    cos_sin,
    plane_generators,
    plane_matrices,
    position_angles,
    rotate_in_basis,
)
from geocore.son import exp, expm_skew_apply, log, skew_spectral

__all__ = ["ComRoPE"]


class ComRoPE(Rotary):
    r"""Rotary position encoding with trainable commuting rotation generators.

    Queries and keys of a token at ``x`` in ``R^N`` are multiplied by ``R(x) = exp(sum_i x_i A_i)`` with skew
    ``A_i = blockdiag(B_i1, ..., B_im)``. All ``A_i`` commute, so ``R(x)^T R(y) = R(y - x)`` exactly: attention sees relative positions
    only (ComRoPE, CVPR 2025, arXiv 2506.03737). With ``S_j = P_j - P_j^T`` per head and block, the variants are

    - ``"ld"``: ``B_ij = theta_ij S_j``, linearly dependent generators; RoPE-Mixed for ``block_size=2``;
    - ``"ap"``: ``B_ij = S_j`` if ``j mod N == i`` else 0, axial partition; axial RoPE with learned frequencies for ``block_size=2``;
    - ``"full"``: ``B_ij = Q_j blockdiag(W_ij1 J, ..., W_ij(b/2) J) Q_j^T``, ``Q_j = exp(S_j)``, ``J = [[0, -1], [1, 0]]``: the general
      solution of that equation, which contains the other two. Not in the paper.

    Parameters: ``P (H, m, b, b)``; for ``"ld"`` also ``theta (N, m)``, or ``(N, H, m)`` with ``theta_per_head``; for ``"full"`` also
    ``W (N, H, m, b // 2)``. Only the skew part of ``P`` acts, so its gradient is skew. Keep all of them out of weight decay
    (``no_weight_decay``). Frequencies are in radians per unit coordinate and the default law suits coordinates in ``[0, 1]``
    (``grid_positions``).

    No matrix exponential is taken per token and no ``(L, H, D, D)`` tensor exists; angles are computed once per position and
    shared by the batch if positions are. float16 and bfloat16 queries and keys are rotated in float32 and cast back. In eval mode
    the spectral form and the last angles are remembered while no gradient to the parameters is wanted; a change of ``P.data`` in place
    is the one change that goes unnoticed: call ``eval()`` again after it.

    Args:
        head_dim: Size ``D = m b`` of a head.
        num_heads: Number of heads ``H``.
        num_axes: Number of coordinates ``N`` of a position.
        block_size: Size ``b`` of a block; odd sizes leave one direction per block fixed.
        variant: ``"ld"`` (default), ``"ap"`` or ``"full"``.
        init: ``"normal"``: ``P ~ N(0, init_std^2)``, ``theta ~ N(0, 1)``, and for ``"full"`` frequencies of that law. ``"zero"``: identity
            rotation, for fine-tuning (``P = 0``, for ``"full"`` also ``W = 0``). ``"axial"``: the rotation of ``AxialRoPE`` with its
            default frequencies and the same ``block_size``.
        init_std: Standard deviation of ``P``; the paper's code has 1.
        theta_per_head: Whether every head has its own ``theta``.
        dtype: Dtype of the parameters.
        device: Device of the parameters.

    Raises:
        ValueError: If ``head_dim`` is not divisible by ``block_size`` (``"ap"``: by ``num_axes * block_size``), or an option is unknown.
        TypeError: If a size is not an integer.

    Example:
        >>> rope = ComRoPE(head_dim=64, num_heads=12, num_axes=2)
        >>> positions = grid_positions((14, 14), prefix_tokens=1)
        >>> q, k = torch.randn(2, 8, 12, 197, 64)
        >>> q, k = rope(q, k, positions)
    """

    def __init__(
        self,
        head_dim: int,
        num_heads: int,
        num_axes: int,
        *,
        block_size: int = 8,
        variant: str = "ld",
        init: str = "normal",
        init_std: float = 1.0,
        theta_per_head: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        config = ComRoPEConfig(head_dim, num_heads, num_axes, block_size, variant, init, init_std, theta_per_head)
        super().__init__(head_dim, num_heads, num_axes)
        self.block_size, self.variant, self.init, self.init_std = block_size, variant, init, init_std
        self.theta_per_head = theta_per_head
        self.num_blocks = m = config.num_blocks
        new: dict[str, Any] = {"dtype": dtype, "device": device}
        self.P = nn.Parameter(torch.empty(num_heads, m, block_size, block_size, **new))
        if variant == "ld":
            self.theta = nn.Parameter(torch.empty((num_axes, num_heads, m) if theta_per_head else (num_axes, m), **new))
        elif variant == "full":
            self.W = nn.Parameter(torch.empty(num_axes, num_heads, m, block_size // 2, **new))
        self.reset_parameters()

    @property
    def config(self) -> ComRoPEConfig:
        """The arguments of this layer as plain data."""
        return ComRoPEConfig(
            self.head_dim, self.num_heads, self.num_axes, self.block_size, self.variant, self.init, self.init_std, self.theta_per_head
        )

    @classmethod
    def from_config(cls, config: ComRoPEConfig, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> "ComRoPE":
        """A new layer with the arguments in ``config``."""
        return cls(**config.to_dict(), dtype=dtype, device=device)

    def extra_repr(self) -> str:
        """Arguments, as in the constructor."""
        return (
            f"head_dim={self.head_dim}, num_heads={self.num_heads}, num_axes={self.num_axes}, block_size={self.block_size}, "
            f"variant={self.variant!r}" + (", theta_per_head=True" if self.theta_per_head else "")
        )

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the parameters anew by the ``init`` rule, from ``generator`` if given."""
        b, m, n = self.block_size, self.num_blocks, self.num_axes
        axial = axial_frequencies(n, m, b // 2).to(self.P)
        mask = axis_mask(n, m, self.P)
        if self.init == "normal":
            self.P.normal_(0.0, self.init_std, generator=generator)
        elif self.init == "axial" and self.variant != "full":
            self.P.copy_(plane_generators(axial / 2, b))  # P - P^T doubles a skew P
        else:
            self.P.zero_()
        if self.variant == "ld":
            if self.init == "axial":
                self.theta.copy_(mask.unsqueeze(1) if self.theta_per_head else mask)
            else:
                self.theta.normal_(0.0, 1.0, generator=generator)
        elif self.variant == "full":
            if self.init == "normal":
                other = torch.empty_like(self.P).normal_(0.0, self.init_std, generator=generator)
                theta = self.W.new_empty(n, 1, m, 1).normal_(0.0, 1.0, generator=generator)
                rates, _ = skew_spectral(at_least_float32(other - other.mT))
                self.W.copy_(theta * rates)
            elif self.init == "axial":
                self.W.copy_((mask[:, :, None] * axial)[:, None].expand_as(self.W))
            else:
                self.W.zero_()

    # The pieces of the equation

    def _dtype(self) -> torch.dtype:
        return at_least_float32(self.P).dtype

    def _skew(self, dtype: torch.dtype) -> Float[Tensor, "heads m b b"]:
        P = self.P.to(dtype)
        return P - P.mT

    def _times(self, positions: Tensor, dtype: torch.dtype) -> Tensor:
        """Multiple of ``S_j`` at each position, shape ``(..., 1 or H, L, m)``."""
        if self.variant == "ap":
            repeats = self.num_blocks // self.num_axes
            return positions.to(dtype).repeat_interleave(repeats, -1).unflatten(-1, (self.num_axes, repeats)).mT.flatten(-2).unsqueeze(-3)
        # In float64: a rounded multiple would turn the fastest planes by its error times the frequency.
        return block_times(positions.double(), self.theta.double())

    def generators(self) -> Float[Tensor, "heads axes m b b"]:
        """The commuting skew generators ``B_ij`` of every head, axis and block, shape ``(H, N, m, b, b)``."""
        dtype = self._dtype()
        S = self._skew(dtype)
        if self.variant == "full":
            Q = exp(S).unsqueeze(1)
            return Q @ plane_generators(self.W.to(dtype).transpose(0, 1), self.block_size) @ Q.mT
        return self._weights(dtype)[..., None, None] * S.unsqueeze(1)

    def _weights(self, dtype: torch.dtype) -> Float[Tensor, "h axes m"]:
        """``theta`` or the axial mask with the head first, shape ``(H or 1, N, m)``."""
        if self.variant == "ap":
            return axis_mask(self.num_axes, self.num_blocks, self.P).to(dtype).unsqueeze(0)
        theta = self.theta.to(dtype)
        return theta.transpose(0, 1) if self.theta_per_head else theta.unsqueeze(0)

    def spectrum(self) -> tuple[Float[Tensor, "heads axes m planes"], Float[Tensor, "heads m b b"]]:
        """Frequencies and basis, ``B_ij = Q_j blockdiag(w_ijk J) Q_j^T``.

        For ``"ld"`` and ``"ap"`` the frequencies carry gradients and the basis does not (it is not unique where frequencies repeat).

        Returns:
            Frequencies in radians per unit coordinate, shape ``(H, N, m, b // 2)``, and orthogonal bases, shape ``(H, m, b, b)``, whose
            columns ``2k, 2k + 1`` span plane ``k``; for odd ``b`` the last column is fixed by every rotation.
        """
        dtype = self._dtype()
        freqs, basis = self._spectrum64()
        return freqs.to(dtype), basis.to(dtype)

    def _spectrum64(self) -> tuple[Tensor, Tensor]:
        S = self._skew(torch.float64)
        if self.variant == "full":
            return self.W.double().transpose(0, 1), exp(S)
        rates, basis = skew_spectral(S)
        return self._weights(torch.float64).unsqueeze(-1) * rates.unsqueeze(1), basis

    def angles(
        self, positions: Float[Tensor, "*batch tokens axes"], *, validate: bool = False
    ) -> Float[Tensor, "*batch heads tokens planes"]:
        """Angles ``phi_k(x) = sum_i w_ik x_i`` of every plane, shape ``(..., H, L, m (b // 2))``."""
        check_positions(positions, self.num_axes, validate=validate)
        positions = at_least_float32(positions)
        freqs, _ = self._spectrum64()
        return position_angles(positions, freqs).flatten(-2).to(torch.promote_types(self._dtype(), positions.dtype))

    def rotation_blocks(
        self, positions: Float[Tensor, "*batch tokens axes"], *, validate: bool = False
    ) -> Float[Tensor, "*batch tokens heads m b b"]:
        """Rotation matrices ``exp(sum_i x_i B_ij)``, shape ``(..., L, H, m, b, b)``, differentiable.

        ``apply_block_rotation(x, rope.rotation_blocks(positions).movedim(-5, -4))`` is ``rope.rotate(x, positions)``, much slower.
        """
        check_positions(positions, self.num_axes, validate=validate)
        positions = at_least_float32(positions)
        dtype = torch.promote_types(self._dtype(), positions.dtype)
        b = self.block_size
        if self.variant == "full":
            cos, sin = cos_sin(position_angles(positions, self.W.to(dtype).transpose(0, 1)), dtype)
            Q = exp(self._skew(dtype)).unsqueeze(1)
            return (Q @ plane_matrices(cos, sin, b) @ Q.mT).movedim(-5, -4)
        t = self._times(positions, dtype).movedim(-3, -2)
        unit = torch.eye(b, dtype=dtype, device=positions.device)
        return expm_skew_apply(self._skew(dtype)[:, :, None], t[..., None], unit).mT  # row c of the result is R e_c

    # Rotating

    def _turn(self, x: Tensor, positions: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, self._dtype())
        x = x.to(dtype)
        if may_cache(self, positions):
            return rotate_in_basis(x, *self._remembered(positions, dtype))
        if self.variant == "full":
            freqs = plane_frequencies(self.W.to(dtype).transpose(0, 1), self.block_size)
            return rotate_in_basis(x, plane_basis(exp(self._skew(dtype)), "half"), *cos_sin(position_angles(positions, freqs), dtype))
        z = x.unflatten(-1, (self.num_blocks, self.block_size))
        return expm_skew_apply(self._skew(dtype).unsqueeze(1), self._times(positions, dtype), z).flatten(-2)

    def _remembered(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Basis of the planes, cosines and sines."""

        def planes() -> tuple[Tensor, Tensor]:
            freqs, basis = self._spectrum64()
            return plane_frequencies(freqs, self.block_size), plane_basis(basis, "half").to(dtype)

        freqs, basis = self._cache.get(f"planes {dtype}", own_tensors(self), planes)
        cos, sin = self._cache.get(f"table {dtype}", (positions, freqs), lambda: cos_sin(position_angles(positions, freqs), dtype))
        return basis, cos, sin

    # Conversions

    def fold_into_(self, q_proj: nn.Linear, k_proj: nn.Linear, *, layout: str = "interleaved", full_width: bool = False) -> RotaryTable:
        """Fold the basis into trained query and key projections, in place; what remains is plain RoPE.

        Attention logits see ``(Rot(phi_x) Q^T q)^T (Rot(phi_y) Q^T k)``, so ``Q^T`` may be multiplied into the projections once. Exact up
        to rounding. Nothing may stand between projection and rotation that does not commute with the basis (a norm on queries does not).
        Drop this layer afterwards and rotate with the returned table.

        Args:
            q_proj: Linear layer with ``H D`` outputs, heads first; changed in place, with or without bias.
            k_proj: The same for keys.
            layout: ``"interleaved"`` or ``"half"``, the pairing of the kernel that will rotate; see ``geocore.blocks.rope_apply``.
            full_width: Whether the table returns one cosine per coordinate, as Hugging Face's ``apply_rotary_pos_emb`` expects together
                with ``layout="half"``, instead of one per pair.

        Returns:
            The table of cosines and sines for the folded projections.

        Raises:
            ValueError: If a projection does not have ``H D`` outputs (grouped heads cannot share one fold), or an odd block leaves an odd
                ``head_dim``.
            TypeError: If a projection is not an ``nn.Linear``.

        Example:
            >>> table = rope.fold_into_(attention.q_proj, attention.k_proj)
            >>> cos, sin = table(positions)  # (H, L, D/2), for any RoPE kernel
        """
        table, basis = self._make_table(layout, full_width)
        if q_proj is k_proj:
            raise ValueError("q_proj and k_proj are one layer and would be folded twice; pass two layers, or use fold_into_fused_")
        for name, projection in (("q_proj", q_proj), ("k_proj", k_proj)):
            check_projection(name, projection, basis)  # both before either changes
        fold_rows(q_proj, basis)
        fold_rows(k_proj, basis)
        return table

    def fold_into_fused_(self, qkv: nn.Linear, *, layout: str = "interleaved", full_width: bool = False) -> RotaryTable:
        """As ``fold_into_`` for one projection whose ``3 H D`` outputs are queries, keys and values in this order (timm)."""
        table, basis = self._make_table(layout, full_width)
        check_projection("qkv", qkv, basis, parts=3)
        fold_rows(qkv, basis)
        fold_rows(qkv, basis, start=self.num_heads * self.head_dim)
        return table

    @torch.no_grad()
    def _make_table(self, layout: str, full_width: bool) -> tuple[RotaryTable, Tensor]:
        if self.head_dim % 2:
            raise ValueError(
                f"head_dim must be even to fold into RoPE pairs, got {self.head_dim} = {self.num_blocks} blocks of size {self.block_size}"
            )
        freqs, basis = self._spectrum64()
        table = RotaryTable(plane_frequencies(freqs, self.block_size).to(self._dtype()), layout=layout, full_width=full_width)
        return table, plane_basis(basis, layout)

    @torch.no_grad()
    def to_full(self) -> "ComRoPE":
        """The same rotation as a layer of variant ``"full"``, for training on with free frequencies."""
        full = ComRoPE.from_config(
            ComRoPEConfig(self.head_dim, self.num_heads, self.num_axes, self.block_size, "full", "zero", self.init_std),
            dtype=self.P.dtype,
            device=self.P.device,
        )
        freqs, basis = self._spectrum64()
        if self.variant == "full":
            full.P.copy_(self.P)
        else:
            # exp reaches determinant +1 only: swap the sense of the first plane where it is -1.
            sign = torch.linalg.det(basis).sign()
            flip = torch.ones(self.block_size, dtype=basis.dtype, device=basis.device)
            flip[1] = -1.0
            basis = torch.where(sign[..., None, None] < 0, basis * flip, basis)
            first = torch.where(sign < 0, -1.0, 1.0).to(freqs)
            freqs = torch.cat((freqs[..., :1] * first[:, None, :, None], freqs[..., 1:]), dim=-1)
            full.P.copy_(log(basis) / 2)
        full.W.copy_(freqs.transpose(0, 1))
        return full.train(self.training)

    @classmethod
    def from_official_state_dict(cls, sd: Mapping[str, Tensor], *, prefix: str = "", num_axes: int | None = None) -> "ComRoPE":
        """A layer with the weights of the authors' code.

        Args:
            sd: State dict with ``freqs (H, 1, m, b, b)`` and, for the linearly dependent variant, ``multiplier (1, N, m, 1, 1)``.
            prefix: Text before these two names, for example ``"layers.0.attn.rope."``.
            num_axes: Number of axes ``N``; needed without ``multiplier`` (axial partition), where no shape tells it.

        Returns:
            Variant ``"ld"`` if ``multiplier`` is there, ``"ap"`` otherwise.

        Raises:
            ValueError: If a key is missing or has another shape.
        """
        name, other = f"{prefix}freqs", f"{prefix}multiplier"
        if name not in sd:
            raise ValueError(f"state dict lacks {name!r}; keys that end in 'freqs': {[key for key in sd if key.endswith('freqs')]}")
        P = sd[name]
        if P.ndim != 5 or P.shape[1] != 1 or P.shape[-1] != P.shape[-2]:
            raise ValueError(f"{name} must have shape (H, 1, m, b, b), got {tuple(P.shape)}")
        heads, _, m, b, _ = P.shape
        multiplier = sd.get(other)
        if multiplier is None:
            if num_axes is None:
                raise ValueError(f"state dict lacks {other!r}, so this is the axial partition: pass num_axes")
        else:
            if multiplier.ndim != 5 or multiplier.shape[0] != 1 or tuple(multiplier.shape[2:]) != (m, 1, 1):
                raise ValueError(f"{other} must have shape (1, N, {m}, 1, 1), got {tuple(multiplier.shape)}")
            if num_axes not in (None, multiplier.shape[1]):
                raise ValueError(f"num_axes is {num_axes} but {other} has shape {tuple(multiplier.shape)}")
            num_axes = multiplier.shape[1]
        variant = "ap" if multiplier is None else "ld"
        rope = cls(m * b, heads, num_axes, block_size=b, variant=variant, dtype=P.dtype, device=P.device)
        with torch.no_grad():
            rope.P.copy_(P[:, 0])
            if multiplier is not None:
                rope.theta.copy_(multiplier[0, :, :, 0, 0])
        return rope
