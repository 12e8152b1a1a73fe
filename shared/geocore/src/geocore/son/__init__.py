"""Rotations of n-space: SO(n), its Lie algebra of skew matrices, and the ways between them.

Rotations are active, matrices act on column vectors, any leading batch dimensions. ``polar`` and ``newton_schulz`` are those of
``geocore.orthogonal``.
"""

from geocore.orthogonal._newton_schulz import newton_schulz
from geocore.orthogonal._polar import polar
from geocore.son._algebra import skew, skew_from_vec, vec
from geocore.son._cayley import cayley, cayley_inv
from geocore.son._commuting import commutator_norm, joint_skew_spectral
from geocore.son._exp import exp
from geocore.son._expm_apply import expm_skew_apply, expm_skew_apply_reference
from geocore.son._frames import generalized_cross, givens_product, gram_schmidt
from geocore.son._log import log
from geocore.son._mean import MeanInfo, geodesic, mean
from geocore.son._procrustes import nearest_special_orthogonal, special_procrustes
from geocore.son._random import haar
from geocore.son._spectral import skew_spectral

__all__ = [
    "MeanInfo",
    "cayley",
    "cayley_inv",
    "commutator_norm",
    "exp",
    "expm_skew_apply",
    "expm_skew_apply_reference",
    "generalized_cross",
    "geodesic",
    "givens_product",
    "gram_schmidt",
    "haar",
    "joint_skew_spectral",
    "log",
    "mean",
    "nearest_special_orthogonal",
    "newton_schulz",
    "polar",
    "skew",
    "skew_from_vec",
    "skew_spectral",
    "special_procrustes",
    "vec",
]
