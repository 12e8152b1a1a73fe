"""The decomposition of CorDA: a weight seen through the second moment of its inputs."""

import logging
import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from geocore._checks import check_option, check_positive_int, check_trailing
from geocore.structured import svd_trunc
from peft_loldu_corda.errors import CalibrationError

__all__ = ["CordaDecomposition", "decompose"]

MODES = ("ipm", "kpm")
WHITENINGS = ("cov", "sqrt", "diag", "none")
SPLITS = ("UV", "U", "V")
_ALL_DIGITS = 4096  # sides up to which small singular values are resolved in float64
log = logging.getLogger("peft_loldu_corda")


class CordaDecomposition(NamedTuple):
    """``W`` is ``U diag(S) Vh`` when every term is kept.

    Args:
        U: Shape ``(m, r)``, orthonormal columns.
        S: Shape ``(r,)``, descending.
        Vh: Shape ``(r, n)``; row ``i`` is the right singular vector of ``W G`` times ``G^{-1}``.
        damping: Final damping, relative to the mean of the diagonal of ``C``.
        energy: ``S^2`` of all terms, shape ``(min(m, n),)``; only of those computed with a randomised SVD.
    """

    U: Float[Tensor, "m r"]
    S: Float[Tensor, "r"]
    Vh: Float[Tensor, "r n"]
    damping: float
    energy: Float[Tensor, "k"]

    def factors(
        self, scaling: float = 1.0, *, sigma_split: Literal["UV", "U", "V"] = "UV"
    ) -> tuple[Float[Tensor, "r n"], Float[Tensor, "m r"]]:
        """``A0 (r, n)`` and ``B0 (m, r)`` with ``scaling B0 A0 = U diag(S) Vh``; ``S / scaling`` goes to both in roots, or to one.

        Raises:
            ValueError: If ``scaling`` is not positive or ``sigma_split`` is unknown.
        """
        check_option("sigma_split", sigma_split, SPLITS)
        if not scaling > 0:
            raise ValueError(f"scaling must be positive, got {scaling}")
        weights = self.S / scaling
        left = weights.sqrt() if sigma_split == "UV" else weights if sigma_split == "U" else torch.ones_like(weights)
        right = weights.sqrt() if sigma_split == "UV" else weights if sigma_split == "V" else torch.ones_like(weights)
        return right[:, None] * self.Vh, self.U * left


def damp(C: Tensor, damping: float, max_damping: float, name: str) -> tuple[Tensor, Tensor, float]:
    """``C + damping mean(diag C) I``, its Cholesky factor and the damping, doubled until the inverse is one.

    The test is that of the official code, ``|C_d C_d^{-1} - I|_F < 0.05`` in float32, with the inverse from a Cholesky factor and the
    norm from 32 random vectors of signs, ``E |R z|^2 = |R|_F^2``, which need no matrix of that size.
    """
    mean = float(C.diagonal().mean())
    if not math.isfinite(mean) or not bool(torch.isfinite(C).all()):
        raise CalibrationError(f"the second moment of {name} must be finite, but it holds NaN or infinity")
    if mean == 0:
        log.warning("the inputs of %s are all zero: every direction counts the same", name)
        identity = torch.eye(len(C), dtype=C.dtype, device=C.device)
        return identity, identity, damping
    damped = (C / mean).float()  # a copy; from here on in place, n^2 numbers are much for wide layers
    damped.diagonal().add_(damping)
    while damping <= max_damping:
        factor, info = torch.linalg.cholesky_ex(damped)
        if int(info) == 0 and _inverse_error(damped, factor) < 0.05:
            return *_undo_scale(C, damped, factor, mean, damping), damping
        damped.diagonal().add_(damping)
        damping *= 2
    raise CalibrationError(f"the second moment of {name} cannot be inverted even with damping {max_damping:g}; is it one?")


def _inverse_error(damped: Tensor, factor: Tensor) -> float:
    """Estimate of ``|C_d C_d^{-1} - I|_F``, the same each time."""
    z = torch.randint(0, 2, (len(damped), 32), generator=torch.Generator().manual_seed(0)).to(damped) * 2 - 1
    return float((damped @ torch.cholesky_solve(z, factor) - z).square().sum(0).mean().sqrt())


def _undo_scale(C: Tensor, damped: Tensor, factor: Tensor, mean: float, damping: float) -> tuple[Tensor, Tensor]:
    """Damped ``C`` and its factor in the dtype of ``C``."""
    if C.dtype == damped.dtype:
        return damped.mul_(mean), factor.mul_(mean**0.5)
    exact = C.clone()
    exact.diagonal().add_(damping * mean)
    return exact, torch.linalg.cholesky(exact)


def decompose(
    W: Float[Tensor, "m n"],
    C: Float[Tensor, "n n"] | None,
    r: int | None = None,
    *,
    mode: Literal["ipm", "kpm"] = "ipm",
    whitening: Literal["cov", "sqrt", "diag", "none"] = "cov",
    damping: float = 0.01,
    max_damping: float = 1e3,
    mean_abs: Float[Tensor, "n"] | None = None,
    method: Literal["exact", "randomized"] = "exact",
    generator: torch.Generator | None = None,
    name: str = "C",
) -> CordaDecomposition:
    r"""``W G = U diag(S) V^T`` and ``Vh = V^T G^{-1}``, cut to ``r`` terms (CorDA, arXiv 2406.05223, equations 1 to 5).

    Mode ``"ipm"`` keeps the largest terms, those that matter most on the data; ``"kpm"`` the smallest, which the data needs least: of
    all matrices of rank ``min(m, n) - r``, what is left of ``W`` has the smallest ``|(W - W') C_d|_F``.

    Args:
        W: Weight, shape ``(m, n)``, out and in.
        C: Second moment of the inputs, shape ``(n, n)``; not needed without whitening.
        r: Number of terms; all by default.
        mode: Which.
        whitening: ``G``: damped ``C`` (``"cov"``, the paper), its square root (``"sqrt"``, for which the loss is ``E|W x - W' x|^2``),
            ``E|x|^{1/2}`` on the diagonal (``"diag"``, ASVD) or nothing (``"none"``: PiSSA with ``"ipm"``, MiLoRA with ``"kpm"``).
        damping: Start of the damping of ``C``, relative to the mean of its diagonal; doubled as long as ``C`` cannot be inverted.
        max_damping: Where to give up.
        mean_abs: ``E|x|`` for ``"diag"``, shape ``(n,)``; the root mean square otherwise.
        method: ``"exact"``, or ``"randomized"`` (16 extra columns, 4 power iterations) for ``"ipm"``.
        generator: Randomness of that.
        name: Name of the layer, for messages.

    Returns:
        ``CordaDecomposition`` in the dtype of ``W``, at least float32. ``"kpm"`` is computed in float64 for sides up to 4096, and beyond
        where float32 would not resolve the small terms.

    Raises:
        ValueError: If a shape does not fit, ``r`` is out of range or an option unknown.
        CalibrationError: If ``C`` is not finite or cannot be inverted.

    Example:
        >>> W, x = torch.randn(6, 4), torch.randn(100, 4)
        >>> d = decompose(W, x.T @ x / 100)
        >>> torch.allclose(d.U * d.S @ d.Vh, W, atol=1e-4)
        True
    """
    check_trailing("W", W, (None, None))
    if W.ndim != 2:
        raise ValueError(f"W must be a matrix of shape (m, n), got {tuple(W.shape)}")
    m, n = W.shape
    r = min(m, n) if r is None else r
    check_positive_int("r", r)
    check_option("mode", mode, MODES)
    check_option("whitening", whitening, WHITENINGS)
    check_option("method", method, ("exact", "randomized"))
    if r > min(m, n):
        raise ValueError(f"r must be at most min(m, n) = {min(m, n)} for {name}, got {r}")
    if method == "randomized" and mode == "kpm":
        raise ValueError("method='randomized' needs mode='ipm': it does not see small singular values")
    if whitening != "none":
        if C is None:
            raise ValueError(f"C must be given with whitening={whitening!r}")
        check_trailing("C", C, (n, n), hint=f"one row and column for each of the {n} inputs of W")
        C = C.detach().to(W.device)
    if not 0 <= damping <= max_damping:
        raise ValueError(f"damping must lie in [0, max_damping = {max_damping:g}], got {damping}")
    out = torch.promote_types(W.dtype, torch.float32)
    exact = out == torch.float64 or (mode == "kpm" and min(m, n) <= _ALL_DIGITS)
    found = _weighted(W.detach(), C, r, mode, whitening, damping, max_damping, mean_abs, method, generator, name, exact)
    if not exact and mode == "kpm" and float(found.S[-1]) < 1e-6 * float(found.energy.max().sqrt()):
        found = _weighted(W.detach(), C, r, mode, whitening, damping, max_damping, mean_abs, method, generator, name, True)
    return CordaDecomposition(found.U.to(out), found.S.to(out), found.Vh.to(out), found.damping, found.energy.to(out))


def _weighted(
    W: Tensor,
    C: Tensor | None,
    r: int,
    mode: str,
    whitening: str,
    damping: float,
    max_damping: float,
    mean_abs: Tensor | None,
    method: str,
    generator: torch.Generator | None,
    name: str,
    exact: bool,
) -> CordaDecomposition:
    work = torch.float64 if exact else torch.float32
    W = W.to(work)
    factor = scale = vectors = None
    if whitening == "none" or C is None:
        weighted, damping = W, 0.0
    elif whitening == "diag":
        size = C.diagonal().clamp(min=0).sqrt() if mean_abs is None else mean_abs.to(C.device)
        scale = size.to(work).sqrt()
        floor = damping * float(scale.mean())
        scale = scale + (floor if floor > 0 else 1.0 if float(scale.sum()) == 0 else 0.0)
        weighted = W * scale
    else:
        damped, factor, damping = damp(C.to(work), damping, max_damping, name)
        if whitening == "cov":
            weighted = W @ damped
        else:
            values, vectors = torch.linalg.eigh(damped)
            scale = values.clamp(min=0).sqrt()
            weighted = (W @ vectors) * scale  # in the eigenbasis of C the square root is a scaling
    if method == "randomized":
        U, S, Vh = svd_trunc(weighted, r, method="randomized", generator=generator)
        energy = S.square()
    else:
        # not svd_trunc: its sign convention is not that of peft, with whose factors ours are compared
        U, S, Vh = torch.linalg.svd(weighted, full_matrices=False)
        energy = S.square()
        chosen = slice(0, r) if mode == "ipm" else slice(len(S) - r, len(S))
        U, S, Vh = U[:, chosen], S[chosen], Vh[chosen]
    if scale is not None:
        Vh = Vh / scale
        Vh = Vh if vectors is None else Vh @ vectors.mT
    elif factor is not None:
        Vh = torch.cholesky_solve(Vh.mT, factor).mT
    return CordaDecomposition(U.contiguous(), S, Vh.contiguous(), damping, energy)
