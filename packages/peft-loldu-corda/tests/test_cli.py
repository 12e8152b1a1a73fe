"""The command, on a tiny model with a tokenizer in a temporary folder."""

import re

import peft
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from peft_loldu_corda import InputStats, cli

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")
runner = CliRunner()


@pytest.fixture
def folder(llama, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<s>", "<pad>", *(chr(97 + i) + chr(97 + j) for i in range(8) for j in range(7))]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>").save_pretrained(tmp_path / "model")
    llama.model.save_pretrained(tmp_path / "model")
    g = torch.Generator().manual_seed(0)
    text = " ".join(words[int(i)] for i in torch.randint(3, len(words), (400,), generator=g))
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    return tmp_path


def call(*words, code=0):
    result = runner.invoke(cli.app, [str(w) for w in words])
    # a rich error box breaks lines and draws borders
    said = re.sub(r"\s*[│╭╮╰╯─]+\s*", " ", result.output)
    said = re.sub(r"\s+", " ", re.sub(r"\x1b\[[0-9;]*m", "", said))
    assert result.exit_code == code, (result.output, result.exception)
    return said


def stats(folder, *words):
    options = ("--target", "q_proj,down_proj", "--length", 20, "--samples", 10, "--batch-size", 4)
    return call("collect", folder / "model", "--out", folder / "stats", "--text", folder / "text.txt", *options, *words)


def test_the_whole_way(folder, llama):
    assert "4 layers, up to 200 tokens" in stats(folder)
    assert InputStats.load(folder / "stats").batches == 3
    assert "up to 200 tokens" in stats(folder), "a finished run is not added to"
    table = call("inspect", folder / "stats")
    assert "model.layers.1.mlp.down_proj" in table.replace(" ", "")
    for mode in ("ipm", "kpm"):
        options = ("--stats", folder / "stats", "--rank", 4, "--target", "q_proj,down_proj", "--mode", mode)
        said = call("init", folder / "model", "--out", folder / mode, *options)
        assert "corda, 1,792 trainable numbers" in said or "corda, " in said
        model = peft.PeftModel.from_pretrained(llama.fresh(), folder / mode, is_trainable=True)
        assert torch.equal(llama.logits(model), llama.logits(llama.untouched))
        assert model.peft_config["default"].corda_mode == mode
    llama.train(model, lr=1e-2).save_pretrained(folder / "trained")
    assert "CORDA for" in call("inspect", folder / "trained")
    for format_, exact in (("lora-2r", True), ("lora-r", False)):
        said = call("convert", folder / "trained", "--base", folder / "model", "--out", folder / format_, "--format", format_)
        assert ("exact" in said) == exact
        again = peft.PeftModel.from_pretrained(llama.fresh(), folder / format_)
        assert again.peft_config["default"].peft_type == "LORA"
        if exact:
            torch.testing.assert_close(llama.logits(again), llama.logits(model), rtol=0, atol=1e-4)
    assert "LORA for" in call("inspect", folder / "lora-2r")


@pytest.mark.parametrize("order", ["natural", "activation"])
def test_loldu(folder, llama, order):
    stats(folder)
    options = ("--method", "loldu", "--rank", "full" if order == "natural" else 5, "--target", "q_proj,down_proj", "--column-order", order)
    said = call("init", folder / "model", "--out", folder / "loldu", "--stats", folder / "stats", *options)
    assert f"loldu, {128 if order == 'natural' else 20} trainable numbers" in said
    model = peft.PeftModel.from_pretrained(llama.fresh(), folder / "loldu", is_trainable=True)
    llama.train(model).save_pretrained(folder / "trained")
    assert "LOLDU for" in call("inspect", folder / "trained")
    assert "exact" in call("convert", folder / "trained", "--base", folder / "model", "--out", folder / "lora")
    again = peft.PeftModel.from_pretrained(llama.fresh(), folder / "lora")
    torch.testing.assert_close(llama.logits(again), llama.logits(model), rtol=0, atol=1e-4)


def test_token_files_patterns_and_disk(folder):
    save_file({"input_ids": torch.randint(3, 60, (300,))}, str(folder / "ids"))
    said = call(
        *(
            "collect",
            folder / "model",
            "--out",
            folder / "s",
            "--tokens",
            folder / "ids",
            "--target",
            "re:.*layers.0.*q_proj",
            "--length",
            10,
        ),
        *("--double", "--storage", folder / "sums"),
    )
    assert "1 layers, up to 300 tokens" in said
    assert InputStats.load(folder / "s")["model.layers.0.self_attn.q_proj"].dtype == torch.float64
    whole = call("collect", folder / "model", "--out", folder / "all", "--tokens", folder / "ids", "--target", "all-linear", "--length", 10)
    assert "14 layers" in whole
    call("init", folder / "model", "--out", folder / "a", "--whitening", "none", "--rank", 2, "--target", "q_proj")
    call(
        "init",
        folder / "model",
        "--out",
        folder / "b",
        "--stats",
        folder / "all",
        "--rank",
        2,
        "--allocation",
        "energy",
        "--target",
        "q_proj,k_proj",
    )


@pytest.mark.bad_input
def test_errors_are_one_line(folder):
    save_file({"ids": torch.ones(3)}, str(folder / "bad"))
    model, out = folder / "model", ("--out", folder / "x")
    stats(folder)
    for words, message in (
        (("collect", folder / "none", *out, "--text", folder / "text.txt", "--length", 5), "it has no config.json"),
        (("collect", model, *out), "give either --text FILE or --tokens FILE"),
        (("collect", model, *out, "--text", folder / "missing"), "no file"),
        (("collect", model, *out, "--text", folder / "text.txt"), "less than one sequence of 2048"),
        (("collect", model, *out, "--tokens", folder / "bad"), "with a tensor input_ids, found ids"),
        (("init", model, *out), "--method corda needs --stats"),
        (("init", model, *out, "--method", "lora"), "--method must be 'corda' or 'loldu'"),
        (("init", model, *out, "--rank", "many"), "--rank must be a number"),
        (("init", model, *out, "--rank", "full"), "--rank full is for loldu"),
        (("init", model, *out, "--method", "loldu", "--column-order", "activation", "--rank", "4"), "needs --stats"),
        (("init", model, *out, "--stats", folder / "stats", "--rank", "4", "--target", "k_proj"), "has no statistics"),
        (("inspect", folder / "nothing"), "no statistics at"),
        (("inspect", folder), "no adapter at"),
        (("collect", model, *out, "--text", folder / "text.txt", "--length", 5, "--auto-class", "AutoThing"), "no class 'AutoThing'"),
    ):
        assert message.replace(" ", "") in call(*words, code=2).replace(" ", "")
