"""Beyond SO(3): rotations of n-space, all orthogonal matrices, similarities."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from geocore import son
from geocore._checks import check_floating, check_option, check_positive_int, check_trailing
from geocore._precision import full_precision
from geocore.orthogonal import assert_orthogonal, polar
from rotrep._base import VALID_ATOL, Representation
from rotrep._rotations import ROTATIONS, RotationRepresentation, from_columns, to_columns

__all__ = ["NDRotation", "Orthogonal", "Similarity", "SimilarityParts"]


@dataclass(frozen=True)
class NDRotation(Representation):
    """Rotations of n-space from ``n - 1`` vectors: Gram-Schmidt, then the unit vector that makes the determinant +1 (Zhou et al. 2019).

    ``n = 3`` is 6D, ``n = 2`` the normalised ``(cos, sin)``. Dependent columns are recognised at 8 machine epsilons, whatever ``eps``.

    Args:
        n: Dimension, at least 1.
        convention: The vectors are the first ``n - 1`` ``"columns"``, or ``"rows"``.
        layout: ``"concat"``, one vector after the other, or ``"interleaved"``, the (n, n - 1) matrix of the vectors row by row.
        eps: Not used.
        degenerate: As ``Representation``.

    Raises:
        TypeError: If ``n`` is not an int.
        ValueError: If ``n < 1`` or an option is unknown.

    Example:
        >>> NDRotation(4).decode(torch.randn(2, 12)).shape
        torch.Size([2, 4, 4])
    """

    n: int = field(default=3)  # pyright: ignore[reportIncompatibleMethodOverride]
    convention: Literal["columns", "rows"] = field(default="columns", kw_only=True)
    layout: Literal["concat", "interleaved"] = field(default="concat", kw_only=True)

    name: ClassVar[str] = "nd"
    is_continuous: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive_int("n", self.n)
        check_option("convention", self.convention, ("columns", "rows"))
        check_option("layout", self.layout, ("concat", "interleaved"))

    @property
    def dim(self) -> int:
        """Length of the vectors, ``n (n - 1)``."""
        return self.n * (self.n - 1)

    def _columns(self, v: Tensor) -> Tensor:
        return to_columns(v, self.n, self.layout).unflatten(-1, (self.n - 1, self.n)).mT

    def _decode(self, v: Tensor) -> tuple[Tensor, None]:
        R = son.gram_schmidt(self._columns(v))
        return (R if self.convention == "columns" else R.mT), None

    def _encode(self, R: Tensor) -> Tensor:
        R = R if self.convention == "columns" else R.mT
        return from_columns(R[..., :-1].mT.flatten(-2), self.n, self.layout)

    def _degenerate(self, v: Tensor) -> Tensor:
        return son.gram_schmidt(self._columns(v), return_info=True)[1]


@dataclass(frozen=True)
class Orthogonal(Representation):
    """All orthogonal matrices, either determinant, from ``n^2`` numbers, the matrix row by row.

    Args:
        n: Dimension, at least 1.
        method: ``"gram_schmidt"`` of the columns in order, or ``"svd"``, the nearest orthogonal matrix (polar factor).
        eps: As ``Representation``; used by ``"svd"``, relative to the largest singular value.
        degenerate: As ``Representation``.

    Raises:
        TypeError: If ``n`` is not an int.
        ValueError: If ``n < 1`` or an option is unknown.

    Example:
        >>> Orthogonal(2).decode(torch.tensor([0.0, 3.0, 2.0, 0.0]))
        tensor([[0., 1.],
                [1., 0.]])
    """

    n: int = field(default=3)  # pyright: ignore[reportIncompatibleMethodOverride]
    method: Literal["gram_schmidt", "svd"] = field(default="gram_schmidt", kw_only=True)

    name: ClassVar[str] = "On"
    is_continuous: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive_int("n", self.n)
        check_option("method", self.method, ("gram_schmidt", "svd"))

    @property
    def dim(self) -> int:
        """Length of the vectors, ``n^2``."""
        return self.n * self.n

    def _decode(self, v: Tensor) -> tuple[Tensor, None]:
        M = v.unflatten(-1, (self.n, self.n))
        return (son.gram_schmidt(M, special=False) if self.method == "gram_schmidt" else polar(M)), None

    def _encode(self, R: Tensor) -> Tensor:
        return R.flatten(-2)

    def _degenerate(self, v: Tensor) -> Tensor:
        M = v.unflatten(-1, (self.n, self.n))
        if self.method == "gram_schmidt":
            return son.gram_schmidt(M, special=False, return_info=True)[1]
        s = torch.linalg.svdvals(M)
        return s[..., -1] <= self._tolerance(v) * s[..., 0]

    def _validate(self, R: Tensor) -> None:
        assert_orthogonal(R, atol=VALID_ATOL.get(R.dtype, 1e-4))


class SimilarityParts(NamedTuple):
    """What a similarity ``p -> scale rotation p + translation`` consists of.

    Attributes:
        rotation: Shape ``(..., n, n)``.
        scale: Positive, shape ``(...)``.
        translation: Shape ``(..., n)``.
        confidence: Of the rotation, shape ``(...)``, or ``None``.
    """

    rotation: Tensor
    scale: Tensor
    translation: Tensor
    confidence: Tensor | None


@dataclass(frozen=True)
class Similarity(Representation):
    """Similarities ``p -> s R p + t`` as ``(rotation numbers, scale number, translation)``; matrices are ``[[s R, t], [0, 1]]``.

    Args:
        n: Dimension, at least 1.
        rotation: Name or instance of the rotation's representation; ``"6d"`` and ``"nd"`` fit every ``n``, the others ``n = 3``.
        scale: ``"exp"``: the number is the logarithm of the scale. ``"softplus"``: ``s = log(1 + e^x)``, growing only linearly.
        eps: Of the rotation, when it is given by name.
        degenerate: Of the rotation, when it is given by name.

    Raises:
        TypeError: If ``n`` is not an int.
        ValueError: If ``n < 1``, an option is unknown, or the rotation does not fit ``n``.

    Example:
        >>> Similarity(3).decode(torch.tensor([1.0, 0, 0, 0, 1, 0, 0, 5, 6, 7]))[0]
        tensor([1., 0., 0., 5.])
    """

    n: int = field(default=3)  # pyright: ignore[reportIncompatibleMethodOverride]
    rotation: str | Representation = field(default="6d", kw_only=True)
    scale: Literal["exp", "softplus"] = field(default="exp", kw_only=True)
    _rotation: Representation = field(init=False, repr=False, compare=False)

    name: ClassVar[str] = "sim"
    is_continuous: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive_int("n", self.n)
        check_option("scale", self.scale, ("exp", "softplus"))
        rep = self.rotation
        if isinstance(rep, str):
            check_option("rotation", rep, (*ROTATIONS, "nd"))
            if rep == "nd" or (rep == "6d" and self.n != 3):
                rep = NDRotation(self.n, degenerate=self.degenerate)
            else:
                rep = ROTATIONS[rep](eps=self.eps, degenerate=self.degenerate)
        if not isinstance(rep, RotationRepresentation | NDRotation) or rep.n != self.n:
            raise ValueError(f"rotation must represent rotations of {self.n}-space, got {rep!r}; '6d' and 'nd' fit every n")
        object.__setattr__(self, "_rotation", rep)

    @property
    def rotation_representation(self) -> Representation:
        """The representation of the rotation part."""
        return self._rotation

    @property
    def dim(self) -> int:
        """Length of the vectors: that of the rotation, 1, and ``n``."""
        return self._rotation.dim + 1 + self.n

    @property
    def matrix_size(self) -> int:
        """``n + 1``."""
        return self.n + 1

    @full_precision
    def decode_parts(self, v: Float[Tensor, "*batch d"]) -> SimilarityParts:
        """Rotation, scale, translation and the rotation's confidence of raw vectors.

        Args:
            v: Vectors, shape ``(..., dim)``.

        Returns:
            The parts.

        Raises:
            ValueError, TypeError, NotImplementedError: As ``decode``.
        """
        self._check_vector(v)
        k = self._rotation.dim
        R, confidence = self._rotation.decode_with_confidence(v[..., :k])
        # torch's threshold of 20 for calling softplus the identity is an error of 2e-9
        s = torch.exp(v[..., k]) if self.scale == "exp" else torch.nn.functional.softplus(v[..., k], threshold=40.0)
        return SimilarityParts(R, s, v[..., k + 1 :], confidence)

    def _decode(self, v: Tensor) -> tuple[Tensor, Tensor | None]:
        R, s, t, confidence = self.decode_parts(v)
        return self.assemble(R, s, t), confidence

    @staticmethod
    def assemble(
        rotation: Float[Tensor, "*batch n n"], scale: Float[Tensor, "*batch"], translation: Float[Tensor, "*batch n"]
    ) -> Float[Tensor, "*batch n+1 n+1"]:
        """Homogeneous matrices ``[[s R, t], [0, 1]]`` of the parts of a similarity.

        Args:
            rotation: Shape ``(..., n, n)``.
            scale: Shape ``(...)``.
            translation: Shape ``(..., n)``.

        Returns:
            Shape ``(..., n + 1, n + 1)``.
        """
        top = torch.cat([scale[..., None, None] * rotation, translation.unsqueeze(-1)], dim=-1)
        bottom = torch.nn.functional.pad(torch.zeros_like(translation), (0, 1), value=1.0).unsqueeze(-2)
        return torch.cat([top, bottom], dim=-2)

    def _parts(self, T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scale (the root mean square length of the columns), rotation, translation."""
        linear = T[..., :-1, :-1]
        s = linear.square().mean((-2, -1)).mul(self.n).sqrt()
        return s, linear / s[..., None, None], T[..., :-1, -1]

    def _encode(self, R: Tensor) -> Tensor:
        s, rotation, t = self._parts(R)
        # the inverse of softplus, log(e^s - 1), without overflow
        number = torch.log(s) if self.scale == "exp" else s + torch.log(-torch.expm1(-s))
        return torch.cat([self._rotation.encode(rotation), number.unsqueeze(-1), t], dim=-1)

    def _degenerate(self, v: Tensor) -> Tensor:
        return self._rotation.degenerate_mask(v[..., : self._rotation.dim])

    def _validate(self, R: Tensor) -> None:
        self._rotation._validate(self._parts(R)[1])
        if not bool((R[..., -1, :] == torch.nn.functional.pad(R.new_zeros(self.n), (0, 1), value=1.0)).all()):
            raise ValueError("R must be homogeneous matrices with last row (0, ..., 0, 1)")

    def random(self, shape=(), generator=None, *, dtype=None, device=None) -> Float[Tensor, "*shape d"]:
        """Vectors with Haar-distributed rotation, standard normal logarithm of the scale and standard normal translation."""
        R = son.haar(self.n, shape, generator=generator, dtype=dtype, device=device)
        rest = torch.randn((*R.shape[:-2], 1 + self.n), generator=generator, dtype=R.dtype, device=R.device)
        number = rest[..., :1] if self.scale == "exp" else rest[..., :1].exp().expm1().log()
        return torch.cat([self._rotation.encode(R), number, rest[..., 1:]], dim=-1)

    def inverse(self, v: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """Vector of the inverse similarity, ``p -> R^T (p - t) / s``.

        Raises:
            ValueError, TypeError, NotImplementedError: As ``decode``.
        """
        R, s, t, _ = self.decode_parts(v)
        s = s.reciprocal()
        return self.encode(self.assemble(R.mT, s, -s.unsqueeze(-1) * (R.mT @ t.unsqueeze(-1)).squeeze(-1)))

    def apply(self, v: Float[Tensor, "*#batch d"], points: Float[Tensor, "*#batch n"]) -> Float[Tensor, "*#batch n"]:
        """``s R p + t`` of points ``(..., n)``; batch dimensions broadcast.

        Raises:
            ValueError, TypeError, NotImplementedError: As ``decode``.
        """
        check_floating("points", points)
        check_trailing("points", points, (self.n,))
        R, s, t, _ = self.decode_parts(v)
        return s.unsqueeze(-1) * (R @ points.unsqueeze(-1)).squeeze(-1) + t
