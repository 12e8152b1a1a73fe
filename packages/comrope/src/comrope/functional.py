"""The equations of ComRoPE on tensors: frequencies, angles, plane rotations. No state."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from geocore._precision import full_precision
from geocore.blocks import rope_apply

__all__ = [
    "AXIAL_BASE",
    "AXIAL_MAX_FREQUENCY",
    "axial_frequencies",
    "axis_mask",
    "block_times",
    "combine",
    "cos_sin",
    "plane_generators",
    "plane_matrices",
    "position_angles",
    "rotate_in_basis",
]

AXIAL_BASE = 100.0
AXIAL_MAX_FREQUENCY = 4 * math.pi
"""Top axial frequency in radians per unit coordinate: two turns across the image, 0.9 rad per patch on a 14 x 14 grid."""


def axis_mask(num_axes: int, num_blocks: int, like: Tensor) -> Float[Tensor, "axes m"]:
    """Axial assignment of blocks, 1 where block ``j`` belongs to axis ``j mod N`` and 0 elsewhere."""
    axis = torch.arange(num_blocks, device=like.device) % num_axes
    return (axis == torch.arange(num_axes, device=like.device)[:, None]).to(like.dtype)


def axial_frequencies(
    num_axes: int, num_blocks: int, planes: int, *, base: float = AXIAL_BASE, max_frequency: float = AXIAL_MAX_FREQUENCY
) -> Float[Tensor, "m planes"]:
    """Geometric frequencies ``max_frequency * base^(-i / n)`` of axial RoPE, float64, in the order of the blocks.

    Block ``j`` belongs to axis ``j mod N``; every axis runs through the same ``n = ceil(m / N) * planes`` frequencies.
    """
    n = -(-num_blocks // num_axes) * planes
    index = (torch.arange(num_blocks, dtype=torch.float64) // num_axes)[:, None] * planes + torch.arange(planes, dtype=torch.float64)
    return max_frequency * base ** (-index / max(n, 1))


@full_precision
def block_times(positions: Float[Tensor, "*batch tokens axes"], theta: Float[Tensor, "axes *hm"]) -> Float[Tensor, "*out"]:
    """``t_j(x) = sum_i theta_ij x_i``, shape ``(..., 1, L, m)`` for ``theta (N, m)`` and ``(..., H, L, m)`` for ``(N, H, m)``."""
    if theta.ndim == 2:
        theta = theta.unsqueeze(1)
    return torch.einsum("...ln,nhm->...hlm", positions, theta)


@full_precision
def combine(positions: Float[Tensor, "*batch tokens axes"], generators: Float[Tensor, "axes *rest"]) -> Float[Tensor, "*out"]:
    """``sum_i x_i G_i``, shape ``(..., L, ...)`` for generators ``(N, ...)``."""
    return (positions @ generators.flatten(1)).unflatten(-1, generators.shape[1:])


@full_precision
def position_angles(positions: Float[Tensor, "*batch tokens axes"], freqs: Float[Tensor, "heads axes *planes"]) -> Float[Tensor, "*out"]:
    """Angles ``phi(x) = sum_i w_i x_i`` in float64, shape ``(..., H, L, ...)`` for ``freqs (H, N, ...)``.

    The product is formed in float64 because an angle of 1e4 rad has no correct digit of sine left after float32 rounding of
    several factors; ``cos_sin`` reduces it before it returns to float32.
    """
    flat = freqs.double().flatten(2)
    phi = positions.double().unsqueeze(-3) @ flat
    return phi.unflatten(-1, freqs.shape[2:]) if freqs.ndim > 3 else phi


def cos_sin(angles: Float[Tensor, "*batch"], dtype: torch.dtype) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Cosine and sine in ``dtype`` of angles, which are reduced to ``[-pi, pi]`` before they lose precision."""
    if dtype != torch.float64 and angles.dtype == torch.float64:
        angles = (angles - 2 * math.pi * torch.round(angles.detach() / (2 * math.pi))).to(dtype)
    return torch.cos(angles).to(dtype), torch.sin(angles).to(dtype)


@full_precision
def rotate_in_basis(
    x: Float[Tensor, "*batch heads tokens dim"],
    basis: Float[Tensor, "heads dim width"],
    cos: Float[Tensor, "*cbatch planes"],
    sin: Float[Tensor, "*cbatch planes"],
) -> Float[Tensor, "*batch heads tokens dim"]:
    """``Q Rot(phi) Q^T x`` for a basis whose columns hold the first vectors of all planes, then the second ones.

    One product per head with the whole ``D x D`` basis is faster than one per block until ``D`` is several times 64.
    """
    return rope_apply(x @ basis, cos, sin, layout="half") @ basis.mT


def _plane_units(b: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """For each plane ``k`` of a block the matrices of ``J`` and of the identity on that plane, shapes ``(b//2, b, b)``."""
    k = torch.arange(b // 2, device=like.device)
    J = like.new_zeros(b // 2, b, b)
    J[k, 2 * k + 1, 2 * k] = 1.0
    J[k, 2 * k, 2 * k + 1] = -1.0
    return J, -(J @ J)


def plane_generators(w: Float[Tensor, "*batch planes"], b: int) -> Float[Tensor, "*batch b b"]:
    """``blockdiag(w_k J)`` with ``J = [[0, -1], [1, 0]]``, padded with a zero row and column for odd ``b``."""
    J, _ = _plane_units(b, w)
    return torch.einsum("...k,kij->...ij", w, J)


def plane_matrices(cos: Float[Tensor, "*batch planes"], sin: Float[Tensor, "*batch planes"], b: int) -> Float[Tensor, "*batch b b"]:
    """``blockdiag(Rot2(phi_k))`` from the cosines and sines, with a final 1 for odd ``b``."""
    J, unit = _plane_units(b, cos)
    R = torch.einsum("...k,kij->...ij", cos, unit) + torch.einsum("...k,kij->...ij", sin, J)
    return R + (torch.eye(b, dtype=cos.dtype, device=cos.device) - unit.sum(0))
