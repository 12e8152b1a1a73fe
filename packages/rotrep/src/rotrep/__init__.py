"""Continuous rotation representations for neural networks (Zhou et al., CVPR 2019, arXiv 1812.07035).

Submodules beside the names below: ``rotrep.functional``, ``rotrep.interop`` and ``rotrep.numpy`` (a mirror for data pipelines).
"""

from rotrep import losses, metrics, sampling
from rotrep._base import Representation
from rotrep.continuity import continuity_report
from rotrep.modules import RotationHead, RotationOutput, SimilarityHead, SimilarityOutput
from rotrep.ndim import NDRotation, Orthogonal, Similarity, SimilarityParts
from rotrep.registry import convert, get_representation, list_representations

__all__ = [
    "NDRotation",
    "Orthogonal",
    "Representation",
    "RotationHead",
    "RotationOutput",
    "Similarity",
    "SimilarityHead",
    "SimilarityOutput",
    "SimilarityParts",
    "__version__",
    "continuity_report",
    "convert",
    "get_representation",
    "list_representations",
    "losses",
    "metrics",
    "sampling",
]
__version__ = "0.1.0"
