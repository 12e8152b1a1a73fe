"""A point of SPD(n) inside a metric: the matrix, factorised at most once in each way."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from geocore._dispatch import eigvalsh, svd
from geocore.spd._checks import check_positive, values_readable
from geocore.spd._differences import SpectralFunction
from geocore.spd._equations import cholesky_of
from geocore.spd._spectral import Spectrum, apply, composable, factorise

__all__ = [
    "Point",
    "color",
    "direct",
    "singular_spectrum",
    "spectrum_of",
    "spectrum_of_gram",
    "trace_function",
    "wants_gradient",
    "whiten",
]


T = TypeVar("T")


class Point:
    """Symmetric matrix in working precision with its spectrum and Cholesky factor, made when first asked for.

    Args:
        X: Matrix, shape ``(..., n, n)``.
        name: Name of the argument it came from.
        check: Whether to raise if it is not positive definite.
        spectrum: Its factorisation, if known.
    """

    def __init__(self, X: Tensor, name: str = "X", *, check: bool = True, spectrum: Spectrum | None = None) -> None:
        self.X, self.name, self.check = X, name, check
        self._spectrum, self._cholesky = spectrum, None
        self._images: dict[int, Any] = {}

    @property
    def spectrum(self) -> Spectrum:
        """Eigenvalues and eigenvectors."""
        if self._spectrum is None:
            self._spectrum = spectrum_of(self.X, self)
        return self._spectrum

    @property
    def cholesky(self) -> Tensor:
        """Lower Cholesky factor."""
        if self._cholesky is None:
            self._cholesky = cholesky_of(self.name, self.X, check=self.check)
        return self._cholesky

    def image(self, owner: Any, make: Callable[["Point"], T]) -> T:
        """What ``make`` gives for this point, remembered for ``owner``."""
        if id(owner) not in self._images:
            self._images[id(owner)] = make(self)
        return self._images[id(owner)]


def spectrum_of(S: Tensor, origin: Point) -> Spectrum:
    """Factorisation of a matrix that need not be positive definite unless ``origin`` must be."""
    s = factorise(origin.name, S, positive=False, compute_dtype=S.dtype, check=False, symmetric=True)
    if origin.check and values_readable(S) and s.values.numel():
        check_positive(origin.name, s.values[..., 0])
    return s


def spectrum_of_gram(S: Tensor, root: Callable[[], Tensor]) -> Spectrum:
    """Factorisation of ``S = B B^T``, accurate also where the condition of ``S`` exceeds what its entries can hold.

    Two matrices of condition 1e10 seen from one another have condition 1e20: ``eigh`` of ``S`` loses the small eigenvalues, the singular
    values of ``B`` do not. They cost twice as much, so they are taken where needed, or where that cannot be seen.

    Args:
        S: Connected to autograd.
        root: Gives ``B``, a constant.
    """
    if values_readable(S):
        s = factorise("S", S, positive=False, compute_dtype=S.dtype, check=False, symmetric=True)
        if _resolved(s.values):
            return s
    B = root()  # not without gradients: a Cholesky factor made here is kept by its point
    with torch.no_grad():
        values, vectors = singular_spectrum(B)
    return Spectrum(S, values, vectors, S.dtype)


def singular_spectrum(B: Tensor) -> tuple[Tensor, Tensor]:
    """Ascending eigenvalues and eigenvectors of ``B B^T``."""
    B, bad = _finite(B.detach())
    U, sigma, _ = svd(B)
    return torch.where(bad[..., None], float("nan"), sigma.square().flip(-1)), U.flip(-1)


def _finite(B: Tensor) -> tuple[Tensor, Tensor]:
    """LAPACK refuses NaN in a singular value decomposition: identities in place of such matrices, and where they are."""
    bad = ~torch.isfinite(B).all(-1).all(-1)
    return torch.where(bad[..., None, None], torch.eye(B.shape[-1], dtype=B.dtype, device=B.device), B), bad


def _resolved(values: Tensor) -> bool:
    return not values.numel() or bool((values[..., 0] > 1e-10 * values[..., -1]).all())


def whiten(L: Tensor, V: Tensor, *, exact: bool = True) -> Tensor:
    """``L^-1 V L^-T`` for symmetric ``V``; symmetric to the last bit if ``exact``."""
    half = torch.linalg.solve_triangular(L, V, upper=False)
    A = torch.linalg.solve_triangular(L, half.mT, upper=False)
    return (A + A.mT) / 2 if exact else A


def color(L: Tensor, A: Tensor) -> Tensor:
    """``L A L^T``, symmetrised."""
    V = L @ A @ L.mT
    return (V + V.mT) / 2


class _Trace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, X: Tensor, values: Tensor, vectors: Tensor, f: SpectralFunction, slope: SpectralFunction) -> Tensor:
        ctx.slope = slope
        ctx.save_for_backward(X, values, vectors)
        return f.value(values).sum(-1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        X, values, vectors = ctx.saved_tensors
        s = Spectrum(X, values, vectors, X.dtype)
        return grads[0][..., None, None] * apply(s, ctx.slope), None, None, None, None


class _Direct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, P: Tensor, Q: Tensor, value: Tensor, gradients: Callable[[], tuple[Tensor, Tensor]], again: Any) -> Tensor:
        ctx.gradients, ctx.again = gradients, again
        ctx.save_for_backward(P, Q)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        P, Q = ctx.saved_tensors
        if torch.is_grad_enabled():  # another derivative is wanted
            wanted = [x for x, need in zip((P, Q), ctx.needs_input_grad, strict=False) if need]
            found = iter(torch.autograd.grad(ctx.again(P, Q), wanted, grads[0], create_graph=True))
            return *(next(found) if need else None for need in ctx.needs_input_grad[:2]), None, None, None
        g = grads[0][..., None, None]
        dP, dQ = ctx.gradients()
        return (g * dP).sum_to_size(P.shape), (g * dQ).sum_to_size(Q.shape), None, None, None


def direct(
    p: Point, q: Point, value: Tensor, gradients: Callable[[], tuple[Tensor, Tensor]], again: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """A function of two points with its gradients in closed form; ``again`` is the same in operations that can be differentiated twice."""
    return _Direct.apply(p.X, q.X, value, gradients, again)


def wants_gradient(p: Point, q: Point) -> bool:
    """Whether the two are differentiated in the ordinary way."""
    return not composable() and torch.is_grad_enabled() and (p.X.requires_grad or q.X.requires_grad)


def trace_function(S: Tensor, f: SpectralFunction, slope: SpectralFunction, root: Callable[[], Tensor]) -> Tensor:
    """``tr f(S)`` for ``S = B B^T`` and the derivative ``slope`` of ``f``: without a gradient eigenvalues alone, with one no gaps."""
    if composable():
        return apply(spectrum_of_gram(S, root), f).diagonal(dim1=-2, dim2=-1).sum(-1)
    if torch.is_grad_enabled() and S.requires_grad:
        s = spectrum_of_gram(S, root)
        return _Trace.apply(s.X, s.values, s.vectors, f, slope)
    values = eigvalsh(S)
    if not values_readable(S) or not _resolved(values):
        B, bad = _finite(root())
        values = torch.where(bad[..., None], float("nan"), torch.linalg.svdvals(B).square())
    return f.value(values).sum(-1)
