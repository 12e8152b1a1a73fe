"""Every package has the whole anatomy, and the repository's lists know it."""

import configparser
import re
import tomllib

from packaging.requirements import Requirement
from packaging.version import Version


def metadata(home):
    return tomllib.loads((home / "pyproject.toml").read_text(encoding="utf-8"))


def source(home):
    return home / "src" / home.name.replace("-", "_")


def version(home):
    found = re.search(r'^__version__ = "(.+)"$', (source(home) / "__init__.py").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert found, "the version stands in __init__.py and nowhere else"
    return found[1]


def test_files_are_there(home):
    wanted = ["README.md", "CHANGELOG.md", "LICENSE", "tests", "benchmarks", "examples"]
    assert [name for name in wanted if not (home / name).exists()] == []
    assert (source(home) / "py.typed").exists()
    assert list((home / "benchmarks").glob("bench_*.py"))
    assert list((home / "examples").glob("*.py"))


def test_methods_have_functional_reference_and_demo(method):
    wanted = ["functional.py", "_reference.py", "demo.py"]
    assert [name for name in wanted if not (source(method) / name).exists()] == []
    entry_points = metadata(method)["project"]["entry-points"]["geocore.demos"]
    assert entry_points == {method.name: f"{source(method).name}.demo:demo"}


def test_licence_is_the_repository_s(home, root):
    assert (home / "LICENSE").read_text(encoding="utf-8") == (root / "LICENSE").read_text(encoding="utf-8")


def test_changelog_covers_the_version(home):
    text = (home / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[?([^\]\s]+)", text, flags=re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert Version(version(home)) == Version(headings[1])


def test_single_source_of_version(home):
    project = metadata(home)
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == f"src/{source(home).name}/__init__.py"


def test_bounds_on_geocore_fit_the_geocore_here(method, root):
    here = Version(version(root / "shared" / "geocore"))
    bound = next(Requirement(r) for r in metadata(method)["project"]["dependencies"] if Requirement(r).name == "geocore")
    assert here in bound.specifier
    upper = Version(f"0.{here.minor + 1}") if here.major == 0 else Version(f"{here.major + 1}")
    assert upper not in bound.specifier, "a breaking geocore must not be accepted"


def test_pytest_is_strict(home):
    settings = metadata(home)["tool"]["pytest"]["ini_options"]
    assert {"--strict-markers", "--strict-config"} <= set(settings["addopts"])
    assert settings["xfail_strict"] is True
    assert settings["filterwarnings"][0] == "error"


def test_import_contracts_list_every_package(method, root):
    parser = configparser.ConfigParser()
    parser.read(root / ".importlinter")
    name = source(method).name
    lists = [
        ("importlinter", "root_packages"),
        ("importlinter:contract:methods", "modules"),
        ("importlinter:contract:core", "forbidden_modules"),
        ("importlinter:contract:frameworks", "source_modules"),
    ]
    assert [where for where in lists if name not in parser[where[0]][where[1]].split()] == []


def test_method_is_in_the_readme_table(method, root):
    assert f"[{method.name}](packages/{method.name})" in (root / "README.md").read_text(encoding="utf-8")
