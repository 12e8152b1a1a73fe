"""The three ways of computing agree with the recurrence as written, in values and every gradient."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from deltaproduct import delta_product, transition_matrix
from deltaproduct._chunk import strict_gram
from deltaproduct._chunk_grad import unit_lower_inverse
from deltaproduct._reference import delta_product_reference, transition_matrix_reference
from geocore.testing import assert_finite, check_batching, check_derivatives, check_half, check_transforms

RAGGED = (0, 4, 4, 5, 23)


@pytest.mark.parametrize("mode", ["recurrent", "chunk"])
@pytest.mark.parametrize("ragged", [False, True], ids=["batch", "ragged"])
@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_every_mode_equals_the_recurrence_as_written(n, gated, ragged, mode, draw, value_and_grads):
    inputs = draw(B=1, T=23, n=n, gated=gated, states=4) if ragged else draw(T=23, n=n, gated=gated)
    options = {"num_householder": n, "cu_seqlens": torch.tensor(RAGGED) if ragged else None}
    expected = value_and_grads(delta_product_reference, inputs, **options)
    for size in (1, 5, 16, 64) if mode == "chunk" else (1,):
        actual = value_and_grads(delta_product, inputs, mode=mode, chunk_size=size, output_final_state=True, **options)
        for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
            torch.testing.assert_close(a, b, atol=1e-10 if i < 2 else 1e-8, rtol=0, msg=f"result {i}, chunks of {size}")


@settings(deadline=None, max_examples=30)
@given(
    T=st.integers(0, 40),
    n=st.integers(1, 4),
    C=st.integers(1, 50),
    K=st.integers(1, 6),
    V=st.integers(1, 6),
    gated=st.booleans(),
    seed=st.integers(0, 100),
)
def test_any_shape(T, n, C, K, V, gated, seed, draw):
    *inputs, S = draw(T=T, K=K, V=V, n=n, gated=gated, seed=seed)
    expected = delta_product_reference(*inputs, num_householder=n, initial_state=S)
    for mode in ("chunk", "recurrent", "auto"):
        actual = delta_product(*inputs, num_householder=n, initial_state=S, output_final_state=True, mode=mode, chunk_size=C)
        torch.testing.assert_close(actual, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("mode", ["recurrent", "chunk"])
@pytest.mark.parametrize("n", [1, 3])
def test_float32_against_float64(mode, n, draw, value_and_grads):
    inputs = draw(T=200, K=16, V=8, n=n)
    expected = value_and_grads(delta_product, inputs, num_householder=n, output_final_state=True, mode="recurrent")
    low = tuple(None if x is None else x.float() for x in inputs)
    actual = value_and_grads(delta_product, low, num_householder=n, output_final_state=True, mode=mode)
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == torch.float32
        assert float((a.double() - b).detach().abs().max() / b.detach().abs().max()) < 1e-4


@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
def test_long_sequences_are_worked_on_in_parts(gated, draw, value_and_grads, monkeypatch):
    inputs = draw(T=53, n=2, gated=gated)
    options = {"num_householder": 2, "output_final_state": True}
    expected = value_and_grads(delta_product, inputs, mode="recurrent", **options)
    for tokens in (1, 20, 53):
        monkeypatch.setattr("deltaproduct._chunk_grad.part_tokens", lambda rows, device, tokens=tokens: tokens)
        for a, b in zip(value_and_grads(delta_product, inputs, mode="chunk", chunk_size=8, **options), expected, strict=True):
            torch.testing.assert_close(a, b, atol=1e-9, rtol=0)


def test_one_token_by_hand():
    # K = 1, V = 1: S = e^g S0 = 1; then S <- S + k beta (v - k S): 1 + 1 (3 - 1) = 3, then 3 + 0.5 (1 - 3) = 2; o = 2 * 10
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    k, v, beta = (
        torch.ones(1, 2, 1, 1).double(),
        torch.tensor([3.0, 1.0]).double().view(1, 2, 1, 1),
        torch.tensor([[[1.0], [0.5]]]).double(),
    )
    g = torch.full((1, 1, 1), -math.log(4.0), dtype=torch.float64)
    for mode in ("recurrent", "chunk"):
        o, S = delta_product(10 * one, k, v, beta, g, num_householder=2, initial_state=4 * one, output_final_state=True, mode=mode)
        assert (o.item(), S.item()) == pytest.approx((20.0, 2.0), abs=1e-13)


def test_default_scale_and_final_state(draw):
    q, k, v, beta, g, _ = draw(K=4)
    o, none = delta_product(q, k, v, beta, g, num_householder=2)
    assert none is None
    doubled, _ = delta_product(q, k, v, beta, g, num_householder=2, scale=1.0)
    torch.testing.assert_close(2 * o, doubled)


@pytest.mark.parametrize("mode", ["recurrent", "chunk", "auto"])
def test_no_tokens_and_empty_batches(mode, draw):
    q, k, v, beta, g, S = draw(T=0)
    o, final = delta_product(q, k, v, beta, g, num_householder=2, initial_state=S, output_final_state=True, mode=mode)
    assert o.shape == (2, 0, 2, 3)
    torch.testing.assert_close(final, S)
    q, k, v, beta, g, S = draw(B=0)
    o, final = delta_product(q, k, v, beta, g, num_householder=2, output_final_state=True, mode=mode)
    assert (o.shape, final.shape) == ((0, 11, 2, 3), (0, 2, 5, 3))


def test_empty_sequences_keep_their_state_and_its_gradient(draw):
    q, k, v, beta, g, S = draw(B=1, T=6, states=3)
    S.requires_grad_()
    for mode in ("recurrent", "chunk"):
        _, final = delta_product(
            q, k, v, beta, g, num_householder=2, initial_state=S, output_final_state=True, mode=mode, cu_seqlens=torch.tensor([0, 0, 6, 6])
        )
        torch.testing.assert_close(final[[0, 2]], S[[0, 2]])
        torch.testing.assert_close(
            torch.autograd.grad(final[[0, 2]].sum(), S)[0], torch.tensor([1.0, 0, 1]).double()[:, None, None, None].expand_as(S)
        )
    _, final = delta_product(
        *(x[:, :0] for x in (q, k, v, beta)),
        num_householder=2,
        initial_state=S,
        output_final_state=True,
        cu_seqlens=torch.tensor([0, 0, 0, 0]),
    )
    torch.testing.assert_close(final, S)


@pytest.mark.parametrize("mode", ["recurrent", "chunk"])
def test_ragged_equals_one_call_per_sequence(mode, draw):
    q, k, v, beta, g, S = draw(B=1, T=50, n=3, states=5)
    offsets = [0, 7, 40, 40, 41, 50]
    o, final = delta_product(
        q,
        k,
        v,
        beta,
        g,
        num_householder=3,
        initial_state=S,
        output_final_state=True,
        cu_seqlens=torch.tensor(offsets, dtype=torch.int32),
        mode=mode,
        chunk_size=4,
    )
    for i, (a, b) in enumerate(pairwise(offsets)):
        micro = slice(3 * a, 3 * b)
        one, state = delta_product(
            q[:, a:b],
            k[:, micro],
            v[:, micro],
            beta[:, micro],
            g[:, a:b],
            num_householder=3,
            initial_state=S[i : i + 1],
            output_final_state=True,
        )
        torch.testing.assert_close(o[:, a:b], one, atol=1e-11, rtol=0)
        torch.testing.assert_close(final[i : i + 1], state, atol=1e-11, rtol=0)


@pytest.mark.parametrize("mode", ["recurrent", "chunk"])
def test_state_hand_over(mode, draw):
    q, k, v, beta, g, S = draw(T=21)
    options = {"num_householder": 2, "output_final_state": True, "mode": mode, "chunk_size": 4}
    whole, final = delta_product(q, k, v, beta, g, initial_state=S, **options)
    first, middle = delta_product(q[:, :10], k[:, :20], v[:, :20], beta[:, :20], g[:, :10], initial_state=S, **options)
    second, last = delta_product(q[:, 10:], k[:, 20:], v[:, 20:], beta[:, 20:], g[:, 10:], initial_state=middle, **options)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, atol=1e-12, rtol=0)
    torch.testing.assert_close(last, final, atol=1e-12, rtol=0)


@pytest.mark.parametrize("mode", ["recurrent", "chunk"])
@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
def test_derivatives(mode, gated, draw):
    q, k, v, beta, g, S = draw(B=1, T=5, H=1, K=3, V=2, gated=gated)
    gate = () if g is None else (g - 0.1,)  # inside the domain, so that differences stay in it

    def fn(q, k, v, beta, S, *g):
        return delta_product(q, k, v, beta, *g, num_householder=2, initial_state=S, output_final_state=True, mode=mode, chunk_size=2)

    check_derivatives(fn, q, k, v, beta, S, *gate)


def test_derivatives_with_normalisation_at_the_zero_key(draw):
    q, k, v, beta, g, S = draw(B=1, T=3, H=1, K=3, V=2)
    k[:, 1] = 0
    leaves = [x.requires_grad_() for x in (q, k, v, beta, S)]
    out = delta_product(q, k, v, beta, g, num_householder=2, initial_state=S, l2norm_qk=True, output_final_state=True, mode="chunk")
    assert_finite("gradient at a zero key", torch.autograd.grad(sum(o.sum() for o in out), leaves))
    _, unchanged = delta_product(
        q[:, :1],
        torch.zeros_like(k[:, :2]),
        v[:, :2],
        beta[:, :2],
        num_householder=2,
        initial_state=S,
        l2norm_qk=True,
        output_final_state=True,
    )
    torch.testing.assert_close(unchanged, S)


@pytest.mark.parametrize("mode", ["recurrent", "chunk"])
def test_transforms_and_compile(mode, draw):
    q, k, v, beta, g, _ = draw(B=2, T=3, H=1, K=3, V=2)

    def fn(q, k, v, beta, g):
        # one item per call under vmap: a batch of one is added here
        if q.ndim == 3:
            return delta_product(q[None], k[None], v[None], beta[None], g[None], num_householder=2, mode=mode, chunk_size=2)[0][0]
        return delta_product(q, k, v, beta, g, num_householder=2, mode=mode, chunk_size=2)[0]

    check_transforms(fn, q, k, v, beta, g, export=False, compile=mode == "chunk", compiled_transforms=mode == "chunk")


@pytest.mark.slow
def test_compiles_with_inductor(draw):
    q, k, v, beta, _, _ = draw(B=1, T=4, gated=False, dtype=torch.float32)
    torch._dynamo.reset()
    compiled = torch.compile(lambda *a: delta_product(*a, num_householder=2, mode="chunk", chunk_size=2)[0], fullgraph=True)
    torch.testing.assert_close(compiled(q, k, v, beta), delta_product(q, k, v, beta, num_householder=2)[0], atol=1e-5, rtol=1e-5)


def test_items_of_the_batch_are_independent(draw):
    q, k, v, beta, g, _ = draw(B=3)

    def fn(q, k, v, beta, g):
        if q.ndim != 4:
            lead = q.shape[:-3]
            flat = [x.reshape(-1, *x.shape[len(lead) :]) for x in (q, k, v, beta, g)]
            return delta_product(*flat, num_householder=2, mode="chunk")[0].reshape(*lead, *q.shape[-3:-1], v.shape[-1])
        return delta_product(q, k, v, beta, g, num_householder=2, mode="chunk")[0]

    check_batching(fn, q, k, v, beta, g)


@pytest.mark.parametrize("mode", ["recurrent", "chunk"])
def test_half_precision_is_computed_in_float32(mode, draw):
    q, k, v, beta, g, _ = draw(T=20, dtype=torch.float32)
    check_half(lambda *a: delta_product(*a, num_householder=2, mode=mode)[0], q, k, v, beta, g)
    low = [x.bfloat16().requires_grad_() for x in (q, k, v, beta)]
    o, final = delta_product(*low, g, num_householder=2, output_final_state=True, mode=mode)
    assert (o.dtype, final.dtype) == (torch.bfloat16, torch.float32)
    assert {x.dtype for x in torch.autograd.grad(o.float().sum(), low)} == {torch.bfloat16}
    _, final = delta_product(*low, g, num_householder=2, output_final_state=True, mode=mode, state_dtype=torch.float64)
    assert final.dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        o, _ = delta_product(q, k, v, beta, g, num_householder=2, mode=mode)
    torch.testing.assert_close(o, delta_product(q, k, v, beta, g, num_householder=2, mode=mode)[0])


def test_normalised_keys_never_expand_the_state():
    # bf16 keys normalised in bf16 have |k|^2 up to 1.002: 4096 reflections would grow the state by e^8
    k = F.normalize(torch.randn(1, 4096, 1, 8), dim=-1).bfloat16()
    v, beta, S = torch.zeros(1, 4096, 1, 4), torch.full((1, 4096, 1), 2.0), torch.eye(8)[None, None, :, :4]
    q = torch.zeros(1, 4096, 1, 8)
    _, rounded = delta_product(q, k, v, beta, num_householder=1, initial_state=S, output_final_state=True)
    _, final = delta_product(q, k, v, beta, num_householder=1, initial_state=S, output_final_state=True, l2norm_qk=True)
    assert abs(float(rounded.norm()) - 2) > 0.1
    assert float(final.norm()) <= 2 * (1 + 1e-5)
    assert float(final.norm()) > 1.9


def test_saved_memory_is_inputs_and_chunk_states(draw):
    B, T, H, K, V, n, C = 1, 256, 2, 16, 16, 2, 32
    q, k, v, beta, g, _ = draw(B=B, T=T, H=H, K=K, V=V, n=n, dtype=torch.float32)
    inputs = [x.requires_grad_() for x in (q, k, v, beta, g)]
    sizes: list[int] = []

    def pack(x):
        sizes.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        delta_product(*inputs, num_householder=n, mode="chunk", chunk_size=C)
    own = sum(x.numel() for x in inputs)
    states = (T // C) * B * H * K * V
    assert sum(sizes) <= own + states + B * H * K * V


def test_one_factor_is_the_delta_rule(draw):
    # DeltaNet written as gradient steps on |S^T k - v|^2 / 2
    q, k, v, beta, _, _ = draw(B=1, T=9, H=1, n=1, gated=False)
    S, rows = torch.zeros(5, 3, dtype=torch.float64), []
    for t in range(9):
        S = S - beta[0, t, 0] * torch.outer(k[0, t, 0], S.T @ k[0, t, 0] - v[0, t, 0])
        rows.append(S.T @ q[0, t, 0] / math.sqrt(5))
    torch.testing.assert_close(
        delta_product(q, k, v, beta, num_householder=1, mode="chunk")[0][0, :, 0], torch.stack(rows), atol=1e-12, rtol=0
    )


def test_padding_with_zero_beta_and_zero_gate_is_the_identity(draw):
    q, k, v, beta, g, S = draw(T=8)
    beta[:, 6:10], g[:, 3:5] = 0, 0
    keep, micro = [0, 1, 2, 5, 6, 7], [*range(6), *range(10, 16)]
    _, padded = delta_product(q, k, v, beta, g, num_householder=2, initial_state=S, output_final_state=True, mode="chunk")
    _, final = delta_product(
        q[:, keep],
        k[:, micro],
        v[:, micro],
        beta[:, micro],
        g[:, keep],
        num_householder=2,
        initial_state=S,
        output_final_state=True,
        mode="chunk",
    )
    torch.testing.assert_close(padded, final, atol=1e-12, rtol=0)


def test_strong_decay_gives_no_nan(draw):
    q, k, v, beta, g, S = draw(T=40, dtype=torch.float32)
    leaves = [x.requires_grad_() for x in (q, k, v, beta, 300 * g, S)]
    q, k, v, beta, g, S = leaves
    out = delta_product(q, k, v, beta, g, num_householder=2, initial_state=S, output_final_state=True, mode="chunk")
    assert_finite("values", out)
    assert_finite("gradients", torch.autograd.grad(sum(o.sum() for o in out), leaves))


# --- transition matrices and the triangular inverse ---


@pytest.mark.parametrize("n", [1, 2, 4])
def test_transition_matrix_is_the_recurrence_without_input(n, draw):
    q, k, _, beta, g, _ = draw(B=1, T=6, H=1, K=4, n=n)
    A = transition_matrix(k.unflatten(1, (6, n)).movedim(3, 2), beta.unflatten(1, (6, n)).movedim(3, 2), g)[0, :, 0]
    torch.testing.assert_close(
        A, transition_matrix_reference(k.unflatten(1, (6, n)).movedim(3, 2), beta.unflatten(1, (6, n)).movedim(3, 2), g)[0, :, 0]
    )
    product = torch.linalg.multi_dot([*A.flip(0)])
    _, final = delta_product(
        q,
        k,
        torch.zeros(1, 6 * n, 1, 4, dtype=torch.float64),
        beta,
        g,
        num_householder=n,
        output_final_state=True,
        initial_state=torch.eye(4, dtype=torch.float64)[None, None],
    )
    torch.testing.assert_close(final[0, 0], product, atol=1e-12, rtol=0)


def test_transition_matrix_spectra():
    k = F.normalize(torch.randn(200, 4, 6, dtype=torch.float64), dim=-1)
    beta = 2 * torch.rand(200, 4, dtype=torch.float64)
    assert float(torch.linalg.matrix_norm(transition_matrix(k, beta), 2).max()) <= 1 + 1e-12
    one = transition_matrix(k[:, :1], beta[:, :1])
    torch.testing.assert_close(one, one.mT)
    turn = transition_matrix(k[:, :2], torch.full((200, 2), 2.0, dtype=torch.float64))
    angle = 2 * torch.acos((k[:, 0] * k[:, 1]).sum(-1).abs())  # the sign of a key does not matter: e^{i 2 acos(-c)} = e^{-i 2 acos(c)}
    torch.testing.assert_close(torch.linalg.eigvals(turn).angle().abs().amax(-1), angle.clamp(max=math.pi), atol=1e-7, rtol=0)
    small = torch.linalg.eigvals(transition_matrix(k[:, :2], beta[:, :2] / 2))
    assert float(small.imag.abs().max()) < 1e-7
    assert float(small.real.min()) > -1e-7
    assert float(small.real.max()) < 1 + 1e-12


def test_transition_matrix_derivatives_and_half(draw):
    _, k, _, beta, g, _ = draw(B=3, T=1, H=1, K=3, n=2)
    arguments = k[:, :, 0], beta[:, :, 0], g[:, 0, 0]
    check_derivatives(transition_matrix, *arguments)
    check_half(transition_matrix, *arguments)


@pytest.mark.parametrize("M", [1, 2, 16, 17, 48, 63])
def test_inverse_of_unit_lower_triangles(M):
    L = 0.3 * torch.randn(3, M, M, dtype=torch.float64).tril(-1)
    eye = torch.eye(M, dtype=torch.float64)
    torch.testing.assert_close(unit_lower_inverse(L) @ (eye + L), eye.expand(3, M, M), atol=1e-9, rtol=0)


@pytest.mark.parametrize("beta_max", [1.0, 2.0])
def test_inverse_entries_are_at_most_two_for_unit_keys(beta_max):
    k = F.normalize(torch.randn(300, 48, 3, dtype=torch.float64), dim=-1)
    k[:100] = k[:100, :1]  # the tight case: one key again and again
    beta = torch.full((300, 48, 1), beta_max, dtype=torch.float64)
    beta[150:] *= torch.rand(150, 48, 1, dtype=torch.float64)
    worst = float(unit_lower_inverse(beta * strict_gram(k, None, 1)).abs().max())
    assert worst <= 2 + 1e-12
    if beta_max == 2.0:
        assert worst > 1.99


# --- errors ---


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": torch.zeros(2, 21, 2, 5)}, "k must have shape"),
        ({"k": torch.zeros(2, 22, 2, 4)}, "k must have shape"),
        ({"v": torch.zeros(2, 22, 4, 3)}, "repeat the heads of q and k"),
        ({"beta": torch.zeros(2, 11, 2)}, "beta must have shape"),
        ({"g": torch.zeros(2, 22, 2)}, "one log-gate per token"),
        ({"g": torch.full((2, 11, 2), 0.1)}, "g must be a log-gate of at most 0"),
        ({"g": torch.full((2, 11, 2), torch.nan)}, "without NaN"),
        ({"q": torch.zeros(2, 11, 5)}, "q must have shape"),
        ({"num_householder": 3}, "k must have shape"),
        ({"initial_state": torch.zeros(3, 2, 5, 3)}, "one state per item of the batch"),
        ({"cu_seqlens": torch.tensor([0, 11])}, "needs a batch of 1"),
        ({"mode": "fast"}, "mode must be one of"),
        ({"mode": "triton"}, "cannot run here"),
        ({"chunk_size": 0}, "chunk_size must be at least 1"),
        ({"state_dtype": torch.bfloat16}, "state_dtype must be"),
        ({"beta": torch.full((2, 22, 2), 2.1), "validate": True}, "beta must lie in \\[0, 2\\]"),
        ({"beta": torch.full((2, 22, 2), -0.1), "validate": True}, "beta must lie in \\[0, 2\\]"),
        ({"k": torch.full((2, 22, 2, 5), 3.0), "validate": True}, "normalise the keys"),
    ],
)
def test_errors(change, message, draw):
    q, k, v, beta, g, _ = draw(dtype=torch.float32)
    options = {"q": q, "k": k, "v": v, "beta": beta, "g": g, "num_householder": 2} | change
    with pytest.raises(ValueError, match=message):
        delta_product(**options)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("offsets", "message"),
    [([0, 7, 5, 11], "not decrease"), ([1, 11], "start with 0"), ([0, 22], "must end with T = 11"), ([[0, 11]], "shape"), ([], "shape")],
)
def test_errors_of_offsets(offsets, message, draw):
    q, k, v, beta, g, _ = draw(B=1)
    with pytest.raises(ValueError, match=message):
        delta_product(q, k, v, beta, g, num_householder=2, cu_seqlens=torch.tensor(offsets, dtype=torch.int64))


@pytest.mark.bad_input
def test_more_errors(draw):
    q, k, v, beta, g, _ = draw(B=1)
    with pytest.raises(ValueError, match="one state per sequence"):
        delta_product(q, k, v, beta, g, num_householder=2, cu_seqlens=torch.tensor([0, 5, 11]), initial_state=torch.zeros(1, 2, 5, 3))
    with pytest.raises(TypeError, match="cu_seqlens must be an int32 or int64"):
        delta_product(q, k, v, beta, g, num_householder=2, cu_seqlens=torch.tensor([0.0, 11.0]))
    with pytest.raises(TypeError, match="num_householder must be an int"):
        delta_product(q, k, v, beta, g, num_householder=2.0)
    with pytest.raises(TypeError, match="floating-point"):
        delta_product(q.long(), k, v, beta, g, num_householder=2)
    with pytest.raises(NotImplementedError, match="complex"):
        delta_product(q + 0j, k, v, beta, g, num_householder=2)
    with pytest.raises(ValueError, match="beta must have shape"):
        transition_matrix(torch.zeros(2, 3), torch.zeros(3))
    delta_product(q, k, v, 3 * beta, g, num_householder=2)  # values are looked at only on request


@pytest.mark.bad_input
def test_fla_is_refused_with_a_reason(monkeypatch, draw):
    q, k, v, beta, g, _ = draw(dtype=torch.float32)
    monkeypatch.setattr("deltaproduct._dispatch.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="deltaproduct\\[fla\\]"):
        delta_product(q, k, v, beta, g, num_householder=2, mode="fla")
    monkeypatch.setattr("deltaproduct._dispatch.find_spec", lambda name: object())
    with pytest.raises(ValueError, match="needs CUDA tensors in float16 or bfloat16"):
        delta_product(q, k, v, beta, g, num_householder=2, mode="fla")
