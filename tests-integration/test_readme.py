"""What the root README tells a newcomer to type."""

import re
import subprocess
import sys


def test_python_example_runs(root):
    blocks = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 1
    done = subprocess.run([sys.executable, "-W", "error", "-c", blocks[0]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(blocks[0].splitlines()) <= 18
    assert float(done.stdout.split()[0]) > 0


def test_each_package_readme_example_runs(home):
    text = (home / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert blocks, "a README shows the package in use"
    done = subprocess.run([sys.executable, "-W", "error", "-c", blocks[0]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_commands_of_the_readme_exist(root):
    text = (root / "README.md").read_text(encoding="utf-8")
    for command in ("python3 scripts/run.py demo", "python3 scripts/run.py test"):
        assert command in text
    for path in re.findall(r"python3 (scripts/\w+\.py)", text):
        assert (root / path).is_file()


def test_installed_methods_are_listed(root):
    done = subprocess.run([sys.executable, "-m", "geocore", "list", "--json", "-"], capture_output=True, text=True, check=True)
    for home in sorted((root / "packages").glob("*/pyproject.toml")):
        assert f'"name": "{home.parent.name}"' in done.stdout
