"""Multinomial logistic regression on SPD matrices (Chen et al., CVPR 2024 and NeurIPS 2024)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geocore import spd
from geocore._checks import check_option, check_positive_int
from geocore._precision import full_precision
from spdnorm import functional as F
from spdnorm._checks import check_definite, check_matrices, pass_nan, readable
from spdnorm._metrics import METRICS
from spdnorm._weights import Param, SPDWeight

__all__ = ["SPDMLR"]


class SPDMLR(nn.Module):
    r"""Classifier whose logits are signed distances to hyperplanes: ``<log_P S, A~>_P`` for a point ``P_k`` and a normal ``A_k`` per class.

    | metric | logit |
    |---|---|
    | ``"lem"`` | ``<log S - log P, A>`` |
    | ``"airm"`` | ``<log(P^(-theta/2) S^theta P^(-theta/2)), A> / theta`` |
    | ``"pem"`` | ``<S^theta - P^theta, A> / theta`` |
    | ``"lcm"`` | ``<tril K - tril L + log diag K - log diag L, tril A + diag A / 2> / theta``; ``K, L = chol S^theta, chol P^theta`` |
    | ``"bw"`` | ``<log_B S^(2 theta), L_B[C A C^T]> / (4 theta)`` with ``B = P^(2 theta) = C C^T`` in Bures-Wasserstein geometry |

    The product is ``alpha <V, A> + beta tr V tr A`` for airm, lem and pem.

    Args:
        n: Size of the matrices.
        classes: Number of classes.
        metric: A name above.
        theta: Power, not zero.
        alpha: Positive.
        beta: More than ``-alpha / n``.
        param: ``"exp"`` for any optimizer, ``"geoopt"`` for Riemannian ones.
        dtype, device: Of the parameters. ``P`` starts at ``I``, ``A`` uniformly within ``sqrt(6 / n^2)``.

    Shape:
        ``(..., n, n)`` to logits ``(..., classes)``.

    Raises:
        ValueError: If an option is unknown or out of range.
        TypeError: If a size is not an int.

    Example:
        >>> SPDMLR(12, 10, "lem")(torch.eye(12, dtype=torch.float64)).shape
        torch.Size([10])
    """

    def __init__(
        self,
        n: int,
        classes: int,
        metric: str = "lem",
        theta: float = 1.0,
        alpha: float = 1.0,
        beta: float = 0.0,
        *,
        param: Param = "exp",
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        check_positive_int("n", n)
        check_positive_int("classes", classes)
        check_option("metric", metric, METRICS)
        F.check_theta(theta)
        if not alpha > 0 or not beta > -alpha / n:
            raise ValueError(f"alpha must be positive and beta more than -alpha / n = {-alpha / n:.3g}, got alpha={alpha}, beta={beta}")
        self.n, self.classes, self.metric, self.theta, self.alpha, self.beta = n, classes, metric, float(theta), alpha, beta
        eye = torch.eye(n, dtype=dtype, device=device)
        self.point = SPDWeight(eye.expand(classes, n, n), param=param)
        self.A = nn.Parameter(torch.empty(classes, n, n, dtype=dtype, device=device))
        self.reset_parameters()

    @property
    def P(self) -> Tensor:
        """The points, SPD ``(classes, n, n)``; assign to set them."""
        return self.point()

    @P.setter
    def P(self, value: Tensor) -> None:
        self.point.assign(value)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Points at ``I``, normals drawn anew."""
        self.point.assign(torch.eye(self.n))
        bound = math.sqrt(6.0 / self.n**2)
        nn.init.uniform_(self.A, -bound, bound)

    def forward(self, S: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch classes"]:
        """Logits of SPD matrices.

        Raises:
            ValueError: If the size is wrong.
            NotPositiveDefiniteError: If a matrix is not positive definite (looked at on the CPU).
            TypeError: If ``S`` is an integer or complex tensor.
        """
        check_matrices("S", S, self.n)
        if S.device.type == "cpu" and readable():
            check_definite("S", S)
        return pass_nan(self._logits, S)

    @full_precision
    def _logits(self, S: Tensor) -> Tensor:
        dtype = torch.promote_types(S.dtype, self.A.dtype)
        A, P = spd.sym(self.A).to(dtype), self.P.to(dtype)
        return getattr(self, f"_{self.metric}")(S.to(dtype), P, A).to(S.dtype)

    def _pair(self, V: Tensor, D: Tensor, A: Tensor) -> Tensor:
        """``<V - D_k, A_k>`` in the invariant product, without forming the differences."""
        value = self.alpha * (torch.einsum("...ij,kij->...k", V, A) - (D * A).sum((-2, -1)))
        if self.beta:
            trace = V.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None] - D.diagonal(dim1=-2, dim2=-1).sum(-1)
            value = value + self.beta * trace * A.diagonal(dim1=-2, dim2=-1).sum(-1)
        return value

    def _lem(self, S: Tensor, P: Tensor, A: Tensor) -> Tensor:
        return self._pair(spd.logm(S, check=False), spd.logm(P, check=False), A)

    def _pem(self, S: Tensor, P: Tensor, A: Tensor) -> Tensor:
        return self._pair(spd.powm(S, self.theta, check=False), spd.powm(P, self.theta, check=False), A) / self.theta

    def _airm(self, S: Tensor, P: Tensor, A: Tensor) -> Tensor:
        root = spd.powm(P, -self.theta / 2, check=False)
        V = spd.logm(F.congruence(root, spd.powm(S, self.theta, check=False).unsqueeze(-3)), check=False)
        value = self.alpha * (V * A).sum((-2, -1))
        if self.beta:
            value = value + self.beta * V.diagonal(dim1=-2, dim2=-1).sum(-1) * A.diagonal(dim1=-2, dim2=-1).sum(-1)
        return value / self.theta

    def _lcm(self, S: Tensor, P: Tensor, A: Tensor) -> Tensor:
        def chart(X: Tensor) -> Tensor:
            L = torch.linalg.cholesky_ex(X if self.theta == 1 else spd.powm(X, self.theta, check=False))[0]
            return torch.tril(L, -1) + torch.diag_embed(L.diagonal(dim1=-2, dim2=-1).log())

        half = torch.tril(A, -1) + torch.diag_embed(A.diagonal(dim1=-2, dim2=-1) / 2)
        return (torch.einsum("...ij,kij->...k", chart(S), half) - (chart(P) * half).sum((-2, -1))) / self.theta

    def _bw(self, S: Tensor, P: Tensor, A: Tensor) -> Tensor:
        B = spd.powm(P, 2 * self.theta, check=False)
        tangent = spd.lyapunov(B, F.congruence(torch.linalg.cholesky_ex(B)[0], A), check=False)
        root, inverse = spd.sqrtm_invsqrtm(B, check=False)
        half = root @ spd.sqrtm(F.congruence(root, spd.powm(S, 2 * self.theta, check=False).unsqueeze(-3)), check=False) @ inverse
        return ((half + half.mT - 2 * B) * tangent).sum((-2, -1)) / (4 * self.theta)

    def extra_repr(self) -> str:
        """Configuration for ``repr``."""
        return f"{self.n}, {self.classes}, metric={self.metric!r}, theta={self.theta}, alpha={self.alpha}, beta={self.beta}"
