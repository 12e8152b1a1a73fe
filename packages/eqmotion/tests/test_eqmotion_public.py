import runpy
import sys
from pathlib import Path

import pytest

from geocore.demo import find_method
from geocore.testing import check_import_cost, check_public_surface

HERE = Path(__file__).resolve().parent.parent


def test_public_surface_is_documented():
    check_public_surface("eqmotion", HERE / "README.md")


def test_import_is_light():
    check_import_cost("eqmotion", forbidden=("matplotlib", "scipy.optimize", "torch_geometric", "networkx.drawing", "typer"))


def test_the_demonstration_is_registered():
    assert find_method("eqmotion").load().__module__ == "eqmotion.demo"


@pytest.mark.parametrize("example", sorted((HERE / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_examples_run(example, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(example)])
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out.strip()


def test_readme_example_runs():
    text = (HERE / "README.md").read_text(encoding="utf-8")
    exec(compile(text.split("```python")[1].split("```")[0], "README.md", "exec"), {})
