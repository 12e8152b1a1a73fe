"""Files that training goes on from, and models are loaded from."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eqmotion.model import EqMotion
from eqmotion.training.recipes import Recipe

__all__ = ["Checkpoint", "load_checkpoint", "load_model"]


@dataclass
class Checkpoint:
    """Everything that training must know to go on as if it had never stopped.

    Args:
        recipe: The recipe as plain data.
        config: Arguments of the model.
        model: Its weights.
        optimizer: State of the optimiser; empty in files of the best epoch.
        epoch: Finished epochs.
        step: Finished steps of the epoch that is under way.
        total: Sum of losses of that epoch so far, and scenes.
        random: Random states of torch, one per process.
        best: Best validation error.
        history: Numbers of every epoch.
        largest_scene: Agents seen in training.
    """

    recipe: dict[str, Any]
    config: dict[str, Any]
    model: dict[str, Tensor]
    optimizer: dict[str, Any] = field(default_factory=dict)
    epoch: int = 0
    step: int = 0
    total: tuple[float, float] = (0.0, 0.0)
    random: list[Tensor] = field(default_factory=list)
    best: float = float("inf")
    history: list[dict[str, float]] = field(default_factory=list)
    largest_scene: int = 0

    def save(self, file: str | Path) -> None:
        """Write beside the file and move there, so that a killed run leaves the last whole one."""
        file = Path(file)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        torch.save(vars(self), partial)
        partial.replace(file)


def load_checkpoint(file: str | Path) -> Checkpoint:
    """Read a checkpoint, on the CPU.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is another kind of file.
    """
    values = torch.load(Path(file), map_location="cpu", weights_only=True)
    if not isinstance(values, dict) or set(values) != set(Checkpoint.__dataclass_fields__):
        raise ValueError(
            f"file must be a checkpoint written by eqmotion train, got {file}; official weights load with EqMotion.from_official"
        )
    return Checkpoint(**values)


def load_model(file: str | Path, *, device: torch.device | str | None = None) -> tuple[EqMotion, Recipe]:
    """The model of a checkpoint, in eval mode, and its recipe.

    Raises:
        FileNotFoundError, ValueError: As ``load_checkpoint``.
    """
    state = load_checkpoint(file)
    model = EqMotion(**state.config)
    model.load_state_dict(state.model)
    model.largest_scene = state.largest_scene
    return model.to(device).eval(), Recipe.from_dict(state.recipe)
