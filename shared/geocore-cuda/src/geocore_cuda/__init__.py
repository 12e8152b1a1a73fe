"""Compiled kernels for the operators of geocore. Import geocore as always; it finds this package and uses what is faster.

geocore defines every operator with its plain formula and gradient; the shared library here only adds implementations for the CPU and
for CUDA devices. ``geocore info`` shows which are in use and where each takes over.
"""

import json
from pathlib import Path

import torch

from geocore import _ops

__all__ = ["KERNELS", "__version__", "build_facts"]
__version__ = "0.1.0"

INTERFACE = 1
"""Version of the operator schemas that the library was compiled for; geocore refuses another."""

_EVERYWHERE = frozenset(
    {
        "block_rotate",
        "householder_scan",
        "householder_scan_backward",
        "matrix_to_quat",
        "matrix_to_quat_backward",
        "obb_intersection",
        "obb_intersection_backward",
        "obb_iou_list",
        "obb_iou_table",
        "obb_nms",
        "obb_ratio",
        "obb_ratio_backward",
        "procrustes3",
        "procrustes3_backward",
        "quat_mul",
        "quat_to_matrix",
        "quat_to_matrix_backward",
        "rope_apply",
        "small_expm",
        "small_expm_backward",
        "so3_exp",
        "so3_exp_backward",
        "so3_geodesic",
        "so3_geodesic_backward",
        "so3_log",
        "so3_log_backward",
        "svd3",
        "sym_eig",
        "unit_solve",
    }
)
KERNELS: dict[str, frozenset[str]] = {"cpu": _EVERYWHERE | {"block_rotate_backward"}, "cuda": _EVERYWHERE}
"""Device type to the operators that the library implements there."""

_HERE = Path(__file__).resolve().parent


def build_facts() -> dict[str, object]:
    """How the library was built.

    Returns:
        ``cuda`` (release or ``None`` for a CPU-only build), ``archs``, ``compiler``, ``torch_at_least``.
    """
    return json.loads((_HERE / "_build.json").read_text(encoding="utf-8"))


def _load() -> None:
    if _ops.KERNEL_INTERFACE != INTERFACE:
        raise ImportError(
            f"it was built for operator interface {INTERFACE}, this geocore has {_ops.KERNEL_INTERFACE}; install matching versions"
        )
    library = _HERE / "_kernels.so"
    if not library.is_file():
        raise ImportError("its library is missing; build it with compile_kernels.py, or install the wheel")
    torch.ops.load_library(str(library))
    _ops.announce("cpu", KERNELS["cpu"])
    if build_facts()["cuda"]:
        _ops.announce("cuda", KERNELS["cuda"])


_load()
