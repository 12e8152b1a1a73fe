"""ComRoPE inside a small transformer, under the tools that people run it with."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_model, save_model
from small_models import batch, make
from torch.nn import functional as F

from geocore.testing import assert_same

HERE = Path(__file__).resolve().parent
VARIANTS = ("ld", "ap", "full")


def step(model, patches, positions, labels):
    loss = F.cross_entropy(model(patches, positions), labels)
    loss.backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    return loss.detach(), grads


@pytest.mark.parametrize("variant", VARIANTS)
def test_output_ignores_a_shift_of_all_positions(variant):
    model = make(variant).double().eval()
    patches, positions, _ = batch(2)
    patches, positions = patches.double(), positions.double()
    here = model(patches, positions)
    there = model(patches, positions + torch.tensor([3.0, -7.0], dtype=torch.float64))
    assert (here - there).abs().max() < 1e-10
    assert (here - model(patches, positions.flip(-1) * 2)).abs().max() > 1e-4, "positions must matter"


@pytest.mark.parametrize(("variant", "backend"), [("ld", "inductor"), ("ap", "aot_eager"), ("full", "aot_eager")])
def test_compiled_training_step_equals_eager(variant, backend):
    torch._dynamo.reset()
    data = batch(4)
    loss, grads = step(make(variant), *data)
    model = make(variant)
    compiled_loss, compiled = step(torch.compile(model, fullgraph=True, backend=backend), *data)
    assert_same("loss", compiled_loss, loss)
    assert_same("gradients", {n.removeprefix("_orig_mod."): g for n, g in compiled.items()}, grads)


def test_compiled_step_does_not_recompile():
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    model = make()
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    optimizer = torch.optim.AdamW(model.parameters())
    for seed in range(3):
        patches, positions, labels = batch(4, seed)
        optimizer.zero_grad()
        F.cross_entropy(compiled(patches, positions), labels).backward()
        optimizer.step()
    assert counter.frame_count == 1


@pytest.mark.parametrize("variant", VARIANTS)
def test_folded_model_is_equal_and_exports_with_a_dynamic_batch(variant):
    model = make(variant).eval()
    patches, positions, _ = batch(4)
    with torch.no_grad():
        expected = model(patches, positions)
        folded = model.fold()
        assert_same("folded", folded(patches, positions), expected, 2e-5)
    size = torch.export.Dim("size", min=2, max=512)
    program = torch.export.export(folded, (patches, positions), dynamic_shapes=({0: size}, None))
    more, _, _ = batch(7, seed=1)
    assert_same("exported", program.module()(more, positions), folded(more, positions))


def test_two_processes_equal_one(tmp_path):
    patches, positions, labels = batch(8)
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(patches, positions), labels).backward()
        optimizer.step()

    out = tmp_path / "rank0.pt"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, str(HERE / "ddp_comrope.py")]
    workers = [
        subprocess.Popen([*command, str(rank), "2", str(tmp_path / "store"), str(out)], env=environment, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    errors = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], errors
    found = torch.load(out, weights_only=True)
    assert_same("gradients", found["grad"], {n: p.grad for n, p in model.named_parameters()}, 1e-5)
    assert_same("weights", found["state"], dict(model.state_dict()), 1e-5)


def test_safetensors_round_trip(tmp_path):
    model, other = make(seed=0).eval(), make(seed=1).eval()
    patches, positions, _ = batch(3)
    save_model(model, str(tmp_path / "model.safetensors"))
    assert (model(patches, positions) - other(patches, positions)).abs().max() > 1e-3
    missing, unexpected = load_model(other, str(tmp_path / "model.safetensors"))
    assert not missing
    assert not unexpected
    assert torch.equal(model(patches, positions), other(patches, positions))


def test_training_learns_a_task_that_needs_positions():
    """Whether the bright patch is in the upper or the lower half: nothing but the positions tells."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (256,), generator=generator)
    pairs = torch.zeros(256, 16, 4)
    rows = torch.randint(0, 3, (256,), generator=generator)
    columns = torch.randint(0, 4, (256,), generator=generator)
    index = torch.arange(256)
    # Two bright patches, one above the other or side by side: relative position decides the class.
    pairs[index, rows * 4 + columns.clamp(max=2)] = 1.0
    second = torch.where(labels == 0, (rows + 1) * 4 + columns.clamp(max=2), rows * 4 + columns.clamp(max=2) + 1)
    pairs[index, second] = 1.0
    _, positions, _ = batch(1)
    model = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(pairs, positions), labels).backward()
        optimizer.step()
    accuracy = (model(pairs, positions).argmax(-1) == labels).float().mean().item()
    blind = (model(pairs, torch.zeros_like(positions)).argmax(-1) == labels).float().mean().item()
    assert accuracy > 0.95
    assert blind < 0.8
