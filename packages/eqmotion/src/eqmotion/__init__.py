"""Euclidean-equivariant multi-agent motion prediction with invariant interaction reasoning (Xu et al., EqMotion, CVPR 2023)."""

from eqmotion import data
from eqmotion.data import ETHUCY, Human36M, MD17Trajectories, make_windows, simulate_particles
from eqmotion.functional import vector_relu
from eqmotion.layers import EquivariantLinear, InnerAgentAttention, InterAgentAggregation, TimeDCT, VectorReLU
from eqmotion.losses import best_of_modes_loss, displacement_loss, horizon_weights, mode_score_loss
from eqmotion.metrics import EquivarianceReport, ade, equivariance_report, fde, interaction_accuracy, min_ade, min_fde, mpjpe
from eqmotion.model import EqMotion
from eqmotion.outputs import DetailedOutput, EqMotionOutput
from eqmotion.reasoner import InteractionReasoner

__all__ = [
    "ETHUCY",
    "DetailedOutput",
    "EqMotion",
    "EqMotionOutput",
    "EquivarianceReport",
    "EquivariantLinear",
    "Human36M",
    "InnerAgentAttention",
    "InterAgentAggregation",
    "InteractionReasoner",
    "MD17Trajectories",
    "TimeDCT",
    "VectorReLU",
    "__version__",
    "ade",
    "best_of_modes_loss",
    "data",
    "displacement_loss",
    "equivariance_report",
    "fde",
    "horizon_weights",
    "interaction_accuracy",
    "make_windows",
    "min_ade",
    "min_fde",
    "mode_score_loss",
    "mpjpe",
    "simulate_particles",
    "vector_relu",
]
__version__ = "0.1.0"
