"""Block-diagonal products: kernel against reference for every size of block and every way of sharing blocks."""

import pytest
import torch

from geocore import _ops
from geocore.blocks import BlockRotation, apply_block_rotation
from geocore.blocks._apply import apply_reference
from geocore.testing import check_op, check_transforms, nan_filled_empty

OPS = torch.ops.geocore
DTYPES = (torch.float32, torch.float64)
SHAPES = [
    ((), ()),
    ((0,), ()),
    ((1,), (1,)),
    ((3,), (3,)),
    ((17,), ()),
    ((1000,), ()),
    ((2, 5, 7), (5, 7)),
    ((2, 5, 7), (2, 1, 7)),
    ((2, 5, 7), (5, 1)),
    ((2, 5, 7), (2, 5, 7)),
    ((2, 1, 7), (1, 1, 1)),
    ((2, 3, 2, 5), (3, 1, 5)),
]


def normal(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def outer_reference(x, g, blocks):
    return torch.func.vjp(lambda b: apply_reference(x, b), blocks)[1](g)[0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("k", range(2, 9))
@pytest.mark.parametrize(("batch", "shared"), SHAPES, ids=str)
def test_values(batch, shared, k, dtype):
    for m in (1, 3):
        x, g, R = (
            normal(*batch, m * k, dtype=dtype),
            normal(*batch, m * k, dtype=dtype, seed=1),
            normal(*shared, m, k, k, dtype=dtype, seed=2),
        )
        with nan_filled_empty():
            values = OPS.block_rotate(x, R, False), OPS.block_rotate(x, R, True), OPS.block_rotate_backward(x, g, R)
        x, g, R = x.double(), g.double(), R.double()
        wanted = apply_reference(x, R), apply_reference(x, R.mT), outer_reference(x, g, R)
        for value, exact in zip(values, wanted, strict=True):
            assert (value.shape, value.dtype) == (exact.shape, dtype)
            scale = max(1.0, float(exact.abs().max())) if exact.numel() else 1.0
            torch.testing.assert_close(value.double(), exact, rtol=0, atol=16 * torch.finfo(dtype).eps * scale)


def test_sums_over_many_rows_stay_accurate():
    x, g = (1 + 0.1 * normal(100_000, 8, dtype=torch.float32, seed=seed) for seed in (0, 1))  # nothing cancels: a plain sum is 1e-4 off
    R = torch.zeros(1, 8, 8)
    ours, exact = OPS.block_rotate_backward(x, g, R), outer_reference(x.double(), g.double(), R.double())
    torch.testing.assert_close(ours.double(), exact, rtol=5e-6, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_crosses_from_block_to_block_or_row_to_row(dtype):
    for k in range(2, 9):
        x, g, R = normal(9, 3 * k, dtype=dtype), normal(9, 3 * k, dtype=dtype, seed=1), normal(9, 3, k, k, dtype=dtype, seed=2)
        x[2, k] = x[5, 0] = x[8, 3 * k - 1] = float("nan")
        R[4, 1, 0, 0] = R[8, 2, k - 1, k - 1] = float("inf")
        bad = torch.zeros(9, 3, dtype=torch.bool)
        bad[2, 1] = bad[5, 0] = bad[8, 2] = bad[4, 1] = True
        for transpose in (False, True):
            for blocks in (R, R[:1]):
                y = OPS.block_rotate(x, blocks, transpose).unflatten(-1, (3, k))
                spoilt = bad.clone()
                if blocks is not R:
                    spoilt[4, 1] = False
                assert y[~spoilt].isfinite().all()
                assert not y[spoilt].isfinite().all(-1).any()
                for i in (0, 1, 7):
                    assert torch.equal(y[i], OPS.block_rotate(x[i], blocks[i % len(blocks)], transpose).unflatten(-1, (3, k)))
        spoilt = bad.clone()
        spoilt[4, 1] = False
        assert OPS.block_rotate_backward(x, g, R)[~spoilt].isfinite().all()
        assert OPS.block_rotate_backward(x, g, R[0])[2].isnan().any()
        assert OPS.block_rotate_backward(x[:2], g[:2], R[0]).isfinite().all()


def test_strided_input():
    x, g, R = normal(12, 12)[:, ::4], normal(1).expand(12, 3), normal(3, 3, 12, 1).permute(2, 3, 0, 1)
    for transpose in (False, True):
        assert torch.equal(OPS.block_rotate(x, R, transpose), OPS.block_rotate(x.contiguous(), R.contiguous(), transpose))
    assert torch.equal(OPS.block_rotate_backward(x, g, R), OPS.block_rotate_backward(x.contiguous(), g.contiguous(), R.contiguous()))


@pytest.mark.parametrize("k", [2, 3, 4, 8])
@pytest.mark.parametrize(
    ("batch", "shared"), [((70, 80), ()), ((2, 30, 70), (70,)), ((2, 30, 70), (2, 30, 70)), ((2, 30, 70), (2, 1, 70))], ids=str
)
def test_public_function_is_the_same_with_and_without(batch, shared, k, monkeypatch):
    answers = []
    gate = _ops.kernel_may_run
    monkeypatch.setattr(_ops, "kernel_may_run", lambda *a, **o: answers.append(gate(*a, **o)) or answers[-1])

    def exercised():
        live = [normal(*batch, 2 * k).requires_grad_(), normal(*shared, 2, k, k, seed=1).requires_grad_()]
        value = apply_block_rotation(*live)
        first = torch.autograd.grad(value.pow(2).sum() + value.sin().sum(), live, create_graph=True)
        second = torch.autograd.grad(sum(g.pow(2).sum() for g in first), live)
        return [value.detach(), *(g.detach() for g in first), *second]

    ours = exercised()
    assert answers[0]
    with _ops.without_kernels():
        wanted = exercised()
    for a, b in zip(ours, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-8)


def test_what_the_kernel_does_not_take_goes_to_the_formula():
    x, R = normal(70, 72), normal(5, 70, 9, 8, 8, seed=1)  # the blocks enlarge the batch
    torch.testing.assert_close(apply_block_rotation(x, R), apply_reference(x.expand(5, 70, 72), R))
    large = normal(4, 18, 18, seed=1)
    torch.testing.assert_close(apply_block_rotation(x, large), apply_reference(x, large))
    half, blocks = normal(600, 24).half(), normal(8, 3, 3, seed=1).half()
    assert apply_block_rotation(half, blocks).dtype == torch.float16
    torch.testing.assert_close(
        apply_block_rotation(half, blocks), apply_reference(half.float(), blocks.float()).half(), rtol=2e-3, atol=2e-3
    )
    rotation = BlockRotation(normal(600, 8, 3, 3, seed=2))
    y = normal(600, 24)
    torch.testing.assert_close(rotation.inverse().apply(y), apply_reference(y, rotation.blocks.mT), rtol=0, atol=1e-13)


def test_only_the_gradient_that_is_wanted():
    x, R, g = normal(600, 24), normal(8, 3, 3, seed=1), normal(600, 24, seed=2)
    for i in range(2):
        live = [x, R]
        live[i] = live[i].clone().requires_grad_()
        (ours,) = torch.autograd.grad(apply_block_rotation(*live), live[i], g)
        torch.testing.assert_close(ours, (apply_reference(g, R.mT), outer_reference(x, g, R))[i], rtol=1e-12, atol=1e-12)


def test_transforms_and_opcheck():
    check_transforms(apply_block_rotation, normal(600, 12), normal(600, 4, 3, 3, seed=1))
    x, g, R = (t.requires_grad_() for t in (normal(2, 5, 6), normal(2, 5, 6, seed=1), normal(5, 2, 3, 3, seed=2)))
    for transpose in (False, True):
        check_op(OPS.block_rotate.default, x, R, transpose)
    check_op(OPS.block_rotate_backward.default, x, g, R)


@pytest.mark.parametrize("level", ["base", "v3"])
def test_other_instruction_sets(level, python):
    code = (
        "import torch, geocore.blocks\n"
        "from geocore import _ops\n"
        "g = torch.Generator().manual_seed(0)\n"
        "for k in range(2, 9):\n"
        "    for dtype, tol in ((torch.float32, 1e-5), (torch.float64, 1e-13)):\n"
        "        x, y = torch.randn(2, 101, 3 * k, generator=g, dtype=dtype)\n"
        "        for R in (torch.randn(3, k, k, generator=g, dtype=dtype), torch.randn(101, 3, k, k, generator=g, dtype=dtype)):\n"
        "            for t in (False, True):\n"
        "                found = torch.ops.geocore.block_rotate(x, R, t)\n"
        "                assert (found - _ops._DEFINED['block_rotate'](x, R, t)).abs().max() < tol\n"
        "            found = torch.ops.geocore.block_rotate_backward(x, y, R)\n"
        "            assert (found - _ops._DEFINED['block_rotate_backward'](x, y, R)).abs().max() < 100 * tol\n"
    )
    python(code, GEOCORE_ISA=level)


def test_the_sum_does_not_depend_on_the_number_of_threads():
    x, g, blocks = (
        normal(3000, 24, dtype=torch.float32),
        normal(3000, 24, dtype=torch.float32, seed=1),
        normal(8, 3, 3, dtype=torch.float32),
    )
    threads, results = torch.get_num_threads(), []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(OPS.block_rotate_backward(x, g, blocks))
    torch.set_num_threads(threads)
    assert torch.equal(*results)


@pytest.mark.bad_input
def test_wrong_arguments_are_refused_by_the_kernel_too():
    x, R = normal(5, 6), normal(5, 2, 3, 3)
    with pytest.raises(RuntimeError, match=r"block_rotate: expected x of shape \(\.\.\., m k\)"):
        OPS.block_rotate(x[:, :5], R, False)
    with pytest.raises(RuntimeError, match=r"block_rotate: expected blocks of shape \(\.\.\., m, k, k\)"):
        OPS.block_rotate(x, R[..., :2], False)
    with pytest.raises(RuntimeError, match="block_rotate: expected blocks of size 2 to 8"):
        OPS.block_rotate(normal(9), normal(1, 9, 9), False)
    with pytest.raises(RuntimeError, match="block_rotate: blocks cannot be broadcast to the batch of x"):
        OPS.block_rotate(x[:4], R, False)
    with pytest.raises(RuntimeError, match="block_rotate: x and blocks must have one dtype"):
        OPS.block_rotate(x, R.float(), False)
    with pytest.raises(RuntimeError, match="block_rotate_backward: expected g like x"):
        OPS.block_rotate_backward(x, x[:4], R)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cuda_equals_cpu(dtype):
    for k in (2, 3, 4, 8):
        for shared in ((), (7,), (50, 7)):
            live = [
                [
                    t.clone().to(d).requires_grad_()
                    for t in (normal(50, 7, 4 * k, dtype=dtype), normal(*shared, 4, k, k, dtype=dtype, seed=1))
                ]
                for d in ("cuda", "cpu")
            ]
            values = [apply_block_rotation(*args) for args in live]
            slopes = [torch.autograd.grad(v.pow(2).sum(), args) for v, args in zip(values, live, strict=True)]
            for found, wanted in zip((values[0], *slopes[0]), (values[1], *slopes[1]), strict=True):
                torch.testing.assert_close(found.cpu(), wanted, rtol=1e3 * torch.finfo(dtype).eps, atol=1e3 * torch.finfo(dtype).eps)
