"""Losses between rotations. They belong on decoded matrices, not on raw vectors: equal rotations have many raw vectors.

``reduction`` is ``"mean"``, ``"sum"`` or ``"none"`` (one number per item, shape of the batch).
"""

from jaxtyping import Float
from torch import Tensor

from geocore import so3
from geocore._checks import check_broadcastable, check_option, check_square, check_trailing
from geocore._precision import full_precision
from rotrep._base import Representation

__all__ = ["chordal", "geodesic", "matrix_mse", "points", "quat", "regularizer"]


def _reduce(x: Tensor, reduction: str) -> Tensor:
    check_option("reduction", reduction, ("mean", "sum", "none"))
    return x.mean() if reduction == "mean" else x.sum() if reduction == "sum" else x


def _difference(R: Tensor, R_gt: Tensor) -> Tensor:
    check_square("R", R)
    check_trailing("R_gt", R_gt, R.shape[-2:])
    check_broadcastable(R=R.shape[:-2], R_gt=R_gt.shape[:-2])
    return R - R_gt


@full_precision
def matrix_mse(R: Float[Tensor, "*#batch n n"], R_gt: Float[Tensor, "*#batch n n"], *, reduction: str = "mean") -> Float[Tensor, "*out"]:
    """Mean over all entries of ``(R - R_gt)^2``, the loss of Zhou et al.; for 3x3 matrices ``chordal / 9``.

    Args:
        R: Predicted matrices, shape ``(..., n, n)``.
        R_gt: True matrices, shape ``(..., n, n)``; batch dimensions broadcast.
        reduction: Over the batch; the entries of one matrix are always averaged.

    Returns:
        A number, or shape ``(...)``.

    Raises:
        ValueError: If the shapes do not fit or ``reduction`` is unknown.
        TypeError, NotImplementedError: If an argument has an integer or a complex dtype.

    Example:
        >>> matrix_mse(torch.eye(3), torch.diag(torch.tensor([-1.0, -1.0, 1.0])))  # 8 / 9
        tensor(0.8889)
    """
    return _reduce(_difference(R, R_gt).square().mean((-2, -1)), reduction)


@full_precision
def chordal(R: Float[Tensor, "*#batch n n"], R_gt: Float[Tensor, "*#batch n n"], *, reduction: str = "mean") -> Float[Tensor, "*out"]:
    """Squared Frobenius distance ``|R - R_gt|_F^2``, for rotations of 3-space ``8 sin^2(angle / 2)``.

    Args:
        R: Predicted matrices, shape ``(..., n, n)``.
        R_gt: True matrices, shape ``(..., n, n)``; batch dimensions broadcast.
        reduction: Over the batch.

    Returns:
        A number, or shape ``(...)``.

    Raises:
        ValueError, TypeError, NotImplementedError: As ``matrix_mse``.

    Example:
        >>> chordal(torch.eye(3), torch.diag(torch.tensor([-1.0, -1.0, 1.0])))
        tensor(8.)
    """
    return _reduce(_difference(R, R_gt).square().sum((-2, -1)), reduction)


@full_precision
def geodesic(R: Float[Tensor, "*#batch 3 3"], R_gt: Float[Tensor, "*#batch 3 3"], *, reduction: str = "mean") -> Float[Tensor, "*out"]:
    """Angle between rotations in radians, by ``atan2``: accurate at every angle, with finite gradients, zero at equality and at pi.

    Args:
        R: Predicted matrices, shape ``(..., 3, 3)``.
        R_gt: True matrices, shape ``(..., 3, 3)``; batch dimensions broadcast.
        reduction: Over the batch.

    Returns:
        A number, or shape ``(...)``.

    Raises:
        ValueError, TypeError, NotImplementedError: As ``matrix_mse``.

    Example:
        >>> geodesic(torch.eye(3), torch.diag(torch.tensor([-1.0, -1.0, 1.0])))
        tensor(3.1416)
    """
    return _reduce(so3.geodesic(R, R_gt), reduction)


@full_precision
def quat(q: Float[Tensor, "*#batch 4"], q_gt: Float[Tensor, "*#batch 4"], *, reduction: str = "mean") -> Float[Tensor, "*out"]:
    """Squared distance of quaternions up to sign, ``min(|q - q_gt|^2, |q + q_gt|^2)``: a baseline.

    The quaternions are used as they come, so a loss of zero asks for the length of ``q_gt`` too.

    Args:
        q: Predicted quaternions, shape ``(..., 4)``, any component order.
        q_gt: True quaternions, the same order, shape ``(..., 4)``; batch dimensions broadcast.
        reduction: Over the batch.

    Returns:
        A number, or shape ``(...)``.

    Raises:
        ValueError, TypeError, NotImplementedError: As ``matrix_mse``.

    Example:
        >>> quat(torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.tensor([-1.0, 0.0, 0.0, 0.0]))
        tensor(0.)
    """
    check_trailing("q", q, (4,))
    check_trailing("q_gt", q_gt, (4,))
    check_broadcastable(q=q.shape[:-1], q_gt=q_gt.shape[:-1])
    return _reduce(((q - q_gt).square().sum(-1)).minimum((q + q_gt).square().sum(-1)), reduction)


@full_precision
def points(
    R: Float[Tensor, "*#batch n n"], R_gt: Float[Tensor, "*#batch n n"], p: Float[Tensor, "*#batch k n"], *, reduction: str = "mean"
) -> Float[Tensor, "*out"]:
    """Mean over points of ``|R p - R_gt p|^2``: weighs the error of a rotation by the shape that it turns.

    Args:
        R: Predicted matrices, shape ``(..., n, n)``.
        R_gt: True matrices, shape ``(..., n, n)``.
        p: Points, shape ``(..., k, n)``; batch dimensions broadcast.
        reduction: Over the batch; the points of one item are always averaged.

    Returns:
        A number, or shape ``(...)``.

    Raises:
        ValueError, TypeError, NotImplementedError: As ``matrix_mse``.

    Example:
        >>> points(torch.eye(3), torch.diag(torch.tensor([-1.0, -1.0, 1.0])), torch.eye(3))  # (4 + 4 + 0) / 3
        tensor(2.6667)
    """
    D = _difference(R, R_gt)
    check_trailing("p", p, (None, R.shape[-1]))
    check_broadcastable(R=D.shape[:-2], p=p.shape[:-2])
    return _reduce((p @ D.mT).square().sum(-1).mean(-1), reduction)


@full_precision
def regularizer(raw: Float[Tensor, "*batch d"], representation: Representation, *, reduction: str = "mean") -> Float[Tensor, "*out"]:
    """``|raw - encode(decode(raw))|^2``, which keeps raw vectors near encodings; for 9D ``|M - R|_F^2``.

    The scale of raw vectors is free for 6D and 9D, and gradients shrink as it grows: add a small multiple of this to a loss.

    Args:
        raw: Vectors, shape ``(..., dim)``.
        representation: Their representation.
        reduction: Over the batch.

    Returns:
        A number, or shape ``(...)``.

    Raises:
        ValueError, TypeError, NotImplementedError: As ``matrix_mse``.

    Example:
        >>> rep = get_representation("9d")
        >>> regularizer(2 * rep.identity_bias(), rep)
        tensor(3.)
    """
    return _reduce((raw - representation.encode(representation.decode(raw))).square().sum(-1), reduction)
