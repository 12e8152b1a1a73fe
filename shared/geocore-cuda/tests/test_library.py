"""The library as such: what it implements, how geocore finds it or does without it, and what is inside the file."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import geocore_cuda
from geocore import _kernel_table, _ops

LIBRARY = Path(geocore_cuda.__file__).parent / "_kernels.so"


def test_geocore_found_it():
    status = _ops.kernel_status()
    assert status.found, status.reason
    assert set(status.kernels["cpu"]) == geocore_cuda.KERNELS["cpu"]


def test_what_is_announced_is_what_the_dispatcher_has():
    for room in ("blocks", "householder", "orthogonal", "planar", "so3", "spd"):  # a room defines its operators when it is imported
        importlib.import_module(f"geocore.{room}")

    for device, key in (("cpu", "CPU"), ("cuda", "CUDA")):
        if device == "cuda" and not geocore_cuda.build_facts()["cuda"]:
            continue
        there = {n for n in _ops.defined() if torch._C._dispatch_has_kernel_for_dispatch_key(f"geocore::{n}", key)}
        assert there == geocore_cuda.KERNELS[device]


def test_every_cpu_kernel_has_a_measured_row():
    forward = {n for n in geocore_cuda.KERNELS["cpu"] if not n.endswith("_backward")}
    assert {n for n, device in _kernel_table.TABLE if device == "cpu"} == forward
    assert not [n for (n, device), row in _kernel_table.TABLE.items() if device == "cpu" and row.gain == "not yet measured"]


def test_switched_off_by_the_environment(python):
    code = "from geocore import _ops; s = _ops.kernel_status(); print(s.found, s.reason, s.kernels)"
    assert python(code, GEOCORE_KERNELS="off") == ("False switched off by GEOCORE_KERNELS; geocore runs its plain PyTorch formulas {}")


def test_another_interface_is_refused_with_the_reason(python):
    code = (
        "import sys, types\n"
        "import geocore._kernel_table\n"
        "from importlib import util\n"
        "import geocore_cuda\n"
        "from geocore import _ops\n"
        "_ops.KERNEL_INTERFACE = 99\n"
        "try: geocore_cuda._load()\n"
        "except ImportError as e: print(e)\n"
    )
    assert "operator interface 1, this geocore has 99" in python(code)


def test_import_in_either_order(python):
    assert python("import geocore_cuda, geocore; from geocore import _ops; print(_ops.kernel_status().found)") == "True"
    assert python("import geocore, geocore_cuda; from geocore import _ops; print(_ops.kernel_status().found)") == "True"


@pytest.mark.parametrize("level", ["base", "v3", "v4"])
def test_every_instruction_set_gives_the_same_rotation(level, python):
    code = (
        "import torch, geocore; from geocore.so3._algebra import exp_reference\n"
        "w = torch.randn(1001, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))\n"
        "print(float((torch.ops.geocore.so3_exp(w) - exp_reference(w)).abs().max()) < 1e-14)"
    )
    assert python(code, GEOCORE_ISA=level) == "True"


def test_no_path_of_the_building_machine_is_inside():
    content = LIBRARY.read_bytes()
    roots = {str(Path(torch.__file__).resolve().parent), str(Path(__file__).resolve().parents[2]), str(Path.home())}
    assert not [root for root in roots if len(root) > 5 and root.encode() in content]
    assert b"csrc/" not in content or b"/csrc/" not in content.replace(b"torch/csrc/", b"")


def test_it_loads_without_any_cuda_library():
    """Every symbol that only CUDA builds of torch have is weak, and no CUDA or Python library is needed."""
    dump = subprocess.run(["readelf", "-d", str(LIBRARY)], check=True, capture_output=True, text=True).stdout
    needed = [line.split("[")[1].rstrip("]") for line in dump.splitlines() if "(NEEDED)" in line]
    assert "libtorch.so" in needed
    assert not [n for n in needed if "cuda" in n or "python" in n or "c10" in n]
    assert "RPATH" not in dump
    assert "RUNPATH" not in dump
    symbols = subprocess.run(["nm", "-D", "--undefined-only", str(LIBRARY)], check=True, capture_output=True, text=True).stdout
    strong = [line.split()[1] for line in symbols.splitlines() if line.split()[0] == "U"]
    assert not [s for s in strong if s.startswith(("cuda", "cu", "torch_c10_cuda", "aoti_torch_get_current_cuda", "Py", "_Py"))]
    assert not [s for s in strong if "at6native" in s or s.startswith(("_ZN2at", "_ZN3c10"))]


def test_stable_abi_audit():
    pytest.importorskip("torch_abi_audit", reason="torch-abi-audit is not installed")
    command = [str(Path(sys.executable).parent / "torch-abi-audit"), "--json", "--check", "torch", str(LIBRARY)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2.11" in done.stdout


@pytest.mark.bad_input
def test_wrong_settings_of_the_build_are_named(tmp_path):
    script = Path(__file__).parents[1] / "compile_kernels.py"
    for variables, message in (
        ({"GEOCORE_CUDA_BUILD": "gpu"}, "GEOCORE_CUDA_BUILD must be auto, cpu or cuda, got 'gpu'"),
        ({"GEOCORE_CUDA_BUILD": "cpu", "CXX": "no-such-compiler"}, "no C++ compiler: 'no-such-compiler' is not on the path"),
        ({"GEOCORE_CUDA_BUILD": "cuda", "PATH": str(tmp_path), "CXX": sys.executable, "CUDA_HOME": str(tmp_path)}, "there is no nvcc"),
    ):
        command = [sys.executable, str(script), "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
        done = subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, **variables})
        assert done.returncode == 1
        assert message in done.stderr
        assert not (tmp_path / "out").exists()


def test_info_says_where_each_kernel_takes_over(python):
    code = "from geocore._kernel_table import describe; print(describe('so3_exp', 'cpu')); print(describe('so3_exp', 'cuda'))"
    text = python(code)
    assert "any size" in text.splitlines()[0]
    assert "not yet measured, so not taken" in text.splitlines()[1]
    assert "taken all the same" in python(
        "from geocore._kernel_table import describe; print(describe('so3_exp', 'cuda'))", GEOCORE_KERNELS="all"
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_cuda_kernels_give_what_the_formulas_give(dtype):
    """The kernels of rotations and layers on the device, also on another stream, strided, empty; against the formulas on the CPU."""
    w = torch.randn(1003, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)
    G = torch.randn(1003, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(dtype)
    R = _ops._DEFINED["so3_exp"](w)
    q = _ops._DEFINED["matrix_to_quat"](R)
    calls = {
        "so3_exp": (w,),
        "so3_log": (R,),
        "quat_to_matrix": (q,),
        "matrix_to_quat": (R,),
        "so3_exp_backward": (w, G),
        "so3_log_backward": (R, w),
        "quat_to_matrix_backward": (q, G),
        "matrix_to_quat_backward": (R, q.flip(0).contiguous()),
        "quat_mul": (q, q.flip(0).contiguous()),
        "so3_geodesic": (R, R.flip(0).contiguous()),
        "so3_geodesic_backward": (R, R.roll(1, 0), w[:, 0].contiguous()),
        "block_rotate": (w, R[:, None].contiguous()),
        "rope_apply": (G[:, :, :2].contiguous(), R[:, :, :1].contiguous(), R[:, :, 1:2].contiguous()),
        "unit_solve": (0.3 * R, G),
    }
    flags = {"block_rotate": (True,), "rope_apply": (True, False), "unit_solve": (True, False)}
    stream = torch.cuda.Stream()
    for name, arguments in calls.items():
        rest = flags.get(name, ())
        op, wanted = getattr(torch.ops.geocore, name), _ops._DEFINED[name](*(a.double() for a in arguments), *rest)
        moved = [a.cuda() for a in arguments]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            value = op(*moved, *rest)
        torch.cuda.current_stream().wait_stream(stream)
        size = wanted.abs().amax().clamp(min=1)
        assert float((value.cpu().double() - wanted).abs().max() / size) <= 200 * torch.finfo(dtype).eps, name
        strided = [a.repeat_interleave(2, 0)[::2] for a in moved]
        torch.testing.assert_close(op(*strided, *rest), value)
        assert op(*(a[:0] for a in moved), *rest).shape[0] == 0
    x, c, s = G[:, 0, :2].contiguous(), R[:, 0, :1].contiguous(), R[:, 1, :1].contiguous()
    for low in (torch.float16, torch.bfloat16):  # computed in float32, rounded once
        given = [a.to(low) for a in (x, c, s)]
        value = torch.ops.geocore.rope_apply(*(a.cuda() for a in given), False, True)
        wanted = _ops._DEFINED["rope_apply"](*(a.float() for a in given), False, True).to(low)
        torch.testing.assert_close(value.cpu(), wanted, rtol=torch.finfo(low).eps, atol=1e-6)
