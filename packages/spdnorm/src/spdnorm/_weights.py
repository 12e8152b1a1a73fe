"""Parameters on manifolds, trained by any torch optimizer through a map or by geoopt's Riemannian optimizers as they are."""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from geocore import orthogonal, son, spd
from geocore._checks import check_option

__all__ = ["Param", "SPDWeight", "StiefelWeight", "parameter_groups"]

Param = Literal["exp", "geoopt"]
PARAMS = ("exp", "geoopt")


class SPDWeight(nn.Module):
    """A symmetric positive definite matrix that starts at a given value.

    Args:
        value: SPD matrices, shape ``(..., n, n)``.
        param: ``"exp"``: the matrix is the exponential of a symmetric parameter, for any optimizer. ``"geoopt"``: the matrix itself is a
            ``geoopt.ManifoldParameter`` with the affine-invariant metric.
        learn: Whether to train it; otherwise a buffer.

    Raises:
        ValueError: If ``param`` is unknown.
        ImportError: If geoopt is asked for and missing.
    """

    weight: Tensor

    def __init__(self, value: Tensor, *, param: Param = "exp", learn: bool = True) -> None:
        super().__init__()
        check_option("param", param, PARAMS)
        self.param, self.learn = param, learn
        if not learn:
            self.register_buffer("weight", value.clone())
        elif param == "geoopt":
            from spdnorm.integrations.geoopt import spd_parameter

            self.weight = spd_parameter(value.clone())
        else:
            self.weight = nn.Parameter(spd.logm(value))

    def forward(self) -> Tensor:
        """The matrix."""
        if self.learn and self.param == "exp":
            return spd.expm(self.weight, check=False)
        return self.weight

    @torch.no_grad()
    def assign(self, value: Tensor) -> None:
        """Set the matrix, in place.

        Raises:
            ValueError: If the shape does not broadcast to the parameter's.
            NotPositiveDefiniteError: If it is not positive definite.
        """
        value = torch.as_tensor(value).to(self.weight)
        try:
            value = value.expand(self.weight.shape)
        except RuntimeError:
            raise ValueError(f"value must have shape {tuple(self.weight.shape)}, got {tuple(value.shape)}") from None
        log = spd.logm(value)  # also refuses what is not positive definite
        self.weight.copy_(log if self.learn and self.param == "exp" else value)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay must not touch."""
        return {"weight"}

    def extra_repr(self) -> str:
        """Configuration for ``repr``."""
        return f"{tuple(self.weight.shape)}, param={self.param!r}, learn={self.learn}"


class StiefelWeight(nn.Module):
    """Matrices with orthonormal columns, uniformly random at first (the Q factor of a Gaussian matrix).

    Args:
        shape: ``(..., n, k)`` with ``n >= k``.
        param: ``"exp"``: ``B exp(A - A^T)`` with a fixed random rotation ``B``, first ``k`` columns, for any optimizer. ``"geoopt"``: a
            ``geoopt.ManifoldParameter`` on the Stiefel manifold.
        generator: Source of randomness.
        dtype, device: Of the parameter.
    """

    weight: Tensor
    base: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        param: Param = "exp",
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        check_option("param", param, PARAMS)
        *batch, n, k = shape
        self.shape, self.param = tuple(shape), param
        start = torch.empty(*batch, n, n, dtype=dtype, device=device)
        if param == "geoopt":
            from spdnorm.integrations.geoopt import stiefel_parameter

            self.weight = stiefel_parameter(orthogonal.orthogonal_(start, generator=generator)[..., :k].contiguous())
        else:
            self.register_buffer("base", start)
            self.weight = nn.Parameter(torch.zeros_like(start))
            self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw anew."""
        if self.param == "geoopt":
            full = self.weight.new_empty(*self.shape[:-1], self.shape[-2])
            self.weight.copy_(orthogonal.orthogonal_(full, generator=generator)[..., : self.shape[-1]])
        else:
            orthogonal.orthogonal_(self.base, generator=generator)
            self.weight.zero_()

    def forward(self) -> Tensor:
        """The matrices, shape ``(..., n, k)``."""
        if self.param == "geoopt":
            return self.weight
        return (self.base @ son.exp(self.weight - self.weight.mT))[..., : self.shape[-1]]

    @torch.no_grad()
    def assign(self, value: Tensor) -> None:
        """Set the matrices, in place; projected to the nearest with orthonormal columns.

        Raises:
            ValueError: If the shape does not broadcast to the parameter's.
        """
        value = torch.as_tensor(value).to(self.weight)
        try:
            value = orthogonal.polar(value.expand(self.shape).clone())
        except RuntimeError:
            raise ValueError(f"value must have shape {self.shape}, got {tuple(value.shape)}") from None
        if self.param == "geoopt":
            self.weight.copy_(value)
        else:
            rest = torch.linalg.qr(value, mode="complete")[0][..., self.shape[-1] :]
            self.base.copy_(torch.cat([value, rest], dim=-1))
            self.weight.zero_()

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay must not touch."""
        return {"weight"}

    def extra_repr(self) -> str:
        """Configuration for ``repr``."""
        return f"{self.shape}, param={self.param!r}"


def parameter_groups(model: nn.Module | Iterable[nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups for an optimizer: weight decay for ordinary weights, none for points of manifolds, scales, biases and norms.

    Metric and bias matrices of batch normalisations, base points of SPD classifiers and Stiefel weights are points of a manifold (or
    logarithms of them): decay would pull them to a matrix that means nothing.

    Args:
        model: A module, or several.
        weight_decay: For the first group.

    Returns:
        Groups with keys ``"params"`` and ``"weight_decay"``; every trainable parameter is in one of them.

    Example:
        >>> model = SPDNet([20, 12], n_classes=10)
        >>> torch.optim.SGD(parameter_groups(model, 5e-2), lr=2.5e-3, momentum=0.9)
    """
    modules = [model] if isinstance(model, nn.Module) else list(model)
    decayed: list[Tensor] = []
    exempt: list[Tensor] = []
    seen: set[int] = set()
    for top in modules:
        for module in top.modules():
            spared: Any = getattr(module, "no_weight_decay", set)()
            for name, parameter in module.named_parameters(recurse=False):
                if id(parameter) in seen or not parameter.requires_grad:
                    continue
                seen.add(id(parameter))
                (exempt if name in spared or parameter.ndim < 2 else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": exempt, "weight_decay": 0.0}]
