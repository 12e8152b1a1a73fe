"""The op registry and the gate between kernel and reference, with a stand-in for a compiled kernel."""

import importlib
import math
import sys

import pytest
import torch

from geocore import _kernel_table, _ops, so3
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
def with_kernel(monkeypatch):
    CALLS["kernel"] = 0
    monkeypatch.setitem(_kernel_table.TABLE, ("test_sum", "cpu"), _kernel_table.Row(gain="measured"))
    with _ops.without_kernels():
        _ops.announce("cpu", frozenset({"test_sum"}))
        yield


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


def test_a_kernel_that_was_not_measured_is_taken_on_request_only(w, with_kernel, monkeypatch):
    monkeypatch.delitem(_kernel_table.TABLE, ("test_sum", "cpu"))
    assert not _ops.kernel_may_run("test_sum", w)
    assert "not yet measured, so not taken" in _kernel_table.describe("test_sum", "cpu")
    monkeypatch.setattr(_kernel_table, "EVERY_KERNEL", True)
    assert _ops.kernel_may_run("test_sum", w)
    assert not _ops.kernel_may_run("test_sum", w.half())
    assert "not yet measured, taken all the same" in _kernel_table.describe("test_sum", "cpu")


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
    assert "geocore-cuda" in status.reason or "GEOCORE_KERNELS" in status.reason


def test_broken_kernel_package_is_reported_not_raised(tmp_path, monkeypatch):
    monkeypatch.delenv("GEOCORE_KERNELS", raising=False)
    monkeypatch.delitem(sys.modules, "geocore_cuda", raising=False)
    info = tmp_path / "geocore_cuda-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: geocore-cuda\nVersion: 9.9\n")
    (tmp_path / "geocore_cuda.py").write_text("raise OSError('libgeocore.so: undefined symbol')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found, reason = _ops._load.__wrapped__()
    assert not found
    assert "geocore-cuda 9.9" in reason  # the version of the broken package, so that a user knows which one
    assert "undefined symbol" in reason
    assert math.isfinite(float(reference(torch.ones(1))))


def rotations(seed):
    w = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return so3.exp(w)


def vectors(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


SHIPPED = {
    "so3_exp": (lambda: (vectors(1, 5, 3),), so3.exp),
    "so3_log": (lambda: (rotations(2),), so3.log),
    "so3_geodesic": (lambda: (rotations(3), rotations(4)), so3.geodesic),
    "quat_to_matrix": (lambda: (vectors(5, 5, 4),), so3.quat_to_matrix),
    "matrix_to_quat": (lambda: (rotations(6),), so3.matrix_to_quat),
    "quat_mul": (lambda: (vectors(7, 5, 4), vectors(8, 5, 4)), so3.quat_mul),
}
GRADIENTS = {
    "so3_exp_backward": lambda: (vectors(1, 5, 3), vectors(2, 5, 3, 3)),
    "so3_log_backward": lambda: (rotations(2), vectors(3, 5, 3)),
    "so3_geodesic_backward": lambda: (rotations(3), rotations(4), vectors(5, 5)),
    "quat_to_matrix_backward": lambda: (vectors(5, 5, 4), vectors(6, 5, 3, 3)),
    "matrix_to_quat_backward": lambda: (rotations(6), vectors(7, 5, 4)),
}


def test_every_operator_of_the_room_is_covered():
    assert set(SHIPPED) | set(GRADIENTS) == {n for n in _ops.defined() if n.startswith(("so3_", "quat_", "matrix_to_quat"))}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_are_operators_too(name):
    *x, g = GRADIENTS[name]()
    forward = _ops._DEFINED[name.removesuffix("_backward")]
    torch.testing.assert_close(_ops._DEFINED[name](*x, g), torch.func.vjp(forward, *x)[1](g)[0], rtol=1e-12, atol=1e-12)
    # Gradients of gradients come from one generic rule, compiled once here and compared with the plain ones in test_shipped_operators.
    differentiated = name == "quat_to_matrix_backward"
    check_op(getattr(torch.ops.geocore, name).default, *(a.requires_grad_(differentiated) for a in (*x, g)))


@pytest.mark.parametrize("scale", [0.0, 1e-8, 1e-3, 0.05, 0.27, 0.29, 1.0, 3.0])
def test_gradients_in_closed_form_at_every_angle(scale):
    w = scale * torch.nn.functional.normalize(vectors(9, 200, 3), dim=-1)
    R, G, g = so3.exp(w), vectors(10, 200, 3, 3), vectors(11, 200, 3)
    for name, x, cotangent in (("so3_exp", w, G), ("so3_log", R, g), ("matrix_to_quat", R, vectors(12, 200, 4))):
        wanted = torch.func.vjp(_ops._DEFINED[name], x)[1](cotangent)[0]
        torch.testing.assert_close(_ops._DEFINED[f"{name}_backward"](x, cotangent), wanted, rtol=1e-12, atol=2e-13)


def boxes(seed, *shape):
    x = vectors(seed, *shape, 5)
    return torch.cat([x[..., :2], 1 + x[..., 2:4].abs(), x[..., 4:]], -1)


def symmetric(seed):
    A = vectors(seed, 4, 5, 5)
    return A + A.mT


OTHERS = {
    "rope_apply": lambda: (vectors(1, 2, 3, 8), vectors(2, 3, 4), vectors(3, 3, 4), True, False),
    "block_rotate": lambda: (vectors(1, 2, 3, 6), vectors(2, 3, 2, 3, 3), True),
    "block_rotate_backward": lambda: (vectors(1, 2, 3, 6), vectors(3, 2, 3, 6), vectors(2, 3, 2, 3, 3)),
    "unit_solve": lambda: (vectors(1, 2, 4, 4), vectors(2, 2, 4, 3), True, True),
    "svd3": lambda: (vectors(1, 4, 3, 3),),
    "obb_intersection": lambda: (boxes(1, 7), boxes(2, 7)),
    "obb_ratio": lambda: (boxes(1, 7), boxes(2, 7), False),
    "obb_iou_table": lambda: (boxes(1, 2, 3), boxes(2, 2, 4), True),
}


@pytest.mark.parametrize("name", OTHERS)
def test_references_of_the_other_rooms_are_operators(name):
    """With no kernel loaded this runs the plain formula through the dispatcher, schema, fake and gradient included."""
    for room in ("blocks", "householder", "orthogonal", "planar", "spd"):
        importlib.import_module(f"geocore.{room}")
    live = name != "obb_iou_table"  # its gradient comes from the same generic rule as that of obb_ratio, and takes seconds to trace
    args = (a.requires_grad_(live) if isinstance(a, torch.Tensor) else a for a in OTHERS[name]())
    check_op(getattr(torch.ops.geocore, name).default, *args)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_operators(name):
    """Registered reference, fake and gradient are right, and the public function means the same through the operator."""
    make, public = SHIPPED[name]
    args = make()
    check_op(getattr(torch.ops.geocore, name).default, *(a.clone().requires_grad_() for a in args))

    def derivatives():
        live = [a.clone().requires_grad_() for a in args]
        first = torch.autograd.grad(public(*live).pow(2).sum(), live, create_graph=True)
        second = torch.autograd.grad(sum(g.pow(2).sum() for g in first), live)
        return [g.detach() for g in first], second

    with _ops.without_kernels():
        plain, wanted = public(*args), derivatives()
        _ops.announce("cpu", frozenset({name}))
        torch.testing.assert_close(public(*args), plain, rtol=1e-13, atol=1e-13)
        check_transforms(public, *args, compile=False, compiled_transforms=False)
        found = derivatives()
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[1], wanted[1], rtol=1e-11, atol=1e-11)


def test_shipped_operators_compile():
    """Compiled grad and jvp, where a wrong gate returns zeros, all in one graph; plain compilation is in opcheck and tests/so3."""
    calls = [(make(), public) for make, public in SHIPPED.values()]

    def every(*xs):
        rest = iter(xs)
        return [public(*(next(rest) for _ in args)) for args, public in calls]

    with _ops.without_kernels():
        _ops.announce("cpu", frozenset(SHIPPED))
        check_transforms(every, *(a for args, _ in calls for a in args), vmap=False, compile=False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gate_asks_for_the_device_of_the_tensor(w, with_kernel):
    assert not _ops.kernel_may_run("test_sum", w.cuda())
    torch.testing.assert_close(routed(w.cuda()).cpu(), reference(w))
