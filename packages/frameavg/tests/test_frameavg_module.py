"""Inputs of every shape and structure, sampling, chunks, masks, and what is refused."""

from typing import NamedTuple

import pytest
import torch
from torch import nn

from frameavg import (
    Averaged,
    Frame,
    FrameAveraging,
    PCAFrame,
    PermutationFrame,
    StochasticFrame,
    WeightedFrame,
    canonicalize,
    frame_average,
)
from geocore import so3

F64 = {"dtype": torch.float64}


def scalar_net(n: int = 6, d: int = 3, out: int = 2) -> nn.Module:
    return nn.Sequential(nn.Flatten(-2), nn.Linear(n * d, 16), nn.Tanh(), nn.Linear(16, out)).double()


def turn(x: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    R = so3.random((), generator=g, **F64)
    t = torch.randn(3, generator=g, **F64)
    return x @ R.T + t, R, t


@pytest.mark.parametrize("batch", [(), (1,), (4,), (2, 3), (0,)])
def test_any_batch_shape(batch):
    net = scalar_net()
    model = FrameAveraging(net, PCAFrame(3, "SE"))
    x = torch.randn(*batch, 6, 3, **F64)
    y = model(x)
    assert y.shape == (*batch, 2)
    for flat, out in zip(x.reshape(-1, 6, 3), y.reshape(-1, 2), strict=True):
        assert torch.allclose(model(flat), out, atol=1e-14)


class Out(NamedTuple):
    energy: torch.Tensor
    force: torch.Tensor


def test_several_inputs_and_outputs():
    def net(x, v, charge, *, scale, table):
        assert table.shape == (7, 2)  # not of the batch: passed on
        h = (x**3 + v * scale[:, None, None] + charge).cumsum(-1)
        return Out(h.prod(-1).sum(-1), {"position": x + h, "stress": torch.einsum("bni,bnj->bij", h, v)})

    model = FrameAveraging(
        net, PCAFrame(3, "SE"), ("position", "vector", "invariant"), ("invariant", {"position": "position", "stress": "tensor(2)"})
    )
    x, v, charge = torch.randn(4, 6, 3, **F64), torch.randn(4, 6, 3, **F64), torch.randn(4, 6, 1, **F64)
    options = {"scale": torch.randn(4, **F64), "table": torch.randn(7, 2, **F64)}
    y = model(x, v, charge, **options)
    moved, R, t = turn(x)
    z = model(moved, v @ R.T, charge, **options)
    assert isinstance(z, Out)
    assert torch.allclose(z.energy, y.energy, atol=1e-11)
    assert torch.allclose(z.force["position"], y.force["position"] @ R.T + t, atol=1e-11)
    assert torch.allclose(z.force["stress"], R @ y.force["stress"] @ R.T, atol=1e-11)


def test_dict_inputs_and_keyword_types():
    def net(batch, *, velocity):
        return batch["pos"] ** 3 @ batch["cell"] + velocity

    x, cell, v = torch.randn(2, 5, 3, **F64), torch.randn(2, 3, 3, **F64), torch.randn(2, 5, 3, **F64)
    inputs = {"numbers": torch.arange(10).reshape(2, 5), "pos": x, "cell": cell}
    direct = FrameAveraging(lambda b: net(b, velocity=0.0), PCAFrame(3, "SE"), {"pos": "position", "cell": "vector"}, "vector")
    moved, R, _ = turn(x)
    turned = {**inputs, "pos": moved, "cell": cell @ R.T}
    assert torch.allclose(direct(turned), direct(inputs) @ R.T, atol=1e-11)

    named = FrameAveraging(lambda *, pos, v: pos**3 + v, PCAFrame(3, "SE"), {"pos": "position", "v": "vector"}, "vector")
    assert torch.allclose(named(pos=moved, v=v @ R.T, frame_input="pos"), named(pos=x, v=v, frame_input="pos") @ R.T, atol=1e-11)
    picked = named(pos=x, v=v, frame_input=lambda *, pos, v: pos)
    assert torch.equal(picked, named(pos=x, v=v, frame_input="pos"))


def test_ragged_batches_equal_single_items():
    def net(x, f, *, batch, edge_index):
        send, receive = edge_index
        h = torch.zeros_like(x).index_add(0, receive, (x[send] - x[receive]) ** 3 * f[send, None]).cumsum(-1)
        items = int(batch.max()) + 1
        return torch.zeros(items, dtype=x.dtype).index_add(0, batch, (h * x).prod(-1)), x + h

    model = FrameAveraging(net, PCAFrame(3, "SE"), ("position", "invariant"), ("invariant", "position"))
    sizes = (6, 4, 9)
    xs = [torch.randn(n, 3, **F64) for n in sizes]
    fs = [torch.randn(n, **F64) for n in sizes]
    edges = [torch.randint(n, (2, 2 * n)) for n in sizes]
    starts = torch.tensor([0, 6, 10])
    batch = torch.arange(3).repeat_interleave(torch.tensor(sizes))
    joined = torch.cat([e + s for e, s in zip(edges, starts, strict=True)], 1)
    energy, positions = model(torch.cat(xs), torch.cat(fs), batch=batch, edge_index=joined)
    for i, (x, f, e) in enumerate(zip(xs, fs, edges, strict=True)):
        alone = model(x, f, batch=torch.zeros(len(x), dtype=torch.long), edge_index=e)
        assert torch.allclose(alone[0][0], energy[i], atol=1e-10)
        assert torch.allclose(alone[1], positions[batch == i], atol=1e-10)
    moved, R, t = turn(torch.cat(xs))
    again = model(moved, torch.cat(fs), batch=batch, edge_index=joined)
    assert torch.allclose(again[0], energy, atol=1e-10)
    assert torch.allclose(again[1], positions @ R.T + t, atol=1e-10)


def test_padding_never_reaches_the_output():
    net = scalar_net(n=8)
    model = FrameAveraging(net, PCAFrame(3, "SE"))
    x = torch.randn(3, 8, 3, **F64)
    mask = torch.arange(8) < torch.tensor([8, 5, 3])[:, None]
    y = model(x, mask=mask)
    assert torch.equal(model(torch.where(mask[..., None], x, torch.nan), mask=mask), y)
    moved, _, _ = turn(x)
    assert torch.allclose(model(moved, mask=mask), y, atol=1e-12)
    short = FrameAveraging(lambda z: net(nn.functional.pad(z, (0, 0, 0, 3))), PCAFrame(3, "SE"))
    assert torch.allclose(short(x[1, :5]), y[1], atol=1e-13)


def test_mask_is_handed_on_where_it_is_taken():
    seen = []

    class Net(nn.Module):
        def forward(self, x, mask):
            seen.append(mask.shape)
            return (x**3 * mask[..., None]).sum(-2).cumsum(-1)

    FrameAveraging(Net(), PCAFrame(3, "SE"))(torch.randn(2, 5, 3), mask=torch.ones(2, 5, dtype=torch.bool))
    assert seen == [(8, 5)]


def test_weights_make_the_frame():
    net = scalar_net()
    x, w = torch.randn(2, 6, 3, **F64), torch.rand(2, 6, **F64)
    moved, _, _ = turn(x)
    model = FrameAveraging(net, PCAFrame(3, "SE"))
    assert torch.allclose(model(moved, weights=w), model(x, weights=w), atol=1e-12)
    assert (model(x, weights=w) - model(x)).abs().max() > 1e-4


@pytest.mark.parametrize("chunk", [1, 3, 8, 100])
@pytest.mark.parametrize("frame", [PCAFrame(3, "E"), WeightedFrame(3, "SE")], ids=["uniform", "weighted"])
def test_chunks_change_nothing(frame, chunk):
    net = scalar_net()
    x = torch.randn(2, 6, 3, **F64, requires_grad=True)
    whole, parts = FrameAveraging(net, frame)(x), FrameAveraging(net, frame, chunk=chunk)(x)
    assert torch.allclose(whole, parts, atol=1e-14)
    params = [x, *net.parameters()]
    for a, b in zip(torch.autograd.grad(whole.sum(), params), torch.autograd.grad(parts.sum(), params), strict=True):
        assert torch.allclose(a, b, atol=1e-13)
    with torch.no_grad():
        assert torch.allclose(FrameAveraging(net, frame, chunk=chunk)(x), whole, atol=1e-14)


def test_chunks_bound_what_the_backbone_sees():
    rows = []
    model = FrameAveraging(lambda z: (rows.append(len(z)), z.sum((-2, -1)))[1], PCAFrame(3, "E"), chunk=3)
    with torch.no_grad():
        model(torch.randn(5, 6, 3))
    assert rows == [15, 15, 10]


def test_reduce_none_keeps_every_element():
    net = scalar_net()
    x = torch.randn(2, 6, 3, **F64)
    every = FrameAveraging(net, PCAFrame(3, "E"), reduce="none")(x)
    assert every.shape == (2, 8, 2)
    assert torch.allclose(every.mean(1), FrameAveraging(net, PCAFrame(3, "E"))(x), atol=1e-14)
    assert torch.allclose(FrameAveraging(net, PCAFrame(3, "E"), reduce="none", chunk=3)(x), every, atol=1e-14)


def test_samples_train_and_whole_frame_in_evaluation():
    net = scalar_net()
    x = torch.randn(64, 6, 3, **F64)
    model = FrameAveraging(net, PCAFrame(3, "SE"), train_samples=1)
    whole = FrameAveraging(net, PCAFrame(3, "SE"))(x)
    rows = []
    net.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    y = model.train()(x)
    assert torch.equal(model.eval()(x), FrameAveraging(net, PCAFrame(3, "SE"))(x))
    assert rows[:2] == [64, 256]
    assert (y - whole).abs().max() > 1e-3
    assert FrameAveraging(net, PCAFrame(3, "SE"), n_samples=1).train_samples == 1
    assert FrameAveraging(net, PCAFrame(3, "SE"), eval_samples=2).eval()(x, return_frame=True).frame.size == 2


def test_samples_are_independent_reproducible_and_unbiased():
    net = scalar_net()
    x = torch.randn(1, 6, 3, **F64)
    whole = FrameAveraging(net, PCAFrame(3, "SE"))(x)[0]
    many = x.expand(4000, 6, 3)

    def draw(seed):
        return FrameAveraging(net, PCAFrame(3, "SE"), n_samples=1, generator=torch.Generator().manual_seed(seed))(many)

    y = draw(0)
    assert torch.equal(y, draw(0))
    assert not torch.equal(y, draw(1))
    assert len({tuple(row) for row in y.round(decimals=8).tolist()}) == 4  # copies of one item got different elements
    assert ((y.mean(0) - whole).abs() < 4 * y.std(0) / 4000**0.5).all()


def test_stochastic_frame():
    frame = StochasticFrame(PCAFrame(3, "SE"), 2, torch.Generator().manual_seed(0))
    assert frame(torch.randn(5, 6, 3)).size == 2
    assert FrameAveraging(scalar_net(), frame)(torch.randn(5, 6, 3, **F64)).shape == (5, 2)
    assert "n_samples=2" in repr(frame)


def test_return_frame_tells_what_was_used():
    result = FrameAveraging(scalar_net(), PCAFrame(3, "SE"))(torch.randn(5, 6, 3, **F64), return_frame=True)
    assert isinstance(result, Averaged)
    assert isinstance(result.frame, Frame)
    assert not result.frame.info.degenerate.any()


def test_a_learned_canonicaliser_is_a_frame():
    class Canonicaliser(nn.Module):
        """Gram-Schmidt of two learned combinations of the points."""

        def __init__(self):
            super().__init__()
            self.mix = nn.Parameter(torch.randn(2, 6, **F64))

        def forward(self, x):
            t = x.mean(-2)
            return so3.from_6d((self.mix @ (x - t.unsqueeze(-2))).flatten(-2)), t

    frame = Canonicaliser()
    model = FrameAveraging(scalar_net(), frame)
    x = torch.randn(4, 6, 3, **F64)
    y = model(x)
    assert torch.allclose(model(turn(x)[0]), y, atol=1e-12)
    assert torch.autograd.grad(y.sum(), frame.mix)[0].abs().max() > 0
    assert dict(model.named_parameters()).keys() >= {"frame.mix"}


def test_graph_types():
    model = FrameAveraging(
        lambda A, h: (A.flatten(-2).cumsum(-1).sin().sum(-1), h * torch.arange(6.0, **F64)[:, None]),
        PermutationFrame(),
        ("edge", "node"),
        ("invariant", "node"),
    )
    A = torch.bernoulli(torch.full((6, 6), 0.5, **F64)).triu(1)
    A = A + A.T
    h = torch.randn(6, 2, **F64)
    p = torch.randperm(6)
    scalar, nodes = model(A, h)
    moved = model(A[p][:, p], h[p])
    assert torch.allclose(moved[0], scalar, atol=1e-12)
    assert torch.allclose(moved[1], nodes[p], atol=1e-12)


@pytest.mark.parametrize("group", ["SE", "E", "SO"])
def test_canonical_pose(group):
    x = torch.randn(5, 7, 3, **F64)
    frame = PCAFrame(3, group)
    pose, restore = canonicalize(x, frame)
    moved = turn(x)[0] if group != "SO" else turn(x)[0] - turn(x)[2]
    assert torch.allclose(canonicalize(moved, frame)[0], pose, atol=1e-11)
    assert torch.allclose(restore(pose), x, atol=1e-12)
    assert torch.allclose(restore(torch.eye(3, **F64).expand(5, 3, 3), "tensor(2)"), torch.eye(3, **F64), atol=1e-12)


def test_half_the_rotations_are_one_pose_apart_for_symmetric_clouds():
    """A cloud with no third moment still has one pose for all its turns, decided by the order of points."""
    half = torch.randn(1, 5, 3, **F64)
    x = torch.cat([half, -half], 1)
    pose, _ = canonicalize(x, PCAFrame(3, "SE"))
    for seed in range(8):
        assert torch.allclose(canonicalize(turn(x, seed)[0], PCAFrame(3, "SE"))[0], pose, atol=1e-11)


def test_compiled_and_exported():
    model = FrameAveraging(scalar_net(), PCAFrame(3, "SE")).eval()
    x = torch.randn(4, 6, 3, **F64)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(x), model(x), atol=1e-13)
    exported = torch.export.export(model, (x,), dynamic_shapes=(({0: torch.export.Dim("b", min=2, max=64)},),))
    more = torch.randn(7, 6, 3, **F64)
    assert torch.allclose(exported.module()(more), model(more), atol=1e-13)


def test_state_dict_is_that_of_the_backbone():
    model = FrameAveraging(scalar_net(), PCAFrame(3, "SE"))
    assert {name.removeprefix("backbone.") for name in model.state_dict()} == set(model.backbone.state_dict())
    assert "PCAFrame" in repr(model)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("change", "call", "error", "message"),
    [
        ({"in_types": "spin"}, {}, ValueError, "spin"),
        ({"out_types": "spin"}, {}, ValueError, "spin"),
        ({"out_types": "vector"}, {}, ValueError, r"size 3.*2"),
        ({"in_types": ("position", "vector")}, {}, ValueError, "in_types must have one entry for each of the 1 positional inputs, got 2"),
        ({"in_types": {"v": "vector"}}, {}, ValueError, "in_types name inputs"),
        ({"out_types": {"energy": "invariant"}}, {}, ValueError, "one type for one tensor"),
        ({}, {"frame_input": 3}, ValueError, "frame_input must name an input"),
        ({}, {"mask": torch.ones(2, 5, dtype=torch.bool)}, ValueError, "mask must have one entry a point"),
        ({}, {"weights": torch.ones(2)}, ValueError, "weights must have one entry a point"),
    ],
)
def test_bad_calls_are_refused(change, call, error, message):
    model = FrameAveraging(scalar_net(), PCAFrame(3, "SE"), **change)
    with pytest.raises(error, match=message):
        model(torch.randn(2, 6, 3, **F64), **call)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_samples": 0}, ValueError, "n_samples must be"),
        ({"chunk": 0}, ValueError, "chunk must be"),
        ({"n_samples": 1, "train_samples": 2}, ValueError, "mean the same"),
        ({"reduce": "max"}, ValueError, "reduce must be one of"),
        ({"frame": "SE"}, TypeError, "frame must be callable"),
        ({"backbone": 3}, TypeError, "backbone must be"),
    ],
)
def test_bad_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        FrameAveraging(**({"backbone": scalar_net(), "frame": PCAFrame(3)} | options))


@pytest.mark.bad_input
def test_bad_backbones_and_frames_are_refused():
    x = torch.randn(2, 6, 3, **F64)
    with pytest.raises(ValueError, match="output must start with the batch axes"):
        frame_average(lambda z: z.sum(), x, PCAFrame(3, "SE"))
    with pytest.raises(TypeError, match="outputs must be floating"):
        frame_average(lambda z: z.sum(-1).argmax(-1), x, PCAFrame(3, "SE"))
    with pytest.raises(TypeError, match="frame must return"):
        frame_average(lambda z: z.sum(-1), x, lambda x: "upright")
    with pytest.raises(ValueError, match="frame must give one matrix an item"):
        frame_average(lambda z: z.sum(-1), x, lambda x: torch.eye(3))
    with pytest.raises(ValueError, match="2"):
        frame_average(lambda z: z.sum(-1), torch.randn(2, 6, 2), PCAFrame(3, "SE"))
    with pytest.raises(ValueError, match="frame_input must be a tensor of shape"):
        frame_average(lambda z: z, torch.randn(3), PCAFrame(3, "SE"))
