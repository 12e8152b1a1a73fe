"""Speed of the method against its literal transcription."""

import torch

from geocore.testing.benchmark import Benchmark, Case
from methodname import rotate_pairs
from methodname._reference import rotate_pairs_reference

bench = Benchmark("methodname")


@bench.case(sizes=[{"batch": 1_000}, {"batch": 100_000}])
def forward(batch: int, device: str) -> Case:
    x, angle = torch.randn(batch, 64, device=device), torch.randn(batch, 32, device=device)
    return Case(
        ours="methodname",
        candidates={"methodname": lambda: rotate_pairs(x, angle), "literal": lambda: rotate_pairs_reference(x, angle)},
        targets={"literal": 0.5},
        atol=1e-5,
    )


if __name__ == "__main__":
    raise SystemExit(bench.main())
