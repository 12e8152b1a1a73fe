"""When a hand-written gradient may run, and the decompositions and the exponential of small matrices that every room shares."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad

from geocore import _ops

__all__ = ["eigh", "eigvalsh", "matrix_exp", "needs_composable", "svd"]


def needs_composable() -> bool:
    """Whether a ``torch.func`` transform or forward-mode differentiation is active.

    A ``torch.autograd.Function`` without forward rule raises there, one with it is refused by ``torch.compile`` or drops its
    derivative in silence; formulas of plain operators are right under all of them.
    """
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _count(A: Tensor) -> int | None:
    return None if torch.compiler.is_compiling() else A.shape[:-2].numel()


def _eigh_gradient(inputs: tuple[Tensor], outputs: tuple[Tensor, ...], grads: tuple[Tensor, ...]) -> tuple[Tensor]:
    """``V (diag(g_l) + skew(V^T g_V) / (l_j - l_i)) V^T``, that of ``torch.linalg.eigh``: not finite for vectors of equal eigenvalues."""
    del inputs
    (values, V), (g_values, g_V) = outputs, grads
    gaps = values[..., None, :] - values[..., :, None] + torch.eye(V.shape[-1], dtype=V.dtype, device=V.device)
    turned = V.mT @ g_V
    turned = (turned - turned.mT) / 2
    # Where only the eigenvalues are differentiated, equal ones do no harm.
    core = torch.where(turned == 0, turned, turned / gaps) + torch.diag_embed(g_values)
    return (V @ core @ V.mT,)


def _eigh_reference(A: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(A)
    return values.contiguous(), vectors.contiguous()


_ops.define(
    "sym_eig",
    "(Tensor A) -> (Tensor, Tensor)",
    _eigh_reference,
    lambda A: (A.new_empty(A.shape[:-1]), A.new_empty(A.shape)),
    backward=_eigh_gradient,
)


def eigh(A: Float[Tensor, "*batch n n"]) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch n n"]]:
    """``torch.linalg.eigh`` of real symmetric matrices, by a kernel where that is faster; only the lower triangle is read.

    The kernel gives NaN for a matrix that is not finite, where LAPACK raises.

    Args:
        A: Shape ``(..., n, n)``, float32 or float64.

    Returns:
        Eigenvalues, ascending, and eigenvectors in columns: shapes ``(..., n)`` and ``(..., n, n)``.
    """
    if _ops.kernel_may_run("sym_eig", A, size=A.shape[-1], count=_count(A)):
        return torch.ops.geocore.sym_eig(A)
    values, vectors = torch.linalg.eigh(A)
    return values, vectors


def eigvalsh(A: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n"]:
    """The eigenvalues alone, as ``torch.linalg.eigvalsh``."""
    if _ops.kernel_may_run("sym_eig", A, size=A.shape[-1], count=_count(A)):
        return torch.ops.geocore.sym_eig(A)[0]
    return torch.linalg.eigvalsh(A)


def _svd_reference(M: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    U, s, Vh = torch.linalg.svd(M)
    return U.contiguous(), s.contiguous(), Vh.contiguous()


def _svd_gradient(inputs: tuple[Tensor], outputs: tuple[Tensor, ...], grads: tuple[Tensor, ...]) -> tuple[Tensor]:
    """``U ((skew(U^T g_U) / E) S + S (skew(V^T g_V) / E) + diag(g_s)) V^T`` with ``E_ij = s_j^2 - s_i^2`` and ``skew(X) = X - X^T``."""
    del inputs
    (U, s, Vh), (g_U, g_s, g_Vh) = outputs, grads
    eye = torch.eye(s.shape[-1], dtype=s.dtype, device=s.device)
    left, right = U.mT @ g_U, Vh @ g_Vh.mT
    E = s[..., None, :].square() - s[..., :, None].square() + eye

    def over(X: Tensor) -> Tensor:  # where only the values are differentiated, equal ones do no harm
        X = X - X.mT
        return torch.where(X == 0, X, X / E)

    core = over(left) * s[..., None, :] + s[..., :, None] * over(right) + torch.diag_embed(g_s)
    return (U @ core @ Vh,)


_ops.define(
    "svd3",
    "(Tensor M) -> (Tensor, Tensor, Tensor)",
    _svd_reference,
    lambda M: (M.new_empty(M.shape), M.new_empty(M.shape[:-1]), M.new_empty(M.shape)),
    backward=_svd_gradient,
)


def svd(M: Float[Tensor, "*batch n n"]) -> tuple[Float[Tensor, "*batch n n"], Float[Tensor, "*batch n"], Float[Tensor, "*batch n n"]]:
    """``torch.linalg.svd`` of real square matrices, by a kernel where that is faster (3x3).

    The kernel gives NaN for a matrix that is not finite, where LAPACK raises.

    Args:
        M: Shape ``(..., n, n)``, float32 or float64.

    Returns:
        ``U``, the singular values, descending, and ``V^T``.
    """
    if M.shape[-2:] == (3, 3) and _ops.kernel_may_run("svd3", M, size=3, count=_count(M)):
        return torch.ops.geocore.svd3(M)
    U, s, Vh = torch.linalg.svd(M)
    return U, s, Vh


def _plain_exp(A: Tensor) -> Tensor:
    n = A.shape[-1]
    count = 1
    for size in A.shape[:-2]:
        count *= size
    flat = A.reshape(count, n, n)
    if count == 1:
        return torch.matrix_exp(flat.expand(2, n, n).contiguous())[0].reshape(A.shape)
    return torch.matrix_exp(flat.contiguous()).reshape(A.shape)


def _exp_back(A: Tensor, g: Tensor) -> Tensor:
    """Derivative of the exponential at ``A^T`` along ``g``: the upper right block of that of ``[[A^T, g], [0, A^T]]``; differentiable."""
    n = A.shape[-1]
    unit = g.detach().abs().amax((-2, -1), keepdim=True)  # a large ``g`` would cost the exponential its accuracy
    unit = torch.where(unit > 0, unit, 1.0)
    top = torch.cat([A.mT, g / unit], -1)
    return unit * matrix_exp(torch.cat([top, torch.cat([torch.zeros_like(A), A.mT], -1)], -2))[..., :n, n:]


def _exp_gradient(inputs: tuple[Tensor], outputs: tuple[Tensor, ...], grads: tuple[Tensor, ...]) -> tuple[Tensor]:
    del outputs
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return (_exp_back(inputs[0], grads[0]),)
    return (torch.ops.geocore.small_expm_backward(inputs[0], grads[0]),)


def _like(A: Tensor, *others: Tensor) -> Tensor:
    del others
    return A.new_empty(A.shape)


_ops.define("small_expm", "(Tensor A) -> Tensor", _plain_exp, _like, backward=_exp_gradient)
_ops.define("small_expm_backward", "(Tensor A, Tensor g) -> Tensor", _exp_back, _like, differentiable=False)


def matrix_exp(A: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """The matrix exponential, by a kernel where that is faster and otherwise by ``torch.matrix_exp`` without its two traps.

    Those are a single matrix and strided memory: for one float64 matrix of norm 0.01 to 0.05 torch takes a Taylor polynomial of too
    low degree (error up to 1e4 eps). The kernel gives NaN for a matrix that is not finite.
    """
    if _ops.kernel_may_run("small_expm", A, size=A.shape[-1], count=_count(A)):
        return torch.ops.geocore.small_expm(A)
    return _plain_exp(A)
