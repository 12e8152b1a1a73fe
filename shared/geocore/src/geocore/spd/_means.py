"""Iterative Frechet means: Newton's method with a plain step in reserve, and derivatives by the implicit function theorem.

All three means solve ``r(M) = sum_k w_k psi(whitened X_k) - constant = 0`` with a spectral function ``psi``. In the coordinates ``M = G (I
+ a) G^T`` the derivative of ``r`` is ``-H`` with ``H[a] = sum_k w_k U_k (Phi_k o (U_k^T a U_k)) U_k^T``, in closed form from the
factorisation that ``psi`` needs anyway. ``H`` is self-adjoint and positive: conjugate gradients solve it with matrix products, and one
Newton step costs one factorisation of each matrix.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from geocore._dispatch import eigh, eigvalsh
from geocore.spd._averages import MeanInfo, MeanOptions
from geocore.spd._checks import check_positive, values_readable
from geocore.spd._differences import EXP, INV, INVSQRT, LOG, SQRT
from geocore.spd._point import color, singular_spectrum, whiten
from geocore.spd._spectral import Spectrum, apply, factorise, reassemble, tripwire
from geocore.spd._vectorize import unvech, vech

__all__ = ["Karcher", "SteinMean", "Wasserstein", "frechet_mean"]


def _spectrum(S: Tensor, root: Tensor | None = None) -> Spectrum:
    """Factorisation of ``S``, or of ``S = B B^T`` through the singular values of the constant ``B``."""
    if root is None:
        return factorise("X", S, positive=False, compute_dtype=S.dtype, check=False)
    values, vectors = singular_spectrum(root)
    return Spectrum((S + S.mT) / 2, values, vectors, S.dtype)


class _Kind:
    """What the three means share.

    ``factor`` holds Cholesky factors of ill-conditioned matrices, whose roots are then taken by singular values.
    """

    factor: Tensor | None = None

    def _factored(self, S: Tensor, root: Callable[[Tensor], Tensor]) -> Spectrum:
        return _spectrum(S, None if self.factor is None else root(self.factor))

    def _eigh(self, S: Tensor, root: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        return eigh(S) if self.factor is None else singular_spectrum(root(self.factor))


class _State(NamedTuple):
    """One evaluation at ``M``: root, residual matrix, its length, factor of each Hessian, plain step."""

    G: Tensor
    r: Tensor
    length: Tensor
    vectors: Tensor
    Phi: Tensor
    scale: Tensor
    basis: Tensor
    plain: Tensor
    noise: Tensor


def _solve(L: Tensor, C: Tensor) -> Tensor:
    return torch.linalg.solve_triangular(L.detach()[..., None, :, :], C, upper=False)


def _average(w: Tensor, A: Tensor) -> Tensor:
    return (w[..., None, None] * A).sum(-3)


class Karcher(_Kind):
    """Affine-invariant mean: ``sum_k w_k log(G^-1 X_k G^-T) = 0`` with ``M = G G^T``.

    The Hessian has entries ``x coth x``, ``x = (l_i - l_j) / 2``, ``l`` the logarithms of the eigenvalues.
    """

    def state(self, M: Tensor, X: Tensor, w: Tensor) -> _State:
        G = torch.linalg.cholesky_ex(M)[0]
        values, U = self._eigh(whiten(G[..., None, :, :], X), lambda C: _solve(G, C))
        l = values.log()  # noqa: E741
        r = _average(w, reassemble(U, l))
        x = (l[..., :, None] - l[..., None, :]).abs() / 2
        small = x < 1e-4
        Phi = torch.where(small, 1 + x.square() / 3, x / torch.tanh(torch.where(small, 1.0, x)))
        length = torch.linalg.matrix_norm(r)
        one = torch.ones_like(r)
        spread = (l[..., -1] - l[..., 0]) / 2
        top = (w * torch.where(spread < 1e-4, 1.0, spread / torch.tanh(spread.clamp(min=1e-4)))).sum(-1)
        plain = self.move(G, 2 / (1 + top)[..., None, None] * r)  # the best fixed step for a Hessian between 1 and top
        noise = torch.finfo(M.dtype).eps * (2 * spread).amax(-1).exp().clamp(max=1e10)
        return _State(G, r, length, U, Phi, one, torch.eye(M.shape[-1], dtype=M.dtype, device=M.device).expand_as(M), plain, noise)

    @staticmethod
    def move(G: Tensor, a: Tensor) -> Tensor:
        """Geodesic step."""
        values, U = eigh(a)
        return color(G, reassemble(U, values.exp()))

    def unit_step(self, M: Tensor, X: Tensor, w: Tensor) -> Tensor:
        """The usual Karcher step, connected to ``M``, ``X`` and ``w``."""
        G = torch.linalg.cholesky_ex(M)[0]
        r = _average(w, apply(self._factored(whiten(G[..., None, :, :], X), lambda C: _solve(G, C)), LOG))
        return color(G, apply(_spectrum(r), EXP))

    def whitened(self, G: Tensor, X: Tensor) -> Tensor:
        """Matrices as seen from ``M = G G^T``."""
        return whiten(G[..., None, :, :], X)

    def residual(self, a: Tensor | None, S: Tensor, w: Tensor, G: Tensor) -> Tensor:
        """``r`` at ``G (I + a) G^T`` from whitened matrices ``S``, connected to ``a``, ``S`` and ``w``."""
        if a is None:
            return _average(w, apply(self._factored(S, lambda C: _solve(G, C)), LOG))
        C = torch.linalg.cholesky_ex(a + torch.eye(a.shape[-1], dtype=a.dtype, device=a.device))[0]
        return color(C, _average(w, apply(self._factored(whiten(C[..., None, :, :], S), lambda B: _solve(C, _solve(G, B))), LOG)))


class Wasserstein(_Kind):
    """Bures-Wasserstein mean: ``sum_k w_k (G X_k G)^1/2 = M`` with ``G = M^1/2``.

    The Hessian has entries ``p_i p_j / (p_i + p_j)``, ``p`` the eigenvalues of the roots.
    """

    def state(self, M: Tensor, X: Tensor, w: Tensor) -> _State:
        m, basis = eigh(M)
        root = m.clamp(min=0).sqrt()
        G, inverse = reassemble(basis, root), reassemble(basis, 1 / root)
        values, U = self._eigh(color(G[..., None, :, :], X), lambda C: G[..., None, :, :] @ C)
        p = values.clamp(min=0).sqrt()
        R = _average(w, reassemble(U, p))
        r = R - M
        Phi = p[..., :, None] * p[..., None, :] / (p[..., :, None] + p[..., None, :])
        length = torch.linalg.matrix_norm(inverse @ r) / torch.linalg.vector_norm(root, dim=-1)
        scale = m[..., :, None] * m[..., None, :] / (m[..., :, None] + m[..., None, :])
        plain = inverse @ R @ R @ inverse
        noise = 2 * torch.finfo(M.dtype).eps * (root[..., -1] / root[..., 0])
        return _State(G, r, length, U, Phi, scale, basis, (plain + plain.mT) / 2, noise)

    @staticmethod
    def move(G: Tensor, a: Tensor) -> Tensor:
        """``(I + a / 2)^2`` seen from ``G``: never leaves the cone, and for commuting matrices one step is exact."""
        H = a / 2 + torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
        return color(G @ H, torch.eye(a.shape[-1], dtype=a.dtype, device=a.device))

    def unit_step(self, M: Tensor, X: Tensor, w: Tensor) -> Tensor:
        """The fixed-point step ``M^-1/2 (sum w (M^1/2 X M^1/2)^1/2)^2 M^-1/2`` (Alvarez-Esteban et al., 2016), connected to all."""
        s = _spectrum(M)
        G, inverse = apply(s, SQRT), apply(s, INVSQRT)
        R = _average(w, apply(self._factored(color(G[..., None, :, :], X), lambda C: G.detach()[..., None, :, :] @ C), SQRT))
        half = inverse @ R
        return color(half, torch.eye(M.shape[-1], dtype=M.dtype, device=M.device))

    def whitened(self, G: Tensor, X: Tensor) -> Tensor:
        """Matrices as seen from ``M = G G^T``."""
        return color(G.mT[..., None, :, :], X)

    def residual(self, a: Tensor | None, S: Tensor, w: Tensor, G: Tensor) -> Tensor:
        """``r`` at ``G (I + a) G^T`` from whitened matrices ``S``, connected to ``a``, ``S`` and ``w``."""
        if a is None:
            return _average(w, apply(self._factored(S, lambda C: G.mT[..., None, :, :] @ C), SQRT)) - G.mT @ G
        C = torch.linalg.cholesky_ex(a + torch.eye(a.shape[-1], dtype=a.dtype, device=a.device))[0]
        R = _average(w, apply(self._factored(color(C.mT[..., None, :, :], S), lambda B: (C.detach().mT @ G.mT)[..., None, :, :] @ B), SQRT))
        half = torch.linalg.solve_triangular(C.mT, R, upper=True)
        return torch.linalg.solve_triangular(C.mT, half.mT, upper=True) - G.mT @ G


class SteinMean(_Kind):
    """Mean of Stein's divergence: ``sum_k w_k 2 (I + G^-1 X_k G^-T)^-1 = I`` with ``M = G G^T``.

    The Hessian has entries ``1 - 2 c_i c_j``, ``c = 1 / (1 + l)``, ``l`` the eigenvalues.
    """

    def state(self, M: Tensor, X: Tensor, w: Tensor) -> _State:
        G = torch.linalg.cholesky_ex(M)[0]
        eye = torch.eye(M.shape[-1], dtype=M.dtype, device=M.device)
        values, U = self._eigh(whiten(G[..., None, :, :], X), lambda C: _solve(G, C))
        c = 1 / (1 + values)
        K = 2 * _average(w, reassemble(U, c))
        r = eye - K
        Phi = 1 - 2 * c[..., :, None] * c[..., None, :]
        inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(K)[0])
        noise = torch.finfo(M.dtype).eps * values[..., -1].amax(-1).clamp(min=1.0, max=1e10)
        return _State(G, r, torch.linalg.matrix_norm(r), U, Phi, torch.ones_like(r), eye.expand_as(M), color(G, inverse), noise)

    @staticmethod
    def move(G: Tensor, a: Tensor) -> Tensor:
        """Geodesic step."""
        return Karcher.move(G, a)

    def unit_step(self, M: Tensor, X: Tensor, w: Tensor) -> Tensor:
        """``M <- (sum w ((X + M) / 2)^-1)^-1``, connected to all."""
        inner = _average(w, apply(_spectrum((X + M[..., None, :, :]) / 2), INV))
        return apply(_spectrum(inner), INV)

    def whitened(self, G: Tensor, X: Tensor) -> Tensor:
        """Matrices as seen from ``M = G G^T``."""
        return whiten(G[..., None, :, :], X)

    def residual(self, a: Tensor | None, S: Tensor, w: Tensor, G: Tensor) -> Tensor:
        """``r`` at ``G (I + a) G^T`` from whitened matrices ``S``, connected to ``a``, ``S`` and ``w``."""
        eye = torch.eye(S.shape[-1], dtype=S.dtype, device=S.device)
        here = eye if a is None else eye + a
        inverse = eye if a is None else apply(_spectrum(here), INV)
        total = w.sum(-1)[..., None, None]
        return total * inverse - 2 * _average(w, apply(_spectrum(S + here[..., None, :, :]), INV))


Kind = Karcher | Wasserstein | SteinMean


def _hessian(s: _State, w: Tensor, a: Tensor) -> Tensor:
    U = s.vectors
    return _average(w, U @ (s.Phi * (U.mT @ a[..., None, :, :] @ U)) @ U.mT)


def _scaled(s: _State, a: Tensor, power: int) -> Tensor:
    """``a`` times the scale (to a power) in the basis that makes the Hessian well conditioned."""
    core = s.basis.mT @ a @ s.basis
    return s.basis @ (core * s.scale if power > 0 else core / s.scale) @ s.basis.mT


def _conjugate_gradients(s: _State, w: Tensor, b: Tensor, relative: Tensor, limit: int) -> Tensor:
    """``H^-1 b`` to the relative accuracy asked for."""
    x = torch.zeros_like(b)
    r, z = b, _scaled(s, b, -1)
    d, rho = z, (b * z).sum((-2, -1))
    goal = rho * relative.square()
    for _ in range(limit):
        active = rho > goal
        if not bool(active.any()):
            break
        Hd = _hessian(s, w, d)
        step = torch.where(active, rho / torch.where(active, (d * Hd).sum((-2, -1)), 1.0), 0.0)[..., None, None]
        x, r = x + step * d, r - step * Hd
        z = _scaled(s, r, -1)
        new = (r * z).sum((-2, -1))
        d = z + torch.where(active, new / torch.where(active, rho, 1.0), 0.0)[..., None, None] * d
        rho = torch.where(active, new, rho)
    return (x + x.mT) / 2


def _dense_inverse(s: _State, w: Tensor) -> Tensor:
    """``H^-1`` as a matrix on ``vech`` coordinates: linear, hence right under every transform."""
    n = s.r.shape[-1]
    p = n * (n + 1) // 2
    basis = unvech(torch.eye(p, dtype=s.r.dtype, device=s.r.device))
    U = s.vectors[..., None, :, :]
    images = U @ (s.Phi[..., None, :, :] * (U.mT @ basis @ U)) @ U.mT
    H = vech((w[..., None, None, None] * images).sum(-4))
    return torch.linalg.inv_ex((H + H.mT) / 2)[0]


@torch.no_grad()
def _minimise(kind: Kind, X: Tensor, w: Tensor, options: MeanOptions) -> tuple[Tensor, Tensor, Tensor, int]:
    """Mean, residual, what rounding leaves of it, iterations; ``X`` and ``w`` are constants whose values can be read."""
    M = _average(w, X)
    s = kind.state(M, X, w)
    eps = torch.finfo(X.dtype).eps
    best_M, best, noise = M, s.length, s.noise
    stuck = torch.zeros_like(s.length)
    count = 0
    while count < options.max_iter:
        unfinished = (s.length > s.noise.clamp(min=options.tol)) & (stuck < 3)
        if not bool(unfinished.any()):
            break
        a = _conjugate_gradients(s, w, s.r, s.length.clamp(max=0.1, min=eps**0.5), 30)
        # A long step is shortened: the model is good within about one unit.
        size = a.abs().sum(-1).amax(-1)
        newton = kind.move(s.G, a * (1 / size.clamp(min=1.0))[..., None, None])
        following = kind.state(torch.where(unfinished[..., None, None], newton, M), X, w)
        worse = unfinished & ~(following.length < s.length)
        count += 1
        if bool(worse.any()):
            M_plain = torch.where(worse[..., None, None], s.plain, torch.where(unfinished[..., None, None], newton, M))
            following = kind.state(M_plain, X, w)
            M = M_plain
        else:
            M = torch.where(unfinished[..., None, None], newton, M)
        better = following.length < best
        stuck = torch.where(better & (following.length < 0.9 * best), 0.0, stuck + 1)
        best_M = torch.where(better[..., None, None], M, best_M)
        best, noise = torch.where(better, following.length, best), torch.where(better, following.noise, noise)
        s = following
    return best_M, best, noise, count


class _Implicit(torch.autograd.Function):
    """The converged mean with the derivative of the implicit function theorem."""

    @staticmethod
    def forward(ctx: Any, X: Tensor, w: Tensor, M: Tensor, kind: Kind) -> Tensor:
        ctx.kind = kind
        ctx.save_for_backward(X, w, M)
        return M.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        X, w, M = ctx.saved_tensors
        kind, twice = ctx.kind, torch.is_grad_enabled()
        wanted = [x for x, need in zip((X, w), ctx.needs_input_grad, strict=False) if need]
        with torch.enable_grad():
            if twice:
                out = _newton_steps(kind, X, w, M)
                found = iter(torch.autograd.grad(out, wanted, grads[0], create_graph=True))
            else:
                s = kind.state(M, X.detach(), w.detach())
                G = s.G
                b = G.mT @ grads[0] @ G
                b = (b + b.mT) / 2
                n = M.shape[-1]
                u = _conjugate_gradients(s, w.detach(), b, torch.full_like(s.length, 1e-13), 4 * n * n)
                live = [x.detach().requires_grad_(need) for x, need in zip((X, w), ctx.needs_input_grad, strict=False)]
                r = kind.residual(None, kind.whitened(G, live[0]), live[1], G)
                found = iter(torch.autograd.grad(r, [x for x in live if x.requires_grad], u.detach()))
        return *(next(found) if need else None for need in ctx.needs_input_grad[:2]), None, None


def _newton_steps(kind: Kind, X: Tensor, w: Tensor, M: Tensor) -> Tensor:
    """``M`` again, by two Newton steps with a constant Jacobian: right in value and in two orders of derivative."""
    with torch.no_grad():
        s = kind.state(M.detach(), X.detach(), w.detach())
        inverse = _dense_inverse(s, w.detach())

    def solve(r: Tensor) -> Tensor:
        return unvech((inverse @ vech(r)[..., None])[..., 0])

    S = kind.whitened(s.G, X)
    a = solve(kind.residual(None, S, w, s.G))
    a = a + solve(kind.residual(a, S, w, s.G))
    moved = (X - X.detach()).sum((-3, -2, -1)) + (w - w.detach()).sum(-1)
    return M.detach() + color(s.G, a) + tripwire(moved, 2)[..., None, None]


@torch.no_grad()
def _polished(kind: Kind, X: Tensor, w: Tensor, M: Tensor) -> Tensor:
    """Two Newton steps, kept where they help, without looking at values."""
    s = kind.state(M, X, w)
    for _ in range(2):
        a = unvech((_dense_inverse(s, w) @ vech(s.r)[..., None])[..., 0])
        following = kind.state(kind.move(s.G, a), X, w)
        better = following.length < s.length
        M = torch.where(better[..., None, None], kind.move(s.G, a), M)
        s = _State(*[torch.where(better[(..., *(None,) * (a.ndim - better.ndim))], a, b) for a, b in zip(following, s, strict=True)])
    return M


def frechet_mean(kind: Kind, X: Tensor, w: Tensor, options: MeanOptions, check: bool) -> tuple[Tensor, MeanInfo]:
    """Mean over the third last dimension of ``X`` with weights over the last of ``w``."""
    readable = values_readable(X) and values_readable(w)
    if X.numel():
        with torch.no_grad():
            L, info = torch.linalg.cholesky_ex(X.detach())
            if check and readable and bool((info != 0).any()):
                check_positive("X", eigvalsh(X.detach())[..., 0])
            d = L.diagonal(dim1=-2, dim2=-1)
            # The squared ratio is about the condition, from below.
            if not readable or bool((d.amax(-1) > 300 * d.amin(-1)).any()):
                kind.factor = L
    plain = options.steps is not None or not readable
    implicit = options.grad == "implicit" and options.steps is None
    empty = X.new_zeros(X.shape[:-3])
    noise = empty
    if not plain and options.grad != "unroll":
        M, residual, noise, count = _minimise(kind, X.detach(), w.detach(), options) if X.numel() else (_average(w, X), empty, empty, 0)
        if torch.is_grad_enabled() and (X.requires_grad or w.requires_grad) and implicit and X.numel():
            M = _Implicit.apply(X, w, M, kind)
    else:
        M = _average(w, X)
        count = options.max_iter if options.steps is None else options.steps
        if implicit:
            with torch.no_grad():
                for _ in range(count):
                    M = kind.unit_step(M.detach(), X.detach(), w.detach())
                M = _polished(kind, X.detach(), w.detach(), M)
            M = _newton_steps(kind, X, w, M)
        else:
            for done in range(count):
                M = kind.unit_step(M, X, w)
                if (
                    options.steps is None
                    and readable
                    and bool((kind.state(M.detach(), X.detach(), w.detach()).length <= options.tol).all())
                ):
                    count = done + 1
                    break
        residual = empty
        if options.info and X.numel():
            s = kind.state(M.detach(), X.detach(), w.detach())
            residual, noise = s.length, s.noise
    assert isinstance(M, Tensor)
    return M, MeanInfo(residual <= noise.clamp(min=options.tol), residual, torch.tensor(count, device=X.device))
