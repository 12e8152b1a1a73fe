"""Run every gpu test and every benchmark on this machine's CUDA device, and write one JSON and one table.

Nothing is installed: the sources are put on the path, so any environment with torch >= 2.11, numpy, scipy, pytest, hypothesis,
jaxtyping, rich and typer will do. Compiled kernels are built with the local nvcc if the repository has them.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def homes() -> list[Path]:
    """Folders of all packages."""
    return [p.parent for folder in ("shared", "packages") for p in sorted((ROOT / folder).glob("*/pyproject.toml"))]


def run(command: list[str], where: Path, log: Path, extra: dict[str, str] | None = None) -> int:
    """Run a command with the sources on the path; its output goes to a file, its end to the terminal on failure."""
    paths = os.pathsep.join(str(home / "src") for home in homes())
    environment = {
        **os.environ,
        "PYTHONPATH": paths,
        "GEOCORE_KERNELS": "all",
        **(extra or {}),
    }  # unmeasured kernels too: they are what is measured
    with log.open("w", encoding="utf-8") as stream:
        code = subprocess.run(command, check=False, cwd=where, env=environment, stdout=stream, stderr=subprocess.STDOUT).returncode
    if code:
        print("\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-25:]), flush=True)
    return code


def compile_kernels(out: Path) -> dict:
    """Compile geocore-cuda for this device into its source folder, where geocore finds it."""
    home = ROOT / "shared" / "geocore-cuda"
    if not home.is_dir():
        return {"package": "geocore-cuda", "exit_code": 0, "built": None}
    environment = {"GEOCORE_CUDA_BUILD": "cuda", "GEOCORE_CUDA_ARCHS": os.environ.get("GEOCORE_CUDA_ARCHS", "native")}
    code = run([sys.executable, str(home / "compile_kernels.py")], home, out / "compile.log", environment)
    facts = home / "src" / "geocore_cuda" / "_build.json"
    return {"package": "geocore-cuda", "exit_code": code, "built": None if code else json.loads(facts.read_text(encoding="utf-8"))}


def test(home: Path, out: Path) -> dict:
    """Run the gpu tests of one package; a package without any is recorded as such."""
    xml = out / f"tests-{home.name}.xml"
    code = run([sys.executable, "-m", "pytest", "-m", "gpu", f"--junitxml={xml}"], home, out / f"tests-{home.name}.log")
    counts = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    if xml.is_file():
        for suite in ElementTree.parse(xml).getroot().iter("testsuite"):
            for key in counts:
                counts[key] += int(suite.get(key, 0))
    return {"package": home.name, "exit_code": 0 if code == 5 else code, "collected_none": code == 5, **counts}


def bench(home: Path, script: Path, out: Path, quick: bool) -> dict:
    """Run one benchmark on the device."""
    target = out / f"bench-{home.name}-{script.stem.removeprefix('bench_')}.json"
    command = [sys.executable, str(script), "--device", "cuda", "--json", str(target), *(["--quick"] if quick else [])]
    code = run(command, home, target.with_suffix(".log"))
    results = json.loads(target.read_text(encoding="utf-8")) if target.is_file() else None
    return {"package": home.name, "benchmark": script.stem, "exit_code": code, "results": results}


def main() -> int:
    """Test, measure, write ``gpu.json`` and ``gpu.txt``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "report" / "gpu")
    parser.add_argument("--quick", action="store_true", help="smallest size of each benchmark")
    parser.add_argument("packages", nargs="*", help="folder names; all without arguments")
    options = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print("no CUDA device is visible to torch; nothing was tested or measured", file=sys.stderr)
        return 2
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    chosen = [home for home in homes() if not options.packages or home.name in options.packages]
    compiled = compile_kernels(out)
    document = {
        "kernels": compiled,
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "nvcc": shutil.which("nvcc") is not None,
        "date": time.strftime("%Y-%m-%d"),
        "tests": [test(home, out) for home in chosen],
        "benchmarks": [bench(home, s, out, options.quick) for home in chosen for s in sorted((home / "benchmarks").glob("bench_*.py"))],
    }
    kernels = "compiled for this device" if compiled["built"] else f"not compiled (exit code {compiled['exit_code']})"
    lines = [f"{document['device']}, torch {document['torch']}, CUDA {document['cuda']}, {document['date']}", f"kernels: {kernels}", ""]
    for row in document["tests"]:
        passed = row["tests"] - row["failures"] - row["errors"] - row["skipped"]
        lines.append(f"tests {row['package']}: {passed} passed, {row['failures'] + row['errors']} failed, {row['skipped']} skipped")
    for row in document["benchmarks"]:
        lines.append(f"benchmark {row['package']} {row['benchmark']}: " + ("failed" if row["exit_code"] else "measured"))
        lines += [
            f"  {r['case']:32} {r['candidate']:32} {r['ms']:10.4f} ms  ours/this {r['ours_over_this']:.2f}"
            for r in (row["results"] or {}).get("results", [])
        ]
    text = "\n".join(lines) + "\n"
    (out / "gpu.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (out / "gpu.txt").write_text(text, encoding="utf-8")
    print(text)
    return 1 if any(row["exit_code"] for row in [compiled, *document["tests"], *document["benchmarks"]]) else 0


if __name__ == "__main__":
    sys.exit(main())
