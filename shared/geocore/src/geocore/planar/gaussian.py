"""Oriented boxes as Gaussians, and the distances that detection losses take between those. Closed forms for 2 x 2, no eigenvalues."""

import torch
from jaxtyping import Float
from torch import Tensor

from geocore._checks import check_trailing
from geocore._clamp import clamp
from geocore.planar.boxes import wide

__all__ = [
    "SCALES",
    "bhattacharyya",
    "bures_wasserstein",
    "gaussian_to_obb",
    "hellinger",
    "kfiou",
    "kl",
    "obb_to_gaussian",
]

SCALES = {"std_half": 4.0, "uniform": 12.0}
"""Divisors ``k`` of the squared sides: half a side is one deviation (mmrotate), or the covariance of the uniform density (probiou)."""


def _divisor(scale: str | float) -> float:
    if isinstance(scale, str):
        if scale not in SCALES:
            raise ValueError(f"scale must be a number or one of {', '.join(map(repr, SCALES))}, got {scale!r}")
        return SCALES[scale]
    if not scale > 0:
        raise ValueError(f"scale must be positive, got {scale}")
    return float(scale)


def obb_to_gaussian(
    obb: Float[Tensor, "*batch 5"], scale: str | float = "std_half"
) -> tuple[Float[Tensor, "*batch 2"], Float[Tensor, "*batch 2 2"]]:
    """Mean and covariance ``R diag(w^2, h^2) R^T / k`` of a box.

    Args:
        obb: Boxes, shape ``(..., 5)``.
        scale: ``"std_half"`` (k = 4), ``"uniform"`` (k = 12), or k.

    Raises:
        ValueError: If the shape or the scale is wrong.
    """
    check_trailing("obb", obb, (5,))
    k = _divisor(scale)
    box = wide(obb)
    c, s = box[..., 4].cos(), box[..., 4].sin()
    p, q = box[..., 2].square() / k, box[..., 3].square() / k
    cross = c * s * (p - q)
    sigma = torch.stack([torch.stack([c * c * p + s * s * q, cross], -1), torch.stack([cross, s * s * p + c * c * q], -1)], -2)
    return box[..., :2].to(obb.dtype), sigma.to(obb.dtype)


def gaussian_to_obb(
    mu: Float[Tensor, "*#batch 2"], sigma: Float[Tensor, "*#batch 2 2"], scale: str | float = "std_half"
) -> Float[Tensor, "*batch 5"]:
    """The box of a Gaussian, long side first, ``t`` in ``[-pi/2, pi/2]``; angle 0 with zero gradient where it is isotropic.

    Args:
        mu: Means, shape ``(..., 2)``.
        sigma: Covariances, shape ``(..., 2, 2)``.
        scale: As ``obb_to_gaussian``.

    Raises:
        ValueError: If a shape or the scale is wrong.
    """
    check_trailing("mu", mu, (2,))
    check_trailing("sigma", sigma, (2, 2))
    k = _divisor(scale)
    S = wide(sigma)
    a, b, d = S[..., 0, 0], S[..., 0, 1], S[..., 1, 1]
    half, mean = 0.5 * (a - d), 0.5 * (a + d)
    square = half.square() + b.square()
    round_ = square <= (4 * torch.finfo(S.dtype).eps * mean).square()
    radius = torch.where(round_, 0.0, torch.where(round_, 1.0, square).sqrt())
    t = 0.5 * torch.atan2(torch.where(round_, 0.0, b), torch.where(round_, 1.0, half))
    sides = [_root(k * (mean + sign * radius)) for sign in (1, -1)]
    return torch.cat([wide(mu), torch.stack([*sides, t], -1)], -1).to(mu.dtype)


def _root(x: Tensor) -> Tensor:
    """Square root, zero with zero gradient where there is nothing."""
    return torch.where(x > 0, torch.where(x > 0, x, 1.0).sqrt(), 0.0)


def _parts(mu1: Tensor, sigma1: Tensor, mu2: Tensor, sigma2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    for name, value, shape in (("mu1", mu1, (2,)), ("sigma1", sigma1, (2, 2)), ("mu2", mu2, (2,)), ("sigma2", sigma2, (2, 2))):
        check_trailing(name, value, shape)
    return wide(mu1) - wide(mu2), wide(sigma1), wide(sigma2)


def _det(S: Tensor) -> Tensor:
    return S[..., 0, 0] * S[..., 1, 1] - S[..., 0, 1] * S[..., 1, 0]


def _quadratic(S: Tensor, d: Tensor, det: Tensor) -> Tensor:
    """``d^T S^-1 d``."""
    x, y = d.unbind(-1)
    return (S[..., 1, 1] * x * x - (S[..., 0, 1] + S[..., 1, 0]) * x * y + S[..., 0, 0] * y * y) / det


def kl(
    mu1: Float[Tensor, "*#batch 2"],
    sigma1: Float[Tensor, "*#batch 2 2"],
    mu2: Float[Tensor, "*#batch 2"],
    sigma2: Float[Tensor, "*#batch 2 2"],
) -> Float[Tensor, "*batch"]:
    """Kullback-Leibler divergence ``KL(N1 || N2)``; infinite where the second is degenerate.

    Args:
        mu1, sigma1: First Gaussian.
        mu2, sigma2: Second Gaussian.

    Raises:
        ValueError: If a shape is wrong.
    """
    d, S1, S2 = _parts(mu1, sigma1, mu2, sigma2)
    det1, det2 = _det(S1), _det(S2)
    trace = (
        S2[..., 1, 1] * S1[..., 0, 0] + S2[..., 0, 0] * S1[..., 1, 1] - S2[..., 0, 1] * S1[..., 1, 0] - S2[..., 1, 0] * S1[..., 0, 1]
    ) / det2
    return (0.5 * (trace + _quadratic(S2, d, det2) - 2 + (det2 / det1).log())).to(mu1.dtype)


def bures_wasserstein(
    mu1: Float[Tensor, "*#batch 2"],
    sigma1: Float[Tensor, "*#batch 2 2"],
    mu2: Float[Tensor, "*#batch 2"],
    sigma2: Float[Tensor, "*#batch 2 2"],
    *,
    squared: bool = True,
) -> Float[Tensor, "*batch"]:
    """2-Wasserstein distance of Gaussians, squared by default: ``|m1 - m2|^2 + tr S1 + tr S2 - 2 sqrt(tr S1 S2 + 2 sqrt(det S1 S2))``.

    Args:
        mu1, sigma1: First Gaussian.
        mu2, sigma2: Second Gaussian.
        squared: Return the square, which is smooth at zero.

    Raises:
        ValueError: If a shape is wrong.
    """
    d, S1, S2 = _parts(mu1, sigma1, mu2, sigma2)
    cross = (S1 * S2.mT).sum((-1, -2)) + 2 * _root(_det(S1) * _det(S2))
    traces = S1.diagonal(dim1=-2, dim2=-1).sum(-1) + S2.diagonal(dim1=-2, dim2=-1).sum(-1)
    distance = d.square().sum(-1) + clamp(traces - 2 * _root(cross), min=0.0)
    return (distance if squared else _root(distance)).to(mu1.dtype)


def bhattacharyya(
    mu1: Float[Tensor, "*#batch 2"],
    sigma1: Float[Tensor, "*#batch 2 2"],
    mu2: Float[Tensor, "*#batch 2"],
    sigma2: Float[Tensor, "*#batch 2 2"],
) -> Float[Tensor, "*batch"]:
    """Bhattacharyya distance ``d^T (S1 + S2)^-1 d / 4 + log(det((S1 + S2) / 2) / sqrt(det S1 det S2)) / 2``.

    Args:
        mu1, sigma1: First Gaussian.
        mu2, sigma2: Second Gaussian.

    Raises:
        ValueError: If a shape is wrong.
    """
    d, S1, S2 = _parts(mu1, sigma1, mu2, sigma2)
    S = S1 + S2
    det = _det(S)
    spread = det.log() - 0.5 * (_det(S1).log() + _det(S2).log()) - torch.log(torch.tensor(4.0, dtype=det.dtype, device=det.device))
    return clamp(0.25 * _quadratic(S, d, det) + 0.5 * spread, min=0.0).to(mu1.dtype)


def hellinger(
    mu1: Float[Tensor, "*#batch 2"],
    sigma1: Float[Tensor, "*#batch 2 2"],
    mu2: Float[Tensor, "*#batch 2"],
    sigma2: Float[Tensor, "*#batch 2 2"],
) -> Float[Tensor, "*batch"]:
    """Hellinger distance ``sqrt(1 - exp(-Bhattacharyya))`` in [0, 1]; one minus it is probiou (Murrugarra-Llerena et al., 2021).

    Args:
        mu1, sigma1: First Gaussian.
        mu2, sigma2: Second Gaussian.

    Raises:
        ValueError: If a shape is wrong.
    """
    return _root(-torch.expm1(-wide(bhattacharyya(mu1, sigma1, mu2, sigma2)))).to(mu1.dtype)


def kfiou(sigma1: Float[Tensor, "*#batch 2 2"], sigma2: Float[Tensor, "*#batch 2 2"]) -> Float[Tensor, "*batch"]:
    """Overlap of concentric Gaussians by their Kalman fusion: 1/3 for equal ones, at most that otherwise.

    Source: Yang et al., The KFIoU Loss for Rotated Object Detection, ICLR 2023.

    Args:
        sigma1, sigma2: Covariances, shape ``(..., 2, 2)``. The scale cancels.

    Raises:
        ValueError: If a shape is wrong.
    """
    check_trailing("sigma1", sigma1, (2, 2))
    check_trailing("sigma2", sigma2, (2, 2))
    S1, S2 = wide(sigma1), wide(sigma2)
    a1, a2 = _root(_det(S1)), _root(_det(S2))
    total = _root(_det(S1 + S2))
    fused = a1 * a2 / torch.where(total > 0, total, 1.0)
    union = a1 + a2 - fused
    return (fused / torch.where(union > 0, union, 1.0)).to(sigma1.dtype)
