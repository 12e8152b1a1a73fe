"""The benchmark runner: correctness before the clock, ratios, targets, results file."""

import json

import pytest
import torch

from geocore import _ops
from geocore.testing.benchmark import Benchmark, Case, compare_timings, peak_memory, plain


def make(wrong: bool = False) -> Benchmark:
    bench = Benchmark("sample")

    @bench.case(sizes=[{"n": 8}, {"n": 16}])
    def square(n: int, device: str) -> Case:
        a = torch.randn(n, n, device=device)
        return Case(
            ours="product",
            candidates={"product": lambda: a @ a, "einsum": lambda: torch.einsum("ij,jk", a, a) + float(wrong)},
            targets={"einsum": 1e6},
            memory=True,
        )

    return bench


def test_results_are_written(tmp_path, capsys):
    path = tmp_path / "deep" / "sample.json"
    threads = torch.get_num_threads()
    assert make().main(["--quick", "--json", str(path)]) == 0
    torch.set_num_threads(threads)
    document = json.loads(path.read_text())
    assert document["benchmark"] == "sample"
    assert document["environment"]["torch"] == torch.__version__
    rows = {row["candidate"]: row for row in document["results"]}
    assert rows["product"]["ours"]
    assert rows["product"]["ours_over_this"] == 1
    assert rows["einsum"]["met"] is True
    assert rows["einsum"]["ms"] > 0
    assert rows["product"]["peak_mb"] > 0
    assert {row["n"] for row in document["results"]} == {8}
    assert "einsum" in capsys.readouterr().out


def test_wrong_result_stops_before_the_clock():
    with pytest.raises(AssertionError, match="einsum against product"):
        make(wrong=True).run(quick=True)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="must name candidates"):
        Case(ours="x", candidates={"y": lambda: None})
    with pytest.raises(ValueError, match="only must match one of"):
        make().run(only="nothing")


def test_slower_is_slower():
    small, large = torch.randn(8, 8), torch.randn(256, 256)
    timings = compare_timings({"small": lambda: small @ small, "large": lambda: large @ large}, samples=5, budget=0.2)
    assert timings["small"].median < timings["large"].median
    assert timings["small"].lower <= timings["small"].median <= timings["small"].upper


def test_peak_memory_counts_temporaries():
    x = torch.ones(1 << 16)
    assert peak_memory(lambda: (x + 1) + (x + 2)) >= 3 * x.nbytes
    assert peak_memory(lambda: x.sum()) < x.nbytes


def test_plain_switches_the_kernels_off_for_the_call():
    seen = []

    def fn(x, *, scale):
        seen.append(dict(_ops._KERNELS))
        return scale * x

    with _ops.without_kernels():
        _ops.announce("cpu", frozenset({"nothing"}))
        assert plain(fn)(2, scale=3) == 6
        assert fn(2, scale=3) == 6
    assert seen == [{}, {"cpu": frozenset({"nothing"})}]
