"""The same numbers as flash-linear-attention: its plain PyTorch functions, read file by file since the package itself wants a GPU."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from deltaproduct import delta_product

SPEC = importlib.util.find_spec("fla")
pytestmark = pytest.mark.skipif(SPEC is None, reason="needs fla-core")


def naive(path: str) -> ModuleType:
    pytest.importorskip("einops")
    assert SPEC is not None
    assert SPEC.submodule_search_locations
    file = Path(next(iter(SPEC.submodule_search_locations))) / "ops" / path / "naive.py"
    if not file.exists():
        pytest.skip(f"this version of fla has no {file.name} for {path}")
    spec = importlib.util.spec_from_file_location(f"naive_{path}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("mode", ["chunk", "recurrent"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_gated_delta_product(n, mode, draw):
    q, k, v, beta, g, S = draw(T=17, n=n, dtype=torch.float32)
    o, final = naive("gated_delta_product").naive_recurrent_gated_delta_product(
        q, k, v, g, beta, 1.0, initial_state=S, output_final_state=True, num_householder=n
    )
    ours, state = delta_product(q, k, v, beta, g, num_householder=n, scale=1.0, initial_state=S, output_final_state=True, mode=mode)
    torch.testing.assert_close(ours, o.float(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(state, final.float(), atol=1e-5, rtol=1e-4)


def test_gated_delta_rule(draw):
    q, k, v, beta, g, S = draw(T=17, n=1, dtype=torch.float32)
    o, final = naive("gated_delta_rule").naive_recurrent_gated_delta_rule(q, k, v, beta, g, initial_state=S, output_final_state=True)
    ours, state = delta_product(q, k, v, beta, g, num_householder=1, initial_state=S, output_final_state=True)
    torch.testing.assert_close(ours, o, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(state, final, atol=1e-5, rtol=1e-4)


def test_delta_rule(draw):
    q, k, v, beta, _, S = draw(T=17, n=1, gated=False, dtype=torch.float32)
    heads_first = [x.transpose(1, 2).contiguous() for x in (q, k, v, beta)]
    o, final = naive("delta_rule").delta_rule_recurrence(*heads_first, initial_state=S)
    ours, state = delta_product(q, k, v, beta, num_householder=1, initial_state=S, output_final_state=True)
    torch.testing.assert_close(ours.transpose(1, 2), o, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(state, final, atol=1e-5, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_kernels_on_the_device(n, gated, draw):
    q, k, v, beta, g, _ = draw(T=300, H=4, K=64, V=64, n=n, gated=gated, dtype=torch.float32)
    low = [x.cuda().bfloat16() for x in (q, k, v, beta)]
    gate = None if g is None else g.cuda()
    theirs, _ = delta_product(*low, gate, num_householder=n, mode="fla")
    ours, _ = delta_product(*low, gate, num_householder=n, mode="chunk")
    assert float((theirs.float() - ours.float()).norm() / ours.float().norm()) < 1e-2
