import copy
import warnings

import pytest
import torch

from eqmotion import EqMotion, TimeDCT, equivariance_report
from eqmotion._reference import eqmotion_reference
from geocore.testing import assert_same, check_derivatives, check_export, check_module

OPTIONS = [
    {},
    {"inner_attention": "paper", "expert_mixer": False},
    {"n_categories": 4, "n_null_categories": 2, "tau": 0.5},
    {"n_modes": 3, "category_mode": "per_layer"},
    {"n_modes": 2, "n_layers": 1},
    {"aggregation": "mean", "center_coefficients": False, "category_mode": "per_layer"},
    {"legacy_angle": True, "agent_tokens": 5},
]


def test_size_is_the_official_one_without_its_dead_modules():
    assert sum(p.numel() for p in EqMotion(20, 20).parameters()) == 468_166 - 49_924


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_equals_the_literal_transcription_with_gradients(small, scenes, options, masked):
    model, x = small(**options), scenes().requires_grad_()
    mask = torch.tensor([[True] * 5, [True, False, True, True, False]]) if masked else None
    fast, literal = model(x, mask=mask), eqmotion_reference(model, x, mask=mask)
    inputs = (x, *(p for p in model.parameters() if p.requires_grad))
    weights = [torch.randn(o.shape, dtype=o.dtype) for o in fast]
    for got, want in zip(fast, literal, strict=True):
        if masked and got.shape == want.shape and got.ndim == 4 and got.shape[-1] == model.config["n_categories"]:
            got, want = (t * (mask[:, :, None, None] & mask[:, None, :, None]) for t in (got, want))
        torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-12)

    def gradients(outs):
        loss = sum((w * o).sum() for w, o in zip(weights[:1], outs[:1], strict=True))
        if not masked:
            loss = loss + sum((w * o).sum() for w, o in zip(weights[1:], outs[1:], strict=True))
        return torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)

    for got, want in zip(gradients(fast), gradients(literal), strict=True):
        torch.testing.assert_close(got, want, atol=1e-10, rtol=1e-10)


def test_attributes_equal_the_literal_transcription(small, scenes):
    model, x = small(node_attr_dim=2, edge_attr_dim=3), scenes()
    node, edge = torch.randn(2, 5, 2).double(), torch.randn(2, 5, 5, 3).double()
    for got, want in zip(
        model(x, node_attr=node, edge_attr=edge), eqmotion_reference(model, x, node_attr=node, edge_attr=edge), strict=True
    ):
        torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-12)
    velocity = torch.randn_like(x)
    for got, want in zip(
        model(x, velocity, node_attr=node, edge_attr=edge),
        eqmotion_reference(model, x, velocity, node_attr=node, edge_attr=edge),
        strict=True,
    ):
        torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("shape", [(1, 1, 2, 1), (3, 2, 2, 2), (2, 7, 11, 3), (0, 3, 5, 2)])
def test_shapes_with_one_and_primes(small, scenes, shape):
    model, x = small(shape[2], 3), scenes(*shape)
    out, want = model(x), eqmotion_reference(model, x)
    assert out.pred.shape == (*shape[:2], 3, shape[3])
    assert out.categories.shape == (shape[0], shape[1], shape[1], 2)
    torch.testing.assert_close(out.pred, want[0], atol=1e-12, rtol=1e-12)
    single = small(shape[2], 3)
    for i in range(shape[0]):
        torch.testing.assert_close(single(x[i]).pred, out.pred[i], atol=1e-13, rtol=1e-12)
        torch.testing.assert_close(single(x[i]).categories, out.categories[i], atol=1e-13, rtol=1e-12)


def test_float32_is_near_float64(small, scenes):
    model, x = small(), scenes(2, 5, 7, 2)
    single = copy.deepcopy(model).float()
    for got, want in zip(single(x.float()), model(x), strict=True):
        got, want = got.detach().double(), want.detach()
        assert float((got - want).detach().abs().max()) < 2e-6 * max(1.0, float(want.detach().abs().max()))


@pytest.mark.parametrize("d", [2, 3, 5])
@pytest.mark.parametrize("options", OPTIONS[:6], ids=str)
def test_orthogonal_maps_and_translations(small, scenes, options, d):
    model, x = small(**options), scenes(2, 5, 7, d)
    mask = torch.tensor([[True] * 5, [True, False, True, True, False]])
    base = type(model(x))(*(t.detach() for t in model(x, mask=mask)))
    for special in (1, -1):
        Q = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64)).Q
        Q = torch.cat([Q[:1] * special * torch.det(Q).sign(), Q[1:]])
        assert float(torch.det(Q)) * special > 0
        t = torch.randn(d, dtype=torch.float64)
        with torch.no_grad():
            moved = model(x @ Q.mT + t, mask=mask)
        shown = mask.view(*mask.shape, *[1] * (base.pred.ndim - 2))
        want = (base.pred @ Q.mT + t) * shown
        assert float((moved.pred - want).detach().abs().max()) < 1e-12 * max(1.0, float(want.detach().abs().max()))
        pairs = (mask[:, :, None] & mask[:, None, :])[..., None]
        assert float(((moved.categories - base.categories) * pairs).detach().abs().max()) < 1e-13


@pytest.mark.parametrize("d", [2, 3])
def test_chiral_models_break_reflections_and_only_those(small, scenes, d):
    report = equivariance_report(small(group="SO"), scenes(3, 5, 7, d), generator=torch.Generator().manual_seed(0))
    assert report.reflection > 1e-3
    assert max(report.rotation, report.translation, report.permutation) < 1e-12
    assert equivariance_report(small(), scenes(3, 5, 7, d)).reflection < 1e-12


def test_up_axis_keeps_rotations_about_it(small, scenes):
    angle = torch.tensor(0.7, dtype=torch.float64)
    about = torch.eye(3, dtype=torch.float64)
    about[0, 0], about[0, 1], about[1, 0], about[1, 1] = angle.cos(), -angle.sin(), angle.sin(), angle.cos()
    tilt = about[[2, 0, 1]][:, [2, 0, 1]]
    x = scenes(2, 5, 7, 3)
    for axis in (2, -1, (0.0, 0.0, 2.5)):
        model = small(up_axis=axis)
        base = model(x)
        turned = model(x @ about.mT)
        torch.testing.assert_close(turned.pred, base.pred @ about.mT, atol=1e-12, rtol=0)
        torch.testing.assert_close(turned.categories, base.categories, atol=1e-13, rtol=0)
        torch.testing.assert_close(model(x + 3.0).pred, base.pred + 3.0, atol=1e-12, rtol=0)
        assert float((model(x @ tilt.mT).pred - base.pred @ tilt.mT).detach().abs().max()) > 1e-3
    two = small(up_axis=(1.0, 1.0))(scenes(2, 5, 7, 2))
    assert two.pred.shape == (2, 5, 5, 2)


def test_without_a_group_rotations_are_not_kept(small, scenes):
    for d in (1, 2, 3):
        model, x = small(group=None), scenes(2, 5, 7, d)
        report = equivariance_report(model, x)
        assert report.translation < 1e-12
        assert report.permutation < 1e-12
        assert report.reflection > 1e-3


def test_permutations(small, scenes):
    x, order = scenes(), torch.tensor([3, 0, 4, 1, 2])
    model = small(node_attr_dim=2, edge_attr_dim=1)
    node, edge = torch.randn(2, 5, 2).double(), torch.randn(2, 5, 5, 1).double()
    base = model(x, node_attr=node, edge_attr=edge)
    moved = model(x[:, order], node_attr=node[:, order], edge_attr=edge[:, order][:, :, order])
    torch.testing.assert_close(moved.pred, base.pred[:, order], atol=1e-13, rtol=1e-13)
    torch.testing.assert_close(moved.categories, base.categories[:, order][:, :, order], atol=1e-13, rtol=0)
    model = small(agent_tokens=5)
    base = model(x).pred
    assert float((model(x[:, order]).pred - base[:, order]).detach().abs().max()) > 1e-4
    with torch.no_grad():
        model.tokens.copy_(model.tokens[order].clone())
    torch.testing.assert_close(model(x[:, order]).pred, base[:, order], atol=1e-13, rtol=1e-13)


@pytest.mark.parametrize("options", [{}, {"n_modes": 3}, {"aggregation": "mean"}, {"graph": "knn", "k": 2}], ids=str)
def test_padding_never_reaches_valid_agents(small, scenes, options):
    model, x = small(**options), scenes()
    mask = torch.tensor([[True, True, True, False, False], [True, False, True, True, False]])
    first = model(x, mask=mask).pred
    for content in (1e6, torch.nan, torch.inf):
        second = model(x.masked_fill(~mask[:, :, None, None], content), mask=mask).pred
        assert torch.equal(first, second)
    assert torch.equal(first[~mask], torch.zeros_like(first[~mask]))
    for i in range(2):
        alone = model(x[i, mask[i]]).pred
        torch.testing.assert_close(first[i, mask[i]], alone, atol=1e-12, rtol=1e-12)


def test_empty_scenes_on_request(small, scenes):
    model, x = small(), scenes()
    mask = torch.tensor([[True] * 5, [False] * 5])
    with pytest.raises(ValueError, match=r"valid agent in every scene, got none in scene \[1\]"):
        model(x, mask=mask)
    out = model(x, mask=mask, allow_empty=True)
    assert torch.equal(out.pred[1], torch.zeros_like(out.pred[1]))
    assert torch.isfinite(out.categories).all()
    assert torch.equal(small(allow_empty=True)(x, mask=mask).pred, out.pred)


@pytest.mark.parametrize("n_layers", [1, 3])
def test_constant_velocity_is_representable(n_layers):
    """Weights set by hand: the maps in and out make the continuation, everything between leaves the features alone."""
    T, F, C = 6, 9, 6
    model = EqMotion(T, F, channels=C, hidden_dim=4, n_layers=n_layers, center_coefficients=False).double()
    extrapolate = torch.zeros(F, T, dtype=torch.float64)
    for f in range(F):
        extrapolate[f, T - 1], extrapolate[f, T - 2] = f + 2, -(f + 1)
    to_time = TimeDCT(T).inverse(torch.eye(T, dtype=torch.float64))
    with torch.no_grad():
        for layer in model.layers:
            for part in (layer.attention, layer.aggregation):
                for p in part.parameters():
                    p.zero_()
            layer.W_u.weight.zero_()
            layer.relu.W_q.weight.copy_(torch.eye(C))
            layer.relu.W_k.weight.copy_(torch.eye(C))
        model.W_x.weight.copy_(torch.eye(T))
        model.W_o[0].weight.copy_(TimeDCT(F)(extrapolate @ to_time))
    x = torch.randn(2, 4, T, 3, dtype=torch.float64)
    ahead = torch.arange(1, F + 1, dtype=torch.float64)[:, None]
    want = x[:, :, -1:] + ahead * (x[:, :, -1:] - x[:, :, -2:-1])
    torch.testing.assert_close(model(x).pred, want, atol=1e-10, rtol=0)


def test_far_scenes(small, scenes):
    """Map coordinates: float64 positions lose nothing in a float32 model."""
    model = copy.deepcopy(small()).float()
    x = scenes(2, 5, 7, 2)
    base = model(x).pred
    assert base.dtype == torch.float64
    for offset in (1e2, 1e4, 1e6):
        assert float((model(x + offset).pred - base - offset).detach().abs().max()) < 2e-6
    single = model(x.float() + 1e4).pred.double() - 1e4  # here the input itself is rounded to 1e-3
    assert 1e-5 < float((single - base).detach().abs().max()) < 1e-1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision(small, scenes, dtype):
    model, x = copy.deepcopy(small()).float(), scenes(2, 5, 7, 3).to(dtype)
    out = model(x)
    assert all(t.dtype == dtype for t in out)
    torch.testing.assert_close(out.pred, model(x.float()).pred.to(dtype))
    whole = copy.deepcopy(model).to(dtype)
    low = whole(x)
    assert all(t.dtype == dtype for t in low)
    assert torch.isfinite(low.pred).all()
    gap = float((low.pred.float() - out.pred.float()).detach().abs().max())
    assert gap < 30 * torch.finfo(dtype).eps * float(out.pred.float().detach().abs().max())  # a dozen roundings in a row
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(x.float())
    assert mixed.pred.dtype == torch.float32
    assert float((mixed.pred - model(x.float()).pred).detach().abs().max()) < 0.2


def test_given_categories(small, scenes):
    model, x = small(n_categories=3, n_null_categories=1), scenes()
    own = model(x)
    torch.testing.assert_close(model(x, categories=own.categories).pred, own.pred, atol=0, rtol=0)
    chosen = torch.nn.functional.one_hot(torch.randint(3, (2, 5, 5)), 3).double()
    given = model(x, categories=chosen)
    torch.testing.assert_close(given.categories, chosen)
    torch.testing.assert_close(given.category_logits, own.category_logits)
    assert float((given.pred - own.pred).detach().abs().max()) > 1e-6
    nothing = torch.zeros(2, 5, 5, 3).double()
    nothing[..., 2] = 1.0
    assert torch.isfinite(model(x, categories=nothing).pred).all()


def test_mode_scores(small, scenes):
    out = small(n_modes=3, mode_scores=True)(scenes())
    assert out.mode_logits.shape == (2, 5, 3)
    assert out.edge_index is None
    assert small(n_modes=3, mode_scores=True)(scenes()[0]).mode_logits.shape == (5, 3)


def test_derivatives_on_a_toy(scenes):
    torch.manual_seed(3)
    model = EqMotion(3, 2, channels=2, hidden_dim=2, n_layers=2).double()
    check_derivatives(lambda x: model(x)[:2], scenes(1, 3, 3, 2))


def test_derivatives_where_agents_coincide_or_move_straight(scenes):
    """First derivatives are right (the kinks are symmetric); second ones do not exist there, and must be finite."""
    torch.manual_seed(3)
    model = EqMotion(4, 2, channels=2, hidden_dim=2, n_layers=2).double()
    x = (scenes(1, 4, 4, 2) * 8).round() / 8  # so that centring is exact
    x[:, 1] = x[:, 0]  # two agents on one place
    x[:, 2] = torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 4.0], [4.0, 8.0]], dtype=torch.float64)  # straight on
    check_derivatives(lambda x: model(x)[:2], x, second=False, atol=1e-6)
    still = x.clone()
    still[:, 2] = 1.0  # does not move: the smallest step back and forth is a turn by pi, so there is nothing to compare with
    for scene in (x, still):
        live = scene.clone().requires_grad_()
        first = torch.autograd.grad(model(live).pred.square().sum(), live, create_graph=True)[0]
        second = torch.autograd.grad(first.square().sum(), live)[0]
        assert torch.isfinite(first).all()
        assert torch.isfinite(second).all()
        assert float(second.detach().abs().max()) < 1e6


def test_module_contract():
    def make():
        return EqMotion(5, 3, channels=4, hidden_dim=6, n_layers=2, agent_tokens=3)

    check_module(make, torch.randn(2, 3, 5, 2))
    assert "n_layers=2" in repr(make())
    model = make()
    before = {name: p.clone() for name, p in model.named_parameters()}
    model.reset_parameters()
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_recomputing_gives_the_same(small, scenes):
    plain, x = small(n_modes=2), scenes()
    thrifty = small(n_modes=2, checkpoint=True)
    thrifty.load_state_dict(plain.state_dict())
    for model in (plain, thrifty):
        model.train()
        model(x).pred.square().sum().backward()
    for p, q in zip(plain.parameters(), thrifty.parameters(), strict=True):
        assert (p.grad is None) == (not p.requires_grad)
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, atol=1e-13, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"graph": "knn", "k": 2, "group": "SO"}], ids=str)
def test_compile_vmap_and_export(small, options):
    model, x = small(n_layers=1, **options), torch.randn(3, 2, 5, 7, 3, dtype=torch.float64)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    assert_same("compiled", compiled(x[0], mask=mask).pred, model(x[0], mask=mask).pred)
    live = x[0].clone().requires_grad_()
    assert_same("gradient", torch.autograd.grad(compiled(live).pred.sum(), live), torch.autograd.grad(model(live).pred.sum(), live))
    if "graph" not in options:
        many = torch.vmap(lambda x: model(x)[:2])(x)
        assert_same("vmap", many, tuple(torch.stack(t) for t in zip(*(model(x)[:2] for x in x), strict=True)))
        per_scene = torch.vmap(torch.func.jacrev(lambda x: model(x).pred.sum((0, 2))))(x[0])
        assert per_scene.shape == (2, 5, 5, 7, 3)
        check_export(lambda x: model(x)[:2], x[0])


def test_gradients_of_parameters_under_functional_call(small, scenes):
    model, x = small(), scenes()
    params = {name: p.detach() for name, p in model.named_parameters()}

    def loss(params, x):
        return torch.func.functional_call(model, params, (x[None],)).pred.square().sum()

    per_scene = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(params, x)
    model(x).pred.square().sum().backward()
    for name, p in model.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(per_scene[name].sum(0), p.grad, atol=1e-10, rtol=1e-10)


def test_warns_of_much_larger_scenes(small, scenes):
    model = small()
    model.train()(scenes(1, 2, 7, 2))
    model.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(scenes(1, 8, 7, 2))
    with pytest.warns(UserWarning, match="scenes of 9 agents, trained with at most 2"):
        model(scenes(1, 9, 7, 2))
    mean = small(aggregation="mean")
    mean.train()(scenes(1, 2, 7, 2))
    mean.eval()(scenes(1, 9, 7, 2))


@pytest.mark.bad_input
def test_errors(small, scenes):
    model, x = small(), scenes()
    for bad, message in (
        (x[0, 0], r"shape \(B, N, T, d\) or \(N, T, d\), got \(7, 3\)"),
        (x[None], r"got \(1, 2, 5, 7, 3\)"),
        (x[:, :, :6], r"T = in_steps = 7 steps.*got \(2, 5, 6, 3\)"),
        (x[..., :0], "at least one agent and one dimension"),
    ):
        with pytest.raises(ValueError, match=message):
            model(bad)
    with pytest.raises(TypeError, match="x must have a floating-point dtype, got torch.int64"):
        model(torch.zeros(2, 5, 7, 3, dtype=torch.int64))
    with pytest.raises(TypeError, match="must be a torch.Tensor"):
        model([[1.0]])
    with pytest.raises(ValueError, match=r"v must have the shape of x"):
        model(x, x[..., :2])
    with pytest.raises(TypeError, match="mask must be a bool tensor"):
        model(x, mask=torch.ones(2, 5))
    with pytest.raises(ValueError, match=r"mask must have shape \(2, 5\)"):
        model(x, mask=torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="node_attr must be given if and only if"):
        model(x, node_attr=torch.zeros(2, 5, 1).double())
    with pytest.raises(ValueError, match="edge_attr must be given, with edge_attr_dim = 2"):
        small(edge_attr_dim=2)(x)
    with pytest.raises(ValueError, match=r"edge_attr must have shape \(2, 5, 5, 2\), got"):
        small(edge_attr_dim=2)(x, edge_attr=torch.zeros(2, 5, 2).double())
    with pytest.raises(ValueError, match=r"categories must have shape \(2, 5, 5, 2\)"):
        model(x, categories=torch.zeros(2, 5, 5, 3).double())
    with pytest.raises(ValueError, match="N = agent_tokens = 4"):
        small(agent_tokens=4)(x)
    with pytest.raises(ValueError, match="dimension 2 or 3, got 5"):
        small(group="SO")(scenes(1, 3, 7, 5))
    with pytest.raises(ValueError, match="d <= 3 with group=None"):
        small(group=None)(scenes(1, 3, 7, 4))
    with pytest.raises(ValueError, match="up_axis must be a coordinate of x"):
        small(up_axis=3)(x)
    with pytest.raises(ValueError, match="up_axis must have the dimension of x, 3, got 2"):
        small(up_axis=(0.0, 1.0))(x)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_steps": 1}, "in_steps must be at least 2, got 1"),
        ({"out_steps": 0}, "out_steps must be at least 1"),
        ({"n_null_categories": 2}, "n_null_categories must be less than n_categories = 2"),
        ({"inner_attention": "none"}, "inner_attention must be one of"),
        ({"category_mode": "x"}, "category_mode must be one of"),
        ({"group": "SE"}, "group must be one of"),
        ({"aggregation": "max"}, "aggregation must be one of"),
        ({"graph": "full"}, "graph must be one of"),
        ({"graph": torch.zeros(3, 4, dtype=torch.long)}, r"graph must have shape \(2, E\)"),
        ({"tau": 0.0}, "tau must be positive"),
        ({"mode_scores": True}, "n_modes must be at least 2"),
        ({"up_axis": (0.0, 0.0)}, "up_axis must be an index or a vector"),
    ],
)
def test_constructor_errors(options, message):
    with pytest.raises(ValueError, match=message):
        EqMotion(**{"in_steps": 5, "out_steps": 3, **options})
