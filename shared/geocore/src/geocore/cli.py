"""The ``geocore`` command: list installed methods, say what this machine has, run demonstrations."""

import json
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from geocore import demo as protocol
from geocore._kernel_table import describe
from geocore._ops import kernel_status
from geocore.demo import _page, _text

__all__ = ["app", "main"]

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=(__doc__ or "").strip())
_out = Console()
_err = Console(stderr=True)
_LIBRARIES = ("geocore", "geocore-cuda", "torch", "numpy", "scipy", "geoopt", "matplotlib")


def _write_json(target: str, document: Any) -> None:
    text = json.dumps(document, indent=1, default=str) + "\n"
    if target == "-":
        sys.stdout.write(text)
        return
    path = Path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@app.command("list")
def list_methods(
    json_to: Annotated[str, typer.Option("--json", metavar="FILE", help="write JSON to FILE ('-' for the terminal)")] = "",
) -> None:
    """Installed methods, one line each: name, version, what it is, paper."""
    methods = protocol.installed_methods()
    if json_to:
        _write_json(json_to, [{"name": m.name, "version": m.version, "summary": m.summary, "paper": m.paper} for m in methods])
        return
    if not methods:
        _out.print("No method is installed. Each is its own package; see the README for how to install one.")
        return
    table = Table(box=None, pad_edge=False)
    for column in ("method", "version", "what it is", "paper"):
        table.add_column(column, no_wrap=column in ("method", "version"), overflow="fold")
    for m in methods:
        table.add_row(m.name, m.version, m.summary, m.paper, style=None)
    _out.print(table)


def _info() -> dict[str, Any]:
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    versions["torch"] = torch.__version__  # with the build, which the metadata of a wheel may leave out
    cuda = torch.cuda.is_available()
    kernels = kernel_status()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "cuda": f"CUDA {torch.version.cuda}" if cuda else ("no CUDA device" if torch.version.cuda else "torch is a CPU build"),
        "threads": torch.get_num_threads(),
        "kernels": {
            "found": kernels.found,
            "reason": kernels.reason,
            "by_device": {device: {name: describe(name, device) for name in names} for device, names in kernels.kernels.items()},
        },
        "methods": {m.name: m.version for m in protocol.installed_methods()},
    }


@app.command()
def info(
    json_to: Annotated[str, typer.Option("--json", metavar="FILE", help="write JSON to FILE ('-' for the terminal)")] = "",
) -> None:
    """Versions, device, compiled kernels found or why not."""
    facts = _info()
    if json_to:
        _write_json(json_to, facts)
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("python", f"{facts['python']} on {facts['platform']}")
    for name, version in facts["versions"].items():
        table.add_row(name, version)
    table.add_row("device", f"{facts['device']} ({facts['cuda']}), {facts['threads']} threads")
    kernels = facts["kernels"]
    table.add_row("kernels", ("found: " if kernels["found"] else "none: ") + kernels["reason"])
    for device, rows in kernels["by_device"].items():
        for name, text in rows.items():
            if not name.endswith("_backward"):
                table.add_row(device, f"{name}: {text}")
    table.add_row("methods", ", ".join(f"{n} {v}" for n, v in facts["methods"].items()) or "none installed")
    _out.print(table)


@contextmanager
def _reporter(name: str) -> Iterator[protocol.Progress]:
    """A progress bar on a terminal, one line per new message elsewhere."""
    if not _err.is_terminal:
        last = ""

        def lines(done: float, message: str) -> None:
            nonlocal last
            if message != last:
                last = message
                _err.print(f"[{name}] {min(max(done, 0.0), 1.0):4.0%} {message}", highlight=False, markup=False)

        yield lines
        return
    columns = (TextColumn("[bold]{task.fields[name]}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"), TimeElapsedColumn())
    with Progress(*columns, TextColumn("[dim]{task.description}"), console=_err, transient=True) as bar:
        task = bar.add_task("starting", total=1.0, name=name)
        yield lambda done, message: bar.update(task, completed=min(max(done, 0.0), 1.0), description=message)


def _selected(names: list[str], every: bool) -> list[protocol.Method]:
    if every == bool(names):
        raise typer.BadParameter("name the methods to run, or give --all for every installed one (see: geocore list)")
    if every:
        methods = protocol.installed_methods()
        if not methods:
            raise typer.BadParameter("no method is installed")
        return methods
    try:
        return [protocol.find_method(name) for name in names]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise typer.BadParameter(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error


@app.command("demo")
def run_demos(
    names: Annotated[list[str] | None, typer.Argument(metavar="[METHOD]...", help="methods to demonstrate")] = None,
    every: Annotated[bool, typer.Option("--all", help="every installed method")] = False,
    seed: Annotated[int, typer.Option(help="seed of every random number")] = 0,
    device: Annotated[str, typer.Option(help="torch device")] = "cpu",
    full: Annotated[bool, typer.Option("--full", help="the long version instead of the miniature")] = False,
    json_to: Annotated[str, typer.Option("--json", metavar="FILE", help="write results as JSON ('-' for the terminal)")] = "",
    html: Annotated[Path | None, typer.Option(metavar="DIR", help="write the page DIR/index.html")] = None,
) -> None:
    """Run a method's claim in miniature and show what was measured. Exit code 1 if a claim is not met or a demo fails."""
    methods = _selected(names or [], every)
    _check_device(device)
    console = _err if json_to == "-" else _out
    runs: list[protocol.DemoRun] = []
    failures: list[tuple[str, str]] = []
    for method in methods:
        try:
            with _reporter(method.name) as progress:
                run = protocol.run_demo(method, seed=seed, device=device, quick=not full, progress=progress)
        except Exception as error:
            failures.append((method.name, f"{type(error).__name__}: {error}"))
            console.print(f"\n[red]{method.name}: the demo did not finish.[/] {type(error).__name__}: {error}", highlight=False)
            continue
        runs.append(run)
        _text.print_run(run, console)
    if json_to:
        _write_json(json_to, [*(run.to_dict() for run in runs), *({"method": n, "met": False, "error": e} for n, e in failures)])
    if html is not None:
        try:
            console.print(f"\nPage: {_page.write_page(runs, html, failures=failures)}", highlight=False, soft_wrap=True)
        except ImportError as error:
            raise typer.BadParameter(str(error)) from error
    if failures or not all(run.result.met for run in runs):
        raise typer.Exit(1)


def main() -> None:
    """Entry point of the ``geocore`` command."""
    app()


if __name__ == "__main__":
    main()
