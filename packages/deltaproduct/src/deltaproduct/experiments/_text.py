"""Text files as one long row of token numbers on disk: bytes, or a tokenizer of transformers in a local folder."""

import hashlib
import importlib
import json
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["BYTES", "Corpus", "tokenizer_of"]

BYTES = "bytes"
_END = 256
_SUFFIXES = (".txt", ".md", ".py", ".jsonl", ".parquet")
LAYOUT = (
    "expected a file or a folder with *.txt, *.jsonl (one JSON object per line, its text under 'text') or *.parquet (column 'text') files. "
    "FineWeb is at https://huggingface.co/datasets/HuggingFaceFW/fineweb: download some of its parquet files, for example with "
    "'hf download HuggingFaceFW/fineweb --repo-type dataset --include \"sample/10BT/*\" --local-dir DIR'"
)

Encode = Callable[[str], list[int]]


def tokenizer_of(name: str) -> tuple[Encode, int]:
    """Text to numbers, and how many numbers there are; every document ends with an end token.

    Args:
        name: ``"bytes"``, or a folder with a tokenizer of transformers (the paper's is that of Mistral-7B-v0.1).

    Raises:
        FileNotFoundError: If there is no such folder.
        ImportError: If transformers is missing.
    """
    if name == BYTES:
        return (lambda text: [*text.encode("utf-8"), _END]), _END + 1
    if not Path(name).exists():
        raise FileNotFoundError(f"no tokenizer in {name!r}: give a local folder with tokenizer files, or 'bytes'")
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ImportError("a tokenizer needs transformers: pip install 'deltaproduct[transformers]'") from error
    tokenizer: Any = AutoTokenizer.from_pretrained(name)
    end = tokenizer.eos_token_id
    return (lambda text: [*tokenizer.encode(text, add_special_tokens=False), *([] if end is None else [end])]), len(tokenizer)


def _documents(file: Path) -> Iterator[str]:
    if file.suffix == ".parquet":
        try:
            parquet = importlib.import_module("pyarrow.parquet")
        except ImportError as error:
            raise ImportError(f"reading {file} needs pyarrow: pip install pyarrow") from error
        for part in parquet.ParquetFile(file).iter_batches(columns=["text"]):
            yield from part.column(0).to_pylist()
    elif file.suffix == ".jsonl":
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    try:
                        yield json.loads(line)["text"]
                    except (KeyError, TypeError, json.JSONDecodeError) as error:
                        raise ValueError(f"{file}, line {number}, must be a JSON object with a 'text': {error}") from error
    else:
        yield file.read_text(encoding="utf-8")


class Corpus:
    """Token numbers of all documents, one after another, memory-mapped; tokenised once and kept in ``cache``.

    Args:
        path: A file or folder of text.
        tokenizer: As in ``tokenizer_of``.
        cache: Folder for the numbers (4 bytes each).

    Raises:
        FileNotFoundError: If there is no text; the message says what is expected and where to get it.
        ValueError: If a line of JSON has no text.
    """

    def __init__(self, path: str | Path, tokenizer: str, cache: str | Path) -> None:
        path = Path(path)
        files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.suffix in _SUFFIXES) if path.is_dir() else []
        if not files:
            raise FileNotFoundError(f"no text in {path}: {LAYOUT}")
        encode, self.vocab_size = tokenizer_of(tokenizer)
        stamp = [tokenizer, *(f"{file} {file.stat().st_size}" for file in files)]
        key = hashlib.sha256("\n".join(stamp).encode()).hexdigest()[:16]
        store = Path(cache) / f"tokens-{key}.i32"
        if not store.exists():
            self._write(store, files, encode)
        count = store.stat().st_size // 4
        self.tokens = (
            torch.from_file(str(store), shared=False, size=count, dtype=torch.int32) if count else torch.empty(0, dtype=torch.int32)
        )
        self.key = key

    @staticmethod
    def _write(store: Path, files: list[Path], encode: Encode) -> None:
        store.parent.mkdir(parents=True, exist_ok=True)
        partial = store.with_suffix(f".{torch.randint(2**31, ()).item()}.partial")  # processes may write at the same time
        with partial.open("wb") as out:
            for file in files:
                for text in _documents(file):
                    array("i", encode(text)).tofile(out)
        partial.replace(store)

    def windows(self, length: int, valid: float = 0.005) -> tuple[int, int]:
        """Numbers of windows of ``length`` tokens for training and, at the end, for validation.

        Raises:
            ValueError: If the text is too short for one of each.
        """
        total = len(self.tokens) // length
        kept = max(1, round(valid * total))
        if total < 2:
            raise ValueError(f"the text must have at least {2 * length} tokens for a context of {length}, got {len(self.tokens)}")
        return total - kept, kept

    def window(self, index: Tensor, length: int) -> Tensor:
        """Windows by number, shape ``(len(index), length)``, int64."""
        return self.tokens[: len(self.tokens) // length * length].reshape(-1, length)[index].long()
