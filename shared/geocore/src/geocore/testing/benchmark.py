"""The benchmark runner: correctness first, candidates interleaved, ratios against named peers in one process.

Absolute times on a shared machine mean little; the ratio of medians of interleaved runs means something. On CPU the clock
is the CPU time of this process on one thread, on CUDA it is device events.

Example:
    >>> bench = Benchmark("demo")
    >>> @bench.case(sizes=[{"n": 64}])
    ... def product(n: int, device: str) -> Case:
    ...     a = torch.randn(n, n, device=device)
    ...     return Case(ours="matmul", candidates={"matmul": lambda: a @ a, "einsum": lambda: torch.einsum("ij,jk", a, a)})
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from geocore import _ops
from geocore.testing._transforms import assert_same

__all__ = ["Benchmark", "Case", "Timing", "compare_timings", "environment", "peak_memory", "plain"]

_REPORTED = (
    *("geocore", "numpy", "scipy", "roma", "kornia", "pypose", "geoopt", "torchlie", "torch-householder"),
    *("pyriemann", "spd-learn", "geomstats", "POT", "fla-core", "timm", "transformers", "peft"),
)


@dataclass(frozen=True)
class Timing:
    """Seconds per call over the samples taken: median and quartiles."""

    median: float
    lower: float
    upper: float
    samples: int


@dataclass(frozen=True)
class Case:
    """One comparison at one size.

    Args:
        ours: Name of the candidate that is ours.
        candidates: Name to a function without arguments that does the work and returns its result.
        targets: Peer name to the allowed ratio of our time to the peer's.
        atol: Tolerance, relative to scale, at which every result must equal ours before the clock starts.
        check: Replaces that comparison: gets all results by name and raises if one is wrong.
        memory: Whether to measure peak memory too.
    """

    ours: str
    candidates: Mapping[str, Callable[[], Any]]
    targets: Mapping[str, float] = field(default_factory=dict)
    atol: float | None = None
    check: Callable[[dict[str, Any]], None] | None = None
    memory: bool = False

    def __post_init__(self) -> None:
        unknown = ({self.ours} | set(self.targets)) - set(self.candidates)
        if unknown:
            raise ValueError(f"ours and targets must name candidates {sorted(self.candidates)}, got {sorted(unknown)}")

    def verify(self) -> None:
        """Run every candidate once and compare.

        Raises:
            AssertionError: If a result differs from ours.
        """
        results = {name: run() for name, run in self.candidates.items()}
        if self.check is not None:
            self.check(results)
            return
        for name, result in results.items():
            assert_same(f"{name} against {self.ours}", result, results[self.ours], self.atol)


def plain(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The same function with every compiled kernel switched off: the peer of a kernel.

    Args:
        fn: Any function, such as a candidate of a case.

    Returns:
        A function of the same arguments and result.

    Example:
        >>> candidates = {"kernel": lambda: so3.exp(w), "formula": plain(lambda: so3.exp(w))}
    """

    def run(*args: Any, **options: Any) -> Any:
        with _ops.without_kernels():
            return fn(*args, **options)

    return run


def _clock(device: str) -> Callable[[Callable[[], Any], int], float]:
    if device.startswith("cuda"):

        def cuda(run: Callable[[], Any], count: int) -> float:
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            for _ in range(count):
                run()
            end.record()
            end.synchronize()
            return start.elapsed_time(end) / 1e3 / count

        return cuda

    def cpu(run: Callable[[], Any], count: int) -> float:
        start = time.process_time()
        for _ in range(count):
            run()
        return (time.process_time() - start) / count

    return cpu


def compare_timings(
    candidates: Mapping[str, Callable[[], Any]], *, device: str = "cpu", samples: int = 15, budget: float = 3.0, warmup: int = 2
) -> dict[str, Timing]:
    """Time the candidates, one sample of each in turn, so that a busy machine slows all of them alike.

    Args:
        candidates: Name to function.
        device: ``"cpu"`` (process CPU time) or a CUDA device (events).
        samples: Samples per candidate; at least 3 are taken however slow it is.
        budget: Seconds to spend per candidate, about.
        warmup: Untimed calls of each first.

    Returns:
        Name to ``Timing``.
    """
    measure = _clock(device)
    plan: dict[str, tuple[int, int]] = {}
    for name, run in candidates.items():
        for _ in range(warmup):
            run()
        once = max(measure(run, 1), 1e-7)
        count = max(1, int(min(5e-3, budget / samples) / once))
        plan[name] = count, max(3, min(samples, int(budget / (once * count))))
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    for i in range(max(rounds for _, rounds in plan.values())):
        for name, run in candidates.items():
            count, rounds = plan[name]
            if i < rounds:
                taken[name].append(measure(run, count))
    out = {}
    for name, times in taken.items():
        lower, median, upper = statistics.quantiles(times, n=4)
        out[name] = Timing(median, lower, upper, len(times))
    return out


def peak_memory(run: Callable[[], Any], *, device: str = "cpu") -> int:
    """Peak bytes of tensor memory that one call allocates beyond what was there before (CPU: from the profiler's events)."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        result = run()
    del result
    events: Any = profile.profiler
    sizes = [(e.start_ns(), e.nbytes()) for e in events.kineto_results.events() if e.name() == "[memory]"]
    level = peak = 0
    for _, size in sorted(sizes, key=lambda pair: pair[0]):
        level += size
        peak = max(peak, level)
    return peak


def environment(device: str = "cpu") -> dict[str, Any]:
    """Versions and hardware, as they go into every results file."""
    info: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "processor": _processor(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        "date": time.strftime("%Y-%m-%d"),
    }
    for name in _REPORTED:
        try:
            info[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return info


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


class Benchmark:
    """A named collection of cases with a command line.

    Args:
        name: Name of the results, ``<name>.json`` by convention.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._cases: list[tuple[str, Callable[..., Case], Sequence[Mapping[str, Any]]]] = []

    def case(self, *, sizes: Sequence[Mapping[str, Any]]) -> Callable[[Callable[..., Case]], Callable[..., Case]]:
        """Register ``make(**size, device=...) -> Case`` for each of ``sizes``; in a quick run only the first one is timed."""

        def register(make: Callable[..., Case]) -> Callable[..., Case]:
            self._cases.append((make.__name__, make, sizes))
            return make

        return register

    def run(self, *, device: str = "cpu", quick: bool = False, only: str = "", console: Console | None = None) -> list[dict[str, Any]]:
        """Verify and time every case; returns one record per candidate and size.

        Raises:
            AssertionError: If a candidate's result is wrong; nothing is timed then.
            ValueError: If ``only`` matches no case.
        """
        console = console or Console()
        chosen = [case for case in self._cases if only in case[0]]
        if not chosen:
            raise ValueError(f"only must match one of {[name for name, _, _ in self._cases]}, got {only!r}")
        records: list[dict[str, Any]] = []
        for name, make, sizes in chosen:
            for size in sizes[:1] if quick else sizes:
                case = make(**size, device=device)
                case.verify()
                budget = {"samples": 5, "budget": 0.5} if quick else {}
                timings = compare_timings(case.candidates, device=device, **budget)
                mine = timings[case.ours].median
                rows = []
                for candidate, timing in timings.items():
                    ratio = mine / timing.median
                    target = case.targets.get(candidate)
                    row = {
                        "case": name,
                        **size,
                        "candidate": candidate,
                        "ours": candidate == case.ours,
                        "ms": timing.median * 1e3,
                        "quartiles_ms": [timing.lower * 1e3, timing.upper * 1e3],
                        "ours_over_this": ratio,
                        "target": target,
                        "met": None if target is None else bool(ratio <= target),
                    }
                    if case.memory:
                        row["peak_mb"] = peak_memory(case.candidates[candidate], device=device) / 2**20
                    rows.append(row)
                records += rows
                console.print(_table(name, size, rows))
        return records

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Command line: ``--quick``, ``--device``, ``--only CASE``, ``--json FILE``. Returns the exit code."""
        parser = argparse.ArgumentParser(description=f"Benchmarks of {self.name}: ratios against named peers in one process.")
        parser.add_argument("--quick", action="store_true", help="first size of each case, few samples")
        parser.add_argument("--device", default="cpu", help="cpu or cuda")
        parser.add_argument("--only", default="", help="run the cases whose name contains this")
        parser.add_argument("--json", type=Path, help="write results, versions and hardware to this file")
        options = parser.parse_args(argv)
        torch.manual_seed(0)
        if options.device == "cpu":
            torch.set_num_threads(1)
        records = self.run(device=options.device, quick=options.quick, only=options.only)
        command = f"python benchmarks/bench_{self.name}.py" + (" --quick" if options.quick else "")
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            document = {"benchmark": self.name, "command": command, "environment": environment(options.device), "results": records}
            options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        missed = [r for r in records if r["met"] is False]
        for r in missed:
            Console().print(
                f"target missed: {r['case']} is {r['ours_over_this']:.2f}x {r['candidate']}, target {r['target']}x", style="yellow"
            )
        return 0


def _table(name: str, size: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title=f"{name}  " + ", ".join(f"{k}={v}" for k, v in size.items()), title_justify="left")
    for column in ("candidate", "ms", "quartiles", "ours / this", "target", "met"):
        table.add_column(column, justify="left" if column == "candidate" else "right")
    memory = any("peak_mb" in row for row in rows)
    if memory:
        table.add_column("peak MB", justify="right")
    for row in sorted(rows, key=lambda r: r["ms"]):
        lower, upper = row["quartiles_ms"]
        cells = [
            row["candidate"],
            f"{row['ms']:.4g}",
            f"{lower:.3g} to {upper:.3g}",
            "" if row["ours"] else f"{row['ours_over_this']:.2f}",
            "" if row["target"] is None else f"<= {row['target']:.2f}",
            "" if row["met"] is None else ("yes" if row["met"] else "no"),
        ]
        if memory:
            cells.append(f"{row['peak_mb']:.2f}")
        table.add_row(*cells, style="bold" if row["ours"] else None)
    return table
