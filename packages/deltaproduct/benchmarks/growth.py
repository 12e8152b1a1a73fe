"""How time and memory grow with tokens, factors and chunk size: a table as JSON and a figure.

``python benchmarks/growth.py [--json benchmarks/results/growth.json] [--figure benchmarks/results/growth.svg] [--device cuda]``
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from bench_deltaproduct import draw, only_forward, with_backward

from deltaproduct import delta_product
from geocore.testing.benchmark import compare_timings, environment, peak_memory

TOKENS = (256, 1024, 4096, 16384)
FACTORS = (1, 2, 3, 4, 6, 8)
CHUNKS = (2, 4, 8, 16, 32, 64)


def measure(device: str) -> dict[str, list[dict[str, Any]]]:
    """Milliseconds and peak megabytes along each axis, the others at T = 1024, n_h = 2 and the default chunk."""
    options = {"device": device, "samples": 5, "budget": 1.0, "warmup": 1}
    out: dict[str, list[dict[str, Any]]] = {"tokens": [], "factors": [], "chunk": []}
    for tokens in TOKENS:
        inputs = draw(tokens, 2, device)
        times = compare_timings({"forward": only_forward(inputs, 2), "both": with_backward(inputs, 2)}, **options)
        memory = peak_memory(with_backward(inputs, 2), device=device) / 2**20
        out["tokens"].append(
            {"T": tokens, "forward_ms": 1e3 * times["forward"].median, "both_ms": 1e3 * times["both"].median, "both_mb": memory}
        )
    for n in FACTORS:
        inputs = draw(1024, n, device)
        times = compare_timings({"forward": only_forward(inputs, n), "both": with_backward(inputs, n)}, **options)
        memory = peak_memory(with_backward(inputs, n), device=device) / 2**20
        out["factors"].append(
            {"n_h": n, "forward_ms": 1e3 * times["forward"].median, "both_ms": 1e3 * times["both"].median, "both_mb": memory}
        )
    inputs = draw(1024, 2, device)
    for chunk in CHUNKS:
        leaves = [x.requires_grad_() for x in inputs]

        def both(size: int = chunk, leaves: list[torch.Tensor] = leaves) -> Any:
            o, _ = delta_product(*leaves, num_householder=2, mode="chunk", chunk_size=size)  # pyright: ignore[reportCallIssue]
            return torch.autograd.grad(o.sum(), leaves)

        times = compare_timings({"forward": only_forward(inputs, 2, "chunk", chunk_size=chunk), "both": both}, **options)
        memory = peak_memory(both, device=device) / 2**20
        out["chunk"].append(
            {"C": chunk, "forward_ms": 1e3 * times["forward"].median, "both_ms": 1e3 * times["both"].median, "both_mb": memory}
        )
    return out


def draw_figure(results: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Three panels of time with memory on a second axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    for axes, (name, key, label) in zip(
        panels, (("tokens", "T", "tokens T"), ("factors", "n_h", "factors n_h"), ("chunk", "C", "tokens per chunk")), strict=True
    ):
        rows = results[name]
        x = [row[key] for row in rows]
        axes.plot(x, [row["forward_ms"] for row in rows], "o-", label="forward, ms")
        axes.plot(x, [row["both_ms"] for row in rows], "s-", label="forward and backward, ms")
        axes.set_xlabel(label)
        other = axes.twinx()
        other.plot(x, [row["both_mb"] for row in rows], "^:", color="gray", label="peak, MB")
        other.set_ylim(bottom=0)
        axes.set_ylim(bottom=0)
        if name == "chunk":
            axes.set_xscale("log", base=2)
        if name == "tokens":
            lines = [*axes.get_lines(), *other.get_lines()]
            axes.legend(lines, [str(line.get_label()) for line in lines], fontsize=8)
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
    results = measure(options.device)
    for name, rows in results.items():
        print(name)
        for row in rows:
            print("  " + "  ".join(f"{key} {value:.4g}" for key, value in row.items()))
    if options.json:
        document = {"command": "python benchmarks/growth.py", "environment": environment(options.device), "results": results}
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if options.figure:
        draw_figure(results, options.figure)


if __name__ == "__main__":
    main()
