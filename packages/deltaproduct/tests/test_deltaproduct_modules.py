"""The layer and its cache: padding, packing, hand-over and token-by-token decoding are the parallel form."""

import copy
import io
import itertools
import time

import pytest
import torch

from deltaproduct import DeltaProduct, DeltaProductCache, delta_product
from deltaproduct.blocks import Block, SoftmaxAttention, SwiGLU, swiglu_width
from geocore.testing import assert_finite, check_module

VARIANTS = {
    "plain": {"use_short_conv": False},
    "conv": {},
    "gated": {"use_forget_gate": True, "use_output_gate": True, "num_householder": 3},
    "grouped": {"num_v_heads": 6, "expand_v": 2.0, "use_forget_gate": True, "conv_size": 2},
    "deltanet": {"num_householder": 1, "allow_neg_eigval": False, "conv_size": 1},
}


def build(name: str, dtype: torch.dtype = torch.float64, **options) -> DeltaProduct:
    torch.manual_seed(1)
    layer = DeltaProduct(12, num_heads=2, head_dim=6, dtype=dtype, **VARIANTS[name] | options)
    layer.reset_parameters(std=0.5)
    return layer


@pytest.fixture(params=list(VARIANTS))
def layer(request) -> DeltaProduct:
    return build(request.param)


@pytest.mark.parametrize("name", list(VARIANTS))
def test_module_contract(name):
    check_module(lambda: build(name, torch.float32), torch.randn(2, 9, 12), compile=name == "grouped")


def test_layer_is_the_equations():
    layer = build("gated")
    x = torch.randn(1, 5, 12, dtype=torch.float64)
    n, H, K = 3, 2, 6
    silu = torch.nn.functional.silu

    def conv(y, weight):
        rows = []
        for t in range(5):
            past = [y[:, t - 3 + w] * weight[:, 0, w] for w in range(4) if t - 3 + w >= 0]
            rows.append(silu(sum(past)))
        return torch.stack(rows, 1)

    q = conv(x @ layer.q_proj.weight.T, layer.q_conv1d.weight).view(1, 5, H, K)
    k = conv(x @ layer.k_proj.weight.T, layer.k_conv1d.weight).view(1, 5, n, H, K).flatten(1, 2)  # micro-step outermost
    v = conv(x @ layer.v_proj.weight.T, layer.v_conv1d.weight).view(1, 5, n, H, K).flatten(1, 2)
    q, k = (y / (y.square().sum(-1, keepdim=True) + 1e-6).sqrt() for y in (q, k))
    beta = 2 * torch.sigmoid(x @ layer.b_proj.weight.T).view(1, 5, n, H).flatten(1, 2)
    g = -layer.A_log.exp() * torch.nn.functional.softplus(x @ layer.a_proj.weight.T + layer.dt_bias)
    o, _ = delta_product(q, k, v, beta, g, num_householder=n)
    o = o / (o.square().mean(-1, keepdim=True) + 1e-5).sqrt() * silu(x @ layer.g_proj.weight.T).view(1, 5, H, K)
    torch.testing.assert_close(layer(x)[0], o.flatten(2) @ layer.o_proj.weight.T, atol=1e-12, rtol=0)


def test_token_by_token_equals_parallel(layer):
    x = torch.randn(2, 10, 12, dtype=torch.float64)
    whole, _ = layer(x)
    cache, rows = None, []
    for t in range(10):
        y, cache = layer(x[:, t : t + 1], cache=cache, use_cache=True)
        rows.append(y)
    torch.testing.assert_close(torch.cat(rows, 1), whole, atol=1e-10, rtol=0)
    assert cache.get_seq_length() == 10


def test_hand_over_in_any_pieces_and_its_gradient(layer):
    x = torch.randn(2, 12, 12, dtype=torch.float64, requires_grad=True)
    whole, _ = layer(x)
    cache, rows = DeltaProductCache(), []
    for part in x.split([5, 1, 2, 4], dim=1):
        y, cache = layer(part, cache=cache, use_cache=True)
        rows.append(y)
    pieces = torch.cat(rows, 1)
    torch.testing.assert_close(pieces, whole, atol=1e-10, rtol=0)
    weight = torch.randn_like(whole)
    a, b = (torch.autograd.grad((weight * y).sum(), x)[0] for y in (pieces, whole))
    torch.testing.assert_close(a, b, atol=1e-9, rtol=0)


def test_padding_on_either_side(layer):
    x = torch.randn(1, 9, 12, dtype=torch.float64)
    alone, cache = layer(x, use_cache=True)
    nxt, _ = layer(x[:, :2], cache=cache.copy(), use_cache=True)
    for left, right in ((3, 0), (0, 3), (2, 4)):
        padded = torch.randn(1, 9 + left + right, 12, dtype=torch.float64)
        padded[:, left : left + 9] = x
        mask = torch.zeros(1, 9 + left + right, dtype=torch.int64)
        mask[:, left : left + 9] = 1
        y, other = layer(padded, mask, use_cache=True)
        torch.testing.assert_close(y[:, left : left + 9], alone, atol=1e-11, rtol=0)
        assert_finite("padding", y)
        after, _ = layer(x[:, :2], torch.cat([mask, mask.new_ones(1, 2)], 1), cache=other, use_cache=True)
        torch.testing.assert_close(after, nxt, atol=1e-11, rtol=0)


def test_packed_sequences_equal_single_ones(layer):
    lengths = [4, 0, 1, 7]
    offsets = torch.tensor([0, *itertools.accumulate(lengths)])
    x = torch.randn(1, 12, 12, dtype=torch.float64)
    more = torch.randn(1, 8, 12, dtype=torch.float64)
    y, cache = layer(x, use_cache=True, cu_seqlens=offsets)
    z, cache = layer(more, cache=cache, use_cache=True, cu_seqlens=torch.tensor([0, 2, 4, 6, 8]))
    for i, length in enumerate(lengths):
        own = DeltaProductCache()
        if length:
            one, own = layer(x[:, offsets[i] : offsets[i + 1]], use_cache=True)
            torch.testing.assert_close(y[:, offsets[i] : offsets[i + 1]], one, atol=1e-11, rtol=0)
        two, _ = layer(more[:, 2 * i : 2 * i + 2], cache=own, use_cache=True)
        torch.testing.assert_close(z[:, 2 * i : 2 * i + 2], two, atol=1e-11, rtol=0)


def test_nothing_to_mix(layer):
    for B, T, offsets in ((2, 0, None), (0, 3, None), (1, 0, torch.tensor([0, 0, 0])), (1, 0, torch.tensor([0]))):
        y, cache = layer(torch.zeros(B, T, 12, dtype=torch.float64), use_cache=True, cu_seqlens=offsets)
        assert y.shape == (B, T, 12)
        assert cache.get_seq_length() == T


def test_compiles_with_its_gradient():
    layer, x = build("gated"), torch.randn(2, 20, 12, dtype=torch.float64)
    layer(x)[0].square().sum().backward()
    expected = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    torch._dynamo.reset()
    torch.compile(layer, fullgraph=True, backend="aot_eager")(x)[0].square().sum().backward()
    for p, want in zip(layer.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, want, atol=1e-10, rtol=1e-10)


def test_can_be_exported_with_a_dynamic_batch():
    layer, x = build("plain", torch.float32), torch.randn(3, 10, 12)
    program = torch.export.export(layer, (x,), dynamic_shapes={"x": {0: torch.export.Dim("batch", min=2, max=64)}})
    more = torch.randn(5, 10, 12)
    torch.testing.assert_close(program.module()(more)[0], layer(more)[0], atol=1e-5, rtol=1e-5)


def test_modes_agree_in_training_and_evaluation():
    x = torch.randn(2, 50, 12)
    layers = {mode: build("gated", torch.float32, mode=mode) for mode in ("recurrent", "chunk", "auto")}
    reference = layers["recurrent"](x)[0]
    for layer in layers.values():
        for training in (True, False):
            y = layer.train(training)(x)[0]
            torch.testing.assert_close(y, reference, atol=1e-5, rtol=1e-5)
            assert y.requires_grad  # gradients in evaluation mode too


def test_half_precision_keeps_its_state_in_float32():
    layer = build("gated", torch.float32)
    x = torch.randn(1, 30, 12)
    low = copy.deepcopy(layer).bfloat16()
    y, cache = low(x.bfloat16(), use_cache=True)
    assert y.dtype == torch.bfloat16
    assert cache[0].recurrent_state.dtype == torch.float32
    assert cache[0].k_conv_state.dtype == torch.bfloat16
    want, y = layer(x)[0].detach(), y.detach()
    assert float((y.float() - want).norm() / want.norm()) < 0.05
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)[0].detach()
    assert float((y.float() - want).norm() / want.norm()) < 0.05


def test_saturated_gates_stay_stable_in_bfloat16():
    # |b| so large that beta is 2: with a key normalised in bf16 a state of this length would grow by e^8
    layer = build("plain", torch.float32, num_householder=1)
    with torch.no_grad():
        layer.b_proj.weight.zero_()
    x = torch.randn(1, 2048, 12)
    layer.bfloat16()
    layer._beta = lambda x, mask: torch.full((1, 2048, 2), 2.0)
    S = torch.eye(6).expand(1, 2, 6, 6)
    cache = DeltaProductCache()
    cache.update(0, type(cache[0])(recurrent_state=S))
    with torch.no_grad():
        layer.v_proj.weight.zero_()
        _, cache = layer(x.bfloat16(), cache=cache, use_cache=True)
    assert float(torch.linalg.matrix_norm(cache[0].recurrent_state, 2).max()) <= 1 + 1e-4


def test_gate_starts_where_it_should():
    layer = DeltaProduct(8, num_heads=64, head_dim=2, use_forget_gate=True)
    A, dt = layer.A_log.detach().exp(), torch.nn.functional.softplus(layer.dt_bias.detach())
    assert float(A.min()) > 0
    assert float(A.max()) <= 16
    assert float(dt.min()) >= 1e-4
    assert float(dt.max()) <= 0.1 * (1 + 1e-5)
    assert layer.no_weight_decay == {"A_log", "dt_bias"}


def test_decoding_does_not_grow():
    layer = build("conv", torch.float32)
    with torch.no_grad():
        _, cache = layer(torch.randn(1, 3, 12), use_cache=True)
        before = {name: x.shape for name, x in cache[0].tensors().items()}
        for _ in range(5):
            _, cache = layer(torch.randn(1, 1, 12), cache=cache, use_cache=True)
    assert {name: x.shape for name, x in cache[0].tensors().items()} == before


@pytest.mark.slow
def test_decoding_step_is_quick():
    # the specification's target is 100 us; five times that here, since other work shares the machine
    q, k = torch.randn(1, 1, 4, 64), torch.nn.functional.normalize(torch.randn(1, 2, 4, 64), dim=-1)
    v, beta, S = torch.randn(1, 2, 4, 64), torch.rand(1, 2, 4), torch.zeros(1, 4, 64, 64)
    times = []
    with torch.no_grad():
        for _ in range(200):
            start = time.perf_counter()
            _, S = delta_product(q, k, v, beta, num_householder=2, initial_state=S, output_final_state=True)
            times.append(time.perf_counter() - start)
    assert sorted(times)[100] < 500e-6


# --- cache ---


def filled() -> tuple[DeltaProduct, DeltaProductCache, torch.Tensor]:
    layer = build("conv")
    x = torch.randn(3, 5, 12, dtype=torch.float64)
    return layer, layer(x, use_cache=True)[1], x


def test_cache_reorders_like_the_batch():
    layer, cache, x = filled()
    order = torch.tensor([2, 0, 0, 1])
    again = layer(x[order], use_cache=True)[1]
    nxt = torch.randn(4, 1, 12, dtype=torch.float64)
    expected = layer(nxt, cache=again, use_cache=True)[0]
    other = copy.deepcopy(cache)
    assert cache.reorder(order) is cache
    torch.testing.assert_close(layer(nxt, cache=cache, use_cache=True)[0], expected)
    other.reorder_cache(order)
    torch.testing.assert_close(layer(nxt, cache=other, use_cache=True)[0], expected)


def test_cache_saves_and_loads():
    _, cache, _ = filled()
    buffer = io.BytesIO()
    torch.save(cache.state_dict(), buffer)
    buffer.seek(0)
    other = DeltaProductCache().load_state_dict(torch.load(buffer, weights_only=True))
    assert other.get_seq_length() == 5
    assert len(other) == 1
    for a, b in zip(cache, other, strict=True):
        assert a.tensors().keys() == b.tensors().keys() == {"recurrent_state", "q_conv_state", "k_conv_state", "v_conv_state"}
        assert all(torch.equal(x, b.tensors()[name]) for name, x in a.tensors().items())
    assert "tokens=5" in repr(other)


def test_cache_detaches_crops_and_repeats():
    _, cache, _ = filled()
    assert cache[0].recurrent_state.requires_grad
    assert not cache.detach()[0].recurrent_state.requires_grad
    assert cache.crop(5).get_seq_length() == 5
    cache.batch_repeat_interleave(2)
    assert cache[0].recurrent_state.shape[0] == 6
    cache.batch_select_indices(torch.tensor([0]))
    assert cache.to("cpu")[0].v_conv_state.shape[0] == 1
    assert len(cache.crop(0)) == 0
    assert cache.get_seq_length() == 0


# --- blocks ---


def test_swiglu_width():
    assert (swiglu_width(1024), swiglu_width(64), swiglu_width(2048)) == (2816, 256, 5632)
    check_module(lambda: SwiGLU(8, 16), torch.randn(2, 3, 8), compile=False)


@pytest.mark.parametrize("mixer", ["linear", "softmax"])
def test_block_decodes_token_by_token_with_padding(mixer):
    torch.manual_seed(0)
    inner = DeltaProduct(8, num_heads=2, head_dim=4) if mixer == "linear" else SoftmaxAttention(8, num_heads=2)
    block = Block(8, inner, intermediate_size=16).double()
    x, mask = torch.randn(2, 7, 8, dtype=torch.float64), torch.ones(2, 7)
    mask[0, :3] = 0
    whole, _ = block(x, mask)
    torch.testing.assert_close(whole[:1, 3:], block(x[:1, 3:])[0], atol=1e-11, rtol=0)
    cache, rows = DeltaProductCache(), []
    for t in range(7):
        y, cache = block(x[:, t : t + 1], mask[:, : t + 1], cache, True)
        rows.append(y)
    torch.testing.assert_close(torch.cat(rows, 1)[mask != 0], whole[mask != 0], atol=1e-11, rtol=0)
    two, _ = block(x[:1], cu_seqlens=torch.tensor([0, 3, 7]))
    torch.testing.assert_close(two[:, 3:], block(x[:1, 3:])[0], atol=1e-11, rtol=0)


# --- errors ---


@pytest.mark.bad_input
def test_errors():
    with pytest.raises(ValueError, match="num_v_heads must be a multiple of num_heads"):
        DeltaProduct(8, num_heads=2, head_dim=4, num_v_heads=3)
    with pytest.raises(ValueError, match="expand_v"):
        DeltaProduct(8, num_heads=2, head_dim=4, expand_v=0.1)
    with pytest.raises(ValueError, match="mode must be one of"):
        DeltaProduct(8, num_heads=2, head_dim=4, mode="fast")
    with pytest.raises(TypeError, match="head_dim must be an int"):
        DeltaProduct(8, num_heads=2, head_dim=4.0)
    layer = build("conv", torch.float32)
    with pytest.raises(ValueError, match="x must have shape"):
        layer(torch.zeros(2, 3, 8))
    with pytest.raises(ValueError, match="x must have shape"):
        layer(torch.zeros(3, 12))
    with pytest.raises(ValueError, match="attention_mask must have shape"):
        layer(torch.zeros(2, 3, 12), torch.ones(2, 2))
    with pytest.raises(ValueError, match="leaves no padding"):
        layer(torch.zeros(1, 3, 12), torch.ones(1, 3), cu_seqlens=torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="must end with T = 3"):
        layer(torch.zeros(1, 3, 12), cu_seqlens=torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="num_heads must divide"):
        SoftmaxAttention(8, num_heads=3)
    with pytest.raises(ValueError, match="pad the batch instead"):
        SoftmaxAttention(8, num_heads=2)(torch.zeros(1, 3, 8), use_cache=True, cu_seqlens=torch.tensor([0, 3]))


@pytest.mark.bad_input
def test_errors_of_the_cache():
    _, cache, _ = filled()
    with pytest.raises(ValueError, match="cannot take tokens back"):
        cache.crop(3)
    with pytest.raises(TypeError, match="beam_idx must be"):
        cache.reorder([0, 1])
    with pytest.raises(ValueError, match="names such as"):
        cache.load_state_dict({"state": torch.zeros(1)})
