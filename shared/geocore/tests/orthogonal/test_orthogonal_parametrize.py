"""Orthogonal parametrisations: orthonormal whatever the parameter, determinant under control, assignable, trainable."""

import copy
import io

import pytest
import torch
from torch import nn

from geocore.orthogonal import Orthogonal, orthogonal_, orthogonality_error, parametrize
from geocore.testing import assert_same, check_half, check_transforms

MAPS = ("exp", "cayley", "householder", "polar")
SHAPES = [(5, 5), (6, 3), (3, 6), (1, 1), (4, 1)]


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def make(n, k, kind, **options):
    generator = torch.Generator().manual_seed(0)
    module = Orthogonal(n, k, map=kind, dtype=torch.float64, generator=generator, **options)
    return module, module.reset(generator)


@pytest.mark.parametrize("kind", MAPS)
@pytest.mark.parametrize(("n", "k"), SHAPES)
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-3, 1.0, 1e3])
def test_never_anything_but_orthonormal(kind, n, k, size):
    module, _ = make(n, k, kind)
    raw = size * draw(2, *module.raw_shape())
    Q = module(raw)
    assert Q.shape == (2, n, k)
    assert orthogonality_error(Q).max() < 1e-12
    live = raw.clone().requires_grad_()
    (grad,) = torch.autograd.grad((module(live) * draw(2, n, k, seed=3)).sum(), live)
    assert torch.isfinite(grad).all()


@pytest.mark.parametrize("kind", MAPS)
@pytest.mark.parametrize("det", [1, -1])
@pytest.mark.parametrize("init", ["haar", "identity"])
def test_determinant_is_fixed(kind, det, init):
    module, start = make(4, 4, kind, det=det, init=init)
    for raw in (start, draw(10, 4, 4), 0 * draw(4, 4), draw(4, 4) * 1e-20):
        determinant = torch.linalg.det(module(raw))
        if kind == "polar" and raw.abs().max() == 0:
            assert determinant.abs().item() == pytest.approx(1)
            continue
        assert (determinant - det).abs().max() < 1e-10


@pytest.mark.parametrize("kind", MAPS)
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_right_inverse(kind, n, k):
    module, _ = make(n, k, kind)
    Q = orthogonal_(torch.empty(n, k, dtype=torch.float64), generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(module(module.right_inverse(Q)), Q, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["exp", "cayley"])
def test_without_trivialization_the_base_is_fixed(kind):
    module = Orthogonal(4, 4, map=kind, trivialize=False, dtype=torch.float64, det=1)
    Q = Orthogonal(4, 4, map="cayley", dtype=torch.float64, det=1, generator=torch.Generator().manual_seed(1))
    target = Q(Q.reset(torch.Generator().manual_seed(1)))
    raw = module.right_inverse(target)
    assert raw.abs().max() > 0.1
    torch.testing.assert_close(module(raw), target, rtol=0, atol=1e-10)
    flipped = torch.cat([target[:, :-1], -target[:, -1:]], dim=1)
    with pytest.raises(ValueError, match="determinant"):
        module.right_inverse(flipped)


@pytest.mark.parametrize("kind", MAPS)
@pytest.mark.parametrize("shape", [(6, 6), (8, 3), (3, 8)])
def test_layer_keeps_its_weight_trains_and_round_trips(kind, shape):
    torch.manual_seed(0)
    layer = nn.Linear(shape[1], shape[0])
    before = layer.weight.detach().clone()
    parametrize(layer, map=kind)
    assert (layer.weight - before).norm() < before.norm() + shape[0], "the nearest orthogonal matrix, not a random one"
    target = orthogonal_(torch.empty(shape))
    target = target if shape[0] != shape[1] or torch.linalg.det(target) * torch.linalg.det(layer.weight) > 0 else target.flip(0)
    if shape[0] == shape[1] and torch.linalg.det(target) * torch.linalg.det(layer.weight) < 0:
        target[0] *= -1
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    first = (layer.weight - target).square().sum().item()
    for _ in range(60):
        optimizer.zero_grad()
        loss = (layer.weight - target).square().sum()
        loss.backward()
        optimizer.step()
        assert orthogonality_error(layer.weight.detach()) < 1e-5
    assert loss.item() < 0.5 * first
    other = parametrize(nn.Linear(shape[1], shape[0]), map=kind)
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(other.weight, layer.weight)
    assert torch.equal(copy.deepcopy(layer).weight, layer.weight)
    layer.weight = target
    torch.testing.assert_close(layer.weight, target, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", MAPS)
def test_weight_decay_alone_never_leaves_the_manifold(kind):
    """The collapse of torch's Householder frames under weight decay must not happen here."""
    layer = parametrize(nn.Linear(4, 10, bias=False), map=kind)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0, weight_decay=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        (layer.weight.sum() * 0).backward()
        optimizer.step()
    assert orthogonality_error(layer.weight.detach()) < 1e-5


@pytest.mark.parametrize("kind", MAPS)
def test_derivatives_transforms_precision(kind, check_directional):
    module, _ = make(3, 2, kind)
    raw = draw(2, *module.raw_shape())
    check_directional(module, raw)
    check_transforms(module, raw, compile=False, compiled_transforms=False)
    check_half(Orthogonal(3, 2, map=kind), raw)


def test_maps_compile():
    """In one graph; compiled grad and jvp of what they call are checked with exp, cayley, to_matrix and polar."""
    modules = [make(3, 2, kind)[0] for kind in MAPS]
    raws = [draw(2, *m.raw_shape()) for m in modules]
    every = lambda *x: [m(raw) for m, raw in zip(modules, x, strict=True)]  # noqa: E731
    torch._dynamo.reset()
    assert_same("compiled", torch.compile(every, fullgraph=True, dynamic=True, backend="aot_eager")(*raws), every(*raws))


def test_init_and_haar_law():
    layer = parametrize(nn.Linear(5, 5), init="identity", map="cayley")
    torch.testing.assert_close(layer.weight, torch.eye(5))
    generator = torch.Generator().manual_seed(0)
    sample = orthogonal_(torch.empty(4000, 3, 3, dtype=torch.float64), det=1, generator=generator)
    assert (torch.linalg.det(sample) - 1).abs().max() < 1e-12
    assert sample.mean(0).abs().max() < 0.05
    assert (sample.square().mean(0) - 1 / 3).abs().max() < 0.02
    assert orthogonal_(torch.empty(3, 5, dtype=torch.bfloat16), gain=2.0).float().square().sum(-1) == pytest.approx(4.0, rel=0.05)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: Orthogonal(3, map="qr"), ValueError, "map must be one of"),
        (lambda: Orthogonal(3, 2, det=1), ValueError, "square matrices only"),
        (lambda: Orthogonal(3, det=2), ValueError, "det must be None"),
        (lambda: Orthogonal(0), ValueError, "n must be at least 1"),
        (lambda: Orthogonal(3)(torch.zeros(2, 2)), ValueError, r"raw must have shape \(..., 3, 3\)"),
        (lambda: Orthogonal(3).right_inverse(torch.zeros(2, 2)), ValueError, r"Q must have shape \(3, 3\)"),
        (lambda: Orthogonal(2, det=1).right_inverse(torch.diag(torch.tensor([1.0, -1.0]))), ValueError, r"determinant \+1, got -1"),
        (lambda: parametrize(nn.Linear(3, 3), "weigth"), ValueError, "'weigth' is none"),
        (lambda: parametrize(nn.Linear(3, 3), "bias"), ValueError, r"a parameter of shape \(3,\)"),
        (lambda: orthogonal_(torch.zeros(3)), ValueError, r"shape \(..., n, k\)"),
    ],
)
def test_errors(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
