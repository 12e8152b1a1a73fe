"""Annotation folders: read and write the usual formats, find every bad line, count, and evaluate result files."""

from ucr_rsar.tools.check import Problem, statistics, validate
from ucr_rsar.tools.formats import FORMATS, READABLE, Labels, convert, image_sizes, read_labels, write_labels
from ucr_rsar.tools.results import evaluate_results, read_results
from ucr_rsar.tools.tiling import tile_folder

__all__ = [
    "FORMATS",
    "READABLE",
    "Labels",
    "Problem",
    "convert",
    "evaluate_results",
    "image_sizes",
    "read_labels",
    "read_results",
    "statistics",
    "tile_folder",
    "validate",
    "write_labels",
]
