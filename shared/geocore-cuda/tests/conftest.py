"""Interpreters of their own for what is chosen once per process, and GPU algorithms compiled for one thread of the CPU."""

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[1] / "csrc"


def _python(code: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="session")
def python() -> Callable[..., str]:
    """Run code in a new interpreter with these variables set, and give what it prints; its failure is the test's."""
    return _python


@pytest.fixture(scope="session")
def one_thread(tmp_path_factory) -> Callable[[str], ctypes.CDLL]:
    """Compile C++ whose `Alone` plays all threads of a team, each step's items from the last to the first."""
    every = "template <class F> void each(int64_t n, F f) const { for (int64_t i = n - 1; i >= 0; --i) f(i); }"
    alone = f"#include <cstdint>\nstruct Alone {{ {every} }};\n"

    def build(source: str) -> ctypes.CDLL:
        compiler = shutil.which("g++")
        if compiler is None:
            pytest.skip("needs g++")
        folder = tmp_path_factory.mktemp("alone")
        (folder / "alone.cpp").write_text(alone + source)
        options = ["-std=c++20", "-O1", "-fPIC", "-shared", "-Wno-psabi", f"-I{CSRC}", "-o", str(folder / "alone.so")]
        subprocess.run([compiler, *options, str(folder / "alone.cpp")], check=True)
        return ctypes.CDLL(str(folder / "alone.so"))

    return build
