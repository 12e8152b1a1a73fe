"""Hatch build hook: compiles the kernels and gives the wheel the tag ``py3-none-<platform>``, good for every Python >= 3.11."""

import importlib.util
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class KernelBuildHook(BuildHookInterface):
    """Puts the library and the facts about it into the wheel; an editable install builds them into the source tree."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before the files of the wheel are collected."""
        here = Path(self.root)
        spec = importlib.util.spec_from_file_location("geocore_cuda_compile", here / "compile_kernels.py")
        if spec is None or spec.loader is None:
            raise RuntimeError(f"compile_kernels.py is missing in {here}")
        compiler = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(compiler)
        out = here / "src" / "geocore_cuda" if version == "editable" else here / "build" / "lib"
        facts = compiler.build(out, here / "build")
        self.app.display_info(f"kernels: {'CUDA ' + facts['cuda'] if facts['cuda'] else 'CPU only'}")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        for name in (compiler.LIBRARY, compiler.FACTS):
            build_data["force_include"][str(out / name)] = f"geocore_cuda/{name}"
