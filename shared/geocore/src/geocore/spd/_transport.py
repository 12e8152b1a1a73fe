"""The primitive of Bures-Wasserstein transport to and from the identity, with its derivative in the base point."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from geocore.spd._checks import check_matrix, check_same_size, no_autocast
from geocore.spd._equations import solve_sylvester
from geocore.spd._spectral import Spectrum, SymEig, composable, factorise, orders_within, tripwire

__all__ = ["bw_transport", "transport_from"]


def _gain(values: Tensor) -> Tensor:
    return torch.sqrt((values[..., :, None] + values[..., None, :]) / 2)


def _value(values: Tensor, vectors: Tensor, V: Tensor, sign: int) -> Tensor:
    gain = _gain(values)
    core = vectors.mT @ V @ vectors
    return vectors @ (core * gain if sign > 0 else core / gain) @ vectors.mT


def _base_gradient(values: Tensor, vectors: Tensor, V: Tensor, G: Tensor, sign: int) -> Tensor:
    """Adjoint of the derivative in ``A``: with ``g_ij`` the gain, the divided difference in the first argument is ``D_ikj``."""
    g = _gain(values)
    a, b = g[..., :, None, :], g[..., None, :, :]
    D = 1 / (2 * (a + b)) if sign > 0 else -1 / (2 * a * b * (a + b))
    total = torch.zeros_like(g)
    for v, w in ((V, G), (V.mT, G.mT)):
        v, w = vectors.mT @ v @ vectors, vectors.mT @ w @ vectors
        total = total + (D * w[..., :, None, :] * v[..., None, :, :]).sum(-1)
    return vectors @ ((total + total.mT) / 2) @ vectors.mT


class _Transport(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, A: Tensor, V: Tensor, values: Tensor, vectors: Tensor, sign: int) -> Tensor:
        ctx.sign = sign
        ctx.save_for_backward(A, V, values, vectors)
        return _value(values, vectors, V, sign)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        A, V, values, vectors = ctx.saved_tensors
        if torch.is_grad_enabled():  # another derivative is wanted: that of the Taylor polynomial
            out = _polynomial(Spectrum(A, values, vectors, A.dtype), V, ctx.sign, 2, True)
            wanted = [x for x, need in zip((A, V), ctx.needs_input_grad, strict=False) if need]
            found = iter(torch.autograd.grad(out, wanted, grads[0], create_graph=True))
            return *(next(found) if need else None for need in ctx.needs_input_grad[:2]), None, None, None
        dA = dV = None
        if ctx.needs_input_grad[0]:
            dA = _base_gradient(values, vectors, V, grads[0], ctx.sign).sum_to_size(A.shape)
        if ctx.needs_input_grad[1]:
            dV = _value(values, vectors, grads[0], ctx.sign).sum_to_size(V.shape)
        return dA, dV, None, None, None


def _rows(Q: Tensor, E: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    """First- and second-order change of ``T(V)`` when ``A`` moves by ``E`` and acts on the rows of ``V``."""
    first = (Q * E[..., :, :, None] * V[..., None, :, :]).sum(-2) / 2
    L = Q.movedim(-1, -3)  # one Loewner matrix for each column of V
    LE = L * E[..., None, :, :]
    M = -(L * (LE @ LE)) / 4
    return first, (M @ V.mT[..., :, :, None])[..., 0].mT


def _mixed(Q: Tensor, g: Tensor, E: Tensor, V: Tensor) -> Tensor:
    """Second-order change in which ``A`` acts once on the rows and once on the columns."""
    P = 1 / (g[..., :, :, None] + g[..., :, None, :])
    W = (E[..., :, None, :] * Q.mT) @ (V[..., None, :, :] * Q)
    a = (W * P * E[..., None, :, :]).sum(-1)
    Z = V[..., :, :, None] * E[..., None, :, :] * P
    Y = Q.transpose(-3, -2) @ Z
    b = (E[..., :, :, None] * Q * Y.transpose(-3, -2)).sum(-2)
    return -(a + b) / 4


def _polynomial(s: Spectrum, V: Tensor, sign: int, orders: int, guarded: bool) -> Tensor:
    """``T`` as a constant operator plus terms in ``X - X.detach()``; right to the second derivative."""
    if sign < 0:  # T_-(V) = T_+(2 L[V])
        return _polynomial(s, 2 * solve_sylvester(s, s, V), 1, orders, guarded)
    U = s.vectors
    g = _gain(s.values)
    core = U.mT @ V @ U
    out = core * g
    if orders:
        E = s.X - s.X.detach()
        E = U.mT @ ((E + E.mT) / 2) @ U
        Q = 1 / (g[..., :, None, :] + g[..., None, :, :])
        first, second = _rows(Q, E, core)
        first_t, second_t = _rows(Q, E, core.mT)
        out = out + first + first_t.mT
        if orders > 1:
            out = out + second + second_t.mT + _mixed(Q, g, E, core)
        if guarded:
            out = out + tripwire(E.sum((-2, -1)), orders)[..., None, None]
    return U @ out @ U.mT


def transport_from(s: Spectrum, V: Tensor, sign: int) -> Tensor:
    """``T_A(V)`` from a factorisation of ``A``, in working precision."""
    if composable():
        return _polynomial(s, V, sign, *orders_within(2, s.X))
    if torch.is_grad_enabled() and (s.X.requires_grad or V.requires_grad):
        return _Transport.apply(s.X, V, s.values, s.vectors, sign)
    return _value(s.values, s.vectors, V, sign)


@no_autocast
def bw_transport(
    A: Float[Tensor, "*abatch n n"] | SymEig,
    V: Float[Tensor, "*vbatch n n"],
    sign: int,
    *,
    compute_dtype: torch.dtype | None = None,
    check: bool = True,
) -> Float[Tensor, "*batch n n"]:
    r"""``T_A(V) = U [((a_i + a_j) / 2)^(sign/2) o U^T V U] U^T`` with ``A = U diag(a) U^T``.

    With ``sign = -1`` the Bures-Wasserstein parallel transport from ``A`` to the identity, with ``+1`` from the identity to ``A``; the two
    are inverse to one another. The gradient in ``A`` is exact at repeated eigenvalues, ``A = I`` included; second derivatives too.

    Args:
        A: SPD matrices, shape ``(..., n, n)``, or a ``SymEig``; the symmetric part is used.
        V: Tangent vectors, shape ``(..., n, n)``.
        sign: +1 or -1.
        compute_dtype, check: As ``sqrtm``.

    Returns:
        The broadcast shape ``(..., n, n)``, dtype of ``V``.

    Raises:
        NotPositiveDefiniteError: If an eigenvalue of ``A`` is not positive.
        ValueError: If a shape is wrong, ``sign`` is not +1 or -1, or ``A`` is not finite or not symmetric.
        TypeError: If a dtype is not real floating point.

    Example:
        >>> bw_transport(4 * torch.eye(2), torch.eye(2), +1).diagonal()
        tensor([2., 2.])
    """
    check_matrix("V", V)
    if sign not in (1, -1):
        raise ValueError(f"sign must be +1 or -1, got {sign!r}")
    if not isinstance(A, SymEig):
        check_same_size(A=A, V=V)
    elif A.vectors.shape[-1] != V.shape[-1]:
        raise ValueError(f"A and V must have the same size, got {tuple(A.vectors.shape)} and {tuple(V.shape)}")
    s = factorise("A", A, compute_dtype=compute_dtype, check=check)
    return transport_from(s, V.to(s.values.dtype), int(sign)).to(V.dtype)
