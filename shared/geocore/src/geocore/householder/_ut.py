"""The UT transform: a chunk of rank-one updates of a recurrent state, solved all at once."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from geocore._checks import check_broadcastable, check_trailing
from geocore._precision import full_precision
from geocore.householder._wy import unit_solve

__all__ = ["UTTransform", "decay_mask", "ut_transform"]


class UTTransform(NamedTuple):
    """Result of ``ut_transform``: ``W`` and the solve that turns values into ``U``."""

    W: Tensor
    solve: Callable[[Tensor], Tensor]


@full_precision
def decay_mask(log_decay: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch m m"]:
    """``D_ij = exp(g_{j+1} + ... + g_i)`` for ``i >= j`` and 0 above the diagonal: how much of update ``j`` is left at step ``i``.

    Exponents above the diagonal, which may overflow, are masked before the exponential, so gradients are finite.

    Args:
        log_decay: Log-decay ``g`` of each step, shape ``(..., M)``, at most 0 for a decay.

    Returns:
        Lower triangular, shape ``(..., M, M)``, ones on the diagonal.

    Raises:
        ValueError: If ``log_decay`` is a scalar.
        TypeError, NotImplementedError: If it is not real floating point.
    """
    check_trailing("log_decay", log_decay, (None,))
    G = log_decay.cumsum(-1)
    m = G.shape[-1]
    lower = torch.ones(m, m, dtype=torch.bool, device=G.device).tril()
    return torch.where(lower, torch.exp(torch.where(lower, G[..., :, None] - G[..., None, :], 0.0)), 0.0)


def ut_transform(
    K: Float[Tensor, "*batch m d"], beta: Float[Tensor, "*batch m"], log_decay: Float[Tensor, "*batch m"] | None = None
) -> UTTransform:
    r"""Solve ``M`` updates ``S <- e^{g_i} S; S <- S + beta_i k_i (v_i - S^T k_i)^T`` of a state ``S (d, dv)`` at once.

    With ``G = cumsum(g)``, ``D_ij = e^{G_i - G_j}`` and the unit lower triangular ``A = I + tril_{-1}(diag(beta) (K K^T * D))``,

        W = A^-1 diag(beta e^G) K,    U = solve(V) = A^-1 diag(beta) V,

    so the state after the last step is ``e^{G_M} S + (diag(e^{G_M - G}) K)^T (U - W S)`` (Yang et al., arXiv 2406.06484; gated form arXiv
    2412.06464). With unit keys and ``beta`` in [0, 2] no entry of ``A^-1`` exceeds 2, so the solve is safe; keys that are not
    normalised can make it explode. Nothing is divided by a decay.

    Args:
        K: Keys, shape ``(..., M, d)``, one per update in order.
        beta: Step sizes, shape ``(..., M)``.
        log_decay: Log-decay ``g`` applied before each update, shape ``(..., M)``; none by default. A gate per token with several updates
            stands at the token's first update, 0 at the others.

    Returns:
        ``W`` of shape ``(..., M, d)``, and ``solve``, which maps values ``(..., M, dv)`` to ``U`` of that shape. Half precision is
        computed in float32 and cast back.

    Raises:
        ValueError: If a shape does not fit.
        TypeError, NotImplementedError: If an argument is not real floating point.

    Example:
        >>> K = torch.nn.functional.normalize(torch.randn(6, 4), dim=-1)
        >>> W, solve = ut_transform(K, torch.ones(6))
        >>> S = K.T @ solve(torch.randn(6, 3))  # six delta-rule updates of a zero state
    """
    check_trailing("K", K, (None, None))
    M = K.shape[-2]
    check_trailing("beta", beta, (M,), hint=f"one step size for each of the {M} keys")
    if log_decay is not None:
        check_trailing("log_decay", log_decay, (M,), hint=f"one entry for each of the {M} keys")
    check_broadcastable(K=K.shape[:-2], beta=beta.shape[:-1], log_decay=() if log_decay is None else log_decay.shape[:-1])
    return UTTransform(_w(K, beta, log_decay), _Solve(K, beta, log_decay))


def _system(K: Tensor, beta: Tensor, log_decay: Tensor | None) -> Tensor:
    gram = K @ K.mT
    if log_decay is not None:
        gram = gram * decay_mask(log_decay)
    return torch.tril(beta[..., :, None] * gram, diagonal=-1)


@full_precision
def _w(K: Tensor, beta: Tensor, log_decay: Tensor | None) -> Tensor:
    weight = beta if log_decay is None else beta * torch.exp(log_decay.cumsum(-1))
    return unit_solve(_system(K, beta, log_decay), weight[..., :, None] * K, upper=False)


@full_precision
def _u(K: Tensor, beta: Tensor, log_decay: Tensor | None, V: Tensor) -> Tensor:
    return unit_solve(_system(K, beta, log_decay), beta[..., :, None] * V, upper=False)


class _Solve:
    """``solve(V) = A^-1 diag(beta) V`` of one transform."""

    def __init__(self, K: Tensor, beta: Tensor, log_decay: Tensor | None) -> None:
        self._arguments = K, beta, log_decay

    def __call__(self, V: Float[Tensor, "*batch m dv"]) -> Float[Tensor, "*batch m dv"]:
        """Solve for the values ``V (..., M, dv)``.

        Raises:
            ValueError: If ``V`` has not ``M`` rows or its batch does not broadcast.
        """
        K, beta, log_decay = self._arguments
        check_trailing("V", V, (K.shape[-2], None), hint=f"one value for each of the {K.shape[-2]} keys")
        check_broadcastable(V=V.shape[:-2], K=K.shape[:-2], beta=beta.shape[:-1])
        return _u(K, beta, log_decay, V)
