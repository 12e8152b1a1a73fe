"""Metrics that are flat in the Cholesky factor: its strict lower triangle as it is, its diagonal through a function."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geocore.spd._checks import check_positive, values_readable
from geocore.spd._flat import Euclidean, PullBack, check_theta
from geocore.spd._point import Point, whiten

__all__ = ["BWCholesky", "LogCholesky", "PowerCholesky"]


@dataclass(frozen=True)
class _Diagonal:
    """Function of the diagonal of a Cholesky factor with its inverse and derivative."""

    kind: str
    theta: float = 1.0

    def value(self, d: Tensor) -> Tensor:
        if self.kind == "log":
            return d.log()
        return d.sqrt() if self.kind == "sqrt" else d**self.theta / self.theta

    def inverse(self, y: Tensor) -> Tensor:
        if self.kind == "log":
            return y.exp()
        if self.kind == "sqrt":
            return torch.where(y > 0, y, float("nan")).square()
        return (self.theta * y) ** (1 / self.theta)

    def slope(self, d: Tensor) -> Tensor:
        if self.kind == "log":
            return 1 / d
        return 0.5 / d.sqrt() if self.kind == "sqrt" else d ** (self.theta - 1)


def _split(A: Tensor) -> tuple[Tensor, Tensor]:
    return torch.tril(A, -1), A.diagonal(dim1=-2, dim2=-1)


class _Cholesky(PullBack):
    """Flat in the strict lower triangle of the Cholesky factor and a function of its diagonal."""

    def __init__(self, diagonal: _Diagonal, *, check: bool, compute_dtype: torch.dtype | None) -> None:
        super().__init__(Euclidean(triangular=True), check=check, compute_dtype=compute_dtype)
        self._diagonal = diagonal

    def _map(self, p: Point) -> Point:
        return p.image(self, self._mapped)

    def _mapped(self, p: Point) -> Point:
        low, d = _split(p.cholesky)
        return Point(low + torch.diag_embed(self._diagonal.value(d)), p.name, check=False)

    def _unmap(self, Y: Tensor, name: str) -> Tensor:
        low, y = _split(Y)
        if self._diagonal.kind != "log" and self.check:
            self._check_image(y, name)
        L = low + torch.diag_embed(self._diagonal.inverse(y))
        return L @ L.mT

    def _check_image(self, y: Tensor, name: str) -> None:
        if values_readable(y) and y.numel():
            check_positive(
                f"the Cholesky diagonal of {name}", (self._diagonal.theta * y if self._diagonal.kind == "power" else y).detach().amin(-1)
            )

    def _push(self, p: Point, V: Tensor) -> Tensor:
        L = p.cholesky
        A = whiten(L, V)
        dL = L @ (torch.tril(A, -1) + torch.diag_embed(A.diagonal(dim1=-2, dim2=-1)) / 2)
        low, d = _split(dL)
        return low + torch.diag_embed(d * self._diagonal.slope(L.diagonal(dim1=-2, dim2=-1)))

    def _factor_direction(self, p: Point, W: Tensor) -> Tensor:
        low, d = _split(W)
        return low + torch.diag_embed(d / self._diagonal.slope(p.cholesky.diagonal(dim1=-2, dim2=-1)))

    def _pull(self, p: Point, W: Tensor) -> Tensor:
        half = self._factor_direction(p, W) @ p.cholesky.mT
        return half + half.mT

    def _copull(self, p: Point, G: Tensor) -> Tensor:
        return self._factor_direction(p, torch.tril(2 * G @ p.cholesky))

    def _in_domain(self, p: Point, V: Tensor) -> Tensor:
        if self._diagonal.kind == "log":
            return super()._in_domain(p, V)
        end = (self._map(p).X + self._push(p, V)).diagonal(dim1=-2, dim2=-1)
        return ((end * self._diagonal.theta if self._diagonal.kind == "power" else end) > 0).all(-1)


class LogCholesky(_Cholesky):
    r"""Log-Cholesky metric: flat in the strict lower triangle and the logarithm of the diagonal of the Cholesky factor (Lin, 2019).

    Complete, no eigendecomposition anywhere, mean in closed form.

    Args:
        check, compute_dtype: As ``Metric``.

    Example:
        >>> LogCholesky().dist(torch.eye(1), torch.e**2 * torch.eye(1))
        tensor(1.)
    """

    def __init__(self, *, check: bool = True, compute_dtype: torch.dtype | None = None) -> None:
        super().__init__(_Diagonal("log"), check=check, compute_dtype=compute_dtype)


class PowerCholesky(_Cholesky):
    r"""Power-Cholesky metric: flat in the strict lower triangle and ``d^theta / theta`` of the diagonal ``d`` of the Cholesky factor.

    Not complete (``in_domain``); as ``theta`` goes to 0 it becomes log-Cholesky.

    Args:
        theta: Power, not 0.
        check, compute_dtype: As ``Metric``.

    Raises:
        ValueError: If ``theta`` is 0.

    Example:
        >>> PowerCholesky(1.0).dist(torch.eye(1), 9 * torch.eye(1))
        tensor(2.)
    """

    def __init__(self, theta: float = 1.0, *, check: bool = True, compute_dtype: torch.dtype | None = None) -> None:
        self.theta = check_theta(theta, "LogCholesky()")
        super().__init__(_Diagonal("power", self.theta), check=check, compute_dtype=compute_dtype)

    def _options(self) -> dict[str, Any]:
        return {"theta": self.theta}


class BWCholesky(_Cholesky):
    r"""Bures-Wasserstein metric on the diagonal of the Cholesky factor, flat in its strict lower triangle.

    On a positive diagonal ``d`` the Bures-Wasserstein metric is flat in ``sqrt(d)``. Not complete (``in_domain``).

    Args:
        check, compute_dtype: As ``Metric``.

    Example:
        >>> BWCholesky().dist(torch.eye(1), 16 * torch.eye(1))
        tensor(1.)
    """

    def __init__(self, *, check: bool = True, compute_dtype: torch.dtype | None = None) -> None:
        super().__init__(_Diagonal("sqrt"), check=check, compute_dtype=compute_dtype)
