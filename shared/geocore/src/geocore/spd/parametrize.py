"""SPD matrices as parameters: maps for ``torch.nn.utils.parametrize``, and a module that is one SPD matrix.

Example:
    >>> layer = torch.nn.Linear(3, 3)
    >>> torch.nn.utils.parametrize.register_parametrization(layer, "weight", SPD("exp"))
    >>> torch.linalg.eigvalsh(layer.weight)  # positive
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geocore._checks import check_option, check_positive_int
from geocore.spd._checks import NotPositiveDefiniteError, check_matrix, check_symmetric, no_autocast, values_readable, work_dtype
from geocore.spd._differences import EXP, LOG, Elementwise
from geocore.spd._equations import cholesky_of
from geocore.spd._spectral import apply, factorise, reassemble

__all__ = ["SPD", "SPDParameter"]

Map = Literal["exp", "cholesky", "softplus"]


def _softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros_like(x))  # functional.softplus is the identity beyond 20, wrong by 2e-9


def _softplus_difference(a: Tensor, b: Tensor) -> Tensor:
    low, step = torch.minimum(a, b), (a - b).abs()
    equal, far = step == 0, step > 30
    safe = torch.where(equal | far, 1.0, step)
    near = torch.log1p(torch.sigmoid(low) * torch.expm1(safe)) / safe
    quotient = (_softplus(a) - _softplus(b)).abs() / torch.where(far, step, 1.0)
    return torch.where(equal, torch.sigmoid(low), torch.where(far, quotient, near))


class _NoParameterError(NotPositiveDefiniteError, NotImplementedError):
    """Torch takes NotImplementedError at registration for "keep the tensor as the parameter"; to everyone else it is a ValueError."""


_SOFTPLUS = Elementwise(_softplus, _softplus_difference)


class SPD(nn.Module):
    r"""Map from a free ``n x n`` matrix onto SPD matrices, with its inverse, for ``torch.nn.utils.parametrize``.

    | map | matrix | notes |
    |---|---|---|
    | ``"exp"`` | ``exp((A + A^T) / 2)`` | one eigendecomposition, gradient exact at repeated eigenvalues |
    | ``"cholesky"`` | ``L L^T``, ``L`` the lower triangle of ``A`` with the exponential of its diagonal | cheapest |
    | ``"softplus"`` | ``U diag(log(1 + e^l)) U^T`` for ``(A + A^T) / 2 = U diag(l) U^T`` | grows linearly, mild for large eigenvalues |

    Every parameter gives an SPD matrix and every SPD matrix has a parameter; 0 gives the identity (``log(2) I`` for softplus).

    Args:
        map: Which one.

    Raises:
        ValueError: If the map is unknown.

    Example:
        >>> SPD("exp")(torch.zeros(2, 2))
        tensor([[1., 0.],
                [0., 1.]])
    """

    def __init__(self, map: Map = "exp") -> None:  # noqa: A002 - the name in geocore.orthogonal
        super().__init__()
        check_option("map", map, ("exp", "cholesky", "softplus"))
        self.map = map

    @no_autocast
    def _forward(self, raw: Tensor) -> Tensor:
        check_matrix("raw", raw)
        if self.map == "cholesky":
            A = raw.to(work_dtype(raw, None))
            L = torch.tril(A, -1) + torch.diag_embed(A.diagonal(dim1=-2, dim2=-1).exp())
            return (L @ L.mT).to(raw.dtype)
        s = factorise("raw", raw, positive=False, check=False)
        return apply(s, EXP if self.map == "exp" else _SOFTPLUS).to(raw.dtype)

    def forward(self, raw: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
        """SPD matrices, shape ``(..., n, n)``, of parameters of the same shape."""
        return SPD._forward(self, raw)

    def right_inverse(self, X: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
        """Parameter of given SPD matrices; called when the weight is assigned, and when the parametrisation is registered.

        A weight that is not SPD when the parametrisation is registered, a random initialisation say, becomes the free parameter itself.

        Raises:
            NotPositiveDefiniteError: If ``X`` is not symmetric positive definite.
            ValueError: If ``X`` is not square.
            TypeError: If ``X`` is not real floating point.
        """
        check_matrix("X", X)
        try:
            return self._inverse(X)
        except NotPositiveDefiniteError as error:
            raise _NoParameterError(str(error), error.index, error.smallest) from None
        except ValueError as error:
            raise _NoParameterError(str(error)) from None

    @torch.no_grad()
    def _inverse(self, X: Tensor) -> Tensor:
        if self.map == "cholesky":
            if values_readable(X):
                check_symmetric("X", X)
            W = X.to(work_dtype(X, None))
            L = cholesky_of("X", (W + W.mT) / 2, check=True)
            raw = torch.tril(L, -1) + torch.diag_embed(L.diagonal(dim1=-2, dim2=-1).log())
            return raw.to(X.dtype)
        s = factorise("X", X)
        values = LOG.value(s.values) if self.map == "exp" else s.values + torch.log(-torch.expm1(-s.values))
        return reassemble(s.vectors, values).to(X.dtype)

    def extra_repr(self) -> str:
        """Configuration for ``repr``."""
        return f"map={self.map!r}"


class SPDParameter(nn.Module):
    """One trainable SPD matrix (or a batch): a free parameter and the map that makes it SPD; call it for the matrix.

    Args:
        init: Size ``n``, starting at the identity, or SPD matrices of shape ``(..., n, n)`` to start from.
        map: As ``SPD``.
        dtype, device: Of the parameter; those of ``init`` if it is a tensor.

    Raises:
        NotPositiveDefiniteError: If ``init`` is a tensor that is not positive definite.
        ValueError: If the map is unknown, or ``init`` is not square, not symmetric, or below 1.
        TypeError: If ``init`` is neither an int nor a real floating-point tensor.

    Example:
        >>> M = SPDParameter(3)
        >>> M()
        tensor([[1., 0., 0.],
                [0., 1., 0.],
                [0., 0., 1.]], grad_fn=<ToCopyBackward0>)
    """

    start: Tensor

    def __init__(
        self,
        init: int | Float[Tensor, "*batch n n"],
        *,
        map: Map = "exp",  # noqa: A002 - the name in geocore.orthogonal
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if isinstance(init, Tensor):
            check_matrix("init", init)
            X = init.detach().to(dtype=dtype or init.dtype, device=device or init.device).clone()
        else:
            check_positive_int("init", init)
            X = torch.eye(init, dtype=dtype, device=device)
        self.spd = SPD(map)
        self.register_buffer("start", X, persistent=False)
        self.raw = nn.Parameter(self.spd.right_inverse(X))

    def forward(self) -> Float[Tensor, "*batch n n"]:
        """The matrix, shape ``(..., n, n)``."""
        return self.spd(self.raw)

    @torch.no_grad()
    def set_(self, X: Float[Tensor, "*batch n n"]) -> "SPDParameter":
        """Make the matrix equal to ``X``.

        Raises:
            NotPositiveDefiniteError: If ``X`` is not positive definite.
            ValueError: If the shape differs or ``X`` is not symmetric.
            TypeError: If ``X`` is not real floating point.
        """
        check_matrix("X", X)
        if X.shape != self.raw.shape:
            raise ValueError(f"X must have shape {tuple(self.raw.shape)}, got {tuple(X.shape)}")
        self.raw.copy_(self.spd.right_inverse(X))
        return self

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Back to the matrix it was made with."""
        self.raw.copy_(self.spd.right_inverse(self.start))

    def extra_repr(self) -> str:
        """Configuration for ``repr``."""
        return f"{tuple(self.raw.shape)}, map={self.spd.map!r}"
