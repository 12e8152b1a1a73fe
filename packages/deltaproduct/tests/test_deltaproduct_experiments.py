"""Recipes: they resume exactly, run under torchrun, and read text as users have it."""

import json
import os
import runpy
import socket
import subprocess
import sys
import warnings
from dataclasses import replace

import pytest
import torch

from deltaproduct import tasks
from deltaproduct.experiments import s3, state_tracking
from deltaproduct.experiments._model import Shape, StateTracker, parameter_groups
from deltaproduct.experiments._text import Corpus
from deltaproduct.experiments._training import Optimisation, Place

TINY = replace(
    state_tracking.TRIAL,
    hidden_size=16,
    num_heads=2,
    head_dim=8,
    length=8,
    test_length=16,
    words=200,
    test_words=20,
    epochs=3,
    batch=32,
    micro_batch=16,
)


def weights(folder) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoint.pt", weights_only=True)["model"]


@pytest.mark.parametrize("curriculum", [False, True])
def test_resumed_equals_uninterrupted(tmp_path, curriculum):
    recipe = replace(TINY, curriculum=curriculum, learning_rate=0.03)
    whole = state_tracking.train(recipe, tmp_path / "a", device="cpu")
    lines: list[str] = []
    for until in (5, 11, None):
        parts = state_tracking.train(recipe, tmp_path / "b", device="cpu", until=until, save_every=4, say=lines.append)
    assert [line.rpartition(" ")[2] for line in lines] == ["5", "11"]
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert parts == whole
    assert json.loads((tmp_path / "a" / "results.json").read_text()) == whole


def test_full_recipe_is_the_papers():
    full = state_tracking.FULL
    assert (full.words, full.kept, full.length, full.test_length, full.epochs, full.batch) == (100_000, 99_000, 128, 512, 100, 2048)
    assert full.steps == 4800
    assert full.shape() == Shape(hidden_size=128, num_layers=1, num_heads=12, head_dim=32, num_householder=4)
    assert replace(full, group="S3").shape().num_heads == 8
    schedule = Optimisation(100, warmup=10, floor=0.1)
    assert [round(schedule.rate(s), 3) for s in (0, 9, 10, 55, 100)] == [0.1, 1.0, 1.0, 0.55, 0.1]


def test_batches_are_shared_out_and_cover_a_pass():
    words = state_tracking.Words(TINY)
    alone = torch.cat([tokens for tokens, _ in words.batches(3, Place(torch.device("cpu")))])
    shared = [torch.cat([t for t, _ in words.batches(3, Place(torch.device("cpu"), rank, 2))]) for rank in (0, 1)]
    assert torch.equal(torch.stack(shared, 1).flatten(0, 1), alone)
    every = torch.cat([t for step in range(6) for t, _ in words.batches(step, Place(torch.device("cpu")))])
    assert len(every) == 6 * 32
    assert len(torch.unique(every, dim=0)) > 180


def test_accuracy_is_counted_over_whole_prefixes():
    class Never(torch.nn.Module):
        def forward(self, tokens):
            right = tokens.clone()
            right[0, 3] = 1 - right[0, 3]  # one mistake in one of two sequences
            return torch.nn.functional.one_hot(right, 2).float()

    bits = torch.randint(2, (2, 6))
    accuracy = state_tracking.evaluate(Never(), tasks.Task(bits, bits, vocab_size=2, num_classes=2), "cpu")
    assert accuracy == {"token": [100.0] * 3 + [50.0] + [100.0] * 2, "sequence": [100.0] * 3 + [50.0] * 3}


@pytest.mark.parametrize("group", ["parity", "arithmetic", "brackets", "S3_x_Z2"])
def test_every_task_trains(group, tmp_path):
    results = state_tracking.train(replace(TINY, group=group, epochs=1, extra_tokens=1), tmp_path, device="cpu")
    assert results["step"] == 6
    assert 0 <= results["test"]["token"][-1] <= 100


def test_command_line(tmp_path, capsys):
    arguments = [
        "--out",
        str(tmp_path),
        "--words",
        "100",
        "--epochs",
        "1",
        "--batch",
        "25",
        "--length",
        "6",
        "--test-length",
        "8",
        "--device",
        "cpu",
    ]
    assert state_tracking.main([*arguments, "--max-steps", "2", "--generators", "2"]) == 0
    assert not (tmp_path / "results.json").exists()
    assert state_tracking.main([*arguments, "--generators", "2"]) == 0
    assert "whole sequences right" in capsys.readouterr().out
    assert json.loads((tmp_path / "results.json").read_text())["recipe"]["generators"] == 2


def test_no_decay_where_it_would_hurt():
    model = StateTracker(5, 5, Shape(hidden_size=8, num_heads=2, head_dim=4, use_forget_gate=True))
    kept = {id(p) for p in parameter_groups(model, 0.1)[1]["params"]}
    assert {name for name, p in model.named_parameters() if id(p) in kept} == {
        "layers.0.attn_norm.weight",
        "layers.0.mlp_norm.weight",
        "layers.0.attn.A_log",
        "layers.0.attn.dt_bias",
        "layers.0.attn.o_norm.weight",
        "norm.weight",
    }


def test_miniature_in_a_moment():
    recipe = replace(s3.MINIATURE, steps={"S3": 3, "parity": 3}, test=8, batch=8)
    seen: list[float] = []
    outcomes = s3.run(recipe=recipe, progress=lambda done, text: seen.append(done))
    assert seen[-1] == 1.0
    assert [o.model.label for o in outcomes][:2] == ["S3, n_h = 2, [-1, 1]", "S3, n_h = 1, [-1, 1]"]
    claims = s3.check_claims(outcomes)
    assert len(claims) == 5
    assert not claims[0][1]  # three steps are not enough, and it says so
    assert s3.run(recipe=recipe)[0].last == outcomes[0].last


@pytest.mark.bad_input
def test_errors(tmp_path):
    state_tracking.train(TINY, tmp_path, device="cpu", until=1)
    with pytest.raises(ValueError, match="belongs to another run"):
        state_tracking.train(replace(TINY, seed=1), tmp_path, device="cpu")
    with pytest.raises(ValueError, match="batch must be a multiple of micro_batch"):
        state_tracking.Words(replace(TINY, micro_batch=5))
    with pytest.raises(ValueError, match="strategy must be one of"):
        state_tracking.train(TINY, tmp_path, device="cpu", strategy="none")
    with pytest.raises(ValueError, match="precision must be one of"):
        Optimisation(1, precision="float8")


# --- text ---


@pytest.fixture
def text(tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "a.txt").write_text("the rain in spain stays mainly in the plain. " * 60, encoding="utf-8")
    lines = [json.dumps({"text": f"line {i} é"}) for i in range(40)]
    (folder / "b.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_corpus_of_bytes(text, tmp_path):
    corpus = Corpus(text, "bytes", tmp_path / "cache")
    first = (text / "a.txt").read_bytes()
    assert bytes(corpus.tokens[: len(first)].tolist()) == first
    assert corpus.tokens[len(first)] == 256
    assert bytes(corpus.tokens[len(first) + 1 :][:9].tolist()).decode() == "line 0 é"
    assert (corpus.tokens == 256).sum() == 41
    assert torch.equal(Corpus(text, "bytes", tmp_path / "cache").tokens, corpus.tokens)
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert sum(corpus.windows(64)) == len(corpus.tokens) // 64


@pytest.mark.bad_input
def test_errors_of_text(text, tmp_path):
    with pytest.raises(FileNotFoundError, match="FineWeb"):
        Corpus(tmp_path / "nothing", "bytes", tmp_path)
    with pytest.raises(FileNotFoundError, match="no tokenizer"):
        Corpus(text, str(tmp_path / "mistral"), tmp_path)
    with pytest.raises(ValueError, match="at least"):
        Corpus(text, "bytes", tmp_path).windows(4000)
    (text / "c.jsonl").write_text('{"body": 1}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"c\.jsonl, line 1"):
        Corpus(text, "bytes", tmp_path)


def language_recipe(text):
    from deltaproduct.experiments import language_model

    return replace(
        language_model.TRIAL,
        data=str(text),
        hidden_size=16,
        num_layers=1,
        num_heads=2,
        head_dim=8,
        context=32,
        test_context=128,
        tokens_per_step=128,
        micro_batch=2,
        steps=12,
        warmup=2,
    )


def test_language_model_resumes_and_is_saved(text, tmp_path):
    pytest.importorskip("transformers")
    from deltaproduct import DeltaProductForCausalLM
    from deltaproduct.experiments import language_model

    recipe = language_recipe(text)
    whole = language_model.train(recipe, tmp_path / "a", device="cpu")
    for until in (5, None):
        parts = language_model.train(recipe, tmp_path / "b", device="cpu", until=until)
    assert parts == whole
    assert list(whole["loss_by_position"]) == ["16", "32", "64", "127"]
    assert whole["loss"] < 5.6
    model = DeltaProductForCausalLM.from_pretrained(tmp_path / "a" / "model")
    assert all(torch.equal(x, model.state_dict()[name]) for name, x in weights(tmp_path / "a").items())
    (text / "more.txt").write_text("more", encoding="utf-8")
    with pytest.raises(ValueError, match="other text"):
        language_model.train(replace(recipe), tmp_path / "a", device="cpu")


def test_language_recipes():
    pytest.importorskip("transformers")
    from deltaproduct.experiments.language_model import FULL, build

    assert (FULL.steps, FULL.tokens_per_step, FULL.num_layers, FULL.hidden_size, FULL.heads) == (66_758, 524_288, 24, 1024, 8)
    with torch.device("meta"):
        sizes = {n: sum(p.numel() for p in build(replace(FULL, num_householder=n), 32_000).parameters()) for n in (1, 2, 3)}
    assert max(sizes.values()) / min(sizes.values()) < 1.2
    assert 3.5e8 < sizes[2] < 4.5e8


PARALLEL = """
import sys
from pathlib import Path
import torch
from dataclasses import replace
from deltaproduct.experiments import state_tracking

recipe = replace(
    state_tracking.TRIAL, hidden_size=16, num_heads=2, head_dim=8, length=8, test_length=8, words=200, test_words=8, epochs=2, batch=32,
    micro_batch=32, num_layers=2,
)

def run(out):
    torch.distributed.init_process_group("gloo")
    for strategy in ("ddp", "fsdp"):
        for until in (4, None):
            state_tracking.train(recipe, Path(out) / strategy, device="cpu", strategy=strategy, until=until)
    torch.distributed.destroy_process_group()

if __name__ == "__main__":
    run(sys.argv[1])
"""


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path, monkeypatch):
    script = tmp_path / "run.py"
    script.write_text(PARALLEL, encoding="utf-8")
    scope = runpy.run_path(str(script))
    state_tracking.train(scope["recipe"], tmp_path / "one", device="cpu")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    # what torchrun sets; this process is the first of the two
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", str(script), str(tmp_path)]
    with subprocess.Popen(command, env=os.environ | shared | {"RANK": "1", "LOCAL_RANK": "1"}, stderr=subprocess.PIPE, text=True) as second:
        for name, value in (shared | {"RANK": "0", "LOCAL_RANK": "0"}).items():
            monkeypatch.setenv(name, value)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch.distributed, about its own parts
                scope["run"](tmp_path)
        except BaseException:
            second.kill()
            raise
        assert second.wait(timeout=60) == 0, second.stderr.read()[-3000:]
    one = weights(tmp_path / "one")
    for strategy in ("ddp", "fsdp"):
        two = weights(tmp_path / strategy)
        assert one.keys() == two.keys()
        for name, x in one.items():  # sums in another order, then Adam's division by small moments
            torch.testing.assert_close(two[name], x, atol=2e-4, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}")
