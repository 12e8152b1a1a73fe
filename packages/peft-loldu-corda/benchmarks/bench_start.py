"""What starting an adapter costs, time and peak memory: ``python benchmarks/bench_start.py [--json F]``.

One layer 4096 wide, 1024 outputs (the key projection of Llama-3-8B), rank 64, 2048 calibration tokens where a method needs them. One
run each for the time and one for the memory, in one process after a small one: a decomposition of this size takes seconds.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
from peft import LoraConfig
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda as peft_preprocess
from rich.console import Console
from rich.table import Table
from torch import nn

from geocore.testing.benchmark import environment, peak_memory
from peft_loldu_corda import CordaLoraConfig, LolduConfig, collect_input_stats, preprocess_corda

Start = Callable[[nn.Sequential], Any]


def methods(n: int, m: int, r: int, tokens: int) -> tuple[dict[str, Start], nn.Sequential]:
    """Name to what makes an adapted model of a copy of the base."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, tokens, n, generator=generator) @ torch.randn(n, n, generator=generator) / n**0.5
    base = nn.Sequential(nn.Linear(n, m, bias=False))
    stats = collect_input_stats(base, [x], target_modules=["0"])
    common: dict[str, Any] = {"r": r, "lora_alpha": r, "target_modules": ["0"]}

    def theirs(mode: Any) -> Start:
        def start(model: nn.Sequential) -> Any:
            config = LoraConfig(init_lora_weights="corda", corda_config=CordaConfig(corda_method=mode), **common)
            peft_preprocess(model, config, run_model=lambda: model(x))
            return peft.get_peft_model(model, config)

        return start

    def ours(source: dict[str, Any], **options: Any) -> Start:
        def start(model: nn.Sequential) -> Any:
            return peft.get_peft_model(model, preprocess_corda(model, CordaLoraConfig(**common), **source, **options))

        return start

    def plain(config: Callable[[], Any]) -> Start:
        return lambda model: peft.get_peft_model(model, config())

    return {
        "LoRA (peft)": plain(lambda: LoraConfig(**common)),
        "LoLDU": plain(lambda: LolduConfig(**common)),
        "PiSSA (peft)": plain(lambda: LoraConfig(init_lora_weights="pissa", **common)),
        "PiSSA, 4 iterations (peft)": plain(lambda: LoraConfig(init_lora_weights="pissa_niter_4", **common)),
        "CorDA ipm (peft)": theirs("ipm"),
        "CorDA ipm": ours({"data": [x]}),
        "CorDA ipm, from statistics": ours({"stats": stats}),
        "CorDA ipm, randomised, from statistics": ours({"stats": stats}, method="randomized"),
        "CorDA kpm (peft)": theirs("kpm"),
        "CorDA kpm": ours({"data": [x]}, mode="kpm"),
    }, base


def copy_of(base: nn.Sequential) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(base[0].in_features, base[0].out_features, bias=False))
    model.load_state_dict(base.state_dict())
    return model


def measure(n: int, m: int, r: int, tokens: int) -> list[dict[str, Any]]:
    """Rows of the results: seconds and MB of every method."""
    starts, base = methods(n, m, r, tokens)
    probe = torch.randn(4, n, generator=torch.Generator().manual_seed(1))
    rows = []
    for name, start in starts.items():
        model = copy_of(base)
        began = time.process_time()
        adapted = start(model)
        seconds = time.process_time() - began
        with torch.no_grad():
            error = float((adapted(probe) - base(probe)).abs().max() / base(probe).abs().max())
        if error > 1e-3:
            raise AssertionError(f"{name} changes the output by {error:.2g}")
        model = copy_of(base)
        rows.append({"name": name, "values": [seconds, peak_memory(lambda s=start, k=model: s(k)) / 2**20, f"{error:.1e}"]})
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write results, versions and hardware to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    measure(64, 32, 4, 256)
    rows = measure(4096, 1024, 64, 2048)
    table = Table("start", "s", "peak MB", "change of the output", box=None)
    for row in rows:
        seconds, memory, error = row["values"]
        table.add_row(row["name"], f"{seconds:.3f}", f"{memory:.1f}", error)
    Console().print(table)
    if options.json:
        document = {
            "command": "python benchmarks/bench_start.py",
            "environment": environment(),
            "packages": ["peft", "geocore"],
            "units": "CPU seconds on one thread and peak MB beyond model and data, largest relative change of the output; one layer of "
            "4096 inputs and 1024 outputs, rank 64, 2048 calibration tokens",
            "columns": ["s", "peak MB", "change of the output"],
            "rows": rows,
        }
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
