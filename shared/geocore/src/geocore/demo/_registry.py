"""Find installed methods by their entry point and run their demonstrations."""

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch

from geocore.demo._result import DemoResult, Progress

__all__ = ["DemoRun", "Method", "find_method", "installed_methods", "run_demo"]

GROUP = "geocore.demos"


@dataclass(frozen=True)
class Method:
    """An installed method: its distribution name, version, one-line summary and paper, and the entry point of its demo."""

    name: str
    version: str
    summary: str
    paper: str
    entry: metadata.EntryPoint

    def load(self) -> Callable[..., DemoResult]:
        """Import the demo function.

        Raises:
            RuntimeError: If the import fails; the message names the method and the cause.
        """
        try:
            return self.entry.load()
        except Exception as error:
            raise RuntimeError(f"the demo of {self.name} {self.version} cannot be imported: {type(error).__name__}: {error}") from error


def _paper(distribution: metadata.Distribution) -> str:
    """The paper's address from the metadata line ``Project-URL: Paper, ...``."""
    for line in distribution.metadata.get_all("Project-URL") or ():
        label, _, url = str(line).partition(",")
        if label.strip().lower() == "paper":
            return url.strip()
    return ""


def installed_methods() -> list[Method]:
    """Every installed distribution with an entry point in the group ``geocore.demos``, by name."""
    methods: dict[str, Method] = {}
    for entry in metadata.entry_points(group=GROUP):
        distribution = entry.dist
        if distribution is None:
            continue
        name = distribution.metadata["Name"]
        methods[name] = Method(name, distribution.version, distribution.metadata["Summary"] or "", _paper(distribution), entry)
    return [methods[name] for name in sorted(methods)]


def find_method(name: str) -> Method:
    """The installed method called ``name``; underscores and hyphens are the same.

    Raises:
        ValueError: If it is not installed; the message lists those that are.
    """
    methods = installed_methods()
    for method in methods:
        if method.name.replace("_", "-").lower() == name.replace("_", "-").lower():
            return method
    installed = ", ".join(m.name for m in methods) or "none"
    raise ValueError(f"method must be installed, got {name!r}; installed methods: {installed}")


@dataclass(frozen=True)
class DemoRun:
    """One run of a demonstration: its result with everything measured around it."""

    method: Method
    result: DemoResult
    seconds: float
    seed: int
    device: str
    quick: bool
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; figures are left out."""
        r = self.result
        return {
            "method": self.method.name,
            "version": self.method.version,
            "title": r.title,
            "claim": r.claim,
            "paper": r.paper,
            "met": r.met,
            "claims": [{"text": c.text, "met": c.met, "measured": c.measured} for c in r.claims],
            "units": r.units,
            "columns": list(r.columns),
            "rows": [{"name": row.name, "kind": row.kind, "values": list(row.values), "note": row.note} for row in r.rows],
            "notes": list(r.notes),
            "config": dict(r.config),
            "seconds": round(self.seconds, 2),
            "seed": self.seed,
            "device": self.device,
            "quick": self.quick,
            "versions": self.versions,
        }


def versions(method: Method) -> dict[str, str]:
    """Versions that a reader needs to repeat a run."""
    return {
        method.name: method.version,
        "geocore": metadata.version("geocore"),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def run_demo(method: Method, *, seed: int = 0, device: str = "cpu", quick: bool = True, progress: Progress | None = None) -> DemoRun:
    """Run one demonstration and time it.

    Args:
        method: The method to run.
        seed: Seed of every random number in the run.
        device: Torch device name.
        quick: The miniature (under 90 s on two cores), or with ``False`` the long version.
        progress: Called with the fraction done and a message.

    Raises:
        RuntimeError: If the demo cannot be imported.
        TypeError: If it does not return a ``DemoResult``.
    """
    run = method.load()
    start = time.perf_counter()
    result = run(seed=seed, device=device, quick=quick, progress=progress or (lambda done, message: None))
    seconds = time.perf_counter() - start
    if not isinstance(result, DemoResult):
        raise TypeError(f"the demo of {method.name} must return a geocore.demo.DemoResult, got {type(result).__name__}")
    return DemoRun(method, result, seconds, seed, device, quick, versions(method))
