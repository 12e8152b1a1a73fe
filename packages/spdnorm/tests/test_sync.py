"""Statistics over processes: two gloo processes with half the batch each are one process with the whole batch."""

import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from spdnorm import DomainSPDBatchNorm, GBWBatchNorm, SPDBatchNorm, SPDNet, convert_sync

D = torch.float64
CASES = {
    "gbw": lambda: GBWBatchNorm(3, theta=0.5, sync=True),
    "gbw unrolled": lambda: GBWBatchNorm(3, theta=0.5, stats_grad="unroll", karcher_steps=2, sync=True),
    "airm": lambda: SPDBatchNorm(3, "airm", train_momentum=0.4, sync=True),
    "lem unrolled": lambda: SPDBatchNorm(3, "lem", stats_grad="unroll", sync=True),
    "channels": lambda: GBWBatchNorm(3, per_channel=2, sync=True),
}


def batch(channels=False):
    g = torch.Generator().manual_seed(0)
    A = torch.randn(*((7, 2) if channels else (7,)), 3, 9, generator=g, dtype=D)
    X = A @ A.mT / 9
    return X, torch.randn(X.shape, generator=g, dtype=D)


def result(layer, X, G):
    """Output, gradients and statistics of one training step."""
    X = X.clone().requires_grad_()
    out = layer(X)
    (out * G).sum().backward()
    return {
        "out": out.detach(),
        "X": X.grad,
        **{f"grad {n}": p.grad for n, p in layer.named_parameters()},
        **{n: b.clone() for n, b in layer.named_buffers() if n.startswith(("running", "train"))},
    }


def network():
    torch.manual_seed(3)
    return SPDNet([3, 2], "gbw", 2)


def worker(rank, port, queue):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    part = slice(0, 4) if rank == 0 else slice(4, 7)  # halves need not be equal
    found = {}
    for name, make in CASES.items():
        X, G = batch(name == "channels")
        found[name] = result(make(), X[part], G[part])
    # an empty half, and one matrix in all
    X, G = batch()
    empty = GBWBatchNorm(3, sync=True)
    found["all on one"] = result(empty, X if rank == 0 else X[:0], G if rank == 0 else G[:0])
    alone = GBWBatchNorm(3, sync=True)
    found["one in all"] = result(alone, X[:1] if rank == 0 else X[:0], G[:1] if rank == 0 else G[:0])
    bad = X[part].clone()
    if rank == 0:
        bad[0, 0, 0] = float("nan")
    found["nan"] = {"out": GBWBatchNorm(3, sync=True)(bad).detach()}
    X, G = batch()
    model = nn.parallel.DistributedDataParallel(convert_sync(network()))
    model(X[part]).square().sum().backward()
    found["ddp"] = {n: p.grad for n, p in model.module.named_parameters()} | {
        "running_mean": model.module.blocks[0][1].running_mean.clone()
    }
    queue.put((rank, {k: {n: t.numpy() for n, t in v.items()} for k, v in found.items()}))
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def halves():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    context = mp.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=worker, args=(rank, port, queue)) for rank in range(2)]
    for p in processes:
        p.start()
    try:
        got = dict(queue.get(timeout=60) for _ in range(2))
    finally:
        for p in processes:
            p.join(timeout=20)
            if p.is_alive():
                p.terminate()
    return [{k: {n: torch.from_numpy(a) for n, a in v.items()} for k, v in got[r].items()} for r in range(2)]


def check(halves, name, want):
    for key, expected in want.items():
        a, b = (h[name][key] for h in halves)
        if key in ("out", "X"):
            got = torch.cat([a, b])
        elif key.startswith("grad"):
            got = a + b
        else:
            torch.testing.assert_close(a, b, rtol=0, atol=1e-13)
            got = a
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10, msg=lambda text, key=key: f"{name}, {key}: {text}")


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_halves_are_the_whole(halves, name):
    X, G = batch(name == "channels")
    check(halves, name, result(CASES[name](), X, G))  # without processes, sync changes nothing


@pytest.mark.slow
def test_unequal_parts(halves):
    X, G = batch()
    check(halves, "all on one", result(GBWBatchNorm(3), X, G))
    # the bias, as with one process; up to rounding, since how many there are is known on the device only
    torch.testing.assert_close(halves[0]["one in all"]["out"], torch.eye(3, dtype=D)[None], rtol=0, atol=1e-14)
    assert all(h["nan"]["out"].isnan().all() for h in halves)


@pytest.mark.slow
def test_distributed_data_parallel(halves):
    X, _ = batch()
    net = network()
    net(X).square().sum().backward()
    for name, p in net.named_parameters():
        a, b = (h["ddp"][name] for h in halves)
        assert torch.equal(a, b)
        torch.testing.assert_close(2 * a, p.grad, rtol=1e-10, atol=1e-10)  # DDP averages
    torch.testing.assert_close(halves[0]["ddp"]["running_mean"], net.blocks[0][1].running_mean, rtol=0, atol=1e-12)


def test_conversion():
    net = convert_sync(nn.Sequential(SPDNet([4, 3], "airm", 2), DomainSPDBatchNorm(3)), process_group="group")
    assert [(m.sync, m.process_group) for m in net.modules() if hasattr(m, "sync")] == [(True, "group")] * 2


@pytest.mark.bad_input
def test_implicit_gradients_stay_on_one_process(monkeypatch):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda group: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor, group: None)
    with pytest.raises(NotImplementedError, match="'none' or 'unroll' with sync=True"):
        GBWBatchNorm(3, stats_grad="implicit", sync=True)(batch()[0])
