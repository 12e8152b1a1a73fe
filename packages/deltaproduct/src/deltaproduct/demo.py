"""The demonstration behind ``geocore demo deltaproduct``: what one layer can follow, by number of factors and range of eigenvalues."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from deltaproduct.experiments import s3
from geocore.demo import Claim, DemoResult, Figure, Progress, Row

__all__ = ["demo"]

PAPER = "Siems et al., DeltaProduct: Improving State-Tracking in Linear RNNs via Householder Products, NeurIPS 2025, arXiv 2502.10297"


def demo(*, seed: int = 0, device: str = "cpu", quick: bool = True, progress: Progress | None = None) -> DemoResult:
    """Train one-layer models on the permutations of three things and on parity, and test them on longer words.

    Args:
        seed: Seed of weights and words; the first of three with ``quick=False``.
        device: Where to train.
        quick: The miniature (400 and 150 steps, one seed, about 50 CPU-seconds); otherwise four times the steps and three seeds.
        progress: Called with the fraction done and a message.

    Returns:
        Accuracies by length, the checked claims, and a figure.
    """
    recipe = s3.MINIATURE if quick else replace(s3.MINIATURE, steps={"S3": 1600, "parity": 600})
    seeds = (seed,) if quick else (seed, seed + 1, seed + 2)
    outcomes = s3.run(seeds=seeds, recipe=recipe, device=device, progress=progress)
    columns = [*(f"length {length}" for length in s3.LENGTHS), f"whole at {recipe.length}"]
    rows = [
        Row(
            o.model.label + (f", seed {o.seed}" if len(seeds) > 1 else ""),
            [*(o.last[length] for length in s3.LENGTHS), o.sequence[recipe.length]],
            kind="ours" if o.model in (s3.Model("S3", 2, True), s3.Model("parity", 1, True)) else "baseline",
        )
        for o in outcomes
    ]
    return DemoResult(
        method="deltaproduct",
        title="DeltaProduct",
        claim="Two Householder factors with eigenvalues down to -1 follow the permutations of three things in one layer; one factor, or "
        "eigenvalues of 0 to 1, cannot.",
        paper=PAPER,
        columns=columns,
        rows=rows,
        units=f"% of the last {s3.LAST} positions right, trained at length {recipe.length}; chance is 16.7 (S3) and 50 (parity)",
        claims=[Claim(text, met, measured) for text, met, measured in s3.check_claims(outcomes)],
        figures=[Figure("Longer words", lambda: draw(outcomes), "Trained at the first length; the lines are the last eight positions.")],
        notes=[
            (
                "Longer words than eight times those of training need longer training words: see the recipes --medium and --full of "
                "deltaproduct.experiments.state_tracking."
            ),
            (
                "n_h = 1 with eigenvalues down to -1 is DeltaNet with reflections: it follows parity; on S3 it gets about the third "
                "that the sign alone gives."
            ),
        ],
        config={
            "seeds": list(seeds),
            "steps": recipe.steps,
            "batch": recipe.batch,
            "length": recipe.length,
            "learning rate": recipe.learning_rate,
        },
    )


def draw(outcomes: Sequence[s3.Outcome]) -> Any:
    """Figure of accuracy against length, a ``matplotlib.figure.Figure`` that no global state holds."""
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(8.0, 3.2), layout="constrained")
    axes: dict[str, Any] = dict(zip(("S3", "parity"), figure.subplots(1, 2, sharey=True), strict=True))
    for o in outcomes:
        style = {"color": f"C{o.model.num_householder - 1}", "linestyle": "-" if o.model.allow_neg_eigval else ":", "marker": "o"}
        axes[o.model.task].plot(list(s3.LENGTHS), [o.last[length] for length in s3.LENGTHS], label=o.model.label, **style)
    for task, chance in (("S3", 100 / 6), ("parity", 50.0)):
        axes[task].axhline(chance, color="gray", linewidth=0.8)
        axes[task].set(title=task, xscale="log", xlabel="length of words", xticks=list(s3.LENGTHS), ylim=(0, 103))
        axes[task].set_xticklabels(map(str, s3.LENGTHS))
        axes[task].minorticks_off()
        axes[task].legend(fontsize=7, loc="lower left" if task == "parity" else "center left")
    axes["S3"].set_ylabel("% right, last 8 positions")
    return figure
