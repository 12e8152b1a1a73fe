"""The collector: what it adds up, whatever the batches look like."""

import contextlib
import socket
import warnings

import peft
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.utils.data import DataLoader

from peft_loldu_corda import CalibrationError, InputStats, LolduConfig, Moment, collect_input_stats
from peft_loldu_corda._reference import second_moment_reference

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")
D = torch.float64


class Net(nn.Module):
    """Two layers that read one tensor, a third after them, and one that only some calls use."""

    def __init__(self, n=6):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c, self.rare = nn.Linear(n, 5), nn.Linear(n, 5), nn.Linear(5, 3), nn.Linear(n, 2)

    def forward(self, x, attention_mask=None, rare=False):
        if rare:
            self.rare(x)
        return self.c(torch.relu(self.a(x) * self.b(x)))


def inputs(k=5, n=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(3, 7, n, generator=g, dtype=D) + 0.3 for _ in range(k)]


def collect(data, net=None, targets=("a", "b", "c"), **options):
    return collect_input_stats(net or Net().to(D), data, target_modules=list(targets), **({"dtype": D} | options))


def second(net, x):
    return torch.relu(net.a(x) * net.b(x)).detach()


def assert_equal_stats(first, other, **tolerance):
    assert first.tokens == other.tokens
    assert list(first) == list(other)
    for name in first:
        torch.testing.assert_close(first[name], other[name], **tolerance)
        torch.testing.assert_close(first.mean_abs(name), other.mean_abs(name), **tolerance)


@pytest.mark.parametrize("normalize", ["none", "max"])
def test_equals_the_literal_sum(normalize):
    net, data = Net().to(D), inputs()
    stats = collect(data, net, normalize=normalize)
    torch.testing.assert_close(stats["a"], second_moment_reference(data, normalize=normalize))
    torch.testing.assert_close(stats["b"], stats["a"])
    torch.testing.assert_close(stats["c"], second_moment_reference([second(net, x) for x in data], normalize=normalize))
    torch.testing.assert_close(stats.mean_square("a"), stats["a"].diagonal())
    assert stats.tokens == dict.fromkeys("abc", 105)
    assert stats.calls == dict.fromkeys("abc", 5)
    if normalize == "none":
        torch.testing.assert_close(stats.mean_abs("a"), torch.cat(data).reshape(-1, 6).abs().mean(0))


def test_float32_sums_are_close_to_float64():
    data = inputs(20)
    a, b = collect(data), collect([x.float() for x in data], Net(), dtype=torch.float32)
    for name in a:
        torch.testing.assert_close(b[name].double(), a[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", ["one call", "single rows", "no batch", "4d", "reversed"])
def test_batch_layout_and_order_do_not_matter(layout):
    data = inputs()
    flat = torch.cat([x.reshape(-1, 6) for x in data])
    other = {
        "one call": [flat.reshape(15, 7, 6)],
        "single rows": list(flat),  # (n,)
        "no batch": list(flat.reshape(5, 21, 6)),  # (t, n)
        "4d": list(flat.reshape(5, 3, 7, 1, 6)),
        "reversed": data[::-1],
    }[layout]
    assert_equal_stats(collect(data), collect(other))


def test_padding_is_left_out():
    data = inputs()
    g = torch.Generator().manual_seed(1)
    masks = [torch.rand(3, 7, generator=g) > 0.4 for _ in data]
    alone = collect([x[m] for x, m in zip(data, masks, strict=True)])
    for batches in (
        [{"x": x, "attention_mask": m} for x, m in zip(data, masks, strict=True)],
        [{"x": x, "attention_mask": m.long()} for x, m in zip(data, masks, strict=True)],
        [(x, m) for x, m in zip(data, masks, strict=True)],  # by position
    ):
        assert_equal_stats(collect(batches), alone)
    # what stands in the padding does not matter, not even NaN
    dirty = [{"x": x.masked_fill(~m[..., None], float("nan")), "attention_mask": m} for x, m in zip(data, masks, strict=True)]
    assert_equal_stats(collect(dirty), alone)
    # an input flattened to (b t, n) takes the mask of (b, t)
    flat = [{"x": x.reshape(-1, 6), "attention_mask": m} for x, m in zip(data, masks, strict=True)]
    assert_equal_stats(collect(flat), alone)


@pytest.mark.parametrize("kind", ["llama", "roberta", "t5"])
def test_padding_in_models(kind, tiny):
    t = tiny(kind)
    ids = t.inputs["input_ids"].clone()
    mask = torch.ones_like(ids)
    mask[1, -4:], mask[2, -2:] = 0, 0
    ids[mask == 0] = 2
    if kind == "t5":
        labels = torch.where(mask == 1, ids, -100)
        padded = [{"input_ids": ids, "attention_mask": mask, "labels": labels}]
        single = [{"input_ids": i[None, :k], "labels": i[None, :k]} for i, k in zip(ids, mask.sum(1).tolist(), strict=True)]
    else:
        padded = [{"input_ids": ids, "attention_mask": mask}]
        single = [{"input_ids": i[None, :k]} for i, k in zip(ids, mask.sum(1).tolist(), strict=True)]
    t.model.to(D)
    a, b = (collect_input_stats(t.model, data, target_modules=t.targets, dtype=D) for data in (padded, single))
    assert set(a.tokens.values()) == {21}
    assert_equal_stats(a, b, rtol=1e-9, atol=1e-9)


def test_a_mask_that_fits_nothing_is_mentioned(caplog):
    collect([{"x": inputs(1)[0], "attention_mask": torch.tensor([[1, 1, 0]])}])
    assert "no mask of shape (1, 3) fits the input (3, 7, 6) of a" in caplog.text


def test_halves_make_a_whole(tmp_path):
    data = inputs(6)
    whole, first, rest = collect(data), collect(data[:2]), collect(data[2:])
    assert_equal_stats(first + rest, whole)
    assert_equal_stats(collect(data[2:], initial=first), whole)
    assert first.tokens["a"] == 42, "the first half is not changed"
    first.save(tmp_path / "first.safetensors")
    assert_equal_stats(InputStats.load(tmp_path / "first.safetensors") + rest, whole)
    only = InputStats({"other": Moment(torch.eye(2, dtype=D), torch.ones(2, dtype=D), 1, 1)})
    assert list(first + only) == ["a", "b", "c", "other"]


def test_files(tmp_path):
    stats = collect(inputs())
    stats.save(tmp_path / "deep" / "stats.safetensors")
    again = InputStats.load(tmp_path / "deep" / "stats.safetensors")
    assert_equal_stats(again, stats)
    assert (again.normalize, again.batches) == ("none", 5)
    assert [f.name for f in (tmp_path / "deep").iterdir()] == ["stats.safetensors"], "nothing half-written remains"
    # a and b read one tensor: it is stored once
    size = (tmp_path / "deep" / "stats.safetensors").stat().st_size
    assert size < 8 * (36 + 6 + 25 + 5) + 1200
    assert again.to(torch.float32)["a"].dtype == torch.float32
    assert "3 layers" in repr(stats)


class InterruptedRunError(Exception):
    pass


@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, storage):
    data = inputs(7)
    seen = []

    def batches(stop):
        for i, x in enumerate(data):
            if i == stop:
                raise InterruptedRunError
            seen.append(i)
            yield x

    options = {"checkpoint": tmp_path / "run.safetensors", "checkpoint_every": 2}
    options |= {"storage": tmp_path / "sums"} if storage == "disk" else {}
    with pytest.raises(InterruptedRunError):
        collect(batches(5), **options)
    assert InputStats.load(tmp_path / "run.safetensors").batches == 4
    resumed = collect(batches(None), **options)
    assert_equal_stats(resumed, collect(data))
    assert resumed.batches == 7
    assert_equal_stats(collect(batches(None), **options), resumed)  # finished: nothing is added


def test_sums_in_files(tmp_path):
    stats = collect(inputs(), storage=tmp_path / "sums")
    assert sorted(f.name for f in (tmp_path / "sums").iterdir()) == ["a.bin", "b.bin", "c.bin"]
    assert_equal_stats(stats, collect(inputs()))
    assert_equal_stats(collect(inputs(2), storage=tmp_path / "sums"), collect(inputs(2)))  # what an old run left is not added to


def test_max_tokens_is_exact():
    data = inputs(5)
    flat = torch.cat([x.reshape(-1, 6) for x in data])
    for limit in (1, 21, 50, 1000):
        stats = collect(data, max_tokens=limit)
        assert set(stats.tokens.values()) == {min(limit, 105)}
        torch.testing.assert_close(stats["a"], second_moment_reference([flat[:limit]]))
        assert stats.batches == min(-(-limit // 21), 5)


def test_a_function_may_run_the_model():
    net, data = Net().to(D), inputs()
    assert_equal_stats(collect(lambda: [net(x) for x in data], net), collect(data))


def test_data_loaders():
    flat = torch.cat([x.reshape(-1, 6) for x in inputs()])
    assert_equal_stats(collect(DataLoader(flat, batch_size=8)), collect(inputs()))


def test_the_model_is_left_as_it_was():
    net = Net().to(D).train()
    net.c.eval()
    before = {m: m.training for m in net.modules()}
    for data in (inputs(1), [torch.full((2, 6), float("nan"), dtype=D)]):
        with contextlib.suppress(CalibrationError):
            collect(data, net)
        assert {m: m.training for m in net.modules()} == before
        assert not any(m._forward_pre_hooks or m._forward_hooks for m in net.modules())
        assert all(p.grad is None for p in net.parameters())


def test_layers_without_tokens_are_named_or_skipped():
    with pytest.raises(CalibrationError, match=r"no token reached 1 of 4 layers: rare; use more data, or on_missing='skip'"):
        collect(inputs(), targets=("a", "b", "c", "rare"))
    assert list(collect(inputs(), targets=("a", "rare"), on_missing="skip")) == ["a"]
    data = [{"x": inputs()[0], "rare": True}, {"x": inputs()[1]}]
    assert collect(data, targets=("a", "rare")).tokens == {"a": 42, "rare": 21}


@pytest.mark.parametrize("normalize", ["none", "max"])
def test_dead_inputs_are_no_error(normalize):
    """After a ReLU that never fires, peft divides by a maximum of 0."""
    net = Net().to(D)
    with torch.no_grad():
        net.a.weight.zero_(), net.a.bias.zero_()
    stats = collect(inputs(), net, normalize=normalize)
    assert torch.equal(stats["c"], torch.zeros(5, 5, dtype=D))
    assert stats.tokens["c"] == 105


def test_non_finite_inputs_name_the_layer():
    net = Net().to(D)
    with torch.no_grad():
        net.a.weight.fill_(float("inf"))
    with pytest.raises(CalibrationError, match="input of layer 'c' holds NaN or infinity"):
        collect([x.abs() for x in inputs()], net)


def test_shared_inputs_are_multiplied_once(monkeypatch):
    """q, k and v read one tensor: after the first forward, one product serves all of them."""
    products = []
    multiply = torch.mm

    def counted(a, b, **kwargs):
        products.append(a.shape)
        return multiply(a, b, **kwargs)

    monkeypatch.setattr(torch, "mm", counted)
    collect(inputs(4))
    assert len(products) == 3, "one in each forward but the first"


def test_an_input_changed_in_place_is_another_input():
    class Changing(Net):
        def forward(self, x, attention_mask=None):
            x = x.clone()
            y = self.a(x)
            x += 1
            return self.c(torch.relu(y * self.b(x)))

    net = Changing().to(D)
    stats = collect(inputs(3), net)
    torch.testing.assert_close(stats["b"], second_moment_reference([x + 1 for x in inputs(3)]))


def test_adapted_models_are_collected_under_the_names_of_the_base():
    net = Net().to(D)
    plain = collect(inputs(), net)
    model = peft.get_peft_model(net, LolduConfig(r=2, target_modules=["a", "c"]))
    assert_equal_stats(collect(inputs(), model), plain)


def test_half_precision_models():
    data = [x.bfloat16() for x in inputs()]
    stats = collect(data, Net().bfloat16(), dtype=torch.float32)
    torch.testing.assert_close(stats["a"].double(), second_moment_reference(data), rtol=1e-4, atol=1e-4)


def _worker(rank, port, queue):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    data = inputs(5)
    stats = collect(data[:2] if rank == 0 else data[2:]).all_reduce()
    # an expert that only one process meets
    uneven = collect([{"x": inputs()[0], "rare": rank == 1}], targets=("a", "rare"), on_missing="skip").all_reduce()
    found = {name: (stats[name].numpy(), stats.mean_abs(name).numpy()) for name in stats}
    queue.put((rank, found, stats.tokens, stats.batches, uneven.tokens, uneven["rare"].numpy()))
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_two_processes_are_one():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    context = mp.get_context("fork")  # a new interpreter would spend its time importing transformers
    queue = context.Queue()
    workers = [context.Process(target=_worker, args=(rank, port, queue)) for rank in range(2)]
    for w in workers:
        w.start()
    results = [queue.get(timeout=60) for _ in workers]
    for w in workers:
        w.join(60)
        assert w.exitcode == 0
    whole = collect(inputs(5))
    for _, found, tokens, batches, uneven, rare in results:
        assert tokens == whole.tokens
        assert batches == 5
        assert uneven == {"a": 42, "rare": 21}
        torch.testing.assert_close(torch.from_numpy(rare), second_moment_reference(inputs(1)))
        for name, (C, mean_abs) in found.items():
            torch.testing.assert_close(torch.from_numpy(C), whole[name])
            torch.testing.assert_close(torch.from_numpy(mean_abs), whole.mean_abs(name))


def test_progress_is_reported():
    seen = []
    collect(inputs(4), progress=lambda done, text: seen.append((done, text)))
    assert [done for done, _ in seen] == [0.25, 0.5, 0.75, 1.0]
    assert seen[-1][1] == "batch 4, 84 tokens"


@pytest.mark.bad_input
def test_errors(tmp_path):
    net = Net().to(D)
    for options, match in (
        ({"normalize": "mean"}, "normalize must be one of"),
        ({"on_missing": "ignore"}, "on_missing must be one of"),
        ({"dtype": torch.float16}, "dtype must be torch.float32 or torch.float64"),
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
        ({"targets": ("nothing",)}, "matches none"),
    ):
        with pytest.raises(ValueError, match=match):
            collect(inputs(), net, **options)
    with pytest.raises(ValueError, match="checkpoint needs data in batches"):
        collect(lambda: None, net, checkpoint=tmp_path / "x")
    with pytest.raises(TypeError, match="CorDA needs linear layers.* but 0 is a Embedding"):
        collect_input_stats(nn.Sequential(nn.Embedding(3, 2)), [], target_modules=["0"])
    stats = collect(inputs(), net)
    with pytest.raises(ValueError, match="normalize must be the same"):
        stats + collect(inputs(), net, normalize="max")
    with pytest.raises(ValueError, match="normalize must be that of the statistics"):
        collect(inputs(), net, initial=stats, normalize="max")
    with pytest.raises(ValueError, match="layer 'a' must have as many inputs"):
        stats + InputStats({"a": Moment(torch.eye(2), torch.ones(2), 1)})
    with pytest.raises(RuntimeError, match=r"init_process_group first"):
        stats.all_reduce()
    with pytest.raises(FileNotFoundError, match="no statistics at"):
        InputStats.load(tmp_path / "missing")
    with pytest.raises(CalibrationError, match="'a' was never given a token"):
        InputStats({"a": Moment(torch.eye(2), torch.ones(2))})["a"]
    from safetensors.torch import save_file

    save_file({"x": torch.ones(1)}, str(tmp_path / "other"))
    with pytest.raises(ValueError, match="does not hold input statistics"):
        InputStats.load(tmp_path / "other")
    stats.save(tmp_path / "there")
    with pytest.raises(ValueError, match="initial must be None when the checkpoint exists"):
        collect(inputs(), net, checkpoint=tmp_path / "there", initial=stats)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (stats + stats).tokens["a"] == 210
