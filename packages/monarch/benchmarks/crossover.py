"""Where Monarch products start to pay: time against dense over features and batch, as JSON and a figure.

``python benchmarks/crossover.py [--json benchmarks/results/crossover.json] [--figure benchmarks/results/crossover.svg] [--device cuda]``
"""

import argparse
import json
from pathlib import Path

import torch
from bench_monarch import setup
from torch.nn import functional as F

from geocore.testing.benchmark import compare_timings, environment
from monarch import monarch_matmul

FEATURES = (64, 128, 256, 512, 1024, 2048, 4096)
BATCHES = (1, 4, 16, 64, 256, 1024)


def measure(device: str) -> list[dict[str, float]]:
    """Milliseconds of both, and Monarch's share of dense; blocks number the power of two at or above ``sqrt(n)``."""
    rows = []
    for n in FEATURES:
        blocks = 2 ** (n.bit_length() // 2)
        for batch in BATCHES:
            x, w1, w2, dense = setup(n, blocks, device, batch)
            torch.testing.assert_close(monarch_matmul(x, w1, w2), F.linear(x, dense), atol=1e-4, rtol=1e-4)
            times = compare_timings(
                {"monarch": lambda x=x, w1=w1, w2=w2: monarch_matmul(x, w1, w2), "dense": lambda x=x, w=dense: F.linear(x, w)},
                device=device,
                samples=7,
                budget=0.3,
                warmup=2,
            )
            ours, theirs = (1e3 * times[name].median for name in ("monarch", "dense"))
            rows.append({"n": n, "blocks": blocks, "batch": batch, "monarch_ms": ours, "dense_ms": theirs, "ratio": ours / theirs})
    return rows


def draw_figure(rows: list[dict[str, float]], path: Path) -> None:
    """Ratio against features, one line a batch; below one Monarch is faster."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
    for batch in BATCHES:
        line = [row for row in rows if row["batch"] == batch]
        axes.plot([row["n"] for row in line], [row["ratio"] for row in line], "o-", label=f"batch {batch}")
    axes.axhline(1.0, color="black", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("features n")
    axes.set_ylabel("time of Monarch / time of dense")
    axes.legend(fontsize=8)
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.device == "cpu":
        torch.set_num_threads(1)
    rows = measure(options.device)
    for row in rows:
        print("  ".join(f"{key} {value:.4g}" for key, value in row.items()))
    if options.json:
        document = {"command": "python benchmarks/crossover.py", "environment": environment(options.device), "results": rows}
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if options.figure:
        draw_figure(rows, options.figure)


if __name__ == "__main__":
    main()
