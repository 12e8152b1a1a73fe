"""Orthogonal weights by construction: parametrisations for ``torch.nn.utils.parametrize``."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize as torch_parametrize

from geocore._checks import check_floating, check_option, check_positive_int
from geocore._precision import full_precision
from geocore.orthogonal._nearest import nearest_orthogonal
from geocore.orthogonal._polar import polar

__all__ = ["Orthogonal", "orthogonal_", "parametrize"]

Map = Literal["exp", "cayley", "householder", "polar"]


def _random(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    work = like.dtype if like.dtype in (torch.float32, torch.float64) else torch.float32
    Q, R = torch.linalg.qr(torch.randn(shape, dtype=work, device=like.device, generator=generator))
    return Q * torch.where(R.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(Q.dtype)[..., None, :]


def _with_det(Q: Tensor, det: int | None) -> Tensor:
    """Flip the last column where a square matrix has the other determinant."""
    if det is None or Q.shape[-1] != Q.shape[-2]:
        return Q
    flip = torch.where(torch.linalg.det(Q) * det < 0, -1.0, 1.0).to(Q.dtype)
    return torch.cat([Q[..., :-1], Q[..., -1:] * flip[..., None, None]], dim=-1)


def _check_det(det: int | None, n: int, k: int) -> None:
    if det not in (None, 1, -1):
        raise ValueError(f"det must be None, +1 or -1, got {det!r}")
    if det is not None and n != k:
        raise ValueError(f"det is defined for square matrices only, got {n} x {k} and det={det}")


class Orthogonal(nn.Module):
    r"""Map from a free ``n x k`` (or, for exp and Cayley, ``n x n``) parameter to matrices with orthonormal columns.

    Whatever the parameter holds, zero included, the result is orthonormal, so weight decay shrinks the parameter and never the
    matrix; with ``trivialize`` it pulls towards the starting point. Wide matrices (``k > n``) get orthonormal rows.

    | map | parameter | ``Q`` | reaches |
    |---|---|---|---|
    | ``"exp"`` | ``A (n, n)`` | ``B exp((A - A^T) / 2)``, first ``k`` columns | everything with the determinant of ``B`` |
    | ``"cayley"`` | ``A (n, n)`` | ``B cayley((A - A^T) / 2)``, first ``k`` columns | the same, without half turns |
    | ``"householder"`` | ``V (n, k)`` | ``H(v_1) ... H(v_k) D``, first ``k`` columns, ``D`` fixed signs | everything of one determinant |
    | ``"polar"`` | ``M (n, k)`` | nearest orthonormal matrix | everything, or one determinant with ``det`` |

    A zero Householder vector stands for the reflection of its own axis, so the determinant does not depend on the parameter.

    Args:
        n: Rows.
        k: Columns; ``n`` by default.
        map: Which map.
        det: Determinant of square matrices: +1, -1, or ``None`` for that of the start.
        trivialize: For exp and Cayley: keep the start as the fixed ``B`` and the parameter at 0. Otherwise ``B`` is the identity (with the
            sign of ``det``), and only matrices near it can be assigned.
        init: Start for ``reset``: ``"haar"`` or ``"identity"``.
        generator: Randomness of the start.

    Raises:
        ValueError: If an option is unknown, a size is below 1, or ``det`` is given for a matrix that is not square.
        TypeError: If a size is not an int.

    Example:
        >>> layer = torch.nn.Linear(8, 8)
        >>> parametrize(layer, map="cayley", det=+1)
        >>> torch.linalg.det(layer.weight)  # 1
    """

    base: Tensor

    def __init__(
        self,
        n: int,
        k: int | None = None,
        *,
        map: Map = "exp",  # noqa: A002 - the name in the literature
        det: int | None = None,
        trivialize: bool = True,
        init: Literal["haar", "identity"] = "haar",
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        k = n if k is None else k
        check_positive_int("n", n)
        check_positive_int("k", k)
        check_option("map", map, ("exp", "cayley", "householder", "polar"))
        check_option("init", init, ("haar", "identity"))
        _check_det(det, n, k)
        self.n, self.k, self.map, self.det, self.trivialize, self.init = n, k, map, det, trivialize, init
        tall, thin = max(n, k), min(n, k)
        eye = torch.eye(tall, dtype=dtype, device=device)
        # exp and Cayley: the fixed left factor. Householder: the signs. Polar: nothing is fixed, but a buffer must exist to load.
        shape = {"exp": eye, "cayley": eye, "householder": eye[0, :thin] * 0 + 1, "polar": eye[:0, :0]}[map]
        self.register_buffer("base", shape.clone())
        self._start = self._draw(generator, eye)

    def _draw(self, generator: torch.Generator | None, like: Tensor) -> Tensor:
        tall, thin = max(self.n, self.k), min(self.n, self.k)
        Q = _random((tall, thin), like, generator).to(like.dtype) if self.init == "haar" else like[:, :thin].clone()
        Q = _with_det(Q, self.det)
        return Q.mT if self.k > self.n else Q

    @torch.no_grad()
    def reset(self, generator: torch.Generator | None = None) -> Tensor:
        """A new starting parameter; also moves the fixed part of the map."""
        return self.right_inverse(self._draw(generator, self.base.new_zeros(()) + torch.eye(max(self.n, self.k)).to(self.base)))

    def raw_shape(self) -> tuple[int, int]:
        """Shape of the free parameter."""
        tall, thin = max(self.n, self.k), min(self.n, self.k)
        return (tall, tall) if self.map in ("exp", "cayley") else (tall, thin)

    def forward(self, raw: Float[Tensor, "*batch p q"]) -> Float[Tensor, "*batch n k"]:
        """Orthonormal matrices, shape ``(..., n, k)``, of parameters ``raw``, shape ``(..., *raw_shape())``."""
        check_floating("raw", raw)
        if tuple(raw.shape[-2:]) != self.raw_shape():
            raise ValueError(f"raw must have shape (..., {self.raw_shape()[0]}, {self.raw_shape()[1]}), got {tuple(raw.shape)}")
        Q = _apply(raw, (self.base,), self.map, self.det, min(self.n, self.k))
        return Q.mT if self.k > self.n else Q

    @torch.no_grad()
    def right_inverse(self, Q: Float[Tensor, "n k"]) -> Float[Tensor, "p q"]:
        """Parameter of a given matrix, which is projected first; called when the weight is assigned.

        Raises:
            ValueError: If the shape differs, the determinant is not ``det``, or the matrix is out of reach without ``trivialize``.
        """
        check_floating("Q", Q)
        if tuple(Q.shape) != (self.n, self.k):
            raise ValueError(f"Q must have shape ({self.n}, {self.k}), got {tuple(Q.shape)}")
        dtype = Q.dtype
        work = Q.detach().to(torch.float64)
        work = polar(work.mT if self.k > self.n else work)
        if self.det is not None and bool(torch.linalg.det(work) * self.det < 0):
            raise ValueError(f"Q must have determinant {self.det:+d}, got {-self.det:+d}")
        if self.map == "polar":
            return work.to(dtype)
        if self.map == "householder":
            V, signs = _reflectors(work)
            self.base.copy_(signs)
            return V.to(dtype)
        tall, thin = work.shape
        if thin < tall:
            work = torch.cat([work, torch.linalg.qr(work, mode="complete")[0][:, thin:]], dim=-1)
        if self.trivialize:
            self.base.copy_(work)
            return torch.zeros(tall, tall, dtype=dtype, device=Q.device)
        from geocore import son

        if torch.linalg.det(work) * torch.linalg.det(self.base.double()) < 0:
            if thin < tall:
                work = torch.cat([work[:, :-1], -work[:, -1:]], dim=-1)
            else:
                raise ValueError("Q has the other determinant than the fixed base; pass det, or trivialize=True")
        relative = self.base.double().mT @ work
        return (son.log(relative) if self.map == "exp" else son.cayley_inv(relative)).to(dtype)

    def extra_repr(self) -> str:
        """Configuration for ``repr``."""
        return f"{self.n}, {self.k}, map={self.map!r}, det={self.det}, trivialize={self.trivialize}"


@full_precision
def _apply(raw: Tensor, fixed: tuple[Tensor], map: str, det: int | None, k: int) -> Tensor:  # noqa: A002
    (base,) = fixed  # in a tuple: its dtype does not decide that of the result
    if map == "polar":
        if raw.shape[-1] != raw.shape[-2]:
            return polar(raw)
        if det == 1:
            return nearest_orthogonal(raw, special=True)[0]
        if det == -1:  # a rotation of the matrix with its last column flipped, flipped back
            flip = torch.ones(k, dtype=raw.dtype, device=raw.device)
            flip[-1] = -1.0
            return nearest_orthogonal(raw * flip, special=True)[0] * flip
        return polar(raw)
    if map == "householder":
        from geocore.householder import to_matrix

        axis = torch.eye(*raw.shape[-2:], dtype=raw.dtype, device=raw.device)
        largest = raw.detach().abs().amax(-2, keepdim=True)
        zero = largest == 0
        V = torch.where(zero, axis, raw / torch.where(zero, 1.0, largest))  # scale-free, so any tiny vector keeps its direction
        return to_matrix(V, cols=k) * base.to(raw.dtype)
    from geocore import son

    skew = (raw - raw.mT) / 2
    rotation = son.exp(skew) if map == "exp" else son.cayley(skew)
    return (base.to(raw.dtype) @ rotation)[..., :k]


def _reflectors(Q: Tensor) -> tuple[Tensor, Tensor]:
    """Householder vectors ``V`` and signs ``D`` with ``H(v_1) ... H(v_k) E D = Q`` for orthonormal columns ``Q (n, k)``."""
    Q = Q.clone()
    k = Q.shape[-1]
    V, signs = torch.zeros_like(Q), torch.ones(k, dtype=Q.dtype, device=Q.device)
    for i in range(k):
        x = Q[i:, i]
        sign = torch.where(x[0] < 0, -1.0, 1.0)
        v = x / x.norm()
        v[0] = v[0] + sign  # never cancels
        v = v / v.norm()
        V[i:, i] = v
        Q[i:] -= 2 * torch.outer(v, v @ Q[i:])
        signs[i] = -sign
    return V, signs


def parametrize(
    module: nn.Module,
    name: str = "weight",
    *,
    map: Map = "exp",  # noqa: A002
    det: int | None = None,
    trivialize: bool = True,
    init: Literal["haar", "identity"] | None = None,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Make a weight orthogonal by construction: ``module.<name>`` has orthonormal columns (or rows, if wide) from now on.

    Args:
        module: Module with a two-dimensional parameter ``name``; changed in place.
        name: Name of the parameter.
        map, det, trivialize: See ``Orthogonal``.
        init: Start: ``"haar"``, ``"identity"``, or by default the orthogonal matrix nearest to the present weight (last column flipped if
            ``det`` asks for it).
        generator: Randomness of ``"haar"``.

    Returns:
        ``module``.

    Raises:
        ValueError: If there is no such parameter, or an option does not fit.

    Example:
        >>> layer = parametrize(torch.nn.Linear(16, 8, bias=False), map="householder")
        >>> layer.weight @ layer.weight.T  # identity
    """
    weight = getattr(module, name, None)
    if not isinstance(weight, nn.Parameter) or weight.ndim != 2:
        kind = f"a parameter of shape {tuple(weight.shape)}" if isinstance(weight, Tensor) else "none"
        raise ValueError(f"name must be a two-dimensional parameter of {type(module).__name__}, but {name!r} is {kind}")
    n, k = weight.shape
    start = init or "haar"
    orthogonal = Orthogonal(
        n, k, map=map, det=det, trivialize=trivialize, init=start, generator=generator, dtype=weight.dtype, device=weight.device
    )
    with torch.no_grad():
        if init is None:
            tall = weight.detach().double()
            target = _with_det(polar(tall.mT if k > n else tall), det)
            target = (target.mT if k > n else target).to(weight.dtype)
        else:
            target = orthogonal._start
        weight.copy_(target)
    return torch_parametrize.register_parametrization(module, name, orthogonal, unsafe=True)  # unsafe: raw and weight differ in shape


@torch.no_grad()
def orthogonal_(tensor: Tensor, *, gain: float = 1.0, det: int | None = None, generator: torch.Generator | None = None) -> Tensor:
    """Fill a tensor with Haar-distributed orthonormal columns (rows, if wide), in place.

    Unlike ``torch.nn.init.orthogonal_`` it treats leading dimensions as a batch, takes a generator and can fix the determinant.

    Args:
        tensor: Shape ``(..., n, k)``, any floating dtype.
        gain: Factor.
        det: Determinant of square matrices, +1 or -1; either by default.
        generator: Randomness.

    Returns:
        ``tensor``.

    Raises:
        ValueError: If it has fewer than two dimensions, or ``det`` does not fit.
        TypeError, NotImplementedError: If it is not real floating point.
    """
    check_floating("tensor", tensor)
    if tensor.ndim < 2:
        raise ValueError(f"tensor must have shape (..., n, k), got {tuple(tensor.shape)}")
    n, k = tensor.shape[-2:]
    _check_det(det, n, k)
    wide = k > n
    Q = _with_det(_random((*tensor.shape[:-2], max(n, k), min(n, k)), tensor, generator), det)
    return tensor.copy_(gain * (Q.mT if wide else Q))
