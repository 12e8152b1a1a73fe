"""The package as a user meets it: rooms, names, import cost, examples."""

import inspect
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import geocore
from geocore.testing import check_import_cost

HERE = Path(__file__).resolve().parents[2]
ROOMS = [name for name in geocore.__all__ if name != "__version__"]


ALONE = """
import importlib, os, sys, time
import torch

HEAVY = {"scipy", "matplotlib", "typer", "hypothesis", "sklearn"}
LIGHT = {"so3", "son", "spd", "structured"}

def load(room):
    start = time.perf_counter()
    module = importlib.import_module(f"geocore.{room}")
    seconds = time.perf_counter() - start
    assert module.__doc__ and len(set(module.__all__)) == len(module.__all__), room
    if room in LIGHT:
        assert not torch.cuda.is_initialized(), f"{room} initialises CUDA"
        assert not HEAVY & set(sys.modules), f"{room} loads {HEAVY & set(sys.modules)}"
        if seconds > 0.3:
            return 2
    [getattr(module, name) for name in module.__all__]
    return 0

for room in sys.argv[1:]:
    for attempt in range(3):  # a slow import may be the machine's: the best of three counts
        child = os.fork()  # torch is loaded once, each room in a process that has seen no other
        if child == 0:
            try:
                code = load(room)
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                code = 1
            os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code != 2:
            break
    assert code == 0, f"{room}: {'slow to import' if code == 2 else 'fails alone'}"
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_each_room_is_importable_alone_and_lightly():
    """After torch, an import takes at most 0.3 s and loads nothing heavy. One interpreter for all rooms: loading torch takes longer."""
    done = subprocess.run([sys.executable, "-c", ALONE, *ROOMS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_function_is_documented_and_in_the_readme(room):
    module = getattr(geocore, room)
    readme = (HERE / "README.md").read_text(encoding="utf-8")
    section = readme.split(f"### `geocore.{room}`", 1)
    assert len(section) == 2, f"README has no section for geocore.{room}"
    text = section[1].split("\n### ", 1)[0].split("\n## ", 1)[0]
    missing = [name for name in module.__all__ if f"`{name}" not in text]
    assert not missing, f"names of geocore.{room} that its README section does not mention: {missing}"
    objects = {n: getattr(module, n) for n in module.__all__}
    undocumented = [n for n, o in objects.items() if (inspect.isfunction(o) or inspect.isclass(o)) and not (o.__doc__ or "").strip()]
    assert not undocumented


def test_unknown_room_is_named():
    with pytest.raises(AttributeError, match="its rooms are"):
        geocore.nowhere  # noqa: B018


def test_import_check_passes_and_catches(monkeypatch):
    """The check that packages use on themselves, on reports of an interpreter; starting one takes seconds."""
    reports = []

    def run(command, **options):
        compile(command[2], "<check>", "exec")
        assert command[0] == sys.executable
        assert "import torch\n" in command[2]
        assert "import geocore.spd\n" in command[2]
        return subprocess.CompletedProcess(command, 0, json.dumps(reports.pop(0)) + "\n", "")

    def report(seconds, cuda=False, loaded=("torch",)):
        return {"seconds": seconds, "cuda": cuda, "loaded": list(loaded)}

    monkeypatch.setattr("geocore.testing._public.subprocess.run", run)
    reports[:] = [report(0.9), report(0.1)]  # the best of three
    check_import_cost("geocore.spd", forbidden=("scipy",))
    assert not reports
    for made, message in (
        ([report(0.5), report(0.4), report(0.6)], "takes 0.40 s"),
        ([report(0.1, cuda=True)], "initialises CUDA"),
        ([report(0.1, loaded=("scipy", "torch"))], "loads .'scipy'."),
    ):
        reports[:] = made
        with pytest.raises(AssertionError, match=message):
            check_import_cost("geocore.spd", forbidden=("scipy",))


@pytest.mark.parametrize("example", sorted((HERE / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_examples_run(example, capsys):
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out.strip()
