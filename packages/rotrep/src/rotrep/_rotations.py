"""The representations of SO(3), one immutable class each; ``get_representation`` makes them by name."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from geocore import so3
from geocore._checks import check_option
from geocore._precision import full_precision
from rotrep import functional as F
from rotrep._base import Representation

__all__ = [
    "ROTATIONS",
    "AxisAngle4",
    "Euler",
    "EulerSinCos",
    "FiveD",
    "Hopf",
    "ModifiedRodrigues",
    "NineD",
    "Quaternion",
    "QuaternionHalf",
    "Rodrigues",
    "RotationRepresentation",
    "RotationVector",
    "SixD",
    "TenD",
    "from_columns",
    "to_columns",
]

ORDERS = ("wxyz", "xyzw")
_OFFICIAL = (2.0**0.5 + 1.0, 2.0**0.5 + 1.0, 2.0**0.5)


def _sharp(R: Tensor) -> Tensor:
    """One Newton step to orthogonality in float32, where quaternion formulas leave 8e-7 and this 4e-7."""
    return so3.renormalize(R) if R.dtype == torch.float32 else R


def _zero(*parts: Tensor) -> Tensor:
    """Mask of items of which one of ``parts`` (..., k) vanishes."""
    return torch.stack([(p == 0).all(-1) for p in parts]).any(0)


def to_columns(v: Tensor, n: int, layout: str) -> Tensor:
    """``n - 1`` vectors in ``layout`` as concatenated vectors."""
    return v if layout == "concat" else v.unflatten(-1, (n, n - 1)).mT.flatten(-2)


def from_columns(v: Tensor, n: int, layout: str) -> Tensor:
    """Inverse of ``to_columns``."""
    return v if layout == "concat" else v.unflatten(-1, (n - 1, n)).mT.flatten(-2)


@dataclass(frozen=True, kw_only=True)
class RotationRepresentation(Representation):
    """A representation of SO(3)."""

    _dim: ClassVar[int] = 0

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self._dim

    @full_precision
    def interpolate(
        self, a: Float[Tensor, "*#batch d"], b: Float[Tensor, "*#batch d"], t: Float[Tensor, "*#batch"] | float
    ) -> Float[Tensor, "*#batch d"]:
        """Vectors along the constant-speed arc between two rotations (slerp); straight lines between raw vectors are not that.

        Args:
            a: Vectors at ``t = 0``, shape ``(..., dim)``.
            b: Vectors at ``t = 1``, shape ``(..., dim)``.
            t: Fraction of the way, a number or shape ``(...)``.

        Returns:
            Encodings, shape ``(..., dim)``.

        Raises:
            ValueError, TypeError, NotImplementedError: As ``decode``.
        """
        return self.encode(so3.slerp(self.decode(a), self.decode(b), t))


@dataclass(frozen=True, kw_only=True)
class SixD(RotationRepresentation):
    """Two vectors, made orthonormal, are the first two columns (rows); the third is their cross product.

    Args:
        convention: ``"columns"`` (ours, the paper's) or ``"rows"`` (PyTorch3D's): the same numbers give the transposed matrix.
        layout: ``"concat"``: the first vector, then the second, ``[R00, R10, R20, R01, R11, R21]`` for columns. ``"interleaved"``: the
            (3, 2) matrix of both vectors row by row, ``[R00, R01, R10, R11, R20, R21]`` for columns.
        eps: As ``Representation``.
        degenerate: As ``Representation``.
    """

    convention: Literal["columns", "rows"] = "columns"
    layout: Literal["concat", "interleaved"] = "concat"

    name: ClassVar[str] = "6d"
    is_continuous: ClassVar[bool] = True
    _dim: ClassVar[int] = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        check_option("convention", self.convention, ("columns", "rows"))
        check_option("layout", self.layout, ("concat", "interleaved"))

    def _decode(self, v: Tensor) -> tuple[Tensor, None]:
        R = so3.from_6d(to_columns(v, 3, self.layout))
        return (R if self.convention == "columns" else R.mT), None

    def _encode(self, R: Tensor) -> Tensor:
        return from_columns(so3.to_6d(R if self.convention == "columns" else R.mT), 3, self.layout)

    def _degenerate(self, v: Tensor) -> Tensor:
        columns = to_columns(v, 3, self.layout)
        return so3.from_6d(columns, return_info=True)[1] | _collinear(columns[..., :3], columns[..., 3:], self._tolerance(v))


def _collinear(a: Tensor, b: Tensor, tolerance: float) -> Tensor:
    a, b = (x / x.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny) for x in (a, b))
    sine = torch.linalg.cross(a, b).square().sum(-1)
    return sine <= tolerance**2 * a.square().sum(-1) * b.square().sum(-1)


@dataclass(frozen=True, kw_only=True)
class FiveD(RotationRepresentation):
    """6D with the last entry of the first column and the second column put together by a stereographic projection.

    Args:
        convention: ``"columns"``, or ``"rows"`` for the transposed matrix.
        output_scale: ``"official"`` multiplies the last three numbers by ``(sqrt(2) + 1, sqrt(2) + 1, sqrt(2))`` before decoding, so that
            a network's outputs of unit size cover the range. It belongs to decoding only: ``encode`` returns unscaled numbers, so
            ``decode(encode(R)) = R`` holds for ``None``; ``identity_bias`` is right for both.
        eps: As ``Representation``.
        degenerate: As ``Representation``.
    """

    convention: Literal["columns", "rows"] = "columns"
    output_scale: Literal["official"] | None = None

    name: ClassVar[str] = "5d"
    is_continuous: ClassVar[bool] = True
    _dim: ClassVar[int] = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_option("convention", self.convention, ("columns", "rows"))
        if self.output_scale is not None:
            check_option("output_scale", self.output_scale, ("official",))

    def _scale(self, like: Tensor) -> Tensor:
        return torch.tensor((1.0, 1.0, *_OFFICIAL), dtype=like.dtype, device=like.device)

    def _decode(self, v: Tensor) -> tuple[Tensor, None]:
        R = so3.from_5d(v if self.output_scale is None else v * self._scale(v))
        return (R if self.convention == "columns" else R.mT), None

    def _encode(self, R: Tensor) -> Tensor:
        return so3.to_5d(R if self.convention == "columns" else R.mT)

    def _degenerate(self, v: Tensor) -> Tensor:
        v = v if self.output_scale is None else v * self._scale(v)
        p = v[..., 2:]
        square = p.square().sum(-1, keepdim=True)
        none = square == 0
        r = torch.where(none, 1.0, square).sqrt()
        first = torch.cat([v[..., :2], 0.5 * (r - r.reciprocal())], dim=-1)
        return so3.from_5d(v, return_info=True)[1] | none[..., 0] | _collinear(first, p, self._tolerance(v))

    def identity_bias(self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Float[Tensor, " d"]:
        """Vector that decodes to the identity, shape ``(5,)``, with the output scale divided out."""
        v = super().identity_bias(dtype=dtype, device=device)
        return v if self.output_scale is None else v / self._scale(v)


@dataclass(frozen=True, kw_only=True)
class NineD(RotationRepresentation):
    """Nine numbers, the matrix row by row; the nearest rotation by SVD (special Procrustes). Confidence ``s2 + sign s3``.

    Args:
        eps: As ``Representation``; relative to the norm of the matrix.
        degenerate: As ``Representation``.
    """

    name: ClassVar[str] = "9d"
    is_continuous: ClassVar[bool] = True
    _dim: ClassVar[int] = 9

    def decode(self, v: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch m m"]:
        """As ``Representation.decode``; leaves out the confidence, which costs a full decomposition."""
        if self.degenerate == "safe":
            self._check_vector(v)
            return so3.from_9d(v)
        return super().decode(v)

    def _decode(self, v: Tensor) -> tuple[Tensor, Tensor]:
        return so3.from_9d(v, return_confidence=True)

    def _encode(self, R: Tensor) -> Tensor:
        return so3.to_9d(R)

    def _degenerate(self, v: Tensor) -> Tensor:
        most = v.abs().amax(-1, keepdim=True)
        scaled = v / torch.where(most > 0, most, 1.0)
        margin = so3.from_9d(scaled, return_confidence=True)[1]
        return margin <= self._tolerance(v) * torch.linalg.vector_norm(scaled, dim=-1)


@dataclass(frozen=True, kw_only=True)
class TenD(RotationRepresentation):
    """Upper triangle, row by row, of a symmetric 4x4 matrix; the eigenvector of its smallest eigenvalue is the quaternion.

    The confidence is the gap to the next eigenvalue.

    Args:
        order: Component order of the quaternion, ``"wxyz"`` or ``"xyzw"`` (RoMa's).
        eps: As ``Representation``; relative to the norm of the matrix.
        degenerate: As ``Representation``.
    """

    order: Literal["wxyz", "xyzw"] = "wxyz"

    name: ClassVar[str] = "10d"
    is_continuous: ClassVar[bool] = True
    _dim: ClassVar[int] = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_option("order", self.order, ORDERS)

    def _decode(self, v: Tensor) -> tuple[Tensor, Tensor]:
        R, gap = so3.from_10d(v, order=self.order, return_confidence=True)
        return _sharp(R), gap

    def _encode(self, R: Tensor) -> Tensor:
        return so3.to_10d(R, order=self.order)

    def _degenerate(self, v: Tensor) -> Tensor:
        gap = so3.from_10d(v, return_confidence=True)[1]
        return gap <= self._tolerance(v) * torch.linalg.vector_norm(v, dim=-1)


@dataclass(frozen=True, kw_only=True)
class Quaternion(RotationRepresentation):
    """A quaternion of any non-zero length; encoded with ``w >= 0``.

    Args:
        order: Component order, ``"wxyz"`` or ``"xyzw"``.
        eps: As ``Representation``; not used, only zero is degenerate.
        degenerate: As ``Representation``.
    """

    order: Literal["wxyz", "xyzw"] = "wxyz"

    name: ClassVar[str] = "quaternion"
    _dim: ClassVar[int] = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_option("order", self.order, ORDERS)

    def _decode(self, v: Tensor) -> tuple[Tensor, None]:
        return _sharp(so3.quat_to_matrix(v, order=self.order)), None

    def _encode(self, R: Tensor) -> Tensor:
        return so3.matrix_to_quat(R, order=self.order)

    def _degenerate(self, v: Tensor) -> Tensor:
        return _zero(v)


@dataclass(frozen=True, kw_only=True)
class QuaternionHalf(RotationRepresentation):
    """A quaternion whose scalar part ``v_0`` counts by its absolute value: the half sphere ``w >= 0``, order ``wxyz``."""

    name: ClassVar[str] = "quaternion_half"
    _dim: ClassVar[int] = 4

    def _decode(self, v: Tensor) -> tuple[Tensor, None]:
        return _sharp(F.from_quaternion_half(v)), None

    def _encode(self, R: Tensor) -> Tensor:
        return F.to_quaternion_half(R)

    def _degenerate(self, v: Tensor) -> Tensor:
        return _zero(v)


@dataclass(frozen=True, kw_only=True)
class RotationVector(RotationRepresentation):
    """Axis times angle in radians; the exponential map and the logarithm."""

    name: ClassVar[str] = "rotvec"
    _dim: ClassVar[int] = 3

    def _decode(self, v: Tensor) -> tuple[Tensor, None]:
        return _sharp(so3.exp(v)), None

    def _encode(self, R: Tensor) -> Tensor:
        return so3.log(R)


@dataclass(frozen=True, kw_only=True)
class AxisAngle4(RotationRepresentation):
    """Angle ``pi tanh(v_0)`` and a separate axis ``v_{1:4}`` of any length."""

    name: ClassVar[str] = "axis_angle4"
    _dim: ClassVar[int] = 4

    def _decode(self, v: Tensor) -> tuple[Tensor, None]:
        return _sharp(F.from_axis_angle4(v)), None

    def _encode(self, R: Tensor) -> Tensor:
        return F.to_axis_angle4(R)

    def _degenerate(self, v: Tensor) -> Tensor:
        return _zero(v[..., 1:])


@dataclass(frozen=True, kw_only=True)
class Euler(RotationRepresentation):
    """Three Euler angles in radians, in the order of the letters.

    Args:
        euler: One of 24 conventions: upper case intrinsic, lower case extrinsic, as SciPy.
        eps: As ``Representation``; not used, every vector decodes.
        degenerate: As ``Representation``.
    """

    euler: str = "XYZ"

    name: ClassVar[str] = "euler"
    _dim: ClassVar[int] = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_option("euler", self.euler, so3.EULER_CONVENTIONS)

    def _decode(self, v: Tensor) -> tuple[Tensor, None]:
        return _sharp(so3.euler_to_matrix(v, self.euler)), None

    def _encode(self, R: Tensor) -> Tensor:
        return so3.matrix_to_euler(R, self.euler)


@dataclass(frozen=True, kw_only=True)
class EulerSinCos(Euler):
    """Sines and cosines of three Euler angles, ``(sin a, cos a, sin b, cos b, sin c, cos c)``, each pair of any scale.

    Args:
        euler: As ``Euler``.
        eps: As ``Representation``; not used, only a zero pair is degenerate.
        degenerate: As ``Representation``.
    """

    name: ClassVar[str] = "euler_sincos"
    _dim: ClassVar[int] = 6

    def _decode(self, v: Tensor) -> tuple[Tensor, None]:
        return _sharp(F.from_euler_sincos(v, euler=self.euler)), None

    def _encode(self, R: Tensor) -> Tensor:
        return F.to_euler_sincos(R, euler=self.euler)

    def _degenerate(self, v: Tensor) -> Tensor:
        return _zero(*v.unflatten(-1, (3, 2)).unbind(-2))


@dataclass(frozen=True, kw_only=True)
class Rodrigues(RotationRepresentation):
    """Rodrigues vector ``tan(angle / 2) axis``; infinite at angle pi, where encodings are cut at ``2 / eps``."""

    name: ClassVar[str] = "rodrigues"
    _dim: ClassVar[int] = 3

    def _decode(self, v: Tensor) -> tuple[Tensor, None]:
        return _sharp(F.from_rodrigues(v)), None

    def _encode(self, R: Tensor) -> Tensor:
        return F.to_rodrigues(R)


@dataclass(frozen=True, kw_only=True)
class ModifiedRodrigues(RotationRepresentation):
    """Modified Rodrigues parameters ``tan(angle / 4) axis``, encoded with length at most 1."""

    name: ClassVar[str] = "mrp"
    _dim: ClassVar[int] = 3

    def _decode(self, v: Tensor) -> tuple[Tensor, None]:
        return _sharp(so3.from_mrp(v)), None

    def _encode(self, R: Tensor) -> Tensor:
        return so3.to_mrp(R)


@dataclass(frozen=True, kw_only=True)
class Hopf(RotationRepresentation):
    """Hopf coordinates ``(theta, phi, psi)``, three angles in radians."""

    name: ClassVar[str] = "hopf"
    _dim: ClassVar[int] = 3

    def _decode(self, v: Tensor) -> tuple[Tensor, None]:
        return _sharp(F.from_hopf(v)), None

    def _encode(self, R: Tensor) -> Tensor:
        return F.to_hopf(R)


ROTATIONS: dict[str, type[RotationRepresentation]] = {
    cls.name: cls
    for cls in (
        *(SixD, FiveD, NineD, TenD),
        *(Quaternion, RotationVector, AxisAngle4, Euler, EulerSinCos, QuaternionHalf, Rodrigues, ModifiedRodrigues, Hopf),
    )
}
