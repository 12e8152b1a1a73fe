"""The Triton kernel: under the interpreter in a process of its own (it must be chosen before triton is imported), and on CUDA."""

import os
import subprocess
import sys

import pytest
import torch

from deltaproduct import delta_product
from deltaproduct._dispatch import reason_against_triton

INTERPRETED = """
import torch
from deltaproduct import delta_product
from geocore.testing import nan_filled_empty

def results(inputs, **options):
    leaves = [None if x is None else x.clone().requires_grad_() for x in inputs]
    q, k, v, beta, g, S = leaves
    with nan_filled_empty():  # an output that is not written cannot pass
        o, final = delta_product(q, k, v, beta, g, initial_state=S, output_final_state=True, **options)
        grads = torch.autograd.grad((o * o).sum() + (final * final).sum(), [x for x in leaves if x is not None])
    return [o, final, *grads]

ragged = [0, 3, 3, 20, 23]
cases = [(5, 3, 1, 4, True, ragged), (16, 40, 2, 20, True, None), (33, 16, 3, 5, False, ragged)]
for K, V, n, C, gated, offsets in cases:
    B, T, H = (1 if offsets else 2), 23, 2
    N = len(offsets) - 1 if offsets else B
    torch.manual_seed(K)
    q, k = torch.randn(B, T, H, K), torch.nn.functional.normalize(torch.randn(B, T * n, H, K), dim=-1)
    v, beta, g = torch.randn(B, T * n, H, V), 2 * torch.rand(B, T * n, H), -torch.rand(B, T, H) if gated else None
    inputs = [x if x is None else x.double() for x in (q, k, v, beta, g, torch.randn(N, H, K, V))]
    options = dict(num_householder=n, chunk_size=C, cu_seqlens=torch.tensor(offsets) if offsets else None)
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 1e-4)):
        cast = [x if x is None else x.to(dtype) for x in inputs]
        for a, b in zip(results(cast, mode="triton", **options), results(inputs, mode="chunk", **options)):
            a, b = a.detach().double(), b.detach()
            assert float((a - b).abs().max()) <= tolerance * (1 + float(b.abs().max())), (K, n, gated, offsets, dtype)
print("equal")
"""


@pytest.mark.slow
def test_kernel_equals_the_loop_under_the_interpreter():
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", INTERPRETED], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "equal"


def test_never_chosen_on_the_cpu(draw, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    q, k, v, beta, g, _ = draw(dtype=torch.float32)
    assert "needs CUDA tensors" in reason_against_triton(q, torch.float32) or "not installed" in reason_against_triton(q, torch.float32)
    monkeypatch.setitem(sys.modules, "deltaproduct._triton", None)  # importing it would raise
    delta_product(q, k, v, beta, g, num_householder=2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("gated", [False, True])
def test_kernel_equals_the_loop_on_the_device(n, gated, draw, value_and_grads):
    inputs = tuple(None if x is None else x.cuda() for x in draw(T=150, H=3, K=64, V=48, n=n, gated=gated, dtype=torch.float32))
    options = {"num_householder": n, "output_final_state": True}

    def fn(mode):
        return lambda *a, **o: delta_product(*a, mode=mode, **o)

    for a, b in zip(*(value_and_grads(fn(mode), inputs, **options) for mode in ("triton", "chunk")), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)
