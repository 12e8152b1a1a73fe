"""Build the wheel of every package in one process (thirty take about a second). Needs hatchling."""

import argparse
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def homes() -> list[Path]:
    """Folders of all packages."""
    return [p.parent for folder in ("shared", "packages") for p in sorted((ROOT / folder).glob("*/pyproject.toml"))]


def build(home: Path, out: Path) -> Path:
    """Build one wheel and move it into place in one step, replacing older versions of the same package."""
    from hatchling.builders.wheel import WheelBuilder

    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".building-") as scratch:
        built = Path(next(iter(WheelBuilder(str(home)).build(directory=scratch, versions=["standard"]))))
        target = out / built.name
        for old in out.glob(f"{built.name.split('-')[0]}-*.whl"):
            if old != target:
                old.unlink()
        os.replace(built, target)
    return target


def main() -> int:
    """Build all packages, or those named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packages", nargs="*", help="folder names; all without arguments")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    options = parser.parse_args()
    chosen = [home for home in homes() if not options.packages or home.name in options.packages]
    unknown = set(options.packages) - {home.name for home in chosen}
    if unknown:
        parser.error(f"unknown packages {sorted(unknown)}; there are {[home.name for home in homes()]}")
    built: set[Path] = set()
    for home in chosen:
        try:
            built.add(build(home, options.out))
        except Exception as error:  # hatchling raises many kinds; each means that this wheel cannot be built
            print(f"cannot build {home.relative_to(ROOT)}: {type(error).__name__}: {error}", file=sys.stderr)
            return 1
    print(f"built {len(built)} wheels in {options.out}: " + ", ".join(sorted(path.name for path in built)), flush=True)
    if not options.packages:
        for stale in set(options.out.glob("*.whl")) - built:  # a wheel of a package that is gone must not be installed
            stale.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
