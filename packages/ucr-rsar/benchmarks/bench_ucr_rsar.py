"""Coder and aggregation against literal forms: ``python benchmarks/bench_ucr_rsar.py [--quick] [--json F]``.

``literal`` makes one tensor for each of the ``m`` cosines, ``unique`` sorts float object numbers, in the way of the published code; both
are written anew here from their description (``ucr_rsar._reference``).
"""

from typing import Any

import torch

from geocore.planar import angle_diff
from geocore.testing.benchmark import Benchmark, Case
from ucr_rsar import UCRCoder
from ucr_rsar._reference import decode_reference, encode_reference, object_codes_unique, restriction_reference
from ucr_rsar.functional import object_codes

bench = Benchmark("ucr_rsar")
CODES = [{"m": 3, "codes": 1_000_000}, {"m": 8, "codes": 1_000_000}, {"m": 2, "codes": 1_000_000}, {"m": 3, "codes": 1000}]


@bench.case(sizes=CODES)
def encode_decode_restrict(m: int, codes: int, device: str) -> Case:
    t = (torch.rand(codes, device=device) - 0.5) * 3
    coder = UCRCoder(m).to(device)
    noisy = encode_reference(t, m) + 0.1 * torch.randn(codes, m, device=device)  # as from a network: off the circle

    def ours() -> Any:
        return coder.encode(t), coder.decode(noisy), coder.restriction(noisy)

    def literal() -> Any:
        return encode_reference(t, m), decode_reference(noisy, m), restriction_reference(noisy, m)

    a, b = noisy[:, 0].contiguous(), noisy[:, 1].contiguous()

    def one_atan2() -> Any:
        return torch.atan2(a, b)

    def check(results: dict[str, Any]) -> None:
        (x, p, r), (y, q, s) = results["ucr_rsar"], results["literal"]
        assert (x - y).abs().max() < 1e-5
        assert angle_diff(p, q).abs().max() < 1e-4
        assert (r - s).abs() < 1e-4

    targets = {"literal": {3: 1 / 1.5, 8: 1 / 3}.get(m, 1.0)} if codes > 1000 else {}
    return Case(
        ours="ucr_rsar",
        candidates={"ucr_rsar": ours, "literal": literal, "one atan2 alone": one_atan2},
        targets=targets,
        check=check,
        memory=True,
    )


@bench.case(sizes=[{"points": 10_000, "objects": 400}, {"points": 1_000_000, "objects": 20_000}, {"points": 300, "objects": 12}])
def aggregate(points: int, objects: int, device: str) -> Case:
    obj, view = torch.randint(objects, (points,), device=device), torch.randint(3, (points,), device=device)
    code = torch.randn(points, 3, device=device)

    def ours() -> Any:
        mean, complete = object_codes(code, obj, view, objects)
        return mean[:, complete]

    return Case(
        ours="scatter",
        candidates={"scatter": ours, "unique": lambda: object_codes_unique(code, obj, view)},
        targets={"unique": 0.5},
        atol=1e-5,
    )


if __name__ == "__main__":
    raise SystemExit(bench.main())
