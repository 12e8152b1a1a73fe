"""Compile ``csrc/`` into one shared library on the LibTorch stable ABI. The build hook and ``python compile_kernels.py`` both come here.

Environment:
    GEOCORE_CUDA_BUILD  ``auto`` (CUDA kernels if nvcc is found), ``cpu`` (none), ``cuda`` (an error without nvcc).
    GEOCORE_CUDA_ARCHS  compute capabilities separated by ``;``, as in ``80;90``, or ``native``; PTX of the last is added.
    CXX, CUDA_HOME      compilers, otherwise g++ and nvcc from the path.

Everything is compiled from a scratch folder by relative names, so no path of the building machine ends up in check messages.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIBRARY = "_kernels.so"
FACTS = "_build.json"
ARCHS = "75;80;90"  # 86 and 89 run the code of 80, later ones compile the PTX of 90
TARGET = "0x020b000000000000"  # torch 2.11: the oldest that loads the library
COMMON = ["-std=c++20", "-O3", f"-DTORCH_TARGET_VERSION={TARGET}", "-Icsrc", "-Itorch"]
HOST = ["-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-Wall", "-Wno-psabi"]
LEVELS = {
    "base": ["-DGEO_ISA=base", "-DGEO_VECTOR_BYTES=16"],
    "v3": ["-DGEO_ISA=v3", "-DGEO_VECTOR_BYTES=32", "-march=x86-64-v3"],
    "v4": ["-DGEO_ISA=v4", "-DGEO_VECTOR_BYTES=64", "-march=x86-64-v4", "-mprefer-vector-width=512"],
}


class BuildError(RuntimeError):
    """The library cannot be built; the message says what is missing or what the compiler said."""


def torch_folder() -> Path:
    """Folder of the installed torch, found without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise BuildError("torch >= 2.11 must be installed to build geocore-cuda: its headers are compiled against")
    folder = Path(next(iter(spec.submodule_search_locations)))
    if not (folder / "include" / "torch" / "csrc" / "stable" / "library.h").is_file():
        raise BuildError(f"the torch in {folder} has no stable-ABI headers; torch >= 2.11 is needed")
    return folder


def host_compiler() -> str:
    """Path of the C++ compiler."""
    wanted = os.environ.get("CXX", "g++")
    found = shutil.which(wanted)
    if found is None:
        raise BuildError(
            f"no C++ compiler: {wanted!r} is not on the path. Install one with C++20 (Debian: apt install g++), or set CXX. "
            "geocore itself needs none and works without geocore-cuda, more slowly"
        )
    return found


def cuda_compiler() -> tuple[str, Path] | None:
    """The compiler and the folder of CUDA, or ``None`` if the kernels are to be built for the CPU only."""
    mode = os.environ.get("GEOCORE_CUDA_BUILD", "auto")
    if mode not in ("auto", "cpu", "cuda"):
        raise BuildError(f"GEOCORE_CUDA_BUILD must be auto, cpu or cuda, got {mode!r}")
    if mode == "cpu":
        return None
    home = os.environ.get("CUDA_HOME")
    found = shutil.which("nvcc", path=os.pathsep.join([str(Path(home) / "bin"), os.environ.get("PATH", "")]) if home else None)
    if found is None:
        if mode == "cuda":
            raise BuildError("GEOCORE_CUDA_BUILD=cuda, but there is no nvcc on the path or in CUDA_HOME; install the CUDA toolkit")
        return None
    return found, cuda_folder(found)


def cuda_folder(nvcc: str) -> Path:
    """Folder of the CUDA toolkit as nvcc itself sees it: nvcc on the path may be a link or a script that starts another one."""
    with tempfile.TemporaryDirectory(prefix="geocore-") as scratch:
        empty = Path(scratch) / "empty.cu"
        empty.touch()
        done = subprocess.run([nvcc, "--dryrun", "-c", str(empty)], check=False, cwd=scratch, capture_output=True, text=True)
    top = next((line.partition("TOP=")[2] for line in done.stderr.splitlines() if "TOP=" in line), "")
    return Path(top.strip()).resolve() if top else Path(nvcc).resolve().parent.parent


def architectures() -> tuple[list[str], list[str]]:
    """Names of the compute capabilities and the nvcc options for them."""
    wanted = os.environ.get("GEOCORE_CUDA_ARCHS", ARCHS)
    if wanted == "native":
        return ["native"], ["-arch=native"]
    names = [a for a in wanted.replace(",", ";").replace(".", "").split(";") if a]
    if not names or not all(a.rstrip("af").isdigit() for a in names):
        raise BuildError(f"GEOCORE_CUDA_ARCHS must be like '80;90' or 'native', got {wanted!r}")
    options = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in names]
    return names, [*options, f"-gencode=arch=compute_{names[-1]},code=compute_{names[-1]}"]


def run(command: list[str], where: Path) -> None:
    """Run a compiler; its output becomes the error."""
    done = subprocess.run(command, check=False, cwd=where, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"{Path(command[0]).name} failed on {command[-1]}:\n{(done.stderr + done.stdout)[-4000:]}")


def version(compiler: str) -> str:
    """Last line of ``--version`` that names a release."""
    lines = subprocess.run([compiler, "--version"], check=True, capture_output=True, text=True).stdout.splitlines()
    return next((line.strip() for line in lines if "release" in line or "g++" in line.lower() or "clang" in line), lines[0])


def units(cuda: bool) -> list[tuple[str, Path, list[str]]]:
    """Object name, source and extra options of every translation unit."""
    levels = LEVELS if platform.machine() in ("x86_64", "AMD64") else {"base": LEVELS["base"]}
    found = [(f"cpu-{s.stem}-{n}", s, o) for s in sorted((HERE / "csrc" / "cpu").glob("*.cpp")) for n, o in levels.items()]
    found += [(f"ops-{s.stem}", s, []) for s in sorted((HERE / "csrc" / "ops").glob("*.cpp"))]
    if cuda:
        found += [(f"cuda-{s.stem}", s, []) for s in sorted((HERE / "csrc" / "cuda").glob("*.cu"))]
    return found


def digest(*parts: str) -> str:
    """Key of an object file: its source, every header, the compiler and the options."""
    h = hashlib.sha256()
    for header in sorted((HERE / "csrc").rglob("*.h")) + sorted((HERE / "csrc").rglob("*.cuh")):
        h.update(header.read_bytes())
    for part in parts:
        h.update(part.encode())
    return h.hexdigest()[:24]


def build(out: Path, cache: Path, jobs: int | None = None) -> dict:
    """Compile and link ``out/_kernels.so``; unchanged units come from the cache.

    Args:
        out: Folder of the library and of ``_build.json``, the facts about it.
        cache: Folder of object files.
        jobs: Compilers at a time; all cores by default.

    Returns:
        The facts: CUDA release or ``None``, architectures, compilers.

    Raises:
        BuildError: If a tool is missing or a compiler fails.
    """
    folder, cxx, nvcc = torch_folder(), host_compiler(), cuda_compiler()
    names, options = architectures() if nvcc else ([], [])
    torch_version = (folder / "version.py").read_text(encoding="utf-8")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="geocore-") as scratch:
        work = Path(scratch)
        (work / "csrc").symlink_to(HERE / "csrc")
        (work / "torch").symlink_to(folder / "include")

        def compile_unit(unit: tuple[str, Path, list[str]]) -> Path:
            name, source, extra = unit
            relative = str(source.relative_to(HERE))
            if source.suffix == ".cu":
                host = [f"-Xcompiler={o}" for o in (*HOST[:2], "-Wno-psabi")]
                assert nvcc is not None  # units() lists CUDA sources only then
                command = [nvcc[0], f"-ccbin={cxx}", *COMMON, *options, *host, "-diag-suppress=20012,20014,177"]
            else:
                command = [cxx, *COMMON, *HOST, *extra]
            key = digest(source.read_text(encoding="utf-8"), " ".join(command), version(command[0]), torch_version)
            done = cache / f"{name}-{key}.o"
            if not done.is_file():
                run([*command, "-c", "-o", f"{name}.o", relative], work)
                for old in cache.glob(f"{name}-*.o"):
                    old.unlink(missing_ok=True)
                shutil.move(work / f"{name}.o", done)
            return done

        with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool:
            objects = list(pool.map(compile_unit, units(nvcc is not None)))
        link = [
            cxx,
            "-shared",
            "-s",
            "-o",
            LIBRARY,
            *map(str, objects),
            f"-L{folder / 'lib'}",
            "-Wl,--no-as-needed",
            "-ltorch",
            "-ltorch_cpu",
        ]
        link += ["-Wl,--as-needed", "-Wl,--exclude-libs,ALL"]
        if nvcc:
            library = next((p for p in (nvcc[1] / "lib64", nvcc[1] / "lib") if (p / "libcudart_static.a").is_file()), None)
            if library is None:
                raise BuildError(f"libcudart_static.a is not in {nvcc[1]}; install the CUDA runtime's development files")
            link += [f"-L{library}", "-lcudart_static", "-ldl", "-lrt", "-lpthread"]
        run(link, work)
        facts = {
            "cuda": version(nvcc[0]).split("release ")[-1].split(",")[0] if nvcc else None,
            "archs": names,
            "compiler": version(cxx),
            "torch_at_least": "2.11",
        }
        out.mkdir(parents=True, exist_ok=True)
        staged = out / f".{LIBRARY}.{os.getpid()}"
        shutil.copy2(work / LIBRARY, staged)
        os.replace(staged, out / LIBRARY)  # a library in use is never overwritten in place
        (out / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return facts


def main() -> int:
    """Build into the source tree, for use without installing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "src" / "geocore_cuda", help="folder of the library")
    parser.add_argument("--cache", type=Path, default=HERE / "build", help="folder of object files")
    parser.add_argument("--jobs", type=int, default=None, help="compilers at a time")
    chosen = parser.parse_args()
    try:
        facts = build(chosen.out, chosen.cache, chosen.jobs)
    except BuildError as error:
        print(f"geocore-cuda: {error}", file=sys.stderr)
        return 1
    cuda = f"CUDA {facts['cuda']} for {', '.join(facts['archs'])}" if facts["cuda"] else "CPU only"
    print(f"built {chosen.out / LIBRARY} ({cuda})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
