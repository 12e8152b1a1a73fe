"""Logarithm of rotations of n-space from batched symmetric eigenvalue problems, exact through half turns."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from geocore._checks import check_square
from geocore._dispatch import matrix_exp, needs_composable
from geocore._precision import full_precision
from geocore.son._readable import values_readable
from geocore.son._spectral import join_pairs, skew_part, split_pairs

__all__ = ["log", "rotation_planes"]


def _onto_group(R: Tensor) -> Tensor:
    """Two Newton steps towards the orthogonal factor: float32 rounding (1e-7) becomes float64 rounding, tangents are projected."""
    for _ in range(2):
        R = 1.5 * R - 0.5 * R @ (R.mT @ R)
    return R


def rotation_planes(R: Float[Tensor, "*batch n n"]) -> tuple[Float[Tensor, "*batch p"], Float[Tensor, "*batch n q"]]:
    """Angles in ``[0, pi]`` and planes of float64 rotations, in the layout of ``half_form``; no gradient. NaN if ``det R < 0``.

    The symmetric part of ``R`` has the doubled eigenvalues ``cos a``, the skew part turns the same planes at rate ``sin a``; neither
    alone separates all angles. The eigenvalues of the symmetric part are cut at their widest gap in ``[-0.8, 0.8]``, at least
    ``1.6 / (n / 2 + 1)`` wide. Above the cut ``K / (2 cos(a/2))`` turns at rate ``sin(a/2)``, below it ``K / (2 sin(a/2))`` at rate
    ``cos(a/2)``: each resolves its side well, including its own end (0 or pi), where the rate is zero and pairs are completed
    inside the side. Shifted apart, both are one Hermitian eigenvalue problem.
    """
    R = R.detach()
    n = R.shape[-1]
    m = n // 2
    index = torch.arange(n, device=R.device)
    cosines, V = torch.linalg.eigh((R + R.mT) / 2)
    means = (cosines[..., 0 : 2 * m : 2] + cosines[..., 1 : 2 * m : 2]) / 2
    gaps = torch.nn.functional.pad(torch.nn.functional.pad(means.clamp(-0.8, 0.8), (1, 0), value=-0.8), (0, 1), value=0.8).diff(dim=-1)
    low_pairs = gaps.argmax(-1, keepdim=True)
    low = index < 2 * low_pairs

    half = torch.sqrt(torch.where(low, 1 - cosines, 1 + cosines).clamp(min=0.1) / 2)
    scale = torch.rsqrt(2 * half)
    Z = skew_part(V.mT @ R @ V) * scale[..., :, None] * scale[..., None, :]
    Z = torch.where(low[..., :, None] == low[..., None, :], Z, 0.0)
    shift = torch.diag_embed(torch.where(low, 4.0, 0.0).to(R.dtype))
    U = torch.linalg.eigh(torch.complex(shift, Z))[1]
    # Ascending eigenvalues: the upper side around 0 first, the lower one around 4 after it. Take the positive half of each,
    # the lower side first, so that its columns stay in its rows when QR completes dependent pairs.
    k = index[:m]
    own = k < low_pairs
    pick = n - 1 - k - torch.where(own, 0, low_pairs)
    U = torch.gather(torch.view_as_real(U), -2, pick[..., None, :, None].expand(*R.shape[:-2], n, m, 2))
    U = torch.where((low[..., :, None] == own[..., None, :])[..., None], U, 0.0).flatten(-2)
    Q = V @ torch.linalg.qr(torch.nn.functional.pad(U, (0, n - 2 * m)))[0]

    first, second = Q[..., 0 : 2 * m : 2], Q[..., 1 : 2 * m : 2]
    turned, other = R @ first, R @ second
    sine = ((second * turned).sum(-2) - (first * other).sum(-2)) / 2
    cosine = ((first * turned).sum(-2) + (second * other).sum(-2)) / 2
    second = second * torch.where(sine < 0, -1.0, 1.0).to(R.dtype)[..., None, :]
    angle = torch.atan2(sine.abs(), cosine)
    angle = torch.where(torch.linalg.det(R)[..., None] < 0, math.nan, angle)
    if n % 2:
        angle = torch.cat([angle, torch.zeros_like(cosines[..., :1])], dim=-1)
        first, second = torch.cat([first, Q[..., -1:]], dim=-1), torch.nn.functional.pad(second, (0, 1))
    return angle, torch.cat([first, second], dim=-1)


def _turn_rows(M: Tensor, angle: Tensor) -> Tensor:
    """``blockdiag(Rot2(angle)) M`` in half layout."""
    p = angle.shape[-1]
    c, s = torch.cos(angle)[..., None], torch.sin(angle)[..., None]
    a, b = M[..., :p, :], M[..., p:, :]
    return torch.cat([c * a - s * b, s * a + c * b], dim=-2)


def _corrected(R: Tensor, angle: Tensor, Q: Tensor, D: Tensor) -> Tensor:
    """``D`` (the constant logarithm in the basis ``Q``) plus terms that are zero in value and carry two orders of derivative.

    ``e^{-D/2} e^{D+X} e^{-D/2} = I + sinc(d/2) X + O(X^2)`` entrywise, with ``d`` the difference or sum of two angles. One Newton step
    with this constant Jacobian is exact to first order in ``R``, the second one to second order.
    """
    d = torch.stack([angle[..., :, None] - angle[..., None, :], angle[..., :, None] + angle[..., None, :]], dim=-3)[..., None, :, :]
    gain = torch.sinc(d / (2 * math.pi))
    inverse = gain / (gain.square() + (4 * torch.finfo(R.dtype).eps) ** 2)

    def halved(M: Tensor) -> Tensor:  # e^{-D/2} M e^{-D/2}
        return _turn_rows(_turn_rows(M, -angle / 2).mT, angle / 2).mT

    def step(E: Tensor) -> Tensor:
        return join_pairs(split_pairs(skew_part(E)) * inverse)

    moved = halved(Q.mT @ (R - R.detach()) @ Q)
    X = step(moved)
    there = halved(matrix_exp(D + X))
    return D + X + step(moved - (there - there.detach()))


@full_precision
def log(R: Float[Tensor, "*batch n n"], *, check: bool | None = None) -> Float[Tensor, "*batch n n"]:
    r"""Principal logarithm of a rotation: the skew ``S`` with ``exp(S) = R`` and plane angles in ``[0, pi]``.

    Batched without a loop; closed for ``n = 2``, ``hat(so3.log(R))`` for ``n = 3``. Beyond that it is computed in float64 and ``R`` is
    first projected onto the orthogonal group, so rounding in ``R`` never reaches the planes. Planes turned by exactly pi are paired
    arbitrarily (any pairing is a logarithm).

    The derivative is a divided difference of angles, right for equal angles and at the identity; in directions that move
    two angles through pi together it grows like ``1 / (2 pi - a_j - a_k)`` and is set to zero where the logarithm jumps. First and
    second derivatives are exact.

    Args:
        R: Rotations, shape ``(..., n, n)``.
        check: Whether to raise if a determinant is negative, that is if -1 is an eigenvalue of odd multiplicity, where no
            real logarithm exists. By default only where values can be read at no cost: on the CPU, outside of
            ``torch.compile`` and function transforms. Unchecked items become NaN.

    Returns:
        Skew matrices, shape ``(..., n, n)``.

    Raises:
        ValueError: If ``R`` is not square, or by the check.
        TypeError, NotImplementedError: If ``R`` has an integer or a complex dtype.

    Example:
        >>> log(torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0]))).square().sum().sqrt() / 2**0.5  # about pi
    """
    check_square("R", R)
    n = R.shape[-1]
    if values_readable(R) if check is None else check:
        bad = torch.linalg.det(R.detach()) < 0
        if bool(bad.any()):
            raise ValueError(
                f"R must be a rotation, but {int(bad.sum())} of {bad.numel()} matrices have a negative determinant: -1 is an "
                "eigenvalue of odd multiplicity and no real logarithm exists. Project with geocore.son.special_procrustes."
            )
    if n == 1:
        return torch.where(R < 0, math.nan, R - R)
    if n == 2:
        angle = torch.atan2(R[..., 1, 0] - R[..., 0, 1], R[..., 0, 0] + R[..., 1, 1])
        angle = torch.where(torch.linalg.det(R.detach()) < 0, math.nan, angle)
        zero = torch.zeros_like(angle)
        return torch.stack([torch.stack([zero, -angle], dim=-1), torch.stack([angle, zero], dim=-1)], dim=-2)
    if n == 3:
        from geocore import so3  # the rooms import one another only on use

        S = so3.hat(so3.log(R))
        return torch.where(torch.linalg.det(R.detach())[..., None, None] < 0, math.nan, S)
    G = _onto_group(R.double())
    angle, Q = rotation_planes(G)
    D = _generator(angle)
    if G.requires_grad or needs_composable():
        D = _corrected(G, angle, Q, D)
    return skew_part(Q @ D @ Q.mT).to(R.dtype)


def _generator(angle: Tensor) -> Tensor:
    """``blockdiag(angle J)`` in half layout."""
    A = torch.diag_embed(angle)
    zero = torch.zeros_like(A)
    return torch.cat([torch.cat([zero, -A], dim=-1), torch.cat([A, zero], dim=-1)], dim=-2)
