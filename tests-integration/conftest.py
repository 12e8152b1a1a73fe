"""Where the repository is, and which packages it has."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HOMES = {p.parent.name: p.parent for folder in ("shared", "packages") for p in sorted((ROOT / folder).glob("*/pyproject.toml"))}


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


def project(home: Path) -> dict:
    return tomllib.loads((home / "pyproject.toml").read_text(encoding="utf-8"))


def pytest_generate_tests(metafunc):
    if "home" in metafunc.fixturenames:
        metafunc.parametrize("home", HOMES.values(), ids=HOMES.keys())
    if "method" in metafunc.fixturenames:
        methods = [home for home in HOMES.values() if home.parent.name == "packages"]
        metafunc.parametrize("method", methods, ids=[home.name for home in methods])
