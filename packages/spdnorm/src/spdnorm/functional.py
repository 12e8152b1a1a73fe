"""The steps of Bures-Wasserstein batch normalisation as pure functions of tensors ``(..., n, n)``.

Notation of Wang et al. (CVPR 2025): ``phi(X) = M^(-1/2) X^theta M^(-1/2)`` pulls the generalised, power-deformed metric back to
Bures-Wasserstein; ``m`` is a barycentre of pulled-back matrices, ``w = phi(W)`` the pulled-back bias. Nothing here checks definiteness.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from geocore import spd
from geocore._checks import check_option, check_positive_int
from geocore._precision import full_precision
from spdnorm._checks import check_matrices
from spdnorm._root import root_of_congruence
from spdnorm._transport import half_transport

__all__ = [
    "Normalised",
    "bures_barycentre",
    "bures_geodesic",
    "centre",
    "gbw_batch_norm",
    "gbw_distance2",
    "pull_back",
    "push_forward",
    "rebias",
]

Domain = Literal["ignore", "clip", "raise"]


def congruence(A: Tensor, X: Tensor) -> Tensor:
    """``A X A^T``."""
    return A @ X @ A.mT


@full_precision
def pull_back(X: Float[Tensor, "*batch n n"], M: Float[Tensor, "*#batch n n"] | None = None, *, theta: float = 1.0) -> Tensor:
    r"""``phi(X) = M^(-1/2) X^theta M^(-1/2)``, under which the generalised metric becomes Bures-Wasserstein (step 1).

    Args:
        X: SPD matrices, shape ``(..., n, n)``.
        M: Metric parameter, SPD, broadcasts; the identity if not given.
        theta: Power, not zero.

    Returns:
        SPD matrices, shape ``(..., n, n)``.

    Raises:
        ValueError: If a shape is wrong or ``theta`` is zero.
        TypeError: If an argument is not a real floating tensor.

    Example:
        >>> pull_back(4 * torch.eye(2), theta=0.5)  # 2 I
    """
    check_matrices("X", X)
    check_theta(theta)
    P = X if theta == 1 else spd.powm(X, theta, check=False)
    return P if M is None else congruence(spd.invsqrtm(M, check=False), P)


@full_precision
def push_forward(Z: Float[Tensor, "*batch n n"], M: Float[Tensor, "*#batch n n"] | None = None, *, theta: float = 1.0) -> Tensor:
    r"""``(M^(1/2) Z M^(1/2))^(1/theta)``, the inverse of ``pull_back`` (step 6).

    Eigenvalues below rounding, ``n eps`` times the largest, count as that: a product that is singular up to rounding must not become NaN.

    Args:
        Z: Positive semi-definite matrices, shape ``(..., n, n)``.
        M: Metric parameter, SPD, broadcasts; the identity if not given.
        theta: Power, not zero.

    Returns:
        Matrices, shape ``(..., n, n)``.

    Raises:
        ValueError, TypeError: As ``pull_back``.
    """
    check_matrices("Z", Z)
    check_theta(theta)
    return root_power(Z if M is None else congruence(spd.sqrtm(M, check=False), Z), theta)


def check_theta(theta: float) -> None:
    """Raise if the power is zero or not finite."""
    if not (theta == theta and abs(theta) < float("inf")) or theta == 0:
        raise ValueError(f"theta must be finite and not 0, got {theta}; the limit at 0 is the Log-Euclidean layer: use metric='lem'")


def root_power(Z: Tensor, theta: float) -> Tensor:
    """``Z^(1/theta)`` of products that are positive semi-definite by construction: eigenvalues below rounding are raised to it.

    Without that a product that is singular up to rounding would give NaN for ``theta`` such as 1.5.
    """
    return Z if theta == 1 else spd.powm(Z, 1.0 / theta, min_eig="eps", check=False)


@full_precision
def gbw_distance2(
    X: Float[Tensor, "*#batch n n"], Y: Float[Tensor, "*#batch n n"], M: Float[Tensor, "*#batch n n"] | None = None, *, theta: float = 1.0
) -> Float[Tensor, "*batch"]:
    r"""Squared distance ``theta^-2 (tr A + tr B - 2 tr (A^(1/2) B A^(1/2))^(1/2))`` with ``A = phi(X)``, ``B = phi(Y)``.

    ``theta = 1``, ``M = I`` is Bures-Wasserstein; as ``theta`` goes to 0 it becomes ``|log X - log Y|^2 / 4``. Computed as the squared
    length of the tangent vector, which does not cancel when the two are close.

    Args:
        X: SPD matrices, shape ``(..., n, n)``.
        Y: SPD matrices; batch dimensions broadcast.
        M: Metric parameter, SPD, broadcasts.
        theta: Power, not zero.

    Returns:
        Squared distances, shape ``(...)``.

    Raises:
        ValueError, TypeError: As ``pull_back``.
    """
    check_matrices("Y", Y, X.shape[-1])
    V = centre(pull_back(Y, M, theta=theta), pull_back(X, M, theta=theta))
    return V.square().sum((-2, -1)) / (2 * theta) ** 2


def barycentre_step(Y: Tensor, m: Tensor, average: Callable[[Tensor], Tensor]) -> Tensor:
    """``m^(-1/2) (mean (m^(1/2) Y m^(1/2))^(1/2))^2 m^(-1/2)``, with the mean as given (over a batch, or over several processes)."""
    root, inverse = spd.sqrtm_invsqrtm(m, check=False)
    half = inverse @ average(root_of_congruence(root, Y))
    return half @ half.mT


@full_precision
def bures_barycentre(Y: Float[Tensor, "*batch k n n"], *, steps: int = 1) -> Float[Tensor, "*batch n n"]:
    """Bures-Wasserstein barycentre of ``k`` matrices by ``steps`` fixed-point steps from the arithmetic mean (step 2).

    One step, as in the paper, is exact for matrices that commute. Gradients run through the steps.

    Args:
        Y: SPD matrices, shape ``(..., k, n, n)``.
        steps: Number of steps.

    Returns:
        SPD matrices, shape ``(..., n, n)``.

    Raises:
        ValueError: If a shape is wrong, ``k`` is 0 or ``steps`` is negative.
        TypeError: If ``Y`` is not a real floating tensor.
    """
    check_matrices("Y", Y)
    check_positive_int("steps", steps, minimum=0)
    if Y.ndim < 3 or Y.shape[-3] == 0:
        raise ValueError(f"Y must have shape (..., k, n, n) with k >= 1, got {tuple(Y.shape)}")
    m = Y.mean(-3)
    for _ in range(steps):
        root, inverse = spd.sqrtm_invsqrtm(m, check=False)
        half = inverse @ root_of_congruence(root.unsqueeze(-3), Y).mean(-3)
        m = half @ half.mT
    return m


@full_precision
def bures_geodesic(A: Float[Tensor, "*#batch n n"], B: Float[Tensor, "*#batch n n"], t: float | Tensor) -> Float[Tensor, "*batch n n"]:
    """Point at ``t`` on the Bures-Wasserstein geodesic from ``A`` to ``B``, ``((1-t) I + t T) A ((1-t) I + t T)``.

    ``T`` is the optimal transport map from ``A`` to ``B``; the product form stays positive in floating point.

    Args:
        A: SPD matrices, shape ``(..., n, n)``.
        B: SPD matrices; batch dimensions broadcast.
        t: From 0 to 1.

    Returns:
        SPD matrices, shape ``(..., n, n)``.

    Raises:
        ValueError, TypeError: If an argument is not a batch of real square matrices.
    """
    check_matrices("A", A)
    check_matrices("B", B, A.shape[-1])
    root, inverse = spd.sqrtm_invsqrtm(A, check=False)
    T = congruence(inverse, root_of_congruence(root, B))
    half = ((1 - t) * torch.eye(A.shape[-1], dtype=A.dtype, device=A.device) + t * T) @ root
    return half @ half.mT


@full_precision
def centre(Y: Float[Tensor, "*batch n n"], m: Float[Tensor, "*#batch n n"]) -> Float[Tensor, "*batch n n"]:
    r"""Tangent vectors at ``I``: ``log_m Y`` carried there along the geodesic (step 3).

    ``log_m Y = (m Y)^(1/2) + (Y m)^(1/2) - 2 m``, and in the eigenbasis of ``m`` the transport multiplies entry ``ij`` by
    ``sqrt(2 / (s_i + s_j))``. There both together are ``sqrt(2 (s_i + s_j) / (s_i s_j)) C_ij - 2 sqrt(s_i) delta_ij`` with
    ``C = (D^(1/2) Y D^(1/2))^(1/2)``: one factorisation a matrix. The transport is an isometry, so ``|V|_F^2 / 4`` is the squared distance.

    Args:
        Y: Pulled-back matrices, shape ``(..., n, n)``.
        m: Point to centre at, SPD, broadcasts.

    Returns:
        Symmetric matrices, shape ``(..., n, n)``. Where ``m`` needs a gradient it gets one, also at repeated eigenvalues.

    Raises:
        ValueError, TypeError: If an argument is not a batch of real square matrices.
    """
    check_matrices("Y", Y)
    check_matrices("m", m, Y.shape[-1])
    if m.requires_grad or torch._C._are_functorch_transforms_active():
        root, inverse = spd.sqrtm_invsqrtm(m, check=False)
        half = root @ root_of_congruence(root, Y) @ inverse
        return spd.bw_transport(m, half + half.mT - 2 * m, -1, check=False)
    values, U = spd.eigh(m, check=False)
    C = root_of_congruence(values.sqrt().unsqueeze(-1) * U.mT, Y)
    inverse = values.reciprocal()
    weight = (2 * (inverse.unsqueeze(-1) + inverse.unsqueeze(-2))).sqrt()
    return congruence(U, weight * C - torch.diag_embed(2 * values.sqrt()))


@full_precision
def rebias(
    V: Float[Tensor, "*batch n n"], w: Float[Tensor, "*#batch n n"], *, domain: Domain = "ignore", clip: float = 1e-3
) -> Float[Tensor, "*batch n n"]:
    r"""``exp_w`` of tangent vectors at ``I`` carried to ``w`` (step 5): ``(I + L) w (I + L)``.

    In the eigenbasis of ``w``, ``L_ij = V_ij / sqrt(2 (d_i + d_j))``. The geodesic leaves the cone where ``I + L`` is not positive
    definite; the formula then folds it back.

    Args:
        V: Symmetric matrices, shape ``(..., n, n)``.
        w: Point to carry them to, SPD, broadcasts.
        domain: Outside the domain: ``"ignore"`` (fold), ``"clip"`` (raise the eigenvalues of ``I + L`` to ``clip``, one more
            factorisation a matrix), ``"raise"`` (ValueError; reads the answer from the device).
        clip: Smallest eigenvalue for ``"clip"``.

    Returns:
        Positive semi-definite matrices, shape ``(..., n, n)``.

    Raises:
        ValueError: If a shape or an option is wrong, or ``domain="raise"`` and a vector lies outside.
        TypeError: If an argument is not a real floating tensor.
    """
    check_matrices("V", V)
    check_matrices("w", w, V.shape[-1])
    check_option("domain", domain, ("ignore", "clip", "raise"))
    return grow(V, w, domain, clip)[0]


def grow(V: Tensor, w: Tensor, domain: Domain, clip: float) -> tuple[Tensor, Tensor]:
    """``rebias``, and the map ``I + L`` itself."""
    map_ = torch.eye(V.shape[-1], dtype=V.dtype, device=V.device) + half_transport(w, V)
    if domain == "clip":
        map_ = spd.clamp_eig(map_, map_.new_tensor(clip), check=False)
    elif domain == "raise":
        outside = torch.linalg.cholesky_ex(map_.detach())[1] > 0
        if bool(outside.any()):
            raise ValueError(
                f"every matrix must stay in the domain of the exponential map, but {int(outside.sum())} of {outside.numel()} leave it. "
                "Use domain='clip', or a smaller scale s or larger bias W."
            )
    return map_ @ w @ map_, map_


class Normalised(NamedTuple):
    """Result of a functional batch normalisation."""

    output: Tensor
    mean: Tensor
    """Barycentre used, in the pulled-back space, ``(n, n)``."""
    variance: Tensor
    """Dispersion used, a scalar."""


@full_precision
def gbw_batch_norm(
    X: Float[Tensor, "*batch n n"],
    M: Float[Tensor, "n n"] | None = None,
    W: Float[Tensor, "n n"] | None = None,
    s: float | Float[Tensor, ""] = 1.0,
    *,
    theta: float = 1.0,
    mean: Float[Tensor, "n n"] | None = None,
    variance: float | Float[Tensor, ""] | None = None,
    eps: float = 1e-5,
    steps: int = 1,
    stats_grad: bool = False,
    domain: Domain = "ignore",
    clip: float = 1e-3,
) -> Normalised:
    r"""Steps 1 to 6 of Wang et al. without state: with the statistics of the batch, or with given ones.

    Args:
        X: SPD matrices, shape ``(..., n, n)``.
        M: Metric parameter; ``I`` if not given.
        W: Bias, SPD; ``I`` if not given.
        s: Scale.
        theta: Power, not zero.
        mean: Pulled-back point to centre at; the batch's barycentre if not given.
        variance: Dispersion to divide by; that of the batch about ``mean`` if not given.
        eps: Added to the dispersion.
        steps: Fixed-point steps of the barycentre.
        stats_grad: Whether gradients run through the batch's statistics.
        domain, clip: As ``rebias``.

    Returns:
        Output ``(..., n, n)``, mean and variance used.

    Raises:
        ValueError: If a shape or an option is wrong, or statistics are wanted of an empty batch.
        TypeError: If an argument is not a real floating tensor.

    Example:
        >>> X = torch.diag_embed(1 + torch.rand(8, 3, dtype=torch.float64))
        >>> out, mean, variance = gbw_batch_norm(X, theta=0.5)
    """
    check_matrices("X", X)
    Y = pull_back(X, M, theta=theta)
    eye = torch.eye(X.shape[-1], dtype=Y.dtype, device=Y.device)
    w = eye if W is None and M is None else pull_back(eye if W is None else W, M, theta=theta)
    if mean is None:
        source = Y if stats_grad else Y.detach()
        m = bures_barycentre(source.reshape(-1, *X.shape[-2:]), steps=steps)
    else:
        check_matrices("mean", mean, X.shape[-1])
        m = mean
    V = centre(Y, m)
    if variance is None:
        v = V.square().sum((-2, -1)).mean() / (2 * theta) ** 2
        v = v if stats_grad else v.detach()
    else:
        v = torch.as_tensor(variance, dtype=Y.dtype, device=Y.device)
    Z = rebias(s * (v + eps).rsqrt() * V, w, domain=domain, clip=clip)
    return Normalised(push_forward(Z, M, theta=theta), m, v)
