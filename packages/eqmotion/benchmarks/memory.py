"""Table of peak memory from the results of the benchmark: ``python benchmarks/memory.py``, after ``bench_eqmotion.py --json``."""

import json
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    document = json.loads((RESULTS / "eqmotion.json").read_text(encoding="utf-8"))
    known = {"case", "candidate", "ours", "ms", "quartiles_ms", "ours_over_this", "target", "met", "peak_mb"}
    groups: dict[str, dict[str, float]] = {}
    for row in document["results"]:
        size = ", ".join(f"{k} {v}" for k, v in row.items() if k not in known)
        groups.setdefault(f"{row['case']}, {size}", {})[row["candidate"]] = row["peak_mb"]
    rows = [
        {"name": f"{name}: {candidate}", "values": [peak, peak / peaks["literal"] if "literal" in peaks else None]}
        for name, peaks in groups.items()
        for candidate, peak in peaks.items()
    ]
    table = {
        "columns": ["peak MB", "over literal"],
        "rows": rows,
        "units": "Tensors of one call",
        "command": document["command"],
        "environment": document["environment"],
        "packages": ["geocore"],
    }
    (RESULTS / "memory.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        ratio = "" if row["values"][1] is None else f"{row['values'][1]:.2f}"
        print(f"{row['name']:60} {row['values'][0]:10.1f} {ratio}")


if __name__ == "__main__":
    main()
