"""The layer on a CUDA device: same results as on the CPU, no hidden synchronisation."""

import copy

import pytest
import torch

from comrope import ComRoPE, LieRE, grid_positions

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("variant", ["ap", "ld", "full"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_cpu(variant: str, dtype: torch.dtype) -> None:
    rope = ComRoPE(64, 4, 2, variant=variant, dtype=dtype)
    twin = copy.deepcopy(rope).cuda()
    positions = grid_positions((14, 14), prefix_tokens=1, dtype=dtype)
    q, k = torch.randn(2, 2, 4, 197, 64, dtype=dtype)
    tol = {torch.float32: 1e-4, torch.float64: 1e-11}[dtype]
    here, there = rope(q, k, positions), twin(q.cuda(), k.cuda(), positions.cuda())
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(b.cpu(), a, rtol=0, atol=tol)
    (here[0] * k).sum().backward()
    (there[0] * k.cuda()).sum().backward()
    for a, b in zip(rope.parameters(), twin.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        torch.testing.assert_close(b.grad.cpu(), a.grad, rtol=0, atol=tol * float(1 + a.grad.abs().max()))
    with torch.no_grad():
        torch.testing.assert_close(twin.eval().rotate(q.cuda(), positions.cuda()).cpu(), here[0], rtol=0, atol=tol)
        assert twin.rotate(q.cuda().bfloat16(), positions.cuda()).dtype == torch.bfloat16


def test_eval_mode_does_not_wait_for_the_device() -> None:
    rope = ComRoPE(64, 4, 2, device="cuda").eval().requires_grad_(False)
    q, positions = torch.randn(2, 4, 197, 64, device="cuda"), grid_positions((14, 14), prefix_tokens=1, device="cuda")
    first = rope.rotate(q, positions)
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = rope.rotate(q, positions)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(first, again)


def test_liere_on_the_device() -> None:
    rope = LieRE(16, 2, 2, block_size=4)
    q, positions = torch.randn(2, 2, 16, 16), grid_positions((4, 4))
    there = copy.deepcopy(rope).cuda().rotate(q.cuda(), positions.cuda())
    torch.testing.assert_close(there.cpu(), rope.rotate(q, positions), rtol=0, atol=1e-4)
