"""Where a compiled kernel pays: one row per operator and device, measured with the benchmarks of ``geocore-cuda``.

A kernel that has not been measured on a device is not chosen there, unless ``GEOCORE_KERNELS=all`` asks for it (to measure it).
"""

import os
from dataclasses import dataclass

import torch

__all__ = ["TABLE", "Row", "describe", "pays"]

UNMEASURED = "not yet measured"
EVERY_KERNEL = os.environ.get("GEOCORE_KERNELS", "").lower() == "all"


@dataclass(frozen=True)
class Row:
    """When an operator's kernel is chosen over its reference.

    Args:
        sizes: Smallest and largest size of one item (matrix order, vector length); ``(0, 0)`` where there is only one.
        count: Fewest items for which the kernel pays, in float32 and in float64; ``None`` never in that dtype.
        gain: What was measured, for ``geocore info``.
        half: The same in float16 and in bfloat16, for kernels that read and write them; elsewhere they arrive as float32.
    """

    sizes: tuple[int, int] = (0, 0)
    count: tuple[int | None, int | None] = (0, 0)
    gain: str = UNMEASURED
    half: tuple[int | None, int | None] = (None, None)


TABLE: dict[tuple[str, str], Row] = {
    ("block_rotate", "cpu"): Row((2, 8), (1, 1), "1.2 to 21 times"),
    ("householder_scan", "cpu"): Row((1, 128), (1, 1), "1.3 to 5 times"),
    ("matrix_to_quat", "cpu"): Row(gain="5 to 11 times"),
    ("obb_intersection", "cpu"): Row(gain="18 to 33 times"),
    ("obb_iou_list", "cpu"): Row(gain="11 to 71 times"),
    ("obb_iou_table", "cpu"): Row(gain="11 to 14 times"),
    ("obb_nms", "cpu"): Row(gain="16 to 51 times"),
    ("obb_ratio", "cpu"): Row(gain="15 to 38 times, 8 to 29 with backward"),
    ("procrustes3", "cpu"): Row((3, 3), (1, 1), "3 to 23 times"),
    ("quat_mul", "cpu"): Row(gain="1.6 to 7 times"),
    ("quat_to_matrix", "cpu"): Row(gain="4 to 13 times"),
    ("rope_apply", "cpu"): Row(count=(4096, 4096), gain="1.3 to 10 times, bfloat16 1.8 to 10 times", half=(None, 0)),
    ("small_expm", "cpu"): Row((1, 16), (1, 1), "4 to 55 times"),
    ("so3_exp", "cpu"): Row(gain="6 to 10 times"),
    ("so3_geodesic", "cpu"): Row(gain="4 to 7 times"),
    ("so3_log", "cpu"): Row(gain="3 to 18 times"),
    ("svd3", "cpu"): Row((3, 3), (4, 4), "19 to 22 times"),
    ("sym_eig", "cpu"): Row((2, 16), (8, 8), "2.4 to 74 times"),
    ("unit_solve", "cpu"): Row((1, 128), (1024, 1024), "1.5 to 10 times"),
    # what the kernels can do: none has run on a GPU yet
    ("block_rotate", "cuda"): Row((2, 8)),
    ("householder_scan", "cuda"): Row((1, 128)),
    ("procrustes3", "cuda"): Row((3, 3)),
    ("rope_apply", "cuda"): Row(half=(0, 0)),
    ("small_expm", "cuda"): Row((1, 16)),
    ("sym_eig", "cuda"): Row((2, 32)),
    ("unit_solve", "cuda"): Row((1, 128)),
}
"""Operator and device type to its row. A kernel without one can do any size and has not been measured."""


def pays(name: str, device: str, dtype: torch.dtype, size: int, count: int | None) -> bool:
    """Whether the table says that the kernel is the faster one; ``count=None`` leaves the number of items out."""
    row = TABLE.get((name, device), Row())
    if row.gain == UNMEASURED and not EVERY_KERNEL:
        return False
    if dtype == torch.float32:
        least = row.count[0]
    elif dtype == torch.float64:
        least = row.count[1]
    elif dtype in (torch.float16, torch.bfloat16):
        least = row.half[dtype == torch.bfloat16]
    else:
        return False
    low, high = row.sizes
    if least is None or (high and not low <= size <= high):
        return False
    return count is None or count >= least


def describe(name: str, device: str) -> str:
    """One line for ``geocore info``: for which sizes and from how many items on the kernel runs, and the measured gain."""
    row = TABLE.get((name, device), Row())
    low, high = row.sizes
    sizes = f"sizes {low} to {high}" if high > low else f"size {high}" if high else "any size"
    least = row.count
    if least[0] == least[1]:
        when = f" from {least[0]} items on" if least[0] else ""
    else:
        parts = zip(("float32", "float64"), least, strict=True)
        when = ", " + ", ".join(f"{t} never" if n is None else f"{t} from {n} items on" for t, n in parts)
    if row.gain != UNMEASURED:
        return f"{sizes}{when}; {row.gain}"
    return f"{sizes}{when}; {UNMEASURED}, " + ("taken all the same" if EVERY_KERNEL else "so not taken (GEOCORE_KERNELS=all takes it)")
