"""The two commands of this repository, for a machine that has only Python >= 3.11, git and a package index.

    python3 scripts/run.py demo [METHOD...]     every method's claim, measured here; writes report/index.html
    python3 scripts/run.py test [PACKAGE...]    every package alone from its wheel, then all together
    python3 scripts/run.py check                lint, types, import contracts

The script makes a private environment in .isometry/ with pinned nox and uv, and hands over to nox. Running it again reuses
that environment; after an interruption it repairs it. Options after `--` go to the tool underneath.
"""

# Only the standard library, and syntax that an old Python can read far enough to be told that it is too old.
from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / ".isometry"
TOOLS = ["nox==2026.10.20", "uv==0.13.9"]
MINIMUM_PYTHON = (3, 11)
DISK_NEEDED = 3 * 2**30

NETWORK = "|".join(
    [
        r"dns error|name resolution|Name or service not known|getaddrinfo|Could not connect|connection error",
        r"Failed to establish a new connection|Connection refused|Network is unreachable|error sending request",
        r"ConnectTimeout|Max retries exceeded",
    ]
)
HINTS = [
    (
        r"No space left on device|Errno 28|disk quota exceeded",
        "The disk is full. Free some space; `rm -rf .nox .isometry dist report` removes what this repository made.",
    ),
    (
        NETWORK,
        "The package index cannot be reached. Check the network, or point PIP_INDEX_URL and UV_INDEX_URL at an index you can reach.",
    ),
    (
        r"No solution found when resolving|No matching distribution found|ResolutionImpossible",
        "The index has no version that fits constraints.txt. PIP_FIND_LINKS may name a folder of wheels to use as well.",
    ),
    (
        r"ensurepip is not available|No module named '?(venv|ensurepip)",
        "This Python has no venv module. On Debian and Ubuntu: apt install python3-venv.",
    ),
    (r"CERTIFICATE_VERIFY_FAILED|invalid peer certificate", "The index's certificate is not trusted here; see SSL_CERT_FILE and PIP_CERT."),
]


class SetupError(Exception):
    """A failure with a message for the person at the terminal."""


def say(message: str) -> None:
    """One line of progress."""
    print(f"\033[1m==> {message}\033[0m" if sys.stdout.isatty() else f"==> {message}", flush=True)


def hint(output: str) -> str:
    """What to do about an error that the tools printed, or an empty string."""
    return next((text for pattern, text in HINTS if re.search(pattern, output, flags=re.IGNORECASE)), "")


def packages() -> dict[str, Path]:
    """Name to folder of every package in the repository."""
    return {p.parent.name: p.parent for folder in ("shared", "packages") for p in sorted((ROOT / folder).glob("*/pyproject.toml"))}


def check_machine() -> None:
    """Stop early, with the reason, on a machine that cannot do the work.

    Raises:
        SetupError: If Python is too old or the disk too full.
    """
    if sys.version_info < MINIMUM_PYTHON:
        have = ".".join(map(str, sys.version_info[:3]))
        raise SetupError(f"Python {'.'.join(map(str, MINIMUM_PYTHON))} or newer is needed, this is {have} ({sys.executable}).")
    free = shutil.disk_usage(ROOT).free
    if free < DISK_NEEDED:
        raise SetupError(f"{DISK_NEEDED // 2**30} GB of free disk are needed in {ROOT}, there are {free / 2**30:.1f} GB.")


def environment_python() -> Path:
    """Interpreter of the private environment."""
    return STATE / "env" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def bootstrap() -> Path:
    """Make or repair the private environment with the pinned tools; a stamp written last tells that it is whole.

    Returns:
        Path of its interpreter.

    Raises:
        SetupError: If the environment cannot be made.
    """
    stamp = STATE / "env.stamp"
    wanted = hashlib.sha256(json.dumps([TOOLS, sys.version, str(ROOT)]).encode()).hexdigest()
    python = environment_python()
    if stamp.is_file() and stamp.read_text() == wanted and python.exists():
        return python
    say(f"making the private environment {STATE / 'env'} with {', '.join(TOOLS)}")
    STATE.mkdir(exist_ok=True)
    stamp.unlink(missing_ok=True)
    shutil.rmtree(STATE / "env", ignore_errors=True)
    quiet_run([sys.executable, "-m", "venv", str(STATE / "env")], "the environment cannot be made")
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *TOOLS]
    quiet_run(install, "nox and uv cannot be installed")
    stamp.write_text(wanted)
    return python


def quiet_run(command: list[str], what: str) -> None:
    """Run a set-up step.

    Raises:
        SetupError: With the end of its output and what to do about it.
    """
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode:
        tail = "\n".join(done.stdout.strip().splitlines()[-12:])
        raise SetupError(f"{what}.\n{tail}\n{hint(done.stdout)}".rstrip())


def run_nox(python: Path, sessions: list[str], posargs: list[str], jobs: int) -> tuple[int, dict[str, str], str]:
    """Run nox, pass its output through, and keep the end of it.

    Returns:
        Exit code, session to result, and the last lines of output.
    """
    report = STATE / "nox.json"
    report.unlink(missing_ok=True)
    command = [str(python), "-m", "nox", "-f", str(ROOT / "noxfile.py"), "--report", str(report), "-s", *sessions]
    if jobs > 1:
        command += ["-j", str(jobs)]
    if sys.stdout.isatty():
        command += ["--forcecolor"]
    if posargs:
        command += ["--", *posargs]
    environment = {**os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}", "PYTHONUNBUFFERED": "1"}
    for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):  # nothing but the wheels may be imported
        environment.pop(name, None)
    tail: list[str] = []
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    try:
        while True:
            chunk = os.read(process.stdout.fileno(), 65536)
            if not chunk:
                break
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            tail = (("".join(tail[-1:]) + chunk.decode(errors="replace")).splitlines(keepends=True))[-400:]
        code = process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise
    return code, read_report(report), "".join(tail)


def read_report(report: Path) -> dict[str, str]:
    """Session, with its package, to result; empty if nox wrote no report."""
    if not report.is_file():
        return {}
    return {session["signatures"][0]: session["result"] for session in json.loads(report.read_text())["sessions"]}


def count_tests(since: float) -> dict[str, int]:
    """Add up the result files that pytest wrote since ``since``."""
    total = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    for path in sorted((STATE / "results").glob("*.xml")):
        if path.stat().st_mtime >= since:
            for suite in ElementTree.parse(path).getroot().iter("testsuite"):
                for key in total:
                    total[key] += int(suite.get(key, 0))
    return total


def rerun_command(session: str) -> str:
    """The command that repeats one failed session."""
    found = re.fullmatch(r"tests\((.+)\)", session)
    if found:
        return f"python3 scripts/run.py test {found[1]}"
    if session == "integration":
        return "python3 scripts/run.py test integration"
    if session == "demo":
        return "python3 scripts/run.py demo"
    return f'{environment_python().relative_to(ROOT)} -m nox -s "{session}"'


def finish(sessions: list[str], code: int, results: dict[str, str], tail: str, posargs: list[str]) -> int:
    """Name what failed and how to run it again; returns the exit code."""
    failed = [name for name, result in results.items() if result in ("failed", "aborted")]
    failed = [name for name in failed if name != "build"] if any(n != "build" for n in failed) else failed
    for name in failed:
        say(f"FAILED: {name}. Run it again: {rerun_command(name)}" + (f" -- {' '.join(posargs)}" if posargs else ""))
    advice = hint(tail) if code else ""
    if advice:
        say(advice)
    elif code and not failed:
        say(f"nox stopped with exit code {code} before any session ended; its messages are above ({', '.join(sessions)})")
    return code


def test(python: Path, names: list[str], posargs: list[str], jobs: int) -> int:
    """Test the named packages, or all and their integration."""
    known = packages()
    unknown = [n for n in names if n not in known and n != "integration"]
    if unknown:
        raise SetupError(f"unknown packages: {', '.join(unknown)}. There are: {', '.join(known)}; and: integration.")
    sessions = [f"tests({n})" if n in known else n for n in names] or [*(f"tests({n})" for n in known), "integration"]
    start = time.time() - 2
    code, results, tail = run_nox(python, sessions, posargs, jobs)
    total = count_tests(start)
    broken = total["failures"] + total["errors"]
    passed = total["tests"] - broken - total["skipped"]
    code = finish(sessions, code, results, tail, posargs)
    if passed + broken == 0:
        say("no test was executed, which counts as a failure")
        code = code or 1
    print(f"{passed} passed, {broken} failed, {total['skipped']} skipped", flush=True)
    return code


def demo(python: Path, names: list[str], posargs: list[str]) -> int:
    """Run the named methods' demonstrations, or all."""
    known = [name for name, home in packages().items() if home.parent.name == "packages"]
    unknown = [n for n in names if n.replace("_", "-") not in known]
    if unknown:
        raise SetupError(f"unknown methods: {', '.join(unknown)}. There are: {', '.join(known)}.")
    code, results, tail = run_nox(python, ["demo"], [*(n.replace("_", "-") for n in names), *posargs], 1)
    page = ROOT / "report" / "index.html"
    if not code and page.is_file() and "--html" not in posargs:
        say(f"every claim was met; the page is {page}")
    return finish(["demo"], code, results, tail, [])


def main(argv: list[str]) -> int:
    """Parse the command line and run it."""
    split = argv.index("--") if "--" in argv else len(argv)
    posargs = argv[split + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="demo|test|check")
    demos = commands.add_parser("demo", help="measure every method's claim and write report/index.html")
    demos.add_argument("names", nargs="*", metavar="METHOD")
    tests = commands.add_parser("test", help="test every package alone from its wheel, then all together")
    tests.add_argument("names", nargs="*", metavar="PACKAGE")
    tests.add_argument("-j", "--jobs", type=int, default=1, help="sessions to run side by side (their output then comes at their end)")
    commands.add_parser("check", help="lint, types and import contracts")
    options = parser.parse_args(argv[:split])
    check_machine()
    python = bootstrap()
    if options.command == "demo":
        return demo(python, options.names, posargs)
    if options.command == "test":
        return test(python, options.names, posargs, options.jobs)
    sessions = ["lint", "types", "contracts"]
    code, results, tail = run_nox(python, sessions, posargs, 1)
    return finish(sessions, code, results, tail, posargs)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SetupError as failure:
        say(f"stopped: {failure}")
        sys.exit(1)
    except KeyboardInterrupt:
        say("interrupted; running the same command again carries on")
        sys.exit(130)
