"""Oriented-box detection in plain PyTorch: what stands between plane geometry and a detector.

Boxes are ``(cx, cy, w, h, t)`` in pixels and radians, y down, positive from +x towards +y (``geocore.planar``).
"""

from obbkit import coders, data, losses, metrics, models, points, views
from obbkit.coders import build_coder, register_coder
from obbkit.metrics import RotatedMAP
from obbkit.nms import rotated_nms
from obbkit.roi_align import roi_align_rotated

__all__ = [
    "RotatedMAP",
    "__version__",
    "build_coder",
    "coders",
    "data",
    "losses",
    "metrics",
    "models",
    "points",
    "register_coder",
    "roi_align_rotated",
    "rotated_nms",
    "views",
]
__version__ = "0.1.0"
