"""The ``peft-loldu-corda`` command: collect statistics, make an adapter, look into files, convert, all on local folders."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from peft_loldu_corda.errors import CalibrationError

__all__ = ["app", "main"]

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=(__doc__ or "").strip())
_out = Console()
_err = Console(stderr=True)
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="folder of a transformers model")]
Targets = Annotated[
    str, typer.Option("--target", help="layer names, comma-separated, a regular expression with 're:' before it, or all-linear")
]
AutoClass = Annotated[str, typer.Option("--auto-class", help="class of transformers that loads the model")]


@contextmanager
def _bar(title: str) -> Iterator[Callable[[float, str], None]]:
    """A progress bar on a terminal, one line per tenth elsewhere."""
    if not _err.is_terminal:
        last = -1

        def lines(done: float, message: str) -> None:
            nonlocal last
            if int(10 * done) != last:
                last = int(10 * done)
                _err.print(f"[{title}] {done:4.0%} {message}", highlight=False, markup=False)

        yield lines
        return
    columns = (TextColumn("[bold]{task.fields[title]}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"), TimeElapsedColumn())
    with Progress(*columns, TextColumn("[dim]{task.description}"), console=_err, transient=True) as bar:
        task = bar.add_task("starting", total=1.0, title=title)
        yield lambda done, message: bar.update(task, completed=min(max(done, 0.0), 1.0), description=message)


@contextmanager
def _plainly() -> Iterator[None]:
    """Our own errors as one line instead of a traceback."""
    try:
        yield
    except (CalibrationError, FileNotFoundError, RuntimeError, TypeError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error


def _targets(text: str) -> list[str] | str | None:
    if not text:
        return None
    if text == "all-linear":
        return text
    return text.removeprefix("re:") if text.startswith("re:") else [name.strip() for name in text.split(",")]


def _require_model(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"no model at {folder}: it has no config.json. Save one there with model.save_pretrained")


def _load(folder: Path, auto_class: str, dtype: str = "auto") -> Any:
    import transformers

    _require_model(folder)
    cls = getattr(transformers, auto_class, None)
    if cls is None:
        raise ValueError(f"transformers has no class {auto_class!r}")
    return cls.from_pretrained(str(folder), local_files_only=True, dtype=dtype).eval()


def _token_ids(model: Path, text: Path | None, tokens: Path | None) -> torch.Tensor:
    """Token ids of the calibration data, in one row."""
    if (text is None) == (tokens is None):
        raise ValueError("give either --text FILE or --tokens FILE")
    if tokens is not None:
        if not tokens.is_file():
            raise FileNotFoundError(f"no file {tokens}")
        from safetensors.torch import load_file

        found = load_file(str(tokens))
        if "input_ids" not in found:
            raise ValueError(f"{tokens} must be a safetensors file with a tensor input_ids, found {', '.join(found) or 'nothing'}")
        return found["input_ids"].reshape(-1).long()
    if text is None or not text.is_file():
        raise FileNotFoundError(f"no file {text}")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(model), local_files_only=True)
    return torch.tensor(tokenizer(text.read_text(encoding="utf-8"), add_special_tokens=False, verbose=False)["input_ids"])


@app.command()
def collect(
    model: Model,
    out: Annotated[Path, typer.Option("--out", help="file to write the statistics to; an unfinished run goes on from it")],
    text: Annotated[Path | None, typer.Option("--text", help="calibration text, tokenised with the model's tokenizer")] = None,
    tokens: Annotated[Path | None, typer.Option("--tokens", help="token ids instead: a safetensors file with input_ids")] = None,
    target: Targets = "",
    samples: Annotated[int, typer.Option(help="sequences")] = 256,
    length: Annotated[int, typer.Option(help="tokens in a sequence")] = 2048,
    batch_size: Annotated[int, typer.Option("--batch-size", help="sequences at a time")] = 1,
    double: Annotated[bool, typer.Option("--double", help="sums in float64")] = False,
    storage: Annotated[
        Path | None, typer.Option("--storage", help="folder for sums on disk, for models whose sums do not fit in memory")
    ] = None,
    device: Annotated[str, typer.Option(help="where the model runs")] = "cpu",
    skip_missing: Annotated[bool, typer.Option("--skip-missing", help="leave out layers that no token reached")] = False,
    auto_class: AutoClass = "AutoModelForCausalLM",
) -> None:
    """Collect the second moments of layer inputs on calibration data."""
    from peft_loldu_corda.corda.collect import collect_input_stats

    with _plainly():
        _require_model(model)
        ids = _token_ids(model, text, tokens)
        rows = ids[: len(ids) // length * length].reshape(-1, length)[:samples]
        if not len(rows):
            raise ValueError(f"the data has {len(ids)} tokens, which is less than one sequence of {length}; pass a smaller --length")
        loaded = _load(model, auto_class).to(device)
        batches = [{"input_ids": part, "attention_mask": torch.ones_like(part)} for part in rows.split(batch_size)]
        with _bar("collect") as progress:
            stats = collect_input_stats(
                loaded,
                batches,
                target_modules=_targets(target),
                dtype=torch.float64 if double else torch.float32,
                storage="memory" if storage is None else storage,
                on_missing="skip" if skip_missing else "error",
                checkpoint=out,
                progress=progress,
            )
    _out.print(f"{out}: {stats}", highlight=False, markup=False)


@app.command()
def init(
    model: Model,
    out: Annotated[Path, typer.Option("--out", help="folder to write the adapter to")],
    method: Annotated[str, typer.Option(help="corda or loldu")] = "corda",
    stats: Annotated[Path | None, typer.Option("--stats", help="statistics of `collect`")] = None,
    rank: Annotated[str, typer.Option(help="rank, or 'full' for loldu")] = "128",
    alpha: Annotated[float | None, typer.Option(help="lora_alpha; the rank by default")] = None,
    mode: Annotated[str, typer.Option(help="corda: ipm or kpm")] = "ipm",
    whitening: Annotated[str, typer.Option(help="corda: cov, sqrt, diag or none")] = "cov",
    allocation: Annotated[str, typer.Option(help="corda: uniform or energy")] = "uniform",
    column_order: Annotated[str, typer.Option("--column-order", help="loldu: natural, norm, qr or activation")] = "natural",
    target: Targets = "",
    task_type: Annotated[str, typer.Option("--task-type", help="task type of peft")] = "CAUSAL_LM",
    auto_class: AutoClass = "AutoModelForCausalLM",
) -> None:
    """Decompose a model and write an adapter ready to be trained: ``PeftModel.from_pretrained(model, OUT, is_trainable=True)``."""
    from peft import get_peft_model

    from peft_loldu_corda.corda.config import CordaLoraConfig
    from peft_loldu_corda.corda.preprocess import preprocess_corda
    from peft_loldu_corda.corda.stats import InputStats
    from peft_loldu_corda.loldu.config import LolduConfig
    from peft_loldu_corda.loldu.convert import preprocess_loldu

    with _plainly():
        if method not in ("corda", "loldu"):
            raise ValueError(f"--method must be 'corda' or 'loldu', got {method!r}")
        if rank != "full" and not rank.isdigit():
            raise ValueError(f"--rank must be a number, or 'full' for loldu, got {rank!r}")
        known = None if stats is None else InputStats.load(stats)
        common: dict[str, Any] = {"target_modules": _targets(target), "task_type": task_type}
        if method == "loldu":
            r: Any = rank if rank == "full" else int(rank)
            config: Any = LolduConfig(r=r, lora_alpha="r" if alpha is None else alpha, column_order=column_order, **common)  # pyright: ignore
            loaded = _load(model, auto_class)
            if column_order == "activation":
                if known is None:
                    raise ValueError("--column-order activation needs --stats")
                preprocess_loldu(loaded, config, stats=known)
        else:
            if rank == "full":
                raise ValueError("--rank full is for loldu; give a number")
            if known is None and whitening != "none":
                raise ValueError("--method corda needs --stats, or --whitening none")
            config = CordaLoraConfig(r=int(rank), lora_alpha=int(rank) if alpha is None else alpha, **common)  # pyright: ignore
            loaded = _load(model, auto_class)
            with _bar("decompose") as progress:
                config = preprocess_corda(
                    loaded,
                    config,
                    stats=known,
                    mode=mode,  # pyright: ignore[reportArgumentType]
                    whitening=whitening,  # pyright: ignore[reportArgumentType]
                    rank_allocation=allocation,  # pyright: ignore[reportArgumentType]
                    progress=progress,
                )
        adapted = get_peft_model(loaded, config)
        adapted.save_pretrained(str(out))
        trained, total = adapted.get_nb_trainable_parameters()
    _out.print(f"{out}: {method}, {trained:,} trainable numbers of {total:,}", highlight=False, markup=False)


@app.command()
def inspect(path: Annotated[Path, typer.Argument(metavar="PATH", help="statistics, or the folder of an adapter")]) -> None:
    """Show what is in a file of statistics or in an adapter."""
    from peft_loldu_corda._inspect import adapter_rows, stats_rows

    with _plainly():
        if path.is_dir():
            title, columns, rows = adapter_rows(path)
        else:
            title, columns, rows = stats_rows(path)
    table = Table(box=None, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    _out.print(title, highlight=False, markup=False)
    _out.print(table)


@app.command()
def convert(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="folder of a LoLDU or CorDA adapter")],
    base: Annotated[Path, typer.Option("--base", help="folder of the base model it was made for")],
    out: Annotated[Path, typer.Option("--out", help="folder to write the LoRA adapter to")],
    format: Annotated[str, typer.Option("--format", help="CorDA: lora-2r, exact, or lora-r, of the same rank")] = "lora-2r",  # noqa: A002
    auto_class: AutoClass = "AutoModelForCausalLM",
) -> None:
    """Write an adapter as plain LoRA, which peft and others load without this package."""
    from peft import PeftConfig, PeftModel

    from peft_loldu_corda.corda.convert import load_corda_adapter, save_corda_adapter
    from peft_loldu_corda.loldu.convert import convert_to_lora

    with _plainly():
        kind = PeftConfig.from_pretrained(str(adapter)).peft_type
        if kind not in ("LOLDU", "CORDA"):
            raise ValueError(f"the adapter must be a LOLDU or CORDA one, got {getattr(kind, 'value', kind)}")
        model = _load(base, auto_class)
        if kind == "LOLDU":
            convert_to_lora(PeftModel.from_pretrained(model, str(adapter)), path=out)
            _out.print(f"{out}: LoRA of the same rank, exact", highlight=False, markup=False)
            return
        errors = save_corda_adapter(load_corda_adapter(model, adapter), out, format)  # pyright: ignore[reportArgumentType]
    worst = max(errors, key=lambda name: errors[name])
    exact = "exact" if errors[worst] == 0 else f"largest relative error {errors[worst]:.3g} in {worst}"
    _out.print(f"{out}: {format}, {exact}", highlight=False, markup=False)


def main() -> None:
    """Entry point of the ``peft-loldu-corda`` command."""
    app()


if __name__ == "__main__":
    main()
