"""Data of the paper's experiments: generated, or read from files the user has."""

from frameavg.data._nbody import NBody, read_nbody, simulate_charged
from frameavg.data._surfaces import SurfaceNormals, read_obj, sample_mesh, sample_shapes

__all__ = ["NBody", "SurfaceNormals", "read_nbody", "read_obj", "sample_mesh", "sample_shapes", "simulate_charged"]
