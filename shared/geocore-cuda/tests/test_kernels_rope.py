"""Planar rotations of coordinate pairs: kernel against reference for every way of broadcasting."""

import pytest
import torch

from geocore import _ops
from geocore.blocks import rope_apply
from geocore.blocks._rope import rope_apply_reference
from geocore.testing import check_op, check_transforms, nan_filled_empty

OPS = torch.ops.geocore
SHAPES = [
    ((8,), (4,)),
    ((0, 8), (4,)),
    ((5, 2), (1,)),
    ((3, 7, 6), (7, 3)),
    ((2, 3, 7, 6), (7, 3)),
    ((2, 3, 7, 6), (3, 7, 3)),
    ((2, 3, 7, 6), (2, 1, 7, 3)),
    ((2, 3, 7, 6), (2, 1, 1, 3)),
    ((2, 3, 1, 6), (1, 3, 1, 3)),
    ((2, 3, 2, 5, 34), (3, 1, 5, 17)),
    ((4, 0), (4, 0)),
]


def normal(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def arguments(shape, angles, dtype=torch.float64):
    angle = normal(*angles, dtype=dtype, seed=1)
    return normal(*shape, dtype=dtype), angle.cos(), angle.sin() * 1.5  # not on the circle: the kernel must not assume it


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("layout", ["interleaved", "half"])
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize(("shape", "angles"), SHAPES, ids=str)
def test_values(shape, angles, inverse, layout, dtype):
    x, cos, sin = arguments(shape, angles, dtype)
    with nan_filled_empty():
        value = OPS.rope_apply(x, cos, sin, layout == "half", inverse)
    wanted = rope_apply_reference(x, cos, -sin if inverse else sin, layout)
    assert value.shape == wanted.shape
    torch.testing.assert_close(value, wanted, rtol=0, atol=8 * torch.finfo(dtype).eps * 4)


@pytest.mark.parametrize("layout", ["interleaved", "half"])
def test_strided_input(layout):
    x, cos, sin = arguments((6, 7, 3), (6, 7))
    x, cos, sin = x.permute(2, 1, 0), cos.T[:, ::2], sin.T[:, ::2]  # (3, 7, 6) with (7, 3)
    value = OPS.rope_apply(x, cos, sin, layout == "half", False)
    torch.testing.assert_close(value, rope_apply_reference(x, cos, sin, layout), rtol=0, atol=1e-14)


@pytest.mark.parametrize("layout", ["interleaved", "half"])
@pytest.mark.parametrize(
    ("shape", "angles"), [((2, 3, 70, 64), (70, 32)), ((2, 3, 70, 64), (2, 1, 70, 32)), ((2, 3, 70, 64), (3, 70, 32))], ids=str
)
def test_public_function_is_the_same_with_and_without(shape, angles, layout, monkeypatch):
    answers = []
    gate = _ops.kernel_may_run
    monkeypatch.setattr(_ops, "kernel_may_run", lambda *a, **k: answers.append(gate(*a, **k)) or answers[-1])

    def exercised():
        live = [a.clone().requires_grad_() for a in arguments(shape, angles)]
        value = rope_apply(*live, layout=layout)
        first = torch.autograd.grad(value.pow(2).sum() + value.sin().sum(), live, create_graph=True)
        second = torch.autograd.grad(sum(g.pow(2).sum() for g in first), live)
        return [value.detach(), *(g.detach() for g in first), *second]

    ours = exercised()
    assert answers[0]
    with _ops.without_kernels():
        wanted = exercised()
    for a, b in zip(ours, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("layout", ["interleaved", "half"])
def test_only_the_gradient_of_x(layout):
    x, cos, sin = arguments((2, 3, 70, 64), (70, 32))
    x.requires_grad_()
    g = normal(2, 3, 70, 64, seed=5)
    (ours,) = torch.autograd.grad(rope_apply(x, cos, sin, layout=layout), x, g)
    torch.testing.assert_close(ours, rope_apply_reference(g, cos, -sin, layout), rtol=0, atol=1e-13)


def test_what_the_kernel_does_not_take_goes_to_the_formula():
    x, cos, sin = arguments((70, 64), (3, 70, 32))  # the angles enlarge the batch
    assert rope_apply(x, cos, sin).shape == (3, 70, 64)
    full = normal(70, 64, seed=2)
    torch.testing.assert_close(rope_apply(x, full.cos(), full.sin()), rope_apply_reference(x, full.cos(), full.sin(), "interleaved"))
    half = [a.half() for a in arguments((2, 3, 70, 64), (70, 32))]  # on a CPU the kernel sees these as float32
    with _ops.without_kernels():
        wanted = rope_apply(*half)
    assert rope_apply(*half).dtype == torch.float16
    torch.testing.assert_close(rope_apply(*half), wanted, rtol=0, atol=0.004)
    x, cos, sin = (a.bfloat16() for a in arguments((2, 3, 70, 64), (70, 32)))
    mixed = rope_apply(x, cos.float(), sin.float())
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, rope_apply_reference(x.float(), cos.float(), sin.float(), "interleaved"))


def test_every_bfloat16_is_read_and_written():
    x = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    x = x[x.isfinite()]
    for half in (False, True):
        one = torch.ones(len(x) // 2, dtype=torch.bfloat16)
        assert torch.equal(OPS.rope_apply(x, one, 0 * one, half, False), x)
    bad = torch.tensor([float("nan"), 1.0, float("inf"), 2.0], dtype=torch.bfloat16)
    value = OPS.rope_apply(bad, *torch.tensor([[0.6, 0.6], [0.8, 0.8]], dtype=torch.bfloat16), False, False)
    assert value[:2].isnan().all()
    assert value[2:].isinf().all()


@pytest.mark.parametrize("scale", [1e-38, 1e-5, 1.0, 1e37])
@pytest.mark.parametrize("layout", ["interleaved", "half"])
@pytest.mark.parametrize("pairs", [1, 3, 17, 32])
def test_bfloat16_is_the_float32_result_rounded_once(pairs, layout, scale, monkeypatch):
    answers = []
    gate = _ops.kernel_may_run
    monkeypatch.setattr(_ops, "kernel_may_run", lambda *a, **k: answers.append(gate(*a, **k)) or answers[-1])
    x, cos, sin = (a.bfloat16() for a in arguments((3, 70, 2 * pairs), (70, pairs)))
    low = [(scale * x.double()).bfloat16().requires_grad_(), cos.requires_grad_(), sin.requires_grad_()]
    wide = [a.detach().float().requires_grad_() for a in low]
    g = normal(3, 70, 2 * pairs, seed=4).bfloat16()
    value, exact = rope_apply(*low, layout=layout), OPS.rope_apply(*wide, layout == "half", False)
    assert answers == [True]
    assert value.dtype == torch.bfloat16
    torch.testing.assert_close(value, exact.bfloat16(), rtol=0, atol=0)
    slopes, wanted = torch.autograd.grad(value, low, g), torch.autograd.grad(exact, wide, g.float())
    torch.testing.assert_close(slopes[0], wanted[0].bfloat16(), rtol=0, atol=0)
    for slope, want in zip(slopes[1:], wanted[1:], strict=True):
        torch.testing.assert_close(slope, want.bfloat16(), rtol=2**-8, atol=2**-8 * float(want.abs().max()))


@pytest.mark.parametrize("level", ["base", "v3"])
def test_other_instruction_sets(level, python):
    code = (
        "import torch\n"
        "import geocore.blocks\n"
        "from geocore import _ops\n"
        "g = torch.Generator().manual_seed(0)\n"
        "for dtype, tol in ((torch.float32, 1e-6), (torch.float64, 1e-14), (torch.bfloat16, 0.04)):\n"
        "    x, c, s = (torch.randn(n, generator=g).to(dtype) for n in ((5, 7, 34), (7, 17), (7, 17)))\n"
        "    for half in (False, True):\n"
        "        found, wanted = (f(x, c, s, half, True) for f in (torch.ops.geocore.rope_apply, _ops._DEFINED['rope_apply']))\n"
        "        assert found.dtype == dtype and (found.double() - wanted.double()).abs().max() < tol * wanted.abs().max()\n"
    )
    python(code, GEOCORE_ISA=level)


def test_transforms_and_opcheck():
    check_transforms(rope_apply, *arguments((3, 70, 16), (3, 70, 8)))
    x, cos, sin = (a.requires_grad_() for a in arguments((2, 3, 8), (3, 4)))
    for half in (False, True):
        check_op(OPS.rope_apply.default, x, cos, sin, half, False)


@pytest.mark.bad_input
def test_wrong_shapes_are_refused_by_the_kernel_too():
    x, cos, sin = arguments((3, 7, 6), (7, 3))
    with pytest.raises(RuntimeError, match="cos cannot be broadcast to the batch of x"):
        OPS.rope_apply(x, cos[:5], sin[:5], False, False)
    with pytest.raises(RuntimeError, match=r"expected cos of shape \(\.\.\., d / 2\)"):
        OPS.rope_apply(x, cos[:, :2], sin[:, :2], False, False)
