"""Invariant and equivariant networks by averaging any backbone over a small input-dependent frame.

Source: Puny, Atzmon, Ben-Hamu, Smith, Misra, Grover, Lipman, Frame Averaging for Invariant and Equivariant Network Design, ICLR 2022.
"""

from frameavg._average import Averaged
from frameavg.functional import canonicalize, frame_average
from frameavg.models import FAGIN, FAGNN, FAGraphMLP, FAPointNet, normal_loss
from frameavg.modules import FrameAveraging, StochasticFrame
from frameavg.report import equivariance_report
from geocore.frames import (
    DegenerateFrameError,
    Frame,
    FrameTooLargeError,
    GroupFrame,
    MinimalFrame,
    PCAFrame,
    PermutationFrame,
    ProductFrame,
    SortFrame,
    WeightedFrame,
)

__all__ = [
    "FAGIN",
    "FAGNN",
    "Averaged",
    "DegenerateFrameError",
    "FAGraphMLP",
    "FAPointNet",
    "Frame",
    "FrameAveraging",
    "FrameTooLargeError",
    "GroupFrame",
    "MinimalFrame",
    "PCAFrame",
    "PermutationFrame",
    "ProductFrame",
    "SortFrame",
    "StochasticFrame",
    "WeightedFrame",
    "__version__",
    "canonicalize",
    "equivariance_report",
    "frame_average",
    "normal_loss",
]
__version__ = "0.1.0"
