"""Apply ``exp(t S)`` to vectors without forming it: one spectral form per matrix, one plane rotation per vector."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from geocore._checks import check_broadcastable, check_floating, check_square, check_trailing
from geocore._dispatch import matrix_exp, needs_composable
from geocore._precision import full_precision
from geocore.son._spectral import half_form, join_pairs, skew_part, split_pairs

__all__ = ["expm_skew_apply", "expm_skew_apply_reference", "reduced_angle"]

# tan(x) / x = sum_p c_p x^(2p). Below _NEAR the first 4 (float32) or 8 (float64) terms are exact to rounding, above it the
# divided difference loses less than a digit to cancellation.
_TAN = (1.0, 1 / 3, 2 / 15, 17 / 315, 62 / 2835, 1382 / 155925, 21844 / 6081075, 929569 / 638512875)
_NEAR = 0.15


def reduced_angle(phase: Float[Tensor, "*batch"], dtype: torch.dtype) -> Float[Tensor, "*batch"]:
    """Angle in ``[-pi, pi]`` in ``dtype`` from a float64 phase: float32 sine and cosine of 1e4 rad keep their seven digits."""
    if dtype == torch.float64:
        return phase
    return (phase - 2 * math.pi * torch.round(phase.detach() / (2 * math.pi))).to(dtype)


def _rotate(z: Tensor, c: Tensor, s: Tensor) -> Tensor:
    """Turn the planes of ``z (b, 2p, B, L)`` by the angles of ``c, s (b, p, 1, L)``."""
    p = z.shape[1] // 2
    first, second = z[:, :p], z[:, p:]
    return torch.cat([torch.addcmul(first * c, second, s, value=-1), torch.addcmul(first * s, second, c)], dim=1)


def _flat(z: Tensor) -> Tensor:
    return z.reshape(z.shape[0], z.shape[1], z.shape[2] * z.shape[3])


def _grad_core(gz: Tensor, zr: Tensor, h: Tensor, z: Tensor, w: Tensor, t: Tensor) -> Tensor:
    r"""Gradient ``sum_l int_0^t (e^{-(t-s)D} g)(e^{sD} z)^T ds`` with respect to ``D = blockdiag(w J)``, in half layout.

    With ``y = e^{tD} z`` and ``h = e^{-tD} g`` the integral ``G`` solves ``D G - G D = sum_l g y^T - h z^T``: two matrix products over
    the vectors and a division by the frequency difference ``d`` of each pair of planes. Where ``t d`` is small the quotient
    cancels; there ``G = sum_l t tan(x)/x (g y^T + h z^T) / 2`` with ``x = t d / 2``, a power series in ``d`` whose coefficients are
    again matrix products. Memory stays a few times that of ``z``, whatever ``n``.
    """
    most = torch.nn.functional.pad(t.detach().abs(), (0, 1)).amax(-1, keepdim=True)  # padded: an empty L is fine
    u2 = (t / torch.where(most > 0, most, 1.0)).square()[:, None, None, :]
    moved, fixed = _flat(zr).mT, _flat(z).mT
    C = split_pairs(_flat(gz) @ moved - _flat(h) @ fixed)

    diff = torch.stack([w[:, :, None] - w[:, None, :], w[:, :, None] + w[:, None, :]], dim=1)[:, :, None]
    x2 = (diff * most.double()[:, :, None, None, None] / 2).square().to(z.dtype)
    near = x2 < _NEAR**2
    x2 = torch.where(near, x2, 0.0)
    weight = t[:, None, None, :] / 2
    series = torch.zeros_like(C)
    power = torch.ones_like(x2)
    for i in range(4 if z.dtype == torch.float32 else 8):
        if i:
            weight = weight * u2
            power = power * x2
        series = series + (_TAN[i] * power) * split_pairs(_flat(gz * weight) @ moved + _flat(h * weight) @ fixed)
    inverse = 1.0 / torch.where(near, 1.0, diff.to(z.dtype))
    quotient = torch.stack([C[:, :, 1], -C[:, :, 0]], dim=2) * inverse  # multiplication by -J
    return join_pairs(torch.where(near, series, quotient))


def _forward(S: Tensor, t: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """``y[b, i, l] = exp(t[b, l] S[b]) x[b, i, l]`` for ``S (b, n, n)``, ``t (b or 1, L)``, ``x (b, B, L, n)``, and what backward needs."""
    b, B, L, n = x.shape
    w, Q = half_form(skew_part(S.double()))
    phase = reduced_angle(w[:, :, None] * t.double()[:, None, :], x.dtype)[:, :, None, :]
    c, s = torch.cos(phase), torch.sin(phase)
    Q = Q.to(x.dtype)
    z = (Q.mT @ x.reshape(b, B * L, n).mT).reshape(b, Q.shape[-1], B, L)
    y = _flat(_rotate(z, c, s)).mT @ Q.mT
    return y.reshape(b, B, L, n), w, Q, c, s, z


def _fake(S: Tensor, t: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    b, B, L, n = x.shape
    p = (n + 1) // 2
    w, Q, angle, z = (b, p), (b, n, 2 * p), (b, p, 1, L), (b, 2 * p, B, L)
    return (
        x.new_empty(x.shape),
        x.new_empty(w, dtype=torch.float64),
        x.new_empty(Q),
        x.new_empty(angle),
        x.new_empty(angle),
        x.new_empty(z),
    )


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs, *output[1:])


def _backward(ctx: Any, g: Tensor, *unused: Any) -> tuple[Tensor | None, ...]:
    S, t, x, w, Q, c, s, z = ctx.saved_tensors
    needed = ctx.needs_input_grad
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # create_graph=True: differentiable again
        wanted = [v for v, need in zip((S, t, x), needed, strict=True) if need]
        found = iter(torch.autograd.grad(_apply_plain(S, t, x), wanted, g, create_graph=True))
        return tuple(next(found) if need else None for need in needed)
    b, B, L, n = x.shape
    gz = (Q.mT @ g.reshape(b, B * L, n).mT).reshape(z.shape)
    h = _rotate(gz, c, -s)
    grad_S = grad_t = grad_x = None
    if needed[2]:
        grad_x = (_flat(h).mT @ Q.mT).reshape(x.shape)
    if needed[0] or needed[1]:
        zr = _rotate(z, c, s)
        if needed[1]:
            p = w.shape[-1]
            turn = torch.addcmul(gz[:, p:] * zr[:, :p], gz[:, :p], zr[:, p:], value=-1).sum(2)
            per_S = (turn * w.to(x.dtype)[:, :, None]).sum(1)
            grad_t = (per_S if t.shape[0] == b else per_S.sum(0, keepdim=True)).to(t.dtype)
        if needed[0]:
            grad_S = skew_part(Q @ _grad_core(gz, zr, h, z, w, t.to(z.dtype)) @ Q.mT)
    return grad_S, grad_t, grad_x


# An operator rather than an autograd.Function: the compiler keeps it whole (so no complex arithmetic reaches inductor), and
# tracing a Function raises a DeprecationWarning inside torch 2.13, which is an error in a strict test run.
_LIBRARY = torch.library.Library("geocore", "FRAGMENT")
_LIBRARY.define("expm_skew_planes(Tensor S, Tensor t, Tensor x) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)")
_LIBRARY.impl("expm_skew_planes", _forward, "CompositeExplicitAutograd")
torch.library.register_fake("geocore::expm_skew_planes", _fake, lib=_LIBRARY)
torch.library.register_autograd("geocore::expm_skew_planes", _backward, setup_context=_save, lib=_LIBRARY)


def _apply_plain(S: Tensor, t: Tensor, x: Tensor) -> Tensor:
    """The same in operators that every transform and every order of derivative knows; forms ``exp`` for each ``(b, l)``."""
    R = matrix_exp(t.double()[:, :, None, None] * skew_part(S.double())[:, None]).to(x.dtype)
    return (R[:, None] @ x[..., None])[..., 0]


def _product(sizes: list[Any]) -> Any:
    n = 1
    for size in sizes:
        n *= size
    return n


def _by_planes(S: Tensor, t: Tensor, x: Tensor, batch: tuple[Any, ...]) -> Tensor:
    """Bring the batch to ``(matrices, vectors sharing t, times)``, apply, and bring it back."""
    n, k = x.shape[-1], len(batch)
    s_shape = (1,) * (k - S.ndim + 2) + tuple(S.shape[:-2])
    t_shape = (1,) * (k - t.ndim) + tuple(t.shape)
    own = [i for i in range(k) if s_shape[i] != 1]
    times = [i for i in range(k) if s_shape[i] == 1 and t_shape[i] != 1]
    shared = [i for i in range(k) if s_shape[i] == 1 and t_shape[i] == 1]
    b, B, L = (_product([batch[i] for i in group]) for group in (own, shared, times))
    order = [*own, *shared, *times]

    v = x.expand(*batch, n).permute(*order, k)
    grouped = v.shape
    t_full = [batch[i] if any(t_shape[j] != 1 for j in own) else 1 for i in own] + [batch[i] for i in times]
    t = t.reshape(t_shape).permute([*own, *times, *shared]).reshape([t_shape[i] for i in (*own, *times)])
    t = t.expand(t_full).reshape(_product(t_full[: len(own)]), L)
    S, v = S.reshape(b, n, n), v.reshape(b, B, L, n)
    y = _apply_plain(S, t, v) if needs_composable() else torch.ops.geocore.expm_skew_planes(S, t, v)[0]
    return y.reshape(grouped).permute(*(order.index(i) for i in range(k)), k)


@full_precision
def expm_skew_apply(
    S: Float[Tensor, "*sbatch n n"], t: Float[Tensor, "*tbatch"], x: Float[Tensor, "*xbatch n"]
) -> Float[Tensor, "*batch n"]:
    r"""Rotate vectors by ``exp(t S)`` for skew ``S`` without forming the matrices, ``y = Q Rot2(t w) Q^T x``.

    All leading dimensions broadcast as in NumPy. ``S (n, n)`` with ``t (L,)`` and ``x (L, n)`` shares one ``S`` over ``L``;
    ``S (H, m, 1, n, n)``, ``t (L,)``, ``x (B, H, m, L, n)`` is a rotary embedding. The spectral form ``S = Q blockdiag(w J) Q^T`` is
    computed in float64, once per matrix of ``S`` and never per vector; memory is a small multiple of that of ``y``, never
    ``(L, n, n)``. Angles ``t w`` are formed in float64 and reduced, so long positions keep full float32 accuracy. Only the
    skew part ``(S - S^T) / 2`` acts.

    Gradients with respect to ``S`` (skew), ``t`` and ``x`` are exact and finite everywhere, also for ``S = 0`` and repeated
    frequencies: the derivative of the exponential is a divided difference of the frequencies, never of eigenvectors.
    Second derivatives, forward mode and ``torch.func`` transforms go through ``torch.matrix_exp`` (right, but slower and with
    memory ``(L, n, n)``); ``torch.compile`` keeps the fast path.

    Args:
        S: Skew matrices, shape ``(..., n, n)``.
        t: Times (positions), shape ``(...)``.
        x: Vectors, shape ``(..., n)``.

    Returns:
        Shape ``(..., n)`` with the broadcast batch dimensions, in the promoted dtype of ``S`` and ``x``: float64 times are used in full
        beside float32 vectors. float16 and bfloat16 are computed in float32.

    Raises:
        ValueError: If ``S`` is not square, the last dimension of ``x`` is not ``n`` or the batches do not broadcast.
        TypeError, NotImplementedError: If an argument has an integer or a complex dtype.

    Example:
        >>> S = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
        >>> expm_skew_apply(S, torch.tensor(torch.pi / 2), torch.tensor([1.0, 0.0]))  # about [0, 1]
    """
    S, t, x, batch = _checked(S, t, x)
    n = x.shape[-1]
    if n == 1:
        return x + t.to(x.dtype)[..., None] * (S - S.mT)[..., 0]
    if n == 2:
        rate = (S[..., 1, 0].double() - S[..., 0, 1].double()) / 2
        phase = reduced_angle(t.double() * rate, x.dtype)
        c, s = torch.cos(phase), torch.sin(phase)
        first, second = x.unbind(-1)
        return torch.stack([c * first - s * second, s * first + c * second], dim=-1)
    return _by_planes(S, t, x, batch)


@full_precision
def expm_skew_apply_reference(
    S: Float[Tensor, "*sbatch n n"], t: Float[Tensor, "*tbatch"], x: Float[Tensor, "*xbatch n"]
) -> Float[Tensor, "*batch n"]:
    """``expm_skew_apply`` by the definition: the matrix exponential of every ``t S``, then a product with ``x``.

    The oracle of tests and the baseline of benchmarks; arguments, result and errors as ``expm_skew_apply``.
    """
    S, t, x, _ = _checked(S, t, x)
    return (matrix_exp(t.to(S.dtype)[..., None, None] * skew_part(S)) @ x[..., None])[..., 0]


def _checked(S: Tensor, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor, tuple[Any, ...]]:
    check_square("S", S)
    check_floating("t", t)
    check_trailing("x", x, (S.shape[-1],), hint=f"S is {S.shape[-1]} x {S.shape[-1]}")
    batch = check_broadcastable(S=S.shape[:-2], t=t.shape, x=x.shape[:-1])
    dtype = torch.promote_types(S.dtype, x.dtype)
    return S.to(dtype), t.to(torch.promote_types(t.dtype, dtype)), x.to(dtype), batch
