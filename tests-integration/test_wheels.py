"""The built wheels: contents, metadata, no two of them in each other's way."""

import importlib
import subprocess
import sys
import zipfile
from collections import Counter
from email.parser import Parser
from importlib import metadata

import pytest
from packaging.requirements import Requirement


@pytest.fixture
def wheel(home, root):
    (found,) = (root / "dist").glob(f"{home.name.replace('-', '_')}-*.whl")
    return zipfile.ZipFile(found)


def test_wheel_holds_the_package_and_nothing_else(home, wheel):
    module = home.name.replace("-", "_")
    top = {name.split("/")[0] for name in wheel.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {module}
    assert f"{module}/py.typed" in wheel.namelist()
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel.namelist())
    assert not [name for name in wheel.namelist() if "__pycache__" in name or "/tests/" in name]


def test_metadata_has_plain_ranges(home, wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    headers = Parser().parsestr(wheel.read(name).decode())
    assert headers["Name"] == home.name
    assert headers["License-Expression"] == "Apache-2.0"
    requirements = [Requirement(r) for r in headers.get_all("Requires-Dist")]
    assert requirements
    assert [str(r) for r in requirements if r.url] == [], "a wheel must not point at a path or an address"
    torch = next(r for r in requirements if r.name == "torch")
    assert str(torch.specifier).startswith(">=")


def test_installed_from_the_wheel_and_not_from_the_tree(home, root):
    module = importlib.import_module(home.name.replace("-", "_"))
    assert (root / home.parent.name) not in __import__("pathlib").Path(module.__file__).parents
    assert metadata.version(home.name) == module.__version__


def test_no_file_belongs_to_two_wheels(root):
    names = Counter(name for path in (root / "dist").glob("*.whl") for name in zipfile.ZipFile(path).namelist())
    assert [name for name, count in names.items() if count > 1] == []


def test_all_import_together_quickly_and_without_cuda(root):
    modules = [p.parent.name.replace("-", "_") for f in ("shared", "packages") for p in sorted((root / f).glob("*/pyproject.toml"))]
    # peft, and transformers with it, is what one of the packages extends: its own seconds are not ours
    code = f"import torch, peft, time; t = time.perf_counter(); import {', '.join(modules)}; assert not torch.cuda.is_initialized()"
    done = subprocess.run([sys.executable, "-W", "error", "-c", f"{code}; print(time.perf_counter() - t)"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.3 * len(modules) + 0.3
