"""The public surface, the examples, and the claim."""

import runpy
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

import comrope
from comrope.demo import demo
from comrope.experiments import digits
from geocore.testing import check_import_cost, check_public_surface

ROOT = Path(__file__).parents[1]


def test_public_surface() -> None:
    check_public_surface("comrope", ROOT / "README.md")
    assert comrope.__version__ == metadata.version("comrope")
    with pytest.raises(AttributeError, match="no attribute 'patch_swin'"):
        comrope.patch_swin  # noqa: B018


def test_import_is_light() -> None:
    check_import_cost("comrope", forbidden=("timm", "transformers", "sklearn", "matplotlib", "torchvision", "PIL"))


def test_demo_is_registered() -> None:
    found = {point.name: point for point in metadata.entry_points(group="geocore.demos")}
    assert found["comrope"].load() is demo


def test_readme_example_runs() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code = readme.split("```python\n")[1].split("```")[0]
    scope: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), scope)
    assert tuple(scope["q"].shape) == (8, 12, 197, 64)  # type: ignore[attr-defined]


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.stem)
def test_example_runs(example: Path, capsys: pytest.CaptureFixture[str], vision_libraries: None) -> None:
    runpy.run_path(str(example), run_name="__main__")
    assert "the RoPE equation" in capsys.readouterr().out


@pytest.mark.slow
def test_the_claim_in_miniature() -> None:
    """Resolution and shift on digits: every statement of the paper's effect is met by the rows that it is about."""
    outcome = digits.run(methods=("ape", "liere", "ap", "ld"))
    assert [claim for claim in digits.check_claims(outcome) if not claim.met] == []


@pytest.mark.slow
def test_demo_shows_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    real = digits.run
    monkeypatch.setattr(digits, "run", lambda **options: real(**options | {"epochs": 1}))
    seen: list[float] = []
    threads = torch.get_num_threads()
    result = demo(seed=3, progress=lambda done, text: seen.append(done))
    assert torch.get_num_threads() == threads
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert [row.kind for row in result.rows[:3]] == ["ours", "ours", "baseline"]
    assert len(result.claims) == 6
    assert not result.met  # one epoch is not enough, and the demo says so
    assert result.config["seeds"] == [3]
    assert len(result.figures[0].make().axes) == 2


@pytest.mark.slow
def test_benchmark_runs() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "bench_comrope.py"), "--quick", "--only", "folded"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "folded" in done.stdout
