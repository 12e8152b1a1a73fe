"""Rotations of 3-space: every representation, exp and log, means, interpolation, alignment, sampling.

Active rotations acting on column vectors, right-handed axes, radians; quaternions ``wxyz`` unless ``order="xyzw"``; 6D is the
first two columns; Euler names are intrinsic in upper and extrinsic in lower case; any leading batch dimensions.
"""

from geocore.so3._algebra import (
    exp,
    hat,
    left_jacobian,
    left_jacobian_inverse,
    log,
    right_jacobian,
    right_jacobian_inverse,
    vee,
)
from geocore.so3._align import Alignment, align, rotation_between
from geocore.so3._convert import REPRESENTATIONS, convert
from geocore.so3._euler import (
    EULER_CONVENTIONS,
    euler_to_matrix,
    euler_to_quat,
    euler_to_rotvec,
    matrix_to_euler,
    quat_to_euler,
    rotvec_to_euler,
)
from geocore.so3._gradients import exp_backward_reference as _defined  # noqa: F401 - the operators are defined there
from geocore.so3._interpolate import slerp, squad, squad_controls
from geocore.so3._kinematics import forward_kinematics, renormalize
from geocore.so3._mean import MeanInfo, mean
from geocore.so3._metrics import chordal, geodesic
from geocore.so3._pairs import (
    from_mrp,
    matrix_to_quat,
    matrix_to_rotvec,
    mrp_to_quat,
    mrp_to_rotvec,
    quat_to_matrix,
    quat_to_mrp,
    quat_to_rotvec,
    rotvec_to_matrix,
    rotvec_to_mrp,
    rotvec_to_quat,
    to_mrp,
)
from geocore.so3._quaternion import quat_apply, quat_conj, quat_mul, quat_normalize, reorder, standardize
from geocore.so3._representations import from_5d, from_6d, from_9d, from_10d, to_5d, to_6d, to_9d, to_10d
from geocore.so3._sample import random
from geocore.so3._spline import RotationSpline

__all__ = [
    "EULER_CONVENTIONS",
    "REPRESENTATIONS",
    "Alignment",
    "MeanInfo",
    "RotationSpline",
    "align",
    "chordal",
    "convert",
    "euler_to_matrix",
    "euler_to_quat",
    "euler_to_rotvec",
    "exp",
    "forward_kinematics",
    "from_5d",
    "from_6d",
    "from_9d",
    "from_10d",
    "from_mrp",
    "geodesic",
    "hat",
    "left_jacobian",
    "left_jacobian_inverse",
    "log",
    "matrix_to_euler",
    "matrix_to_quat",
    "matrix_to_rotvec",
    "mean",
    "mrp_to_quat",
    "mrp_to_rotvec",
    "quat_apply",
    "quat_conj",
    "quat_mul",
    "quat_normalize",
    "quat_to_euler",
    "quat_to_matrix",
    "quat_to_mrp",
    "quat_to_rotvec",
    "random",
    "renormalize",
    "reorder",
    "right_jacobian",
    "right_jacobian_inverse",
    "rotation_between",
    "rotvec_to_euler",
    "rotvec_to_matrix",
    "rotvec_to_mrp",
    "rotvec_to_quat",
    "slerp",
    "squad",
    "squad_controls",
    "standardize",
    "to_5d",
    "to_6d",
    "to_9d",
    "to_10d",
    "to_mrp",
    "vee",
]
