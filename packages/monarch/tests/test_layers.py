"""The layers as drop-in replacements of ``nn.Linear``."""

import math
import statistics

import pytest
import scipy.fft
import torch
from torch import nn

from geocore.testing import check_module, check_transforms
from monarch import BlockDiagLinear, MonarchAdapter, MonarchLinear

F64 = torch.float64
CONFIGURATIONS = {
    "square": (16, 16, {}),
    "wide": (12, 18, {"nblocks": 3}),
    "padded": (10, 7, {"nblocks": 3}),
    "ranks": (12, 18, {"nblocks": 3, "out_nblocks": 2, "rank": 2}),
    "uneven": (12, 20, {"nblocks": 3, "out_nblocks": 5}),
    "sqrt": (36, 24, {"nblocks": "sqrt"}),
}
configurations = pytest.mark.parametrize(("into", "out", "options"), CONFIGURATIONS.values(), ids=CONFIGURATIONS)


def seeded(make):
    torch.manual_seed(0)
    return make()


def draw(*shape, dtype=F64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(1))


@configurations
def test_equals_its_dense_form(into, out, options):
    perms = {"in_perm": torch.randperm(into), "out_perm": torch.randperm(out)}
    for extra in ({}, perms):
        layer = seeded(lambda extra=extra: MonarchLinear(into, out, dtype=F64, **options, **extra))
        x = draw(2, 3, into)
        torch.testing.assert_close(layer(x), layer.to_linear()(x), rtol=0, atol=1e-12)
        again = MonarchLinear.from_dense(layer.to_linear(), **options, **extra)
        torch.testing.assert_close(again.to_dense(), layer.to_dense(), rtol=0, atol=1e-12)
        torch.testing.assert_close(again.bias, layer.bias)
        assert again.projection_error <= 1e-13
        layer(x).sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in layer.parameters())


def test_transpose_and_conjugate():
    for into, out, options in (CONFIGURATIONS[name] for name in ("square", "wide", "ranks", "sqrt")):
        layer = MonarchLinear(
            into, out, False, dtype=torch.complex128, in_perm=torch.randperm(into), out_perm=torch.randperm(out), **options
        )
        torch.testing.assert_close(layer.T.to_dense(), layer.to_dense().mT, rtol=0, atol=1e-12)
        torch.testing.assert_close(layer.conj().T.to_dense(), layer.to_dense().mH, rtol=0, atol=1e-12)
    with pytest.raises(NotImplementedError, match="divide the features"):
        MonarchLinear(10, 7, nblocks=3).transpose()


def test_parameter_counts_of_the_specification():
    layer = MonarchLinear(768, 3072)
    assert layer.weight1.numel() + layer.weight2.numel() == 737_280
    assert layer.density == pytest.approx(0.3125)
    assert MonarchLinear(1024, 1024).density == pytest.approx(0.5)
    assert MonarchLinear(1024, 1024, nblocks="sqrt").density == pytest.approx(1 / 16)


@pytest.mark.parametrize(("into", "out", "options"), [(512, 384, {}), (500, 384, {"nblocks": 7}), (512, 512, {"nblocks": "sqrt"})])
def test_variance_of_the_default_start_is_that_of_linear(into, out, options):
    torch.manual_seed(0)
    x = torch.randn(200, into)
    ours = statistics.fmean(MonarchLinear(into, out, **options)(x).var().item() for _ in range(20))
    theirs = statistics.fmean(nn.Linear(into, out)(x).var().item() for _ in range(20))
    assert ours == pytest.approx(theirs, rel=0.05)
    official = statistics.fmean(MonarchLinear(into, out, False, init="official", **options)(x).var().item() for _ in range(20))
    assert official == pytest.approx(1 / 9, rel=0.1)


def test_exact_starts():
    x = draw(3, 36)
    dct = MonarchLinear(36, 36, False, init="dct", nblocks=6, dtype=F64)
    assert (dct(x) - torch.from_numpy(scipy.fft.dct(x.numpy(), norm="ortho"))).abs().max() <= 1e-12
    fft = MonarchLinear(36, 36, False, init="fft", nblocks=6, dtype=torch.complex128)
    assert (fft(x) - torch.fft.fft(x, norm="ortho")).abs().max() <= 1e-12
    assert fft.weight1.dtype == F64, "complex numbers are stored as pairs of reals"
    assert fft.weight1.shape == (6, 6, 6, 2)
    assert torch.equal(MonarchLinear(36, 36, False, init="identity", dtype=F64)(x), x)
    hadamard = MonarchLinear(16, 16, False, init="hadamard", dtype=F64).to_dense()
    torch.testing.assert_close(hadamard @ hadamard.T, torch.eye(16, dtype=F64), rtol=0, atol=1e-14)
    torch.manual_seed(0)
    dense = MonarchLinear(64, 64, False, init="dense", nblocks=8).to_dense()
    assert 0.05 < dense.std() * math.sqrt(64 * 3) < 1.0


def test_low_precision_and_autocast():
    layer, x = seeded(lambda: MonarchLinear(16, 24)), draw(5, 16, dtype=torch.float32)
    want = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = layer(x)
    assert got.dtype == torch.bfloat16
    assert (got.float() - want).abs().max() <= 0.05
    half = layer.to(torch.bfloat16)(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half.float() - want).abs().max() <= 0.05


@pytest.mark.parametrize(
    "make",
    [
        lambda: MonarchLinear(12, 20, nblocks=3),
        lambda: MonarchLinear(10, 7, nblocks=3, in_perm=torch.arange(9, -1, -1)),
        lambda: BlockDiagLinear(10, 8, nblocks=3),
        lambda: MonarchAdapter(nn.Linear(12, 8), dropout=0.0),
    ],
    ids=["MonarchLinear", "padded", "BlockDiagLinear", "MonarchAdapter"],
)
def test_contract(make):
    into = make().in_features if hasattr(make(), "in_features") else 12
    check_module(make, draw(4, into, dtype=torch.float32), train=not isinstance(make(), MonarchAdapter))  # its base is frozen


def test_compiles_and_exports():
    layer = seeded(lambda: MonarchLinear(10, 7, nblocks=3, dtype=F64)).requires_grad_(False)
    check_transforms(layer, draw(3, 10), export=True)


def test_layouts_and_empty_batches():
    layer = seeded(lambda: MonarchLinear(12, 8, dtype=F64))
    x = draw(4, 12, 5).transpose(1, 2)
    torch.testing.assert_close(layer(x), layer(x.contiguous()), rtol=0, atol=1e-14)
    assert layer(draw(0, 12)).shape == (0, 8)
    assert layer(draw(12)).shape == (8,)


def test_block_diagonal_layer():
    layer = seeded(lambda: BlockDiagLinear(10, 8, nblocks=3, dtype=F64))
    x = draw(2, 10)
    torch.testing.assert_close(layer(x), layer.to_linear()(x), rtol=0, atol=1e-13)
    assert layer.to_dense().shape == (8, 10)
    torch.manual_seed(0)
    assert BlockDiagLinear(512, 512)(torch.randn(2000, 512)).var().item() == pytest.approx(1 / 3, rel=0.05)


class TestAdapter:
    def test_starts_as_the_base_and_merges(self):
        torch.manual_seed(0)
        base = nn.Linear(12, 8)
        x, want = draw(4, 12, dtype=torch.float32), None
        want = base(x)
        adapter = MonarchAdapter(base, blk_r=6)
        assert torch.equal(adapter(x), want)
        assert {name for name, p in adapter.named_parameters() if p.requires_grad} == {"weight1", "weight2"}
        with torch.no_grad():
            adapter.weight2.normal_()
        adapter.eval()
        changed = adapter(x)
        assert (changed - want).abs().max() > 0.1
        torch.testing.assert_close(adapter.to_linear()(x), changed)
        kept = base.weight.clone()
        adapter.merge()
        adapter.merge()
        torch.testing.assert_close(adapter(x), changed)
        adapter.train()  # no side effect on the merged weight
        torch.testing.assert_close(adapter(x), changed)
        adapter.unmerge()
        torch.testing.assert_close(base.weight, kept)

    def test_size_and_rank(self):
        adapter = MonarchAdapter(nn.Linear(64, 32), blk_r=8)
        assert adapter.weight1.numel() + adapter.weight2.numel() == 4 * 8 * (16 + 8)
        with torch.no_grad():
            adapter.weight2.normal_()
        block = adapter.delta()[0::4, :16]
        assert torch.linalg.matrix_rank(block.double(), rtol=1e-5) == 2, "blk_r / N"


@pytest.mark.bad_input
def test_errors():
    with pytest.raises(ValueError, match="nblocks must be at most"):
        MonarchLinear(3, 8, nblocks=4)
    with pytest.raises(ValueError, match="square layer"):
        MonarchLinear(8, 4, init="identity")
    with pytest.raises(ValueError, match="complex dtype"):
        MonarchLinear(16, 16, init="fft")
    with pytest.raises(ValueError, match="sets the permutations"):
        MonarchLinear(16, 16, init="dct", in_perm=torch.arange(16))
    with pytest.raises(ValueError, match="in_perm must order 16"):
        MonarchLinear(16, 16, in_perm=torch.arange(8))
    with pytest.raises(ValueError, match="init must be one of"):
        MonarchLinear(16, 16, init="zeros")
    with pytest.raises(TypeError, match="in_features must be an int"):
        MonarchLinear(16.0, 16)
    with pytest.raises(TypeError, match="dtype must be floating"):
        MonarchLinear(16, 16, dtype=torch.int64)
    with pytest.raises(RuntimeError, match=r"\(\.\.\., 16\), got \(2, 15\)"):
        MonarchLinear(16, 16)(torch.zeros(2, 15))
    with pytest.raises(TypeError, match=r"x\.float\(\)"):
        MonarchLinear(16, 16)(torch.zeros(2, 16, dtype=torch.long))
    with pytest.raises(ValueError, match="takes its values"):
        MonarchLinear.from_dense(nn.Linear(8, 8), dtype=torch.float64)
    with pytest.raises(ValueError, match="weight of shape"):
        MonarchLinear.from_dense(torch.zeros(3))
    with pytest.raises(ValueError, match="nblocks must be at most"):
        BlockDiagLinear(3, 8)
    with pytest.raises(TypeError, match="base must be an nn.Linear"):
        MonarchAdapter(nn.ReLU())
    with pytest.raises(ValueError, match="dropout"):
        MonarchAdapter(nn.Linear(8, 8), dropout=1.0)
