"""NumPy mirror of ``encode``, ``decode`` and ``convert`` for data pipelines: arrays in, arrays out, the same numbers as in training."""

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from rotrep import registry
from rotrep._base import Representation

__all__ = ["convert", "decode", "encode"]


def _tensor(name: str, x: ArrayLike) -> Tensor:
    array = np.asarray(x)
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise TypeError(f"{name} must be a floating-point array of at most 64 bits, got {array.dtype}; convert it with astype(np.float32)")
    return torch.from_numpy(np.ascontiguousarray(array) if array.flags.writeable else array.copy())


def _representation(representation: str | Representation, options: dict[str, Any]) -> Representation:
    if isinstance(representation, str):
        return registry.get_representation(representation, **options)
    if options:
        raise ValueError(f"options must be given to the representation itself, got {sorted(options)} beside an instance")
    return representation


def decode(v: ArrayLike, representation: str | Representation, **options: Any) -> NDArray[Any]:
    """Rotation matrices of an array of raw vectors, as ``Representation.decode``.

    Args:
        v: Vectors, shape ``(..., dim)``, float16, float32 or float64.
        representation: Name or instance.
        options: Options of the representation given by name.

    Returns:
        Matrices, shape ``(..., n, n)``, in the dtype of ``v``.

    Raises:
        ValueError: If a name, an option or a shape is wrong.
        TypeError: If ``v`` is not a floating-point array.

    Example:
        >>> decode(np.array([0.0, 0.0, np.pi]), "rotvec").round()
        array([[-1., -0.,  0.],
               [ 0., -1.,  0.],
               [ 0.,  0.,  1.]])
    """
    with torch.no_grad():
        return _representation(representation, options).decode(_tensor("v", v)).numpy()


def encode(R: ArrayLike, representation: str | Representation, *, validate: bool = False, **options: Any) -> NDArray[Any]:
    """Vectors of an array of rotation matrices, as ``Representation.encode``.

    Args:
        R: Rotation matrices, shape ``(..., n, n)``, float16, float32 or float64.
        representation: Name or instance.
        validate: Check that the matrices are rotations.
        options: Options of the representation given by name.

    Returns:
        Vectors, shape ``(..., dim)``, in the dtype of ``R``.

    Raises:
        ValueError: If a name, an option or a shape is wrong, or with ``validate`` a matrix is not a rotation.
        TypeError: If ``R`` is not a floating-point array.

    Example:
        >>> encode(np.eye(3), "6d")
        array([1., 0., 0., 0., 1., 0.])
    """
    with torch.no_grad():
        return _representation(representation, options).encode(_tensor("R", R), validate=validate).numpy()


def convert(x: ArrayLike, src: str | Representation, dst: str | Representation, **conventions: Any) -> NDArray[Any]:
    """Array of rotations in representation ``dst``, given in ``src``, as ``rotrep.convert``.

    Args:
        x: Rotations in the shape of ``src``.
        src: Name or instance, or ``"matrix"``.
        dst: The same.
        conventions: As ``rotrep.convert``.

    Returns:
        Rotations in the shape of ``dst``, in the dtype of ``x``.

    Raises:
        ValueError: If a name, a convention or a shape is wrong.
        TypeError: If ``x`` is not a floating-point array.

    Example:
        >>> convert(np.zeros(3), "euler", "quaternion")
        array([1., 0., 0., 0.])
    """
    with torch.no_grad():
        return registry.convert(_tensor("x", x), src, dst, **conventions).numpy()
