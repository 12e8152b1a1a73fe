"""Representations by name, and conversion between any two of them."""

from dataclasses import fields
from typing import Any

from jaxtyping import Float
from torch import Tensor

from geocore import so3
from geocore._checks import check_trailing
from rotrep._base import Representation
from rotrep._rotations import ROTATIONS, RotationRepresentation
from rotrep.ndim import NDRotation, Orthogonal, Similarity

__all__ = ["convert", "get_representation", "list_representations"]

_OTHERS: dict[str, type[Representation]] = {"nd": NDRotation, "On": Orthogonal, "sim": Similarity}
_ALIASES = {"svd": "9d"}


def list_representations(*, continuous: bool | None = None) -> list[str]:
    """Names of the representations of SO(3).

    The representations beyond SO(3), ``"nd"``, ``"On"`` and ``"sim"``, are not listed; make them with their classes.

    Args:
        continuous: Only the continuous (``True``) or the discontinuous ones (``False``).

    Returns:
        Names, the continuous ones first.

    Example:
        >>> list_representations(continuous=True)
        ['6d', '5d', '9d', '10d']
    """
    return [name for name, cls in ROTATIONS.items() if continuous is None or cls.is_continuous == continuous]


def get_representation(name: str, **options: Any) -> Representation:
    """Representation by name.

    | name | numbers | continuous | options besides ``eps`` and ``degenerate`` |
    |---|---|---|---|
    | ``"6d"`` | 6 | yes | ``convention="columns"`` or ``"rows"``, ``layout="concat"`` or ``"interleaved"`` |
    | ``"5d"`` | 5 | yes | ``convention``, ``output_scale=None`` or ``"official"`` |
    | ``"9d"``, also ``"svd"`` | 9 | yes | |
    | ``"10d"`` | 10 | yes | ``order="wxyz"`` or ``"xyzw"`` |
    | ``"quaternion"`` | 4 | no | ``order`` |
    | ``"quaternion_half"``, ``"axis_angle4"`` | 4 | no | |
    | ``"rotvec"``, ``"rodrigues"``, ``"mrp"``, ``"hopf"`` | 3 | no | |
    | ``"euler"``, ``"euler_sincos"`` | 3, 6 | no | ``euler="XYZ"``, any of 24; ``"euler_ZYX"`` is short for it |
    | ``"nd"``, ``"On"``, ``"sim"`` | | yes | ``n`` and those of ``NDRotation``, ``Orthogonal``, ``Similarity`` |

    Args:
        name: One of the names above.
        options: Options of the representation.

    Returns:
        The representation.

    Raises:
        ValueError: If the name is unknown (the message lists all), or an option is unknown or has a wrong value.

    Example:
        >>> rep = get_representation("6d")
        >>> rep.decode(rep.identity_bias())
        tensor([[1., 0., 0.],
                [0., 1., 0.],
                [0., 0., 1.]])
    """
    if name.startswith("euler_") and name[6:] in so3.EULER_CONVENTIONS:
        return get_representation("euler", **{"euler": name[6:], **options})
    known: dict[str, type[Representation]] = {**ROTATIONS, **_OTHERS}
    cls = known.get(_ALIASES.get(name, name))
    if cls is None:
        raise ValueError(f"name must be one of {', '.join(map(repr, known))}, or 'euler_' with a convention such as 'XYZ', got {name!r}")
    allowed = _options(cls)
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        raise ValueError(f"{name!r} has no option {', '.join(map(repr, unknown))}; it has {', '.join(map(repr, allowed))}")
    return cls(**options)


def _options(cls: type[Representation]) -> list[str]:
    return sorted(f.name for f in fields(cls) if f.init)


def _side(side: str, given: str | Representation, options: dict[str, Any], used: set[str]) -> Representation | None:
    """Representation of one side of a conversion; ``None`` stands for plain matrices."""
    prefix = f"{side}_"
    if isinstance(given, RotationRepresentation):
        return given
    if given == "matrix":
        return None
    if isinstance(given, Representation) or given in _OTHERS:
        raise ValueError(f"{side} must be 'matrix' or one of {', '.join(map(repr, ROTATIONS))}, got {given!r}")
    allowed = _options(type(get_representation(given)))
    common = {k: v for k, v in options.items() if k in allowed}
    own = {k.removeprefix(prefix): v for k, v in options.items() if k.startswith(prefix)}
    used |= set(common) | {prefix + k for k in own}
    if given.startswith("euler_") and given[6:] in so3.EULER_CONVENTIONS:
        common.pop("euler", None)
    return get_representation(given, **{**common, **own})


def convert(x: Float[Tensor, "*src"], src: str | Representation, dst: str | Representation, **conventions: Any) -> Float[Tensor, "*dst"]:
    """Rotations in representation ``dst``, given in representation ``src``, through matrices.

    Args:
        x: Rotations in the shape of ``src``.
        src: A name as in ``get_representation``, ``"matrix"`` for ``(..., 3, 3)``, or an instance.
        dst: The same.
        conventions: Options of both representations given by name, as far as they have them; with the prefix ``src_`` or ``dst_`` of one
            side only: ``convert(v, "6d", "6d", src_convention="rows")``.

    Returns:
        Rotations in the shape of ``dst``.

    Raises:
        ValueError: If a name is unknown, a convention applies to neither side, or ``x`` does not have the shape of ``src``.
        TypeError, NotImplementedError: If ``x`` has an integer or a complex dtype.

    Example:
        >>> convert(torch.tensor([0.0, 0.0, torch.pi / 2]), "rotvec", "quaternion", order="xyzw")
        tensor([0.0000, 0.0000, 0.7071, 0.7071])
    """
    used: set[str] = set()
    before, after = _side("src", src, conventions, used), _side("dst", dst, conventions, used)
    unused = sorted(set(conventions) - used)
    if unused:
        raise ValueError(f"conventions must apply to src or dst, got {', '.join(map(repr, unused))} for {src!r} to {dst!r}")
    if before is None:
        check_trailing("x", x, (3, 3), hint="that is the shape of 'matrix'")
    R = x if before is None else before.decode(x)
    return R if after is None else after.encode(R)
