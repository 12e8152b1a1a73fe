"""Input-dependent frames: a few group elements per input, to average over or to choose a canonical pose.

A frame constructor is called with points (or an adjacency matrix) and returns a ``Frame``: elements, weights, and what is known about the
input. ``frame.canonicalize`` gives the poses, ``frame.restore`` carries outputs back, ``frame.average`` averages.
"""

from geocore.frames._combined import GroupFrame, ProductFrame
from geocore.frames._errors import DegenerateFrameError, FrameTooLargeError
from geocore.frames._frame import Frame, FrameInfo
from geocore.frames._minimal import MinimalFrame
from geocore.frames._pca import PCAFrame
from geocore.frames._permutation import PermutationFrame, SortFrame
from geocore.frames._spectrum import cluster_eigenvalues
from geocore.frames._weighted import WeightedFrame

__all__ = [
    "DegenerateFrameError",
    "Frame",
    "FrameInfo",
    "FrameTooLargeError",
    "GroupFrame",
    "MinimalFrame",
    "PCAFrame",
    "PermutationFrame",
    "ProductFrame",
    "SortFrame",
    "WeightedFrame",
    "cluster_eigenvalues",
]
