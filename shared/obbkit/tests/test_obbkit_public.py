"""The package as others see it."""

import runpy
from pathlib import Path

import pytest

from geocore.testing import check_import_cost, check_public_surface

HERE = Path(__file__).resolve().parent.parent


def test_public_surface_is_documented():
    check_public_surface("obbkit", HERE / "README.md")


def test_import_is_light():
    check_import_cost("obbkit", forbidden=("PIL", "mmengine", "torchmetrics", "shapely", "matplotlib"))


@pytest.mark.parametrize("example", sorted((HERE / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_examples_run(example, capsys):
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out.strip()
