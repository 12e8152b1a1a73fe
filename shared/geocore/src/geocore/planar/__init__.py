"""Plane geometry: angles, oriented boxes, exact differentiable overlap, Gaussians, polygons.

Conventions, never deviated from:

- x to the right, y down; angles in radians, positive from +x towards +y, so clockwise on the screen: ``R(t) = [[cos, -sin], [sin, cos]]``
  on columns ``(x, y)``. The same as mmrotate 1.x, mmcv ``clockwise=True`` and the ``xywhr`` of ultralytics, the opposite of detectron2.
- Continuous pixel coordinates: pixel ``(i, j)`` of row and column has its centre at ``(j + 0.5, i + 0.5)``; a flip is ``W - x``.
- Boxes are ``(..., 5) = (cx, cy, w, h, t)`` with ``w, h >= 0``; corners come in the local order (-,-), (+,-), (+,+), (-,+), whose shoelace
  area is positive. ``canonicalize`` names the usual ranges of ``t``.
- Polygons are ``(..., n, 2)`` with the first vertex not repeated.

All functions take leading dimensions and empty inputs, keep dtype and device, compute half precision in float32, and never look at values
to decide what to do (``convex_hull`` of large sets and ``min_area_rect`` of more than eight points excepted).
"""

from geocore.planar import _suppress  # noqa: F401 - defines its operator
from geocore.planar.angles import angle_diff, axial_mean, decode_phase, encode_harmonics, wrap
from geocore.planar.boxes import (
    PATTERNS,
    aabb_to_obb,
    canonicalize,
    corners_to_obb,
    flip,
    obb_contains,
    obb_to_aabb,
    obb_to_corners,
    rotate,
    scale,
    transform_obb,
    translate,
)
from geocore.planar.contour import rasterize, resample_contour, simplify, soft_rasterize
from geocore.planar.gaussian import (
    SCALES,
    bhattacharyya,
    bures_wasserstein,
    gaussian_to_obb,
    hellinger,
    kfiou,
    kl,
    obb_to_gaussian,
)
from geocore.planar.iou import obb_intersection_area, obb_iou, obb_iou_matrix, poly_obb_intersection_area
from geocore.planar.polygon import (
    angle_sum,
    centroid,
    clip_convex,
    contains,
    convex_hull,
    convex_intersection_area,
    edge_angles,
    ensure_orientation,
    is_convex,
    is_simple,
    min_area_rect,
    orientation,
    perimeter,
    signed_area,
    winding_number,
)

__all__ = [
    "PATTERNS",
    "SCALES",
    "aabb_to_obb",
    "angle_diff",
    "angle_sum",
    "axial_mean",
    "bhattacharyya",
    "bures_wasserstein",
    "canonicalize",
    "centroid",
    "clip_convex",
    "contains",
    "convex_hull",
    "convex_intersection_area",
    "corners_to_obb",
    "decode_phase",
    "edge_angles",
    "encode_harmonics",
    "ensure_orientation",
    "flip",
    "gaussian_to_obb",
    "hellinger",
    "is_convex",
    "is_simple",
    "kfiou",
    "kl",
    "min_area_rect",
    "obb_contains",
    "obb_intersection_area",
    "obb_iou",
    "obb_iou_matrix",
    "obb_to_aabb",
    "obb_to_corners",
    "obb_to_gaussian",
    "orientation",
    "perimeter",
    "poly_obb_intersection_area",
    "rasterize",
    "resample_contour",
    "rotate",
    "scale",
    "signed_area",
    "simplify",
    "soft_rasterize",
    "transform_obb",
    "translate",
    "winding_number",
    "wrap",
]
