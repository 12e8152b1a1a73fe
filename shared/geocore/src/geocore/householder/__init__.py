"""Householder reflections and their products: compact WY, UT transform, factorisation into reflectors.

A product is held as the vectors ``V (..., n, k)``, columns in order, and optional coefficients ``tau``:
``Q = (I - tau_1 v_1 v_1^T) ... (I - tau_k v_k v_k^T)``. Without ``tau`` every factor is the reflection in the hyperplane orthogonal to its
column, whatever its length; a zero column is the identity, so no parameter value gives a matrix that is not orthogonal.
"""

from geocore.householder import _scan as _scan  # defines its operators
from geocore.householder._factor import from_orthogonal, permutation_to_reflectors
from geocore.householder._product import apply_product, apply_product_reference, compact_wy, reflect, to_matrix
from geocore.householder._ut import UTTransform, decay_mask, ut_transform

__all__ = [
    "UTTransform",
    "apply_product",
    "apply_product_reference",
    "compact_wy",
    "decay_mask",
    "from_orthogonal",
    "permutation_to_reflectors",
    "reflect",
    "to_matrix",
    "ut_transform",
]
