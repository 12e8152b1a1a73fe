"""Groups that act on data: rotations and motions of d-space, finite groups, permutations, products; typed action on trees of tensors.

Elements are plain data with any batch dimensions: ``Motion(Q, t)``, int64 permutation tensors, ``Pair`` of two. ``transform`` acts with one
on tensors whose types are named (``"position"``, ``"vector"``, ``"tensor(2)"``, ``"node"``, ...). Irreducible representations and spherical
harmonics are e3nn's.
"""

from geocore.groups._elements import Element, Motion, Pair, compose, inverse
from geocore.groups._euclidean import Euclidean, Orthogonal, Sign, SpecialEuclidean, SpecialOrthogonal, Translation
from geocore.groups._group import Group
from geocore.groups._planar import Cyclic, Dihedral, grid_action
from geocore.groups._polyhedral import Icosahedral, Octahedral
from geocore.groups._product import ProductGroup
from geocore.groups._symmetric import Symmetric
from geocore.groups._types import TYPES, Type, transform

__all__ = [
    "TYPES",
    "Cyclic",
    "Dihedral",
    "Element",
    "Euclidean",
    "Group",
    "Icosahedral",
    "Motion",
    "Octahedral",
    "Orthogonal",
    "Pair",
    "ProductGroup",
    "Sign",
    "SpecialEuclidean",
    "SpecialOrthogonal",
    "Symmetric",
    "Translation",
    "Type",
    "compose",
    "grid_action",
    "inverse",
    "transform",
]
