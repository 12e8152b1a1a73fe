"""Nothing changes in your code: geocore finds the kernels. This prints what they bring on this machine."""

import time

import torch

from geocore import _ops, so3

torch.set_num_threads(1)
w = torch.randn(100_000, 3)


def milliseconds(repeat: int = 20) -> float:
    """Median time of one call."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        so3.log(so3.exp(w))
        times.append(time.perf_counter() - start)
    return 1e3 * sorted(times)[repeat // 2]


print(_ops.kernel_status().reason)
ours = milliseconds()
with _ops.without_kernels():
    plain = milliseconds()
print(f"exp and log of {len(w)} rotations: {plain:.2f} ms by plain operations, {ours:.2f} ms with kernels")
