"""The public surface, the examples, the benchmark, the demo, and the claim."""

import os
import runpy
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
import torch

import deltaproduct
from deltaproduct.demo import demo
from deltaproduct.experiments import s3
from geocore.testing import check_import_cost, check_public_surface

ROOT = Path(__file__).resolve().parent.parent


def test_public_surface_is_documented():
    pytest.importorskip("transformers")
    check_public_surface("deltaproduct", ROOT / "README.md")
    assert deltaproduct.__version__ == metadata.version("deltaproduct")


def test_import_is_light():
    check_import_cost("deltaproduct", forbidden=("matplotlib", "scipy", "transformers", "triton", "fla", "rich", "torch._dynamo"))


def test_demo_is_registered():
    found = {point.name: point for point in metadata.entry_points(group="geocore.demos")}
    assert found["deltaproduct"].load() is demo


def test_readme_examples_run():
    pytest.importorskip("transformers")
    scope: dict[str, object] = {}
    for block in (ROOT / "README.md").read_text(encoding="utf-8").split("```python\n")[1:]:
        exec(compile(block.split("```")[0], "README.md", "exec"), scope)
    assert tuple(scope["y"].shape) == (2, 100, 64)
    assert tuple(scope["o"].shape) == (1, 100, 4, 32)


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_examples_run(example, capsys):
    if "language" in example.stem:
        pytest.importorskip("transformers")
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out.strip()


@pytest.mark.slow
def test_the_claim_in_miniature():
    """Two factors with eigenvalues down to -1 follow S3; with the same number of factors but eigenvalues of 0 to 1 they do not."""
    two, positive = s3.Model("S3", 2, True), s3.Model("S3", 2, False)
    outcomes = s3.run(recipe=replace(s3.MINIATURE, models=(two, positive)))
    assert outcomes[0].last[16] >= 99
    assert outcomes[1].last[16] <= 30


def test_demo_shows_what_was_measured(monkeypatch):
    short = replace(s3.MINIATURE, steps={"S3": 2, "parity": 2}, test=8, batch=8)
    monkeypatch.setattr(s3, "MINIATURE", short)
    seen: list[float] = []
    threads = torch.get_num_threads()
    result = demo(seed=3, progress=lambda done, text: seen.append(done))
    assert torch.get_num_threads() == threads
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert [row.kind for row in result.rows] == ["ours", "baseline", "baseline", "baseline", "ours", "baseline"]
    assert len(result.claims) == 5
    assert not result.met  # two steps are not enough, and the demo says so
    assert result.config["seeds"] == [3]
    assert len(result.figures[0].make().axes) == 2


@pytest.mark.slow
def test_benchmark_runs():
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "bench_deltaproduct.py"), "--quick", "--only", "decode"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "decode" in done.stdout
