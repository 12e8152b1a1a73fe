"""Readers of the papers' data sets in their own file formats, from folders that the user names."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["GLUE", "Example", "load_glue", "load_image_folder", "load_instructions"]


@dataclass(frozen=True)
class Example:
    """One sentence or pair of sentences with its label.

    Args:
        first: Sentence.
        second: Second sentence, empty if there is none.
        label: Class, or the score of STS-B.
    """

    first: str
    second: str
    label: float


@dataclass(frozen=True)
class GlueTask:
    """Where the columns of a task are.

    Args:
        columns: Names of the sentence columns; ``int`` where the file has no header.
        label: Name or number of the label column.
        classes: Class names in order; empty for a regression.
        dev: Name of the development file.
    """

    columns: tuple[Any, ...]
    label: Any
    classes: tuple[str, ...]
    dev: str = "dev.tsv"


GLUE = {
    "CoLA": GlueTask((3,), 1, ("0", "1")),
    "SST-2": GlueTask(("sentence",), "label", ("0", "1")),
    "MRPC": GlueTask(("#1 String", "#2 String"), "Quality", ("0", "1")),
    "STS-B": GlueTask(("sentence1", "sentence2"), "score", ()),
    "QNLI": GlueTask(("question", "sentence"), "label", ("entailment", "not_entailment")),
    "RTE": GlueTask(("sentence1", "sentence2"), "label", ("entailment", "not_entailment")),
}
"""The six tasks of the LoLDU paper."""


def load_glue(folder: str | Path, task: str, split: str = "train") -> list[Example]:
    """Read a GLUE task as it is distributed: ``folder/TASK/train.tsv`` and ``dev.tsv``.

    Args:
        folder: Folder of the tasks.
        task: Name of one.
        split: ``"train"`` or ``"dev"``.

    Returns:
        Its examples.

    Raises:
        FileNotFoundError: If the file is not there; says where to get it.
        ValueError: If the task is unknown or a column is missing.
    """
    if task not in GLUE:
        raise ValueError(f"task must be one of {', '.join(GLUE)}, got {task!r}")
    layout = GLUE[task]
    file = Path(folder) / task / ("train.tsv" if split == "train" else layout.dev)
    if not file.is_file():
        raise FileNotFoundError(f"no {file}. GLUE is at https://gluebenchmark.com/tasks: unpack {task}.zip so that {file} exists")
    with file.open(encoding="utf-8", newline="") as opened:
        rows = list(csv.reader(opened, delimiter="\t", quoting=csv.QUOTE_NONE))
    where: dict[Any, int] = {}
    if not isinstance(layout.label, int):
        header, rows = rows[0], rows[1:]
        where = {name.lstrip("﻿"): i for i, name in enumerate(header)}
        lacking = [c for c in (*layout.columns, layout.label) if c not in where]
        if lacking:
            raise ValueError(f"{file} must have the columns {lacking}, found {header}")

    def place(column: Any) -> int:
        return column if isinstance(column, int) else where[column]

    examples = []
    for row in rows:
        sentences = [row[place(c)] for c in layout.columns]
        value = row[place(layout.label)]
        label = layout.classes.index(value) if layout.classes else float(value)
        examples.append(Example(sentences[0], sentences[1] if len(sentences) > 1 else "", label))
    return examples


def load_instructions(file: str | Path) -> list[tuple[str, str]]:
    """Read prompts and answers from one JSON list or a JSON object per line.

    Keys are those of MetaMathQA (``query``, ``response``), Alpaca (``instruction``, ``input``, ``output``) or GSM8K (``question``,
    ``answer``).

    Raises:
        FileNotFoundError: If there is no such file; says where to get it.
        ValueError: If an entry has none of these sets of keys.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(
            f"no {path}. MetaMathQA: https://huggingface.co/datasets/meta-math/MetaMathQA (MetaMathQA-395K.json; the paper takes the first "
            "100,000); GSM8K: https://github.com/openai/grade-school-math (train.jsonl)"
        )
    text = path.read_text(encoding="utf-8")
    entries = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines() if line.strip()]
    pairs = []
    for i, entry in enumerate(entries):
        if "query" in entry and "response" in entry:
            pairs.append((entry["query"], entry["response"]))
        elif "instruction" in entry and "output" in entry:
            pairs.append((entry["instruction"] + ("\n" + entry["input"] if entry.get("input") else ""), entry["output"]))
        elif "question" in entry and "answer" in entry:
            pairs.append((entry["question"], entry["answer"]))
        else:
            raise ValueError(f"entry {i} of {path} must have a question and an answer under keys we know, got {sorted(entry)}")
    return pairs


def load_image_folder(folder: str | Path) -> tuple[list[Path], list[int], list[str]]:
    """List images in ``folder/CLASS/*.jpg`` (or png): paths, classes, class names.

    Raises:
        FileNotFoundError: If the folder has no images in this layout.
    """
    root = Path(folder)
    names = sorted(d.name for d in root.iterdir() if d.is_dir()) if root.is_dir() else []
    paths, labels = [], []
    for i, name in enumerate(names):
        found = sorted(p for p in (root / name).iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
        paths += found
        labels += [i] * len(found)
    if not paths:
        raise FileNotFoundError(
            f"no images in {root}. Lay them out as {root}/CLASS/IMAGE.jpg; the sets of the LoLDU paper (Flowers102, Pets, EuroSAT, CIFAR, "
            "...) are on their authors' pages"
        )
    return paths, labels, names
