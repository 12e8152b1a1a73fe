"""Monarch matrices: block-diagonal, transpose, block-diagonal (Dao et al., ICML 2022, arXiv 2204.00595).

The adapter for peft is in ``monarch.integrations.peft`` (extra ``peft``).
"""

from monarch._exact import exact_factors
from monarch.adapter import MonarchAdapter
from monarch.convert import ConversionReport, LayerReport, ReverseSparsification, convert_model, densify_model
from monarch.functional import (
    ProjectionInfo,
    blockdiag_matmul,
    kronecker_factors,
    monarch_dense,
    monarch_matmul,
    project_monarch,
    transpose_factors,
)
from monarch.linear import BlockDiagLinear, MonarchLinear
from monarch.order_p import MonarchOrderP, order_p_matmul, project_order_p
from monarch.transforms import MonarchChain, MonarchConv1d, MonarchTransform

__all__ = [
    "BlockDiagLinear",
    "ConversionReport",
    "LayerReport",
    "MonarchAdapter",
    "MonarchChain",
    "MonarchConv1d",
    "MonarchLinear",
    "MonarchOrderP",
    "MonarchTransform",
    "ProjectionInfo",
    "ReverseSparsification",
    "__version__",
    "blockdiag_matmul",
    "convert_model",
    "densify_model",
    "exact_factors",
    "kronecker_factors",
    "monarch_dense",
    "monarch_matmul",
    "order_p_matmul",
    "project_monarch",
    "project_order_p",
    "transpose_factors",
]
__version__ = "0.1.0"
