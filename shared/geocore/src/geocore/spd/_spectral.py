"""One factorisation, any number of matrix functions of it, with derivatives of every supported order.

Two routes give the same numbers. The fast one is an ``autograd.Function`` whose backward is the next Frechet derivative, so first, second
and third derivatives come from divided differences and a fourth one is refused. Under ``torch.func`` transforms, forward mode and
``torch.compile`` the value is a constant plus its Taylor polynomial in ``X - X.detach()``: zero in value, exact in its first two
derivatives (compiled without a transform: in its first), and not finite in the next, which the polynomial cannot give.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor
from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters
from torch.autograd import forward_ad

from geocore._dispatch import eigh, needs_composable
from geocore.spd._checks import check_matrix, check_min_eig, check_positive, check_symmetric, values_readable, work_dtype
from geocore.spd._differences import Clamp, SpectralFunction

__all__ = [
    "Spectrum",
    "SymEig",
    "apply",
    "apply_all",
    "composable",
    "derivative",
    "factorise",
    "moved",
    "orders_within",
    "reassemble",
    "tripwire",
    "wants_grad",
]

_CHUNK = 1 << 22
"""Entries of a divided-difference tensor held at once (32 MiB in float64)."""


class Spectrum(NamedTuple):
    """A symmetric matrix with its eigenvalues and eigenvectors as constants; ``dtype`` is what results are returned in."""

    X: Tensor
    values: Tensor
    vectors: Tensor
    dtype: torch.dtype


class _Pair(NamedTuple):
    values: Float[Tensor, "*batch n"]
    vectors: Float[Tensor, "*batch n n"]


class SymEig(_Pair):
    """Eigenvalues (ascending) and eigenvectors (columns) of a symmetric matrix; every function of the room takes it in place of ``X``.

    Unpacks as ``values, vectors``. It also carries the matrix it was made from, ``matrix``: functions of it use the stored factorisation
    and send their gradients to that matrix, exact at repeated eigenvalues. ``values`` and ``vectors`` themselves have the derivative of
    ``torch.linalg.eigh``, which for ``vectors`` does not exist where eigenvalues coincide.

    Args:
        values: Eigenvalues, shape ``(..., n)``.
        vectors: Eigenvectors, shape ``(..., n, n)``.
        spectrum: Set by ``eigh``; without it the matrix is ``vectors diag(values) vectors^T``.

    Example:
        >>> eig = eigh(torch.diag(torch.tensor([4.0, 1.0])))
        >>> sqrtm(eig), logm(eig)  # one factorisation
    """

    _spectrum: Spectrum | None

    def __new__(cls, values: Tensor, vectors: Tensor, spectrum: Spectrum | None = None) -> "SymEig":  # noqa: PYI034 - read at run time
        self = super().__new__(cls, values, vectors)
        self._spectrum = spectrum
        return self

    @property
    def spectrum(self) -> Spectrum:
        """The factorisation in its working precision, with constants in place of ``values`` and ``vectors``."""
        if self._spectrum is not None:
            return self._spectrum
        X = (self.vectors * self.values[..., None, :]) @ self.vectors.mT
        return Spectrum(X, self.values.detach(), self.vectors.detach(), self.values.dtype)

    @property
    def matrix(self) -> Tensor:
        """The symmetric matrix that was factorised."""
        s = self.spectrum
        return ((s.X + s.X.mT) / 2).to(s.dtype)

    def __reduce__(self) -> Any:
        return SymEig, (self.values, self.vectors)


def wants_grad(X: Tensor) -> bool:
    """Whether ``X`` is differentiated, so that even a symmetric one must be symmetrised: its gradient is then symmetric too."""
    return torch.is_grad_enabled() and X.requires_grad


def factorise(
    name: str,
    X: Any,
    *,
    positive: bool = True,
    min_eig: float | str | None = None,
    compute_dtype: torch.dtype | None = None,
    check: bool = True,
    dtype: torch.dtype | None = None,
    symmetric: bool = False,
) -> Spectrum:
    """Check and factorise the symmetric part of ``X``; a ``SymEig`` comes as it is.

    Args:
        name: Name of the argument in messages.
        X: Matrix or ``SymEig``.
        positive: Whether eigenvalues must be positive.
        min_eig: Floor of the eigenvalues, absolute, or ``"eps"`` for ``n eps`` times the largest one; a constant for autograd.
        compute_dtype: As the public functions.
        check: Whether to look at values where they can be read.
        dtype: Dtype of results; that of ``X`` otherwise.
        symmetric: Whether ``X`` is symmetric up to rounding by construction.
    """
    check_min_eig(min_eig)
    if isinstance(X, SymEig):
        s = X.spectrum
        check = check and values_readable(s.values)
    else:
        check_matrix(name, X)
        check = check and values_readable(X)
        exact = check_symmetric(name, X) if check else symmetric
        W = X.to(work_dtype(X, compute_dtype))
        # Only the value is symmetrised here: every derivative with respect to ``X`` is symmetric by itself.
        constant = W.detach()
        values, vectors = eigh(constant if exact else (constant + constant.mT) / 2)
        s = Spectrum(W, values, vectors, X.dtype)
    if dtype is not None:
        s = s._replace(dtype=dtype)
    if min_eig is not None:
        if min_eig == "eps":
            floor = s.values[..., -1].clamp(min=0) * (s.values.shape[-1] * torch.finfo(s.values.dtype).eps)
        else:
            floor = s.values.new_tensor(float(min_eig))
        s = moved(s, Clamp(floor))
    if positive and check and s.values.numel():
        check_positive(name, s.values[..., 0])
    return s


def moved(s: Spectrum, f: SpectralFunction) -> Spectrum:
    """The factorisation of ``f(X)``, whose matrix is connected to ``X``."""
    return Spectrum(apply(s, f), f.value(s.values), s.vectors, s.dtype)


def reassemble(vectors: Tensor, values: Tensor) -> Tensor:
    """``U diag(v) U^T``."""
    return (vectors * values[..., None, :]) @ vectors.mT


def composable() -> bool:
    """Whether to take the route of plain operators: under transforms, and while compiling, where torch warns about autograd functions."""
    return needs_composable() or torch.compiler.is_compiling()


def orders_within(most: int, *tensors: Tensor) -> tuple[int, bool]:
    """How many orders of derivative to provide on the composable route, at most ``most``, and whether more than that may be asked for."""
    if torch.compiler.is_compiling():
        # Layers of transforms cannot be counted here; without any, compiled code is differentiated at most once.
        if needs_composable():
            return most, True
        once = any(wants_grad(x) for x in tensors)
        return int(once), once
    count = int(forward_ad._current_level >= 0)
    if torch._C._are_functorch_transforms_active():
        for interpreter in retrieve_all_functorch_interpreters():
            count += interpreter.key().name in ("Grad", "Jvp")
    for x in tensors:
        while is_functorch_wrapped_tensor(x):
            x = get_unwrapped(x)
        if x.requires_grad:  # ordinary autograd outside of the transforms: any number of times
            return most, True
    return min(count, most), count > most


class _Third(torch.autograd.Function):
    """Zero with zero first and second derivatives whose third derivative is an error."""

    @staticmethod
    def forward(ctx: Any, s: Tensor, order: int) -> Tensor:
        ctx.order = order
        ctx.save_for_backward(s)
        return torch.zeros_like(s)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        if ctx.order == 2:
            raise NotImplementedError("third derivatives are not supported here; first and second ones are")
        (s,) = ctx.saved_tensors
        return grads[0] * _Third.apply(s, ctx.order + 1), None


def tripwire(s: Tensor, orders: int) -> Tensor:
    """Zero for ``s = 0`` with that many zero derivatives; the next one is an error, on the composable route not finite."""
    if orders == 2 and not composable():
        return _Third.apply(s, 0)
    return s.pow(orders + 0.5)


def _differences(f: SpectralFunction, values: Tensor, order: int) -> Tensor:
    shape = [values[(..., *(None,) * i, slice(None), *(None,) * (order - i))] for i in range(order + 1)]
    return (f.first, f.second, f.third)[order - 1](*shape)


def _contract(D: Tensor, *G: Tensor) -> Tensor:
    """Sum over the inner indices of ``D_(i k ... j) G1_ik ... Gm_(. j)`` and over all orders of the factors."""
    if len(G) == 1:
        return D * G[0]
    if len(G) == 2:
        half = (D * G[0][..., :, :, None] * G[1][..., None, :, :]).sum(-2)
        return half + half.mT
    total = torch.zeros_like(G[0])
    for x, y, z in ((G[0], G[1], G[2]), (G[0], G[2], G[1]), (G[1], G[0], G[2])):
        inner = (D * y[..., None, :, :, None] * z[..., None, None, :, :]).sum(-2)
        half = (x[..., :, :, None] * inner).sum(-2)
        total = total + half + half.mT
    return total


def _derivative_value(f: SpectralFunction, values: Tensor, vectors: Tensor, *G: Tensor) -> Tensor:
    """``D^m f(X)[G1, ..., Gm]`` for symmetric ``G``; holds one divided-difference tensor of ``n^(m+1)`` entries per matrix, in chunks."""
    rotated = [vectors.mT @ g @ vectors for g in G]
    order, n = len(G), values.shape[-1]
    if order == 1:
        return vectors @ (_differences(f, values, 1) * rotated[0]) @ vectors.mT
    batch = torch.broadcast_shapes(values.shape[:-1], *(g.shape[:-2] for g in rotated))
    count = max(1, _CHUNK // n ** (order + 1))
    total = 1
    for size in batch:
        total *= size
    if total <= count or isinstance(f, Clamp):
        core = _contract(_differences(f, values, order), *rotated)
    else:
        flat = values.expand(*batch, n).reshape(-1, n)
        parts = [g.expand(*batch, n, n).reshape(-1, n, n) for g in rotated]
        core = torch.cat(
            [
                _contract(_differences(f, flat[i : i + count], order), *(p[i : i + count] for p in parts))
                for i in range(0, flat.shape[0], count)
            ]
        ).reshape(*batch, n, n)
    return vectors @ core @ vectors.mT


def _unbroadcast(G: Tensor, shape: torch.Size) -> Tensor:
    return G.sum_to_size(shape)


class _Derivative(torch.autograd.Function):
    """``D^m f(X)[G1, ..., Gm]``; as a form in ``m + 1`` arguments it is symmetric, so every gradient is another one of these."""

    @staticmethod
    def forward(ctx: Any, f: SpectralFunction, values: Tensor, vectors: Tensor, X: Tensor, *G: Tensor) -> Tensor:
        ctx.f = f
        ctx.save_for_backward(values, vectors, X, *G)
        if not G:
            return reassemble(vectors, f.value(values))
        return _derivative_value(f, values, vectors, *G)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        values, vectors, X, *G = ctx.saved_tensors
        K = (grads[0] + grads[0].mT) * 0.5
        dX: Tensor | None = None
        dG: list[Tensor | None] = [None] * len(G)
        if ctx.needs_input_grad[3]:
            if len(G) == 3:
                raise NotImplementedError("derivatives of matrix functions are supported up to the third order, a fourth one was asked for")
            dX = _unbroadcast(derivative(ctx.f, values, vectors, X, *G, K), X.shape)
        for i, g in enumerate(G):
            if ctx.needs_input_grad[4 + i]:
                dG[i] = _unbroadcast(derivative(ctx.f, values, vectors, X, *G[:i], K, *G[i + 1 :]), g.shape)
        return None, None, None, dX, *dG


def derivative(f: SpectralFunction, values: Tensor, vectors: Tensor, X: Tensor, *G: Tensor, learned: bool = False) -> Tensor:
    """``D^m f(X)[G1, ..., Gm]`` for symmetric ``G``, differentiable in everything; ``learned`` if ``f`` holds tensors with a gradient."""
    if not composable() and not learned:
        if torch.is_grad_enabled() and any(t.requires_grad for t in (X, *G)):
            return _Derivative.apply(f, values, vectors, X, *G)
        return _derivative_value(f, values, vectors, *G) if G else reassemble(vectors, f.value(values))
    rotated = [vectors.mT @ g @ vectors for g in G]
    core = torch.diag_embed(f.value(values)) if not G else _contract(_differences(f, values, len(G)), *rotated)
    orders, guarded = orders_within(2 if len(G) < 2 else 3 - len(G), X)
    if not orders:
        return vectors @ core @ vectors.mT
    offset = X - X.detach()
    offset = vectors.mT @ ((offset + offset.mT) / 2) @ vectors
    for k in range(1, orders + 1):
        term = _contract(_differences(f, values, len(G) + k), *rotated, *[offset] * k)
        core = core + (term / 2 if k == 2 else term)
    if guarded:
        core = core + tripwire(offset.sum((-2, -1)), orders)[..., None, None]
    return vectors @ core @ vectors.mT


class _Several(torch.autograd.Function):
    """Several functions of one matrix; their gradients are added in the eigenbasis, before they are rotated back."""

    @staticmethod
    def forward(ctx: Any, fs: tuple[SpectralFunction, ...], values: Tensor, vectors: Tensor, X: Tensor) -> tuple[Tensor, ...]:
        ctx.fs = fs
        ctx.save_for_backward(values, vectors, X)
        return tuple(reassemble(vectors, f.value(values)) for f in fs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        values, vectors, X = ctx.saved_tensors
        if torch.is_grad_enabled():
            parts = [derivative(f, values, vectors, X, (G + G.mT) / 2) for f, G in zip(ctx.fs, grads, strict=True)]
            return None, None, None, sum(parts[1:], parts[0])
        core = torch.zeros_like(vectors)
        for f, G in zip(ctx.fs, grads, strict=True):
            core = core + _differences(f, values, 1) * (vectors.mT @ ((G + G.mT) / 2) @ vectors)
        return None, None, None, vectors @ core @ vectors.mT


def apply_all(s: Spectrum, *fs: SpectralFunction) -> tuple[Tensor, ...]:
    """Several functions of ``X`` in working precision, connected to ``X``."""
    if composable() or not (torch.is_grad_enabled() and s.X.requires_grad):
        return tuple(apply(s, f) for f in fs)
    return _Several.apply(fs, s.values, s.vectors, s.X)


def apply(s: Spectrum, f: SpectralFunction) -> Tensor:
    """``f(X)`` in working precision, connected to ``X``."""
    return derivative(f, s.values, s.vectors, s.X)
