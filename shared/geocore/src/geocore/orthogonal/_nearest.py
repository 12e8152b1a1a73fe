"""Nearest orthogonal matrix and nearest rotation of a square matrix, with the explicit gradient."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from geocore import _ops
from geocore._dispatch import needs_composable, svd
from geocore.orthogonal import _nearest3

__all__ = ["nearest_orthogonal", "nearest_rotation"]


def _signed_svd(M: Tensor, special: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``R = U V^T`` and ``U, s, V^T`` with ``M = U diag(s) V^T``; if ``special``, ``det R = 1`` and the last of ``s`` carries the sign."""
    U, s, Vh = svd(M)
    R = U @ Vh
    if special:
        flip = torch.where(_det(R) < 0, -1.0, 1.0).to(M.dtype)[..., None]
        U = torch.cat([U[..., :-1], U[..., -1:] * flip[..., None]], dim=-1)
        s = torch.cat([s[..., :-1], s[..., -1:] * flip], dim=-1)
        R = U @ Vh  # again, since a correction of rank one would lose an eps of orthogonality
    else:
        U = U.contiguous()
    return R, U, s, Vh.contiguous()  # one memory layout, the one that the fake implementation promises


def _det(R: Tensor) -> Tensor:
    if R.shape[-1] == 3:  # an LU factorisation per matrix costs more than the product and the correction together
        a, b, c = R.unbind(-2)
        return (a * torch.linalg.cross(b, c)).sum(-1)
    return torch.linalg.det(R)


def _inverse_sums(s: Tensor) -> Tensor:
    """``1 / (s_i + s_j)``, and 0 where the sum vanishes: there the nearest matrix is not unique and turns freely."""
    most = s[..., :1].abs()
    unit = s / torch.where(most > 0, most, 1.0)
    sums = unit[..., :, None] + unit[..., None, :]
    floor = (4 * torch.finfo(s.dtype).eps) ** 2
    return sums / (sums.square() + floor) / torch.where(most > 0, most, 1.0)[..., None]


def _backward(ctx: Any, g: Tensor, *unused: Any) -> tuple[Tensor | None, None]:
    M, U, s, Vh = ctx.saved_tensors
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # create_graph=True: differentiable again
        return _differentiable_gradient(M, g, ctx.special), None
    return _gradient(U, s, Vh, g), None


def _gradient(U: Tensor, s: Tensor, Vh: Tensor, g: Tensor) -> Tensor:
    B = U.mT @ g @ Vh.mT
    return U @ ((B - B.mT) * _inverse_sums(s)) @ Vh


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.special = inputs[1]
    ctx.save_for_backward(inputs[0], *output[1:])


def _fake(M: Tensor, special: bool) -> tuple[Tensor, ...]:
    return M.new_empty(M.shape), M.new_empty(M.shape), M.new_empty(M.shape[:-1]), M.new_empty(M.shape)


def _differentiable_gradient(M: Tensor, g: Tensor, special: bool = True) -> Tensor:
    return torch.autograd.grad(_plain(M, special)[0], M, g, create_graph=True)[0]


def _plain(M: Tensor, special: bool) -> tuple[Tensor, Tensor]:
    """The same with first and second derivatives from plain operators, right under every transform.

    The decomposition is constant. In its basis ``M`` is ``F = diag(s) + dF`` with ``dF`` zero in value; the rotation ``P`` that makes
    ``P^T F`` symmetric is ``I`` in value and follows from two Newton steps with a constant Jacobian, one per order.
    """
    fixed = M.detach()
    _, U, s, Vh = _signed_svd(fixed, special)
    inverse = _inverse_sums(s)
    F = torch.diag_embed(s) + U.mT @ (M - fixed) @ Vh.mT
    X = (F - F.mT) * inverse
    P = torch.eye(M.shape[-1], dtype=M.dtype, device=M.device) + X + X @ X / 2
    F = P.mT @ F
    P = P + P @ ((F - F.mT) * inverse)
    return U @ P @ Vh, s


_LIBRARY = torch.library.Library("geocore", "FRAGMENT")
_LIBRARY.define("nearest_orthogonal(Tensor M, bool special) -> (Tensor, Tensor, Tensor, Tensor)")
_LIBRARY.impl("nearest_orthogonal", _signed_svd, "CompositeExplicitAutograd")
torch.library.register_fake("geocore::nearest_orthogonal", _fake, lib=_LIBRARY)
torch.library.register_autograd("geocore::nearest_orthogonal", _backward, setup_context=_save, lib=_LIBRARY)
_nearest3.register(_LIBRARY, _differentiable_gradient)


def _rotation3(M: Tensor) -> tuple[Tensor, Tensor]:
    R, _, s, _ = _signed_svd(M, special=True)
    return R, s


def _rotation3_grad(M: Tensor, g: Tensor) -> Tensor:
    return _gradient(*_signed_svd(M, special=True)[1:], g)


def _rotation3_backward(inputs: tuple[Tensor], outputs: tuple[Tensor, ...], grads: tuple[Tensor, ...]) -> tuple[Tensor]:
    del outputs  # the singular values are constants
    M, g = inputs[0], grads[0]
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return (_differentiable_gradient(M, g),)
    return (torch.ops.geocore.procrustes3_backward(M, g),)


# 3x3 in one pass, in float64 whatever the dtype, for compiled kernels.
_ops.define(
    "procrustes3",
    "(Tensor M) -> (Tensor, Tensor)",
    _rotation3,
    lambda M: (M.new_empty(M.shape), M.new_empty(M.shape[:-1])),
    backward=_rotation3_backward,
)
_ops.define(
    "procrustes3_backward", "(Tensor M, Tensor g) -> Tensor", _rotation3_grad, lambda M, g: M.new_empty(M.shape), differentiable=False
)


def _kernel(M: Tensor) -> bool:
    if M.shape[-2:] != (3, 3):
        return False
    return _ops.kernel_may_run("procrustes3", M, size=3, count=None if torch.compiler.is_compiling() else M.shape[:-2].numel())


def nearest_orthogonal(M: Float[Tensor, "*batch n n"], *, special: bool) -> tuple[Float[Tensor, "*batch n n"], Float[Tensor, "*batch n"]]:
    """Nearest orthogonal matrix (rotation, if ``special``) and the singular values of ``M``, the last one signed if ``special``.

    The singular values are constants. Derivatives up to second order are exact.
    """
    if needs_composable():
        return _plain(M, special)
    if special and _kernel(M):
        R, s = torch.ops.geocore.procrustes3(M)
        return R, s.detach()
    R, _, s, _ = torch.ops.geocore.nearest_orthogonal(M, special)
    return R, s.detach()


def nearest_rotation(M: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """``nearest_orthogonal(M, special=True)[0]`` by the fastest right path."""
    if _kernel(M):
        return torch.ops.geocore.procrustes3(M)[0]
    if M.shape[-1] == 3 and M.dtype == _nearest3.FAST_DTYPE and M.device.type == "cpu" and not needs_composable():
        return torch.ops.geocore.nearest_rotation3(M)[0]
    return nearest_orthogonal(M, special=True)[0]
