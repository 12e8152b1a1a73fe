"""Unit Cycle Resolver: oriented boxes from horizontal ones, and the tools of the RSAR benchmark.

Source: RSAR: Restricted State Angle Resolver and Rotated SAR Benchmark, CVPR 2025, arXiv 2501.04440.
"""

from ucr_rsar.coder import UCRCoder, UnitCircleLoss
from ucr_rsar.detector import CODERS, WeakOrientedDetector, build_tiny_detector
from ucr_rsar.head import H2RBoxHead

__all__ = ["CODERS", "H2RBoxHead", "UCRCoder", "UnitCircleLoss", "WeakOrientedDetector", "__version__", "build_tiny_detector"]
__version__ = "0.1.0"
