"""The package as others see it."""

import dataclasses
import runpy
from pathlib import Path

import pytest

from geocore.demo import find_method, run_demo
from geocore.testing import check_import_cost, check_public_surface

HERE = Path(__file__).resolve().parent.parent


def test_public_surface_is_documented():
    check_public_surface("ucr_rsar", HERE / "README.md")


def test_import_is_light():
    check_import_cost("ucr_rsar", forbidden=("matplotlib", "sklearn", "PIL", "mmengine", "timm"))


@pytest.mark.parametrize("example", sorted((HERE / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_examples_run(example, capsys):
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out.strip()


@pytest.mark.slow
def test_demo_shape(monkeypatch):
    """Everything but the size of the trainings; the claims are checked at full size by ``geocore demo``."""
    from ucr_rsar import demo
    from ucr_rsar.experiments import scenes, single

    tiny = dataclasses.replace(scenes.MINIATURE, epochs=1)
    monkeypatch.setattr(single.Recipe.__init__, "__defaults__", (3, 4, 3e-3, 0.05, 8, 8))
    small = scenes.run
    monkeypatch.setattr(scenes, "run", lambda *args, recipe, **options: small(*args, recipe=tiny, train=8, test=8, **options))
    run = run_demo(find_method("ucr-rsar"))
    assert len(run.result.claims) == 6
    assert not run.result.met  # three steps are not enough: the claims can fail
    for figure in run.result.figures:
        assert figure.make().axes
    assert tuple(run.result.columns) == demo.COLUMNS


def test_single_ships_learn_their_angle():
    from ucr_rsar.experiments import single

    images, boxes = single.crops(6, 0)
    assert images.shape == (6, 1, 32, 32)
    assert (boxes[:, :2] - 16).abs().max() <= 0.5
    plain = single.run(methods=("horizontal box as it is",), recipe=single.Recipe(train=4, test=200))
    assert 0.45 < plain["horizontal box as it is"][0]["mean IoU"] < 0.6
    same = single.measure(boxes, boxes)
    assert same["mean IoU"] > 0.999
    assert same["angle error"] < 1e-3
