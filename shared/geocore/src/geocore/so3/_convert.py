"""Any representation to any other, by name."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from geocore._checks import check_option, check_trailing
from geocore._precision import full_precision
from geocore.so3._algebra import exp, log
from geocore.so3._elements import join
from geocore.so3._euler import EULER_CONVENTIONS, euler_to_matrix, euler_to_quat, matrix_to_euler, quat_to_euler
from geocore.so3._pairs import (
    from_mrp,
    matrix_to_quat,
    mrp_to_quat,
    quat_to_matrix,
    quat_to_mrp,
    quat_to_rotvec,
    rotvec_to_quat,
    to_mrp,
)
from geocore.so3._quaternion import ORDERS, reorder
from geocore.so3._representations import decode_10d, from_5d, from_6d, from_9d, from_10d, to_5d, to_6d, to_9d, to_10d

__all__ = ["REPRESENTATIONS", "convert"]

SHAPES: dict[str, tuple[int, ...]] = {
    "matrix": (3, 3),
    "quat": (4,),
    "rotvec": (3,),
    "euler": (3,),
    "mrp": (3,),
    "5d": (5,),
    "6d": (6,),
    "9d": (9,),
    "10d": (10,),
}
REPRESENTATIONS = tuple(SHAPES)


def _quat_of_10d(v: Tensor, order: str) -> Tensor:
    return join(decode_10d(v, order)[0])


def _routes(order: str, euler: str) -> tuple[dict[str, dict[str, Callable[[Tensor], Tensor]]], ...]:
    """Decoders and encoders of every name that has one, for the hubs ``matrix`` and ``quat`` (order wxyz)."""
    decode: dict[str, dict[str, Callable[[Tensor], Tensor]]] = {
        "matrix": {
            "matrix": lambda R: R,
            "quat": lambda q: quat_to_matrix(q, order=order),
            "rotvec": exp,
            "euler": lambda a: euler_to_matrix(a, euler),
            "mrp": from_mrp,
            "5d": from_5d,
            "6d": from_6d,
            "9d": from_9d,
            "10d": lambda v: from_10d(v, order=order),
        },
        "quat": {
            "quat": lambda q: reorder(q, order, "wxyz"),
            "rotvec": rotvec_to_quat,
            "euler": lambda a: euler_to_quat(a, euler),
            "mrp": mrp_to_quat,
            "10d": lambda v: _quat_of_10d(v, order),
        },
    }
    encode: dict[str, dict[str, Callable[[Tensor], Tensor]]] = {
        "matrix": {
            "matrix": lambda R: R,
            "quat": lambda R: matrix_to_quat(R, order=order),
            "rotvec": log,
            "euler": lambda R: matrix_to_euler(R, euler),
            "mrp": to_mrp,
            "5d": to_5d,
            "6d": to_6d,
            "9d": to_9d,
            "10d": lambda R: to_10d(R, order=order),
        },
        "quat": {
            "quat": lambda q: reorder(q, "wxyz", order),
            "rotvec": quat_to_rotvec,
            "euler": lambda q: quat_to_euler(q, euler),
            "mrp": quat_to_mrp,
        },
    }
    return decode, encode


@full_precision
def convert(x: Float[Tensor, "*src"], src: str, dst: str, *, order: str = "wxyz", euler: str = "XYZ") -> Float[Tensor, "*dst"]:
    """Rotations in representation ``dst``, given in representation ``src``.

    | name | shape | decoded by | encoded by |
    |---|---|---|---|
    | ``"matrix"`` | (..., 3, 3) | | |
    | ``"quat"`` | (..., 4) | ``quat_to_matrix`` | ``matrix_to_quat`` |
    | ``"rotvec"`` | (..., 3) | ``exp`` | ``log`` |
    | ``"euler"`` | (..., 3) | ``euler_to_matrix`` | ``matrix_to_euler`` |
    | ``"mrp"`` | (..., 3) | ``from_mrp`` | ``to_mrp`` |
    | ``"5d"`` ``"6d"`` ``"9d"`` ``"10d"`` | (..., 5) to (..., 10) | ``from_5d`` ... | ``to_5d`` ... |

    Three- and four-number forms are converted through quaternions, the others through matrices.

    Args:
        x: Rotations in the shape of ``src``.
        src: One of ``REPRESENTATIONS``.
        dst: One of ``REPRESENTATIONS``; if equal to ``src``, ``x`` is returned unchanged.
        order: Component order of quaternions and of ``"10d"``, ``"wxyz"`` or ``"xyzw"``.
        euler: Convention of ``"euler"``, one of ``EULER_CONVENTIONS``: upper case intrinsic, lower case extrinsic.

    Returns:
        Rotations in the shape of ``dst``.

    Raises:
        ValueError: If a name is unknown or ``x`` does not have the shape of ``src``.

    Example:
        >>> convert(torch.tensor([0.0, 0.0, torch.pi]), "rotvec", "quat", order="xyzw")  # about [0, 0, 1, 0]
    """
    check_option("src", src, REPRESENTATIONS)
    check_option("dst", dst, REPRESENTATIONS)
    check_option("order", order, ORDERS)
    check_option("euler", euler, EULER_CONVENTIONS)
    check_trailing("x", x, SHAPES[src], hint=f"that is the shape of {src!r}")
    if src == dst:
        return x
    decode, encode = _routes(order, euler)
    hub = "quat" if src in decode["quat"] and dst in encode["quat"] else "matrix"
    return encode[hub][dst](decode[hub][src](x))
