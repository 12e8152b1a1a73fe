"""Every task of the repository; ``nox -l`` lists them, ``nox -s "tests(comrope)"`` runs one.

Packages are always tested from their built wheels, each alone in its own environment. Arguments after ``--`` go to the tool
of the session (pytest, the demo, the benchmark).
"""

import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
DIST = ROOT / "dist"
STATE = ROOT / ".isometry"
HOMES = {p.parent.name: p.parent for folder in ("shared", "packages") for p in sorted((ROOT / folder).glob("*/pyproject.toml"))}
NAMES = list(HOMES)
METHODS = [name for name, home in HOMES.items() if home.parent.name == "packages"]

# torch's compiler passes its include folders to g++ without quotes, so environments must not lie under a path with spaces.
HERE_IS_FINE = " " not in str(ROOT)
CACHE = ROOT / ".nox" if HERE_IS_FINE else Path(tempfile.gettempdir()) / f"isometry-{hashlib.sha256(str(ROOT).encode()).hexdigest()[:12]}"

nox.needs_version = ">=2026.4"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "types", "contracts", "tests", "integration"]
nox.options.error_on_external_run = True
nox.options.envdir = str(CACHE)

# pip separates find-links by spaces, uv by commas and only under its own name.
if os.environ.get("PIP_FIND_LINKS") and not os.environ.get("UV_FIND_LINKS"):
    os.environ["UV_FIND_LINKS"] = ",".join(os.environ["PIP_FIND_LINKS"].split())
# One thread per process: the tensors of tests are small, and sessions may run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str((STATE if HERE_IS_FINE else CACHE) / "inductor"))
os.environ.setdefault("UV_LINK_MODE", "hardlink")


def project(package: str) -> dict:
    """The parsed ``pyproject.toml`` of a package."""
    return nox.project.load_toml(HOMES[package] / "pyproject.toml")


def requirement_name(requirement: str) -> str:
    """``geocore[demo]>=0.1`` -> ``geocore``."""
    return re.split(r"[\s\[<>=!~;(@]", requirement.strip(), maxsplit=1)[0]


def local_closure(package: str) -> list[str]:
    """The package and every package of this repository that it needs, extras included."""
    metadata = project(package)["project"]
    extras = [r for group in metadata.get("optional-dependencies", {}).values() for r in group]
    found = [package]
    for requirement in (*metadata.get("dependencies", ()), *extras):
        name = requirement_name(requirement)
        if name in HOMES and name != package:
            found += [n for n in local_closure(name) if n not in found]
    return found


def wheel(package: str, extras: tuple[str, ...] = ()) -> str:
    """Path of the built wheel, with extras: a path, not a name, so that no index can answer for us."""
    found = sorted(DIST.glob(f"{package.replace('-', '_')}-*.whl"))
    if len(found) != 1:
        raise FileNotFoundError(f"expected one wheel of {package} in {DIST}, found {[f.name for f in found]}; run: nox -s build")
    suffix = f"[{','.join(extras)}]" if extras else ""
    return f"{found[0]}{suffix}"


def wheels(packages: list[str], extras: tuple[str, ...] = ()) -> list[str]:
    """Wheels of the packages and their local dependencies, each once; extras are added where a package defines them."""
    names = list(dict.fromkeys(n for package in packages for n in local_closure(package)))
    chosen = {n: tuple(e for e in extras if e in project(n)["project"].get("optional-dependencies", {})) for n in names}
    return [wheel(n, chosen[n] if n in packages else ()) for n in names]


def every_extra() -> tuple[str, ...]:
    """Names of all extras of all packages."""
    return tuple(sorted({extra for name in NAMES for extra in project(name)["project"].get("optional-dependencies", {})}))


def group(package: str, name: str = "test") -> list[str]:
    """A dependency group without the packages of this repository, which come as wheels."""
    return [r for r in nox.project.dependency_groups(project(package), name) if requirement_name(r) not in HOMES]


def install(session: nox.Session, *requirements: str) -> None:
    """Install under the tested versions."""
    session.install("-c", str(ROOT / "constraints.txt"), *requirements)


def pytest(session: nox.Session, label: str, *arguments: str) -> None:
    """Run pytest on all cores, which fails if it collects nothing, and leave a machine-readable result behind."""
    install(session, "pytest-xdist")
    results = STATE / "results" / f"{re.sub(r'[^A-Za-z0-9_.-]', '-', label)}.xml"
    results.parent.mkdir(parents=True, exist_ok=True)
    results.unlink(missing_ok=True)
    workers = ("-n", os.environ.get("ISOMETRY_WORKERS", str(os.cpu_count() or 1)), "--dist", "worksteal")
    session.run("python", "-m", "pytest", *workers, f"--junitxml={results}", *arguments, *session.posargs)


@nox.session(default=False)
def build(session: nox.Session) -> None:
    """Build the wheel of every package into dist/, in one process; geocore-cuda is compiled against the headers of torch."""
    install(session, "hatchling", "torch")
    session.run("python", str(ROOT / "scripts" / "build_wheels.py"), "--out", str(DIST))


@nox.session(requires=["build"], allow_parallel=True)
@nox.parametrize("package", NAMES, ids=NAMES)
def tests(session: nox.Session, package: str) -> None:
    """Install one package from the built wheels, nothing of the source tree, and run its tests."""
    install(session, *wheels([package]), *group(package))
    session.chdir(HOMES[package])
    pytest(session, f"tests-{package}")


@nox.session(requires=["build"], allow_parallel=True)
def integration(session: nox.Session) -> None:
    """Install all wheels into one environment and run tests-integration."""
    here = ROOT / "tests-integration"
    settings = nox.project.load_toml(here / "pyproject.toml")
    install(session, *wheels(NAMES), *nox.project.dependency_groups(settings, "test"))
    session.chdir(here)
    pytest(session, "integration")


@nox.session(requires=["build"], default=False)
def demo(session: nox.Session) -> None:
    """Run the demonstrations and write report/index.html; METHOD names or options of `geocore demo` after --."""
    chosen = [a for a in session.posargs if a.replace("_", "-") in METHODS]
    install(session, *wheels(chosen or METHODS or ["geocore"], ("demo",)))
    arguments = list(session.posargs) if chosen else ["--all", *session.posargs]
    if "--html" not in arguments:
        arguments += ["--html", str(ROOT / "report")]
    if "--json" not in arguments:
        arguments += ["--json", str(ROOT / "report" / "demo.json")]
    session.run("python", "-m", "geocore", "demo", *arguments)


@nox.session(allow_parallel=True)
def lint(session: nox.Session) -> None:
    """Check style and format (ruff), and that generated parts of the READMEs are up to date."""
    install(session, "ruff")
    session.run("ruff", "check", "--output-format=concise", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("python", "scripts/report.py", "--check")


@nox.session(requires=["build"], allow_parallel=True)
def types(session: nox.Session) -> None:
    """Type-check all sources (pyright, standard mode) against the installed wheels and extras."""
    install(session, *wheels(NAMES, every_extra()), "pyright", "nox", "hatchling", "hypothesis", "scikit-learn", "beartype")
    session.run("pyright", "--pythonpath", shutil.which("python", path=session.bin) or "python", *session.posargs)


@nox.session(allow_parallel=True)
def contracts(session: nox.Session) -> None:
    """Check who imports whom (import-linter) and declared against used dependencies (deptry)."""
    install(session, "import-linter", "deptry")
    sources = os.pathsep.join(str(home / "src") for home in HOMES.values())
    session.run("lint-imports", "--no-cache", env={"PYTHONPATH": sources})
    mapping = "scikit-learn=sklearn,pillow=PIL,torch-geometric=torch_geometric"
    for home in HOMES.values():
        session.chdir(home)
        # geocore finds geocore-cuda if it is there and never requires it; attrs is needed by peft, which does not declare it.
        session.run("deptry", "src", "--package-module-name-map", mapping, "--per-rule-ignores", "DEP001=geocore_cuda,DEP002=attrs")


@nox.session(requires=["build"], allow_parallel=True, default=False)
@nox.parametrize("package", NAMES, ids=NAMES)
def shapes(session: nox.Session, package: str) -> None:
    """Run one package's tests with its shape annotations enforced (jaxtyping and beartype)."""
    install(session, *wheels([package]), *group(package), "jaxtyping", "beartype")
    session.chdir(HOMES[package])
    name = package.replace("-", "_")
    session.env["PYTHONPATH"] = str(ROOT / "scripts")
    # The checker samples items of containers, also inside strategies, and comparing sizes fixes symbolic ones.
    options = ("-W", "ignore::hypothesis.errors.HypothesisDeprecationWarning", "-k", "not exported")
    session.env["TORCHDYNAMO_DISABLE"] = "1"  # the compiler cannot trace the checkers
    checker = f"--jaxtyping-packages={name},typecheck.typechecked"
    pytest(session, f"shapes-{package}", checker, "-m", "not bad_input and not slow", *options)


@nox.session(requires=["build"], allow_parallel=True, default=False)
@nox.parametrize("package", NAMES, ids=NAMES)
def minimums(session: nox.Session, package: str) -> None:
    """Run one package's tests with the lowest declared versions that can be had here (torch stays at the tested one)."""
    if session.venv_backend != "uv":
        session.error("minimums needs uv, which can resolve to the lowest versions: pip install uv")
    torch = next(line.strip() for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    # uv lowers what it is asked for itself, so the packages' own requirements are named here once more.
    direct = [r for name in local_closure(package) for r in project(name)["project"]["dependencies"] if requirement_name(r) not in HOMES]
    install(session, torch)  # first, so that the build which the constraints and find-links give is kept
    session.install("--resolution=lowest-direct", *wheels([package]), *direct, *group(package), torch)
    session.chdir(HOMES[package])
    pytest(session, f"minimums-{package}", "-m", "not slow")


@nox.session(requires=["build"], default=False)
@nox.parametrize("package", NAMES, ids=NAMES)
def bench(session: nox.Session, package: str) -> None:
    """Run one package's benchmarks and write benchmarks/results/<name>.json; options of the runner after --."""
    install(session, *wheels([package], ("demo",)), *group(package), *_optional_group(package, "bench"))
    session.chdir(HOMES[package])
    for script in sorted((HOMES[package] / "benchmarks").glob("bench_*.py")):
        target = Path("benchmarks", "results", f"{script.stem.removeprefix('bench_')}.json")
        session.run("python", str(Path("benchmarks", script.name)), "--json", str(target), *session.posargs)


def _optional_group(package: str, name: str) -> list[str]:
    return group(package, name) if name in project(package).get("dependency-groups", {}) else []


@nox.session(venv_backend="none", default=False)
def gpu(session: nox.Session) -> None:
    """Run every gpu test and benchmark in the interpreter that runs nox, without installing anything."""
    session.run("python", str(ROOT / "scripts" / "gpu_check.py"), "--out", str(ROOT / "report" / "gpu"), *session.posargs, external=True)


@nox.session(requires=["build"], default=False)
def docs(session: nox.Session) -> None:
    """Write the API documentation of every package to report/docs (pdoc)."""
    # timm brings a torchvision that does not load beside a CPU build of torch, and transformers loads it where it is there
    install(session, *wheels(NAMES, tuple(extra for extra in every_extra() if extra != "timm")), "pdoc")
    # Bridges to frameworks are named in the READMEs; importing them here would need every framework to work on this machine.
    modules = [m for name in NAMES for m in (name.replace("-", "_"), f"!{name.replace('-', '_')}.integrations")]
    session.run("python", "-m", "pdoc", "--docformat", "google", "-o", str(ROOT / "report" / "docs"), *modules)
