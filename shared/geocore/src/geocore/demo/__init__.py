"""The demonstration protocol: how a user sees a method work.

A method package registers ``demo(*, seed=0, device="cpu", quick=True, progress=None) -> DemoResult`` as an entry point in the
group ``geocore.demos``. It runs the paper's claim in miniature against an honest baseline and returns what it measured. The
command ``geocore demo`` finds it, runs it and writes the table, the JSON and the page.
"""

from geocore.demo._registry import DemoRun, Method, find_method, installed_methods, run_demo
from geocore.demo._result import Claim, DemoResult, Figure, Progress, Row

__all__ = ["Claim", "DemoResult", "DemoRun", "Figure", "Method", "Progress", "Row", "find_method", "installed_methods", "run_demo"]
