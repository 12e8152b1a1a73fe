"""The ``eqmotion`` command: train a recipe, evaluate a checkpoint, predict from a file, draw."""

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from eqmotion.data import TrajectoryDataset
from eqmotion.training import RECIPES, Recipe, evaluate, fit, load_model, recipe
from geocore.son import haar

__all__ = ["app", "main"]

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=(__doc__ or "").strip())
_out = Console()

Root = Annotated[Path | None, typer.Option("--data", help="folder of the data; particles are simulated and need none")]
Device = Annotated[str, typer.Option(help="torch device")]
Model = Annotated[Path, typer.Argument(help="checkpoint written by eqmotion train: best.pt or last.pt")]
Split = Annotated[str, typer.Option(help="train, val or test")]
Scenes = Annotated[int | None, typer.Option(help="scenes to simulate for this split")]


def _fail(error: Exception) -> typer.Exit:
    Console(stderr=True).print(f"{error}", style="red", soft_wrap=True, markup=False)
    return typer.Exit(2)


def _resized(settings: Recipe, split: str, scenes: int | None) -> Recipe:
    if scenes is None:
        return settings
    sizes = list(settings.scenes)
    sizes[("train", "val", "test").index(split)] = scenes
    return Recipe.from_dict({**settings.to_dict(), "scenes": sizes})


@app.command()
def train(
    task: Annotated[str, typer.Argument(help=f"one of {', '.join(RECIPES)}")],
    out: Annotated[Path, typer.Option(help="folder of the checkpoints; a run that is there goes on")],
    data: Root = None,
    epochs: Annotated[int | None, typer.Option(help="epochs instead of the recipe's")] = None,
    batch_size: Annotated[int | None, typer.Option(help="scenes per step")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="of Adam")] = None,
    scenes: Annotated[tuple[int, int, int] | None, typer.Option(help="scenes to simulate: train val test")] = None,
    molecule: Annotated[str | None, typer.Option(help="of md17, aspirin if not given")] = None,
    width: Annotated[int | None, typer.Option(help="channels and pattern width instead of the recipe's")] = None,
    layers: Annotated[int | None, typer.Option(help="layers instead of the recipe's")] = None,
    save_every: Annotated[int | None, typer.Option(help="steps between checkpoints within an epoch")] = None,
    seed: Annotated[int, typer.Option(help="of weights, data and order")] = 0,
    device: Device = "cpu",
) -> None:
    """Train a recipe; run the same command again to go on after an interruption."""
    try:
        changes: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "scenes": scenes}
        settings = recipe(task, seed=seed, **{name: value for name, value in changes.items() if value is not None})
        values = settings.to_dict()
        if molecule is not None:
            values["data_options"]["molecule"] = molecule
        if width is not None:
            values["model"] |= {"channels": width, "hidden_dim": width}
        if layers is not None:
            values["model"]["n_layers"] = layers
        settings = Recipe.from_dict(values)
        with _out.status("reading data" if data else "simulating"):
            parts = settings.dataset("train", data), settings.dataset("val", data)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, TextColumn("{task.fields[message]}"), console=_out) as bar:
            shown = bar.add_task(f"train {task}", total=None, message="")
            _, history = fit(
                settings,
                *parts,
                out=out,
                device=device,
                save_every=save_every,
                progress=lambda done, total, text: bar.update(shown, completed=done, total=total, message=text),
            )
    except (ValueError, FileNotFoundError) as error:
        raise _fail(error) from error
    best = min(history, key=lambda row: row["val_ade"])
    _out.print(f"best epoch {best['epoch']:.0f}: validation ADE {best['val_ade']:.4f}, FDE {best['val_fde']:.4f}; {out / 'best.pt'}")


@app.command("evaluate")
def evaluate_command(
    checkpoint: Model,
    data: Root = None,
    split: Split = "test",
    scenes: Scenes = None,
    rotate: Annotated[bool, typer.Option(help="also evaluate on the scenes turned by a random rotation")] = True,
    json_to: Annotated[Path | None, typer.Option("--json", help="write the numbers there")] = None,
    device: Device = "cpu",
) -> None:
    """Errors of a checkpoint on a split, as it is and turned by a random rotation."""
    try:
        model, settings = load_model(checkpoint, device=device)
        scene = _resized(settings, split, scenes).dataset(split, data)
        columns = {split: evaluate(model, scene, settings, device=device)}
        if rotate:
            Q = haar(scene.x.shape[-1], special=True, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            columns[f"{split}, rotated"] = evaluate(model, scene, settings, device=device, rotation=Q)
    except (ValueError, FileNotFoundError) as error:
        raise _fail(error) from error
    table = Table(title=f"{settings.name}, {len(scene)} scenes")
    table.add_column("metric")
    for name in columns:
        table.add_column(name, justify="right")
    for metric in columns[split]:
        table.add_row(metric, *(f"{values[metric]:.6g}" for values in columns.values()))
    _out.print(table)
    if json_to is not None:
        json_to.parent.mkdir(parents=True, exist_ok=True)
        json_to.write_text(
            json.dumps({"recipe": settings.to_dict(), "scenes": len(scene), "results": columns}, indent=1) + "\n", encoding="utf-8"
        )


def _positions(file: Path) -> torch.Tensor:
    """Positions from ``.pt``, ``.npy`` or ``.npz`` (array ``x``, or the only one)."""
    if not file.is_file():
        raise FileNotFoundError(f"positions must be a .npy, .npz or .pt file, got {file}, which is not there")
    if file.suffix == ".pt":
        x = torch.load(file, map_location="cpu", weights_only=True)
    else:
        import numpy as np

        loaded = np.load(file)
        if isinstance(loaded, np.ndarray):
            x = torch.from_numpy(loaded)
        else:
            name = "x" if "x" in loaded else loaded.files[0]
            x = torch.from_numpy(loaded[name])
    if not isinstance(x, torch.Tensor) or x.ndim not in (3, 4):
        raise ValueError(f"positions must have shape (B, N, T, d) or (N, T, d), got {getattr(x, 'shape', type(x).__name__)}")
    return x if x.is_floating_point() else x.float()


@app.command()
def predict(
    checkpoint: Model,
    positions: Annotated[Path, typer.Argument(help="past positions (B, N, T, d) or (N, T, d): .npy, .npz or .pt")],
    out: Annotated[Path, typer.Option(help="where to write pred, categories and category_logits: .npz or .pt")],
    device: Device = "cpu",
) -> None:
    """Predict from a file of positions."""
    try:
        model, _ = load_model(checkpoint, device=device)
        with torch.no_grad():
            result = model(_positions(positions).to(device))
    except (ValueError, FileNotFoundError) as error:
        raise _fail(error) from error
    arrays = {name: getattr(result, name).cpu() for name in ("pred", "categories", "category_logits")}
    arrays |= {name: value.cpu() for name, value in getattr(result, "details", {}).items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".pt":
        torch.save(arrays, out)
    else:
        import numpy as np

        np.savez(out, **{name: value.numpy() for name, value in arrays.items()})
    _out.print(f"{tuple(arrays['pred'].shape)} to {out}")


@app.command()
def plot(
    checkpoint: Model,
    out: Annotated[Path, typer.Option(help="figure (.png, .svg, .pdf) or animation (.gif)")],
    data: Root = None,
    split: Split = "test",
    scene: Annotated[int, typer.Option(help="which scene")] = 0,
    scenes: Scenes = None,
    device: Device = "cpu",
) -> None:
    """Draw a scene with its prediction and inferred interactions; a .gif shows it moving."""
    from eqmotion.integrations import plotting

    try:
        model, settings = load_model(checkpoint, device=device)
        data_set: TrajectoryDataset = _resized(settings, split, scenes).dataset(split, data)
        if not 0 <= scene < len(data_set):
            raise ValueError(f"scene must be in [0, {len(data_set)}), got {scene}")
        x, y, mask = data_set[scene]
        with torch.no_grad():
            result = model(x.to(device), mask=mask.to(device))
    except (ValueError, FileNotFoundError) as error:
        raise _fail(error) from error
    out.parent.mkdir(parents=True, exist_ok=True)
    x, y, pred = x[mask], y[mask], result.pred.cpu()[mask]
    if out.suffix == ".gif":
        best = pred if pred.ndim == 3 else pred[:, 0]
        plotting.animate(x, y, best, out, title=settings.name)
    else:
        figure = plotting.new_figure(2)
        left, right = figure.axes
        plotting.plot_trajectories(x, y, pred, title=f"{settings.name}, scene {scene}", axes=left)
        K, null = model.config["n_categories"], model.config["n_null_categories"]
        kept = result.categories.cpu()[mask][:, mask]
        plotting.draw_interactions(kept, null=range(K - null, K), title="most likely category", axes=right)
        figure.savefig(out, dpi=150)
    _out.print(f"{out}")


def main() -> None:
    """Entry point."""
    app()
