"""scripts/new_package.py makes a package that builds, passes its tests and every static check at once."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest

NAME = "toy-method"


def run(*command, cwd, **environment):
    done = subprocess.run([sys.executable, *map(str, command)], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def lint_imports(copy):
    sources = os.pathsep.join(str(path) for folder in ("shared", "packages") for path in sorted((copy / folder).glob("*/src")))
    code = "import sys; from importlinter.cli import lint_imports_command as lint; sys.argv = ['lint-imports', '--no-cache']; lint()"
    environment = {**os.environ, "PYTHONPATH": sources}
    return subprocess.run([sys.executable, "-c", code], cwd=copy, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def copy(root, tmp_path_factory):
    """A copy of the repository, in a folder with a space, with a new package in it."""
    here = tmp_path_factory.mktemp("a folder") / "the repository"
    skip = shutil.ignore_patterns(
        ".git", ".nox", ".isometry", "dist", "report", "__pycache__", ".pytest_cache", ".hypothesis", ".ruff_cache"
    )
    shutil.copytree(root, here, ignore=skip)
    run("scripts/new_package.py", NAME, "--summary", "Rotates pairs of features.", cwd=here)
    return here


def test_new_package_builds_and_its_tests_pass(copy, tmp_path):
    run("scripts/build_wheels.py", NAME, "--out", copy / "dist", cwd=copy)
    (wheel,) = (copy / "dist").glob("toy_method-*.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    output = run("-m", "pytest", "-p", "no:cacheprovider", cwd=copy / "packages" / NAME, PYTHONPATH=str(site))
    assert " passed" in output
    assert "failed" not in output


def test_new_package_passes_lint_and_contracts(copy):
    run("-m", "ruff", "check", "--no-cache", f"packages/{NAME}", "scripts", cwd=copy)
    run("-m", "ruff", "format", "--no-cache", "--check", f"packages/{NAME}", cwd=copy)
    sources = os.pathsep.join(str(path) for folder in ("shared", "packages") for path in sorted((copy / folder).glob("*/src")))
    lint = (
        "import sys; from importlinter.cli import lint_imports_command; sys.argv = ['lint-imports', '--no-cache']; lint_imports_command()"
    )
    assert "0 broken" in run("-c", lint, cwd=copy, PYTHONPATH=sources)


def test_contracts_catch_a_method_that_imports_another(copy):
    module = copy / "packages" / NAME / "src" / "toy_method" / "functional.py"
    text = module.read_text(encoding="utf-8")
    module.write_text(text + "\nimport comrope\n", encoding="utf-8")
    sources = os.pathsep.join(str(path) for folder in ("shared", "packages") for path in sorted((copy / folder).glob("*/src")))
    lint = (
        "import sys; from importlinter.cli import lint_imports_command; sys.argv = ['lint-imports', '--no-cache']; lint_imports_command()"
    )
    done = subprocess.run([sys.executable, "-c", lint], cwd=copy, env={**os.environ, "PYTHONPATH": sources}, capture_output=True, text=True)
    module.write_text(text, encoding="utf-8")
    assert done.returncode != 0
    assert "Methods do not import one another BROKEN" in done.stdout


def test_report_adds_it_to_the_readme(copy):
    run("scripts/report.py", cwd=copy)
    assert f"[{NAME}](packages/{NAME}) | Rotates pairs of features" in (copy / "README.md").read_text(encoding="utf-8")
    run("scripts/report.py", "--check", cwd=copy)


@pytest.mark.parametrize(
    ("name", "message"),
    [("Bad_Name", "lower-case words"), ("torch", "would shadow"), ("json", "would shadow"), ("comrope", "exists already")],
)
def test_bad_names_are_refused(copy, name, message):
    done = subprocess.run([sys.executable, "scripts/new_package.py", name], cwd=copy, capture_output=True, text=True)
    assert done.returncode != 0
    assert message in done.stderr
