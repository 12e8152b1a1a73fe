import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dct as scipy_dct

from eqmotion import (
    EqMotion,
    EquivariantLinear,
    InnerAgentAttention,
    InteractionReasoner,
    InterAgentAggregation,
    TimeDCT,
    VectorReLU,
    _fused,
    layers,
    vector_relu,
)
from eqmotion._reference import dct_matrix_reference, vector_relu_reference
from eqmotion.functional import legacy_angle, masked_mean, safe_angle, safe_norm
from eqmotion.graph import DensePairs, SparsePairs
from geocore.testing import check_derivatives, check_module, check_transforms, strategies


def test_vector_relu_closed_forms():
    q = torch.nn.functional.normalize(torch.randn(4, 3, dtype=torch.float64), dim=-1)
    torch.testing.assert_close(vector_relu(q, q), q, atol=0, rtol=0)
    torch.testing.assert_close(vector_relu(q, -q), q * (1 - 1 / (1 + 1e-4)))
    torch.testing.assert_close(vector_relu(q, torch.zeros_like(q)), q, atol=0, rtol=0)


def test_vector_relu_layer_with_set_weights():
    layer = VectorReLU(4).double()
    Z = torch.randn(2, 3, 4, 3, dtype=torch.float64)
    with torch.no_grad():
        layer.W_q.weight.copy_(torch.eye(4))
        layer.W_k.weight.copy_(-torch.eye(4))
    square = (Z * Z).sum(-1, keepdim=True)
    torch.testing.assert_close(layer(Z), Z * (1 - square / (square + 1e-4)))


def test_vector_relu_equals_the_cases_with_gradients():
    q, k = torch.randn(2, 50, 3, dtype=torch.float64).unbind(0)
    q, k = q.requires_grad_(), k.requires_grad_()
    fast, literal = vector_relu(q, k), vector_relu_reference(q, k, 1e-4)
    torch.testing.assert_close(fast, literal, atol=1e-15, rtol=1e-14)
    g = torch.randn_like(fast)
    for a, b in zip(torch.autograd.grad(fast, (q, k), g), torch.autograd.grad(literal, (q, k), g), strict=True):
        torch.testing.assert_close(a, b, atol=1e-14, rtol=1e-13)
    check_derivatives(vector_relu, q, k)


def test_vector_relu_passes_gradients_where_the_product_is_zero():
    q = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [1.0, 2.0]], dtype=torch.float64).requires_grad_()
    k = torch.tensor([[0.0, 2.0], [1.0, 2.0], [0.0, 0.0], [0.0, 0.0]], dtype=torch.float64).requires_grad_()
    found = [torch.autograd.grad(f(q, k, 1e-4).sum(), (q, k)) for f in (vector_relu, vector_relu_reference)]
    for got, literal, want in zip(*found, (torch.ones_like(q), torch.zeros_like(k)), strict=True):
        torch.testing.assert_close(got, want, atol=0, rtol=0)
        torch.testing.assert_close(literal, want, atol=0, rtol=0)


@pytest.mark.parametrize("n", [1, 2, 7, 20, 25])
def test_time_transform_is_scipys(n):
    x = torch.randn(3, n, 2, dtype=torch.float64)
    transform = TimeDCT(n)
    torch.testing.assert_close(transform(x), torch.from_numpy(scipy_dct(x.numpy(), axis=1, norm="ortho")), atol=1e-14, rtol=0)
    torch.testing.assert_close(transform.inverse(transform(x)), x, atol=1e-14, rtol=0)
    torch.testing.assert_close(transform(x), dct_matrix_reference(n) @ x, atol=1e-13, rtol=0)  # its angles are not reduced


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-7, 1e-3, 0.3, math.pi / 2, 3.0, math.pi - 1e-7, math.pi])
@pytest.mark.parametrize("d", [2, 3, 5])
def test_safe_angle_is_exact_at_every_angle_and_scale(angle, d):
    a, b = torch.zeros(d, dtype=torch.float64), torch.zeros(d, dtype=torch.float64)
    a[0], b[0], b[1] = 1.0, math.cos(angle), math.sin(angle)
    tolerance = 4e-16 * max(angle, 1e-12 if angle else 0) + 2.5e-16 * (angle > 1)
    for scale in (1.0, 1e-150, 1e150):
        got = float(safe_angle(a * scale, b / scale))
        assert abs(got - math.atan2(math.sin(angle), math.cos(angle))) <= max(tolerance, 1e-28), (got, angle, scale)


@settings(deadline=None)
@given(angle=strategies.angles(), scale=st.floats(-30, 30), d=st.sampled_from([2, 3, 4]))
def test_turning_angle_law(angle, scale, d):
    """The angle of a turn is the turn, whatever the speeds and the dimension."""
    a, b = torch.zeros(d, dtype=torch.float64), torch.zeros(d, dtype=torch.float64)
    a[0], b[0], b[1] = 10.0**scale, math.cos(angle), math.sin(angle)
    want = abs(math.atan2(math.sin(angle), math.cos(angle)))
    assert abs(float(safe_angle(a, b)) - want) <= 1e-15 * max(want, 1e-3)
    torch.testing.assert_close(safe_angle(a, b), safe_angle(b, a), atol=4e-16, rtol=1e-12)


def test_safe_angle_against_the_biased_formula():
    turn = torch.logspace(-6, 0, 61, dtype=torch.float64)
    a = 1e-3 * torch.tensor([1.0, 0.0], dtype=torch.float64).expand(61, 2)
    b = 1e-3 * torch.stack([turn.cos(), turn.sin()], dim=-1)
    assert float((safe_angle(a, b) - turn).detach().abs().max()) < 2e-16
    assert float((legacy_angle(a, b) - turn).detach().abs().max()) > 1e-2  # at speeds of 1e-3 the eps of 1e-6 shows
    zero = torch.zeros(2, dtype=torch.float64)
    assert float(legacy_angle(zero, zero)) == pytest.approx(math.pi / 2)
    assert float(safe_angle(zero, zero)) == 0.0


@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_safe_angle_derivatives(d):
    a, b = torch.randn(4, d, dtype=torch.float64), torch.randn(4, d, dtype=torch.float64)
    check_derivatives(safe_angle, a, b)


@pytest.mark.parametrize("fn", [safe_angle, legacy_angle])
def test_angles_have_finite_derivatives_where_they_have_none(fn):
    rows = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1e4, 0.0, 0.0]])
    others = torch.tensor([[2.0, 4.0, 6.0], [0.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [1e4, 0.0, 0.0]])
    for dtype in (torch.float32, torch.float64):
        a, b = rows.to(dtype).requires_grad_(), others.to(dtype).requires_grad_()
        first = torch.autograd.grad(fn(a, b).sum(), (a, b), create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() + g.sum() for g in first), (a, b))
        assert all(torch.isfinite(g).all() for g in (*first, *second))


def test_safe_norm_at_zero():
    x = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    first = torch.autograd.grad(safe_norm(x).sum(), x, create_graph=True)[0]
    second = torch.autograd.grad(first.sum(), x, allow_unused=True)[0]
    assert torch.equal(first, torch.zeros_like(x))
    assert second is None or torch.equal(second, torch.zeros_like(x))
    y = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    assert float(safe_norm(y)) == 5.0
    check_derivatives(safe_norm, torch.randn(3, 4, dtype=torch.float64))


def test_masked_mean():
    x = torch.randn(2, 3, 4, 2, dtype=torch.float64)
    mask = torch.tensor([[True, False, True], [False, False, False]])
    mean = masked_mean(x, mask, (2,))
    torch.testing.assert_close(mean[0, 0, 0], x[0, [0, 2]].mean((0, 1)))
    assert torch.equal(mean[1], torch.zeros(1, 1, 2, dtype=torch.float64))


def test_module_contracts():
    check_module(lambda: EquivariantLinear(4, 3), torch.randn(2, 4, 3))
    check_module(lambda: VectorReLU(4), torch.randn(2, 4, 3))
    check_module(lambda: InnerAgentAttention(6, 4), torch.randn(2, 3, 4, 3), torch.randn(2, 3, 6))
    check_module(lambda: InterAgentAggregation(4, 6), torch.randn(2, 3, 4, 3), torch.randn(2, 3, 6), torch.rand(2, 3, 3, 2))
    check_module(lambda: InteractionReasoner(4, 6), torch.randn(2, 3, 4, 3), torch.randn(2, 3, 6))


@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_layers_commute_with_orthogonal_maps(d):
    Q = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64)).Q
    G, h = torch.randn(2, 4, 5, d, dtype=torch.float64), torch.randn(2, 4, 6, dtype=torch.float64)
    c = torch.rand(2, 4, 4, 2, dtype=torch.float64)
    mask = torch.tensor([[True] * 4, [True, False, True, True]])
    t = torch.randn(d, dtype=torch.float64)
    for layer in (InnerAgentAttention(6, 5).double(), InnerAgentAttention(6, 5, mode="paper").double()):
        torch.testing.assert_close(layer(G @ Q.mT + t, h, mask), layer(G, h, mask) @ Q.mT + t, atol=1e-13, rtol=0)
    aggregate = InterAgentAggregation(5, 6).double()
    torch.testing.assert_close(aggregate(G @ Q.mT + t, h, c, mask), aggregate(G, h, c, mask) @ Q.mT + t, atol=1e-13, rtol=0)
    for layer in (VectorReLU(5).double(), EquivariantLinear(5, 3).double()):
        torch.testing.assert_close(layer(G @ Q.mT), layer(G) @ Q.mT, atol=1e-13, rtol=0)
    reason = InteractionReasoner(5, 6).double()
    for moved, still in zip(reason(G @ Q.mT + t, h, mask), reason(G, h, mask), strict=True):
        torch.testing.assert_close(moved, still, atol=1e-13, rtol=0)


def test_aggregation_by_hand():
    layer = InterAgentAggregation(2, 3, n_experts=2, expert_mixer=False).double()
    G, h, c = torch.randn(1, 3, 2, 2).double(), torch.randn(1, 3, 3).double(), torch.rand(1, 3, 3, 3).double()
    want = G.clone()
    for i in range(3):
        for j in range(3):
            pair = torch.cat([h[0, i], h[0, j], (G[0, i] - G[0, j]).norm(dim=-1)])
            factor = sum(c[0, i, j, k] * layer.experts[k](pair) for k in range(2))
            want[0, i] += factor[:, None] * (G[0, i] - G[0, j])
    torch.testing.assert_close(layer(G, h, c), want.detach(), atol=1e-14, rtol=0, check_dtype=True)


def test_transforms_of_the_functions():
    a, b = torch.randn(3, 2, 3, dtype=torch.float64).unbind(1)
    check_transforms(safe_angle, a, b)
    check_transforms(vector_relu, a, b)


@pytest.mark.bad_input
def test_errors():
    with pytest.raises(ValueError, match=r"x must have shape \(..., 4, d\), got \(2, 3, 3\)"):
        EquivariantLinear(4, 2)(torch.zeros(2, 3, 3))
    with pytest.raises(ValueError, match=r"x must have shape \(..., 20, d\)"):
        TimeDCT(20)(torch.zeros(5, 19, 2))
    with pytest.raises(ValueError, match="mode must be one of"):
        InnerAgentAttention(4, 2, mode="other")
    with pytest.raises(ValueError, match="tau must be positive"):
        InteractionReasoner(4, 2, tau=0.0)
    with pytest.raises(ValueError, match="n_experts must be at least 1"):
        InterAgentAggregation(4, 2, n_experts=0)


@pytest.mark.parametrize("sparse", [False, True])
def test_gradients_by_hand_equal_those_of_the_composites(sparse, monkeypatch):
    """Less is kept for the backward pass; first and second derivatives are the same."""
    G = torch.randn(2, 4, 3, 2, dtype=torch.float64)
    G[0, 1] = G[0, 0]  # a distance of zero
    edges = torch.tensor([[1, 0, 2, 5, 7, 0], [0, 1, 1, 4, 6, 2]])
    pairs = SparsePairs(G, edges, None) if sparse else DensePairs(G, None)
    x, W, b, c = (torch.randn(*s, dtype=torch.float64) for s in ((6, 5), (3, 5), (3,), (6, 1)))
    cases = [(_fused.silu_linear, (x, W, b)), (_fused.silu_scale, (x, c)), (lambda G: _fused.pair_norms(pairs, G), (G,))]
    for fn, inputs in cases:
        results = []
        for fused in (True, False):
            if not fused:
                monkeypatch.setattr(_fused, "may_run", lambda x: False)
            live = [t.clone().requires_grad_() for t in inputs]
            out = fn(*live)
            weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            plain = torch.autograd.grad(out, live, weights, retain_graph=True)
            first = torch.autograd.grad(out, live, weights, create_graph=True)
            second = torch.autograd.grad(sum((g * g).sum() for g in first), live, allow_unused=True, materialize_grads=True)
            results.append((out, *plain, *first, *second))
            monkeypatch.undo()
        for fast, composite in zip(*results, strict=True):
            torch.testing.assert_close(fast, composite, atol=1e-12, rtol=1e-12)


def test_blocks_of_receivers_change_nothing(monkeypatch):
    model = EqMotion(4, 3, channels=4, hidden_dim=6, n_layers=2, edge_attr_dim=1, up_axis=0).double()
    x, attr = torch.randn(2, 7, 4, 2).double(), torch.randn(2, 7, 7, 1).double()
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, 5:] = False
    want = model(x, mask=mask, edge_attr=attr)
    for limit in (1, 30, 10_000):
        monkeypatch.setattr(layers, "_BLOCK", limit)
        with torch.no_grad():
            got = model(x, mask=mask, edge_attr=attr)
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b.detach(), atol=1e-13, rtol=1e-12)
