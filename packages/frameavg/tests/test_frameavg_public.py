import runpy
from pathlib import Path

import pytest

from geocore.demo import find_method, run_demo
from geocore.testing import check_import_cost, check_public_surface

HERE = Path(__file__).resolve().parent.parent


def test_public_surface_is_documented():
    check_public_surface("frameavg", HERE / "README.md")


def test_import_is_light():
    check_import_cost("frameavg", forbidden=("matplotlib", "networkx", "sklearn"))


@pytest.mark.parametrize("example", sorted((HERE / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_examples_run(example, capsys):
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out.strip()


@pytest.mark.slow
def test_demo_meets_its_claims():
    run = run_demo(find_method("frameavg"))
    assert run.result.met, [c for c in run.result.claims if not c.met]
    for figure in run.result.figures:
        assert figure.make().axes
