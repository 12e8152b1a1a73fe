"""The op registry and the gate between kernel and reference, with a stand-in for a compiled kernel."""

import math

import pytest
import torch

from geocore import _ops, so3
from geocore.testing import check_op, check_transforms, max_error_eps, nan_filled_empty

CALLS = {"kernel": 0}


def reference(w: torch.Tensor, power: int = 1) -> torch.Tensor:
    return torch.sin(w).pow(power).cumsum(-1)


def kernel(w: torch.Tensor, power: int = 1) -> torch.Tensor:
    """Deliberately without autograd, as compiled code is: through numpy."""
    CALLS["kernel"] += 1
    out = torch.empty_like(w, memory_format=torch.contiguous_format)
    out.copy_(torch.from_numpy(w.detach().numpy()).sin().pow(power).cumsum(-1))
    return out


def routed(w: torch.Tensor, power: int = 1) -> torch.Tensor:
    if _ops.kernel_may_run("test_sum", w):
        return torch.ops.geocore.test_sum(w, power)
    return reference(w, power)


@pytest.fixture(scope="module", autouse=True)
def _defined():
    _ops.define("test_sum", "(Tensor w, int power=1) -> Tensor", reference, lambda w, power=1: torch.empty_like(w))
    implementation = torch.library.Library("geocore", "IMPL")
    implementation.impl("test_sum", kernel, "CPU")
    yield
    implementation._destroy()


@pytest.fixture
def with_kernel():
    _ops.announce("cpu", frozenset({"test_sum"}))
    CALLS["kernel"] = 0
    yield
    _ops.withdraw("cpu")


@pytest.fixture
def w():
    return torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_without_announcement_the_reference_runs(w):
    CALLS["kernel"] = 0
    assert not _ops.kernel_may_run("test_sum", w)
    assert torch.equal(routed(w), reference(w))
    assert CALLS["kernel"] == 0


def test_announced_kernel_runs_and_agrees(w, with_kernel):
    with nan_filled_empty():
        assert max_error_eps(routed(w), reference(w)) <= 2
    assert CALLS["kernel"] == 1
    assert not _ops.kernel_may_run("another_op", w)


def test_op_passes_opcheck(w):
    check_op(torch.ops.geocore.test_sum.default, w.requires_grad_())


def test_gradients_of_the_kernel_are_those_of_the_reference(w, with_kernel):
    w.requires_grad_()
    first = torch.autograd.grad(routed(w, 2).pow(2).sum(), w, create_graph=True)[0]
    wanted = torch.autograd.grad(reference(w, 2).pow(2).sum(), w, create_graph=True)[0]
    assert CALLS["kernel"] == 1
    torch.testing.assert_close(first, wanted, rtol=0, atol=1e-13)
    second = torch.autograd.grad(first.pow(2).sum(), w)[0]
    torch.testing.assert_close(second, torch.autograd.grad(wanted.pow(2).sum(), w)[0], rtol=0, atol=1e-12)


def test_gate_is_closed_inside_transforms(w, with_kernel):
    seen = []

    def probe(x):
        seen.append(_ops.kernel_may_run("test_sum", x))
        return routed(x).sum()

    torch.func.grad(probe)(w)
    torch.vmap(probe)(w)
    torch.func.jvp(probe, (w,), (w,))
    with torch.autograd.forward_ad.dual_level():
        probe(torch.autograd.forward_ad.make_dual(w, w))
    assert seen == [False] * 4
    assert CALLS["kernel"] == 0


def test_compiled_grad_and_jvp_equal_eager(w, with_kernel):
    """Wrongly gated, these return zeros in silence."""
    check_transforms(routed, w)


def test_compiled_call_uses_the_kernel(w, with_kernel):
    torch._dynamo.reset()
    out = torch.compile(routed, fullgraph=True, backend="aot_eager")(w)
    assert CALLS["kernel"] >= 1
    torch.testing.assert_close(out, reference(w))


def test_a_name_is_defined_once():
    with pytest.raises(ValueError, match="geocore::test_sum is defined already"):
        _ops.define("test_sum", "(Tensor w) -> Tensor", reference, torch.empty_like)
    assert "test_sum" in _ops.defined()


def test_status_names_kernels_or_says_why_not(with_kernel):
    status = _ops.kernel_status()
    assert status.kernels == {"cpu": ("test_sum",)}
    assert status.reason
    if not status.found:
        assert "geocore-cuda" in status.reason


def test_broken_kernel_package_is_reported_not_raised(tmp_path, monkeypatch):
    info = tmp_path / "geocore_cuda-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: geocore-cuda\nVersion: 9.9\n")
    (tmp_path / "geocore_cuda.py").write_text("raise OSError('libgeocore.so: undefined symbol')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found, reason = _ops._load.__wrapped__()
    assert not found
    assert "geocore-cuda 9.9" in reason
    assert "undefined symbol" in reason
    assert math.isfinite(float(reference(torch.ones(1))))


def rotations(seed):
    w = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return so3.exp(w)


SHIPPED = {
    "so3_exp": (lambda: (torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),), so3.exp),
    "so3_log": (lambda: (rotations(2),), so3.log),
    "so3_geodesic": (lambda: (rotations(3), rotations(4)), so3.geodesic),
}


def test_every_shipped_operator_is_covered():
    assert set(_ops.defined()) - {"test_sum"} == set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_operators(name):
    """Registered reference, fake and gradient are right, and the public function means the same through the operator."""
    make, public = SHIPPED[name]
    args = make()
    plain = public(*args)
    check_op(getattr(torch.ops.geocore, name).default, *(a.clone().requires_grad_() for a in args))
    _ops.announce("cpu", frozenset({name}))  # the operator's own reference stands in for a kernel
    try:
        assert torch.equal(public(*args), plain)
        check_transforms(public, *args)
        live = [a.clone().requires_grad_() for a in args]
        first = torch.autograd.grad(public(*live).pow(2).sum(), live, create_graph=True)
        second = torch.autograd.grad(sum(g.pow(2).sum() for g in first), live)
    finally:
        _ops.withdraw("cpu")
    live = [a.clone().requires_grad_() for a in args]
    wanted = torch.autograd.grad(public(*live).pow(2).sum(), live, create_graph=True)
    torch.testing.assert_close(first, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(second, torch.autograd.grad(sum(g.pow(2).sum() for g in wanted), live), rtol=1e-11, atol=1e-11)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gate_asks_for_the_device_of_the_tensor(w, with_kernel):
    assert not _ops.kernel_may_run("test_sum", w.cuda())
    torch.testing.assert_close(routed(w.cuda()).cpu(), reference(w))
