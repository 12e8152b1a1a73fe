"""Error histograms that fit into a summary: fractions below edges that grow by decades, where jumps and small errors both show."""

from itertools import pairwise

from rotrep.metrics import RotationErrorSummary

__all__ = ["EDGES", "fractions"]

EDGES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 180.0)
"""Edges in degrees; pass them to ``rotation_error_deg`` as ``thresholds``."""


def fractions(summary: RotationErrorSummary) -> list[float]:
    """Fraction of errors in each bin, the first from 0 to ``EDGES[0]``; they add up to 1 but for what rounding lifts above 180."""
    below = [0.0, *(summary.accuracy[edge] for edge in EDGES)]
    return [b - a for a, b in pairwise(below)]
