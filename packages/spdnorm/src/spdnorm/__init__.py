"""Batch normalisation of SPD matrices under Bures-Wasserstein and other Riemannian metrics, and the layers of SPD networks.

Source: Wang, Jin, Chen, Luo and Wu, Learning to Normalize on the SPD Manifold under Bures-Wasserstein Geometry, CVPR 2025 (arXiv
2504.00660). Pure functions, one per step, are in ``spdnorm.functional``.
"""

from geocore.spd import NotPositiveDefiniteError
from spdnorm import functional
from spdnorm._sync import convert_sync
from spdnorm._weights import parameter_groups
from spdnorm.batchnorm import GBWBatchNorm, SPDBatchNorm
from spdnorm.domain import DomainSPDBatchNorm, MomentumSchedule
from spdnorm.heads import SPDMLR
from spdnorm.layers import BiMap, CovPool, ExpEig, LogEig, ReEig, Vech
from spdnorm.networks import RResNet, SPDNet, SpectralResidual, TSMNet

__all__ = [
    "SPDMLR",
    "BiMap",
    "CovPool",
    "DomainSPDBatchNorm",
    "ExpEig",
    "GBWBatchNorm",
    "LogEig",
    "MomentumSchedule",
    "NotPositiveDefiniteError",
    "RResNet",
    "ReEig",
    "SPDBatchNorm",
    "SPDNet",
    "SpectralResidual",
    "TSMNet",
    "Vech",
    "__version__",
    "convert_sync",
    "functional",
    "parameter_groups",
]
__version__ = "0.1.0"
