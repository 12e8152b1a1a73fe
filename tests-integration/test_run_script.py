"""scripts/run.py: what it says when things go wrong, and that no run without tests passes."""

import ast
import importlib.util
import json
import shutil
import subprocess
import sys

import pytest


@pytest.fixture
def script(root, tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("run_script", root / "scripts" / "run.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "run_script", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "STATE", tmp_path / "state with space")
    return module


def test_old_python_can_read_the_script_and_is_refused(script, root, monkeypatch):
    ast.parse((root / "scripts" / "run.py").read_text(encoding="utf-8"), feature_version=(3, 7))
    monkeypatch.setattr(script, "MINIMUM_PYTHON", (99, 0))
    with pytest.raises(script.SetupError, match=r"Python 99\.0 or newer is needed, this is 3"):
        script.check_machine()


def test_full_disk_is_refused(script, monkeypatch):
    monkeypatch.setattr(script, "DISK_NEEDED", shutil.disk_usage("/").total * 2 + 2**40)
    with pytest.raises(script.SetupError, match="of free disk are needed"):
        script.check_machine()


@pytest.mark.parametrize(
    ("output", "advice"),
    [
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("error: Failed to fetch: dns error: failed to lookup address information", "cannot be reached"),
        ("Failed to establish a new connection: [Errno 111] Connection refused", "cannot be reached"),
        ("ERROR: No matching distribution found for torch==2.13.0", "no version that fits"),
        ("The virtual environment was not created successfully because ensurepip is not available.", "python3-venv"),
        ("assert 1 == 2", ""),
    ],
)
def test_known_failures_get_advice(script, output, advice):
    assert advice in script.hint(output)
    assert bool(script.hint(output)) == bool(advice)


def test_bootstrap_says_why_it_failed_and_leaves_no_stamp(script, monkeypatch):
    monkeypatch.setattr(script, "TOOLS", ["no-such-distribution-of-ours==0.0.0"])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(script.SetupError, match="nox and uv cannot be installed") as caught:
        script.bootstrap()
    assert "no version that fits" in str(caught.value)
    assert not (script.STATE / "env.stamp").exists()


def test_bootstrap_repairs_an_interrupted_environment_and_then_reuses_it(script, monkeypatch):
    monkeypatch.setattr(script, "TOOLS", [])
    calls = []

    def record(command, what):
        calls.append(what)
        if command[1:3] == ["-m", "venv"]:
            python = script.environment_python()
            python.parent.mkdir(parents=True)
            python.touch()

    monkeypatch.setattr(script, "quiet_run", record)
    half = script.STATE / "env" / "half-made"
    half.mkdir(parents=True)
    script.bootstrap()
    assert not half.exists()
    assert len(calls) == 2
    script.bootstrap()
    assert len(calls) == 2


def test_failed_session_is_named_with_its_command(script, capsys):
    assert script.finish(["x"], 1, {"build": "success", "tests(comrope)": "failed", "integration": "success"}, "", ["-k", "fold"]) == 1
    said = capsys.readouterr().out
    assert "FAILED: tests(comrope). Run it again: python3 scripts/run.py test comrope -- -k fold" in said
    assert "integration" not in said


def test_report_tells_packages_apart(script, tmp_path):
    sessions = [
        {"name": "tests", "signatures": ["tests(geocore)"], "result": "failed"},
        {"name": "tests", "signatures": ["tests(comrope)"], "result": "success"},
    ]
    (tmp_path / "nox.json").write_text(json.dumps({"result": 0, "sessions": sessions}))
    assert script.read_report(tmp_path / "nox.json") == {"tests(geocore)": "failed", "tests(comrope)": "success"}
    assert script.read_report(tmp_path / "missing.json") == {}


def test_a_run_without_tests_fails(script, monkeypatch, capsys):
    monkeypatch.setattr(script, "run_nox", lambda *a: (0, {}, ""))
    assert script.test(script.environment_python(), [], [], 1) == 1
    assert "no test was executed" in capsys.readouterr().out


def test_tests_are_counted_from_the_result_files(script, monkeypatch, capsys):
    results = script.STATE / "results"
    results.mkdir(parents=True)

    def nox(*arguments):
        (results / "a.xml").write_text('<testsuites><testsuite tests="5" failures="1" errors="0" skipped="2"/></testsuites>')
        return 1, {"tests(geocore)": "failed"}, ""

    monkeypatch.setattr(script, "run_nox", nox)
    assert script.test(script.environment_python(), [], [], 1) == 1
    assert capsys.readouterr().out.strip().endswith("2 passed, 1 failed, 2 skipped")


@pytest.mark.parametrize("command", ["test", "demo"])
def test_unknown_names_are_refused(script, command):
    with pytest.raises(script.SetupError, match=r"no-such-package.*There are: .*comrope"):
        getattr(script, command)(script.environment_python(), ["no-such-package"], [], *([1] if command == "test" else []))


def test_help_works_without_any_set_up(root):
    done = subprocess.run([sys.executable, str(root / "scripts" / "run.py"), "--help"], capture_output=True, text=True, check=True)
    assert "demo" in done.stdout
    assert "test" in done.stdout
