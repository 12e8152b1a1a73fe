"""Write the generated parts of every README: the method table from package metadata, result tables from JSON files.

A generated part stands between `<!-- generated: KIND ARGUMENT -->` and `<!-- end generated -->`. Kinds:

    methods             all methods, installed here or planned
    benchmark FILE      a results file of the benchmark runner, relative to the README
    demo FILE           a results file of `geocore demo METHOD --json FILE`, relative to the README
    table FILE          a results file with columns and rows of measured numbers, relative to the README

`--check` writes nothing and fails if a README is not what its sources say.
"""

import argparse
import json
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(<!-- generated: (\w+) ?(\S*) -->\n)(.*?)(<!-- end generated -->)", flags=re.DOTALL)


def version(home: Path) -> str:
    """Version of a package, from the one place where it stands."""
    text = next((home / "src").glob("*/__init__.py")).read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', text, flags=re.MULTILINE)
    if found is None:
        raise SystemExit(f"{home} states no __version__ in src/*/__init__.py")
    return found[1]


def methods(readme: Path, argument: str) -> str:
    """Table of all methods."""
    del readme, argument
    planned = tomllib.loads((ROOT / "scripts" / "planned.toml").read_text(encoding="utf-8"))
    rows = {}
    for name, entry in planned.items():
        rows[name] = f"| {name} | {entry['what']} | planned |"
    for file in sorted((ROOT / "packages").glob("*/pyproject.toml")):
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        paper = project.get("urls", {}).get("Paper")
        link = f" ([paper]({paper}))" if paper else ""
        name = project["name"]
        rows[name] = f"| [{name}](packages/{file.parent.name}) | {project['description'].rstrip('.')}{link} | {version(file.parent)} |"
    order = list(dict.fromkeys([*planned, *sorted(rows)]))
    ready_first = sorted(order, key=lambda name: rows[name].endswith("planned |"))
    return "\n".join(["| method | what it does | version |", "|---|---|---|", *(rows[name] for name in ready_first)]) + "\n"


def _short(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2g}" if value < 1 else f"{value:.2f}"


def benchmark(readme: Path, argument: str) -> str:
    """Table of a benchmark's results: our time, each peer's, the ratio and its target."""
    document = json.loads((readme.parent / argument).read_text(encoding="utf-8"))
    known = {"case", "candidate", "ours", "ms", "quartiles_ms", "ours_over_this", "target", "met", "peak_mb"}
    lines = ["| case | size | ours ms | peer | peer ms | ours / peer | target |", "|---|---|---|---|---|---|---|"]
    groups: dict[str, list[dict]] = {}
    for row in document["results"]:
        size = ", ".join(f"{k} {v}" for k, v in row.items() if k not in known)
        groups.setdefault(f"{row['case']}|{size}", []).append(row)
    for rows in groups.values():
        mine = next(row for row in rows if row["ours"])
        size = ", ".join(f"{k} {v}" for k, v in mine.items() if k not in known)
        for row in rows:
            if row["ours"]:
                continue
            target = "" if row["target"] is None else f"<= {row['target']:.2g}: {'met' if row['met'] else '**missed**'}"
            cells = [mine["case"], size, _short(mine["ms"]), row["candidate"], _short(row["ms"]), f"{row['ours_over_this']:.2f}", target]
            lines.append(f"| {' | '.join(cells)} |")
    environment = document["environment"]
    where = environment["processor"] if environment["device"] == "cpu" else environment["device"]
    threads = f", {environment['threads']} thread(s)" if environment["device"] == "cpu" else ""
    note = f"\nMeasured with `{document['command']}` on {where}{threads}, torch {environment['torch']}, {environment['date']}.\n"
    return "\n".join(lines) + "\n" + note


def table(readme: Path, argument: str) -> str:
    """Table of measured numbers that are neither times nor a demonstration, such as errors."""
    document = json.loads((readme.parent / argument).read_text(encoding="utf-8"))

    def cell(value: float | str | None) -> str:
        return "" if value is None else value if isinstance(value, str) else _short(value) if value else "0"

    lines = ["| " + " | ".join(["", *document["columns"]]) + " |", "|---" * (len(document["columns"]) + 1) + "|"]
    lines += ["| " + " | ".join([row["name"], *map(cell, row["values"])]) + " |" for row in document["rows"]]
    environment = document["environment"]
    versions = ", ".join(f"{name} {environment[name]}" for name in ("torch", *document["packages"]) if name in environment)
    return "\n".join(lines) + f"\n\n{document['units']}. Measured with `{document['command']}`: {versions}, {environment['date']}.\n"


def demo(readme: Path, argument: str) -> str:
    """Table of a demonstration's results with its checked statements."""
    document = json.loads((readme.parent / argument).read_text(encoding="utf-8"))
    run = document[0] if isinstance(document, list) else document

    def cell(value: float | None) -> str:
        return "" if value is None else _short(value) if value else "0"

    lines = ["| " + " | ".join(["", *run["columns"]]) + " |", "|---" * (len(run["columns"]) + 1) + "|"]
    for row in run["rows"]:
        name = f"**{row['name']}**" if row["kind"] == "ours" else row["name"]
        name += " (the paper's figure, not measured here)" if row["kind"] == "paper" else ""
        lines.append("| " + " | ".join([name, *map(cell, row["values"])]) + " |")
    lines += ["", *(f"- {'met' if c['met'] else '**not met**'}: {c['text']} ({c['measured']})" for c in run["claims"])]
    versions = ", ".join(f"{name} {v}" for name, v in run["versions"].items())
    units = f"{run['units']}. " if run["units"] else ""
    lines += [
        "",
        f"{units}Measured with `geocore demo {run['method']} --seed {run['seed']}`, {versions}, {run['seconds']:.0f} s on {run['device']}.",
    ]
    return "\n".join(lines) + "\n"


KINDS = {"methods": methods, "benchmark": benchmark, "demo": demo, "table": table}


def render(readme: Path) -> str:
    """Text of a README with its generated parts made anew."""

    def replace(found: re.Match[str]) -> str:
        opening, kind, argument, _, closing = found.groups()
        if kind not in KINDS:
            raise SystemExit(f"{readme}: unknown generated part {kind!r}; there are {', '.join(KINDS)}")
        return opening + KINDS[kind](readme, argument) + closing

    return BLOCK.sub(replace, readme.read_text(encoding="utf-8"))


def main() -> int:
    """Write or check all READMEs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a README is out of date")
    options = parser.parse_args()
    stale = []
    for readme in [ROOT / "README.md", *sorted(ROOT.glob("packages/*/README.md")), *sorted(ROOT.glob("shared/*/README.md"))]:
        text = render(readme)
        if text != readme.read_text(encoding="utf-8"):
            stale.append(str(readme.relative_to(ROOT)))
            if not options.check:
                readme.write_text(text, encoding="utf-8")
    if stale:
        print(("out of date, run python3 scripts/report.py: " if options.check else "rewritten: ") + ", ".join(stale))
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
