"""What a layer must do as a module: states, dtypes, errors, counts of factorisations, compile, autocast (truth test 8)."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from geocore.testing import check_half, check_module
from spdnorm import DomainSPDBatchNorm, GBWBatchNorm, NotPositiveDefiniteError, SPDBatchNorm, SPDNet, parameter_groups

D = torch.float64
METRICS = ["airm", "lem", "lcm", "pem", "bw"]


def make(kind, n=4, **options):
    return GBWBatchNorm(n, theta=0.5, **options) if kind == "gbw" else SPDBatchNorm(n, kind, **options)


@pytest.mark.parametrize("kind", ["gbw", *METRICS])
def test_module_contract(spd, kind):
    check_module(lambda: make(kind), spd(5), compile=kind == "lcm")  # training is compiled below


@pytest.mark.parametrize("per_channel", [False, 3, True])
@pytest.mark.parametrize("kind", ["gbw", "airm", "lem"])
def test_statistics_travel_with_the_state(spd, kind, per_channel):
    layer = make(kind, per_channel=per_channel, train_momentum=0.5)
    for _ in range(3):
        layer(spd(6, 3))
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    other = make(kind, per_channel=per_channel, train_momentum=0.5)
    other.load_state_dict(torch.load(buffer, weights_only=True), strict=True)
    assert set(dict(layer.named_buffers())) >= {"running_mean", "running_var", "train_mean", "train_var", "num_batches_tracked"}
    assert int(other.num_batches_tracked) == 3
    held_out = spd(2, 3)
    for twin in (other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(twin.eval()(held_out), layer.eval()(held_out), rtol=0, atol=0)


def test_the_running_statistics_move_and_are_used(spd):
    layer = make("gbw", momentum=0.5)
    before = layer.eval()(spd(3))
    layer.train()(10 * spd(6))
    assert not torch.equal(layer.running_mean, torch.eye(4, dtype=D))
    assert int(layer.num_batches_tracked) == 1
    assert not torch.allclose(layer.eval()(spd(3)), before)
    layer.reset_running_stats()
    assert torch.equal(layer.running_mean, torch.eye(4, dtype=D))
    assert float(layer.running_var) == 1.0


def test_evaluation_changes_no_state(spd):
    layer = make("gbw").eval()
    state = copy.deepcopy(layer.state_dict())
    layer(spd(5))
    assert all(torch.equal(a, b) for a, b in zip(state.values(), layer.state_dict().values(), strict=True))


def test_cumulative_momentum_is_the_average(spd):
    layer = SPDBatchNorm(4, "lem", momentum=None)
    batches = [spd(5) for _ in range(3)]
    for X in batches:
        layer(X)
    one = SPDBatchNorm(4, "lem", momentum=1.0)
    one(torch.cat(batches))
    torch.testing.assert_close(layer.running_mean, one.running_mean, rtol=0, atol=1e-12)


def test_refit_takes_the_statistics_of_a_batch(spd):
    layer, fresh = make("gbw"), make("gbw", momentum=1.0)
    X = spd(8)
    layer(spd(6))
    layer.refit(X)
    fresh(X)
    torch.testing.assert_close(layer.running_mean, fresh.running_mean, rtol=0, atol=1e-13)
    torch.testing.assert_close(layer.running_var, fresh.running_var, rtol=0, atol=1e-13)
    assert int(layer.num_batches_tracked) == 1
    assert layer.momentum == pytest.approx(0.1)


@pytest.mark.parametrize("kind", ["gbw", *METRICS])
def test_per_channel_statistics_are_separate_layers(spd, kind):
    X = spd(6, 3)
    layer = make(kind, per_channel=True)
    out = layer(X)
    for c in range(3):
        alone = make(kind)
        torch.testing.assert_close(out[:, c], alone(X[:, c]), rtol=0, atol=1e-12)
        torch.testing.assert_close(layer.running_mean[c], alone.running_mean, rtol=0, atol=1e-12)
        torch.testing.assert_close(layer.running_var[c], alone.running_var, rtol=0, atol=1e-12)
    shared = make(kind)
    torch.testing.assert_close(shared(X), shared(X.flatten(0, 1)).unflatten(0, (6, 3)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["gbw", *METRICS])
def test_dtypes(spd, kind):
    X = spd(5)
    want = make(kind)(X)
    single = make(kind)(X.float())
    assert single.dtype == torch.float32  # computed in float64, returned as given
    torch.testing.assert_close(single.double(), make(kind)(X.float().double()), rtol=0, atol=2e-7 * float(want.detach().abs().max()))
    low = make(kind).float()
    assert low.running_mean.dtype == torch.float32
    torch.testing.assert_close(low(X.float()).double(), want, rtol=0, atol=2e-3 * float(want.detach().abs().max()))
    check_half(lambda x: make(kind)(x), X + torch.eye(4))


def test_autocast_leaves_the_layer_alone(spd):
    net, X = SPDNet([4, 3], n_classes=2), spd(5)
    plain = net.eval()(X.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = net(X.float())
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, plain, rtol=0, atol=0)


@pytest.mark.parametrize(("theta", "most"), [(0.5, 4), (1.0, 2)])
def test_factorisations_of_a_training_step(spd, monkeypatch, theta, most):
    calls = []
    for name in ("eigh", "svd", "eigvalsh"):
        original = getattr(torch.linalg, name)

        def counted(A, *args, original=original, name=name, **kwargs):
            if A.ndim > 2:  # those of single matrices, parameters and means, do not count
                calls.append(name)
            return original(A, *args, **kwargs)

        monkeypatch.setattr(torch.linalg, name, counted)
    layer = GBWBatchNorm(4, theta=theta)
    layer(spd(9).requires_grad_()).sum().backward()
    assert len(calls) == most, calls


def test_one_matrix_gives_the_bias(spd):
    layer = make("gbw")
    layer.W = W = spd() + torch.eye(4)
    X = spd(1).requires_grad_()
    with pytest.warns(UserWarning, match="batch of one matrix"):
        out = layer(X)
    assert torch.equal(out[0], layer.W)
    torch.testing.assert_close(out[0], W, rtol=0, atol=1e-12)
    out.sum().backward()
    assert torch.equal(X.grad, torch.zeros_like(X))
    layer(spd(1))  # no second warning, which would be an error
    assert layer(spd(4)).shape == (4, 4, 4)


@pytest.mark.parametrize("kind", ["gbw", *METRICS])
def test_unusual_batches(spd, kind):
    layer = make(kind)
    assert layer(spd(0)).shape == (0, 4, 4)
    assert int(layer.num_batches_tracked) == 0
    assert layer.eval()(spd()).shape == (4, 4)
    assert layer(spd(0)).shape == (0, 4, 4)
    assert make(kind, n=1)(spd(5, n=1)).shape == (5, 1, 1)
    X = spd(4)
    torch.testing.assert_close(make(kind)(X.mT), make(kind)(X), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["gbw", *METRICS])
def test_nan_comes_out_and_statistics_stay(spd, kind):
    layer, X = make(kind), spd(5)
    X[2, 0, 0] = float("nan")
    assert layer(X).isnan().all()
    assert torch.equal(layer.running_mean, torch.eye(4, dtype=D))
    assert float(layer.running_var) == 1.0
    out = layer.eval()(X)
    assert out[2].isnan().all()
    assert out[[0, 1, 3, 4]].isfinite().all()


@pytest.mark.parametrize("kind", ["gbw", *METRICS])
def test_condition_and_scale_of_every_metric(spd, kind):
    for X in (spd(5, condition=1e10), 1e-12 * spd(5), spd().expand(5, 4, 4)):
        layer, X = make(kind), X.clone().requires_grad_()
        layer(X).square().sum().backward()
        assert all(t.isfinite().all() for t in (X.grad, *(p.grad for p in layer.parameters())))


@pytest.mark.bad_input
@pytest.mark.parametrize("kind", ["gbw", *METRICS])
def test_indefinite_input_is_an_error(spd, kind):
    X = spd(5)
    X[3] -= 2 * torch.eye(4)
    smallest = float(torch.linalg.eigvalsh(X[3])[0])
    for layer in (make(kind), make(kind).eval()):
        with pytest.raises(NotPositiveDefiniteError, match=rf"batch index \(3,\) has smallest eigenvalue {smallest:.4g}"[:-2]) as error:
            layer(X)
        assert error.value.index == (3,)
        assert error.value.smallest == pytest.approx(smallest)
    with pytest.raises(NotPositiveDefiniteError, match=r"\(1, 0\)"):
        make(kind)(torch.stack([spd(2), torch.stack([-spd(), spd()])]))


@pytest.mark.bad_input
@pytest.mark.parametrize("kind", ["gbw", "airm"])
def test_shape_and_dtype_errors(spd, kind):
    layer = make(kind)
    with pytest.raises(ValueError, match=r"X must have shape \(..., 4, 4\), got \(5, 3, 3\)"):
        layer(spd(5, n=3))
    with pytest.raises(ValueError, match="square"):
        layer(torch.ones(5, 4, 3))
    with pytest.raises(TypeError, match="floating-point"):
        layer(torch.ones(5, 4, 4, dtype=torch.int64))
    with pytest.raises(TypeError, match="real"):
        layer(torch.ones(5, 4, 4, dtype=torch.complex64))
    with pytest.raises(TypeError, match=r"torch.Tensor"):
        layer([[1.0]])
    channels = make(kind, per_channel=2)
    with pytest.raises(ValueError, match="2 channels in dimension -3, got 3"):
        channels(spd(5, 3))
    with pytest.raises(ValueError, match="with per_channel"):
        channels(spd())


@pytest.mark.bad_input
def test_option_errors():
    for options, message in (
        ({"theta": 0.0}, "use metric='lem'"),
        ({"variance": "scalar"}, "variance must be one of"),
        ({"domain": "fold"}, "domain must be one of"),
        ({"param": "log"}, "param must be one of"),
        ({"variant": "official"}, "variant must be one of"),
        ({"stats_grad": True}, "stats_grad must be one of"),
        ({"running_space": "tangent"}, "running_space must be one of"),
        ({"momentum": 1.5}, r"momentum must lie in \[0, 1\]"),
        ({"train_momentum": -1.0}, "train_momentum must lie in"),
        ({"eps": -1.0}, "eps must be at least 0"),
        ({"clip": 0.0}, "clip must be positive"),
        ({"karcher_steps": -1}, "karcher_steps must be an int"),
        ({"per_channel": 0}, "per_channel must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            GBWBatchNorm(4, **options)
    with pytest.raises(TypeError, match="num_features must be an int"):
        GBWBatchNorm(4.0)
    with pytest.raises(TypeError, match=r"dtype must be torch.float32 or torch.float64"):
        GBWBatchNorm(4, dtype=torch.float16)
    layer = GBWBatchNorm(4)
    with pytest.raises(ValueError, match="keeps statistics for training"):
        layer.train_momentum = 0.5
    with pytest.raises(NotPositiveDefiniteError):
        layer.M = -torch.eye(4)
    with pytest.raises(ValueError, match="value must have shape"):
        layer.W = torch.eye(3)


@pytest.mark.parametrize("param", ["exp", "geoopt"])
def test_learnable_parts(param):
    layer = GBWBatchNorm(4, param=param)
    assert {n.split(".")[0] for n, _ in layer.named_parameters()} == {"s", "metric_matrix", "bias_matrix"}
    fixed = GBWBatchNorm(4, param=param, learn_metric=False, bias=False, scale=False)
    assert not list(fixed.parameters())
    fixed.M = 2 * torch.eye(4)
    torch.testing.assert_close(fixed.M, 2 * torch.eye(4, dtype=D))
    layer.M = layer.W = 2 * torch.eye(4)
    torch.testing.assert_close(layer.M, 2 * torch.eye(4, dtype=D))
    layer.reset_parameters()
    assert torch.equal(layer.M, torch.eye(4, dtype=D))


def test_weight_decay_spares_points_of_manifolds():
    net = SPDNet([6, 4], "gbw", 3)
    groups = parameter_groups(net, 0.1)
    names = {id(p): n for n, p in net.named_parameters()}
    assert [{names[id(p)] for p in g["params"]} for g in groups] == [
        {"classifier.last.weight"},
        {
            "blocks.0.0.stiefel.weight",
            "blocks.0.1.s",
            "blocks.0.1.bias_matrix.weight",
            "blocks.0.1.metric_matrix.weight",
            "classifier.last.bias",
        },
    ]
    assert [g["weight_decay"] for g in groups] == [0.1, 0.0]
    before = net.blocks[0][1].M.detach().clone()
    optimizer = torch.optim.SGD(groups, lr=0.1)
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert torch.equal(net.blocks[0][1].M, before)
    head = parameter_groups(SPDNet([6, 4], None, 3, head="mlr"), 0.1)
    assert [len(g["params"]) for g in head] == [1, 2]


@pytest.mark.slow
def test_compiled_training_does_not_recompile(spd):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain, layer = make("gbw", train_momentum=0.5), make("gbw", train_momentum=0.5)
    step = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for i in range(4):
        for made in (plain, layer):
            made.train_momentum = 0.9 - 0.1 * i
        X = spd(5)
        a, b = X.clone().requires_grad_(), X.clone().requires_grad_()
        out, want = step(a), plain(b)
        torch.testing.assert_close(out, want, rtol=0, atol=1e-12)
        G = torch.randn_like(out)
        torch.testing.assert_close(
            torch.autograd.grad((out * G).sum(), a)[0], torch.autograd.grad((want * G).sum(), b)[0], rtol=0, atol=1e-10
        )
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(layer.get_buffer(name), buffer, rtol=0, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_data_parallel_replica(spd):
    net = nn.DataParallel(SPDNet([4, 3], n_classes=2))  # without devices it runs the module itself
    assert net(spd(5)).shape == (5, 2)
    assert "module.blocks.0.1.running_mean" in net.state_dict()


def test_diagnostics(spd):
    layer = make("gbw", karcher_steps=60)
    layer(spd(6))
    report = layer.diagnostics()
    assert set(report) == {"condition_M", "condition_W", "condition_running_mean", "domain_violation_rate", "mean_residual"}
    assert report["mean_residual"] < 1e-10 < make_residual(spd)
    assert report["condition_M"] == pytest.approx(1.0)
    assert "condition_M" in DomainSPDBatchNorm(4, "gbw", ["a"]).diagnostics()


def make_residual(spd):
    layer = make("gbw", karcher_steps=0)
    layer(spd(6))
    return layer.diagnostics()["mean_residual"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["gbw", *METRICS])
def test_on_a_gpu_without_synchronisation(spd, kind):
    X = spd(6)
    want = make(kind)(X)
    layer = make(kind).cuda()
    torch.testing.assert_close(layer(X.cuda()).cpu(), want, rtol=0, atol=1e-9)
    torch.cuda.set_sync_debug_mode("error")
    try:
        layer(X.cuda())
    finally:
        torch.cuda.set_sync_debug_mode("default")
