"""The demonstration behind ``geocore demo frameavg``: rotated digits, graphs that look alike, and the corners of a cube."""

from typing import Any

import torch

from frameavg.experiments import cube, digits, graphs
from geocore.demo import Claim, DemoResult, Figure, Progress, Row

__all__ = ["demo"]

PAPER = "Puny et al., Frame Averaging for Invariant and Equivariant Network Design, ICLR 2022, arXiv 2110.03336"
OURS, STOCHASTIC, REFLECTED, PLAIN, AUGMENTED = digits.MODELS
PCA, WEIGHTED = cube.FRAMES


def demo(*, seed: int = 0, device: str = "cpu", quick: bool = True, progress: Progress | None = None) -> DemoResult:
    """Train on upright digits and test on turned ones; tell small graphs apart; average near a degenerate spectrum.

    Args:
        seed: Seed of weights, batches and rotations.
        device: Where to train.
        quick: 40 epochs; otherwise 200.
        progress: Called with the fraction done and a message.

    Returns:
        Accuracies, equivariance errors, the checked claims, and a figure.
    """

    def report(done: float, message: str) -> None:
        if progress is not None:
            progress(0.8 * done, message)

    recipe = digits.Recipe() if quick else digits.Recipe(epochs=200)
    found = digits.run(seed=seed, recipe=recipe, device=device, progress=report)
    report(1.0, "graphs")
    graph = graphs.separation(graphs.atlas(), seed=seed)
    report(1.1, "cube")
    table = cube.run(seed=seed)
    single = cube.run(seed=seed, dtype=torch.float32)
    gain = found[OURS]["rotated"] - found[AUGMENTED]["rotated"]
    exact = abs(found[OURS]["upright"] - found[OURS]["rotated"])
    rows = [
        Row(
            name,
            [values["upright"], values["rotated"], values["difference"]],
            kind="ours" if "frame averaging" in name else "baseline",
            note="reflections are too much symmetry for digits" if name == REFLECTED else "",
        )
        for name, values in found.items()
    ]
    rows += [
        Row(f"cube, {name}", [None, None, row["gap 0"]], kind="ours", note=f"jump across the degeneracy {row['jump']:.1e}")
        for name, row in table.items()
    ]
    return DemoResult(
        method="frameavg",
        title="Frame averaging",
        claim="Averaging any backbone over a small frame of its input makes it exactly invariant, at a few evaluations' cost.",
        paper=PAPER,
        columns=("upright", "rotated", "change of the output"),
        rows=rows,
        units="accuracy on the test images; largest difference of logits, for the cube relative to the output",
        claims=[
            Claim("rotated digits: at least 15 points above augmentation at equal epochs", gain >= 0.15, f"{100 * gain:.1f} points"),
            Claim("the same accuracy upright and rotated", exact == 0, f"difference {100 * exact:.2f} points"),
            Claim(
                f"all {graph.pairs} pairs of connected graphs with 7 nodes are told apart",
                graph.merged == 0,
                f"{graph.merged} merged, closest {graph.closest:.2f}; colour refinement merges {graph.wl_pairs}",
            ),
            Claim("graph outputs do not depend on the order of nodes (1e-12)", graph.invariance <= 1e-12, f"{graph.invariance:.1e}"),
            Claim("weighted frames are exact on a cube (1e-12)", table[WEIGHTED]["gap 0"] <= 1e-12, f"{table[WEIGHTED]['gap 0']:.1e}"),
            Claim("principal axes are not: error above 0.1", table[PCA]["gap 0"] > 0.1, f"{table[PCA]['gap 0']:.2f}"),
        ],
        figures=[
            Figure(
                "Digits", lambda: draw(found), "The frame of SO(2) has two elements. The averaged network cannot tell the two tests apart."
            ),
            Figure(
                "Near a degenerate spectrum",
                lambda: draw_cube(table, single),
                "Corners of a cube, stretched by the relative gap; 32 rotations.",
            ),
        ],
        notes=[
            "Digits of scikit-learn as 64 weighted points; 1000 upright training images, 797 others as test, turned by random angles.",
            f"All models have the same backbone, optimizer and {recipe.epochs} epochs.",
            "The network on graphs is untrained; colour refinement is the bound of message-passing networks without node identities.",
        ],
        config={"seed": seed, "recipe": vars(recipe), "frame sizes": {str(size): count for size, count in graph.sizes.items()}},
    )


def draw(found: dict[str, dict[str, float]]) -> Any:
    """Accuracies of every model, a ``matplotlib.figure.Figure`` that no global state holds."""
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(7.5, 2.8), layout="constrained")
    axes = figure.subplots()
    for shift, key, colour in ((-0.2, "upright", "tab:gray"), (0.2, "rotated", "tab:blue")):
        axes.barh([i + shift for i in range(len(found))], [row[key] for row in found.values()], 0.38, label=key, color=colour)
    axes.set(xlabel="accuracy on 797 test images", yticks=range(len(found)), xlim=(0, 1))
    axes.set_yticklabels(list(found))
    axes.invert_yaxis()
    axes.legend(loc="lower right")
    return figure


def draw_cube(double: dict[str, dict[str, float]], single: dict[str, dict[str, float]]) -> Any:
    """Equivariance error against the gap, in both precisions."""
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(6.5, 2.8), layout="constrained")
    axes = figure.subplots()
    for table, precision, style in ((double, "float64", "o-"), (single, "float32", "s:")):
        for (name, row), colour in zip(table.items(), ("tab:orange", "tab:blue"), strict=True):
            gaps = [key for key in row if key.startswith("gap")]
            axes.plot(range(len(gaps)), [max(row[key], 1e-17) for key in gaps], style, color=colour, label=f"{name}, {precision}")
            axes.set(yscale="log", xticks=range(len(gaps)), ylabel="relative equivariance error", xlabel="relative gap of the eigenvalues")
            axes.set_xticklabels([key.removeprefix("gap ") for key in gaps])
    axes.legend()
    return figure
