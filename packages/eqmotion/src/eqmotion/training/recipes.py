"""The official recipes: particles, molecules, skeletons, pedestrians."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from eqmotion.data import ETHUCY, Human36M, MD17Trajectories, TrajectoryDataset, simulate_particles
from eqmotion.model import EqMotion
from geocore._checks import check_option, check_positive_int

__all__ = ["RECIPES", "Recipe", "recipe"]

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Recipe:
    """Data, model, loss and optimisation of one experiment. Adam, mean Euclidean distance, no clipping.

    Args:
        name: Of the recipe.
        data: ``"charged"``, ``"springs"``, ``"gravity"``, ``"md17"``, ``"human36m"`` or ``"ethucy"``.
        in_steps, out_steps: Steps of past and future.
        model: Further arguments of ``EqMotion``.
        learning_rate: Of Adam.
        decay: Factor of the learning rate every ``decay_every`` epochs.
        decay_every: Epochs; 0 for never.
        weight_decay: Of Adam.
        epochs: Passes over the training set.
        batch_size: Scenes per step.
        horizon: Weigh steps by ``F / (1 + 4 t / F)``.
        supervise: With several modes, ``"ego"`` or ``"all"``.
        data_options: Further arguments of the data set.
        scenes: Scenes to simulate for train, val and test.
        seed: Of weights, data and order.
    """

    name: str
    data: str
    in_steps: int
    out_steps: int
    model: Mapping[str, Any] = field(default_factory=dict)
    learning_rate: float = 5e-4
    decay: float = 0.8
    decay_every: int = 0
    weight_decay: float = 1e-12
    epochs: int = 200
    batch_size: int = 100
    horizon: bool = False
    supervise: str = "ego"
    data_options: Mapping[str, Any] = field(default_factory=dict)
    scenes: tuple[int, int, int] = (5000, 2000, 2000)
    seed: int = 0

    def __post_init__(self) -> None:
        check_option("data", self.data, ("charged", "springs", "gravity", "md17", "human36m", "ethucy"))
        check_option("supervise", self.supervise, ("ego", "all"))
        for name in ("epochs", "batch_size"):
            check_positive_int(name, getattr(self, name))

    def build(self) -> EqMotion:
        """A new model, from torch's global random state."""
        return EqMotion(self.in_steps, self.out_steps, **self.model)

    def dataset(self, split: str, root: str | Path | None = None) -> TrajectoryDataset:
        """The data of a split; simulated for particles, else read from ``root``.

        Raises:
            ValueError: If ``split`` is unknown, or ``root`` is missing.
            FileNotFoundError: If ``root`` does not hold the files.
        """
        check_option("split", split, SPLITS)
        steps = {"in_steps": self.in_steps, "out_steps": self.out_steps}
        if self.data in ("charged", "springs", "gravity"):
            i = SPLITS.index(split)
            run = simulate_particles(self.data, n_sims=self.scenes[i], seed=3 * self.seed + i, **self.data_options)
            if run.x.shape[2] < self.in_steps + self.out_steps:
                raise ValueError(f"data_options must give at least {self.in_steps + self.out_steps} frames, got {run.x.shape[2]}")
            x = run.x.float()
            past, future = x[:, :, : self.in_steps], x[:, :, self.in_steps : self.in_steps + self.out_steps]
            return TrajectoryDataset(past.contiguous(), future.contiguous(), edges=run.edges)
        if root is None:
            raise ValueError(f"root must be the folder of the {self.data} data, got None")
        if self.data == "md17":
            return MD17Trajectories(root, split=split, **steps, **self.data_options)
        return (Human36M if self.data == "human36m" else ETHUCY)(root, split=split, **steps, **self.data_options)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        plain = asdict(replace(self, model={}, data_options={}))
        return {**plain, "model": dict(self.model), "data_options": dict(self.data_options), "scenes": list(self.scenes)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """Back from ``to_dict``."""
        return cls(**{**values, "scenes": tuple(values["scenes"])})


def _pedestrian(name: str, *, channels: int = 64, learning_rate: float = 1e-3) -> Recipe:
    return Recipe(
        name,
        "ethucy",
        8,
        12,
        model={"channels": channels, "n_categories": 4, "n_null_categories": 2, "n_modes": 20},
        learning_rate=learning_rate,
        epochs=60,
        data_options={"leave_one_out": name},
    )


_SKELETON = {"n_categories": 4, "n_null_categories": 2, "agent_tokens": 22}

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        r.name: r
        for r in (
            Recipe("charged", "charged", 20, 20),
            Recipe("springs", "springs", 20, 20, model={"tau": 0.5}),
            Recipe("md17", "md17", 10, 10, model={"channels": 32}, epochs=300, data_options={"molecule": "aspirin"}),
            Recipe("human36m-short", "human36m", 10, 10, model={"channels": 72, **_SKELETON}, epochs=80),
            Recipe("human36m-long", "human36m", 25, 25, model={"channels": 96, **_SKELETON}, epochs=80, decay_every=2, horizon=True),
            _pedestrian("eth"),
            _pedestrian("hotel", learning_rate=5e-4),
            _pedestrian("univ"),
            _pedestrian("zara1", channels=128),
            _pedestrian("zara2"),
        )
    }
)
"""Name to recipe."""


def recipe(name: str, **changes: Any) -> Recipe:
    """A recipe by name, with some settings changed.

    Raises:
        ValueError: If the name or a setting is unknown.

    Example:
        >>> recipe("springs", epochs=10).model["tau"]
        0.5
    """
    check_option("name", name, RECIPES)
    known = {f for f in RECIPES[name].__dataclass_fields__ if f != "name"}
    if unknown := sorted(set(changes) - known):
        raise ValueError(f"changes must be settings of a recipe ({', '.join(sorted(known))}), got {', '.join(unknown)}")
    return replace(RECIPES[name], **changes)
