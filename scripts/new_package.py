"""Create a method package with the whole anatomy, ready for every nox session.

    python3 scripts/new_package.py my-method --summary "One sentence a newcomer understands."

The package is made from scripts/template and is green from the start: a small placeholder method with reference, tests,
demo, benchmark and example. Replace its parts one by one.
"""

import argparse
import keyword
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = ROOT / "scripts" / "template"


def geocore_bounds() -> tuple[str, str]:
    """``0.3`` and ``0.4`` for geocore 0.3.x: while it is 0.x, a minor version may break."""
    text = (ROOT / "shared" / "geocore" / "src" / "geocore" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(\d+)\.(\d+)', text, flags=re.MULTILINE)
    if found is None:
        raise SystemExit("geocore states no __version__")
    major, minor = int(found[1]), int(found[2])
    return f"{major}.{minor}", (f"0.{minor + 1}" if major == 0 else f"{major + 1}")


def check_name(name: str, packages: Path) -> str:
    """Return the import name.

    Raises:
        SystemExit: If the name cannot be a distribution name or is taken.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise SystemExit(f"NAME must be lower-case words joined by hyphens, got {name!r}")
    module = name.replace("-", "_")
    if keyword.iskeyword(module) or module in sys.stdlib_module_names or module in {"torch", "numpy", "scipy", "geocore"}:
        raise SystemExit(f"NAME would shadow the module {module!r}; choose another")
    if (packages / name).exists():
        raise SystemExit(f"{packages / name} exists already")
    return module


def fill(text: str, name: str, module: str, summary: str) -> str:
    """Replace the template's placeholders."""
    lower, below = geocore_bounds()
    for placeholder, value in {
        "METHOD_SUMMARY": summary.rstrip("."),
        "GEOCORE_FROM": lower,
        "GEOCORE_BELOW": below,
        "method-name": name,
        "methodname": module,
    }.items():
        text = text.replace(placeholder, value)
    return text


def sort_imports(text: str, module: str) -> str:
    """Keep the first-party import block sorted, whichever side of geocore the new name falls on."""
    lines = text.split("\n")
    block = [i for i, line in enumerate(lines) if line.startswith(("from geocore", f"from {module}"))]
    if block and block == list(range(block[0], block[-1] + 1)):
        lines[block[0] : block[-1] + 1] = sorted(lines[block[0] : block[-1] + 1], key=lambda line: line.split()[1])
    return "\n".join(lines)


def create(name: str, packages: Path, summary: str) -> Path:
    """Write the package; returns its folder."""
    module = check_name(name, packages)
    home = packages / name
    for source in sorted(TEMPLATE.rglob("*")):
        if not source.is_file() or "__pycache__" in source.parts:
            continue
        target = home / fill(str(source.relative_to(TEMPLATE)), name, module, summary).replace(".template.", ".")
        target.parent.mkdir(parents=True, exist_ok=True)
        text = fill(source.read_text(encoding="utf-8"), name, module, summary)
        target.write_text(sort_imports(text, module) if target.suffix == ".py" else text, encoding="utf-8")
    shutil.copyfile(ROOT / "LICENSE", home / "LICENSE")
    return home


def add_to_contracts(module: str, config: Path) -> None:
    """Add the package to every list of methods in the import contracts."""
    lines = config.read_text(encoding="utf-8").splitlines()
    out: list[str] = []
    key, section = "", ""
    for line in lines:
        if line.startswith("["):
            section = line
        if line and not line[0].isspace():
            key = line.split("=")[0].strip()
        out.append(line)
        wanted = {
            "root_packages": "[importlinter]",
            "modules": "[importlinter:contract:methods]",
            "forbidden_modules": "[importlinter:contract:core]",
            "source_modules": "[importlinter:contract:frameworks]",
        }
        if line.rstrip().endswith("=") and wanted.get(key) == section:
            out.append(f"    {module}")
    config.write_text("\n".join(out) + "\n", encoding="utf-8")


def main() -> int:
    """Create the package and say what to do next."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME", help="folder and distribution name, lower case with hyphens")
    parser.add_argument("--summary", default="One sentence a newcomer understands.", help="first line of README and metadata")
    parser.add_argument("--into", type=Path, help="folder to create it in, instead of packages/ (then nothing else is changed)")
    options = parser.parse_args()
    home = create(options.name, options.into or ROOT / "packages", options.summary)
    if options.into is None:
        add_to_contracts(options.name.replace("-", "_"), ROOT / ".importlinter")
    print(f"created {home}")
    print(f"  test it:        python3 scripts/run.py test {options.name}")
    print(f"  see its demo:   python3 scripts/run.py demo {options.name}")
    print("  then:           python3 scripts/report.py   (adds it to the README's table)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
