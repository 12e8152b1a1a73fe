"""The experiments: their parts, and the recipes on tiny files in the data sets' own formats."""

import json

import pytest
import torch

from peft_loldu_corda.experiments import _data, digits, glue, images, instructions, language_model

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")


def tokenizer_in(folder):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<s>", "<pad>", "good", "bad", "film", "is", "a", "what", "one", "two", "plus", "the", "answer"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", eos_token="<s>")
    fast.save_pretrained(folder)
    return fast


def test_digits_parts():
    data = digits.load_digits(n_train=300)
    assert data.old.shape == data.new.shape == (300, 64)
    turned = data.old[0].reshape(8, 8).rot90(1, (0, 1)).flatten()
    assert torch.equal(turned, data.new[0]), "the new task is the old one turned by 90 degrees"
    base = digits.pretrain(data, 0, epochs=4)
    for method in digits.METHODS:
        outcome = digits.run(base, method, digits.METHODS[method][2], data, seed=0, epochs=1)
        assert 0 <= outcome.old <= 100
        assert outcome.numbers == {"full": 85002, "head": 2570, "VeRA": 714}.get(method, 330 if "LoLDU" in method else 8784)
    found = digits.study(data, {"LoRA": (1e-4, 1e-2)}, seeds=(0,), epochs=1)
    lr, outcome = digits.best(found, "LoRA", lambda o: o.numbers)
    assert (lr, outcome.numbers) == (1e-4, 8784)
    with pytest.raises(ValueError, match="method must be one of"):
        digits.adapt(base, "prompt", data)


def test_the_adapted_model_starts_as_the_base_for_every_method():
    data = digits.load_digits(n_train=300)
    base = digits.pretrain(data, 0, epochs=2)
    for method in digits.METHODS:
        torch.testing.assert_close(digits.adapt(base, method, data)(data.old), base(data.old), rtol=0, atol=2e-4)


def test_truncation_discards_nothing_at_share_zero():
    data = language_model.help_text()
    assert data.dtype == torch.long
    assert int(data.max()) < 128 < 300_000 < len(data)
    loss, increase = language_model.truncation(steps=3, shares=(0.0, 0.9))
    assert 3 < loss < 6
    for name in language_model.WAYS:
        assert abs(increase[name, 0.0]) < 1e-4
        assert abs(increase[name, 0.9]) > abs(increase[name, 0.0])


GLUE_LINES = {
    "CoLA": ["gj04\t1\t\tThe film is good.", "gj04\t0\t*\tFilm the good is."],
    "SST-2": ["sentence\tlabel", "a good film\t1", 'a "bad film\t0'],
    "MRPC": ["\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String", "1\t1\t2\tgood film\tfilm good", "0\t3\t4\tgood\tbad"],
    "STS-B": ["index\tgenre\tsentence1\tsentence2\tscore", "0\tx\tgood\tgood\t5.000", "1\tx\tgood\tbad\t0.250"],
    "QNLI": ["index\tquestion\tsentence\tlabel", "0\twhat\tfilm\tentailment", "1\twhat\tbad\tnot_entailment"],
    "RTE": ["index\tsentence1\tsentence2\tlabel", "0\tfilm good\tgood\tnot_entailment", "1\tgood\tfilm\tentailment"],
}


@pytest.mark.parametrize("task", list(GLUE_LINES))
def test_glue_files(task, tmp_path):
    (tmp_path / task).mkdir()
    (tmp_path / task / "train.tsv").write_text("\n".join(GLUE_LINES[task]) + "\n", encoding="utf-8")
    examples = _data.load_glue(tmp_path, task)
    expected = {"CoLA": [1, 0], "SST-2": [1, 0], "MRPC": [1, 0], "STS-B": [5.0, 0.25], "QNLI": [0, 1], "RTE": [1, 0]}[task]
    assert [e.label for e in examples] == expected
    assert bool(examples[0].second) == (task not in ("CoLA", "SST-2"))
    if task == "SST-2":
        assert examples[1].first == 'a "bad film', "quotes are text in these files"


@pytest.mark.parametrize("method", glue.METHODS)
def test_glue_recipe(method, tiny, tmp_path):
    tiny("roberta").model.save_pretrained(tmp_path / "model")
    tokenizer_in(tmp_path / "model")
    (tmp_path / "glue" / "SST-2").mkdir(parents=True)
    lines = ["sentence\tlabel"] + [f"a {word} film\t{label}" for word, label in (("good", 1), ("bad", 0))] * 8
    for name in ("train", "dev"):
        (tmp_path / "glue" / "SST-2" / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    rank = "full" if method == "loldu" else "4"
    score = glue.main(
        [
            "--model",
            str(tmp_path / "model"),
            "--data",
            str(tmp_path / "glue"),
            "--task",
            "SST-2",
            "--method",
            method,
            "--rank",
            rank,
            "--epochs",
            "20",
            "--batch-size",
            "8",
            "--lr",
            "3e-2",
        ]
    )
    assert score == 100.0


def test_instruction_recipe(tiny, tmp_path, capsys):
    import peft

    t = tiny("llama")
    t.model.save_pretrained(tmp_path / "model")
    tokenizer_in(tmp_path / "model")
    pairs = [{"query": f"what is {a} plus {b}", "response": f"the answer is {a}"} for a in ("one", "two") for b in ("one", "two")] * 4
    (tmp_path / "MetaMathQA.json").write_text(json.dumps(pairs), encoding="utf-8")
    (tmp_path / "keep.txt").write_text("a good film is good . " * 60, encoding="utf-8")
    for mode, more in (("ipm", []), ("kpm", ["--calibration", str(tmp_path / "keep.txt")])):
        losses = instructions.main(
            [
                "--model",
                str(tmp_path / "model"),
                "--data",
                str(tmp_path / "MetaMathQA.json"),
                "--mode",
                mode,
                "--out",
                str(tmp_path / mode),
                "--rank",
                "4",
                "--lr",
                "1e-2",
                "--epochs",
                "3",
                "--batch-size",
                "8",
                "--window",
                "16",
                "--samples",
                "8",
                "--dtype",
                "float32",
                *more,
            ]
        )
        assert len(losses) == 6
        assert losses[-1] < losses[0]
        again = peft.PeftModel.from_pretrained(t.fresh(), tmp_path / mode)
        assert again.peft_config["default"].r == 8
    assert "6 steps, loss" in capsys.readouterr().out


def test_answers_alone_count():
    class Tokenizer:
        eos_token_id = 9

        def __call__(self, text, add_special_tokens=True):
            return {"input_ids": [1] * len(text.split())}

    ((ids, labels),) = instructions.encode_pairs(Tokenizer(), [("q", "a b c")], 512)
    assert labels[-4:] == [1, 1, 1, 9]
    assert set(labels[:-4]) == {-100}
    assert len(ids) == len(labels)
    batch = instructions.pad([(ids, labels), (ids[:3], labels[:3])], 7)
    assert batch["attention_mask"].sum(1).tolist() == [len(ids), 3]
    assert batch["input_ids"][1, 3:].unique().tolist() == [7]


def test_instruction_formats(tmp_path):
    (tmp_path / "alpaca.json").write_text(json.dumps([{"instruction": "add", "input": "1 2", "output": "3"}]), encoding="utf-8")
    (tmp_path / "gsm8k.jsonl").write_text('{"question": "1+1", "answer": "2"}\n{"question": "2+2", "answer": "4"}\n', encoding="utf-8")
    assert _data.load_instructions(tmp_path / "alpaca.json") == [("add\n1 2", "3")]
    assert _data.load_instructions(tmp_path / "gsm8k.jsonl") == [("1+1", "2"), ("2+2", "4")]


def test_image_recipe(tiny, tmp_path):
    image = pytest.importorskip("PIL.Image")
    t = tiny("vit")
    t.model.save_pretrained(tmp_path / "model")
    for split in ("train", "test"):
        for name, colour in (("dark", (20, 20, 30)), ("light", (230, 240, 220))):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(6):
                image.new("RGB", (20 + i, 18), colour).save(tmp_path / split / name / f"{i}.png")
    score = images.main(
        [
            "--model",
            str(tmp_path / "model"),
            "--train",
            str(tmp_path / "train"),
            "--test",
            str(tmp_path / "test"),
            "--targets",
            ",".join(t.targets),
            "--epochs",
            "10",
            "--batch-size",
            "4",
        ]
    )
    assert score == 100.0


@pytest.mark.bad_input
def test_missing_files_say_where_to_get_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gluebenchmark.com/tasks: unpack RTE.zip so that .*train.tsv exists"):
        _data.load_glue(tmp_path, "RTE")
    with pytest.raises(ValueError, match="task must be one of"):
        _data.load_glue(tmp_path, "WNLI")
    (tmp_path / "RTE").mkdir()
    (tmp_path / "RTE" / "dev.tsv").write_text("index\tsentence1\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"must have the columns \['sentence2', 'label'\]"):
        _data.load_glue(tmp_path, "RTE", "dev")
    with pytest.raises(FileNotFoundError, match="datasets/meta-math/MetaMathQA"):
        _data.load_instructions(tmp_path / "x.json")
    (tmp_path / "bad.json").write_text('[{"text": "x"}]', encoding="utf-8")
    with pytest.raises(ValueError, match=r"entry 0 of .* got \['text'\]"):
        _data.load_instructions(tmp_path / "bad.json")
    with pytest.raises(FileNotFoundError, match="Lay them out as"):
        _data.load_image_folder(tmp_path / "images")
    with pytest.raises(ValueError, match="method must be one of"):
        glue.adapted(None, "ia3", r=1, calibration=[], targets=[])

    class Tokenizer:
        def __call__(self, text, add_special_tokens=True):
            return {"input_ids": [1, 2]}

    with pytest.raises(ValueError, match="at least 16 tokens, got 2"):
        instructions.calibration_batches(Tokenizer(), "x", 4, 16)
