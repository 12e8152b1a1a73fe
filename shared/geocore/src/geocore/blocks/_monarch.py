"""Block-diagonal products and Monarch products: block-diagonal, transpose, block-diagonal.

These are learned layers: unlike rotations they are computed in the dtype of their input, half precision included, as ``F.linear`` is.
"""

import torch
from jaxtyping import Inexact
from torch import Tensor

from geocore._checks import check_floating

__all__ = ["blockdiag_dense", "blockdiag_matmul", "monarch_dense", "monarch_matmul"]


def _check_factor(name: str, w: Tensor) -> None:
    check_floating(name, w, allow_complex=True)
    if w.ndim != 3:
        raise ValueError(f"{name} must have shape (blocks, out, in), got {tuple(w.shape)}")


def _check_input(x: Tensor, features: int, w: Tensor) -> None:
    check_floating("x", x, allow_complex=True)
    if x.ndim == 0 or x.shape[-1] != features:
        raise ValueError(f"x must have shape (..., {features}), {w.shape[0]} blocks of {w.shape[2]} inputs, got {tuple(x.shape)}")


def _per_block(x: Tensor, w: Tensor) -> Tensor:
    """``(k, B, p)`` times ``(k, q, p)`` gives ``(k, B, q)``."""
    dtype = torch.promote_types(x.dtype, w.dtype)
    return torch.bmm(x.to(dtype), w.to(dtype).mT)


def blockdiag_matmul(x: Inexact[Tensor, "*batch kp"], w: Inexact[Tensor, "k q p"]) -> Inexact[Tensor, "*batch kq"]:
    """Apply ``blockdiag(w_1, ..., w_k)`` to vectors: block ``i`` maps entries ``i p .. (i+1) p`` to ``i q .. (i+1) q``.

    Args:
        x: Vectors, shape ``(..., k p)``.
        w: Blocks, shape ``(k, q, p)``, real or complex.

    Returns:
        Shape ``(..., k q)``, promoted dtype.

    Raises:
        ValueError: If a shape does not fit.
        TypeError: If an argument is not floating or complex.

    Example:
        >>> blockdiag_matmul(torch.ones(4), torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]]))
        tensor([3., 7.])
    """
    _check_factor("w", w)
    k, q, p = w.shape
    _check_input(x, k * p, w)
    y = _per_block(x.reshape(-1, k, p).transpose(0, 1), w)
    return y.transpose(0, 1).reshape(*x.shape[:-1], k * q)


def monarch_matmul(
    x: Inexact[Tensor, "*batch kp"], w1: Inexact[Tensor, "k q p"], w2: Inexact[Tensor, "l s r"]
) -> Inexact[Tensor, "*batch ls"]:
    """Apply a Monarch product to vectors (Dao et al., ICML 2022; arXiv 2204.00595).

    ``u = blockdiag(w1) x`` is read as ``(r, l)`` and transposed to ``(l, r)``; ``v = blockdiag(w2) u``; output entry ``ss l + ll`` is
    ``v[ll, ss]``.

    Args:
        x: Vectors, shape ``(..., k p)``.
        w1: First blocks, shape ``(k, q, p)``.
        w2: Second blocks, shape ``(l, s, r)`` with ``k q = l r``.

    Returns:
        Shape ``(..., l s)``, promoted dtype.

    Raises:
        ValueError: If a shape does not fit.
        TypeError: If an argument is not floating or complex.

    Example:
        >>> w = torch.randn(4, 4, 4)
        >>> monarch_matmul(torch.randn(10, 16), w, w).shape
        torch.Size([10, 16])
    """
    _check_factor("w1", w1)
    _check_factor("w2", w2)
    k, q, p = w1.shape
    l, s, r = w2.shape  # noqa: E741
    if k * q != l * r:
        raise ValueError(
            f"w1 and w2 must meet in k q = l r entries, got w1 {tuple(w1.shape)} and w2 {tuple(w2.shape)}: {k * q} and {l * r}"
        )
    _check_input(x, k * p, w1)
    dtype = torch.promote_types(x.dtype, torch.promote_types(w1.dtype, w2.dtype))
    # Vectors are columns here, so the transpose between the factors is a view that the matrix product reads in place.
    u = torch.bmm(w1.to(dtype), x.to(dtype).reshape(-1, k, p).permute(1, 2, 0))
    v = torch.bmm(w2.to(dtype), u.reshape(r, l, u.shape[-1]).transpose(0, 1))
    return v.permute(2, 1, 0).reshape(*x.shape[:-1], l * s)


def blockdiag_dense(w: Inexact[Tensor, "k q p"]) -> Inexact[Tensor, "kq kp"]:
    """Dense matrix of ``blockdiag_matmul``, shape ``(k q, k p)``.

    Raises:
        ValueError: If ``w`` does not have three dimensions.
        TypeError: If ``w`` is not floating or complex.
    """
    _check_factor("w", w)
    return blockdiag_matmul(torch.eye(w.shape[0] * w.shape[2], dtype=w.dtype, device=w.device), w).mT


def monarch_dense(w1: Inexact[Tensor, "k q p"], w2: Inexact[Tensor, "l s r"]) -> Inexact[Tensor, "out in"]:
    """Dense matrix of ``monarch_matmul``, shape ``(l s, k p)``.

    Raises:
        ValueError: If a shape does not fit.
        TypeError: If an argument is not floating or complex.
    """
    _check_factor("w1", w1)
    dtype = torch.promote_types(w1.dtype, w2.dtype)
    return monarch_matmul(torch.eye(w1.shape[0] * w1.shape[2], dtype=dtype, device=w1.device), w1, w2).mT
