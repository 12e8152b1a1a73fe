"""Exponential map of SO(n): closed forms to n = 4, planes and frequencies to n = 64, scaling and squaring beyond."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from geocore._checks import check_option, check_square
from geocore._dispatch import matrix_exp
from geocore._precision import full_precision
from geocore.son._expm_apply import expm_skew_apply
from geocore.son._spectral import skew_part

__all__ = ["exp"]

_CLOSED, _SPECTRAL = 4, 64
_SERIES = 0.25  # below this angle squared the truncated series is exact to rounding, above it the closed form is


def _sinc(t2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``cos t``, ``sin t / t`` and ``(1 - cos t) / t^2`` as smooth functions of ``t^2``, with right derivatives at 0."""
    small = t2 < _SERIES
    u = torch.where(small, t2, 0.0)
    a = 1 - u / 6 * (1 - u / 20 * (1 - u / 42 * (1 - u / 72 * (1 - u / 110 * (1 - u / 156 * (1 - u / 210))))))
    b = (1 - u / 12 * (1 - u / 30 * (1 - u / 56 * (1 - u / 90 * (1 - u / 132 * (1 - u / 182 * (1 - u / 240))))))) / 2
    t = torch.sqrt(torch.where(small, 1.0, t2))
    half = torch.sin(t / 2)
    b = torch.where(small, b, 2 * (half / t).square())
    return 1 - t2 * b, torch.where(small, a, torch.sin(t) / t), b


def _closed(S: Tensor) -> Tensor:
    """Exponential of a skew matrix of size at most 4."""
    n = S.shape[-1]
    eye = torch.eye(n, dtype=S.dtype, device=S.device)
    if n == 1:
        return eye + S
    if n == 2:
        angle = S[..., 1, 0]
        c, s = torch.cos(angle), torch.sin(angle)
        return torch.stack([torch.stack([c, -s], dim=-1), torch.stack([s, c], dim=-1)], dim=-2)
    if n == 3:
        _, a, b = (f[..., None, None] for f in _sinc(S[..., 1, 0].square() + S[..., 2, 0].square() + S[..., 2, 1].square()))
        return eye + a * S + b * (S @ S)
    # so(4) is the sum of two commuting copies of so(3), the self-dual and the anti-self-dual part; each squares to -|v|^2 I.
    d = torch.stack([S[..., 1, 0], S[..., 2, 0], S[..., 3, 0]], dim=-1)
    e = torch.stack([S[..., 3, 2], -S[..., 3, 1], S[..., 2, 1]], dim=-1)
    out = None
    for v, sign in (((d + e) / 2, 1.0), ((d - e) / 2, -1.0)):
        c, a, _ = (f[..., None, None] for f in _sinc(v.square().sum(-1)))
        x, y, z = v.unbind(-1)
        o, p, q, r = torch.zeros_like(x), sign * x, sign * y, sign * z
        rows = [[o, -x, -y, -z], [x, o, -r, q], [y, r, o, -p], [z, -q, p, o]]
        factor = c * eye + a * torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
        out = factor if out is None else out @ factor
    assert out is not None
    return out


@full_precision
def exp(
    S: Float[Tensor, "*batch n n"], *, method: Literal["auto", "closed", "spectral", "matrix_exp"] = "auto"
) -> Float[Tensor, "*batch n n"]:
    r"""Rotation ``exp(S)`` of a skew matrix.

    Only the skew part ``(S - S^T) / 2`` acts, so every method returns a rotation and a skew gradient.

    Args:
        S: Skew matrices, shape ``(..., n, n)``.
        method: ``"closed"`` for ``n <= 4`` (cosine, Rodrigues' formula, product of two isoclinic rotations), ``"spectral"``
            (``expm_skew_apply`` on the basis vectors; exact gradient at zero and repeated frequencies), ``"matrix_exp"``
            (scaling and squaring of torch and one step towards the orthogonal factor; differentiable to any order), or ``"auto"``:
            closed to ``n = 4``, spectral to ``n = 64``, matrix_exp beyond.

    Returns:
        Rotations, shape ``(..., n, n)``.

    Raises:
        ValueError: If ``S`` is not square, ``method`` is unknown, or is ``"closed"`` for ``n > 4``.
        TypeError, NotImplementedError: If ``S`` has an integer or a complex dtype.

    Example:
        >>> exp(torch.pi / 2 * torch.tensor([[0.0, -1.0], [1.0, 0.0]]))[1]  # about [1, 0]
    """
    check_square("S", S)
    check_option("method", method, ("auto", "closed", "spectral", "matrix_exp"))
    n = S.shape[-1]
    if method == "auto":
        method = "closed" if n <= _CLOSED else "spectral" if n <= _SPECTRAL else "matrix_exp"
    if method == "closed":
        if n > _CLOSED:
            raise ValueError(f"method 'closed' exists for n <= {_CLOSED}, got S of shape {tuple(S.shape)}; use 'auto'")
        return _closed(skew_part(S))
    if method == "matrix_exp":
        # Squaring loses orthogonality (150 eps at n = 80); one Newton step towards the orthogonal factor restores it, and most of
        # the accuracy, for two products.
        R = matrix_exp(skew_part(S))
        return 1.5 * R - 0.5 * R @ (R.mT @ R)
    columns = torch.eye(n, dtype=S.dtype, device=S.device)
    return expm_skew_apply(S[..., None, :, :], torch.ones((), dtype=S.dtype, device=S.device), columns).mT
