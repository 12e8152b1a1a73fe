"""Checks of a package's public surface: ``__all__``, the README's API table, docstrings, import cost."""

import importlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

__all__ = ["check_import_cost", "check_public_surface"]

_COST = """
import json, sys, time
import torch
start = time.perf_counter()
import {module}
print(json.dumps({{"seconds": time.perf_counter() - start, "cuda": torch.cuda.is_initialized(), "loaded": sorted(sys.modules)}}))
"""


def _api_table(readme: str) -> set[str]:
    """Names in the first column of the table under the README's ``API`` heading: `` `name` `` or `` `name(...)` ``."""
    section = re.search(r"^#+ API\b.*?$(.*?)(?=^#+ |\Z)", readme, flags=re.MULTILINE | re.DOTALL)
    if section is None:
        raise AssertionError("README has no 'API' section")
    names: set[str] = set()
    for row in re.findall(r"^\|([^|]*)\|", section.group(1), flags=re.MULTILINE):
        names.update(re.findall(r"`([A-Za-z_][A-Za-z0-9_]*)[^`]*`", row))
    return names


def check_public_surface(module: str, readme: str | Path) -> None:
    """Check that ``__all__`` is unique, importable, documented, and equal to the README's API table.

    Args:
        module: Import name of the package.
        readme: Path of its README, with an ``API`` section whose table names each object in its first column.

    Raises:
        AssertionError: With the names that differ.
    """
    package = importlib.import_module(module)
    public = list(package.__all__)
    if len(set(public)) != len(public):
        raise AssertionError(f"{module}.__all__ must be unique, got {public}")
    undocumented = []
    for name in public:
        value = getattr(package, name)
        if (inspect.isfunction(value) or inspect.isclass(value) or inspect.ismodule(value)) and not (value.__doc__ or "").strip():
            undocumented.append(name)
    if undocumented:
        raise AssertionError(f"public names of {module} without a docstring: {undocumented}")
    listed = _api_table(Path(readme).read_text(encoding="utf-8"))
    wanted = set(public) - {"__version__"}
    if listed != wanted:
        raise AssertionError(
            f"README table and {module}.__all__ differ: missing {sorted(wanted - listed)}, unknown {sorted(listed - wanted)}"
        )


def check_import_cost(module: str, *, seconds: float = 0.3, forbidden: tuple[str, ...] = ()) -> None:
    """Check in a fresh interpreter that importing ``module`` after torch is quick and touches neither CUDA nor heavy libraries.

    Args:
        module: Import name of the package.
        seconds: Allowed time beyond ``import torch``; the best of three runs counts.
        forbidden: Module names that the import must not load.

    Raises:
        AssertionError: With the time taken, or the modules loaded.
    """
    runs = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", _COST.format(module=module)], capture_output=True, text=True, check=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
        if runs[-1]["seconds"] < seconds:
            break
    best = min(run["seconds"] for run in runs)
    if best >= seconds:
        raise AssertionError(f"import {module} takes {best:.2f} s beyond torch, allowed {seconds} s")
    if runs[-1]["cuda"]:
        raise AssertionError(f"import {module} initialises CUDA")
    loaded = sorted(set(forbidden) & set(runs[-1]["loaded"]))
    if loaded:
        raise AssertionError(f"import {module} loads {loaded}")
