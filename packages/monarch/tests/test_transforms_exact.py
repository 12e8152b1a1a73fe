"""Transforms to the last digit, and products of higher order."""

import numpy as np
import pytest
import scipy.fft
import scipy.linalg
import torch

from geocore.testing import check_derivatives
from monarch import (
    MonarchChain,
    MonarchConv1d,
    MonarchLinear,
    MonarchOrderP,
    MonarchTransform,
    monarch_matmul,
    order_p_matmul,
    project_monarch,
    project_order_p,
)
from monarch._exact import exact_factors
from monarch._reference import order_p_reference

F64 = torch.float64
PEERS = {
    "dft": lambda x, norm: np.fft.fft(x, norm=norm),
    "idft": lambda x, norm: np.fft.ifft(x, norm=norm),
    "dct2": lambda x, norm: scipy.fft.dct(x, 2, norm=norm),
    "dct3": lambda x, norm: scipy.fft.dct(x, 3, norm=norm),
    "dst2": lambda x, norm: scipy.fft.dst(x, 2, norm=norm),
    "dst3": lambda x, norm: scipy.fft.dst(x, 3, norm=norm),
}


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("n", [4, 15, 30, 36, 64, 144])
@pytest.mark.parametrize("kind", PEERS)
@pytest.mark.parametrize("norm", ["backward", "ortho"])
def test_transform_equals_its_library(kind, n, norm):
    x = draw(3, n)
    layer = MonarchTransform(kind, n, norm=norm, dtype=F64)
    want = torch.from_numpy(PEERS[kind](x.numpy(), norm))
    torch.testing.assert_close(layer(x), want, rtol=0, atol=1e-12)
    torch.testing.assert_close((layer.to_dense() @ x.to(layer.w1.dtype).T).T, want, rtol=0, atol=1e-12)
    learned = MonarchTransform(kind, n, True, norm=norm, dtype=F64)
    torch.testing.assert_close(learned(x), want, rtol=0, atol=1e-12)
    assert {name for name, _ in learned.named_parameters()} == {"weight1", "weight2"}
    assert all(p.dtype == F64 for p in learned.parameters())
    assert float(learned.weight1.detach().norm()) == pytest.approx(float(learned.weight2.detach().norm()))


@pytest.mark.parametrize("blocks", [3, 5])
def test_block_counts_that_divide(blocks):
    x = draw(15)
    assert (MonarchTransform("dft", 15, nblocks=blocks, dtype=F64)(x) - torch.fft.fft(x)).abs().max() <= 1e-12


def test_constants_take_the_precision_of_the_input():
    x = draw(3, 36)
    want = torch.fft.fft(x)
    for layer in (MonarchTransform("dft", 36), MonarchTransform("dft", 36).half().double(), MonarchTransform("dft", 36).float()):
        assert (layer(x) - want).abs().max() <= 1e-12
        single = layer(x.float())
        assert single.dtype == torch.complex64
        assert (single - want).abs().max() <= 1e-4
        assert not layer.state_dict()
    assert MonarchTransform("dct2", 36)(x.bfloat16()).dtype == torch.bfloat16
    assert MonarchTransform("dct2", 36, True)(x.float()).dtype == torch.float32


def test_hadamard_and_identity():
    assert torch.equal(MonarchTransform("hadamard", 64, dtype=F64).to_dense(), torch.from_numpy(scipy.linalg.hadamard(64)).double())
    assert torch.equal(MonarchTransform("identity", 12, dtype=F64).to_dense(), torch.eye(12, dtype=F64))


def test_ranks_of_the_transforms():
    """The DCT needs blocks of rank 2 in the right order of its input; rank 1 leaves much of it, any order leaves full rank without it."""
    exact = exact_factors("dct2", 144)
    dense = MonarchTransform("dct2", 144, norm="ortho", dtype=F64).to_dense()
    ordered = dense[:, exact.in_perm.index]
    assert project_monarch(ordered, 12, 12, rank=2)[2].rel_error <= 1e-14
    assert project_monarch(ordered, 12, 12, rank=1)[2].rel_error > 0.1
    circulant = torch.from_numpy(scipy.linalg.circulant(draw(16).numpy()))
    assert project_monarch(circulant, 4, 4, rank=3)[2].rel_error > 1e-3, "a circulant matrix is no Monarch product of low rank"


def test_convolution_chain():
    x, h = draw(2, 24), draw(24, seed=1)
    want = torch.fft.ifft(torch.fft.fft(h) * torch.fft.fft(x)).real
    torch.testing.assert_close(MonarchConv1d(24, h)(x), want, rtol=0, atol=1e-12)
    causal = np.stack([np.convolve(row, h[:7].numpy())[:24] for row in x.numpy()])
    np.testing.assert_allclose(MonarchConv1d(24, h[:7], circular=False)(x).detach().numpy(), causal, rtol=0, atol=1e-12)
    channels = MonarchConv1d(24, torch.stack([h, 2 * h]))
    torch.testing.assert_close(channels(x), want * torch.tensor([[1.0], [2.0]], dtype=F64), rtol=0, atol=1e-12)
    channels(x).sum().backward()
    assert torch.isfinite(channels.weight.grad).all()
    assert all(not p.requires_grad or p is channels.weight for p in channels.parameters())


def test_chain_is_the_product_of_its_matrices():
    M = MonarchLinear(12, 12, False, nblocks=3, dtype=torch.complex128)
    chain = MonarchChain([M, M.conj().T])
    x = draw(2, 12)
    dense = M.to_dense() @ M.to_dense().mH
    torch.testing.assert_close(chain.to_dense(), dense, rtol=0, atol=1e-12)
    torch.testing.assert_close(chain(x), x.to(dense.dtype) @ dense.mT, rtol=0, atol=1e-12)


class TestOrderP:
    @pytest.mark.parametrize("radices", [(6,), (3, 4), (2, 3, 4), (2, 2, 2, 2)])
    def test_equals_the_loop(self, radices):
        n = int(np.prod(radices))
        weights = [draw(n // b, b, b, seed=i) for i, b in enumerate(radices)]
        x = draw(2, 3, n)
        torch.testing.assert_close(order_p_matmul(x, weights, radices), order_p_reference(x, weights, radices), rtol=0, atol=1e-12)

    def test_order_two_is_a_monarch_product(self):
        weights = [draw(6, 4, 4), draw(4, 6, 6, seed=1)]
        x = draw(3, 24)
        assert torch.equal(order_p_matmul(x, weights, (4, 6)), monarch_matmul(x, weights[1], weights[0]))

    def test_butterfly(self):
        """Order log2 n: factor i has 2 x 2 blocks between entries 2^i apart."""
        n, weights, x = 8, [draw(4, 2, 2, seed=i) for i in range(3)], draw(8)
        y = x.clone()
        for axis in (2, 1, 0):
            stride, factor = 2 ** (2 - axis), torch.zeros(n, n, dtype=F64)
            for line, start in enumerate(i for i in range(n) if not i & stride):
                pair = [start, start + stride]
                factor[np.ix_(pair, pair)] = weights[axis][line]
            y = factor @ y
        torch.testing.assert_close(order_p_matmul(x, weights, (2, 2, 2)), y, rtol=0, atol=1e-13)

    @pytest.mark.parametrize("radices", [(4, 4, 4), (2, 3, 5), (2, 2, 2, 2)])
    def test_fourier_transform_is_exact(self, radices):
        layer = MonarchOrderP.dft(radices, dtype=torch.complex128)
        x = draw(2, layer.n)
        torch.testing.assert_close(layer(x), torch.fft.fft(x), rtol=0, atol=1e-12)
        again = project_order_p(layer.to_dense().detach()[:, layer.in_perm], radices)
        torch.testing.assert_close(
            order_p_matmul(x[:, layer.in_perm].to(torch.complex128), again, radices), torch.fft.fft(x), rtol=0, atol=1e-11
        )

    def test_projection_recovers_a_representable_matrix(self):
        M = MonarchOrderP((2, 3, 4), dtype=F64).to_dense().detach()
        torch.testing.assert_close(MonarchOrderP.from_dense(M, (2, 3, 4)).to_dense(), M, rtol=0, atol=1e-12)

    def test_derivatives_and_variance(self):
        weights = [draw(6, 2, 2), draw(4, 3, 3, seed=1), draw(6, 2, 2, seed=2)]
        check_derivatives(lambda x, *w: order_p_matmul(x, w, (2, 3, 2)), draw(1, 12), *weights)
        torch.manual_seed(0)
        assert MonarchOrderP((8, 8, 8))(torch.randn(2000, 512)).var().item() == pytest.approx(1 / 3, rel=0.05)

    @pytest.mark.bad_input
    def test_errors(self):
        with pytest.raises(ValueError, match="radices must hold"):
            MonarchOrderP(())
        with pytest.raises(ValueError, match=r"weights\[0\] must have shape \(3, 2, 2\)"):
            order_p_matmul(torch.zeros(6), [torch.zeros(2, 2, 2), torch.zeros(2, 3, 3)], (2, 3))
        with pytest.raises(ValueError, match="M must have shape"):
            project_order_p(torch.eye(5), (2, 3))
        with pytest.raises(TypeError, match="complex"):
            MonarchOrderP.dft((2, 2), dtype=torch.float32)
        with pytest.raises(RuntimeError, match="expects x of shape"):
            MonarchOrderP((2, 2))(torch.zeros(3))


@pytest.mark.bad_input
def test_errors():
    with pytest.raises(ValueError, match="prime 13"):
        MonarchTransform("dft", 13)
    with pytest.raises(ValueError, match="power of two"):
        MonarchTransform("hadamard", 12)
    with pytest.raises(ValueError, match="kind must be one of"):
        MonarchTransform("wavelet", 16)
    with pytest.raises(ValueError, match="nblocks must divide"):
        MonarchTransform("dft", 16, nblocks=5)
    with pytest.raises(RuntimeError, match=r"\(\.\.\., 16\)"):
        MonarchTransform("dft", 16)(torch.zeros(15))
    with pytest.raises(TypeError, match="integer|floating"):
        MonarchTransform("dct2", 16)(torch.zeros(16, dtype=torch.long))
    with pytest.raises(ValueError, match="kernel must have shape"):
        MonarchConv1d(4, torch.zeros(5))
    with pytest.raises(RuntimeError, match="expects x of shape"):
        MonarchConv1d(4, torch.zeros(2, 4))(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="no bias"):
        MonarchChain([MonarchLinear(4, 4, nblocks=2)])
    with pytest.raises(TypeError, match="to_dense"):
        MonarchChain([torch.nn.ReLU()])
