"""The experiments in the smallest size, and the resumable recipe."""

import argparse

import pytest
import torch
from torch import nn

from monarch import MonarchLinear
from monarch.experiments import exactness, language_model, pde


def test_heat_equation_data_solves_the_equation():
    operator = pde.solution_operator(16)
    assert (torch.linalg.eigvals(operator).real > 0).all()
    assert torch.linalg.matrix_norm(operator, 2) < 1, "heat leaves through the ends"
    u, later = pde.data(5, seed=0)
    torch.testing.assert_close(later, (u.double() @ pde.solution_operator().T).float(), rtol=0, atol=1e-5)
    assert torch.equal(u, pde.data(5, seed=0)[0])


def test_models_start_where_they_should():
    u, _ = pde.data(3, seed=0)
    torch.testing.assert_close(pde.monarch_fft()(u), u, rtol=0, atol=1e-5)
    torch.testing.assert_close(pde.fixed_fft()(u), u, rtol=0, atol=1e-5)
    sizes = {name: sum(p.numel() for p in make().parameters()) for name, make in pde.MODELS.items()}
    assert sizes == {"Monarch from FFT": 4224, "Monarch random": 4224, "low rank": 4096, "fixed FFT": 128}


def test_exactness_table():
    rows = exactness.table()
    assert rows["DCT-II, n = 144"]["Monarch"] <= 1e-14
    # the tail of an orthogonal matrix: 144 - 24 of 144 equal singular values
    assert rows["DCT-II, n = 144"]["low rank"] == pytest.approx((120 / 144) ** 0.5)


@pytest.mark.slow
def test_character_model_learns():
    short, _ = language_model.train_char(MonarchLinear, steps=2, batch=4, lr=3e-3)
    longer, size = language_model.train_char(MonarchLinear, steps=40, batch=4, lr=3e-3, dense_from=0.5)
    assert longer < short - 0.5
    dense = sum(p.numel() for p in (nn.Linear(128, 512).weight, nn.Linear(512, 128).weight)) * 3
    assert size < 0.35 * dense


def test_low_rank_baseline_has_the_same_size():
    ours = MonarchLinear(128, 512)
    theirs = language_model.LowRank(128, 512)
    assert sum(p.numel() for p in theirs.parameters()) == pytest.approx(sum(p.numel() for p in ours.parameters()), rel=0.02)


@pytest.fixture
def text(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    words = ["the", "cat", "sat", "on", "a", "mat", "[UNK]"]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "train.txt").write_text("the cat sat on a mat\n" * 40, encoding="utf-8")
    (tmp_path / "valid.txt").write_text("a cat sat on the mat\n" * 10, encoding="utf-8")
    return tmp_path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:transformers", "ignore::FutureWarning:transformers")
def test_gpt2_recipe_resumes_exactly(text, monkeypatch):
    pytest.importorskip("transformers")
    config = {
        "n_layer": 1,
        "n_embd": 16,
        "n_head": 2,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    }

    def options(out, steps):
        return argparse.Namespace(
            data=text,
            tokenizer=str(text / "tokenizer"),
            out=str(text / out),
            steps=steps,
            batch=2,
            context=12,
            dense_from=0.5,
            save_every=3,
            validation=2,
            bf16=False,
            device="cpu",
            seed=0,
        )

    whole = language_model.train_gpt2(options("whole", 6), config=config)

    class StopError(Exception):
        pass

    original = language_model.ReverseSparsification.step

    def stop_at_four(self, i):
        if i == 4:
            raise StopError
        return original(self, i)

    with monkeypatch.context() as patch:
        patch.setattr(language_model.ReverseSparsification, "step", stop_at_four)
        with pytest.raises(StopError):
            language_model.train_gpt2(options("parts", 6), config=config)
    assert (text / "parts" / "checkpoint.pt").exists()
    assert language_model.train_gpt2(options("parts", 6), config=config) == whole


@pytest.mark.bad_input
def test_missing_text_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train\*\.txt in .*WikiText-103"):
        next(language_model.read_text(tmp_path, "train"))
