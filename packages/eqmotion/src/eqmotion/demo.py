"""The demonstration behind ``geocore demo eqmotion``: particles on springs and charged particles, in miniature."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from eqmotion.experiments.miniature import Outcome, Setting, run
from geocore.demo import Claim, DemoResult, Figure, Progress, Row

__all__ = ["demo"]

PAPER = "Xu et al., EqMotion: Equivariant Multi-agent Motion Prediction with Invariant Interaction Reasoning, CVPR 2023, arXiv 2303.10876"
COLUMNS = ("ADE", "FDE", "median", "ADE turned", "edge accuracy")
OURS = "EqMotion"
GNN = "interaction network"
SETTINGS = {
    "springs": Setting("springs", steps=1500, gnn_steps=2000, learning_rate=2e-3),
    "springs, 100 scenes": Setting("springs", train=100, steps=300, gnn_steps=600, learning_rate=2e-3),
    "charged": Setting("charged", steps=300, gnn_steps=600, tau=1.0, learning_rate=2e-3),
}
FULL = {
    "springs": replace(SETTINGS["springs"], steps=8000, gnn_steps=8000),
    "springs, 100 scenes": replace(SETTINGS["springs, 100 scenes"], steps=3000, gnn_steps=3000),
    "charged": replace(SETTINGS["charged"], steps=8000, gnn_steps=8000),
}
SHARES = {"springs": (0.0, 0.6), "springs, 100 scenes": (0.6, 0.8), "charged": (0.8, 1.0)}


def demo(*, seed: int = 0, device: str = "cpu", quick: bool = True, progress: Progress | None = None) -> DemoResult:
    """Train EqMotion and a network without rotational symmetry on simulated particles, and look at errors, graphs and symmetry.

    Args:
        seed: Of data, weights and order.
        device: Where to train.
        quick: The miniature, about a minute on two idle cores; otherwise five times as many steps and more.
        progress: Called with the fraction done and a message.

    Returns:
        Test errors, the checked claims, and figures.
    """
    outcomes = {}
    for name, setting in (SETTINGS if quick else FULL).items():
        outcomes[name] = run(setting, seed=seed, device=device, progress=_part(progress, *SHARES[name]))
    return summarise(outcomes, seed)


def _part(progress: Progress | None, start: float, end: float) -> Progress | None:
    """Progress of a part of the demonstration as progress of the whole."""
    if progress is None:
        return None
    return lambda fraction, message: progress(start + (end - start) * fraction, message)


def summarise(outcomes: Mapping[str, Outcome], seed: int) -> DemoResult:
    """The result page of measured outcomes."""
    rows = []
    for name, o in outcomes.items():
        for method in o.ade:
            turned = o.ade[method] * (1 + o.rotated[method])
            accuracy = 100 * o.accuracy if method == OURS else None
            label = f"{method} (ours), {name}" if method == OURS else f"{method}, {name}"
            values = [o.ade[method], o.fde[method], o.median[method], turned, accuracy]
            rows.append(Row(label, values, kind="ours" if method == OURS else "baseline"))
    springs = outcomes["springs"]
    notes = [
        f"{name}: {o.setting.train} training and {o.setting.test} test scenes, five bodies in space, 20 steps in, 20 out; EqMotion "
        f"{o.setting.steps} steps of {o.setting.batch} ({o.setting.width} channels, {o.setting.layers} layers), "
        f"interaction network {o.setting.gnn_steps} steps (64 wide, 3 layers); Adam {o.setting.learning_rate:g}."
        for name, o in outcomes.items()
    ]
    notes += [
        "Edge accuracy is that of all pairs, under the best of the two namings; no edge is ever shown in training.",
        f"Before training it was {100 * springs.untrained_accuracy:.0f} % on springs.",
        "ADE turned: the same test scenes after one random rotation.",
        "Within fewer steps, or at a smaller learning rate, the categories separate for some seeds only.",
        "The interaction network predicts the deviation from constant velocity and is centred: stronger than one on raw coordinates.",
        "Charged particles sling each other away: the mean is made by a few scenes, so the median is given too.",
    ]
    return DemoResult(
        method="eqmotion",
        title="EqMotion",
        claim="A model that is equivariant by construction predicts interacting particles better from few scenes, whichever way they are "
        "turned, and finds out without labels who interacts.",
        paper=PAPER,
        columns=COLUMNS,
        rows=rows,
        units="distance in the units of the simulation (spread of the start 0.5 and 1); edge accuracy in %",
        claims=check_claims(outcomes),
        figures=[
            Figure("Predictions", lambda: draw_scenes(springs), "Springs: past (dots), truth (lines), prediction (dashed), top EqMotion."),
            Figure("Errors", lambda: draw_errors(outcomes), "Mean distance on test scenes; the scale is logarithmic."),
            Figure("Who interacts", lambda: draw_edges(springs), "True springs, and the inferred category of each pair."),
        ],
        notes=notes,
        config={"seed": seed, "settings": {name: vars(o.setting) for name, o in outcomes.items()}},
    )


def check_claims(outcomes: Mapping[str, Outcome]) -> list[Claim]:
    """The specification's gates, and the symmetry of the trained model in numbers."""
    springs, few, charged = (outcomes[name] for name in ("springs", "springs, 100 scenes", "charged"))
    ratio = {name: o.ade[GNN] / o.ade[OURS] for name, o in outcomes.items()}
    report, other = springs.report, springs.gnn_report
    assert report is not None
    assert other is not None
    return [
        Claim("springs: error of the interaction network at least 3 times ours", ratio["springs"] >= 3, f"{ratio['springs']:.2f}"),
        Claim("springs: edge accuracy at least 93 %, without labels", springs.accuracy >= 0.93, f"{100 * springs.accuracy:.1f} %"),
        Claim("springs: turning the test set changes ADE by less than 1e-5", springs.rotated[OURS] < 1e-5, f"{springs.rotated[OURS]:.1e}"),
        Claim(
            "trained model in float32: equivariance error at most 1e-3 of the scene, and the other's above 1e-2",
            max(report.rotation, report.reflection, report.translation) < 1e-3 < 1e-2 < other.rotation,
            f"rotation {report.rotation:.1e}, reflection {report.reflection:.1e}, translation {report.translation:.1e}; "
            f"interaction network, rotation {other.rotation:.1e}",
        ),
        Claim(
            "charged and springs from 100 scenes: lower error than the interaction network and constant velocity",
            all(o.ade[OURS] < min(o.ade[GNN], o.ade["constant velocity"]) for o in (few, charged)),
            f"ratio to the interaction network {ratio['springs, 100 scenes']:.2f} from 100 scenes, {ratio['charged']:.2f} charged",
        ),
    ]


def _canvas(rows: int, columns: int, height: float = 3.4) -> Any:
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(3.2 * columns, height * rows), layout="constrained")
    figure.subplots(rows, columns)
    return figure


def draw_scenes(o: Outcome) -> Any:
    """Three test scenes with both predictions, first two coordinates."""
    from eqmotion.integrations.plotting import plot_trajectories

    figure = _canvas(2, 3)
    for row, method in enumerate((OURS, GNN)):
        for i in range(3):
            axes = figure.axes[3 * row + i]
            plot_trajectories(o.examples["past"][i], o.examples["future"][i], o.examples[method][i], title=method, axes=axes)
    return figure


def draw_errors(outcomes: Mapping[str, Outcome]) -> Any:
    """Bars of the mean errors."""
    figure = _canvas(1, len(outcomes))
    for axes, (name, o) in zip(figure.axes, outcomes.items(), strict=True):
        axes.bar(range(len(o.ade)), list(o.ade.values()), color=["tab:blue"] + ["tab:orange"] * (len(o.ade) - 1))
        axes.set_xticks(range(len(o.ade)), [method.replace(" ", "\n") for method in o.ade], fontsize=7)
        axes.set_yscale("log")
        axes.set_title(f"{name}: ADE", fontsize=9)
    return figure


def draw_edges(o: Outcome) -> Any:
    """True and inferred graphs of two scenes."""
    import torch

    from eqmotion.integrations.plotting import draw_interactions

    assert o.model is not None
    with torch.no_grad():
        found = o.model.cpu()(o.examples["past"][:2]).categories
    truth = torch.nn.functional.one_hot(o.examples["edges"][:2], 2).float()
    label = found.argmax(-1)
    off = ~torch.eye(label.shape[1], dtype=torch.bool)
    null = int((label[:, off] == o.examples["edges"][:2][:, off]).float().mean() < 0.5)  # which name means "no spring" here
    figure = _canvas(1, 4, height=3.0)
    for i in range(2):
        draw_interactions(truth[i], null=(0,), title=f"springs, scene {i + 1}", axes=figure.axes[2 * i])
        draw_interactions(found[i], null=(null,), title="inferred", axes=figure.axes[2 * i + 1])
    return figure
