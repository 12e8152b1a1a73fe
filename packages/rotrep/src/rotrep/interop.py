"""Rotations in the layouts of other libraries. Nothing is imported from them, except SciPy in ``to_scipy``.

| library | 6D | quaternion | 10D |
|---|---|---|---|
| rotrep | first two COLUMNS, concatenated | ``wxyz`` | upper triangle, quaternion ``wxyz`` |
| PyTorch3D | first two ROWS, concatenated | ``wxyz`` | |
| RoMa | first two columns as a (3, 2) matrix | ``xyzw`` | upper triangle, quaternion ``xyzw`` |
| code that reshapes to (3, 2) | first two columns, interleaved | | |
| SciPy | | ``xyzw`` | |
"""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from geocore import so3
from geocore._checks import check_option, check_trailing
from geocore._precision import full_precision
from rotrep.registry import get_representation

if TYPE_CHECKING:
    from scipy.spatial.transform import Rotation

__all__ = [
    "from_interleaved_6d",
    "from_pytorch3d_6d",
    "from_roma",
    "from_scipy",
    "to_interleaved_6d",
    "to_pytorch3d_6d",
    "to_roma",
    "to_scipy",
    "wxyz_to_xyzw",
    "xyzw_to_wxyz",
]

ROMA = ("unitquat", "rotvec", "rotmat", "gramschmidt", "procrustes", "symmatrixvec")
_COLUMNS = get_representation("6d")
_ROWS = get_representation("6d", convention="rows")
_SYMMETRIC = get_representation("10d", order="xyzw")


def from_pytorch3d_6d(v: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 6"]:
    """Our 6D vector (columns) of the rotation that PyTorch3D decodes from ``v`` (rows): decoded and encoded, so of unit scale.

    Args:
        v: Six numbers, the first two rows ``[R00, R01, R02, R10, R11, R12]`` up to Gram-Schmidt, shape ``(..., 6)``.

    Returns:
        ``[R00, R10, R20, R01, R11, R21]``, shape ``(..., 6)``.

    Raises:
        ValueError: If the last dimension is not 6.
        TypeError, NotImplementedError: If ``v`` has an integer or a complex dtype.

    Example:
        >>> from_pytorch3d_6d(torch.tensor([0.0, -1.0, 0.0, 1.0, 0.0, 0.0]))  # a quarter turn about z: columns (0, 1, 0), (-1, 0, 0)
    """
    return _COLUMNS.encode(_ROWS.decode(v))


def to_pytorch3d_6d(v: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 6"]:
    """PyTorch3D's 6D vector (rows) of the rotation of ours (columns); see ``from_pytorch3d_6d``.

    Args:
        v: Six numbers in our layout, shape ``(..., 6)``.

    Returns:
        The first two rows of the rotation, shape ``(..., 6)``.

    Raises:
        ValueError: If the last dimension is not 6.
        TypeError, NotImplementedError: If ``v`` has an integer or a complex dtype.
    """
    return _ROWS.encode(_COLUMNS.decode(v))


def from_interleaved_6d(v: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 6"]:
    """Our 6D vector of one whose two columns are interleaved, ``[x0, y0, x1, y1, x2, y2]``: only the order changes.

    Args:
        v: A (3, 2) matrix of columns row by row, shape ``(..., 6)``.

    Returns:
        ``[x0, x1, x2, y0, y1, y2]``, shape ``(..., 6)``.

    Raises:
        ValueError: If the last dimension is not 6.
        TypeError, NotImplementedError: If ``v`` has an integer or a complex dtype.
    """
    check_trailing("v", v, (6,))
    return v.unflatten(-1, (3, 2)).mT.flatten(-2)


def to_interleaved_6d(v: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 6"]:
    """Inverse of ``from_interleaved_6d``.

    Args:
        v: Six numbers in our layout, shape ``(..., 6)``.

    Returns:
        ``[x0, y0, x1, y1, x2, y2]``, shape ``(..., 6)``.

    Raises:
        ValueError: If the last dimension is not 6.
        TypeError, NotImplementedError: If ``v`` has an integer or a complex dtype.
    """
    check_trailing("v", v, (6,))
    return v.unflatten(-1, (2, 3)).mT.flatten(-2)


def wxyz_to_xyzw(q: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 4"]:
    """Quaternions with the scalar last, given with the scalar first.

    Args:
        q: Quaternions ``(w, x, y, z)``, shape ``(..., 4)``.

    Returns:
        Quaternions ``(x, y, z, w)``, shape ``(..., 4)``.

    Raises:
        ValueError: If the last dimension is not 4.
    """
    return so3.reorder(q, "wxyz", "xyzw")


def xyzw_to_wxyz(q: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 4"]:
    """Quaternions with the scalar first, given with the scalar last.

    Args:
        q: Quaternions ``(x, y, z, w)``, shape ``(..., 4)``.

    Returns:
        Quaternions ``(w, x, y, z)``, shape ``(..., 4)``.

    Raises:
        ValueError: If the last dimension is not 4.
    """
    return so3.reorder(q, "xyzw", "wxyz")


@full_precision
def from_roma(x: Float[Tensor, "*src"], kind: str = "unitquat") -> Float[Tensor, "*batch 3 3"]:
    """Rotation matrices of RoMa's forms.

    Args:
        x: ``"unitquat"``: quaternions ``xyzw`` (..., 4); ``"rotvec"``: (..., 3); ``"rotmat"``: (..., 3, 3), returned as they are;
            ``"gramschmidt"``: input of ``special_gramschmidt``, (..., 3, 2); ``"procrustes"``: input of ``special_procrustes``,
            (..., 3, 3); ``"symmatrixvec"``: (..., 10).
        kind: Which one.

    Returns:
        Rotation matrices, shape ``(..., 3, 3)``.

    Raises:
        ValueError: If ``kind`` is unknown or the shape does not fit.
        TypeError, NotImplementedError: If ``x`` has an integer or a complex dtype.

    Example:
        >>> from_roma(torch.tensor([0.0, 0.0, 1.0, 0.0])).diagonal()
        tensor([-1., -1.,  1.])
    """
    check_option("kind", kind, ROMA)
    if kind == "gramschmidt":
        check_trailing("x", x, (3, 2))
        return _COLUMNS.decode(x.mT.flatten(-2))
    if kind in ("rotmat", "procrustes"):
        check_trailing("x", x, (3, 3))
        return x if kind == "rotmat" else get_representation("9d").decode(x.flatten(-2))
    if kind == "rotvec":
        return get_representation("rotvec").decode(x)
    return (_SYMMETRIC if kind == "symmatrixvec" else get_representation("quaternion", order="xyzw")).decode(x)


@full_precision
def to_roma(R: Float[Tensor, "*batch 3 3"], kind: str = "unitquat") -> Float[Tensor, "*dst"]:
    """RoMa's forms of rotation matrices; the kinds are those of ``from_roma``.

    Args:
        R: Rotation matrices, shape ``(..., 3, 3)``.
        kind: Wanted form.

    Returns:
        The form, in the shape that ``from_roma`` takes.

    Raises:
        ValueError: If ``kind`` is unknown or the last two dimensions are not 3 and 3.
        TypeError, NotImplementedError: If ``R`` has an integer or a complex dtype.
    """
    check_option("kind", kind, ROMA)
    check_trailing("R", R, (3, 3))
    if kind in ("rotmat", "procrustes"):
        return R
    if kind == "gramschmidt":
        return R[..., :2]
    if kind == "rotvec":
        return so3.log(R)
    return _SYMMETRIC.encode(R) if kind == "symmatrixvec" else so3.matrix_to_quat(R, order="xyzw")


def from_scipy(
    rotation: "Rotation", *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Float[Tensor, "*batch 3 3"]:
    """Rotation matrices of a ``scipy.spatial.transform.Rotation``.

    Args:
        rotation: One rotation or several.
        dtype: Of the result, float64 (SciPy's) if not given.
        device: Of the result.

    Returns:
        Shape ``(3, 3)`` for one rotation, ``(..., 3, 3)`` for several.
    """
    return torch.as_tensor(rotation.as_matrix(), dtype=dtype, device=device)


def to_scipy(R: Float[Tensor, "*batch 3 3"]) -> Any:
    """``scipy.spatial.transform.Rotation`` of rotation matrices, without gradient.

    Args:
        R: Rotation matrices, shape ``(3, 3)`` or ``(n, 3, 3)``.

    Returns:
        SciPy's object, in float64.

    Raises:
        ImportError: If SciPy is missing.
        ValueError: If ``R`` has more than one batch dimension or the last two are not 3 and 3.
        TypeError, NotImplementedError: If ``R`` has an integer or a complex dtype.
    """
    try:
        from scipy.spatial.transform import Rotation
    except ImportError as error:
        raise ImportError("to_scipy needs SciPy: pip install 'rotrep[scipy]'") from error
    check_trailing("R", R, (3, 3))
    if R.ndim > 3:
        raise ValueError(f"R must have at most one batch dimension, got {tuple(R.shape)}; flatten it first")
    return Rotation.from_matrix(R.detach().double().cpu().numpy())
