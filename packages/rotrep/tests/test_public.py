"""The package as others see it."""

import runpy
from pathlib import Path

import pytest

import rotrep
from geocore.demo import find_method, run_demo
from geocore.testing import check_import_cost, check_public_surface
from rotrep import functional, interop, losses, metrics, sampling
from rotrep import numpy as mirror

HERE = Path(__file__).resolve().parent.parent


def test_public_surface_is_documented():
    check_public_surface("rotrep", HERE / "README.md")


@pytest.mark.parametrize("module", [functional, interop, losses, metrics, sampling, mirror], ids=lambda m: m.__name__)
def test_submodules_are_documented(module):
    readme = (HERE / "README.md").read_text(encoding="utf-8")
    for name in module.__all__:
        assert getattr(module, name).__doc__, name
        assert name in readme, name
    assert module.__all__ == sorted(module.__all__)


def test_import_is_light():
    check_import_cost("rotrep", forbidden=("matplotlib", "scipy", "roma"))


@pytest.mark.parametrize("example", sorted((HERE / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_examples_run(example, capsys):
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out.strip()


@pytest.mark.slow
def test_demo_meets_its_claims():
    run = run_demo(find_method("rotrep"))
    assert run.result.met, [c for c in run.result.claims if not c.met]


def test_version():
    assert rotrep.__version__.count(".") == 2
