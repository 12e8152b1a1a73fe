"""The particle experiments in miniature: EqMotion and a network without symmetry on the same scenes."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from eqmotion.data import TrajectoryDataset, simulate_particles
from eqmotion.experiments.baselines import InteractionNetwork, constant_velocity, repeat_last
from eqmotion.losses import displacement_loss
from eqmotion.metrics import EquivarianceReport, equivariance_report, interaction_accuracy
from eqmotion.model import EqMotion
from geocore.son import haar

__all__ = ["Outcome", "Setting", "run", "train"]

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Setting:
    """Size of an experiment.

    Args:
        kind: ``"springs"`` or ``"charged"``.
        train: Training scenes.
        test: Test scenes.
        steps: Steps of EqMotion.
        gnn_steps: Steps of the network without symmetry.
        batch: Scenes per step.
        width: ``C`` and ``D``.
        layers: ``L``.
        learning_rate: Of Adam, for both.
        tau: Temperature of the categories.
    """

    kind: str
    train: int = 1000
    test: int = 500
    steps: int = 880
    gnn_steps: int = 2000
    batch: int = 50
    width: int = 32
    layers: int = 2
    learning_rate: float = 1e-3
    tau: float = 0.5


@dataclass
class Outcome:
    """What was measured: mean errors by method, medians, edge accuracy, the change of the error on turned scenes, and examples."""

    setting: Setting
    ade: dict[str, float] = field(default_factory=dict)
    fde: dict[str, float] = field(default_factory=dict)
    median: dict[str, float] = field(default_factory=dict)
    rotated: dict[str, float] = field(default_factory=dict)
    accuracy: float = 0.0
    untrained_accuracy: float = 0.0
    report: EquivarianceReport | None = None
    gnn_report: EquivarianceReport | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    examples: dict[str, Tensor] = field(default_factory=dict)
    model: EqMotion | None = None


def scenes(kind: str, n: int, seed: int) -> TrajectoryDataset:
    """Simulated scenes, 20 steps of past and 20 of future."""
    run = simulate_particles(kind, n_sims=n, seed=seed, steps=8200)
    x = run.x.float()
    return TrajectoryDataset(x[:, :, :20].contiguous(), x[:, :, 20:40].contiguous(), edges=run.edges)


def train(
    model: nn.Module, data: TrajectoryDataset, *, steps: int, batch: int, learning_rate: float, seed: int, progress: Progress | None
) -> None:
    """Adam on the mean distance; scenes in a new order every epoch."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=learning_rate, fused=True)
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.long)
    batch = min(batch, len(data))
    model.train()
    for step in range(steps):
        if len(order) < batch:
            order = torch.randperm(len(data), generator=generator)
        index, order = order[:batch], order[batch:]
        out = model(data.x[index])
        loss = displacement_loss(out if isinstance(out, Tensor) else out.pred, data.y[index])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if progress is not None and step % 20 == 0:
            progress(step / steps, f"loss {float(loss.detach()):.3f}")
    model.eval()


def _errors(pred: Tensor, y: Tensor) -> tuple[float, float, float]:
    distance = torch.linalg.vector_norm(pred.double() - y.double(), dim=-1)
    return float(distance.mean()), float(distance[..., -1].mean()), float(distance.mean(-1).median())


def run(setting: Setting, *, seed: int = 0, device: str = "cpu", progress: Progress | None = None) -> Outcome:
    """Train both models and measure everything.

    Args:
        setting: Size of the experiment.
        seed: Of data, weights and order.
        device: Where to train.
        progress: Called with the fraction done and a message.

    Returns:
        The measured numbers.
    """
    outcome = Outcome(setting)
    data, test = scenes(setting.kind, setting.train, 2 * seed), scenes(setting.kind, setting.test, 2 * seed + 1)
    edges = test.edges
    assert edges is not None
    for part in (data, test):
        part.x, part.y = part.x.to(device), part.y.to(device)
    torch.manual_seed(seed)
    ours = EqMotion(20, 20, channels=setting.width, hidden_dim=setting.width, n_layers=setting.layers, tau=setting.tau).to(device)
    gnn = InteractionNetwork(20, 20, dim=3).to(device)
    Q = haar(3, special=True, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(device, torch.float32)

    def predict(model: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            out = model(x)
        return out if isinstance(out, Tensor) else out.pred

    with torch.no_grad():
        outcome.untrained_accuracy = interaction_accuracy(ours(test.x).categories.cpu(), edges)
    plan = [("EqMotion", ours, setting.steps, 0.0, 0.6), ("interaction network", gnn, setting.gnn_steps, 0.6, 1.0)]
    for name, model, steps, start, end in plan:
        shown = None
        if progress is not None:
            shown = lambda part, text, a=start, b=end, n=name: progress(a + (b - a) * part, f"{setting.kind}, {n}, {text}")  # noqa: E731
        began = time.perf_counter()
        train(model, data, steps=steps, batch=setting.batch, learning_rate=setting.learning_rate, seed=seed, progress=shown)
        outcome.seconds[name] = time.perf_counter() - began
    methods = {
        "EqMotion": lambda x: predict(ours, x),
        "interaction network": lambda x: predict(gnn, x),
        "constant velocity": lambda x: constant_velocity(x, 20),
        "repeat last": lambda x: repeat_last(x, 20),
    }
    for name, method in methods.items():
        pred = method(test.x)
        outcome.ade[name], outcome.fde[name], outcome.median[name] = _errors(pred, test.y)
        turned = _errors(method(test.x @ Q.mT), test.y @ Q.mT)[0]
        outcome.rotated[name] = abs(turned - outcome.ade[name]) / outcome.ade[name]
        outcome.examples[name] = pred[:4].cpu()
    with torch.no_grad():
        outcome.accuracy = interaction_accuracy(ours(test.x).categories.cpu(), edges)
    some = test.x[:50]
    generator = torch.Generator(device).manual_seed(seed)
    outcome.report = equivariance_report(ours, some, generator=generator)
    outcome.gnn_report = equivariance_report(gnn, some, generator=generator)
    outcome.examples |= {"past": test.x[:4].cpu(), "future": test.y[:4].cpu(), "edges": edges[:4]}
    outcome.model = ours
    return outcome
