"""Data: the particle simulator, loaders of the published formats, windows."""

from eqmotion.data.ethucy import ETHUCY, read_tracks
from eqmotion.data.human36m import Human36M, expmap_to_positions, read_expmap
from eqmotion.data.md17 import MD17Trajectories
from eqmotion.data.particles import ParticleRun, particle_energy, simulate_particles
from eqmotion.data.windows import Scene, TrajectoryDataset, make_windows

__all__ = [
    "ETHUCY",
    "Human36M",
    "MD17Trajectories",
    "ParticleRun",
    "Scene",
    "TrajectoryDataset",
    "expmap_to_positions",
    "make_windows",
    "particle_energy",
    "read_expmap",
    "read_tracks",
    "simulate_particles",
]
