"""The package as others see it."""

import ast
import runpy
import sys
from pathlib import Path

import pytest
import torch

from geocore.demo import find_method, run_demo
from geocore.testing import check_public_surface

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")
HERE = Path(__file__).resolve().parent.parent


def test_public_surface_is_documented():
    check_public_surface("peft_loldu_corda", HERE / "README.md")


def test_import_is_light():
    """Importing peft takes ten seconds on some machines, and this package extends it; nothing else heavy may come along."""
    light = {"torch", "jaxtyping", "peft", "transformers", "safetensors", "geocore", "peft_loldu_corda", *sys.stdlib_module_names}
    for file in (HERE / "src" / "peft_loldu_corda").rglob("*.py"):
        if file.name in ("cli.py", "demo.py") or file.parent.name == "experiments":
            continue
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            modules = (
                [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module] if isinstance(node, ast.ImportFrom) else []
            )
            assert {m.partition(".")[0] for m in modules} <= light, file
    assert not torch.cuda.is_initialized()


@pytest.mark.parametrize("example", sorted((HERE / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_examples_run(example, capsys):
    runpy.run_path(str(example), run_name="__main__")
    said = capsys.readouterr().out
    assert "the disabled model is the base: True" in said


@pytest.mark.slow
def test_demo_meets_its_claims():
    run = run_demo(find_method("peft-loldu-corda"))
    assert run.result.met, [c for c in run.result.claims if not c.met]
    assert len(run.result.rows) >= 35, "the whole sweep is shown"
