"""The ``ucr-rsar`` command: train on horizontal boxes, predict, label, and look after annotation files."""

import dataclasses
import json
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from obbkit.data import AnnotationError, DOTADataset, write_dota_results
from ucr_rsar import draw, tools
from ucr_rsar.pseudo import pseudo_label
from ucr_rsar.recipes import RECIPES, Recipe, open_data
from ucr_rsar.training import Trainer, evaluate, load_detector, predict_image

__all__ = ["app", "main"]

FULL = tuple(name for name in RECIPES if name != "tiny")
app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=(__doc__ or "").strip())
_out = Console()
_err = Console(stderr=True)


def _device(name: str) -> str:
    try:
        torch.zeros((), device=name)
    except (RuntimeError, AssertionError) as error:
        raise typer.BadParameter(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from None
    return name


DataFolder = Annotated[Path, typer.Argument(metavar="DATA", help="folder with images/ and annfiles/ or labelTxt/")]
Device = Annotated[str, typer.Option(callback=_device, help="cpu, cuda, cuda:1, ...")]
Classes = Annotated[str, typer.Option(help="class names, separated by commas")]
Skip = Annotated[bool, typer.Option("--skip-bad", help="leave bad lines out and count them, instead of stopping")]
JsonTo = Annotated[str, typer.Option("--json", metavar="FILE", help="write the numbers to FILE")]


@contextmanager
def _bar(text: str) -> Iterator[Callable[..., None]]:
    """A progress bar on a terminal, a line every tenth elsewhere; what it yields takes done, total and perhaps losses."""
    if not _err.is_terminal:
        last = -1

        def lines(done: int, total: int, losses: Mapping[str, float] | None = None) -> None:
            nonlocal last
            if 10 * done // max(total, 1) > last:
                last = 10 * done // max(total, 1)
                values = "" if losses is None else "  " + "  ".join(f"{k} {v:.3f}" for k, v in losses.items())
                _err.print(f"{text} {done}/{total}{values}", highlight=False)

        yield lines
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("[dim]{task.fields[losses]}"), console=_err) as bar:
        task = bar.add_task(text, total=None, losses="")

        def update(done: int, total: int, losses: Mapping[str, float] | None = None) -> None:
            values = "" if losses is None else " ".join(f"{k} {v:.3f}" for k, v in losses.items())
            bar.update(task, completed=done, total=total, losses=values)

        yield update


@contextmanager
def _stopper() -> Iterator[Callable[[], bool]]:
    """Tells whether the user asked to stop: the first Ctrl-C lets the step in progress end, a second one breaks off."""
    asked = False

    def ask(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


def _names(classes: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in classes.split(",") if name.strip())


def _write(target: str, document: Any) -> None:
    if target:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _recipe(name: str, changes: Mapping[str, Any]) -> Recipe:
    if name not in RECIPES:
        raise typer.BadParameter(f"recipe must be one of {', '.join(RECIPES)}, got {name!r}")
    return dataclasses.replace(RECIPES[name], **{k: v for k, v in changes.items() if v is not None})


def _scores(found: Mapping[str, Any], classes: tuple[str, ...]) -> None:
    table = Table(title=f"mAP {found['mAP']:.4f}   AP50 {found['AP50']:.4f}   AP75 {found['AP75']:.4f}", title_justify="left")
    for column in ("class", "AP", "objects", "detections"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for name, row in zip(classes, found["per_class"], strict=True):
        table.add_row(name, f"{row['AP']:.4f}", str(row["objects"]), str(row["detections"]))
    _out.print(table)


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="folder of the checkpoint and the log")],
    folder: Annotated[Path | None, typer.Argument(metavar="DATA", help="folder with images/ and annfiles/ or labelTxt/")] = None,
    data: Annotated[Path | None, typer.Option(metavar="DATA", help="the same as an option")] = None,
    recipe: Annotated[str | None, typer.Option(help=f"one of {', '.join(RECIPES)}; tiny if not given")] = None,
    full: Annotated[str | None, typer.Option(metavar="RECIPE", help=f"the published training of {', '.join(FULL)}")] = None,
    val: Annotated[Path | None, typer.Option(help="data folder to evaluate on at the end, into OUT/evaluation.json")] = None,
    classes: Annotated[str, typer.Option(help="class names, separated by commas, if not those of the recipe")] = "",
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    batch: Annotated[int | None, typer.Option(min=1)] = None,
    coder: Annotated[str | None, typer.Option(help="ucr2, ucr3, psc3, acm2, direct, ...")] = None,
    supervision: Annotated[str | None, typer.Option(help="hbb or obb")] = None,
    backbone: Annotated[str | None, typer.Option(help="tiny, or a model of timm")] = None,
    pretrained: Annotated[bool, typer.Option(help="load ImageNet weights with timm")] = False,
    device: Device = "cpu",
    workers: Annotated[int, typer.Option(min=0, help="processes that load images")] = 0,
    seed: Annotated[int, typer.Option()] = 0,
    missing: Annotated[str, typer.Option(help="images without annotation file: error or empty")] = "error",
    skip_bad: Skip = False,
    save_every: Annotated[int, typer.Option(min=1, help="steps between checkpoints; one is also written when Ctrl-C stops")] = 1000,
    resume: Annotated[bool, typer.Option(help="go on with the checkpoint in OUT")] = False,
) -> None:
    """Train a detector; with supervision 'hbb' the annotations' upright hulls are all it sees."""
    if (folder is None) == (data is None):
        raise typer.BadParameter("give one data folder, as DATA or with --data")
    if full is not None and (recipe is not None or full not in FULL):
        raise typer.BadParameter(f"--full takes one of {', '.join(FULL)} in place of --recipe, got {full!r}")
    root = folder or data
    assert root is not None  # for type checkers
    changes = {"epochs": epochs, "batch": batch, "coder": coder, "supervision": supervision, "backbone": backbone}
    settings = _recipe(full or recipe or "tiny", changes | ({"classes": _names(classes), "agnostic": (), "shrink": {}} if classes else {}))
    errors = "skip" if skip_bad else "raise"
    unknown = "skip" if skip_bad else "error"
    images = open_data(root, settings, missing=missing, errors=errors, unknown=unknown)
    held = None if val is None else DOTADataset(val, settings.classes, "obb", missing=missing, errors=errors, unknown=unknown)
    with _bar("annotations") as progress:
        images.scan(progress)  # what is wrong shows now, not after hours
    trainer = Trainer(settings, images, seed=seed, device=device, workers=workers, pretrained=pretrained)
    if resume:
        trainer.resume(out / "checkpoint.pt")
        _out.print(f"going on at step {trainer.step} of {trainer.total}")
    with _stopper() as stopped, _bar("train") as progress:
        history = trainer.run(out, save_every=save_every, progress=progress, stop=stopped)
    if trainer.step < trainer.total:
        _out.print(f"stopped at step {trainer.step} of {trainer.total}; the same command with --resume goes on")
        raise typer.Exit(130)
    last = history[-1]["loss"] if history else float("nan")
    _out.print(
        f"{len(images)} images, {trainer.step} steps, last loss {last:.4f}, {images.skipped} entries left out; {out / 'checkpoint.pt'}"
    )
    if held is not None:
        with _bar("evaluate") as progress:
            found = evaluate(trainer.model, held, settings, progress=progress) | {"skipped": held.skipped}
        _scores(found, settings.classes)
        _write(str(out / "evaluation.json"), found)


def _images(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise FileNotFoundError(f"image or folder {source} is missing")
    found = sorted(p for p in source.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"))
    if not found:
        raise FileNotFoundError(f"{source} must hold images, got none")
    return found


def _read_image(path: Path) -> torch.Tensor:
    import numpy as np

    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("reading images needs pillow: pip install 'ucr-rsar[images]'") from error
    try:
        with Image.open(path) as image:
            return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255
    except OSError as error:
        raise ValueError(f"image {path} cannot be read: {error}") from None


@app.command()
def predict(
    checkpoint: Annotated[Path, typer.Argument()],
    source: Annotated[Path, typer.Argument(help="an image or a folder of images")],
    out: Annotated[Path, typer.Option(help="folder of Task1_<class>.txt, and of pictures/ with --draw")],
    score: Annotated[float, typer.Option(min=0, max=1)] = 0.05,
    pictures: Annotated[bool, typer.Option("--draw", help="draw the boxes on the images")] = False,
    device: Device = "cpu",
) -> None:
    """Oriented boxes of images of any size, in the format of the DOTA server."""
    model, recipe = load_detector(checkpoint, device)
    found = {}
    paths = _images(source)
    with _bar("predict") as progress:
        for k, path in enumerate(paths):
            image = _read_image(path)
            found[path.stem] = predict_image(model, image, recipe, score_threshold=score)
            if pictures:
                drawn = draw.draw_boxes(image, found[path.stem], recipe.classes, score_threshold=max(score, 0.3))
                draw.save_image(out / "pictures" / f"{path.stem}.png", drawn)
            progress(k + 1, len(paths))
    write_dota_results(out, found, recipe.classes)
    _out.print(f"{len(paths)} images, {sum(len(f['boxes']) for f in found.values())} boxes; {out}")


@app.command("pseudo-label")
def pseudo(
    checkpoint: Annotated[Path, typer.Argument()],
    data: DataFolder,
    out: Annotated[Path, typer.Option(help="folder of the new annotations")],
    unmatched: Annotated[str, typer.Option(help="boxes that no prediction fits: upright or drop")] = "upright",
    min_iou: Annotated[float, typer.Option(min=0.01, max=1)] = 0.5,
    device: Device = "cpu",
    skip_bad: Skip = False,
) -> None:
    """Turn the horizontal boxes of a data set into oriented ones."""
    model, recipe = load_detector(checkpoint, device)
    images = DOTADataset(data, recipe.classes, "hbb", errors="skip" if skip_bad else "raise", unknown="skip" if skip_bad else "error")
    with _bar("pseudo-label") as progress:
        report = pseudo_label(model, images, out, recipe, unmatched=unmatched, min_iou=min_iou, progress=progress)
    fate = "written upright, with difficulty 1" if unmatched == "upright" else "left out"
    _out.print(f"{report.images} images, {report.boxes} boxes, {report.matched} matched, {report.boxes - report.matched} {fate}")
    if images.skipped:
        _out.print(f"{images.skipped} bad lines left out")


@app.command()
def convert(
    source: Annotated[Path, typer.Argument()],
    target: Annotated[Path, typer.Argument()],
    kind: Annotated[str, typer.Option("--from", help=f"one of {', '.join(tools.READABLE)}")] = "dota",
    to: Annotated[str, typer.Option(help=f"one of {', '.join(tools.FORMATS)}")] = "yolo-obb",
    classes: Classes = "",
    images: Annotated[Path | None, typer.Option(help="folder of the images, where their sizes are needed")] = None,
    tiles: Annotated[int, typer.Option(min=0, help="instead cut IMAGES and the DOTA annotations SOURCE into tiles of this side")] = 0,
    overlap: Annotated[int, typer.Option(min=0)] = 200,
    skip_bad: Skip = False,
) -> None:
    """Annotations from one format to another, or into tiles."""
    errors = "skip" if skip_bad else "raise"
    if tiles:
        if images is None:
            raise typer.BadParameter("--tiles needs --images")
        with _bar("tiles") as progress:
            counts = tools.tile_folder(images, source, target, size=tiles, overlap=overlap, errors=errors, progress=progress)
    else:
        counts = tools.convert(source, kind, target, to, classes=_names(classes), images=images, errors=errors)
    _out.print(", ".join(f"{v} {k}" for k, v in counts.items()) + f"; {target}")


@app.command()
def validate(
    annotations: Annotated[Path, typer.Argument(help="folder of DOTA annotations")],
    images: Annotated[Path | None, typer.Option(help="folder of the images")] = None,
    classes: Classes = "",
    margin: Annotated[float | None, typer.Option(help="report corners farther outside of the image than this")] = None,
    json_to: JsonTo = "",
) -> None:
    """Every bad line of a folder; exit code 1 if there is one."""
    with _bar("validate") as progress:
        problems = tools.validate(annotations, images=images, classes=_names(classes), margin=margin, progress=progress)
    for p in problems:
        _out.print(
            f"{p.file}, line {p.line}: {p.message}" if p.line else f"{p.file}: {p.message}", highlight=False, soft_wrap=True, markup=False
        )
    _out.print(f"{len(problems)} problems")
    _write(json_to, [p._asdict() for p in problems])
    if problems:
        raise typer.Exit(1)


@app.command()
def stats(
    source: Annotated[Path, typer.Argument()],
    kind: Annotated[str, typer.Option("--from", help=f"one of {', '.join(tools.READABLE)}")] = "dota",
    classes: Classes = "",
    images: Annotated[Path | None, typer.Option(help="folder of the images, where their sizes are needed")] = None,
    skip_bad: Skip = False,
    json_to: JsonTo = "",
) -> None:
    """Counts, sizes, aspects and angles."""
    labels = tools.read_labels(source, kind, classes=_names(classes), images=images, errors="skip" if skip_bad else "raise")
    found = tools.statistics(labels)
    table = Table(title=f"{found['images']} images ({found['empty']} empty), {found['objects']} objects, {found['skipped']} left out")
    for column in ("class", "objects", "images", "long side", "short side", "aspect"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for name, row in found["per_class"].items():
        spread = [f"{row[k][1]:.2f} ({row[k][0]:.2f} to {row[k][2]:.2f})" for k in ("long side", "short side", "aspect")]
        table.add_row(name, str(row["objects"]), str(row["images"]), *spread)
    _out.print(table)
    _out.print("median (5 to 95 %); share of angles in sectors of 15 degrees from -90: " + " ".join(f"{v:.2f}" for v in found["angles"]))
    _write(json_to, found)


@app.command("evaluate")
def evaluate_command(
    source: Annotated[Path, typer.Argument(help="folder of Task1_<class>.txt, or a checkpoint")],
    annotations: Annotated[Path, typer.Argument(help="folder of DOTA annotations; of a checkpoint the data folder")],
    classes: Classes = "",
    mode: Annotated[str, typer.Option(help="11points (mmrotate, RSAR), area or coco")] = "11points",
    device: Device = "cpu",
    skip_bad: Skip = False,
    json_to: JsonTo = "",
) -> None:
    """Rotated mAP of result files, or of a checkpoint on a data set."""
    errors = "skip" if skip_bad else "raise"
    if source.is_file():
        model, recipe = load_detector(source, device)
        names = recipe.classes
        images = DOTADataset(annotations, names, "obb", errors=errors, unknown="skip" if skip_bad else "error")
        with _bar("evaluate") as progress:
            found = evaluate(model, images, recipe, eval_mode=mode, progress=progress) | {"skipped": images.skipped}
    else:
        names = _names(classes)
        if not names:
            raise typer.BadParameter("--classes is needed for result files")
        found = tools.evaluate_results(source, annotations, names, eval_mode=mode, errors=errors)
    _scores(found, names)
    if found["skipped"]:
        _out.print(f"{found['skipped']} bad lines left out")
    _write(json_to, found)


@app.command()
def visualise(
    data: DataFolder,
    out: Annotated[Path, typer.Option(help="folder of the pictures")],
    classes: Classes,
    results: Annotated[Path | None, typer.Option(help="folder of Task1_<class>.txt; the annotations are then drawn in white")] = None,
    limit: Annotated[int, typer.Option(min=1, help="pictures at most")] = 50,
    score: Annotated[float, typer.Option(min=0, max=1)] = 0.3,
    scale: Annotated[float, typer.Option(min=0.1)] = 1.0,
) -> None:
    """Annotations or results drawn on their images."""
    names = _names(classes)
    images = DOTADataset(data, names, "obb", missing="empty")
    found = tools.read_results(results, names)[0] if results is not None else {}
    count = min(limit, len(images))
    none = {"boxes": torch.zeros(0, 5), "labels": torch.zeros(0, dtype=torch.int64)}
    with _bar("visualise") as progress:
        for k in range(count):
            image, target = images[k]
            shown, truth = (target, None) if results is None else (found.get(target["name"], none), target)
            picture = draw.draw_boxes(image, shown, names, truth=truth, score_threshold=score, scale=scale)
            draw.save_image(out / f"{target['name']}.png", picture)
            progress(k + 1, count)
    _out.print(f"{count} pictures; {out}")


def main() -> None:
    """Entry point; what a user got wrong is one line, not a traceback."""
    try:
        app(standalone_mode=True)
    except (AnnotationError, OSError, ValueError, ImportError) as error:
        _err.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        raise SystemExit(2) from None
