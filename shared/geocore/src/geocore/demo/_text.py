"""Numbers and terminal tables."""

import math

from rich import box
from rich.console import Console
from rich.table import Table

from geocore.demo._registry import DemoRun
from geocore.demo._result import DemoResult

__all__ = ["format_number", "print_run", "table_numbers"]


def format_number(value: float | None) -> str:
    """Short fixed-style text of a measured number; a dash for none."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if value == int(value) and size < 1e6 and not isinstance(value, float):
        return str(value)
    if size >= 1000:
        return f"{value:,.0f}"
    if size >= 10 or value == 0:
        return f"{value:.1f}"
    if size >= 1:
        return f"{value:.2f}"
    return f"{value:.3g}"


def table_numbers(result: DemoResult) -> list[list[str]]:
    """The rows' numbers as text; one decimal throughout where the sizes allow it, as in a column of percentages."""
    sizes = [abs(v) for row in result.rows for v in row.values if v is not None and math.isfinite(v) and v != 0]
    plain = bool(sizes) and 10 <= max(sizes) < 1000 and min(sizes) >= 0.5
    return [[f"{v:.1f}" if plain and v is not None else format_number(v) for v in row.values] for row in result.rows]


def print_run(run: DemoRun, console: Console) -> None:
    """Print the claim, the table, every checked statement and the conditions of a run."""
    result = run.result
    console.print()
    console.print(f"[bold]{result.title}[/] [dim]{run.method.name} {run.method.version}, {result.paper}[/]")
    console.print(result.claim)
    table = Table(box=box.SIMPLE_HEAD, title=result.units or None, title_justify="left", title_style="dim")
    table.add_column("")
    for column in result.columns:
        table.add_column(column, justify="right", no_wrap=True)
    notes = any(row.note for row in result.rows)
    if notes:
        table.add_column("", style="dim")
    for row, numbers in zip(result.rows, table_numbers(result), strict=True):
        name = f"{row.name} (paper's figure, not measured here)" if row.kind == "paper" else row.name
        style = {"ours": "bold", "paper": "dim"}.get(row.kind)
        table.add_row(name, *numbers, *([row.note] if notes else []), style=style)
    console.print(table)
    for claim in result.claims:
        mark = "[green]met    [/]" if claim.met else "[red]NOT met[/]"
        console.print(f"  {mark} {claim.text}  [dim]({claim.measured})[/]", highlight=False)
    for note in result.notes:
        console.print(f"  [dim]note: {note}[/]", highlight=False)
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    console.print(f"  [dim]{run.seconds:.1f} s, seed {run.seed}, {run.device}, {versions}[/]", highlight=False)
